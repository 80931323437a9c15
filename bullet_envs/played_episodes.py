"""Episodes of many policies, in this process or another, copied to be compared to the bit."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .checks import shorten
from .env import BulletEnv
from .task import Task

Policy = Callable[[Any, int], Any]  # from an observation and the number of the step to an action

LONGEST = 1000  # steps after which an episode counts as one that goes on


class Moment(NamedTuple):
    """What an environment returned, copied. With ``reset`` there is no reward."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any
    state: tuple[float, ...]  # of a task, else empty


@dataclass
class Episode:
    """An episode that was played.

    Args:
        policy: in words.
        seed: given to ``reset``.
        actions: in their order.
        moments: one more than actions.
        error: what ended it, if the environment raised an exception.
        is_continued: it begins from a state that another one had reached.
    """

    policy: str
    seed: int
    actions: list[Any] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    error: str = ""
    is_continued: bool = False

    @property
    def terminates(self) -> bool:
        """Whether the last step terminated it."""
        return bool(self.moments and self.moments[-1].terminated)

    def at(self, step: int) -> str:
        """Return in words where a moment is."""
        where = f"after {step} steps" if step else "after reset"
        return f"{where} ({self.policy}, seed {self.seed})"


def play(
    env: gym.Env[Any, Any],
    policy: Policy,
    seed: int,
    most: int,
    words: str = "random actions",
    options: dict[str, Any] | None = None,
) -> Episode:
    """Play an episode.

    Args:
        env: whose state is recorded where it is one of this package's.
        policy: what to do.
        seed: given to ``reset``.
        most: steps.
        words: the policy's name.
        options: of ``reset``.
    """
    episode = Episode(words, seed)
    bare = env.unwrapped

    def state() -> tuple[float, ...]:
        return tuple(bare.state().values()) if isinstance(bare, BulletEnv) else ()

    try:
        observation, info = env.reset(seed=seed, options=options)
        copied = copy.deepcopy((observation, info))
        episode.moments.append(Moment(copied[0], None, False, False, copied[1], state()))
        for step in range(most):
            action = policy(observation, step)
            episode.actions.append(copy.deepcopy(action))
            observation, reward, terminated, truncated, info = env.step(action)
            copied = copy.deepcopy((observation, info))
            moment = Moment(copied[0], reward, terminated, truncated, copied[1], state())
            episode.moments.append(moment)
            if terminated or truncated:
                break
    except Exception as error:  # of the environment
        episode.error = f"{sentence(error)} {episode.at(len(episode.moments))}"
    return episode


def again(actions: Sequence[Any]) -> Policy:
    """Return the policy that takes some actions in turn, a copy of each."""
    return lambda _, step: copy.deepcopy(actions[step])


def _call(sample: Callable[[], Any], _: Any, __: int) -> Any:
    return sample()


def _sampler(space: spaces.Space[Any], seed: int) -> Callable[[], Any]:
    space = copy.deepcopy(space)
    space.seed(seed)
    return space.sample


def sample_actions(space: spaces.Space[Any], seed: int, count: int) -> list[Any]:
    """Return random actions."""
    sample = _sampler(space, seed)
    return [sample() for _ in range(count)]


def extremes(space: spaces.Space[Any], seed: int) -> Callable[[], Any]:
    """Return what draws corners of a Box, and any element of another space."""
    sample, rng = _sampler(space, seed), np.random.default_rng(seed)

    def draw() -> Any:
        if not isinstance(space, spaces.Box):
            return sample()
        corner = np.where(rng.random(space.shape) < 0.5, space.low, space.high)
        return np.where(np.isfinite(corner), corner, sample()).astype(space.dtype)

    return draw


def held(space: spaces.Space[Any], seed: int, steps: int) -> Policy:
    """Return a policy that draws another extreme action every so many steps."""
    draw = extremes(space, seed)
    action = draw()

    def policy(_: Any, step: int) -> Any:
        nonlocal action
        if step % steps == 0:
            action = draw()
        return action

    return policy


def feedback(space: spaces.Space[Any], seed: int, column: int) -> Policy:
    """Return a policy that acts by the sign of a column: it holds a robot up, or swings it up."""
    draw = extremes(space, seed)
    one = other = draw()
    for _ in range(10):  # of few actions two are soon the same
        if not np.array_equal(one, other):
            break
        other = draw()
    return lambda observation, _: one if flat(observation)[column] > 0 else other


def policies_for(
    space: spaces.Space[Any], columns: int, attempt: int = 0
) -> list[tuple[str, Policy]]:
    """Return policies by name, for observations with some columns; other ones each attempt."""
    policies: list[tuple[str, Policy]] = []
    for seed in range(4):
        sample = _sampler(space, 100 * attempt + seed)
        policies.append(("random actions", functools.partial(_call, sample)))
    for seed, steps in enumerate((LONGEST, LONGEST, LONGEST, LONGEST, 2, 5, 5, 20, 20)):
        words = "one action" if steps == LONGEST else f"another action every {steps} steps"
        policies.append((words, held(space, 100 * attempt + seed, steps)))
    for column in range(min(columns, 12)):
        words = f"an action for each sign of observation[{column}]"
        # Two seeds, so that most often each action has had each sign.
        for seed in (2 * column, 2 * column + 1):
            policies.append((words, feedback(space, 100 * attempt + seed, column)))
    return policies


def explore(env: gym.Env[Any, Any], episodes: Sequence[Episode], count: int) -> list[Episode]:
    """Play on from states that were reached, to reach others: a rapidly exploring random tree.

    A random point beside what has been observed, the state that looks most like it, and an action
    that is held for some steps from there.
    """
    task: Task = env.unwrapped.task  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    draw = extremes(env.action_space, 0)
    reached = [one for each in episodes for one in each.moments if not one.terminated]
    reached = [reached[i] for i in rng.permutation(len(reached))[:count].tolist()]
    seen = np.array([flat(one.observation) for one in reached])
    usable = np.isfinite(seen).all(axis=1)
    seen, reached = seen[usable], [reached[i] for i in np.flatnonzero(usable).tolist()]
    table = np.empty((len(seen) + count, seen.shape[1]))
    table[: len(seen)] = seen
    found = []
    for seed in range(count):
        known = table[: len(reached)]
        low, high = known.min(axis=0), known.max(axis=0)
        width = np.maximum(high - low, 1e-9)
        target = rng.uniform(low - 0.5 * width, high + 0.5 * width)
        nearest = reached[int(np.square((known - target) / width).sum(axis=1).argmin())]
        action, steps = draw(), int(rng.integers(1, 11))
        episode = play(
            *(env, lambda *_: action, seed, steps, f"action {action} from a state reached before"),  # noqa: B023
            options={"state": dict(zip(task.state_names, nearest.state, strict=True))},
        )
        if not episode.moments:
            continue  # a state that engine and solver reach, and reset() refuses
        episode.is_continued = True
        found.append(episode)
        last = episode.moments[-1]
        if not last.terminated and np.isfinite(columns := flat(last.observation)).all():
            table[len(reached)] = columns
            reached.append(last)
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the arrays of a nested value, and where they are."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    else:
        yield path, np.asarray(value)


def flat(value: Any) -> npt.NDArray[np.float64]:
    """Return all numbers of an observation."""
    numbers = [leaf.ravel() for _, leaf in leaves(value) if leaf.dtype.kind in "biuf"]
    return np.concatenate(numbers, dtype=np.float64) if numbers else np.zeros(0)


def count_columns(env: gym.Env[Any, Any]) -> int:
    """Return how many numbers an observation has, 0 where the environment raises an exception."""
    episode = play(env, lambda *_: None, 0, 0)
    return len(flat(episode.moments[0].observation)) if episode.moments else 0


def difference(mine: Any, other: Any) -> str | None:
    """Return where two values first differ, to the bit."""
    one, two = list(leaves(mine)), list(leaves(other))
    if [path for path, _ in one] != [path for path, _ in two]:
        return f" has other entries: {shorten(mine)} and {shorten(other)}"
    for (path, a), (_, b) in zip(one, two, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{path} is {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}"
        unequal = np.asarray((a != b) & ~((a != a) & (b != b)))  # NaN equals NaN here
        if unequal.any():
            index = tuple(int(one[0]) for one in np.nonzero(np.atleast_1d(unequal)))
            where = f"[{', '.join(map(str, index))}]" if a.ndim else ""
            a, b = np.atleast_1d(a)[index], np.atleast_1d(b)[index]
            return f"{path}{where} is {a} and {b}"
    return None


def episode_difference(mine: Episode, other: Episode) -> str | None:
    """Return where two episodes first differ."""
    for step, (one, two) in enumerate(zip(mine.moments, other.moments, strict=False)):
        for name, a, b in zip(Moment._fields, one, two, strict=True):
            if (found := difference(a, b)) is not None:
                return f"{mine.at(step)} {name}{found}"
    if len(mine.moments) != len(other.moments) or mine.error != other.error:
        counts = len(mine.moments) - 1, len(other.moments) - 1
        return f"one ends after {counts[0]} steps and the other after {counts[1]}"
    return None


def sentence(error: Exception) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def first_difference(mine: Sequence[Episode], other: Sequence[Episode]) -> str | None:
    """Return where the first of several episodes that do so differ."""
    found = (episode_difference(one, two) for one, two in zip(mine, other, strict=True))
    return next((text for text in found if text is not None), None)


def play_in_process(spec: Any, plays: Any, hash_seed: str) -> list[Episode]:
    """Return episodes as a new process plays them.

    Args:
        spec: of the environment.
        plays: a seed and actions for each episode.
        hash_seed: decides the order of sets.

    Raises:
        RuntimeError: it cannot.
    """
    code = f"from {__name__} import _answer; import sys; _answer(sys.argv[1])"
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plays"
        try:
            path.write_bytes(pickle.dumps((spec, plays)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RuntimeError(sentence(error)) from None
        child = subprocess.run(
            [sys.executable, "-c", code, os.fspath(path)],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if child.returncode:
            raise RuntimeError(child.stderr.strip().rpartition("\n")[2])
        episodes: list[Episode] = pickle.loads(path.read_bytes())
        return episodes


def _answer(path: str) -> None:
    """Play what another process asks for, and leave the episodes in the same file."""
    spec, plays = pickle.loads(Path(path).read_bytes())
    with closing(gym.make(spec, disable_env_checker=True)) as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        episodes = [play(env, again(actions), seed, len(actions)) for seed, actions in plays]
    Path(path).write_bytes(pickle.dumps(episodes))
