"""A search for initial states and parameters from which an agent fails.

The cross-entropy method (Rubinstein and Kroese, "The cross-entropy method", 2004): normal
distributions of all coordinates are fitted to the fifth of the episodes that went worst, again and
again. Random sampling in the same ranges is what it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..perturbations import VARIANTS
from ..task import Task
from .agent import Agent
from .wrappers import REPEATS

POPULATION = 40  # episodes played at once
ELITE = 8
LEAST_SPREAD = 0.02  # of the range, so that the search goes on looking
INITIAL_STATES = 2000  # that are drawn to learn the ranges of their coordinates

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """Where episodes may begin, and with what.

    Args:
        names: of the coordinates of the initial state, then of the parameters.
        low: the least value of each (SI units).
        high: the greatest.
        coordinates: how many of them are coordinates of the state.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    coordinates: int


@dataclass(frozen=True)
class Found:
    """An episode of the search.

    Args:
        values: in the order of ``Ranges.names``.
        episode_return: undiscounted.
        length: in environment steps.
        terminated: whether the task ended it.
        cost: mean square of the coordinates after each action, in units of the task's tolerances.
    """

    values: tuple[float, ...]
    episode_return: float
    length: int
    terminated: bool
    cost: float


def ranges_of(task: Task, parameters: Mapping[str, tuple[float, float]]) -> Ranges:
    """Return the ranges of a task's initial states, with those of some parameters.

    Args:
        task: whose ``sample_initial_state`` and ``coordinates`` are used. Coordinates in which all
            initial states agree are left out.
        parameters: the least and the greatest value of each.
    """
    rng = np.random.default_rng(0)
    drawn = [task.sample_initial_state(rng) for _ in range(INITIAL_STATES)]
    coordinates = np.array([task.coordinates(state) for state in drawn], np.float64)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    ends = np.array([*parameters.values()], np.float64).reshape(-1, 2)
    return Ranges(
        (*task.coordinate_names, *parameters),
        np.concatenate([low, ends[:, 0]]),
        np.concatenate([high, ends[:, 1]]),
        len(low),
    )


def search(
    agent: Agent, ranges: Ranges, rounds: int, seed: int = 0, adapts: bool = True
) -> list[Found]:
    """Return the episodes of a search, in the order in which they were played.

    Args:
        agent: whose environment has perturbations that name the parameters of the ranges.
        ranges: in which to search.
        rounds: of ``POPULATION`` episodes each; the first is uniform.
        seed: decides what is drawn.
        adapts: whether to fit the distributions; False samples uniformly.
    """
    rng = np.random.default_rng(seed)
    span = ranges.high - ranges.low
    found: list[Found] = []
    mean, std = ranges.low + span / 2, None
    envs = agent.make_vec(POPULATION)
    bare: Any = envs.unwrapped
    seen = {one.name for one in bare.task.parameters if one.visible and agent.renderer}
    sizes = [place for place, name in enumerate(ranges.names) if name in seen]
    try:
        for _ in range(rounds):
            if std is None or not adapts:
                values = rng.uniform(ranges.low, ranges.high, (POPULATION, len(span)))
            else:
                drawn = rng.normal(mean, std, (POPULATION, len(span)))
                values = np.clip(drawn, ranges.low, ranges.high)
            values[:, sizes] = _of_few(values[:, sizes], ranges.low[sizes], span[sizes])
            played = _play(agent, envs, ranges, values)
            found += played
            worst = sorted(played, key=lambda one: (one.length, -one.cost))[:ELITE]
            elite = np.array([one.values for one in worst])
            mean = elite.mean(axis=0)
            std = np.maximum(elite.std(axis=0), LEAST_SPREAD * span)
    finally:
        envs.close()
    return found


def _of_few(values: Array, low: Array, span: Array) -> Array:
    """Return the nearest of ``VARIANTS`` values: images need a renderer for each size."""
    shares = np.rint((values - low) / np.where(span > 0, span, 1) * (VARIANTS - 1))
    rounded: Array = low + shares / (VARIANTS - 1) * span
    return rounded


def options_of(task: Task, ranges: Ranges, values: Sequence[float]) -> dict[str, Any]:
    """Return the ``options`` of a reset that begins with some values."""
    state = task.from_coordinates([float(value) for value in values[: ranges.coordinates]])
    options: dict[str, Any] = {"state": dict(zip(task.state_names, map(float, state), strict=True))}
    names = ranges.names[ranges.coordinates :]
    if names:
        parameters = map(float, values[ranges.coordinates :])
        options["parameters"] = dict(zip(names, parameters, strict=True))
    return options


def _play(agent: Agent, envs: Any, ranges: Ranges, values: Array) -> list[Found]:
    """Play an episode with each row of values, all at once."""
    bare = envs.unwrapped
    task: Task = bare.task
    tolerances = np.array(task.tolerances)
    count = len(values)
    envs.reset(seed=0)
    parameters: dict[str, npt.NDArray[Any]] = {}
    for index, row in enumerate(values):
        mask = np.arange(count) == index
        observations, info = envs.reset(
            seed=[0] * count,
            options={"reset_mask": mask, **options_of(task, ranges, row.tolist())},
        )
        for name, of in info.get("parameters", {}).items():
            parameters.setdefault(name, np.zeros(count, of.dtype))[index] = of[index]
    agent.policy.begin({"parameters": parameters} if parameters else {}, count)
    returns, costs = np.zeros(count), np.zeros(count)
    lengths, actions_taken = np.zeros(count, np.int64), np.zeros(count, np.int64)
    terminated = np.zeros(count, np.bool_)
    live = np.ones(count, np.bool_)
    actions = np.zeros(envs.action_space.shape or (), envs.action_space.dtype)
    while live.any():
        which = np.flatnonzero(live)
        actions[which] = agent.act(observations[which], True, which)
        observations, rewards, ended_now, truncated, info = envs.step(actions)
        states = zip(*(column.tolist() for column in bare.state().values()), strict=True)
        columns = np.array([task.coordinates(state) for state in states], np.float64)
        returns[live] += rewards[live]
        costs[live] += np.square(columns / tolerances).mean(axis=1)[live]
        lengths[live] += info[REPEATS][live] if REPEATS in info else 1
        actions_taken[live] += 1
        terminated |= ended_now & live
        live &= ~(ended_now | truncated)
    return [
        Found(tuple(row), float(total), int(length), bool(lost), float(cost))
        for row, total, length, lost, cost in zip(
            values.tolist(), returns, lengths, terminated, costs / actions_taken, strict=True
        )
    ]
