"""Episodes played again from the JSON beside a video, without the agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from . import snapshots
from .checks import shorten
from .registration import registered

NEEDED = ("env_id", "kwargs", "max_episode_steps", "seed", "actions", "resets", "length", "return")
# Keywords of an id's own, which a file may not change: they name a class to import.
OF_ID = ("task", "observer", "render_mode")


@dataclass(frozen=True)
class Replay:
    """What an episode came to, now and when it was recorded.

    Args:
        length: actions that were taken.
        total: return.
        recorded: return that the file has.
    """

    length: int
    total: float
    recorded: float

    @property
    def is_equal(self) -> bool:
        """Whether it is the same to the bit."""
        return self.total == self.recorded


def read(path: str | Path) -> dict[str, Any]:
    """Return the JSON beside a video.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of a recorder's.
    """
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON of a recorded video: {error}") from None
    missing = [name for name in NEEDED if not isinstance(card, Mapping) or name not in card]
    if missing:
        raise ValueError(f"{path} is no JSON of a recorded video: it has no {missing[0]!r}")
    return dict(card)


def make(card: Mapping[str, Any], env_id: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment of a video.

    Args:
        card: its JSON.
        env_id: of the environment; None takes the file's, which must be registered: no module is
            imported because a file names it.
        **kwargs: such as ``render_mode``.

    Raises:
        ValueError: the id is unknown, or another one than the file's.
    """
    recorded = str(card["env_id"]).rpartition(":")[2]
    if env_id is None and registered(recorded) is None:
        raise ValueError(f"the video is of {recorded!r}, which is not registered: give its id")
    if env_id is not None and env_id.rpartition(":")[2] != recorded:
        raise ValueError(f"the video is of {recorded}, not of {env_id}")
    of_file = {name: value for name, value in card["kwargs"].items() if name not in OF_ID}
    limit = card["max_episode_steps"]
    return gym.make(env_id or recorded, max_episode_steps=limit, **of_file, **kwargs)


def replay(card: Mapping[str, Any], env: gym.Env[Any, Any]) -> Replay:
    """Take the actions of a video in an environment, maybe one that records.

    Raises:
        ValueError: the episode ends before the last action.
    """
    _begin(env, card)
    resets = {reset["before_action"]: reset for reset in card["resets"]}
    total, ended = 0.0, False
    for index, action in enumerate(card["actions"]):
        if index in resets:
            _begin(env, resets[index])
        elif ended:
            raise ValueError(
                f"the episode has ended after {index} of {len(card['actions'])} actions"
            )
        _, reward, terminated, truncated, _ = env.step(_action(env, action))
        total += float(reward)
        ended = terminated or truncated
    return Replay(len(card["actions"]), total, float(card["return"]))


def _begin(env: gym.Env[Any, Any], start: Mapping[str, Any]) -> None:
    if start.get("snapshot") is not None:
        snapshots.restore(env, start["snapshot"])
        return
    options = start.get("options")
    if start["seed"] is None and start.get("start_state") is not None:
        options = {**(options or {}), "state": start["start_state"]}
    env.reset(seed=start["seed"], options=options)


def _action(env: gym.Env[Any, Any], action: Any) -> Any:
    space = env.action_space
    array = np.asarray(action, space.dtype)
    if not space.contains(array if array.shape else array[()]) and array.shape != space.shape:
        raise ValueError(f"action {shorten(action)} is none of {space}")
    return array if array.shape else array.item()
