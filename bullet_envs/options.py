"""What ``reset(options=...)`` and the keywords of an environment ask for."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .checks import shorten
from .contract import check_task
from .observers import OBSERVERS, Observer, PixelObserver, StateObserver
from .perturbations import Perturbations, parse_perturbations
from .perturbed_episode import parse_parameters
from .registration import load_task
from .simulation import Simulation
from .task import State, Task


def parse_options(
    options: Any, task: Task, perturbations: Perturbations, num_envs: int | None = None
) -> tuple[list[int], State | None, dict[str, float]]:
    """Return which sub-environments to reset, and the state and parameters that are given.

    Args:
        options: None or a dict with ``"state"`` (``{name: value}``, see :meth:`Task.named_state`),
            ``"parameters"`` (``{name: value}``) and, in a vector environment, ``"reset_mask"``
            (bool array of shape (num_envs,)).
        task: whose states and parameters to name.
        perturbations: whose parameters may be given.
        num_envs: of a vector environment; None for a single one.

    Raises:
        TypeError: the options are not of that form.
        ValueError: an option or state is not legal.
    """
    names = ("state", "parameters", *(() if num_envs is None else ("reset_mask",)))
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        legal = " or ".join(map(repr, names))
        raise TypeError(f"options {shorten(options)} must be None or a dict with {legal}")
    if unknown := [name for name in options if name not in names]:
        raise ValueError(f"options has no {shorten(unknown)}; legal: {', '.join(names)}")
    named = options.get("state")
    state = None if named is None else task.named_state(named)
    given = options.get("parameters")
    parameters = {} if given is None else parse_parameters(given, task, perturbations)
    count = 1 if num_envs is None else num_envs
    if "reset_mask" not in options:
        return list(range(count)), state, parameters
    mask = options["reset_mask"]
    legal = f"a NumPy array of {count} bools, at least one of them True"
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"reset_mask={shorten(mask)} must be {legal}")
    if mask.shape != (count,) or not mask.any():
        raise ValueError(f"reset_mask={shorten(mask)} must be {legal}")
    return np.flatnonzero(mask).tolist(), state, parameters


def make_perturbations(given: Any, task: Task, observer: str) -> Perturbations:
    """Return the perturbations that a keyword asks for, tried on the engine.

    Raises:
        TypeError: a part has the wrong type.
        ValueError: a name is unknown, a number out of its range, or the engine cannot have some
            parameters together.
    """
    perturbations = parse_perturbations(given, task, observer == "pixels")
    if not (perturbations.parameters or perturbations.pushes):
        return perturbations
    rebuilding = [one.name for one in task.parameters if one.rebuilds]
    extremes = []
    for name, draw in perturbations.parameters.items():
        ends = [draw.distribution.low, draw.distribution.high][-1 if name in rebuilding else 0 :]
        nominal = getattr(task, name)
        extremes.append([(name, draw.value(nominal, end)) for end in ends])
    simulation = Simulation(task, perturbed=perturbations.names)
    try:
        for corner in itertools.product(*extremes):
            simulation.set_task(0, task.with_parameters(dict(corner)))
        for push in perturbations.pushes:
            simulation.push(0, push.body, (0.0, 0.0, 0.0))
    finally:
        simulation.close()
    return perturbations


def make_task(
    task: Task | type[Task] | str,
    observer: str,
    keywords: dict[str, Any],
    others: Sequence[str],
) -> tuple[Task, Observer]:
    """Return the task and the observer that the keywords of an environment ask for.

    Args:
        task: a task, its class or ``"module:Class"``.
        observer: one of ``OBSERVERS``.
        keywords: of the task and the observer.
        others: keywords that the environment has beside these, for the error that lists them.

    Raises:
        TypeError: a keyword is unknown or of the wrong type.
        ValueError: a keyword is out of its range.
    """
    if observer not in OBSERVERS:
        raise ValueError(f"observer={shorten(observer)} must be one of {', '.join(OBSERVERS)}")
    kind = load_task(task) if isinstance(task, str) else task
    of_task = [] if isinstance(kind, Task) else [field.name for field in dataclasses.fields(kind)]
    of_pixels = list(inspect.signature(PixelObserver).parameters)[1:]
    legal = [*others, "observer", *of_task, *(of_pixels if observer == "pixels" else [])]
    if unknown := [name for name in keywords if name not in legal]:
        # Python's own words, which programs look for that try keywords one after the other.
        raise TypeError(
            f"got an unexpected keyword argument {unknown[0]!r}; legal: {', '.join(legal)}"
        )
    given = {name: value for name, value in keywords.items() if name in of_task}
    made = kind if isinstance(kind, Task) else kind(**given)
    check_task(made)
    seen: Observer = StateObserver(made)
    if observer == "pixels":
        rest = {name: value for name, value in keywords.items() if name not in of_task}
        seen = PixelObserver(made, **rest)
    return made, seen
