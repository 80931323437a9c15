"""What Gymnasium has no wrapper for."""

from typing import Any, SupportsFloat

import gymnasium as gym


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
