"""What a problem is: its numbers, its start, its observation and its end, for one robot or many.

A task holds no engine objects and nothing that changes. ``build`` puts its bodies into a
:class:`~bullet_envs.world.World` and returns a :class:`Scene`, which moves and reads them.

A state is a sequence of columns in SI units, named by ``state_names``. ``observe`` and ``failed``
take columns of floats (one robot) or of arrays (many robots). Floats earn their keep: for one robot
``outcome`` takes 0.2 (cart-pole) or 1.9 (plate) microseconds, with arrays of one row 2.1 or 20.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium import spaces

from .camera import Camera
from .world import GRAVITY, MAX_PHYSICS_HZ, MAX_SPEED, World

State = Sequence[Any]
Effort = tuple[float, ...]


class Scene(Protocol):
    """The bodies of one robot in a world, or of several: its rows."""

    def place(self, states: Mapping[int, State]) -> None:
        """Teleport the bodies of some rows to states."""

    def act(self, efforts: Sequence[float]) -> None:
        """Set the force (N) or torques (N·m) of the next control period, row after row."""

    def read(self) -> State:
        """Return the columns of the present state, row after row."""


def require(name: str, value: Any, low: float, high: float, unit: str, whole: bool = False) -> None:
    """Refuse a value that is not a number, or a whole one, from ``low`` to ``high``.

    Raises:
        TypeError: it is no such number.
        ValueError: it is out of the range.
    """
    kind, word = (Integral, "whole number") if whole else (Real, "number")
    legal = f"must be a {word} from {low:g} to {high:g} {unit}"
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}={value!r} {legal}")
    if not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} {legal}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The contract of a problem, and what every problem has.

    Each problem adds its own keywords and a table of them to these:

    Args:
        physics_hz: physics steps per second, a whole multiple of ``control_hz``, at most 1000.
        control_hz: actions per second, 10 to 1000.
        continuous: ``Box(-1, 1)`` actions, in units of the greatest effort, in place of
            ``Discrete`` ones.

    Raises:
        TypeError: a keyword has the wrong type.
        ValueError: a keyword is out of its range.
    """

    physics_hz: int = 100
    control_hz: int = 50
    continuous: bool = False

    gravity: ClassVar[float] = GRAVITY
    state_names: ClassVar[tuple[str, ...]]
    observed_names: ClassVar[tuple[str, ...]]  # of the columns that ``observe`` returns
    # What each Discrete action does, in units of the greatest effort.
    directions: ClassVar[tuple[tuple[int, ...], ...]]
    rows_per_world: ClassVar[int]  # of a batch: as many as are stepped fast
    video_camera: ClassVar[Camera]
    agent_camera: ClassVar[Camera]

    def __post_init__(self) -> None:
        """Check the keywords."""
        if not isinstance(self.continuous, bool):
            raise TypeError(f"continuous={self.continuous!r} must be True or False")
        self._require("control_hz", 10, MAX_PHYSICS_HZ, "Hz", whole=True)
        self._require("physics_hz", self.control_hz, MAX_PHYSICS_HZ, "Hz", whole=True)
        if self.physics_hz % self.control_hz:
            raise ValueError(
                f"physics_hz={self.physics_hz} must be a whole multiple of"
                f" control_hz={self.control_hz}"
            )

    def _require(self, name: str, low: float, high: float, unit: str, whole: bool = False) -> None:
        require(name, getattr(self, name), low, high, unit, whole)

    @property
    def greatest_effort(self) -> float:
        """The force (N) or torque (N·m) of an action of size 1."""
        raise NotImplementedError

    @property
    def efforts(self) -> list[Effort]:
        """What each Discrete action does: forces (N) or torques (N·m)."""
        return [
            tuple(self.greatest_effort * sign for sign in direction)
            for direction in self.directions
        ]

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The action space of one robot."""
        if self.continuous:
            return spaces.Box(-1.0, 1.0, (len(self.directions[0]),), np.float32)
        return spaces.Discrete(len(self.directions))

    @property
    def observation_space(self) -> spaces.Box:
        """The observation space of one robot, with bounds that the physics cannot leave."""
        high = np.array(self.observation_bounds(), np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    def _reach(self, limit: float) -> float:
        """How far a coordinate can be after the action that takes it past ``limit``."""
        return limit + MAX_SPEED / self.control_hz

    def observation_bounds(self) -> tuple[float, ...]:
        """Return the largest absolute value of each column of the observation."""
        raise NotImplementedError

    def rest(self) -> State:
        """Return the state of one robot at its unstable equilibrium."""
        raise NotImplementedError

    def draw_start(self, rng: np.random.Generator) -> State:
        """Draw the first state of an episode of one robot."""
        raise NotImplementedError

    def observe(self, state: State) -> Sequence[Any]:
        """Return the columns of the observation."""
        raise NotImplementedError

    def failed(self, state: State) -> Any:
        """Return whether the episode ends here."""
        raise NotImplementedError

    def outcome(self, state: State) -> tuple[float, Any]:
        """Return the reward and whether the episode ends."""
        return 1.0, self.failed(state)

    def followed(self, state: State) -> tuple[float, float, float]:
        """Return the point that ``agent_camera`` moves with (m)."""
        return 0.0, 0.0, 0.0

    def build(self, world: World, rows: int = 1) -> Scene:
        """Load the bodies of one robot or more into a world."""
        raise NotImplementedError

    def check_start(self, state: State) -> None:
        """Refuse a user's first state from which the physics could not go on.

        Raises:
            ValueError: the state is an end.
        """
        if self.failed(state):
            named = dict(zip(self.state_names, state, strict=True))
            raise ValueError(f"state {named} is one in which the episode has ended")

    def named_state(self, named: Mapping[str, float]) -> State:
        """Return the state with these columns, every other one being as in :meth:`rest`.

        Raises:
            TypeError: ``named`` is not a mapping of numbers.
            ValueError: a name is unknown or the state is not one to start from.
        """
        if not isinstance(named, Mapping):
            raise TypeError(
                f"state {named!r} must be a dict such as {{{self.state_names[0]!r}: 0.1}}"
            )
        unknown = [name for name in named if name not in self.state_names]
        if unknown:
            raise ValueError(f"state has no {unknown}; its names are {', '.join(self.state_names)}")
        columns = {**dict(zip(self.state_names, self.rest(), strict=True)), **named}
        for name, value in named.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"state {name}={value!r} must be a number")
            if not abs(value) <= MAX_SPEED:
                raise ValueError(f"state {name}={value!r} must lie from -100 to 100 in SI units")
        state = tuple(float(columns[name]) for name in self.state_names)
        self.check_start(state)
        return state
