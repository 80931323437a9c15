"""What every policy is: something with SB3's ``predict`` that knows spaces, not ids."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt


class Policy(ABC):
    """Maps observations to actions.

    Args:
        observation_space: of one observation.
        action_space: of one action.

    Class attributes:
        has_memory: whether :meth:`begin` must be called before episodes, and :meth:`act` is told
            which of them it acts in.
    """

    has_memory: ClassVar[bool] = False

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def begin(self, infos: Mapping[str, Any], count: int) -> None:  # noqa: B027
        """Begin so many episodes; for policies with a memory.

        Args:
            infos: of the vector environment's reset.
            count: of episodes, the first sub-environments.
        """

    @abstractmethod
    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return an action for each of several observations, shape (num_envs, ...)."""

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...] | None]:
        """Return an action and ``state``, as Stable-Baselines3's ``predict`` does.

        Args:
            observation: one observation, or several of them along a new first axis.
            state: returned unchanged: a policy with a memory keeps it itself.
            episode_start: where an episode begins, for a policy with a memory; such a one takes all
                to begin if any does.
            deterministic: take the most likely action instead of a random one.

        Returns:
            The action, or an action per observation, and ``state``.
        """
        observation = np.asarray(observation)
        if self.has_memory and episode_start is not None and np.any(episode_start):
            self.begin({}, np.size(episode_start))
        if observation.ndim > len(self.observation_space.shape or ()):
            return self.act(observation, deterministic), state
        return self.act(observation[None], deterministic)[0], state
