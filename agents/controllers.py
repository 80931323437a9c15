"""Uniform random actions, the lower bound of every table; ``lqr.py`` has the other controller.

Run ``bullet-envs evaluate --algo random --env BalancingPlate-v0``.
"""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from .policy import Policy


class RandomPolicy(Policy):
    """Uniform actions."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        self._generator = copy.deepcopy(action_space)
        self._generator.seed(0)

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return random actions."""
        return np.stack([self._generator.sample() for _ in observations])
