"""What a problem is: its numbers, initial states, observation, reward, termination and actuators.

Subclass :class:`Task`, decorate it with :func:`~bullet_envs.registration.register_task`, and the
environment is there: single and vector, with the state or with images for an observation.
``docs/custom_environment.md`` leads through an example.

A task holds no engine objects and nothing that changes. A state is a sequence of columns in SI
units, named by ``state_names``. ``observe``, ``reward``, ``terminated`` and ``info`` take columns
of floats (one sub-environment) or of arrays (all of a vector environment), so they must be written
with operators and functions that take both: ``|`` and ``&`` in place of ``or`` and ``and``,
``np.cos`` in place of ``math.cos``, and ``x * x`` in place of ``x**2``, which Python and NumPy
round differently. Floats are the faster: for one cart-pole they take 0.2
microseconds, arrays of one element 2.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from .camera import Camera
from .checks import require, shorten
from .engine import GRAVITY, MAX_PHYSICS_HZ, MAX_SPEED
from .scene import Actuator, Scene

if TYPE_CHECKING:
    from .engine.world import World

State = Sequence[Any]
Columns = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A keyword of a task that perturbations may change from episode to episode.

    Its default, or what the keyword is given, is the nominal value.

    Args:
        name: of the keyword, a float.
        unit: SI.
        low: the least legal value.
        high: the greatest legal value.
        visible: images show it: the size of a body.
        rebuilds: the engine cannot change it in place. Perturbed environments then have a world for
            each sub-environment, which is built anew for each episode, in some milliseconds.
    """

    name: str
    unit: str
    low: float
    high: float
    visible: bool = False
    rebuilds: bool = False


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """The contract of a problem, and what every problem has.

    A subclass is a frozen dataclass with ``kw_only=True``; its fields are the keywords of the
    environment. Those of every task:

    Args:
        physics_hz: physics steps per second, a whole multiple of ``control_hz``, at most 1000.
        control_hz: actions per second, 10 to 1000.
        continuous: ``Box(-1, 1)`` actions, in units of the actuators' scales, in place of
            ``Discrete`` ones. A task without ``discrete_actions`` has no other.

    Class attributes:
        state_names: of the columns of a state, in the order of the scene's parts.
        max_episode_steps: actions after which an episode is truncated; None for no limit.
        reward_threshold: the mean return at which the task counts as solved; None for no such.
        discrete_actions: what each ``Discrete`` action commands, in units of the actuators'
            scales; None for a task whose actions are continuous only.
        has_equilibrium: whether :meth:`rest` is an equilibrium that a linear-quadratic regulator
            can hold; the agent ``"lqr"`` is then offered. Joint friction rules it out: a joint that
            sticks does not answer to a small torque.
        parameters: the keywords that perturbations may change. :meth:`set_parameters` applies those
            that are not actuators' scales.
        perturbation_template: perturbations of which the presets ``easy``, ``medium`` and ``hard``
            are scaled by :func:`~bullet_envs.perturbation_scaling.scaled`.
        perturbation_presets: perturbations by name, as data. They may have parts for states and for
            images.
        observation_scale: what each column of :meth:`observe` is divided by, in SI units, where
            they are; of a Dict one tuple for each entry. Perturbations are given in SI units.
        gravity: along -z (m/s²).
        envs_per_world: sub-environments of a vector environment that share a Bullet world, 1 to 31
            (any number for a ``ContactFreeScene``). More than 1 saves memory, 30 MB for each world,
            and is for robots without motors, joint limits and joint friction: Bullet solves those
            of a body in an order that depends on the other bodies of the world (it sorts them by
            island with an unstable quicksort), so that sub-environments would differ from single
            ones by 1e-9 to 1e-6 in a step. All pairs of bodies of a world are looked at, so large
            worlds become slow.
        bullet_substeps: see :class:`~bullet_envs.engine.world.World`; asked for by a task that has
            proved that it may.
        video_camera: what ``render()`` draws with.
        floor_height: of the floor of those frames (m).
        keys: of ``bullet-envs play``: for each actuator the key that commands less, and that which
            commands more.
        agent_camera: what the pixel id draws with.

    Raises:
        TypeError: a keyword has the wrong type.
        ValueError: a keyword is out of its range.
    """

    physics_hz: int = 100
    control_hz: int = 50
    continuous: bool = False

    state_names: ClassVar[tuple[str, ...]]
    max_episode_steps: ClassVar[int | None] = 500
    reward_threshold: ClassVar[float | None] = None
    discrete_actions: ClassVar[tuple[tuple[float, ...], ...] | None] = None
    has_equilibrium: ClassVar[bool] = False
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    perturbation_template: ClassVar[Mapping[str, Any]] = {}
    perturbation_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    observation_scale: ClassVar[Any] = None
    gravity: ClassVar[float] = GRAVITY
    envs_per_world: ClassVar[int] = 1
    bullet_substeps: ClassVar[bool] = False
    video_camera: ClassVar[Camera] = Camera(eye=(0.9, -1.3, 0.9), target=(0.0, 0.0, 0.1), fov=40.0)
    floor_height: ClassVar[float] = 0.0
    keys: ClassVar[tuple[tuple[str, str], ...]] = (
        ("left", "right"),
        ("down", "up"),
        ("a", "d"),
        ("s", "w"),
    )
    agent_camera: ClassVar[Camera] = Camera(
        eye=(0.9, -1.3, 0.9), target=(0.0, 0.0, 0.1), fov=40.0, shadow=False
    )

    def __post_init__(self) -> None:
        """Check the keywords. A subclass calls this first, then checks its own."""
        if not isinstance(self.continuous, bool):
            raise TypeError(f"continuous={shorten(self.continuous)} must be True or False")
        self._require("control_hz", 10, MAX_PHYSICS_HZ, "Hz", whole=True)
        self._require("physics_hz", self.control_hz, MAX_PHYSICS_HZ, "Hz", whole=True)
        if self.physics_hz % self.control_hz:
            raise ValueError(
                f"physics_hz={self.physics_hz} must be a whole multiple of"
                f" control_hz={self.control_hz}"
            )
        for parameter in self.parameters:
            self._require(parameter.name, parameter.low, parameter.high, parameter.unit)

    def _require(
        self, name: str, low: float, high: float, unit: str = "", whole: bool = False
    ) -> None:
        """Refuse a keyword that is not a number from ``low`` to ``high``."""
        require(name, getattr(self, name), low, high, unit, whole)

    @property
    @abstractmethod
    def actuators(self) -> tuple[Actuator, ...]:
        """What each column of an action does."""

    @abstractmethod
    def build(self, world: World, num_envs: int) -> Scene:
        """Load the bodies of some sub-environments into a world.

        Args:
            world: where to load them.
            num_envs: sub-environments, at most ``envs_per_world``.

        Returns:
            Their scene, usually a :class:`~bullet_envs.scene.BodyScene`.
        """

    def set_parameters(self, scene: Any, index: int) -> None:  # noqa: B027
        """Give the bodies of a sub-environment the parameters of this task, in place.

        Called for each sub-environment after :meth:`build` unless all parameters have their
        defaults, which are those of the files; and where parameters are perturbed before each
        episode, with the task of that episode.

        Args:
            scene: what :meth:`build` returned, for this task or for :meth:`world_task`.
            index: of the sub-environment in the scene.
        """

    @property
    def has_defaults(self) -> bool:
        """Whether all parameters have their defaults."""
        names = {parameter.name for parameter in self.parameters}
        return all(
            getattr(self, field.name) == field.default
            for field in fields(self)
            if field.name in names
        )

    def with_parameters(self, values: Mapping[str, Any]) -> Task:
        """Return the task with other values of some keywords.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: a value is out of its range.
        """
        return replace(self, **values)

    def rates(self, state: Any, effort: Any) -> Any:
        """Return d(state)/dt by equations of motion that do not come from the engine, or None.

        ``bullet-envs validate`` compares the engine with them.

        Args:
            state: array of shape (runs, columns).
            effort: of each actuator, array of shape (runs, actuators).
        """
        return None

    def without_dry_friction(self) -> Task:
        """Return the task without friction that holds what moves slowly, for a linear model."""
        return self

    def world_task(self, perturbed: Collection[str]) -> Task:
        """Return the task whose bodies are loaded where some parameters will be changed in place.

        Args:
            perturbed: their names, and ``"pushes"`` where bodies are pushed.
        """
        return self

    @abstractmethod
    def rest(self) -> State:
        """Return a state at rest: the equilibrium to hold, if the task has one.

        Columns that ``reset(options={"state": ...})`` does not name are taken from it.
        """

    @abstractmethod
    def sample_initial_state(self, rng: np.random.Generator) -> State:
        """Return the initial state of an episode of one sub-environment, a sequence of floats."""

    @abstractmethod
    def observe(self, state: State) -> Columns | Mapping[str, Columns]:
        """Return the columns of the observation, or those of each entry of a Dict."""

    @abstractmethod
    def observation_bounds(self) -> Sequence[float] | Mapping[str, Sequence[float]]:
        """Return the greatest absolute value of each column that :meth:`observe` returns."""

    @abstractmethod
    def terminated(self, state: State) -> Any:
        """Return whether the episode terminates in a state: bool, or an array of bools."""

    def failure(self, state: State) -> str:
        """Say which limit a state has passed in which the episode terminates, for people."""
        return "terminated"

    def reward(self, state: State, action: Columns, next_state: State) -> Any:
        """Return the reward of an action, or the terms whose sum it is by name.

        Terms are shown in ``info["reward_terms"]``.

        Args:
            state: before the action.
            action: the command of each actuator (SI units), after clipping.
            next_state: after the action.
        """
        return 1.0

    def info(self, state: State) -> Mapping[str, Any]:
        """Return what else is to be known of a state, such as ``is_success``."""
        return {}

    @property
    def observed_names(self) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        """The names of the columns that :meth:`observe` returns; by default the state's."""
        return self.state_names

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The action space of one sub-environment."""
        if self.continuous or self.discrete_actions is None:
            return spaces.Box(-1.0, 1.0, (len(self.actuators),), np.float32)
        return spaces.Discrete(len(self.discrete_actions))

    @property
    def observation_space(self) -> spaces.Box | spaces.Dict:
        """The observation space of one sub-environment."""
        bounds = self.observation_bounds()
        if isinstance(bounds, Mapping):
            return spaces.Dict({name: _box(high) for name, high in bounds.items()})
        return _box(bounds)

    def decorate(self, world: World) -> None:  # noqa: B027  (most have nothing to add)
        """Add to a world what only people see, in videos and in the window."""

    def camera_target(self, state: State) -> tuple[float, float, float]:
        """Return the point that ``agent_camera`` moves with (m)."""
        return 0.0, 0.0, 0.0

    def coordinates(self, state: State) -> Columns:
        """Return the independent coordinates of a state, 0 at :meth:`rest`.

        They are what a linear-quadratic regulator holds. By default every column that
        ``state_names`` names, less its value at rest. A task with columns that depend on each other
        (the quaternion of a ball), or that physics does not change (a goal), returns fewer.
        """
        return [column - at_rest for column, at_rest in zip(state, self.rest(), strict=True)]

    def from_coordinates(self, coordinates: Sequence[float]) -> State:
        """Return the state that has some coordinates, the inverse of :meth:`coordinates`."""
        return [at_rest + offset for at_rest, offset in zip(self.rest(), coordinates, strict=True)]

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`coordinates` returns."""
        return self.state_names

    @property
    def tolerances(self) -> tuple[float, ...]:
        """The deviation of each coordinate that a regulator weighs as 1 (Bryson's rule)."""
        return (1.0,) * len(self.coordinate_names)

    @property
    def command_tolerances(self) -> tuple[float, ...]:
        """The command of each actuator that a regulator weighs as 1; by default its scale."""
        return tuple(actuator.scale for actuator in self.actuators)

    def _reach(self, limit: float) -> float:
        """Return how far a coordinate can be after the action that takes it past ``limit``."""
        return limit + MAX_SPEED / self.control_hz

    def check_initial_state(self, state: State) -> None:
        """Refuse a user's initial state from which the physics could not go on.

        Raises:
            ValueError: the state is a terminated one.
        """
        if self.terminated(state):
            named = dict(zip(self.state_names, state, strict=True))
            raise ValueError(f"state {shorten(named)} is one in which the episode has terminated")

    def named_state(self, named: Mapping[str, float]) -> State:
        """Return the state with these columns, every other one being as in :meth:`rest`.

        Raises:
            TypeError: ``named`` is not a mapping of numbers.
            ValueError: a name is unknown or the state is not one to begin from.
        """
        if not isinstance(named, Mapping):
            raise TypeError(
                f"state {shorten(named)} must be a dict such as {{{self.state_names[0]!r}: 0.1}}"
            )
        unknown = [name for name in named if name not in self.state_names]
        if unknown:
            raise ValueError(
                f"state has no {shorten(unknown)}; its names are {', '.join(self.state_names)}"
            )
        columns = {**dict(zip(self.state_names, self.rest(), strict=True)), **named}
        for name, value in named.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"state {name}={shorten(value)} must be a number")
            if not abs(value) <= MAX_SPEED:
                raise ValueError(
                    f"state {name}={shorten(value)} must lie from -100 to 100 in SI units"
                )
        state = tuple(float(columns[name]) for name in self.state_names)
        self.check_initial_state(state)
        return state


def _box(bounds: Sequence[float]) -> spaces.Box:
    high = np.array(bounds, np.float32)
    return spaces.Box(-high, high, dtype=np.float32)
