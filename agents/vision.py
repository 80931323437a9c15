"""What all pixel agents see with: where things are, and how they have moved."""

import torch
from torch import Tensor, nn

MAPS = 32  # keypoints per frame
# Positions in units in which those of a well-played episode are about 1, and speeds likewise.
POSITION_GAIN = 4.0
SPEED_GAIN = 10.0


class Keypoints(nn.Module):
    """Positions of learned features in the latest frame of a stack, and their changes before it.

    Two convolutions turn each frame into maps; the mean position of a map, weighted by the softmax
    of the map, is a keypoint. After Levine et al., "End-to-end training of deep visuomotor
    policies", 2016, section 5.1.

    Deviations:
    1. A map is normalised over its pixels (instance normalisation) before the softmax, so that
       keypoints are sharp from the first step of training: those of a random network already tell
       a ball's place to a linear readout.
    2. The frames of a stack share their convolutions, and the network is given differences
       between frames, since speeds are what a single one does not show.

    Args:
        shape: of a stack of frames: (frames, height, width, channels), at least 20 x 20 pixels.

    Attributes:
        outputs: number of features.

    Raises:
        ValueError: the pictures are too small.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        frames, height, width, channels = shape
        if min(height, width) < 20:  # the maps would be of one pixel
            raise ValueError(f"pictures must be of 20 x 20 pixels or more, not {height} x {width}")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=5, stride=3),
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
        self.outputs = 2 * MAPS * frames

    def forward(self, stacks: Tensor) -> Tensor:
        """Return features, shape (rows, outputs).

        Args:
            stacks: pixels from 0 to 255, shape (rows, frames, height, width, channels).
        """
        rows, frames = stacks.shape[:2]
        images = stacks.flatten(0, 1).permute(0, 3, 1, 2).float() / 255 - 0.5
        maps = self.norm(self.convolutions(images))
        points = (maps.flatten(2).softmax(2) @ self.grid).view(rows, frames, -1)
        changes = SPEED_GAIN * (points[:, 1:] - points[:, :-1])
        return torch.cat([points[:, -1], changes.flatten(1)], dim=1)
