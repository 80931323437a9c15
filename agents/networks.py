"""Networks, chosen from the space of observations."""

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from .wrappers import RGB

MAPS = 32  # keypoints per frame
STRIDE = 4
# Positions, speeds and colors are in units in which those of a well-played episode are about 1.
POSITION_GAIN = 4.0
SPEED_GAIN = 10.0
COLOR_GAIN = 1.0
# Of a HistoryEncoder: frames that features are of, frames in a window, frames from one window to
# the next, products of each window.
LATEST = 32
WINDOW = 16
HOP = 8
PRODUCTS = 64


class Keypoints(nn.Module):
    """Positions and colors of learned features in a stack's latest frame, and earlier movements.

    Two convolutions turn each frame into maps; the mean position of a map, weighted by the softmax
    of the map, is a keypoint. After Levine et al., "End-to-end training of deep visuomotor
    policies", 2016, section 5.1.

    Deviations:
    1. A map is normalised over its pixels (instance normalisation) before the softmax, so that
       keypoints are sharp from the first step of training: those of a random network already tell
       a ball's place to a linear readout.
    2. The frames of a stack share their convolutions, and the network is given differences
       between frames, since speeds are what a single one does not show.
    3. The network is also given the color at each keypoint: how far it is from the mean of the
       frame, in standard deviations of the frame. Of a random network, it tells the cart's place on
       its colored rail more precisely than the positions do. It has no gradient with respect to the
       keypoint's place: with it, policies of PPO and DQN fall back again and again while they
       learn.
    4. Channels beyond the third are planes of one number, of the actions before the frames. They
       are given to the network as they are.

    Args:
        shape: of a stack of frames: (frames, height, width, channels), at least 20 x 20 pixels.

    Attributes:
        outputs: number of features.

    Raises:
        ValueError: the images are too small.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        frames, height, width, all_channels = shape
        channels = min(all_channels, RGB)
        if min(height, width) < 20:  # the maps would be of one pixel
            raise ValueError(f"images must be of 20 x 20 pixels or more, not {height} x {width}")
        self.convolutions = nn.Sequential(
            # Padded, or the last columns of 64 would not be seen; by zeros there would be an edge.
            nn.Conv2d(channels, 16, 5, STRIDE, padding=1, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv2d(16, MAPS, kernel_size=3),
        )
        self.norm = nn.InstanceNorm2d(MAPS, affine=True)
        with torch.no_grad():
            rows, columns = self.convolutions(torch.zeros(1, channels, height, width)).shape[2:]
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
        )
        grid = POSITION_GAIN * torch.stack([x.flatten(), y.flatten()], dim=1)
        self.register_buffer("grid", grid, persistent=False)
        planes = all_channels - channels
        self.outputs = MAPS * (2 * frames + channels) + frames * planes

    def forward(self, stacks: Tensor) -> Tensor:
        """Return features, shape (batch, outputs).

        Args:
            stacks: pixels from 0 to 255, shape (batch, frames, height, width, channels).
        """
        batch, frames = stacks.shape[:2]
        # Copied as bytes, since the norm would copy its many maps into this layout.
        images = stacks.flatten(0, 1)[..., :RGB]
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        maps = self.norm(self.convolutions(pixels.div_(255).sub_(0.5)))
        rows, columns = maps.shape[2:]
        weights = maps.flatten(2).softmax(2)
        points = (weights @ self.grid).view(batch, frames, -1)
        changes = SPEED_GAIN * (points[:, 1:] - points[:, :-1])
        # A cell of a map is the middle of what it is made of, which begins at the cell before.
        cells = nn.functional.avg_pool2d(pixels[frames - 1 :: frames], STRIDE)
        cells = cells[:, :, 1 : rows + 1, 1 : columns + 1].flatten(2)
        cells = cells - cells.mean(2, keepdim=True)
        cells = COLOR_GAIN * cells / (cells.std((1, 2), keepdim=True) + 1e-3)
        colors = weights[frames - 1 :: frames].detach() @ cells.transpose(1, 2)
        planes = stacks[:, :, 0, 0, RGB:].flatten(1) / 255
        return torch.cat([points[:, -1], changes.flatten(1), colors.flatten(1), planes], dim=1)


class HistoryEncoder(nn.Module):
    """Linear maps of the latest frames of a stack, scaled by how the robot responds in all of it.

    What a robot's masses and motors are is seen in products, of what was done and what followed: a
    perceptron learns these slowly. Here each window of frames gives products of two linear maps,
    whose means over the stack say how the robot responds, and these scale the features. So a linear
    policy on the features is a gain schedule, whose command grows with the deviation from the goal:
    Rugh and Shamma, "Research on gain scheduling", 2000. That an agent is given an embedding of its
    recent history: Kumar et al., "RMA: Rapid motor adaptation for legged robots", 2021; by scaling:
    Perez et al., "FiLM: Visual reasoning with a general conditioning layer", 2018.

    Args:
        shape: of a stack of vectors: (frames, columns), more than ``LATEST`` frames.

    Attributes:
        outputs: number of features.
    """

    outputs = 128

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        columns = shape[1]
        self.factors = nn.Linear(WINDOW * columns, 2 * PRODUCTS)
        self.response = nn.Sequential(
            nn.LayerNorm(PRODUCTS), nn.Linear(PRODUCTS, 128), nn.Tanh(), nn.Linear(128, 64)
        )
        self.scale = nn.Linear(64, self.outputs)
        self.latest = nn.Linear(LATEST * columns, self.outputs)

    def forward(self, stacks: Tensor) -> Tensor:
        """Return features, shape (batch, outputs).

        Args:
            stacks: shape (batch, frames, columns).
        """
        # The last window ends with the latest frame.
        first = (stacks.shape[1] - WINDOW) % HOP
        windows = stacks[:, first:].unfold(1, WINDOW, HOP).flatten(2)
        left, right = self.factors(windows).chunk(2, dim=2)
        scale = self.scale(torch.tanh(self.response((left * right).mean(1))))
        features: Tensor = self.latest(stacks[:, -LATEST:].flatten(1)) * (1 + scale)
        return features


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al., 2015, for one image or a stack of grey frames.

    Args:
        shape: (height, width, channels) or (frames, height, width), the shorter end being the
            channels; at least 36 x 36 pixels.

    Attributes:
        outputs: number of features.

    Raises:
        ValueError: the images are too small.
    """

    outputs = 512

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        first = height_axis(shape)
        self._channels_last = first == 0
        height, width = shape[first : first + 2]
        channels = shape[-1] if self._channels_last else shape[0]
        if min(height, width) < 36:
            raise ValueError(f"images must be of 36 x 36 pixels or more, not {height} x {width}")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(features, self.outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return features, shape (batch, outputs).

        Args:
            images: pixels from 0 to 255, shape (batch, *shape).
        """
        channels_first = images.permute(0, 3, 1, 2) if self._channels_last else images
        # In this layout the convolutions take a sixth less time.
        pixels = channels_first.to(torch.float32, memory_format=torch.channels_last)
        features: Tensor = self.linear(self.convolutions(pixels / 255))
        return features


def is_image(space: gym.Space[Any]) -> bool:
    """Return whether observations are images, or stacks of them, and need an encoder."""
    return space.dtype == np.uint8 and len(space.shape or ()) in (3, 4)


def height_axis(shape: tuple[int, ...]) -> int:
    """Return which axis of an image, or of a stack of them, is its height; the next is its width.

    Args:
        shape: (frames, height, width, channels), (height, width, channels) or (frames, height,
            width), of the last two that of which the shorter end is no height or width.
    """
    return 1 if len(shape) == 4 or shape[-1] >= shape[0] else 0


def build_encoder(space: gym.Space[Any]) -> Keypoints | NatureCNN:
    """Return what turns images into features.

    Args:
        space: uint8, of shape (frames, height, width, channels) for :class:`Keypoints`, or
            (height, width, channels) or (frames, height, width) for :class:`NatureCNN`.

    Raises:
        ValueError: the images are too small.
    """
    shape = space.shape or ()
    return Keypoints(shape) if len(shape) == 4 else NatureCNN(shape)


def build_features(space: gym.Space[Any]) -> tuple[nn.Module, int]:
    """Return what turns observations into features, and the number of those.

    Args:
        space: of an observation: a vector, a stack of vectors, which is one long vector if it is of
            up to ``LATEST`` frames, or see :func:`build_encoder`.

    Raises:
        ValueError: there is no network for the space.
    """
    if is_image(space):
        encoder = build_encoder(space)
        return encoder, encoder.outputs
    shape = space.shape or ()
    if not isinstance(space, gym.spaces.Box) or len(shape) not in (1, 2):
        raise ValueError(
            f"no network for observations {space}: they must be vectors, or images of uint8"
        )
    if len(shape) == 2 and shape[0] > LATEST:
        history = HistoryEncoder(shape)
        return history, history.outputs
    return nn.Flatten(), math.prod(shape)


def build_network(space: gym.Space[Any], hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return a perceptron on the observation, or on the features of its images.

    Args:
        space: of an observation: a vector, a stack of vectors, or see :func:`build_encoder`.
        hidden: widths of the hidden layers.
        outputs: number of outputs.

    Raises:
        ValueError: there is no network for the space.
    """
    features, count = build_features(space)
    perceptron = mlp(count, hidden, outputs)
    return perceptron if len(space.shape or ()) == 1 else nn.Sequential(features, perceptron)


def parameter_groups(
    network: nn.Module, learning_rate: float, encoder_learning_rate: float
) -> list[dict[str, Any]]:
    """Return what Adam is to learn and how fast, at first."""
    encoder = [
        parameter
        for part in network.modules()
        if isinstance(part, Keypoints | NatureCNN)
        for parameter in part.parameters()
    ]
    rest = [one for one in network.parameters() if all(one is not other for other in encoder)]
    groups = [(rest, learning_rate), (encoder, encoder_learning_rate)]
    return [{"params": of, "lr": rate, "initial_lr": rate} for of, rate in groups if of]


def mlp(
    inputs: int,
    hidden: tuple[int, ...],
    outputs: int,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return linear layers with an activation between them."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
