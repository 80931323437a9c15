"""What Gymnasium has no wrapper for."""

from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from ..vector import require_disabled

# Generic for type checkers, but not at run time in gymnasium 1.2.
if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """Takes each action several times, or until the episode ends, and sums the rewards.

    Args:
        env: what to act in.
        times: actions per action, from 1.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self._times = times

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return the last observation, the sum of rewards, flags and the last info."""
        total = 0.0
        for _ in range(self._times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class VectorActionRepeat(_VectorWrapper):
    """:class:`ActionRepeat` for a batch whose ended rows wait, with reward 0, for their reset.

    Args:
        envs: what to act in, with ``AutoresetMode.DISABLED``.
        times: actions per action, from 1.

    Raises:
        ValueError: the batch begins episodes by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], times: int) -> None:
        require_disabled(envs, "VectorActionRepeat")
        super().__init__(envs)
        self._times = times

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return the last observations, the sums of rewards, flags and the last info."""
        total = np.zeros(self.num_envs)
        for _ in range(self._times):
            observations, rewards, terminated, truncated, info = self.env.step(actions)
            total += rewards
        return observations, total, terminated, truncated, info


class VectorFrameStack(_VectorWrapper):
    """Gymnasium's ``FrameStackObservation`` for a batch.

    Args:
        envs: what to look at, with ``AutoresetMode.DISABLED``.
        frames: observations in a stack, the latest last; the first of an episode is repeated.

    Raises:
        ValueError: the batch begins episodes by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], frames: int) -> None:
        require_disabled(envs, "VectorFrameStack")
        super().__init__(envs)
        self.single_observation_space = batch_space(envs.single_observation_space, frames)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)
        space = self.observation_space
        self._stacks: npt.NDArray[Any] = np.zeros(space.shape or (), space.dtype)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Begin the stacks of the rows that begin an episode."""
        rows = (options or {}).get("reset_mask", slice(None))
        observations, info = self.env.reset(seed=seed, options=options)
        self._stacks[rows] = observations[rows][:, None]
        return self._stacks.copy(), info

    def step(self, actions: Any) -> tuple[npt.NDArray[Any], Any, Any, Any, dict[str, Any]]:
        """Return the stacks with the latest observations, and the rest as it is."""
        observations, *rest = self.env.step(actions)
        self._stacks = np.concatenate([self._stacks[:, 1:], observations[:, None]], axis=1)
        return self._stacks.copy(), *rest
