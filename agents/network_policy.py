"""Policies that are a network."""

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy.typing as npt
import torch
from torch import nn

from .networks import build_network, is_image
from .policy import Policy


class NetworkPolicy(Policy):
    """A policy with weights.

    Args:
        observation_space: of one observation.
        action_space: of one action.
        hidden: widths of the hidden layers.
    """

    algo: str
    network: nn.Module

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__(observation_space, action_space)
        self.hidden = hidden
        self.network = self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a new network for the policy's spaces and widths."""

    @abstractmethod
    def most_likely(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the most likely actions, as environments take them.

        Args:
            observations: as the network takes them, shape (batch, ...).

        Returns:
            Shape (batch, ...), int64 or float32.
        """

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the observations that the network takes."""
        return torch.uint8 if is_image(self.observation_space) else torch.float32

    def tensor(self, observations: npt.NDArray[Any]) -> torch.Tensor:
        """Return observations as the network takes them."""
        return torch.as_tensor(observations, dtype=self.dtype, device=self.device)


def clip(actions: torch.Tensor, space: gym.spaces.Box) -> torch.Tensor:
    """Return actions of shape (batch, ...) clipped to the bounds of their space."""
    low, high = (torch.as_tensor(bound, dtype=actions.dtype) for bound in (space.low, space.high))
    return actions.clamp(low, high)


class GreedyPolicy(NetworkPolicy):
    """A network whose largest output is the action."""

    def build(self) -> nn.Module:
        """Return a network from the observation to a number per Discrete action.

        Raises:
            ValueError: the actions are not Discrete, or there is no network for the observations.
        """
        space = self.action_space
        if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
            raise ValueError(f"{self.algo} needs Discrete actions that begin with 0, not {space}")
        return build_network(self.observation_space, self.hidden, int(space.n))

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the action with the largest output for each observation."""
        with torch.no_grad():
            chosen = self.most_likely(self.tensor(observations))
        actions: npt.NDArray[Any] = chosen.cpu().numpy()
        return actions

    def most_likely(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the actions with the largest output, int64 of shape (batch,)."""
        outputs: torch.Tensor = self.network(observations)
        return outputs.argmax(dim=1)
