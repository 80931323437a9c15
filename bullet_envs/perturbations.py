"""What differs from episode to episode: parameters, sensors, actuators and pushes, given as data.

Every id takes them as ``perturbations={...}``, the name of one of the task's presets, or None. All
numbers are drawn from the sub-environment's own generator, so that the same seed gives the same
episode, single and vector, in any process::

    gym.make(
        "BulletCartPole-v0",
        perturbations={
            "parameters": {"pole_mass": {"uniform": [0.5, 1.5], "operation": "scale"}},
            "actions": {"delay": 1, "noise": {"slider": 0.5}},
            "observations": {"noise": {"theta": 0.01}, "dropped": {"probability": 0.01}},
            "pushes": [{"body": "pole", "direction": [1, 0, 0], "impulse": 0.05, "time": 2.0}],
        },
    )

The order of what is drawn: with ``reset`` parameters and whatever else holds for an episode, the
initial state, noise of the first observation; with each step noise of the action, pushes, noise of
the observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from .checks import require, shorten

if TYPE_CHECKING:
    from .task import Task

OPERATIONS = ("absolute", "scale", "add")
WHEN = ("reset", "make")
MAX_DELAY = 100  # control periods
VARIANTS = 8  # of a parameter that is drawn, where images are observed


@dataclass(frozen=True)
class Distribution:
    """Of a number.

    As data ``{"uniform": [low, high]}``, ``{"log_uniform": [low, high]}``,
    ``{"normal": [mean, std, low, high]}``, or a number that is always the same. A normal
    distribution is cut at its bounds: what lies beyond is drawn anew.
    """

    kind: str
    numbers: tuple[float, ...]

    @property
    def low(self) -> float:
        """The least value."""
        return self.numbers[0] if self.kind != "normal" else self.numbers[2]

    @property
    def high(self) -> float:
        """The greatest value."""
        return self.numbers[-1]

    @cached_property
    def _start_and_span(self) -> tuple[float, float]:
        low, high = map(math.log, self.numbers) if self.kind == "log_uniform" else self.numbers
        return low, high - low

    def quantile(self, share: float) -> float:
        """Return the value below which a share of them lies; of uniform and log-uniform ones."""
        start, span = self._start_and_span
        number = start + span * share
        if self.kind == "uniform":
            return number
        low, high = self.numbers
        return min(max(math.exp(number), low), high)

    def sample(self, rng: np.random.Generator) -> float:
        """Return a value."""
        if self.kind == "constant":
            return self.numbers[0]
        if self.kind != "normal":
            # The numbers of Generator.uniform, to the bit, in a third of its time.
            return self.quantile(rng.random())
        mean, std, low, high = self.numbers
        while not low <= (value := float(rng.normal(mean, std))) <= high:
            pass
        return value


_LENGTHS = {"uniform": 2, "log_uniform": 2, "normal": 4}


def _distribution(name: str, given: Any) -> Distribution:
    """Return the distribution of a number or of a dict with one.

    Raises:
        TypeError: it is neither.
        ValueError: the numbers are none that it can have.
    """
    if isinstance(given, Real) and not isinstance(given, bool):
        require(name, given, -1e9, 1e9)
        return Distribution("constant", (float(given),))
    kinds = [kind for kind in _LENGTHS if isinstance(given, Mapping) and kind in given]
    if len(kinds) != 1:
        raise TypeError(
            f"{name}={shorten(given)} must be a number, {{'uniform': [low, high]}},"
            " {'log_uniform': [low, high]} or {'normal': [mean, std, low, high]}"
        )
    (kind,) = kinds
    numbers = given[kind]
    legal = f"{name}[{kind!r}]={shorten(numbers)} must be {_LENGTHS[kind]} numbers"
    if not isinstance(numbers, list | tuple) or len(numbers) != _LENGTHS[kind]:
        raise ValueError(legal)
    for number in numbers:
        require(f"{name}[{kind!r}]", number, -1e9, 1e9)
    *first, low, high = map(float, numbers)
    if low > high or (kind == "log_uniform" and low <= 0):
        raise ValueError(f"{legal}, the last two in order" + " and above 0" * (kind[0] == "l"))
    if first and not (first[1] > 0 and low - 3 * first[1] <= first[0] <= high + 3 * first[1]):
        raise ValueError(f"{legal}: std above 0, and mean at most 3 std beyond the bounds")
    return Distribution(kind, (*first, low, high))


@dataclass(frozen=True)
class ParameterDraw:
    """How a parameter of the task is drawn.

    Args:
        distribution: of the number.
        operation: ``"absolute"``: it is the value; ``"scale"``: the factor of the nominal value;
            ``"add"``: what is added to it.
        when: ``"reset"``: for each episode; ``"make"``: for the first one, and kept.
    """

    distribution: Distribution
    operation: str = "absolute"
    when: str = "reset"

    def value(self, nominal: float, number: float) -> float:
        """Return the value of the parameter for a drawn number."""
        if self.operation == "scale":
            return nominal * number
        return nominal + number if self.operation == "add" else number


@dataclass(frozen=True)
class Fault:
    """A sensor that fails for some control periods.

    Args:
        probability: that it begins to, in each period in which it works, 0 to 1.
        steps: control periods, 1 to 1000.
    """

    probability: float = 0.0
    steps: int = 1


@dataclass(frozen=True)
class Push:
    """A force on a body, through its centre of mass.

    Args:
        body: a link's name in its URDF.
        direction: x, y and z in world axes, of any length, or ``"random"``: horizontal.
        force: N, during ``duration``.
        impulse: N·s in place of a force: spread over one control period.
        duration: s; inf until the end of the episode.
        time: s, when it begins; drawn for each episode.
        period: s between the beginnings of pushes, 0 for one push.
        rate: pushes per second at random times in place of ``time`` and ``period``.
    """

    body: str
    direction: tuple[float, float, float] | str
    force: Distribution
    duration: float
    time: Distribution
    period: float
    rate: float


@dataclass(frozen=True)
class Perturbations:
    """What an environment is perturbed by, checked. Made by :func:`parse_perturbations`.

    Args:
        parameters: how each is drawn.
        action_delay: control periods between a command and its effect.
        action_noise: standard deviation of the noise of each actuator's command (SI units).
        dead_zone: commands of each actuator below which nothing happens (SI units).
        saturation: the greatest command of each actuator (SI units).
        observation_delay: control periods between a state and its observation.
        noise: standard deviation of each column of the observation (SI units).
        bias: of each column, drawn for each episode (SI units).
        dropped: columns that read 0, or a black image.
        stuck: columns, or an image, that stay as they were.
        brightness: factor of an image, drawn for each episode.
        image_noise: standard deviation of each number of an image, of 255.
        camera: standard deviation of each coordinate of the camera's eye, drawn for each episode
            (m).
        pushes: on bodies.
    """

    parameters: Mapping[str, ParameterDraw] = field(default_factory=dict)
    action_delay: int = 0
    action_noise: tuple[float, ...] = ()
    dead_zone: tuple[float, ...] = ()
    saturation: tuple[float, ...] = ()
    observation_delay: int = 0
    noise: tuple[float, ...] = ()
    bias: Mapping[int, Distribution] = field(default_factory=dict)
    dropped: Fault = Fault()
    stuck: Fault = Fault()
    brightness: Distribution | None = None
    image_noise: float = 0.0
    camera: float = 0.0
    pushes: tuple[Push, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What :meth:`Task.world_task` is told."""
        return *self.parameters, *(("pushes",) if self.pushes else ())

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is beside the parameters, for people."""
        periods = {"action": self.action_delay, "observation": self.observation_delay}
        notes = [f"{name} {of} control periods late" for name, of in periods.items() if of]
        others = {
            "action noise": self.action_noise,
            "dead zone": self.dead_zone,
            "saturation": self.saturation,
            "observation noise": self.noise,
            "observation bias": self.bias,
            "dropped observations": self.dropped.probability,
            "stuck observations": self.stuck.probability,
            "noise of images": self.image_noise,
            "camera moved": self.camera,
            "pushes": self.pushes,
        }
        if named := [name for name, of in others.items() if of]:
            notes.append(", ".join(named))
        return tuple(notes)

    @property
    def acts(self) -> bool:
        """Whether more than parameters changes what happens in a step."""
        of_commands = self.action_delay or self.action_noise or self.dead_zone or self.saturation
        return bool(of_commands or self.pushes)

    @property
    def observes(self) -> bool:
        """Whether more than parameters changes an observation."""
        faults = self.dropped.probability or self.stuck.probability
        of_images = self.image_noise or self.brightness or self.camera
        return bool(self.observation_delay or self.noise or self.bias or faults or of_images)

    def decides_observations(self, task: Task, is_image: bool) -> bool:
        """Whether an observation depends on more than the state."""
        sizes = [one.name for one in task.parameters if one.visible] if is_image else []
        return self.observes or any(name in self.parameters for name in sizes)


def parse_perturbations(given: Any, task: Task, is_image: bool) -> Perturbations:
    """Return the perturbations that a keyword asks for.

    Args:
        given: None, the name of one of ``task.perturbation_presets``, or a dict as in the example
            above.
        task: whose parameters, actuators and columns are named.
        is_image: whether the observation is one.

    Raises:
        TypeError: a part has the wrong type.
        ValueError: a name is unknown, or a number out of its range.
    """
    if given is None:
        return Perturbations()
    if isinstance(given, str):
        presets = task.perturbation_presets
        if given not in presets:
            raise ValueError(
                f"perturbations={shorten(given)} must be a dict or one of {', '.join(presets)}"
                if presets
                else f"perturbations={shorten(given)} must be a dict: the task has no presets"
            )
        given = for_observer(presets[given], is_image)
    parts = _entries("perturbations", given, _PARTS)
    if "images" in parts and not is_image:
        raise ValueError("perturbations['images'] is for environments that observe images")
    checked = Perturbations()
    if "parameters" in parts:
        checked = replace(checked, parameters=_parameters(parts["parameters"], task))
    if "actions" in parts:
        checked = replace(checked, **_actions(parts["actions"], task))
    if "observations" in parts:
        checked = replace(checked, **_observations(parts["observations"], task, is_image))
    if "images" in parts:
        checked = replace(checked, **_images(parts["images"]))
    if "pushes" in parts:
        checked = replace(checked, pushes=_pushes(parts["pushes"], task))
    return checked


def for_observer(preset: Mapping[str, Any], is_image: bool) -> Mapping[str, Any]:
    """Return what of a preset is for images, or for states."""
    if not is_image:
        return {name: part for name, part in preset.items() if name != "images"}
    sensors = {
        name: part
        for name, part in preset.get("observations", {}).items()
        if name not in ("noise", "bias")
    }
    return {**preset, "observations": sensors}


_PARTS = ("parameters", "actions", "observations", "images", "pushes")


def _entries(name: str, given: Any, legal: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}={shorten(given)} must be a dict with {', '.join(legal)}")
    if unknown := [entry for entry in given if entry not in legal]:
        raise ValueError(f"{name} has no {shorten(unknown[0])}; legal: {', '.join(legal)}")
    return given


def _parameters(given: Any, task: Task) -> dict[str, ParameterDraw]:
    name = "perturbations['parameters']"
    if isinstance(given, Mapping) and not task.parameters:
        raise ValueError(f"{name}: {type(task).__name__} has no parameters")
    legal = {parameter.name: parameter for parameter in task.parameters}
    draws = {}
    for entry, of in _entries(name, given, list(legal)).items():
        one = f"{name}[{entry!r}]"
        distribution = _distribution(one, of)
        rest = dict(of) if isinstance(of, Mapping) else {}
        rest.pop(distribution.kind, None)
        _entries(one, rest, ("operation", "when"))
        draw = ParameterDraw(distribution, **rest)
        for what, choices in (("operation", OPERATIONS), ("when", WHEN)):
            if getattr(draw, what) not in choices:
                raise ValueError(
                    f"{one}[{what!r}]={shorten(rest[what])} must be one of {', '.join(choices)}"
                )
        parameter = legal[entry]
        nominal = getattr(task, entry)
        for number in (distribution.low, distribution.high):
            value = draw.value(nominal, number)
            require(f"{one}: {entry}", value, parameter.low, parameter.high, parameter.unit)
        draws[entry] = draw
    return draws


def _actions(given: Any, task: Task) -> dict[str, Any]:
    name = "perturbations['actions']"
    parts = _entries(name, given, ("delay", "noise", "dead_zone", "saturation"))
    joints = [actuator.joint for actuator in task.actuators]
    checked: dict[str, Any] = {"action_delay": _delay(name, parts)}
    for part, key, default in (
        ("noise", "action_noise", 0.0),
        ("dead_zone", "dead_zone", 0.0),
        ("saturation", "saturation", math.inf),
    ):
        if part in parts:
            checked[key] = _per_column(f"{name}[{part!r}]", parts[part], joints, default)
    return checked


def _observations(given: Any, task: Task, is_image: bool) -> dict[str, Any]:
    name = "perturbations['observations']"
    of_columns = () if is_image else ("noise", "bias")
    parts = _entries(name, given, ("delay", *of_columns, "dropped", "stuck"))
    checked: dict[str, Any] = {"observation_delay": _delay(name, parts)}
    for part in ("dropped", "stuck"):
        if part in parts:
            checked[part] = _fault(f"{name}[{part!r}]", parts[part])
    columns = column_names(task)
    if "noise" in parts:
        checked["noise"] = _per_column(f"{name}['noise']", parts["noise"], columns, 0.0)
    if "bias" in parts:
        biases = _entries(f"{name}['bias']", parts["bias"], columns)
        checked["bias"] = {
            columns.index(column): _distribution(f"{name}['bias'][{column!r}]", of)
            for column, of in biases.items()
        }
    return checked


def _images(given: Any) -> dict[str, Any]:
    name = "perturbations['images']"
    parts = _entries(name, given, ("brightness", "noise", "camera"))
    checked: dict[str, Any] = {}
    if "brightness" in parts:
        checked["brightness"] = brightness = _distribution(
            f"{name}['brightness']", parts["brightness"]
        )
        for number in (brightness.low, brightness.high):
            require(f"{name}['brightness']", number, 0, 10)
    for part, key, most, unit in (
        ("noise", "image_noise", 255, "of 255"),
        ("camera", "camera", 1, "m"),
    ):
        if part in parts:
            require(f"{name}[{part!r}]", parts[part], 0, most, unit)
            checked[key] = float(parts[part])
    return checked


def _pushes(given: Any, task: Task) -> tuple[Push, ...]:
    if not isinstance(given, list | tuple):
        raise TypeError(f"perturbations['pushes']={shorten(given)} must be a list of dicts")
    return tuple(
        _push(f"perturbations['pushes'][{index}]", of, task) for index, of in enumerate(given)
    )


def _push(name: str, given: Any, task: Task) -> Push:
    legal = ("body", "direction", "force", "impulse", "duration", "time", "period", "rate")
    parts = _entries(name, given, legal)
    if ("force" in parts) == ("impulse" in parts):
        raise ValueError(f"{name} must have either 'force' (N) or 'impulse' (N·s)")
    if "body" not in parts:
        raise ValueError(f"{name} must have a 'body': the name of a link")
    if "rate" in parts and ("time" in parts or "period" in parts):
        raise ValueError(f"{name} must have either 'rate' or 'time' and 'period'")
    direction: Any = parts.get("direction", (1.0, 0.0, 0.0))
    if direction != "random":
        if not isinstance(direction, list | tuple) or len(direction) != 3:
            raise ValueError(
                f"{name}['direction']={shorten(direction)} must be 'random' or three numbers"
            )
        for number in direction:
            require(f"{name}['direction']", number, -1e6, 1e6)
        if not any(direction):
            raise ValueError(f"{name}['direction']={shorten(direction)} must not be 0")
        length = math.hypot(*direction)
        direction = tuple(number / length for number in direction)
    period = 1 / task.control_hz
    duration = parts.get("duration", period if "impulse" in parts else math.inf)
    if "impulse" in parts and "duration" in parts:
        raise ValueError(f"{name}['duration'] is for a 'force': an impulse takes one period")
    force = _distribution(
        f"{name}[{'impulse' if 'impulse' in parts else 'force'!r}]",
        parts.get("impulse", parts.get("force")),
    )
    if "impulse" in parts:
        scaled = tuple(number * task.control_hz for number in force.numbers)
        force = Distribution(force.kind, scaled)
    require(f"{name}['duration']", duration, period, math.inf, "s")
    require(f"{name}['period']", parts.get("period", 0), 0, 1e6, "s")
    require(f"{name}['rate']", parts.get("rate", 0), 0, task.control_hz, "per second")
    time = _distribution(f"{name}['time']", parts.get("time", 0.0))
    require(f"{name}['time']", time.low, 0, 1e6, "s")
    return Push(
        body=parts["body"],
        direction=direction,
        force=force,
        duration=float(duration),
        time=time,
        period=float(parts.get("period", 0.0)),
        rate=float(parts.get("rate", 0.0)),
    )


def _delay(name: str, parts: Mapping[str, Any]) -> int:
    delay = parts.get("delay", 0)
    require(f"{name}['delay']", delay, 0, MAX_DELAY, "control periods", whole=True)
    return int(delay)


def _fault(name: str, given: Any) -> Fault:
    parts = _entries(name, given, ("probability", "steps"))
    fault = Fault(**parts)
    require(f"{name}['probability']", fault.probability, 0, 1)
    require(f"{name}['steps']", fault.steps, 1, 1000, "control periods", whole=True)
    return fault


def _per_column(name: str, given: Any, columns: Sequence[str], default: float) -> tuple[float, ...]:
    parts = _entries(name, given, columns)
    for column, value in parts.items():
        require(f"{name}[{column!r}]", value, 0, 1e9, "SI units")
    return tuple(float(parts.get(column, default)) for column in columns)


def column_names(task: Task) -> list[str]:
    """Return the names of the columns of an observation.

    Of a Dict ``"entry.column"``, with the numbers of the columns if the task does not name them.
    """
    names, space = task.observed_names, task.observation_space
    if isinstance(space, spaces.Dict):
        return [
            f"{entry}.{name}"
            for entry, box in space.spaces.items()
            for name in (names[entry] if isinstance(names, Mapping) else range(box.shape[0]))  # type: ignore[index]
        ]
    return list(names)


def column_scales(task: Task, count: int) -> Sequence[float]:
    """Return what each of ``count`` columns of an observation is divided by (SI units)."""
    scale = task.observation_scale
    if isinstance(scale, Mapping):
        entries: Any = task.observation_space
        return [number for entry in entries.spaces for number in scale[entry]]
    return scale or (1.0,) * count
