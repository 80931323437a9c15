"""What every agent is: something with SB3's ``predict`` that knows which environment it acts in."""

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt


class Agent(ABC):
    """A policy and the environment that it was made for.

    Args:
        env_id: the id of its environment.
        env_kwargs: the keywords that its environment is made with.
    """

    algo: str
    weights_hash: str | None = None

    def __init__(self, env_id: str, env_kwargs: dict[str, Any] | None = None) -> None:
        self.env_id = env_id
        self.env_kwargs = env_kwargs or {}

    @abstractmethod
    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return an action for each of a batch of observations, shape (rows, ...)."""

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...] | None]:
        """Return an action and ``state``, as Stable-Baselines3's ``predict`` does.

        Args:
            observation: one observation, or a batch of them along a new first axis.
            state: returned as it came; there is no recurrent agent here.
            episode_start: not used, for the same reason.
            deterministic: take the most likely action rather than a random one.

        Returns:
            The action, or a batch of them, and ``state``.
        """
        observation = np.asarray(observation)
        if observation.ndim > self._observation_ndim():
            return self.act(observation, deterministic), state
        return self.act(observation[None], deterministic)[0], state

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment that the agent acts in.

        Args:
            **kwargs: for ``gym.make``, e.g. ``render_mode="rgb_array"``; they win over the
                keywords that the agent was trained with.
        """
        return gym.make(f"bullet_envs:{self.env_id}", **{**self.env_kwargs, **kwargs})

    def _observation_ndim(self) -> int:
        return 1
