"""What can be said of an environment without an agent: checks, each of which names what it finds.

:func:`certify` plays an environment and runs every check of :data:`CHECKS`. Those that need a
:class:`~bullet_envs.task.Task` do not apply to other environments of Gymnasium's.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from .checks import shorten
from .engine import MAX_PHYSICS_HZ
from .engine.inverse_dynamics import InverseDynamics
from .engine.world import World
from .env import BulletEnv
from .equations_of_motion import in_play, rk4
from .played_episodes import (
    LONGEST,
    Episode,
    Moment,
    again,
    count_columns,
    difference,
    episode_difference,
    explore,
    first_difference,
    flat,
    held,
    leaves,
    play,
    play_in_process,
    policies_for,
    sample_actions,
    sentence,
)
from .simulation import Simulation
from .snapshots import restore, snapshot
from .task import Parameter, Task

Verdict = tuple[bool | None, str]

INITIAL_STATES = 500  # drawn from a task
MODEL_RUNS, MODEL_SECONDS = 20, 0.5
MODEL_FACTOR = 2.5  # of what an error in proportion to the step allows


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        name: of the check.
        passed: None where the check does not apply, or nothing can be said.
        summary: what was done and found; of a check that failed what is wrong, and where.
    """

    name: str
    passed: bool | None
    summary: str


class Subject:
    """An environment to certify.

    Args:
        env_id: of Gymnasium's.
        kwargs: of the environment.
        quick: play a fifth of the steps.

    Attributes:
        task: None where the environment is none of this package's.
        perturbed: whether a task's episodes differ by more than their initial states.
        action_space: of the environment.
        space: of its observations.
        limit: steps of an episode, at most ``LONGEST``.
    """

    def __init__(self, env_id: str, kwargs: Mapping[str, Any], quick: bool) -> None:
        self._env_id = env_id
        self._kwargs = dict(kwargs)
        with closing(self.make()) as env:
            bare = env.unwrapped
            spec: Any = env.spec
            self.space, self.action_space = env.observation_space, env.action_space
            self.task: Task | None = bare.task if isinstance(bare, BulletEnv) else None
            self.perturbed = spec.kwargs.get("perturbations") is not None
        self.is_image = self.space.dtype == np.uint8
        self.spec = spec
        limit = spec.max_episode_steps
        self.limit = min(limit if limit and limit > 0 else LONGEST, LONGEST)
        self._steps = (300 if self.is_image else 20_000) // (5 if quick else 1)
        self.few = min(self.limit, 20 if self.is_image else 200)

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Return a new environment, without Gymnasium's own checks in each step."""
        return gym.make(self._env_id, disable_env_checker=True, **{**self._kwargs, **kwargs})

    def make_vec(self, num_envs: int) -> Any:
        """Return a vector environment; one that promises to equal single ones if there is one."""
        mode = None if self.task is not None else "sync"
        return gym.make_vec(self._env_id, num_envs, mode, **self._kwargs)

    def make_from(self, task: Task, **kwargs: Any) -> BulletEnv:
        """Return an environment of a task like this one's, with the same other keywords."""
        fields = {one.name for one in dataclasses.fields(task)}
        given = {k: v for k, v in self.spec.kwargs.items() if k not in {"task", *fields}}
        return BulletEnv(task, **{**given, **kwargs})

    @cached_property
    def episodes(self) -> list[Episode]:
        """Episodes of many policies, to find what is rare: random, extreme and feedback ones."""
        with closing(self.make()) as env:
            columns = 0 if self.is_image else count_columns(env)
            episodes: list[Episode] = []
            steps = 0
            for attempt in range(5):  # where episodes are short there is time for more
                policies = policies_for(self.action_space, columns, attempt)
                most = max(10, min(self.limit, self._steps // len(policies)))
                for words, policy in policies:
                    episodes.append(play(env, policy, len(episodes), most, words))
                    steps += len(episodes[-1].actions)
                if steps > self._steps / 2:
                    break
            if self.task is not None and not self.perturbed and not self.is_image:
                episodes += explore(env, episodes, self._steps // 20)
            return episodes

    @cached_property
    def repeats(self) -> Repeats:
        """The same episodes, played again in several ways."""
        return _repeat(self)

    def moments(self) -> Iterator[tuple[Episode, int, Moment]]:
        """Yield every moment of :attr:`episodes`."""
        for episode in self.episodes:
            for step, moment in enumerate(episode.moments):
                yield episode, step, moment


def certify(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    quick: bool = False,
    names: Sequence[str] | None = None,
) -> list[Finding]:
    """Run checks on an environment.

    Args:
        env_id: of Gymnasium's, such as ``"my_package:MyTask-v0"``.
        env_kwargs: keywords of the environment.
        progress: called with the name of each check before it runs.
        quick: play a fifth of the steps.
        names: of the checks; None for all of :data:`CHECKS`.

    Returns:
        A finding for each check, in the order of their names.

    Raises:
        gymnasium.error.Error: there is no such id.
        ModuleNotFoundError: there is no such module.
        TypeError: a keyword is unknown, or has the wrong type.
        ValueError: a keyword is out of its range.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            subject = Subject(env_id, env_kwargs or {}, quick)
        except (gym.error.Error, ModuleNotFoundError):
            raise
        except Exception as error:  # of the environment
            if env_kwargs and _can_be_made(env_id):
                raise
            return _cannot_be_made(error, names or tuple(CHECKS))
        findings = []
        for name in names or CHECKS:
            if progress is not None:
                progress(name)
            findings.append(Finding(name, *_examine(CHECKS[name], subject)))
    return findings


def _can_be_made(env_id: str) -> bool:
    """Return whether an environment can be made without keywords."""
    try:
        gym.make(env_id).close()
    except Exception:  # of the environment
        return False
    return True


def _cannot_be_made(error: Exception, names: Sequence[str]) -> list[Finding]:
    """Return the findings for an environment that refuses itself, such as a task its contract."""
    text = sentence(error)
    is_number = isinstance(error, ArithmeticError) or re.search(r"\b(nan|inf|finite)\b", text)
    failed = "finite" if is_number else "checker"
    return [
        Finding(name, False, f"the environment cannot be made: {text}")
        if name == failed
        else Finding(
            name, None, f"not examined, since the environment cannot be made: see {failed}"
        )
        for name in names
    ]


def _examine(check: Callable[[Subject], Verdict], subject: Subject) -> Verdict:
    try:
        return check(subject)
    except Exception as error:  # of the environment, which may be broken in any way
        if _raises(subject):
            return None, "not examined, since the environment raises an exception: see finite"
        return False, f"the environment raised {sentence(error)}"


def _raises(subject: Subject) -> bool:
    try:
        return any(episode.error for episode in subject.episodes)
    except Exception:  # of the environment
        return False


def format_findings(findings: Sequence[Finding]) -> str:
    """Return a line for each finding: ok, FAILED or -, the check's name and the summary."""
    width = max(len(one.name) for one in findings)
    words = {True: "ok", False: "FAILED", None: "-"}
    return "\n".join(
        f"{words[one.passed]:<6}  {one.name:<{width}}  {one.summary}" for one in findings
    )


def _column(subject: Subject, path: str, index: tuple[int, ...]) -> str:
    """Return the name of a number of an observation."""
    place = f"observation{path}" + "".join(f"[{one}]" for one in index)
    if subject.task is None or subject.is_image or len(index) != 1:
        return place
    names = subject.task.observed_names
    if isinstance(names, Mapping):
        names = names[path[2:-2]]
    return f"{place} ({names[index[0]]})"


def _worst(values: Mapping[str, str], most: int = 3) -> str:
    return ", ".join(f"{name} {value}" for name, value in list(values.items())[:most])


def check_checker(subject: Subject) -> Verdict:
    """Run Gymnasium's ``check_env``, without its rendering."""
    with closing(subject.make()) as env, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True)
        except Exception as error:  # an assertion, or what the environment raised
            return False, f"Gymnasium's check_env says: {sentence(error)}"
    texts = [re.sub(r"\x1b\[\d+m|WARN: ", "", str(one.message)) for one in caught]
    found = f", with {len(texts)} warnings: {texts[0]}" if texts else " without a warning"
    return True, f"Gymnasium's check_env passes{found}"


def check_types(subject: Subject) -> Verdict:
    """Compare types, dtypes and shapes of all that is returned with the spaces and protocol."""
    for episode, step, moment in subject.moments():
        wrong = _wrong_type(moment.observation, subject.space, "observation")
        if step:
            for name in ("terminated", "truncated"):
                if type(value := getattr(moment, name)) is not bool:
                    wrong = wrong or f"{name} is a {_kind(value)} and must be a bool"
            if isinstance(moment.reward, bool) or not isinstance(moment.reward, float | int):
                wrong = wrong or (f"the reward is a {_kind(moment.reward)} and must be a float")
        if not isinstance(moment.info, dict):
            wrong = wrong or f"info is a {_kind(moment.info)} and must be a dict"
        if wrong:
            return False, f"{wrong}, {episode.at(step)}"
    return True, (
        f"observations fit {shorten(subject.space)}, rewards are floats, flags are bools and infos"
        " are dicts"
    )


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _wrong_type(value: Any, space: spaces.Space[Any], name: str) -> str:
    if isinstance(space, spaces.Box):
        if not isinstance(value, np.ndarray):
            return f"{name} is a {_kind(value)} and must be an array"
        if (value.dtype, value.shape) != (space.dtype, space.shape):
            return (
                f"{name} is {value.dtype} of shape {value.shape}, and its space has {space.dtype}"
                f" of shape {space.shape}"
            )
        return ""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            return f"{name} must be a dict with {', '.join(space.spaces)}"
        parts = [(value[key], of, f"{name}[{key!r}]") for key, of in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            return f"{name} must be a tuple of {len(space.spaces)}"
        parts = [(value[i], of, f"{name}[{i}]") for i, of in enumerate(space.spaces)]
    else:
        return "" if space.contains(value) else f"{name} is {shorten(value)} and not in {space}"
    return next((wrong for part in parts if (wrong := _wrong_type(*part))), "")


def check_finite(subject: Subject) -> Verdict:
    """Look for NaN, infinity and exceptions: random, extreme and feedback policies, many states.

    A task is also played from rest, and from those of many initial states that have the least and
    the greatest value of a column.
    """
    episodes = list(subject.episodes)
    task = subject.task
    if task is not None:
        drawn = []
        for seed in range(INITIAL_STATES):
            state = task.sample_initial_state(np.random.default_rng(seed))
            for name, value in zip(task.state_names, state, strict=True):
                if not np.isfinite(value):
                    return False, f"sample_initial_state() returns {name}={value} with seed {seed}"
            drawn.append(state)
        episodes += _from_corners(subject, np.array(drawn, np.float64))
    for episode in episodes:
        for step, moment in enumerate(episode.moments):
            for name, value in zip(Moment._fields, moment, strict=True):
                for path, leaf in leaves(value):
                    if leaf.dtype.kind in "fc" and not np.isfinite(leaf).all():
                        return False, f"{name}{path} is {shorten(leaf.tolist())} {episode.at(step)}"
        if episode.error:
            return False, f"the environment raised {episode.error}"
    steps = sum(len(episode.actions) for episode in episodes)
    return True, f"no exception and no number that is not finite in {steps:,} steps"


def _from_corners(subject: Subject, drawn: npt.NDArray[np.float64]) -> list[Episode]:
    """Play from rest, and from the least and greatest of each column of some states."""
    task: Task = subject.task  # type: ignore[assignment]
    corners = {*drawn.argmin(axis=0).tolist(), *drawn.argmax(axis=0).tolist()}
    initial = [dict(zip(task.state_names, drawn[i].tolist(), strict=True)) for i in sorted(corners)]
    if not task.terminated(task.rest()):
        initial.insert(0, {})
    with closing(subject.make()) as env:
        played = [
            play(
                *(env, held(subject.action_space, seed, 5), seed, subject.few // 4),
                words=f"from the state {shorten(state)}",
                options={"state": state},
            )
            for seed, state in enumerate(initial[:: 4 if subject.is_image else 1])
        ]
    # The others are states that reset() refuses.
    return [episode for episode in played if episode.moments]


def check_bounds(subject: Subject) -> Verdict:
    """Compare the least and greatest observed values with the space."""
    boxes = {path: box for path, box in _boxes(subject.space) if box.dtype != np.uint8}
    if not boxes:
        return None, f"{shorten(subject.space)} has no bounds that an observation could pass"
    low = {path: np.full(box.shape, np.inf) for path, box in boxes.items()}
    high = {path: -low[path] for path in boxes}
    count = 0
    for episode, step, moment in subject.moments():
        count += 1
        for path, leaf in leaves(moment.observation):
            if path not in boxes or leaf.shape != boxes[path].shape:
                continue
            box = boxes[path]
            beyond = np.isfinite(leaf) & ((leaf < box.low) | (leaf > box.high))
            if beyond.any():
                index = tuple(int(one) for one in np.argwhere(beyond)[0])
                return False, (
                    f"{_column(subject, path, index)} is {leaf[index]:g} and its bounds are"
                    f" {box.low[index]:g} and {box.high[index]:g}, {episode.at(step)}"
                )
            low[path], high[path] = np.fmin(low[path], leaf), np.fmax(high[path], leaf)
    narrow = {}
    for path, box in boxes.items():
        width = box.high.astype(np.float64) - box.low
        share = (high[path] - low[path]) / width
        for place in map(tuple, np.argwhere((share < 0.01) & np.isfinite(width)).tolist()):
            narrow[_column(subject, path, place)] = f"{100 * share[place]:.2g} %"
    more = f"; of the range that its bounds allow, {_worst(narrow)} was seen" if narrow else ""
    return True, f"none of {count:,} observations is beyond its bounds{more}"


def _boxes(space: spaces.Space[Any], path: str = "") -> Iterator[tuple[str, spaces.Box]]:
    if isinstance(space, spaces.Box):
        yield path, space
    elif isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _boxes(part, f"{path}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _boxes(part, f"{path}[{index}]")


@dataclass
class Repeats:
    """The same seeds and actions, played in several ways; where these first differ, or None.

    Args:
        processes: in two new processes, with other hash seeds.
        fresh: in a new environment of this process, and in a new process.
        later: in an environment in which others have been played, and in a new process.
        generators: global ones that the environment draws from.
        remark: why there were no other processes.
    """

    processes: str | None
    fresh: str | None
    later: str | None
    generators: list[str]
    remark: str


def _repeat(subject: Subject) -> Repeats:
    plays: list[tuple[int, list[Any]]] = []
    for seed in range(4):
        policy = held(subject.action_space, seed, (1, 10)[seed % 2])
        actions = [policy(None, step) for step in range(subject.few)]
        if seed == 0:
            actions = sample_actions(subject.action_space, seed, subject.few)
        plays.append((seed, actions))
    saved = np.random.get_state(), random.getstate()
    try:
        with closing(subject.make()) as env:
            _seed_global_generators()
            before = repr(np.random.get_state()), random.getstate()
            fresh = [play(env, again(actions), seed, len(actions)) for seed, actions in plays]
            after = repr(np.random.get_state()), random.getstate()
            _play_others(env, subject)
            _seed_global_generators()
            later = [play(env, again(actions), seed, len(actions)) for seed, actions in plays]
    finally:
        np.random.set_state(saved[0])
        random.setstate(saved[1])
    names = ("np.random", "random")
    generators = [one for one, a, b in zip(names, before, after, strict=True) if a != b]
    remark = ""
    try:
        first = play_in_process(subject.spec, plays, "1")
        # The order of a set is the same with many a hash seed, so that it takes several.
        seeds = "46" if first_difference(first, later) is None else "4623"
        others = (
            first_difference(first, play_in_process(subject.spec, plays, seed)) for seed in seeds
        )
        processes = next(filter(None, others), None)
    except RuntimeError as error:
        first = fresh
        with closing(subject.make()) as env:
            other = [play(env, again(actions), seed, len(actions)) for seed, actions in plays]
        processes = first_difference(fresh, other)
        remark = f"; another process cannot make the environment ({error})"
    return Repeats(
        processes,
        first_difference(first, fresh),
        first_difference(first, later),
        generators,
        remark,
    )


def _seed_global_generators() -> None:
    np.random.seed(12345)
    random.seed(12345)


def _play_others(env: gym.Env[Any, Any], subject: Subject) -> None:
    """Leave traces in an environment: long and short episodes, some of them not ended."""
    for seed in range(15):
        most = subject.few if seed < 3 else 1 + seed
        policy = held(subject.action_space, seed, 1 + seed)
        play(env, policy, 100 + seed, most, "held actions")


def check_seeds(subject: Subject) -> Verdict:
    """Play the same seeds and actions in new environments, here and in two other processes.

    What decides an episode beside the seed, such as ``np.random``, the clock or the order of a set,
    makes them differ.
    """
    repeats = subject.repeats
    if repeats.processes is not None:
        drawn = f" (it draws from {' and '.join(repeats.generators)})" if repeats.generators else ""
        return False, (
            f"the same seed gives other episodes elsewhere{drawn}: {repeats.processes};"
            " draw from self.np_random, or the generator that is passed, only"
        )
    if repeats.fresh is not None:
        drawn = "others have played"
        if repeats.generators:
            drawn = f"{' and '.join(repeats.generators)}, which it draws from, is seeded otherwise"
        return False, (
            f"the same seed gives other episodes in a new environment where {drawn}:"
            f" {repeats.fresh}"
        )
    with closing(subject.make()) as env:
        seeded = [env.reset(seed=seed)[0] for seed in range(10)]
        others = [env.reset()[0] for _ in range(10)]
    where = "in a new environment and in other processes" if not repeats.remark else "here"
    same = f"the same seed gives the same episode {where}, to the bit{repeats.remark}"
    if any(difference(seeded[0], one) for one in seeded):
        return True, f"{same}; others give others"
    if any(difference(seeded[0], one) for one in others):
        return False, (
            "episodes begin differently, but with ten seeds all alike: reset(seed) does not seed"
            " what they are drawn from"
        )
    return True, f"{same}; all seeds begin with the same observation"


def check_leak(subject: Subject) -> Verdict:
    """Play the same seeds and actions again in an environment in which other episodes were played.

    What reset() forgets to reset makes them differ.
    """
    repeats = subject.repeats
    if repeats.processes is not None or (repeats.fresh is not None and repeats.generators):
        return None, "cannot be told where the same seed gives other episodes anyway: see seeds"
    if repeats.later is not None:
        return False, (
            "an episode is another one after other episodes, so something of these is left:"
            f" {repeats.later}"
        )
    return True, "an episode after 15 others, some of them not ended, is the same, to the bit"


def check_observation(subject: Subject) -> Verdict:
    """Observe the states of all episodes again, in the reverse order and with another task.

    A task's observation is a function of the state alone, so it has to be the same.
    """
    if subject.task is None:
        return None, "needs a task of this package, whose states can be observed again"
    if subject.perturbed:
        return None, "perturbed sensors may read the same state differently"
    visited = [entry for entry in subject.moments() if entry[2].state]
    with closing(subject.make()) as env:
        observe = env.unwrapped.observer.observe  # type: ignore[attr-defined]
        for episode, step, moment in reversed(visited):
            found = difference(moment.observation, observe(list(moment.state)))
            if found is not None:
                return False, (
                    "the observation is not a function of the state: what observe() returned and"
                    f" what it returns for the same state {episode.at(step)}: observation{found}"
                )
    return True, f"{len(visited):,} states give the same observation again, to the bit"


def check_reward(subject: Subject) -> Verdict:
    """Look whether an observation has the reward in it.

    A task is played with another reward() in its place, which must not change an observation. In
    other environments a column must not be a linear function of the reward, or of the return so
    far, while it is always the same after a reset, where there is no reward.
    """
    if subject.task is None:
        return _reward_in_columns(subject)
    actions = sample_actions(subject.action_space, 0, subject.few)
    episodes = []
    for task in (subject.task, subject.task, _with_another_reward(subject.task)):
        with closing(subject.make_from(task)) as env:
            episodes.append([play(env, again(actions), seed, len(actions)) for seed in range(5)])
    usual, repeated, other = episodes
    if first_difference(usual, repeated) is not None:
        return None, "cannot be told where the same seed gives other episodes: see seeds"
    for mine, its in zip(usual, other, strict=True):
        if its.error and not mine.error:
            return None, f"reward() cannot be tried with other transitions: {its.error}"
        for step, (one, two) in enumerate(zip(mine.moments, its.moments, strict=False)):
            if (found := difference(one.observation, two.observation)) is not None:
                return False, (
                    "the observation changes with the reward: with reward() and with another in"
                    f" its place observation{found} after {step} steps"
                )
    return True, "with another reward() in its place the observations are the same, to the bit"


def _with_methods(task: Task, **methods: Any) -> Task:
    """Return a task of a class with some methods replaced."""
    changed = copy.copy(task)
    kind = type(task)
    object.__setattr__(changed, "__class__", type(kind.__name__, (kind,), methods))
    return changed


def _with_another_reward(task: Task) -> Task:
    kind = type(task)

    def reward(self: Any, state: Any, action: Any, next_state: Any) -> Any:
        result = kind.reward(self, state, action, next_state)
        # So that what reward() keeps for the observation is another number.
        kind.reward(self, next_state, tuple(one / 2 for one in action), state)
        if isinstance(result, Mapping):
            return {name: 2 * term + 1 for name, term in result.items()}
        return 2 * result + 1

    return _with_methods(task, reward=reward)


def _reward_in_columns(subject: Subject) -> Verdict:
    episodes = [one for one in subject.episodes if len(one.actions) >= 3]
    if subject.is_image or not episodes:
        return None, "is looked for in columns of numbers, in episodes of three steps or more"
    after_reset = np.array([flat(one.moments[0].observation) for one in episodes])
    columns, rewards, returns, earlier = [], [], [], []
    for episode in episodes:
        of_episode = [float(moment.reward) for moment in episode.moments[1:]]
        columns += [flat(moment.observation) for moment in episode.moments[1:]]
        rewards += of_episode
        returns += np.cumsum(of_episode).tolist()
        earlier += [0.0, *of_episode[:-1]]
    # Of a reward that has few values a flag of the state may well be a function.
    if len(set(rewards)) < 5:
        return None, "the reward has too few values to be told from the state"
    table = np.array(columns)
    for name, numbers in (
        ("the reward of the step", rewards),
        ("the return so far", returns),
        ("the reward of the step before", earlier),
    ):
        for column in range(table.shape[1]):
            if not _is_linear(np.array(numbers), table[:, column]):
                continue
            found = (
                f"observation[{column}] is {name}, or a linear function of it, in all"
                f" {len(rewards):,} steps, and {after_reset[0, column]:g} after "
            )
            if np.ptp(after_reset[:, column]):
                return None, f"{found}one reset and others after others: maybe a part of the state"
            return False, f"{found}every reset"
    return True, f"no column is a linear function of reward or return in {len(rewards):,} steps"


def _is_linear(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> bool:
    least, greatest = int(x.argmin()), int(x.argmax())
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or y[least] == y[greatest]:
        return False
    slope = (y[greatest] - y[least]) / (x[greatest] - x[least])
    away = y - (y[least] + slope * (x - x[least]))
    # Observations are float32 most often.
    return bool(np.abs(away).max() <= 1e-5 * np.abs(y).max())


def check_memory(subject: Subject) -> Verdict:
    """Keep what is returned, write to it, and play another environment beside.

    Arrays that were returned must not change later; what users write to them must not change what
    comes next, nor may another environment; and an action must be left as it was.
    """
    actions = sample_actions(subject.action_space, 0, subject.few)
    with closing(subject.make()) as env, closing(subject.make()) as other:
        usual = play(env, again(actions), 0, len(actions))
        if episode_difference(usual, play(env, again(actions), 0, len(actions))) is not None:
            return None, "cannot be told where an episode differs when it is played again: see leak"
        kept: list[Any] = []
        wrong = _keep(env, actions, kept, other)
        if wrong is None:
            wrong = _changed(usual, kept)
        if wrong is not None:
            return False, wrong
        written = play(_Writing(env), again(actions), 0, len(actions))
        if (found := episode_difference(usual, written)) is not None:
            return False, f"writing to a returned observation changes what comes next: {found}"
    if (wrong := _vector_memory(subject)) is not None:
        return False, wrong
    return True, (
        "arrays that were returned stay as they are, and neither writing to them nor another"
        " environment changes what comes next, single and vector"
    )


def _keep(
    env: gym.Env[Any, Any], actions: Sequence[Any], kept: list[Any], other: gym.Env[Any, Any]
) -> str | None:
    """Play two environments by turns, keep what the first returns, and say what is wrong."""
    other.reset(seed=1)
    kept.append(env.reset(seed=0))
    other_ended = False
    for step, action in enumerate(actions):
        given = copy.deepcopy(action)
        observation, _, terminated, truncated, info = env.step(given)
        if (found := difference(action, given)) is not None:
            return f"step() changes the action that it is given: action{found}"
        if _share_memory(kept[-1], (observation, info)):
            return f"steps {step} and {step + 1} return the same memory for an observation or info"
        kept.append((observation, info))
        if other_ended:
            other.reset()
        other_ended = bool(np.any(other.step(copy.deepcopy(actions[-1 - step]))[2:4]))
        if terminated or truncated:
            break
    other.reset()
    return None


def _share_memory(one: Any, other: Any) -> bool:
    mine, its = ([leaf for _, leaf in leaves(value) if leaf.size] for value in (one, other))
    return any(np.shares_memory(a, b) for a in mine for b in its)


def _changed(usual: Episode, kept: Sequence[Any]) -> str | None:
    for step, (moment, (observation, info)) in enumerate(zip(usual.moments, kept, strict=True)):
        for name, copied, one in (
            ("observation", moment.observation, observation),
            ("info", moment.info, info),
        ):
            if (found := difference(copied, one)) is not None:
                return (
                    f"what was returned after {step} steps is another one once more steps have been"
                    f" taken, or another environment has been stepped: {name}{found}"
                )
    return None


class _Writing(gym.Wrapper[Any, Any, Any, Any]):
    """Writes to the observations of before ahead of each step, as a user may."""

    _observation: Any = None

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self._observation = observation
        return observation, info

    def step(self, action: Any) -> Any:
        _overwrite(self._observation)
        result = self.env.step(action)
        self._observation = result[0]
        return result


def _overwrite(observation: Any) -> None:
    for _, leaf in leaves(observation):
        if leaf.flags.writeable:
            leaf.fill(7)


def _vector_memory(subject: Subject) -> str | None:
    with closing(subject.make_vec(2)) as envs:
        envs.action_space.seed(0)
        kept = [envs.reset(seed=0)[0]]
        copies = [copy.deepcopy(kept[0])]
        for _ in range(min(5, subject.few)):
            kept.append(envs.step(envs.action_space.sample())[:4])
            copies.append(copy.deepcopy(kept[-1]))
    if (found := difference(copies, kept)) is not None:
        return f"what a vector environment returned changes with later steps: {found}"
    return None


def check_time_limit(subject: Subject) -> Verdict:
    """Look whether ``terminated`` depends on the number of steps.

    A task is asked again about the states of all episodes, in the reverse order, and about one
    state many times. In any environment the longest episodes of several policies must not all
    terminate with the same number of steps, unless an observation tells the time.
    """
    if subject.task is None:
        return _ends_at_one_step([*_lasting_episodes(subject), *subject.episodes])
    if subject.perturbed:
        return None, "perturbed parameters may decide where an episode terminates"
    visited = [entry for entry in subject.moments() if entry[2].state]
    with closing(subject.make()) as env:
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        for episode, step, moment in reversed(visited):
            asked = bool(task.terminated(list(moment.state)))
            if asked != bool(moment.terminated):
                return False, (
                    f"terminated is not a function of the state: {bool(moment.terminated)}"
                    f" {episode.at(step)}, and {asked} for the same state asked again;"
                    " time limits are max_episode_steps, which truncates"
                )
        state = list(visited[0][2].state)
        command = tuple(actuator.centre for actuator in task.actuators)
        task.sample_initial_state(np.random.default_rng(0))
        for step in range(2 * LONGEST):
            task.observe(state)
            task.reward(state, command, state)
            task.info(state)
            if task.terminated(state):
                return False, (
                    f"terminated becomes True after {step + 1} steps in one and the same state:"
                    " time limits are max_episode_steps, which truncates"
                )
    # A state may count steps too.
    passed, text = _ends_at_one_step([one for one in subject.episodes if not one.is_continued])
    if not passed:
        return False, text
    return True, f"{len(visited):,} states give the same terminated again, however many steps"


def _lasting_episodes(subject: Subject) -> list[Episode]:
    """Play on without a time limit, most with the policy that lasted longest.

    Others may fall before they reach a limit.
    """
    with closing(subject.make(max_episode_steps=-1)) as env:
        best = max(range(len(subject.episodes)), key=lambda i: len(subject.episodes[i].actions))
        columns = 0 if subject.is_image else count_columns(env)
        count = len(policies_for(subject.action_space, columns))
        policies = policies_for(subject.action_space, columns, best // count)
        words, policy = policies[best % count]
        most = subject.few if subject.is_image else LONGEST + 50
        episodes = [play(env, policy, 1000 + seed, most, words) for seed in range(4)]
        return episodes + [play(env, policy, 1000, most, words) for words, policy in policies[:6]]


def _ends_at_one_step(episodes: Sequence[Episode]) -> Verdict:
    longest = max(len(episode.actions) for episode in episodes)
    ended = [one for one in episodes if one.terminates and len(one.actions) == longest]
    lengths = Counter(len(one.actions) for one in episodes if one.terminates)
    # Where episodes end by themselves, about as many are shorter by a step.
    piles_up = len(ended) >= max(3, 3 * lengths[longest - 1])
    if longest > 2 and piles_up and not _tells_time(episodes):
        return False, (
            f"{len(ended)} episodes terminate after {longest} steps, whatever their seeds and"
            f" actions ({ended[0].policy}; {ended[-1].policy}), and none goes on: a time limit is"
            " max_episode_steps, which truncates"
        )
    if not lengths:
        return True, f"none of {len(episodes)} episodes terminates, the longest of {longest} steps"
    return True, (
        f"{lengths.total()} of {len(episodes)} episodes terminate, after {min(lengths)} to"
        f" {max(lengths)} steps, not all at one"
    )


def _tells_time(episodes: Sequence[Episode]) -> bool:
    """Return whether a column of the observation only counts, the same in each episode."""
    tables = [np.array([flat(one.observation) for one in each.moments]) for each in episodes]
    longest = max(tables, key=len)
    counts = (np.diff(longest, axis=0) > 0).all(axis=0) | (np.diff(longest, axis=0) < 0).all(axis=0)
    for table in tables:
        counts &= (table == longest[: len(table)]).all(axis=0)
    return bool(counts.any())


def check_motors(subject: Subject) -> Verdict:
    """Compare what acts on each joint, by inverse dynamics, with what the actuators command.

    In random states, with no command and with random ones. What is left is a motor, such as the one
    that PyBullet gives to every joint, or drag. Joints that a velocity or position motor drives are
    left out, Coulomb friction of the URDF is allowed for.
    """
    task = subject.task
    if task is None:
        return None, "needs a task of this package, whose actuators are declared"
    task = task.with_parameters(_defaults(task))
    actuators = {actuator.joint: actuator for actuator in task.actuators}
    motors = {joint for joint, one in actuators.items() if one.kind != "torque"}
    rng = np.random.default_rng(0)
    worst: dict[str, tuple[float, str]] = {}
    measured: set[str] = set()
    hz = task.physics_hz, task.control_hz, task.gravity, task.bullet_substeps
    world = World(*hz)
    try:
        scene = task.build(world, 1)
        scene.set_state({0: task.rest()})
        dynamics = InverseDynamics(world)
        for sample in range(40):
            commands = {
                joint: one.centre + one.scale * float(sample % 2 * rng.uniform(-1, 1))
                for joint, one in actuators.items()
            }
            for found in dynamics.measure(lambda: scene.act(list(commands.values())), rng):  # noqa: B023
                if found.joint in motors:
                    continue
                measured.add(found.joint)
                left = found.effort - commands.get(found.joint, 0.0)
                if abs(left) > found.friction + found.rounding:
                    seen = abs(left), found.unit
                    worst[found.joint] = max(worst.get(found.joint, seen), seen)
    finally:
        world.close()
    if worst:
        largest = sorted(worst.items(), key=operator.itemgetter(1), reverse=True)
        each = [f"{joint} {size:.3g} {unit}" for joint, (size, unit) in largest]
        return False, (
            f"more acts on joints than actuators and the URDF's friction: up to {', '.join(each)};"
            " a motor, such as the one that PyBullet gives to every joint, or damping is left on"
        )
    left_out = sorted(motors | set(dynamics.left_out))
    if not measured:
        return None, (
            "no joint can be measured, which needs a fixed base, joints about or along an axis, no"
            f" contact and no declared motor: {', '.join(left_out) or 'there is none'}"
        )
    more = f"; not measured: {', '.join(left_out)}" if left_out else ""
    return True, (
        f"inverse dynamics finds the commands of the actuators on {', '.join(sorted(measured))} and"
        f" nothing else{more}"
    )


def _defaults(task: Task) -> dict[str, Any]:
    """Return the parameters that the files have."""
    names = {parameter.name for parameter in task.parameters}
    return {one.name: one.default for one in dataclasses.fields(task) if one.name in names}


def check_randomisation(subject: Subject) -> Verdict:
    """Change each parameter, and switch on each preset: something must become different.

    The same state and actions are played with a parameter's nominal value and with its ends, in
    episodes that do not terminate. In any environment that observes numbers, a generator that
    ``reset`` draws from must make a difference to an episode.
    """
    if (wrong := _draws_without_effect(subject)) is not None:
        return False, wrong
    task = subject.task
    if task is None:
        return None, "needs a task of this package, whose parameters are declared"
    idle = [
        f"{one.name}={end:g} {one.unit}".rstrip()
        for one in task.parameters
        for end in _ends_without_effect(subject, one)
    ]
    idle += [
        f"the preset {name!r}"
        for name, preset in task.perturbation_presets.items()
        if preset and not _preset_has_effect(subject, name)
    ]
    if idle:
        return False, f"episodes are the same, to the bit, with {', '.join(idle)}"
    if not task.parameters and not task.perturbation_presets:
        return None, "the task declares no parameters and no presets"
    return True, (
        f"each of {len(task.parameters)} parameters and {len(task.perturbation_presets)} presets"
        " changes the episodes"
    )


def _draws_without_effect(subject: Subject) -> str | None:
    if not any(True for _ in _boxes(subject.space)):
        return None  # of a few discrete states a draw may well have one outcome
    actions = sample_actions(subject.action_space, 0, subject.few)
    with closing(subject.make()) as env:
        env.reset(seed=0)
        bare: Any = env.unwrapped
        draws = bare.np_random.bit_generator.state != seeding.np_random(0)[0].bit_generator.state
        episodes = [play(env, again(actions), seed, len(actions)) for seed in range(5)]
        unseeded = [env.reset()[0] for _ in range(5)]
    if any(difference(unseeded[0], one) for one in unseeded):
        return None  # the seed is without effect: see seeds
    if draws and not any(episode_difference(episodes[0], one) for one in episodes):
        return "reset() draws random numbers, and five seeds give the same episode"
    return None


def _endless(subject: Subject) -> Task:
    """Return the task with episodes that do not terminate, so that all of them have their time."""
    task: Task = subject.task  # type: ignore[assignment]
    return _with_methods(task, terminated=lambda self, state: False)


def _ends_without_effect(subject: Subject, parameter: Parameter) -> list[float]:
    """Return the ends of a parameter's range at which episodes are the nominal ones."""
    task = _endless(subject)
    nominal = float(getattr(task, parameter.name))
    ends = [end for end in (parameter.low, parameter.high) if end != nominal]
    low, high = min([nominal, *ends]), max([nominal, *ends])
    drawn = {"parameters": {parameter.name: {"uniform": [low, high]}}}
    with closing(subject.make_from(task, observer="state", perturbations=drawn)) as env:
        return [
            end
            for end in ends
            if not _any_differs(
                subject,
                env,
                env,
                *({"parameters": {parameter.name: one}} for one in (nominal, end)),
            )
        ]


def _preset_has_effect(subject: Subject, name: str) -> bool:
    task = _endless(subject)
    observer = "pixels" if "images" in task.perturbation_presets[name] else "state"
    with (
        closing(subject.make_from(task, observer=observer, perturbations=None)) as env,
        closing(subject.make_from(task, observer=observer, perturbations=name)) as perturbed,
    ):
        return _any_differs(subject, env, perturbed, {}, {})


def _any_differs(
    subject: Subject,
    env: BulletEnv,
    other: BulletEnv,
    options: dict[str, Any],
    its_options: dict[str, Any],
) -> bool:
    """Return whether episodes from the same states with the same actions differ."""
    task: Task = subject.task  # type: ignore[assignment]
    most = 60 if env.observer.space.dtype == np.uint8 else subject.limit
    for seed, (named, steps) in enumerate(_initial_states(task, most)):
        state = {"state": named}
        policy = held(task.action_space, seed, (1, 5, 20, 50)[seed % 4])
        mine = play(env, policy, seed, steps, options=options | state)
        its = play(other, again(mine.actions), seed, len(mine.actions), options=its_options | state)
        for one, two in zip(mine.moments, its.moments, strict=False):
            if difference(one[:3], two[:3]) or one.state != two.state:
                return True
        if mine.error != its.error:
            return True
    return False


def _initial_states(task: Task, most: int) -> Iterator[tuple[dict[str, float], int]]:
    """Yield states to begin from, and steps: usual ones, then unusual ones for shorter."""
    for seed in range(4):
        drawn = list(map(float, task.sample_initial_state(np.random.default_rng(seed))))
        usual = dict(zip(task.state_names, drawn, strict=True))
        yield usual, most
    # What acts in an impact only, say, needs a body in the air, or one that moves.
    for name in task.state_names:
        for offset in (0.3, -0.3):
            yield usual | {name: usual[name] + offset}, min(most, 50)


def check_vector(subject: Subject) -> Verdict:
    """Play a vector environment, and its sub-environments one after the other as single ones."""
    most = min(2 * subject.few, 400)
    actions = [sample_actions(subject.action_space, seed, most) for seed in range(3)]
    singles, repeated = (
        [_play_on(subject, seed, mine) for seed, mine in enumerate(actions)] for _ in range(2)
    )
    if first_difference(singles, repeated) is not None:
        return None, "cannot be told where the same seed gives other episodes: see seeds"
    if (found := first_difference(singles, _play_vector(subject, actions))) is not None:
        return (
            False,
            f"an environment and a sub-environment of a vector environment differ: {found}",
        )
    ends = sum(one.terminated or one.truncated for each in singles for one in each.moments)
    return True, (
        f"{len(actions)} sub-environments equal single ones, to the bit, in {most} steps with"
        f" {ends} ends of episodes"
    )


def _play_on(subject: Subject, seed: int, actions: Sequence[Any]) -> Episode:
    """Play episode after episode, as a vector environment does that resets with the next step."""
    episode = Episode("random actions", seed)
    with closing(subject.make()) as env:
        observation, _ = env.reset(seed=seed)
        answer: Any = (observation, 0.0, False, False)
        episode.moments.append(_moment(subject, *answer))
        for action in actions:
            if answer[2] or answer[3]:
                answer = (env.reset()[0], 0.0, False, False)
            else:
                answer = env.step(copy.deepcopy(action))[:4]
            episode.moments.append(_moment(subject, *answer))
    return episode


def _play_vector(subject: Subject, actions: Sequence[Sequence[Any]]) -> list[Episode]:
    """Return an episode for each sub-environment, in which all of its episodes follow."""
    count = len(actions)
    episodes = [Episode("random actions", seed) for seed in range(count)]
    with closing(subject.make_vec(count)) as envs:
        answers: Any = (envs.reset(seed=0)[0], *np.zeros((3, count)))
        for step in range(len(actions[0]) + 1):
            if step:
                empty: Any = create_empty_array(subject.action_space, count)
                of_step = [mine[step - 1] for mine in actions]
                answers = envs.step(concatenate(subject.action_space, of_step, empty))[:4]
            observations = iterate(envs.observation_space, answers[0])
            for episode, *answer in zip(episodes, observations, *answers[1:], strict=True):
                episode.moments.append(_moment(subject, *answer))
    return episodes


def _moment(
    subject: Subject, observation: Any, reward: Any, terminated: Any, truncated: Any
) -> Moment:
    """Return what single and vector environments return alike."""
    seen = _cast(copy.deepcopy(observation), subject.space)
    return Moment(seen, float(reward), bool(terminated), bool(truncated), {}, ())


def _cast(observation: Any, space: spaces.Space[Any]) -> Any:
    """Return an observation in the dtype of its space, which vector environments give it."""
    if isinstance(space, spaces.Dict):
        return {key: _cast(observation[key], part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_cast(one, part) for one, part in zip(observation, space.spaces, strict=True))
    return np.asarray(observation).astype(space.dtype)


def check_snapshot(subject: Subject) -> Verdict:
    """Restore a snapshot in another environment, and play both on."""
    if subject.task is None:
        return None, "needs a task of this package"
    actions = sample_actions(subject.action_space, 0, subject.few)
    with closing(subject.make()) as env, closing(subject.make()) as other:
        for seed in range(3):
            env.reset(seed=seed)
            for action in actions[: 5 + seed]:
                env.step(action)
            restore(other, snapshot(env))
            for step, action in enumerate(actions[10:]):
                mine, its = Moment(*env.step(action), ()), Moment(*other.step(action), ())
                if (found := difference(mine._asdict(), its._asdict())) is not None:
                    return False, (
                        "an environment and one that was restored from its snapshot differ"
                        f" {step + 1} steps later: {found}"
                    )
                if mine.terminated or mine.truncated:
                    break
    return True, "what is restored from a snapshot goes on equal, to the bit"


def check_model(subject: Subject) -> Verdict:
    """Compare with equations of motion that do not come from the engine, at two physics rates.

    An engine that solves the same equations errs in proportion to its step, one that solves others
    errs however short its step is.
    """
    task = subject.task
    if task is None:
        return None, "only a task can have equations of motion"
    rng = np.random.default_rng(0)
    initial = np.array([task.sample_initial_state(rng) for _ in range(MODEL_RUNS)])
    scales = np.array([actuator.scale for actuator in task.actuators])
    actions = round(MODEL_SECONDS * task.control_hz)
    efforts = scales * rng.choice([-1.0, 1.0], (actions, MODEL_RUNS, len(scales)))
    if task.rates(initial, efforts[0]) is None:
        return None, "the task has no equations of motion beside the engine"
    truth = rk4(task.rates, initial, efforts, task.control_hz)
    fine = MAX_PHYSICS_HZ // task.control_hz * task.control_hz
    coarse = max(task.control_hz, fine // 10 // task.control_hz * task.control_hz)
    errors = {
        hz: _model_errors(dataclasses.replace(task, physics_hz=hz), truth, efforts)
        for hz in (coarse, fine)
    }
    worst = int(np.argmax(errors[fine] / np.array(task.tolerances)))
    said = " and ".join(f"{error[worst]:.2g} at {hz} Hz" for hz, error in errors.items())
    text = (
        f"{task.coordinate_names[worst]} differs from the equations of motion by {said} (SI units),"
        f" in {MODEL_RUNS} runs of {MODEL_SECONDS} s of random play"
    )
    allowed = np.maximum(MODEL_FACTOR * coarse / fine * errors[coarse], 1e-6)
    if (errors[fine] > allowed).any():
        return False, f"{text}: shorter steps should err less in proportion"
    return True, text


def _model_errors(
    task: Task, truth: npt.NDArray[np.float64], efforts: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the greatest error of each coordinate while no run has terminated."""
    simulation = Simulation(task)
    going = in_play(task, truth)
    worst = np.zeros(len(task.coordinate_names))
    for run, state in enumerate(truth[0].tolist()):
        simulation.set_state({0: state})
        for step, effort in enumerate(efforts[:, run].tolist(), 1):
            columns = simulation.step(effort)
            if not going[step, run]:
                break
            right = np.array(task.coordinates(truth[step, run].tolist()))
            worst = np.maximum(worst, np.abs(np.array(task.coordinates(columns)) - right))
    simulation.close()
    return worst


CHECKS: dict[str, Callable[[Subject], Verdict]] = {
    "checker": check_checker,
    "types": check_types,
    "finite": check_finite,
    "bounds": check_bounds,
    "seeds": check_seeds,
    "leak": check_leak,
    "observation": check_observation,
    "reward": check_reward,
    "memory": check_memory,
    "time_limit": check_time_limit,
    "motors": check_motors,
    "randomisation": check_randomisation,
    "vector": check_vector,
    "snapshot": check_snapshot,
    "model": check_model,
}
