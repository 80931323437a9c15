"""What every agent is: something with SB3's ``predict`` that knows which environment it acts in."""

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FrameStackObservation

from .wrappers import ActionRepeat, VectorActionRepeat, VectorFrameStack


class Agent(ABC):
    """A policy and the environment that it was made for.

    Args:
        env_id: the id of its environment.
        env_kwargs: the keywords that its environment is made with.
        frame_stack: observations it sees at once, the latest last. Pictures always come in a stack,
            be it of one.
        action_repeat: actions of the environment per action of its own.
    """

    algo: str
    weights_hash: str | None = None

    def __init__(
        self,
        env_id: str,
        env_kwargs: dict[str, Any] | None = None,
        frame_stack: int = 1,
        action_repeat: int = 1,
    ) -> None:
        self.env_id = env_id
        self.env_kwargs = env_kwargs or {}
        self.frame_stack = frame_stack
        self.action_repeat = action_repeat
        with self.make_env() as env:
            self.observation_space: gym.Space[Any] = env.observation_space
            self.action_space: gym.Space[Any] = env.action_space

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
        if observation.ndim > len(self.observation_space.shape or ()):
            return self.act(observation, deterministic), state
        return self.act(observation[None], deterministic)[0], state

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment that the agent acts in, :meth:`wrap` included.

        Args:
            **kwargs: for ``gym.make``, e.g. ``render_mode="rgb_array"``; they win over the
                keywords that the agent was trained with.
        """
        return self.wrap(gym.make(f"bullet_envs:{self.env_id}", **{**self.env_kwargs, **kwargs}))

    def make_envs(self, num_envs: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        """Make a batch of what :meth:`make_env` makes, whose ended rows wait for their reset.

        Args:
            num_envs: rows.
            **kwargs: for ``gym.make_vec``, as in :meth:`make_env`.
        """
        envs: VectorEnv[Any, Any, Any] = gym.make_vec(
            f"bullet_envs:{self.env_id}",
            num_envs=num_envs,
            autoreset_mode=AutoresetMode.DISABLED,
            **{**self.env_kwargs, **kwargs},
        )
        space = envs.single_observation_space
        seen: VectorEnv[Any, Any, Any]
        seen = self._seen_through(envs, space, VectorActionRepeat, VectorFrameStack)
        return seen

    def wrap(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Add the action repeat and the frame stack that the agent needs to a bare environment."""
        seen: gym.Env[Any, Any]
        seen = self._seen_through(env, env.observation_space, ActionRepeat, FrameStackObservation)
        return seen

    def _seen_through(self, env: Any, space: gym.Space[Any], repeat: Any, stack: Any) -> Any:
        is_picture = len(space.shape or ()) == 3
        if self.action_repeat > 1:
            env = repeat(env, self.action_repeat)
        if self.frame_stack > 1 or is_picture:
            env = stack(env, self.frame_stack)
        return env
