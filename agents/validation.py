"""The measurements of an agent's report card: ``bullet-envs validate``.

A card has many cells, each an evaluation of its own that any process may do. They are kept in
``cells.json`` as they come, so that a card that was stopped goes on, and they hold the same numbers
whoever does them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import multiprocessing
import platform
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from .. import Recorder
from ..perturbations import parse_perturbations
from ..progress import progress_bar
from ..task import Task
from ..versions import processor, versions
from .agent import Agent
from .checkpoints import write_atomically
from .environment import EnvConfig
from .evaluation import EVALUATION_SEEDS, Evaluation, evaluate, evaluate_in_each
from .failure_search import Ranges, options_of, ranges_of, search
from .robustness import (
    REFINEMENTS,
    Field,
    column_spreads,
    fields_of,
    figures,
    merged,
    sweep,
)

ADVERSARIES = {"search": True, "random sampling": False}  # whether they adapt
NOMINAL = ("returns", "lengths", "terminated")
FAILURES = 3
DISTINCT = 0.25  # of the range of a value by which two failures must differ
DEFAULT_RANGE = 0.2  # of the nominal value of a parameter, where the task has no preset
STRIP_FRAMES, STRIP_WIDTH = 6, 320  # pixels of each
MALLOC_OPTIONS = {-1: 2**30, -3: 2**25}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        nominal: episodes of each agent without perturbation.
        swept: episodes at each value of a field.
        grid: episodes at each point of the heat map.
        rounds: of the search for failures.
        stride: one of so many values of a field is tried.
        refinements: of a margin, see :func:`sweep`.
        width: of the videos of failures, in pixels.
    """

    nominal: int
    swept: int
    grid: int
    rounds: int
    stride: int = 1
    refinements: int = REFINEMENTS
    width: int = 640


FULL, QUICK = Size(1000, 60, 40, 25), Size(100, 5, 5, 4, 2, 1, 320)
PIXELS, QUICK_PIXELS = Size(300, 40, 20, 10), Size(40, 5, 5, 2, 2, 1, 320)


@dataclass(frozen=True)
class Subject:
    """An agent and its environment, as data that another process can load.

    Args:
        env_id: of the environment.
        agent: as of :func:`~bullet_envs.agents.load_agent`.
        env_kwargs: keywords of the environment.
    """

    env_id: str
    agent: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    def load(self, added: Mapping[str, Any] | None = None) -> Agent:
        """Return the agent, in its environment with more perturbations if some are added."""
        from . import load_agent

        kwargs = dict(self.env_kwargs)
        if added is not None:
            task, is_image = self.task_and_kind()
            kwargs["perturbations"] = merged(kwargs.get("perturbations"), added, task, is_image)
        return load_agent(self.env_id, self.agent, **kwargs)

    @property
    def reward_threshold(self) -> float | None:
        """The return from which an episode counts as solved, None where there is none."""
        return EnvConfig(self.env_id, self.env_kwargs).reward_threshold

    def task_and_kind(self) -> tuple[Task, bool]:
        """Return the task, and whether images of it are observed."""
        env = EnvConfig(self.env_id, self.env_kwargs).make_bare()
        bare: Any = env.unwrapped
        env.close()
        return bare.task, env.observation_space.dtype == np.uint8

    def fields(self) -> list[Field]:
        """Return what can be perturbed."""
        key = json.dumps([self.env_id, self.env_kwargs], sort_keys=True)
        if key not in _FIELDS:
            _FIELDS[key] = self._fields()
        return _FIELDS[key]

    def _fields(self) -> list[Field]:
        env = EnvConfig(self.env_id, self.env_kwargs).make_bare()
        bare: Any = env.unwrapped
        is_image = env.observation_space.dtype == np.uint8
        fields = fields_of(bare.task, None if is_image else column_spreads(env))
        env.close()
        return fields

    def field(self, name: str) -> Field:
        """Return one of :meth:`fields` by its name."""
        return next(one for one in self.fields() if one.name == name)


_FIELDS: dict[str, list[Field]] = {}  # of environments in this process: they take seconds


@dataclass(frozen=True)
class Job:
    """A cell to be measured.

    Args:
        key: its name in ``cells.json``.
        measure: what measures it, a function of a module, so that a process can be sent it.
        arguments: of the function.
    """

    key: str
    measure: Callable[..., Any]
    arguments: tuple[Any, ...]


def nominal(subject: Subject, episodes: int) -> dict[str, Any]:
    """Return each episode's return, length and whether it terminated, without perturbation."""
    evaluation = evaluate(subject.load(), EVALUATION_SEEDS[:episodes])
    return {name: getattr(evaluation, name).tolist() for name in NOMINAL}


def robustness(
    subject: Subject, name: str, size: Size, played: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the results at the values of a field: see :func:`sweep`.

    Args:
        subject: the agent and its environment.
        name: of the field.
        size: how much to measure.
        played: what :func:`nominal` returned.
    """
    episodes = size.swept

    def play(every: list[dict[str, Any]]) -> list[Evaluation | None]:
        loads = [functools.partial(subject.load, added) for added in every]
        return evaluate_in_each(loads, EVALUATION_SEEDS[:episodes])

    unperturbed = None
    if not subject.env_kwargs.get("perturbations"):
        columns = (np.array(played[name][:episodes]) for name in NOMINAL)
        unperturbed = Evaluation(*columns)
    return sweep(
        play,
        subject.field(name).every(size.stride),
        subject.reward_threshold,
        unperturbed,
        size.refinements,
    )


def heat_map_row(
    subject: Subject, names: tuple[str, str], value: float, size: Size
) -> list[float | None]:
    """Return the mean returns at a value of the second parameter, None where it is not legal."""
    first, second = (subject.field(name) for name in names)
    pairs = [
        {**first.perturb(other)["parameters"], **second.perturb(value)["parameters"]}
        for other in grid_of(first.every(size.stride))
    ]
    loads = [functools.partial(subject.load, {"parameters": pair}) for pair in pairs]
    evaluations = evaluate_in_each(loads, EVALUATION_SEEDS[: size.grid])
    return [None if one is None else float(one.returns.mean()) for one in evaluations]


def grid_of(of: Field) -> list[float]:
    """Return the values of a field in a heat map."""
    return sorted((of.nominal, *of.values))


def adversary(subject: Subject, rounds: int, adapts: bool) -> list[dict[str, Any]]:
    """Return the episodes of a search, or of random sampling in the same ranges."""
    ranges, agent = searched(subject)
    return [asdict(found) for found in search(agent, ranges, rounds, adapts=adapts)]


def searched(subject: Subject) -> tuple[Ranges, Agent]:
    """Return the ranges of the search, and the agent with perturbations that allow them.

    Parameters range as in the environment's own perturbations; without any, as in the task's preset
    ``hard``; without such, by a fifth of their nominal values.
    """
    task, is_image = subject.task_and_kind()
    base = subject.env_kwargs.get("perturbations")
    if not base and "hard" in task.perturbation_presets:
        base = "hard"
    draws = parse_perturbations(base, task, is_image).parameters
    ends: dict[str, tuple[float, float]] = {}
    for parameter in task.parameters:
        value = float(getattr(task, parameter.name))
        if parameter.name in draws:
            draw = draws[parameter.name]
            low, high = (
                draw.value(value, end) for end in (draw.distribution.low, draw.distribution.high)
            )
        elif not base and value:
            low, high = value * (1 - DEFAULT_RANGE), value * (1 + DEFAULT_RANGE)
        else:
            continue
        ends[parameter.name] = max(low, parameter.low), min(high, parameter.high)
    uniform = {name: {"uniform": list(pair)} for name, pair in ends.items()}
    agent = subject.load({"parameters": uniform} if uniform else None)
    return ranges_of(task, ends), agent


class Cells:
    """What has been measured, on disk.

    Args:
        path: of the file.
        identity: what the cells are of; a file of something else is begun anew.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        self._cells: dict[str, Any] = {}
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["identity"] == self._identity:
                self._cells = kept["cells"]

    def __getitem__(self, key: str) -> Any:
        return self._cells[key]

    def __contains__(self, key: str) -> bool:
        return key in self._cells

    def discard(self, key: str) -> None:
        """Forget a result, if there is one."""
        self._cells.pop(key, None)

    def add(self, key: str, result: Any) -> None:
        """Keep a result."""
        self._cells[key] = json.loads(json.dumps(result))
        kept = {"identity": self._identity, "cells": self._cells}
        write_atomically(self._path, json.dumps(kept).encode())

    def measure(self, jobs: Sequence[Job], pool: ProcessPoolExecutor | None, title: str) -> None:
        """Do the jobs that have not been done.

        Args:
            jobs: in the order in which they are begun.
            pool: what does them, None to do them here.
            title: of the progress bar.

        Raises:
            KeyboardInterrupt: what was done is kept.
        """
        missing = [job for job in jobs if job.key not in self]
        if not missing:
            return
        with progress_bar(
            total=len(jobs), initial=len(jobs) - len(missing), desc=title, unit="cell"
        ) as bar:
            for key, result in _results(missing, pool):
                self.add(key, result)
                bar.update()


def _results(jobs: Sequence[Job], pool: ProcessPoolExecutor | None) -> Iterator[tuple[str, Any]]:
    if pool is None:
        for job in jobs:
            yield job.key, job.measure(*job.arguments)
        return
    running = {pool.submit(job.measure, *job.arguments): job.key for job in jobs}
    for future in as_completed(running):
        yield running[future], future.result()


@contextlib.contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Have processes, which an exception or Ctrl-C ends at once; None for a single one."""
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
        for _ in range(workers):
            pool.submit(int)  # begins a process, so that it imports what it needs from now on
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin_worker() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the others
    torch.set_num_threads(1)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc.

    Each evaluation makes engines of 30 MB, and most of that time (up to 20 of 25 ms) is for pages
    that the kernel gives and takes.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option, size in MALLOC_OPTIONS.items():
            set_option(option, size)


def identity_of(subject: Subject, agent: Agent, size: Size) -> dict[str, Any]:
    """Return what a card is of: whatever its numbers depend on."""
    names = ("bullet_envs", "gymnasium", "pybullet", "numpy", "torch")
    return {
        "env_id": subject.env_id,
        "env_kwargs": agent.env.env_kwargs,
        "agent": agent.name,
        "weights": agent.weights_hash,
        "training": agent.facts,
        "episodes": asdict(size),
        "versions": versions(names),
        "machine": f"{processor()}, {platform.system()}",
    }


def measure(
    subject: Subject,
    folder: Path,
    *,
    quick: bool = False,
    pool: ProcessPoolExecutor | None = None,
    heat_map: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Return all that a card shows of an agent, measured or from what a folder has of it.

    Args:
        subject: the agent.
        folder: of the card.
        quick: fewer episodes.
        pool: of :func:`processes`, None to measure here.
        heat_map: the names of two parameters; None for those of which the agent bears least.

    Raises:
        ValueError: the environment is none of this package's, or a name is no parameter's.
        KeyboardInterrupt: what was done is kept.
    """
    agent = subject.load()
    if not agent.env.is_ours:
        raise ValueError(
            f"--env {subject.env_id} must be an id of this package or of a task of your own: only"
            " these can be perturbed"
        )
    task, is_image = subject.task_and_kind()
    size = (QUICK_PIXELS if quick else PIXELS) if is_image else (QUICK if quick else FULL)
    fields = [one.every(size.stride) for one in subject.fields()]
    parameters = [one.name for one in task.parameters]
    if heat_map is not None and (unknown := [one for one in heat_map if one not in parameters]):
        raise ValueError(
            f"--heat-map {unknown[0]!r} must be a parameter of {subject.env_id}:"
            f" {', '.join(parameters) or 'it has none'}"
        )
    subjects = {agent.name: subject}
    for name in _others(subject, agent, is_image):
        subjects[name] = Subject(subject.env_id, name, subject.env_kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    identity = identity_of(subject, agent, size)
    cells = Cells(folder / "cells.json", identity)
    compared = {name: of for name, of in subjects.items() if name in (agent.name, "lqr")}
    first_jobs = [
        *(Job(f"nominal/{name}", nominal, (of, size.nominal)) for name, of in subjects.items()),
        *(
            Job(f"failures/{name}", adversary, (subject, size.rounds, adapts))
            for name, adapts in ADVERSARIES.items()
        ),
    ]
    cells.measure(first_jobs, pool, "episodes and search")
    played = {name: cells[f"nominal/{name}"] for name in subjects}
    ranges, _ = searched(subject)
    found = {name: cells[f"failures/{name}"] for name in ADVERSARIES}
    failures = worst_episodes(subject, played[agent.name], found, ranges)
    videos = [
        Job(f"video/{index}", record_failure, (subject, failure, folder, index, size.width))
        for index, failure in enumerate(failures, 1)
    ]
    for index, job in enumerate(videos, 1):
        if not video_of(folder, index).is_file():
            cells.discard(job.key)
    jobs = [
        *videos,
        *(
            Job(f"robustness/{one.name}/{name}", robustness, (of, one.name, size, played[name]))
            for one in fields
            for name, of in compared.items()
        ),
    ]
    cells.measure(jobs, pool, "videos and perturbations")
    swept = {
        one.name: {name: cells[f"robustness/{one.name}/{name}"] for name in compared}
        for one in fields
    }
    chosen = heat_map or most_telling(fields, parameters, swept, agent.name)
    heat: dict[str, Any] | None = None
    if chosen is not None:
        first, second = (next(one for one in fields if one.name == name) for name in chosen)
        rows = [
            Job(
                f"heat/{'/'.join(chosen)}/{value}",
                heat_map_row,
                (subject, chosen, value, size),
            )
            for value in grid_of(second)
        ]
        cells.measure(rows, pool, "heat map")
        heat = {
            "parameters": list(chosen),
            "values": [grid_of(first), grid_of(second)],
            "means": [cells[row.key] for row in rows],
        }
    return {
        "identity": identity,
        "nominal": played,
        "initial_states": initial_states(subject, size.nominal),
        "robustness": [
            {
                "name": one.name,
                "unit": one.unit,
                "nominal": one.nominal,
                "agents": swept[one.name],
            }
            for one in fields
        ],
        "heat_map": heat,
        "search": {
            "names": list(ranges.names),
            "low": ranges.low.tolist(),
            "high": ranges.high.tolist(),
            "episodes": {name: len(of) for name, of in found.items()},
            "lost": {name: sum(one["terminated"] for one in of) for name, of in found.items()},
        },
        "failures": failures,
        "traces": [cells[job.key] for job in videos],
    }


def _others(subject: Subject, agent: Agent, is_image: bool) -> list[str]:
    from . import controllers_of

    offered = () if is_image else controllers_of(subject.env_id)
    return [
        name for name in ("lqr", "random") if name != agent.name and name in (*offered, "random")
    ]


def most_telling(
    fields: Sequence[Field],
    parameters: Sequence[str],
    swept: Mapping[str, Mapping[str, Any]],
    algo: str,
) -> tuple[str, str] | None:
    """Return the two parameters whose values cost an agent most, None if there are not two."""
    worst = {
        one.name: min(point["mean"] for point in swept[one.name][algo]["points"])
        for one in fields
        if one.name in parameters
    }
    if len(worst) < 2:
        return None
    first, second, *_ = sorted(worst, key=lambda name: worst[name])
    return first, second


def initial_states(subject: Subject, episodes: int) -> dict[str, Any]:
    """Return the coordinates of the initial states of the evaluation episodes."""
    task, _ = subject.task_and_kind()
    rows = []
    with EnvConfig(subject.env_id, subject.env_kwargs).make_bare() as env:
        bare: Any = env.unwrapped
        for seed in EVALUATION_SEEDS[:episodes]:
            env.reset(seed=seed)
            rows.append([float(one) for one in task.coordinates(list(bare.state().values()))])
    return {"names": list(task.coordinate_names), "coordinates": rows}


def worst_episodes(
    subject: Subject,
    played: Mapping[str, Any],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    ranges: Ranges,
) -> list[dict[str, Any]]:
    """Return how to begin the worst episodes that were found, those of the search distinct.

    Returns:
        Of each the ``source``, the ``seed``, the ``options`` of the reset, and the ``return``.
    """
    task, _ = subject.task_and_kind()
    seeds = [
        {"source": "evaluation", "seed": seed, "options": None, "return": total, "cost": 0.0}
        for seed, total in zip(EVALUATION_SEEDS, played["returns"], strict=False)
    ]
    span = ranges.high - ranges.low
    starts = [
        {
            "source": source,
            "seed": 0,
            "options": options_of(task, ranges, one["values"]),
            "return": one["episode_return"],
            "cost": one["cost"],
            "place": (np.array(one["values"]) - ranges.low) / np.where(span > 0, span, 1),
        }
        for source, of in found.items()
        for one in of
    ]
    chosen: list[dict[str, Any]] = []
    for one in sorted([*seeds, *starts], key=lambda one: (one["return"], -one["cost"])):
        near = [
            other
            for other in chosen
            if "place" in one
            and "place" in other
            and np.abs(one["place"] - other["place"]).max() < DISTINCT
        ]
        if not near:
            chosen.append(one)
        if len(chosen) == FAILURES:
            break
    names = ("source", "seed", "options", "return")
    return [{name: one[name] for name in names} for one in chosen]


def video_of(folder: Path, index: int) -> Path:
    """Return the path of the video of a failure; the JSON beside it replays it."""
    return folder / f"failure-{index}-episode-0.mp4"


@dataclass(frozen=True)
class Trace:
    """What happened in an episode, an entry for each environment step and one at the beginning.

    Args:
        times: s.
        states: columns by name (SI units).
        actions: the command of the agent, one less than times.
        terminated: whether the task ended the episode.
        episode_return: undiscounted.
    """

    times: list[float]
    states: dict[str, list[float]]
    actions: list[list[float]]
    terminated: bool
    episode_return: float


def record_failure(
    subject: Subject, failure: Mapping[str, Any], folder: Path, index: int, width: int
) -> dict[str, Any]:
    """Record a video of an episode with the JSON that replays it.

    Args:
        subject: the agent.
        failure: how to begin: see :func:`worst_episodes`.
        folder: of the video.
        index: of the failure, from 1: see :func:`video_of`.
        width: of the video, in pixels.

    Returns:
        The fields of a :class:`Trace`.
    """
    name = f"failure-{index}"
    for part in folder.glob(f"{name}-*.part.*"):  # of a process that was ended while it recorded
        part.unlink()
    agent = searched(subject)[1] if failure["options"] else subject.load()
    recorder = Recorder(
        agent.env.make_bare(render_mode="rgb_array"),
        str(folder),
        name_prefix=name,
        agent_hash=agent.weights_hash,
        overlay=True,
        agent=agent.name,
        width=width,
    )
    watched = _Traced(recorder)
    env = agent.env.wrap(watched)
    with env:
        observation, info = env.reset(seed=failure["seed"], options=failure["options"])
        agent.policy.begin(info, 1)
        while not watched.ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, *_ = env.step(action)
    return asdict(watched.trace)


class _Traced(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the states and actions of an episode."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**kwargs)
        self.ended = False
        self.trace = Trace([], {}, [], False, 0.0)
        self._keep()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        _, reward, terminated, truncated, _ = result
        self.trace.actions.append(np.atleast_1d(np.asarray(action, np.float64)).tolist())
        self.trace = Trace(
            *(self.trace.times, self.trace.states, self.trace.actions),
            bool(terminated),
            self.trace.episode_return + float(reward),
        )
        self._keep()
        self.ended = bool(terminated or truncated)
        return result

    def _keep(self) -> None:
        bare: Any = self.unwrapped
        self.trace.times.append(len(self.trace.times) / bare.task.control_hz)
        for name, value in bare.state().items():
            self.trace.states.setdefault(name, []).append(float(value))


def nominal_figures(played: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean, IQM, worst return and share lost of some episodes, with 95 % intervals."""
    from .statistics import iqm, mean_interval, stratified_bootstrap

    returns = np.array(played["returns"], np.float64)
    evaluation = Evaluation(
        returns, np.array(played["lengths"]), np.array(played["terminated"], np.bool_)
    )
    middle = functools.partial(stratified_bootstrap, iqm, resamples=1000)
    lost = mean_interval(evaluation.terminated.astype(np.float64), resamples=1000)
    return {
        "episodes": len(returns),
        **figures(evaluation),
        "iqm": float(iqm(returns[:, None])),
        "iqm_interval": list(middle(returns[:, None])),
        "worst": float(returns.min()),
        "lost_interval": [lost.low, lost.high],
    }
