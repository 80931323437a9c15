"""An environment that is shown in a window while an agent acts in it."""

from typing import Any

import gymnasium as gym

from .overlay import overlay_of
from .recorder import HELD
from .window import Window


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Shows each state in real time, with what is written into videos, until the window is left.

    Args:
        env: with ``render_mode="rgb_array"``.
        agent: who acts.

    Raises:
        RuntimeError: there is no display, or another window of this process is open.
        SystemExit: the window has been closed by its cross or by Esc or q; from reset and step.
    """

    def __init__(self, env: gym.Env[Any, Any], agent: str) -> None:
        super().__init__(env)
        self._agent = agent
        self._fps = env.metadata.get("render_fps") or 30
        self._window = Window(env.spec.id if env.spec else type(env.unwrapped).__name__, self._fps)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and show its initial state."""
        observation, info = self.env.reset(**kwargs)
        self._elapsed, self._return = 0, 0.0
        self._parameters = info.get("parameters", {})
        self._show(None, False)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and show the state; the last one of an episode for half a second."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        self._return += float(reward)
        for _ in range(1 + round(HELD * self._fps) if terminated or truncated else 1):
            self._show(action, terminated)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the window and the environment."""
        self._window.close()
        super().close()

    def _show(self, action: Any, terminated: bool) -> None:
        self._window.leave_at(("escape", "q"))
        facts = self._elapsed, self._return, action, terminated, self._parameters
        overlay = overlay_of(self.env, self._agent, *facts)
        self._window.show(lambda: overlay.drawn_into(self.env.render()))  # type: ignore[arg-type]
