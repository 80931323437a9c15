"""A loaded URDF: its joints by name, and every call that drives, reads or places it."""

import operator
from collections.abc import Sequence

from .silence import p
from .urdf import name_of_copy

_POSITION, _SPEED = operator.itemgetter(0), operator.itemgetter(1)  # of what getJointStates returns
_JOINT_NAME, _JOINT_TYPE, _JOINT_DAMPING, _JOINT_FRICTION, _JOINT_EFFORT, _LINK_NAME = (
    *(1, 2, 6, 7, 10, 12),
)  # of getJointInfo


class Body:
    """A loaded URDF. Bullet's numbers of bodies and joints never leave this package.

    Args:
        client: PyBullet's.
        body_id: Bullet's number of the body.
        env_index: the sub-environment of its world that it belongs to.
        copies: how often its links and joints are there, of a body that touches nothing (see
            ``World.load_contact_free``); None for any other.
        substeps: Bullet's own sub-steps per step of the world.

    Attributes:
        has_damping: whether a joint has viscous damping.
    """

    def __init__(
        self, client: int, body_id: int, env_index: int, copies: int | None, substeps: int
    ) -> None:
        self._client = client
        self._id = body_id
        self._copies = copies or 1
        # Bullet multiplies the greatest force of a motor by its sub-steps.
        self._motor_share = 1 / substeps
        self._group = 1 << env_index
        infos = [
            p.getJointInfo(body_id, joint, client)
            for joint in range(p.getNumJoints(body_id, client))
        ]
        self._index = {info[_JOINT_NAME].decode(): joint for joint, info in enumerate(infos)}
        self._fixed = {
            joint for joint, info in enumerate(infos) if info[_JOINT_TYPE] == p.JOINT_FIXED
        }
        self._links = {p.getBodyInfo(body_id, client)[0].decode(): -1} | {
            info[_LINK_NAME].decode(): link for link, info in enumerate(infos)
        }
        self._effort = [info[_JOINT_EFFORT] for info in infos]
        self.has_damping = any(info[_JOINT_DAMPING] for info in infos)
        self._colliding = []
        for link in range(-1, len(infos)):
            joint_damping = infos[link][_JOINT_DAMPING] if link >= 0 else 0.0
            if link >= 0:
                # Bullet gives every joint a velocity motor that holds it still. A motor that holds
                # with no more force than the joint's friction is Coulomb friction.
                p.setJointMotorControl2(
                    body_id,
                    link,
                    p.VELOCITY_CONTROL,
                    force=infos[link][_JOINT_FRICTION] * self._motor_share,
                    physicsClientId=client,
                )
            if p.getCollisionShapeData(body_id, link, client) and copies is None:
                self._colliding.append(link)
                self._collide_within_env(link)
            else:
                p.setCollisionFilterGroupMask(body_id, link, 0, 0, physicsClientId=client)
            # Bullet gives every link linear and angular damping 0.04, drag that no file asked for.
            p.changeDynamics(
                body_id,
                link,
                linearDamping=0,
                angularDamping=0,
                jointDamping=joint_damping,
                physicsClientId=client,
            )

    def _collide_within_env(self, link: int) -> None:
        p.setCollisionFilterGroupMask(
            self._id, link, self._group, self._group, physicsClientId=self._client
        )

    @property
    def link_names(self) -> tuple[str, ...]:
        """The names of all links, the base first."""
        return tuple(self._links)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The names of all joints that move."""
        return tuple(name for name, joint in self._index.items() if joint not in self._fixed)

    def joints(self, *names: str) -> tuple[int, ...]:
        """Return handles for the methods below: these joints of the first copy, then the next.

        Raises:
            ValueError: there is no joint of a name.
        """
        if unknown := [name for name in names if name not in self._index]:
            raise ValueError(f"no joint {unknown[0]!r}; its joints are {', '.join(self._index)}")
        return tuple(
            self._index[name_of_copy(name, copy)] for copy in range(self._copies) for name in names
        )

    def effort_limit(self, joint: int) -> float:
        """Return the ``effort`` of a joint's limit in the file (N or N·m)."""
        return float(self._effort[joint])

    def apply(self, joints: tuple[int, ...], efforts: Sequence[float]) -> None:
        """Set the forces (N) or torques (N·m) of joints for the next :meth:`World.step`."""
        # Keywords would take twice as long. Of the five, Bullet uses only the third, the forces.
        p.setJointMotorControlArray(
            self._id,
            joints,
            p.TORQUE_CONTROL,
            efforts,
            efforts,
            efforts,
            efforts,
            efforts,
            self._client,
        )

    def drive_velocity(self, joint: int, velocity: float, max_force: float) -> None:
        """Let a motor hold a joint's velocity (m/s or rad/s), from the next step until changed.

        Args:
            joint: its handle.
            velocity: the target.
            max_force: the greatest force (N) or torque (N·m) of the motor.
        """
        p.setJointMotorControl2(
            self._id,
            joint,
            p.VELOCITY_CONTROL,
            targetVelocity=velocity,
            force=max_force * self._motor_share,
            physicsClientId=self._client,
        )

    def drive_position(
        self, joint: int, position: float, max_force: float, max_velocity: float, gain: float
    ) -> None:
        """Let a motor move a joint to a position (m or rad), from the next step until changed.

        Args:
            joint: its handle.
            position: the target.
            max_force: the greatest force (N) or torque (N·m) of the motor.
            max_velocity: the greatest speed on the way (m/s or rad/s).
            gain: the share of the distance that the motor means to go in each physics step.
        """
        p.setJointMotorControl2(
            self._id,
            joint,
            p.POSITION_CONTROL,
            targetPosition=position,
            force=max_force * self._motor_share,
            maxVelocity=max_velocity,
            positionGain=gain,
            physicsClientId=self._client,
        )

    def joint_states(self, joints: tuple[int, ...]) -> list[float]:
        """Return the position (m or rad) and speed (per s) of one joint after the other."""
        states = p.getJointStates(self._id, joints, self._client)
        if len(states) == 2:  # a loop takes four times as long
            (first, first_speed, _, _), (second, second_speed, _, _) = states
            return [first, first_speed, second, second_speed]
        numbers = [0.0] * (2 * len(states))
        numbers[::2], numbers[1::2] = map(_POSITION, states), map(_SPEED, states)
        return numbers

    def place_joints(
        self, joints: Sequence[int], positions: Sequence[float], speeds: Sequence[float]
    ) -> None:
        """Teleport joints to positions (m or rad) and speeds (per s)."""
        self._forget_contacts()
        p.resetJointStatesMultiDof(
            self._id,
            joints,
            [(position,) for position in positions],
            [(speed,) for speed in speeds],
            physicsClientId=self._client,
        )

    def base(self) -> list[float]:
        """Return the base's position (m), orientation (quaternion x, y, z, w) and velocities.

        The velocities are linear (m/s) and angular (rad/s), in world axes.
        """
        position, orientation = p.getBasePositionAndOrientation(self._id, self._client)
        velocity, spin = p.getBaseVelocity(self._id, self._client)
        return [*position, *orientation, *velocity, *spin]

    def place_base(
        self,
        position: Sequence[float],
        orientation: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        velocity: Sequence[float] = (0.0, 0.0, 0.0),
        angular_velocity: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Teleport the base; units as in :meth:`base`."""
        self._forget_contacts()
        p.resetBasePositionAndOrientation(self._id, position, orientation, self._client)
        p.resetBaseVelocity(self._id, velocity, angular_velocity, physicsClientId=self._client)

    def _forget_contacts(self) -> None:
        """Drop the contact points of before, which would warm-start the solver."""
        for link in self._colliding:
            self._collide_within_env(link)

    def set_mass(self, link: str, mass: float, inertia: Sequence[float]) -> None:
        """Replace the mass of a link and its moments of inertia.

        Args:
            link: its name.
            mass: kg.
            inertia: about its own x, y and z (kg·m²).

        Raises:
            ValueError: there is no link of that name.
        """
        p.changeDynamics(
            self._id,
            self.link(link),
            mass=mass,
            localInertiaDiagonal=inertia,
            physicsClientId=self._client,
        )

    def set_mass_and_damping(
        self, link: str, mass: float, inertia: Sequence[float], damping: float, copy: int
    ) -> None:
        """Do as :meth:`set_mass` and :meth:`set_damping`, in a third of their time.

        Args:
            link: its name.
            mass: kg.
            inertia: about its own x, y and z (kg·m²).
            damping: of the joint that it hangs on (N·s/m or N·m·s/rad).
            copy: of a body with several.
        """
        p.changeDynamics(
            self._id,
            self.link(link, copy),
            mass=mass,
            localInertiaDiagonal=inertia,
            jointDamping=damping,
            physicsClientId=self._client,
        )

    def set_damping(self, joint: str, damping: float) -> None:
        """Replace the viscous damping of a joint (N·s/m or N·m·s/rad)."""
        p.changeDynamics(
            self._id,
            self._index[joint],
            linearDamping=0,
            angularDamping=0,
            jointDamping=damping,
            physicsClientId=self._client,
        )

    def set_contact(
        self, link: str, lateral: float, rolling: float, spinning: float, restitution: float
    ) -> None:
        """Replace the coefficients of a link's contacts, of which those of a pair are products.

        Args:
            link: its name.
            lateral: of sliding friction.
            rolling: of rolling friction (m).
            spinning: of friction about the contact's normal (m).
            restitution: 0 to 1.
        """
        p.changeDynamics(
            self._id,
            self.link(link),
            lateralFriction=lateral,
            rollingFriction=rolling,
            spinningFriction=spinning,
            restitution=restitution,
            physicsClientId=self._client,
        )

    def push(
        self,
        link: str,
        force: Sequence[float],
        offset: Sequence[float] = (0.0, 0.0, 0.0),
        copy: int = 0,
    ) -> None:
        """Push a link in the next :meth:`World.step`.

        Args:
            link: its name.
            force: in world axes (N).
            offset: where, from the link's centre of mass in the link's axes (m).
            copy: of a body with several.
        """
        number = self.link(link, copy)
        if number < 0:
            position, orientation = p.getBasePositionAndOrientation(self._id, self._client)
        else:
            # Without it the link would be where it was before it was placed.
            position, orientation, *_ = p.getLinkState(
                self._id, number, computeForwardKinematics=1, physicsClientId=self._client
            )
        if any(offset):
            axes = p.getMatrixFromQuaternion(orientation)
            position = [
                place + sum(map(operator.mul, axes[3 * row : 3 * row + 3], offset))
                for row, place in enumerate(position)
            ]
        p.applyExternalForce(
            self._id, number, force, position, p.WORLD_FRAME, physicsClientId=self._client
        )

    def link(self, name: str, copy: int = 0) -> int:
        """Return Bullet's number of a link.

        Raises:
            ValueError: there is no link of that name.
        """
        name = name_of_copy(name, copy)
        if name not in self._links:
            raise ValueError(f"no link {name!r}; its links are {', '.join(self._links)}")
        return self._links[name]
