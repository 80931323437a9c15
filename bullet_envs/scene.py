"""The bodies of one or more sub-environments in a world: what drives, reads and places them.

A scene goes through flat sequences, one sub-environment after the other, in the order in which its
parts were added. ``Task.build`` makes it; PyBullet itself stays behind :class:`Body`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .checks import require
from .engine import MAX_SPEED
from .engine.urdf import Link, read_links

if TYPE_CHECKING:
    from .engine.body import Body
    from .engine.world import World

# What an actuator commands of a joint along an axis, and of one about it.
UNITS = {"torque": ("N", "N·m"), "velocity": ("m/s", "rad/s"), "position": ("m", "rad")}
KINDS = tuple(UNITS)


@dataclass(frozen=True, kw_only=True)
class Actuator:
    """What an action does to a joint.

    An action ``a`` in [-1, 1] commands ``scale * a``: a force or torque, or the target of a motor
    of Bullet's, which reaches it with no more than ``max_force``.

    Args:
        joint: its name in the URDF.
        scale: the command of an action of size 1 (N or N·m; m/s or rad/s; m or rad).
        kind: ``"torque"`` (also a force), ``"velocity"`` or ``"position"``.
        max_force: the greatest force (N) or torque (N·m) of a motor; None takes the ``effort`` of
            the joint's limit in the URDF.
        max_velocity: the greatest speed of a position motor (m/s or rad/s).
        gain: of a position motor, the share of the distance to go in each physics step, 0 to 1.
        centre: the target of a position motor for action 0 (m or rad).

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of its range, or ``kind`` is unknown.
    """

    joint: str
    scale: float
    kind: str = "torque"
    max_force: float | None = None
    max_velocity: float = MAX_SPEED
    gain: float = 0.1
    centre: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}")
        require("scale", self.scale, 1e-9, 1e9, "SI units")
        if self.max_force is not None:
            require("max_force", self.max_force, 0, 1e9, "N or N·m")
        require("max_velocity", self.max_velocity, 0, MAX_SPEED, "m/s or rad/s")
        require("gain", self.gain, 0, 1)
        require("centre", self.centre, -1e6, 1e6, "m or rad")
        if self.centre and self.kind != "position":
            raise ValueError(f"centre={self.centre!r} is for kind='position', not {self.kind!r}")


class Scene(Protocol):
    """The bodies of one sub-environment in a world, or of several."""

    def set_state(self, states: Mapping[int, Sequence[Any]]) -> None:
        """Place the bodies of some sub-environments, given a state for each index."""

    def act(self, commands: Sequence[float]) -> None:
        """Give the actuators their commands for the next step of the world."""

    def state(self) -> list[float]:
        """Return the columns of the present states, sub-environment after sub-environment."""

    def push(self, index: int, link: str, force: Sequence[float]) -> None:
        """Push a body of a sub-environment in the next step of the world (N, world axes)."""


class BodyScene:
    """Robots, objects and goals, as many of each as there are sub-environments.

    The columns of a state are those of its parts, in the order in which they were added: for each
    joint of a robot position (m or rad) and speed (per s); for an object position (m), quaternion
    x, y, z, w, velocity (m/s) and angular velocity (rad/s) in world axes, 13 in all; for a goal
    its numbers.

    Args:
        world: where to load the bodies.
        num_envs: sub-environments, 1 to 31. All stand at the same place and touch only their own.
        actuators: in the order of the columns of an action.
    """

    def __init__(self, world: World, num_envs: int, actuators: Sequence[Actuator]) -> None:
        self._world = world
        self._num_envs = num_envs
        self.actuators = tuple(actuators)
        self._drivers: list[list[Callable[[Sequence[float]], None]]] = [[] for _ in range(num_envs)]
        self._readers: list[list[Callable[[], Sequence[float]]]] = [[] for _ in range(num_envs)]
        self._placers: list[list[tuple[Callable[[Sequence[Any]], None], slice]]] = [
            [] for _ in range(num_envs)
        ]
        self._bodies: list[list[Body]] = [[] for _ in range(num_envs)]
        self._width = 0  # columns of a state so far
        self._joint_names: list[str] = []  # of all robots so far

    def add_robot(
        self,
        path: str | os.PathLike[str],
        joints: Sequence[str],
        position: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> list[Body]:
        """Load a robot on a fixed base in every sub-environment.

        Args:
            path: its URDF.
            joints: the names of those whose position and speed are columns of the state; none for
                a table or a wall. The actuators whose joint this robot has drive it.
            position: of its base (m).

        Returns:
            A body for each sub-environment.

        Raises:
            ValueError: the robot has no such joint, a motor has neither ``max_force`` nor an
                ``effort`` in the file, or the file is not a URDF.
        """
        bodies = []
        for index in range(self._num_envs):
            body = self._world.load(path, position, fixed=True, env_index=index)
            if joints:
                handles = body.joints(*joints)
                self._readers[index].append(functools.partial(body.joint_states, handles))
                place = functools.partial(_place_joints, body, handles)
                self._placers[index].append((place, self._columns(2 * len(joints))))
            self._drivers[index] += _drivers(body, self.actuators)
            self._bodies[index].append(body)
            bodies.append(body)
        self._joint_names += bodies[0].joint_names
        self._width += 2 * len(joints)
        return bodies

    def add_object(
        self, path: str | os.PathLike[str], position: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> list[Body]:
        """Load a free body in every sub-environment, and return a body for each.

        Args:
            path: its URDF.
            position: before the first :meth:`set_state` (m).
        """
        bodies = []
        for index in range(self._num_envs):
            body = self._world.load(path, position, env_index=index)
            self._readers[index].append(body.base)
            place = functools.partial(_place_base, body)
            self._placers[index].append((place, self._columns(13)))
            self._bodies[index].append(body)
            bodies.append(body)
        self._width += 13
        return bodies

    def add_goal(
        self,
        size: int,
        radius: float = 0.02,
        colour: Sequence[float] = (0.85, 0.15, 0.12),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Add numbers to the state that physics leaves as they are.

        Args:
            size: how many. The first three are where a sphere is drawn, x, y and z from
                ``origin``, or 0 for those that are missing (m).
            radius: of the sphere (m).
            colour: of the sphere: red, green, blue, 0 to 1.
            origin: from which the numbers are counted (m).
        """
        for index in range(self._num_envs):
            marker = self._world.load_marker(radius, colour) if self._world.visible else None
            goal = _Goal(size, marker, origin)
            self._readers[index].append(goal.read)
            self._placers[index].append((goal.place, self._columns(size)))
        self._width += size

    def check(self) -> None:
        """Refuse an actuator that drives nothing, or more than one joint.

        Raises:
            ValueError: no robot, or more than one, has its joint, or the joint is fixed.
        """
        for actuator in self.actuators:
            if (found := self._joint_names.count(actuator.joint)) != 1:
                raise ValueError(
                    f"actuators have {'no' if not found else 'more than one'} joint"
                    f" {actuator.joint!r}; the robots' joints are {', '.join(self._joint_names)}"
                )

    def _columns(self, count: int) -> slice:
        return slice(self._width, self._width + count)

    def set_state(self, states: Mapping[int, Sequence[Any]]) -> None:
        """Place the bodies of some sub-environments, given a state for each index."""
        for index, state in states.items():
            for place, columns in self._placers[index]:
                place(state[columns])

    def act(self, commands: Sequence[float]) -> None:
        """Give the actuators their commands for the next step of the world."""
        count = len(self.actuators)
        for index, drivers in enumerate(self._drivers):
            mine = commands[index * count : (index + 1) * count]
            for drive in drivers:
                drive(mine)

    def state(self) -> list[float]:
        """Return the columns of the present states, sub-environment after sub-environment."""
        columns: list[float] = []
        for readers in self._readers:
            for read in readers:
                columns += read()
        return columns

    def body(self, index: int, link: str) -> Body:
        """Return the body of a sub-environment that has a link.

        Raises:
            ValueError: none has one of that name.
        """
        for body in self._bodies[index]:
            if link in body.link_names:
                return body
        names = ", ".join(name for body in self._bodies[index] for name in body.link_names)
        raise ValueError(f"no body has a link {link!r}; the links are {names}")

    def push(self, index: int, link: str, force: Sequence[float]) -> None:
        """Push a link in the next step of the world (N, world axes)."""
        self.body(index, link).push(link, force)


class ContactFreeScene:
    """Robots that touch nothing, all of them one body of Bullet's: three times as fast.

    Only for robots driven by forces and torques that have no joint limits, damping, friction,
    collision shapes or motors; a task that asks for it proves that it needs none. The columns of a
    state are position (m or rad) and speed (per s) of each joint.

    Args:
        world: where to load the robots.
        num_envs: sub-environments.
        actuators: in the order of the columns of an action, all of kind ``"torque"``.
        path: the URDF of one robot.
        joints: the names of its joints.

    Raises:
        ValueError: the robot or an actuator has what is left out here.
    """

    def __init__(
        self,
        world: World,
        num_envs: int,
        actuators: Sequence[Actuator],
        path: Path,
        joints: Sequence[str],
    ) -> None:
        if motors := [actuator.joint for actuator in actuators if actuator.kind != "torque"]:
            raise ValueError(f"a contact-free robot has no motors, as on {', '.join(motors)}")
        self.actuators = tuple(actuators)
        self._body = world.load_contact_free(path, num_envs)
        self._links = read_links(path)
        self._width = len(joints)
        self._joints = self._body.joints(*joints)
        self._centres: dict[tuple[int, str], Sequence[float]] = {}
        self._given: dict[tuple[int, str], Any] = {}  # to the links, to be set if it changes
        driven = self._body.joints(*(actuator.joint for actuator in actuators))
        self.act = functools.partial(self._body.apply, driven)
        self.state = functools.partial(self._body.joint_states, self._joints)

    def set_state(self, states: Mapping[int, Sequence[Any]]) -> None:
        """Place some robots, given a state for each index."""
        width = self._width
        joints = [
            joint for index in states for joint in self._joints[width * index : width * (index + 1)]
        ]
        columns = [number for state in states.values() for number in state]
        self._body.place_joints(joints, columns[::2], columns[1::2])

    def link(self, name: str) -> Link:
        """Return what the file says of a link."""
        return self._links[name]

    def set_link(
        self,
        index: int,
        link: str,
        mass: float,
        inertia: Sequence[float],
        damping: float,
        centre: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Replace mass and moments of inertia of a link, and the damping of its joint.

        Args:
            index: of the sub-environment.
            link: its name.
            mass: kg.
            inertia: about its own x, y and z (kg·m²).
            damping: viscous, of the joint that the link hangs on (N·s/m or N·m·s/rad).
            centre: where a push acts, from the centre of mass that the file gives it (m).
        """
        given = (mass, inertia, damping, centre)
        if self._given.get((index, link)) != given:
            self._body.set_mass_and_damping(link, mass, inertia, damping, index)
            self._given[index, link], self._centres[index, link] = given, centre

    def push(self, index: int, link: str, force: Sequence[float]) -> None:
        """Push a link in the next step of the world (N, world axes)."""
        self._body.push(link, force, self._centres.get((index, link), (0.0, 0.0, 0.0)), index)


class _Goal:
    """Numbers that stay as they were set, and the sphere that shows them."""

    def __init__(self, size: int, marker: Body | None, origin: Sequence[float]) -> None:
        self._numbers: Sequence[float] = [0.0] * size
        self._marker = marker
        self._origin = origin

    def read(self) -> Sequence[float]:
        return self._numbers

    def place(self, numbers: Sequence[float]) -> None:
        self._numbers = [float(number) for number in numbers]
        if self._marker is not None:
            xyz = zip(self._origin, (*numbers, 0.0, 0.0), strict=False)
            self._marker.place_base([a + b for a, b in xyz])


def _place_joints(body: Body, joints: tuple[int, ...], columns: Sequence[Any]) -> None:
    body.place_joints(joints, columns[::2], columns[1::2])


def _place_base(body: Body, columns: Sequence[Any]) -> None:
    body.place_base(columns[:3], columns[3:7], columns[7:10], columns[10:])


def _drivers(body: Body, actuators: Sequence[Actuator]) -> list[Callable[[Sequence[float]], None]]:
    """Return what gives a body those commands that are for its joints."""
    mine = [(i, one) for i, one in enumerate(actuators) if one.joint in body.joint_names]
    torques = [(i, one.joint) for i, one in mine if one.kind == "torque"]
    drivers: list[Callable[[Sequence[float]], None]] = []
    if torques:
        joints = body.joints(*(joint for _, joint in torques))
        indices = [i for i, _ in torques]
        if indices == list(range(len(actuators))):
            drivers.append(functools.partial(body.apply, joints))
        else:
            drivers.append(functools.partial(_apply_some, body, joints, indices))
    for i, actuator in mine:
        if actuator.kind == "torque":
            continue
        (joint,) = body.joints(actuator.joint)
        force = actuator.max_force
        if force is None:
            force = body.effort_limit(joint)
            if not force > 0:
                raise ValueError(
                    f"the motor of joint {actuator.joint!r} needs max_force: its URDF has no effort"
                )
        drive: Callable[[float], None]
        if actuator.kind == "velocity":
            drive = functools.partial(body.drive_velocity, joint, max_force=force)
        else:
            drive = functools.partial(
                body.drive_position,
                joint,
                max_force=force,
                max_velocity=actuator.max_velocity,
                gain=actuator.gain,
            )
        drivers.append(functools.partial(_drive_one, drive, i))
    return drivers


def _apply_some(
    body: Body, joints: tuple[int, ...], indices: Sequence[int], commands: Sequence[float]
) -> None:
    body.apply(joints, [commands[i] for i in indices])


def _drive_one(drive: Callable[[float], None], index: int, commands: Sequence[float]) -> None:
    drive(commands[index])
