"""The forces and torques that act on joints, told from how a robot accelerates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .silence import p
from .world import World

_NAME, _TYPE, _DAMPING, _FRICTION, _LOWER, _UPPER = 1, 2, 6, 7, 8, 9  # of what getJointInfo returns
_Info = tuple[Any, ...]  # of a joint
_NORMAL_FORCE = 9  # of what getContactPoints returns
_AWAY = 1000.0  # m
_ROUNDING = 1e-6  # share of the efforts that make up a sum; an exact one has 1e-12


@dataclass(frozen=True)
class JointEffort:
    """What acts on a joint in one physics step, beside gravity and what its URDF says of it.

    Args:
        joint: its name.
        unit: ``"N"`` or ``"N·m"``.
        effort: force or torque, less the viscous damping of the URDF.
        friction: the Coulomb friction of the URDF, which may be a part of it.
        rounding: how inexact ``effort`` may be.
    """

    joint: str
    unit: str
    effort: float
    friction: float
    rounding: float


class InverseDynamics:
    """Measures efforts in a world whose robots have been loaded. The world is of no use afterwards.

    Bodies without joints are moved away, so that robots touch only themselves and each other.

    Args:
        world: with one sub-environment.

    Attributes:
        left_out: the names of joints that cannot be measured, since the base of their robot is
            free, it has spherical joints, or constraints hold it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = client = world.client
        settings = p.getPhysicsEngineParameters(client)
        self._step = settings["fixedTimeStep"] / max(1, settings["numSubSteps"])
        p.setPhysicsEngineParameter(numSubSteps=1, physicsClientId=client)
        p.setTimeStep(self._step, physicsClientId=client)
        self._robots: list[tuple[int, list[tuple[int, _Info]]]] = []
        left_out: list[str] = []
        for number in range(p.getNumBodies(client)):
            body = p.getBodyUniqueId(number, physicsClientId=client)
            infos = [p.getJointInfo(body, j, client) for j in range(p.getNumJoints(body, client))]
            moving = [(j, info) for j, info in enumerate(infos) if info[_TYPE] != p.JOINT_FIXED]
            if not moving:
                place = (_AWAY * (number + 1), 0.0, 0.0)
                p.resetBasePositionAndOrientation(body, place, (0, 0, 0, 1), client)
            elif self._is_measurable(body, [info for _, info in moving]):
                self._robots.append((body, moving))
            else:
                left_out += [info[_NAME].decode() for _, info in moving]
        self.left_out = tuple(left_out)

    def _is_measurable(self, body: int, moving: list[_Info]) -> bool:
        kinds = {info[_TYPE] for info in moving}
        if p.getNumConstraints(self._client) or not kinds <= {p.JOINT_REVOLUTE, p.JOINT_PRISMATIC}:
            return False
        rest = [0.0] * len(moving)
        # That of a robot with a free base has six rows more.
        return len(p.calculateMassMatrix(body, rest, physicsClientId=self._client)) == len(moving)

    def measure(self, act: Callable[[], None], rng: np.random.Generator) -> list[JointEffort]:
        """Place all joints at random, act for one physics step, and return what acted on each.

        Args:
            act: gives the actuators their commands.
            rng: draws positions within the inner part of the limits, and speeds up to 1 per s.

        Returns:
            Efforts of all joints but those of robots that touch something.
        """
        placed = [self._place(body, moving, rng) for body, moving in self._robots]
        act()
        self._world.step()
        efforts = []
        for (body, moving), (positions, speeds) in zip(self._robots, placed, strict=True):
            contacts = p.getContactPoints(body, physicsClientId=self._client)
            if any(contact[_NORMAL_FORCE] for contact in contacts):
                continue
            after = [p.getJointState(body, j, self._client)[1] for j, _ in moving]
            accelerations = (np.array(after) - speeds) / self._step
            mass = np.array(p.calculateMassMatrix(body, positions, physicsClientId=self._client))
            # Gravity, Coriolis and centrifugal forces.
            bias = p.calculateInverseDynamics(
                body, positions, speeds, [0.0] * len(speeds), physicsClientId=self._client
            )
            sums, sizes = mass @ accelerations + bias, abs(mass) @ abs(accelerations) + np.abs(bias)
            for (_, info), speed, effort, size in zip(moving, speeds, sums, sizes, strict=True):
                efforts.append(
                    JointEffort(
                        joint=info[_NAME].decode(),
                        unit="N" if info[_TYPE] == p.JOINT_PRISMATIC else "N·m",
                        effort=float(effort) + info[_DAMPING] * speed,
                        friction=info[_FRICTION],
                        rounding=_ROUNDING * float(size),
                    )
                )
        return efforts

    def _place(
        self, body: int, moving: list[tuple[int, _Info]], rng: np.random.Generator
    ) -> tuple[list[float], list[float]]:
        positions, speeds = [], []
        for joint, info in moving:
            lower, upper = info[_LOWER], info[_UPPER]
            if lower >= upper:  # Bullet takes this for no limit
                lower, upper = -1.0, 1.0
            middle, half = (lower + upper) / 2, (upper - lower) / 2
            # So that the step cannot reach a limit, which would push back.
            fastest = min(1.0, 0.1 * half / self._step)
            positions.append(middle + 0.6 * half * rng.uniform(-1, 1))
            speeds.append(fastest * rng.uniform(-1, 1))
            p.resetJointState(body, joint, positions[-1], speeds[-1], self._client)
        return positions, speeds
