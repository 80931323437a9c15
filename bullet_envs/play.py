"""An environment under one's own hands: ``bullet-envs play``.

Every episode leaves a JSON that ``bullet-envs replay`` plays again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from .mp4 import make_folder, to_json
from .overlay import overlay_of
from .recorder import HELD
from .registration import registered
from .versions import versions
from .window import Window

PAIRS = (("left", "right"), ("down", "up"), ("a", "d"), ("s", "w"))  # of environments of others
NAMES = {key for pair in PAIRS for key in pair} | {*"123456789", "space"}
SLOWEST = 1 / 16

Frame = npt.NDArray[np.uint8]


class Keys:
    """What held keys command.

    Args:
        env: whose actions to take.

    Raises:
        ValueError: its actions are of a kind that keys cannot command.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        space = env.action_space
        task = getattr(env.unwrapped, "task", None)
        pairs = PAIRS if task is None else task.keys
        self._space = space
        self._pairs = pairs
        self._mapping: dict[frozenset[str], Any] = {}
        self._last = self._rest = self._count = 0
        if isinstance(space, gym.spaces.Box) and space.shape and len(space.shape) == 1:
            if space.shape[0] > len(pairs):
                raise ValueError(
                    f"{space.shape[0]} actuators are more than keys command: {len(pairs)}"
                )
        elif isinstance(space, gym.spaces.Discrete):
            self._count = int(space.n)
            self._mapping = _mapping(env.unwrapped, self._count)
            self._rest = 1 if frozenset({"left"}) in self._mapping and self._count == 3 else 0
        else:
            raise ValueError(f"keys cannot command {space}: it must be Box of vectors or Discrete")

    def action(self, held: frozenset[str]) -> Any:
        """Return the action of the keys that are held, by their names in pygame."""
        if isinstance(self._space, gym.spaces.Box):
            low, high = np.maximum(self._space.low, -1e3), np.minimum(self._space.high, 1e3)
            action = np.clip(np.zeros_like(low), low, high)
            for index, (less, more) in enumerate(self._pairs[: len(low)]):
                if less in held:
                    action[index] = low[index]
                if more in held:
                    action[index] = high[index]
            return action.astype(self._space.dtype)
        known = [keys for keys in self._mapping if keys <= held]
        # With two actions there is none for rest: the last one goes on.
        if known:
            self._last = self._mapping[max(known, key=len)]
        elif self._count != 2:
            self._last = self._rest
        return self._last


def _mapping(env: Any, count: int) -> dict[frozenset[str], int]:
    """Return which keys are which of the numbered actions."""
    if hasattr(env, "ale"):  # the Arcade Learning Environment, with keys of its own
        names = {" ": "space", "w": "up", "s": "down", "a": "left", "d": "right"}
        return {
            frozenset(names.get(key, key) for key in keys): int(action)
            for keys, action in env.get_keys_to_action().items()
        }
    if count <= 3:
        return {frozenset({"left"}): 0, frozenset({"right"}): count - 1}
    return {frozenset({str(digit)}): digit for digit in range(1, min(count, 10))}


def agent_action(env: gym.Env[Any, Any], action: Any) -> Any:
    """Return the action of an agent that numbers its actions, as one of an environment's.

    Args:
        env: with continuous actions where the task has them.
        action: of the agent, in the same environment or in that with numbered actions.
    """
    task = getattr(env.unwrapped, "task", None)
    if task is None or isinstance(env.action_space, gym.spaces.Discrete) or np.ndim(action):
        return action
    return np.array(task.discrete_actions[int(action)], env.action_space.dtype)


class Session:
    """Episodes that are played by hand, in a window.

    Args:
        env: with ``render_mode="rgb_array"``.
        seed: of the first episode; the next have those that follow.
        folder: of the logs, an episode each.
        agent: that takes over at a key, from :func:`bullet_envs.agents.load_agent`, or None.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        seed: int,
        folder: Path,
        agent: Any = None,
    ) -> None:
        import pygame

        self._pygame = pygame
        self._env, self._seed, self._folder, self._agent = env, seed, folder, agent
        self._keys = Keys(env)
        make_folder(folder)
        fps = env.metadata.get("render_fps") or 30
        title = env.spec.id if env.spec else type(env.unwrapped).__name__
        self._window = Window(title, fps)
        self._fps = fps
        self._taken_over = self._paused = self._one_step = False
        self.logs: list[Path] = []

    def play(self) -> None:
        """Play episodes until the window is left, or until Ctrl-C."""
        try:
            while True:
                self._episode()
        except (SystemExit, KeyboardInterrupt):
            pass
        finally:
            self._keep()
            self._window.close()

    def _episode(self) -> None:
        env = self._env
        observation, info = env.reset(seed=self._seed)
        if self._agent is not None:
            self._agent.policy.begin(info, 1)
        self._card: dict[str, Any] = self._new_card()
        parameters = info.get("parameters", {})
        action, terminated, ended, held = None, False, False, 0
        while True:
            again = self._commands()
            if again or held > HELD * self._fps:
                break
            if ended:
                held += 1
            elif not self._paused or self._one_step:
                self._one_step = False
                action = self._next_action(observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                self._card["actions"].append(to_json(action))
                self._card["length"] += 1
                self._card["return"] += float(reward)
                ended = terminated or truncated
                self._card |= {"terminated": bool(terminated), "truncated": bool(truncated)}
            facts = self._card["length"], self._card["return"], action, terminated, parameters
            self._window.show(lambda facts=facts: self._frame(facts))  # type: ignore[misc]
        self._keep()
        self._seed += 1

    def _next_action(self, observation: Any) -> Any:
        # Asked at every step, since some agents remember what they have seen.
        if self._agent is not None:
            action, _ = self._agent.predict(observation, deterministic=True)
            if self._taken_over:
                return agent_action(self._env, action)
        pressed, pygame = self._pygame.key.get_pressed(), self._pygame
        return self._keys.action(frozenset(n for n in NAMES if pressed[pygame.key.key_code(n)]))

    def _frame(self, facts: tuple[Any, ...]) -> Frame:
        frame: Any = self._env.render()
        who = self._agent.algo if self._taken_over else "you"
        if self._window.speed != 1:
            who += f", speed {self._window.speed:g}"
        if self._paused:
            who += ", paused"
        return overlay_of(self._env, who, *facts).drawn_into(frame)

    def _commands(self) -> bool:
        """Obey keys that have been pressed, and return whether a new episode is wanted."""
        pygame, again = self._pygame, False
        for event in pygame.event.get(pygame.KEYDOWN):
            name = pygame.key.name(event.key)
            if name in ("escape", "q"):
                raise SystemExit(0)
            if name == "tab" and self._agent is not None:
                self._taken_over = not self._taken_over
            elif name == "space":
                self._paused = not self._paused
            elif name == ".":
                self._paused = self._one_step = True
            elif name in ("-", "="):
                factor = 0.5 if name == "-" else 2.0
                self._window.speed = min(1.0, max(SLOWEST, self._window.speed * factor))
            elif name == "r":
                again = True
        return again

    def _new_card(self) -> dict[str, Any]:
        spec = self._env.spec
        return {
            "env_id": spec and spec.id,
            "kwargs": spec and to_json(spec.kwargs),
            "max_episode_steps": spec and spec.max_episode_steps,
            "seed": self._seed,
            "options": None,
            "snapshot": None,
            "resets": [],
            "actions": [],
            "length": 0,
            "return": 0.0,
            "terminated": False,
            "truncated": False,
            "versions": versions(("bullet_envs", "gymnasium", "pybullet", "numpy")),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _keep(self) -> None:
        """Write the log of the episode, unless it is kept already or has no action."""
        card = getattr(self, "_card", None)
        if card is None or not card["actions"]:
            return
        name = f"play-{card['date'].replace(':', '')[:17]}-start{card['seed']}.json"
        path = self._folder / name
        path.write_text(json.dumps(card, indent=1), encoding="utf-8")
        self.logs.append(path)
        self._card = {"actions": []}


def continuous_keywords(env_id: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords with which held keys command in proportion, where the task has them."""
    task = registered(env_id)
    return dict(kwargs) if task is None else {"continuous": True, **kwargs}
