"""The steps that REINFORCE's baseline learns from more than once."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from .checkpoints import below, matching, whole_number
from .networks import is_image


class ReturnBuffer:
    """The latest steps of all episodes and the returns that followed them.

    With any baseline the expectation of REINFORCE's gradient is the same, so the steps may be those
    of earlier policies too. On images one update has too few to teach an encoder.

    Args:
        size: steps.
        space: of an observation.
    """

    def __init__(self, size: int, space: gym.Space[Any]) -> None:
        dtype = torch.uint8 if is_image(space) else torch.float32
        self.observations = torch.zeros((size, *(space.shape or ())), dtype=dtype)
        self.returns = torch.zeros(size)
        self.added = 0

    def add(self, observations: Tensor, returns: Tensor) -> None:
        """Add steps, in place of the oldest ones.

        Args:
            observations: shape (steps, ...).
            returns: shape (steps,).
        """
        size = len(self.returns)
        places = (self.added + torch.arange(len(returns)))[-size:] % size
        self.observations[places] = observations[-size:].cpu()
        self.returns[places] = returns[-size:].cpu()
        self.added += len(returns)

    def content(self) -> tuple[Tensor, Tensor]:
        """Return all observations and returns, in no particular order."""
        return self.observations[: self.added], self.returns[: self.added]

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        observations, returns = self.content()
        return {
            "return_buffer.observations": observations,
            "return_buffer.returns": returns,
            "return_buffer.added": torch.tensor(self.added),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo :meth:`tensors`.

        Raises:
            CheckpointError: the content is not that of such a buffer.
        """
        content = below(tensors, "return_buffer")
        added = whole_number(content["added"])
        filled = min(added, len(self.returns))
        shape = (filled, *self.observations.shape[1:])
        observations = matching(content["observations"], shape, self.observations.dtype)
        returns = matching(content["returns"], (filled,), torch.float32)
        self.added = added
        self.observations[:filled] = observations
        self.returns[:filled] = returns
