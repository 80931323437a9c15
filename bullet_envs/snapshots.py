"""Where environments are, as data that JSON can hold: to go on from there, in any process.

An environment and all that is restored from a snapshot of it go on equal to the bit, since taking
one sets the engine to the state anew (see :meth:`~bullet_envs.env.BulletEnv.resynchronize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.wrappers import TimeLimit

from .checks import shorten
from .task import Task

VERSION = 2
Snapshot = dict[str, Any]


def snapshot(env: Any) -> Snapshot:
    """Return where an environment is, single or vector.

    The time limit of ``gym.make`` is counted too. Other wrappers are not looked at.

    Args:
        env: an environment of this package, with its wrappers.

    Raises:
        ResetNeeded: there has been no reset.
        TypeError: it is none of this package's.
    """
    taken: Snapshot = _ours(env).snapshot()
    if (limit := _time_limit(env)) is not None:
        taken["envs"][0]["elapsed"] = limit._elapsed_steps
    return taken


def restore(env: Any, taken: Any) -> None:
    """Put an environment where another one was.

    Its wrappers begin an episode, so that they have nothing of what was before.

    Args:
        env: of the same task, keywords and number of sub-environments; it need not have been reset.
            A time limit goes on counting from 0 if the snapshot was taken without one.
        taken: by :func:`snapshot`.

    Raises:
        TypeError: it is no snapshot, or the environment is none of this package's.
        ValueError: it is one of another version, task, perturbations or number of sub-environments.
    """
    bare = _ours(env)
    bare.restore(taken)  # refuses what does not fit, before the wrappers lose their episode
    if env is not bare:
        env.reset()
        bare.restore(taken)
    if (limit := _time_limit(env)) is not None:
        limit._elapsed_steps = taken["envs"][0]["elapsed"] or 0


def _ours(env: Any) -> Any:
    bare = env.unwrapped
    if not hasattr(bare, "snapshot"):
        raise TypeError(f"{shorten(env)} is no environment of bullet_envs")
    return bare


def _time_limit(env: Any) -> Any:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None


def make(task: Task, perturbations: str | None, envs: list[dict[str, Any]]) -> Snapshot:
    """Return the snapshot of sub-environments."""
    return {"version": VERSION, "task": repr(task), "perturbations": perturbations, "envs": envs}


def check(taken: Any, task: Task, perturbations: str | None, num_envs: int) -> list[dict[str, Any]]:
    """Return what a snapshot has of each sub-environment.

    Raises:
        TypeError: it is no snapshot.
        ValueError: it is one of another version, task, perturbations or number of sub-environments.
    """
    if not isinstance(taken, Mapping) or not {"version", "task", "envs"} <= taken.keys():
        raise TypeError(f"snapshot {shorten(taken)} must be what bullet_envs.snapshot returned")
    for what, mine, theirs in (
        ("version", VERSION, taken["version"]),
        ("task", repr(task), taken["task"]),
        ("perturbations", perturbations, taken.get("perturbations")),
        ("number of sub-environments", num_envs, len(taken["envs"])),
    ):
        if mine != theirs:
            raise ValueError(f"snapshot of {what} {theirs} does not fit {what} {mine}")
    return list(taken["envs"])


def of_generator(generator: np.random.Generator, seed: int | None) -> dict[str, Any]:
    """Return the state of a generator, and the seed that it came from."""
    return {"seed": seed, "state": generator.bit_generator.state}


def to_generator(given: Mapping[str, Any]) -> tuple[np.random.Generator, Any]:
    """Return a generator in a state, and the seed that it came from."""
    generator, _ = seeding.np_random(0)
    generator.bit_generator.state = given["state"]
    return generator, given["seed"]


def of_array(array: Any) -> Any:
    """Return an array, or a dict of arrays, as lists with their dtype."""
    if array is None:
        return None
    if isinstance(array, Mapping):
        return {name: of_array(one) for name, one in array.items()}
    array = np.asarray(array)
    return [str(array.dtype), array.tolist()]


def to_array(given: Any) -> Any:
    """Return what :func:`of_array` was given."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {name: to_array(one) for name, one in given.items()}
    dtype, numbers = given
    return np.array(numbers, dtype)
