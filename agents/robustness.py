"""How an agent's return falls with each perturbation, and how much of it the agent bears.

The perturbations are those of ``docs/perturbations.md``, one at a time: every parameter that the
task declares, the noise, delays and faults of sensors and actuators, and pushes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from ..perturbations import column_names, column_scales, for_observer
from ..task import Task
from .evaluation import Evaluation
from .statistics import mean_interval

REFINEMENTS = 4
FACTORS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)  # of parameters with a nominal value other than 0
SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)  # of the greatest legal value of those whose is 0
DELAYS = (1, 2, 3, 4, 6, 8)  # control periods
COMMANDS = (0.1, 0.25, 0.5, 1.0, 2.0)  # of an actuator's scale
DEAD_ZONES = (0.1, 0.25, 0.5, 0.9)  # of an actuator's scale
SPREADS = (0.1, 0.25, 0.5, 1.0, 2.0)  # of a column's standard deviation
PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5)
STUCK_STEPS = 5  # control periods
IMPULSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # of those of the task's template
BRIGHTNESSES = (0.5, 0.7, 0.85, 1.15, 1.3, 1.5)
IMAGE_NOISES = (2.0, 5.0, 10.0, 20.0, 40.0)  # of 255
CAMERA_SHIFTS = (0.002, 0.005, 0.01, 0.02, 0.05)  # m
RANDOM_EPISODES, RANDOM_STEPS = 20, 200


@dataclass(frozen=True)
class Field:
    """One thing that can be perturbed.

    Args:
        name: of the field, such as ``"pole_mass"`` or ``"noise of theta"``.
        unit: of its values, SI.
        nominal: the value without perturbation.
        values: those that are tried, in ascending order, without the nominal one.
        perturb: returns the perturbations of a value.
        whole: whether values are whole numbers.
    """

    name: str
    unit: str
    nominal: float
    values: tuple[float, ...]
    perturb: Callable[[float], dict[str, Any]]
    whole: bool = False

    @property
    def both_sides(self) -> tuple[tuple[float, ...], ...]:
        """The values below the nominal one and those above, each beginning next to it."""
        below = tuple(value for value in reversed(self.values) if value < self.nominal)
        return below, tuple(value for value in self.values if value > self.nominal)

    def every(self, stride: int) -> Field:
        """Return the field with one of so many values on each side, beginning next to nominal."""
        kept = sorted(value for side in self.both_sides for value in side[::stride])
        return replace(self, values=tuple(kept))


def fields_of(task: Task, spreads: Sequence[float] | None) -> list[Field]:
    """Return what of a task can be perturbed.

    Args:
        task: of the environment.
        spreads: standard deviation of each column of the observation (SI units), see
            :func:`column_spreads`; None for images.
    """
    fields = [_parameter_field(task, parameter.name) for parameter in task.parameters]
    scales = {actuator.joint: actuator.scale for actuator in task.actuators}

    def actions(name: str, share: float) -> dict[str, Any]:
        return {"actions": {name: {joint: share * scale for joint, scale in scales.items()}}}

    period = f"control periods of {1 / task.control_hz:g} s"
    fields += [
        Field("action delay", period, 0, DELAYS, lambda n: {"actions": {"delay": int(n)}}, True),
        Field(
            "action noise", "of a full action", 0, COMMANDS, lambda share: actions("noise", share)
        ),
        Field(
            "dead zone",
            "of a full action",
            0,
            DEAD_ZONES,
            lambda share: actions("dead_zone", share),
        ),
        Field(
            *("observation delay", period, 0, DELAYS),
            lambda n: {"observations": {"delay": int(n)}},
            True,
        ),
    ]
    fields += [
        Field(
            *(f"{name} observations", "probability", 0, PROBABILITIES),
            lambda p, name=name, steps=steps: {  # type: ignore[misc]
                "observations": {name: {"probability": p, "steps": steps}}
            },
        )
        for name, steps in (("dropped", 1), ("stuck", STUCK_STEPS))
    ]
    fields += _image_fields() if spreads is None else _noise_fields(task, spreads)
    return fields + _push_fields(task)


def _parameter_field(task: Task, name: str) -> Field:
    (parameter,) = (one for one in task.parameters if one.name == name)
    nominal = float(getattr(task, name))
    if nominal:
        values = [nominal * factor for factor in FACTORS]
    else:
        values = [parameter.high * share for share in SHARES]
    legal = tuple(value for value in values if parameter.low <= value <= parameter.high)
    return Field(
        *(name, parameter.unit, nominal, legal), lambda value: {"parameters": {name: value}}
    )


def _noise_fields(task: Task, spreads: Sequence[float]) -> list[Field]:
    return [
        Field(
            *(f"noise of {column}", "standard deviation, SI units", 0),
            tuple(float(f"{share * spread:.2g}") for share in SPREADS),
            lambda std, column=column: {"observations": {"noise": {column: std}}},  # type: ignore[misc]
        )
        for column, spread in zip(column_names(task), spreads, strict=True)
        if spread > 0
    ]


def _image_fields() -> list[Field]:
    return [
        Field("brightness", "factor", 1, BRIGHTNESSES, lambda x: {"images": {"brightness": x}}),
        Field("image noise", "of 255", 0, IMAGE_NOISES, lambda x: {"images": {"noise": x}}),
        Field("camera shift", "m", 0, CAMERA_SHIFTS, lambda x: {"images": {"camera": x}}),
    ]


def _push_fields(task: Task) -> list[Field]:
    fields = []
    for push in task.perturbation_template.get("pushes", ()):
        of = push["impulse"]
        greatest = max(map(abs, of["uniform"])) if isinstance(of, Mapping) else abs(of)
        fields.append(
            Field(
                *(f"pushes on {push['body']}", f"N·s, {push['rate']:g} per second", 0),
                tuple(share * greatest for share in IMPULSES),
                lambda impulse, push=push: {  # type: ignore[misc]
                    "pushes": [{**push, "direction": "random", "impulse": impulse}]
                },
            )
        )
    return fields


def column_spreads(env: gym.Env[Any, Any]) -> list[float]:
    """Return the standard deviation of each column of the state's observation (SI units).

    Of random actions from 20 initial states, so that it is a fact of the environment alone.
    """
    bare: Any = env.unwrapped
    task: Task = bare.task
    columns = []
    env.action_space.seed(0)
    for seed in range(RANDOM_EPISODES):
        observation, _ = env.reset(seed=seed)
        for _ in range(RANDOM_STEPS):
            columns.append(gym.spaces.flatten(env.observation_space, observation))
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    spreads = np.std(np.array(columns, np.float64), axis=0)
    return [float(spread) for spread in spreads * np.array(column_scales(task, len(spreads)))]


def merged(base: Any, added: Mapping[str, Any], task: Task, is_image: bool) -> dict[str, Any]:
    """Return perturbations with others added, which take the place of the same ones.

    Args:
        base: what the environment takes by that keyword: None, a preset's name, or a dict.
        added: a dict of them.
        task: whose presets are named.
        is_image: whether the observation is one.
    """
    if isinstance(base, str):
        base = for_observer(task.perturbation_presets[base], is_image)
    result = dict(base or {})
    for part, entries in added.items():
        if part == "pushes":
            result[part] = [*result.get(part, ()), *entries]
            continue
        result[part] = {**result.get(part, {}), **entries}
        for name, entry in entries.items():
            if name in ("noise", "dead_zone") and isinstance(entry, Mapping):
                result[part][name] = {**(base or {}).get(part, {}).get(name, {}), **entry}
    return result


def sweep(
    play: Callable[[list[dict[str, Any]]], Sequence[Evaluation | None]],
    field: Field,
    threshold: float | None,
    unperturbed: Evaluation | None = None,
    refinements: int = REFINEMENTS,
) -> dict[str, Any]:
    """Return an agent's results at the values of a field, and the margins on either side.

    Args:
        play: evaluates the agent with each of several perturbations; None of those that the engine
            cannot have together with the environment's own.
        field: what is perturbed.
        threshold: the least mean return that counts as borne, None for no margins.
        unperturbed: the results at the nominal value, None to play there too.
        refinements: halvings between the last value that is borne and the first that is not.

    Returns:
        ``points``, in ascending order of ``value``, with ``mean``, its 95 % bootstrap interval
        ``low`` and ``high``, and the share of episodes ``lost``; and ``margins`` with ``below`` and
        ``above`` the nominal value: the perturbation nearest to it at which the return falls below
        the threshold, found by bisection, None where all that were tried are borne.
    """
    points: dict[float, dict[str, float]] = {}
    impossible = set()
    if unperturbed is not None:
        points[field.nominal] = {"value": field.nominal, **figures(unperturbed)}

    def play_at(values: Sequence[float]) -> None:
        new = [value for value in values if value not in points and value not in impossible]
        evaluations = play([field.perturb(value) for value in new]) if new else []
        for value, evaluation in zip(new, evaluations, strict=True):
            if evaluation is None:
                impossible.add(value)
            else:
                points[value] = {"value": value, **figures(evaluation)}

    def mean_at(value: float) -> float:
        play_at([value])
        return points[value]["mean"] if value in points else math.inf

    play_at([field.nominal, *field.values])
    margins: dict[str, float | None] = {}
    for side, values in zip(("below", "above"), field.both_sides, strict=True):
        margins[side] = None
        if threshold is not None:
            margins[side] = _margin(mean_at, field, values, threshold, refinements)
    return {"points": [points[value] for value in sorted(points)], "margins": margins}


def _margin(
    mean_at: Callable[[float], float],
    field: Field,
    values: Sequence[float],
    threshold: float,
    refinements: int,
) -> float | None:
    borne = field.nominal
    if mean_at(borne) < threshold:
        return borne
    failing = next((value for value in values if mean_at(value) < threshold), None)
    if failing is None:
        return None
    if index := values.index(failing):
        borne = values[index - 1]
    for _ in range(refinements):
        middle = (borne + failing) / 2
        if field.whole:
            middle = math.floor(middle)
            if middle in (borne, failing):
                break
        if mean_at(middle) < threshold:
            failing = middle
        else:
            borne = middle
    return failing


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Return mean return, its 95 % bootstrap interval, and the share of episodes that were lost."""
    mean = mean_interval(evaluation.returns)
    return {
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "lost": float(evaluation.terminated.mean()),
    }
