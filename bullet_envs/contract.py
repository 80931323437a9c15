"""Whether a task keeps its contract: one clear sentence in place of what would go wrong later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import shorten
from .scene import Actuator, BodyScene

if TYPE_CHECKING:
    from .scene import Scene
    from .task import Task


def check_task(task: Task) -> None:
    """Refuse a task whose methods return what an environment cannot use.

    They are called once, with the state at rest and with one random initial state.

    Raises:
        TypeError: a method returns the wrong type.
        ValueError: a method returns the wrong number of columns, or what is not finite.
    """
    name = type(task).__name__
    names = task.state_names
    if len(set(names)) < len(names):
        raise ValueError(f"{name}.state_names={names} has a name twice")
    _check_actuators(name, task)
    rest = _numbers(f"{name}.rest()", task.rest(), names, "state_names")
    initial = task.sample_initial_state(np.random.default_rng(0))
    state = _numbers(f"{name}.sample_initial_state()", initial, names, "state_names")
    _check_observation(name, task.observe(rest), task.observation_bounds())
    command = tuple(float(actuator.centre) for actuator in task.actuators)
    reward = task.reward(rest, command, rest)
    terms = reward.values() if isinstance(reward, Mapping) else [reward]
    for term in terms:
        _number(f"{name}.reward()", term, "a number, or a dict of numbers")
    if np.ndim(task.terminated(state)) or task.terminated(state) not in (True, False):
        found = shorten(task.terminated(state))
        raise TypeError(f"{name}.terminated() returned {found} and must return True or False")
    if task.terminated(state):
        raise ValueError(
            f"{name}.sample_initial_state() returned a state in which the episode has terminated"
        )
    info = task.info(rest)
    if not isinstance(info, Mapping):
        raise TypeError(f"{name}.info() returned {shorten(info)} and must return a dict")
    for key, value in info.items():
        _number(f"{name}.info()[{key!r}]", value, "one number")


def check_scene(task: Task, scene: Scene, num_envs: int) -> None:
    """Refuse a scene that does not fit its task.

    Raises:
        TypeError: there is none.
        ValueError: its states have other columns than ``state_names``, or its actuators are others.
    """
    name = type(task).__name__
    if not hasattr(scene, "set_state"):
        raise TypeError(f"{name}.build() returned {shorten(scene)} and must return its scene")
    columns = len(scene.state()) // num_envs
    if columns != len(task.state_names):
        raise ValueError(
            f"{name}.state_names has {len(task.state_names)} names, and the states of its scene"
            f" have {columns} columns"
        )
    if getattr(scene, "actuators", task.actuators) != task.actuators:
        raise ValueError(f"{name}.build() must give the scene the task's actuators: self.actuators")
    if isinstance(scene, BodyScene):
        scene.check()


def _check_actuators(name: str, task: Task) -> None:
    actuators: Any = task.actuators
    if not isinstance(actuators, tuple) or not all(isinstance(a, Actuator) for a in actuators):
        raise TypeError(f"{name}.actuators must be a property that returns a tuple of Actuators")
    count = len(actuators)
    for action in task.discrete_actions or ():
        if not isinstance(action, tuple) or len(action) != count:
            raise ValueError(
                f"{name}.discrete_actions has {shorten(action)} and must have tuples of {count}"
                " numbers, one for each actuator"
            )
        if not all(abs(share) <= 1 for share in action):
            raise ValueError(f"{name}.discrete_actions has {action}: each number is -1 to 1")


def _check_observation(name: str, columns: Any, bounds: Any) -> None:
    if isinstance(bounds, Mapping):
        if not isinstance(columns, Mapping) or columns.keys() != bounds.keys():
            raise ValueError(
                f"{name}.observe() and observation_bounds() must return dicts with the same keys"
            )
        for key, part in bounds.items():
            _check_observation(f"{name} {key!r}:", columns[key], part)
        return
    if isinstance(columns, Mapping) or len(columns) != len(bounds):
        found = "a dict" if isinstance(columns, Mapping) else f"{len(columns)} columns"
        raise ValueError(
            f"{name}.observe() returns {found} and observation_bounds() {len(bounds)} numbers"
        )
    for index, bound in enumerate(bounds):
        if not 0 <= bound < math.inf:
            raise ValueError(
                f"{name}.observation_bounds()[{index}]={shorten(bound)} must be 0 or more, finite"
            )


def _numbers(what: str, values: Any, names: Sequence[str], source: str) -> list[float]:
    if not hasattr(values, "__len__") or len(values) != len(names):
        count = len(values) if hasattr(values, "__len__") else shorten(values)
        raise ValueError(f"{what} returned {count} numbers, and {source} has {len(names)}")
    for name, value in zip(names, values, strict=True):
        _number(f"{what}: {name}", value, "a finite number")
    return [float(value) for value in values]


def _number(what: str, value: Any, legal: str) -> None:
    if np.ndim(value) or not isinstance(value, int | float | np.generic | np.ndarray):
        raise TypeError(f"{what} is {shorten(value)} and must be {legal}")
    if not np.isfinite(value):
        raise ValueError(f"{what} is {shorten(value)} and must be {legal}")
