"""What the perturbations of a sub-environment hold for an episode, and what they remember."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .checks import require, shorten
from .perturbations import (
    VARIANTS,
    WHEN,
    Fault,
    ParameterDraw,
    Perturbations,
    Push,
    column_scales,
)
from .snapshots import of_array, to_array

if TYPE_CHECKING:
    from .observers import Observation
    from .task import Task

_Draw = tuple[str, ParameterDraw, float, bool]  # name, how, nominal value, whether it is seen
Force = tuple[str, tuple[float, float, float]]  # a body, and what pushes it in world axes (N)


class PerturbedEpisode:
    """The perturbations of one sub-environment.

    Args:
        task: with its nominal parameters.
        perturbations: what is perturbed.
        space: of an observation.

    Attributes:
        task: with the parameters of the episode.
        eye: what is added to the position of the camera (m).
        gains: the scale of each actuator over its nominal one.
    """

    def __init__(self, task: Task, perturbations: Perturbations, space: spaces.Space[Any]) -> None:
        self.task = task
        self.eye = (0.0, 0.0, 0.0)
        self.gains = self._no_gains = (1.0,) * len(task.actuators)
        self._nominal = task
        self._scales = [actuator.scale for actuator in task.actuators]
        self._perturbations = perturbations
        self._has_more = perturbations.acts or perturbations.observes  # than parameters
        self._made: dict[str, float] | None = None
        is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8
        visible = [one.name for one in task.parameters if one.visible] if is_image else []
        self._draws: dict[str, list[_Draw]] = {when: [] for when in WHEN}
        for name, draw in perturbations.parameters.items():
            nominal = float(getattr(task, name))
            self._draws[draw.when].append((name, draw, nominal, name in visible))
        self._are_uniform = {
            when: all(draw.distribution.kind in ("uniform", "log_uniform") for _, draw, _, _ in of)
            for when, of in self._draws.items()
        }
        self._rest = tuple(float(actuator.centre) for actuator in task.actuators)
        self._commands: deque[Sequence[float]] = deque()
        self._observations: deque[Observation] = deque()
        self._sensors = _Sensors(task, perturbations, space)
        self._pushes: list[_RunningPush] = []

    @property
    def parameters(self) -> dict[str, float]:
        """The perturbed parameters of the episode by name (SI units)."""
        return {name: float(getattr(self.task, name)) for name in self._perturbations.parameters}

    def snapshot(self) -> dict[str, Any]:
        """Return all that an episode remembers, as data."""
        return {
            "made": self._made,
            "parameters": self.parameters,
            "eye": list(self.eye),
            "commands": [list(command) for command in self._commands],
            "observations": [of_array(one) for one in self._observations],
            "sensors": self._sensors.snapshot(),
            "pushes": [push.snapshot() for push in self._pushes],
        }

    def restore(self, taken: Mapping[str, Any], rng: np.random.Generator) -> None:
        """Go on where another episode was; the generator is left as it is."""
        state = rng.bit_generator.state
        self._made = dict(taken["made"])
        self.begin(rng, taken["parameters"])
        rng.bit_generator.state = state
        x, y, z = taken["eye"]
        self.eye = (x, y, z)
        self._commands = deque(taken["commands"])
        self._observations = deque(map(to_array, taken["observations"]))
        self._sensors.restore(taken["sensors"])
        for push, of in zip(self._pushes, taken["pushes"], strict=True):
            push.restore(of)

    def begin(self, rng: np.random.Generator, given: Mapping[str, float]) -> Task:
        """Draw what holds for an episode and return the task with its parameters.

        Args:
            rng: of the sub-environment.
            given: parameters that are not drawn.
        """
        if self._made is None:
            self._made = self._draw(rng, "make")
        values = {**self._made, **self._draw(rng, "reset"), **given}
        # The values are checked already: replace() would take thirty times as long.
        self.task = object.__new__(type(self._nominal))
        self.task.__dict__.update(self._nominal.__dict__, **values)
        scales = [actuator.scale for actuator in self.task.actuators]
        self.gains = self._no_gains
        if scales != self._scales:
            self.gains = tuple(a / b for a, b in zip(scales, self._scales, strict=True))
        if self._has_more:
            self._begin_more(rng)
        return self.task

    def _begin_more(self, rng: np.random.Generator) -> None:
        of = self._perturbations
        self._commands = deque([self._rest] * of.action_delay)
        self._observations.clear()
        self._sensors.begin(rng)
        if of.camera:
            x, y, z = rng.normal(0.0, of.camera, 3).tolist()
            self.eye = (x, y, z)
        self._pushes = [_RunningPush(push, self.task.control_hz, rng) for push in of.pushes]

    def _draw(self, rng: np.random.Generator, when: str) -> dict[str, float]:
        values = {}
        draws = self._draws[when]
        # The same numbers as one by one, in a quarter of the time.
        shares = rng.random(len(draws)).tolist() if self._are_uniform[when] else None
        for position, (name, draw, nominal, is_seen) in enumerate(draws):
            of = draw.distribution
            number = of.sample(rng) if shares is None else of.quantile(shares[position])
            if is_seen and of.high > of.low:
                share = round((number - of.low) / (of.high - of.low) * (VARIANTS - 1))
                number = of.low + share / (VARIANTS - 1) * (of.high - of.low)
            values[name] = draw.value(nominal, number)
        return values

    def command(self, rng: np.random.Generator, command: Sequence[float]) -> Sequence[float]:
        """Return what the actuators do in a control period.

        Args:
            rng: of the sub-environment.
            command: of the agent, with the nominal scales.
        """
        of = self._perturbations
        if self.gains is not self._no_gains:
            command = [
                rest + gain * (one - rest)
                for rest, gain, one in zip(self._rest, self.gains, command, strict=True)
            ]
        if of.action_delay:
            self._commands.append(command)
            command = self._commands.popleft()
        if of.action_noise:
            noise = rng.standard_normal(len(command)).tolist()
            command = [
                one + std * error
                for one, std, error in zip(command, of.action_noise, noise, strict=True)
            ]
        if of.dead_zone:
            command = [
                one if abs(one) > zone else 0.0
                for one, zone in zip(command, of.dead_zone, strict=True)
            ]
        if of.saturation:
            command = [
                min(most, max(-most, one)) for one, most in zip(command, of.saturation, strict=True)
            ]
        return command

    def forces(self, rng: np.random.Generator) -> list[Force]:
        """Return what pushes in a control period; to be called once in each."""
        forces = [push.next(rng) for push in self._pushes]
        return [force for force in forces if force is not None]

    def observe(self, rng: np.random.Generator, observation: Observation) -> Observation:
        """Return what the sensors make of an observation; to be called once for each state."""
        observation = self._sensors.read(rng, observation)
        if delay := self._perturbations.observation_delay:
            if not self._observations:
                self._observations.extend([observation] * delay)
            self._observations.append(observation)
            observation = _copy(self._observations.popleft())
        return observation


class _Sensors:
    """Noise, bias and faults of the columns of an observation, or of an image."""

    def __init__(self, task: Task, of: Perturbations, space: spaces.Space[Any]) -> None:
        self._of = of
        self._space = space
        self.is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8
        self._is_dict = isinstance(space, spaces.Dict)
        self._count = 1
        if not self.is_image:
            flat: Any = spaces.flatten_space(space)
            self._low, self._high = flat.low, flat.high
            self._count = len(flat.low)
            # From SI units to those of the observation.
            self._units = 1 / np.array(column_scales(task, self._count))
            self._noise = np.array(of.noise) * self._units if of.noise else None
        self._bias = np.zeros(self._count)
        self._brightness = 1.0
        self._latest: Any = None
        self._dropped, self._stuck = (
            _Faults(of.dropped, self._count),
            _Faults(of.stuck, self._count),
        )

    def begin(self, rng: np.random.Generator) -> None:
        """Draw what holds for an episode."""
        for column, distribution in self._of.bias.items():
            self._bias[column] = distribution.sample(rng) * self._units[column]
        if self._of.brightness is not None:
            self._brightness = self._of.brightness.sample(rng)
        self._latest = None
        self._dropped.begin()
        self._stuck.begin()

    def snapshot(self) -> dict[str, Any]:
        """Return what they remember."""
        return {
            "bias": self._bias.tolist(),
            "brightness": self._brightness,
            "latest": of_array(self._latest),
            "dropped": self._dropped.left.tolist(),
            "stuck": self._stuck.left.tolist(),
        }

    def restore(self, taken: Mapping[str, Any]) -> None:
        """Remember what others did."""
        self._bias[:] = taken["bias"]
        self._brightness = taken["brightness"]
        self._latest = to_array(taken["latest"])
        self._dropped.left[:] = taken["dropped"]
        self._stuck.left[:] = taken["stuck"]

    def read(self, rng: np.random.Generator, observation: Observation) -> Observation:
        """Return an observation as it is read."""
        if self.is_image:
            return self._read_image(rng, observation)
        of = self._of
        if not (of.noise or of.bias or of.dropped.probability or of.stuck.probability):
            return observation
        flat: Any = spaces.flatten(self._space, observation) if self._is_dict else observation
        columns = flat.astype(np.float64)
        if self._noise is not None:
            columns += self._noise * rng.standard_normal(self._count)
        if of.bias:
            columns += self._bias
        # np.clip takes five times as long.
        np.maximum(columns, self._low, out=columns)
        np.minimum(columns, self._high, out=columns)
        stuck = self._stuck.next(rng)
        if stuck is not None and self._latest is not None:
            columns[stuck] = self._latest[stuck]
        self._latest = columns.copy()
        dropped = self._dropped.next(rng)
        if dropped is not None:
            columns[dropped] = 0.0
        read = columns.astype(np.float32)
        return spaces.unflatten(self._space, read) if self._is_dict else read

    def _read_image(self, rng: np.random.Generator, image: Observation) -> Observation:
        of = self._of
        if of.brightness is not None or of.image_noise:
            shades = image * self._brightness
            if of.image_noise:
                shades = shades + rng.normal(0.0, of.image_noise, image.shape)
            image = np.clip(np.rint(shades), 0, 255).astype(np.uint8)
        stuck = self._stuck.next(rng)
        if stuck is not None and stuck[0] and self._latest is not None:
            image = self._latest.copy()
        self._latest = image
        dropped = self._dropped.next(rng)
        if dropped is not None and dropped[0]:
            image = np.zeros_like(image)
        return image


def _copy(observation: Observation) -> Observation:
    return observation.copy() if isinstance(observation, np.ndarray) else copy.deepcopy(observation)


class _Faults:
    """Which columns fail, each for some control periods."""

    def __init__(self, fault: Fault, count: int) -> None:
        self._fault = fault
        self.left: npt.NDArray[np.int64] = np.zeros(count, np.int64)

    def begin(self) -> None:
        """Begin an episode in which all work."""
        self.left[:] = 0

    def next(self, rng: np.random.Generator) -> npt.NDArray[np.bool_] | None:
        """Return which fail in this period, None if none can."""
        if not self._fault.probability:
            return None
        begins = rng.random(len(self.left)) < self._fault.probability
        if self._fault.steps == 1:
            self.left[:] = begins
            return begins
        self.left = np.where(self.left > 0, self.left - 1, 0)
        self.left[begins & (self.left == 0)] = self._fault.steps
        return self.left > 0


class _RunningPush:
    """A push in an episode."""

    def __init__(self, push: Push, control_hz: int, rng: np.random.Generator) -> None:
        self._push = push
        self._hz = control_hz
        self._step = 0
        self._begins = math.inf if push.rate else round(push.time.sample(rng) * control_hz)
        self._ends = -math.inf
        self._force: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def snapshot(self) -> dict[str, Any]:
        """Return where it is; None for what JSON has no number for."""
        return {
            "step": self._step,
            "begins": self._begins if math.isfinite(self._begins) else None,
            "ends": self._ends if math.isfinite(self._ends) else None,
            "forever": self._ends == math.inf,
            "force": list(self._force),
        }

    def restore(self, taken: Mapping[str, Any]) -> None:
        """Go on where another one was."""
        self._step = taken["step"]
        self._begins = math.inf if taken["begins"] is None else taken["begins"]
        self._ends = taken["ends"]
        if self._ends is None:
            self._ends = math.inf if taken["forever"] else -math.inf
        x, y, z = taken["force"]
        self._force = (x, y, z)

    def next(self, rng: np.random.Generator) -> Force | None:
        """Return the force of the next control period, None without one."""
        push, now = self._push, self._step
        self._step += 1
        begins = now == self._begins
        if push.rate:
            begins = rng.random() < push.rate / self._hz
        if begins:
            if push.period:
                self._begins += max(1, round(push.period * self._hz))
            direction = push.direction
            if isinstance(direction, str):
                angle = float(rng.uniform(0.0, 2 * math.pi))
                direction = (math.cos(angle), math.sin(angle), 0.0)
            size = push.force.sample(rng)
            x, y, z = direction
            self._force = (size * x, size * y, size * z)
            steps = push.duration * self._hz
            self._ends = now + (max(1, round(steps)) if math.isfinite(steps) else steps)
        return (push.body, self._force) if now < self._ends else None


def parse_parameters(given: Any, task: Task, perturbations: Perturbations) -> dict[str, float]:
    """Return the parameters of ``reset(options={"parameters": ...})``, checked.

    Raises:
        TypeError: they are not a dict of numbers.
        ValueError: a name is none of a perturbed parameter, or a number out of its range.
    """
    legal = {one.name: one for one in task.parameters if one.name in perturbations.parameters}
    if not isinstance(given, Mapping):
        raise TypeError(f"parameters {shorten(given)} must be a dict such as {{'mass': 0.1}}")
    if unknown := [name for name in given if name not in legal]:
        raise ValueError(
            f"parameters {shorten(unknown[0])} must be among those that the environment's"
            f" perturbations name: {', '.join(legal) or 'none'}"
        )
    for name, value in given.items():
        parameter = legal[name]
        require(f"parameters[{name!r}]", value, parameter.low, parameter.high, parameter.unit)
    return {name: float(value) for name, value in given.items()}
