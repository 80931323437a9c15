"""The only module that talks to PyBullet, so that each of its traps is handled once."""

import math
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SILENCING = threading.Lock()


@contextmanager
def _silenced() -> Iterator[None]:
    """Send C-level stdout and stderr to nowhere: Bullet's banner and warnings bypass Python's."""
    # Descriptors belong to the process: two threads at once would restore each other's nowhere.
    with _SILENCING:
        saved = {}
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(OSError, AttributeError):  # a daemon has neither
                stream.flush()
                saved[descriptor] = os.dup(descriptor)
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            for descriptor in saved:
                os.dup2(null, descriptor)
            yield
        finally:
            os.close(null)
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)


with _silenced():
    import pybullet as p

GRAVITY = 9.8  # m/s^2, as in Gymnasium's CartPole
MAX_SPEED = 100.0  # m/s or rad/s: Bullet clamps the speed of every joint and body here
MAX_PHYSICS_HZ = 1000


class World:
    """A PyBullet client in DIRECT mode with every setting that decides a trajectory.

    Args:
        physics_hz: inner steps per second, a whole multiple of ``control_hz``.
        control_hz: calls of :meth:`step` per second.
        gui: open a window that shows this world. The caller checks for a display first,
            because PyBullet ends the Python process where there is none.
    """

    def __init__(self, physics_hz: int, control_hz: int, gui: bool = False) -> None:
        try:
            with _silenced():
                self.client: int = p.connect(p.GUI if gui else p.DIRECT)
        except p.error as error:
            raise RuntimeError(
                "render_mode='human' can show one environment per process; use 'rgb_array'"
                if gui
                else f"PyBullet has no client left: {error}"
            ) from None
        # Runs once: at close, when the world is forgotten, or when Python ends.
        self.close = weakref.finalize(self, _disconnect, self.client)
        p.setGravity(0, 0, -GRAVITY, physicsClientId=self.client)
        substeps = physics_hz // control_hz
        # 1 / physics_hz in whole units of 2^-56 s: Bullet divides the period by the sub-steps, and
        # would lose one now and then (at 220 / 20 Hz, say) if that division were not exact.
        physics_step = round(2**56 / physics_hz) / 2**56
        p.setTimeStep(physics_step * substeps, physicsClientId=self.client)
        p.setPhysicsEngineParameter(
            numSubSteps=substeps,
            numSolverIterations=50,
            # Without it contacts are solved in an order that depends on the client's history.
            deterministicOverlappingPairs=1,
            # Otherwise an edited URDF stays stale for as long as the process lives.
            enableFileCaching=0,
            physicsClientId=self.client,
        )

    def load(
        self, urdf: Path, position: Sequence[float] = (0.0, 0.0, 0.0), fixed: bool = False
    ) -> "Body":
        """Load a URDF and return its body, free of Bullet's default motors and damping."""
        with _silenced():
            body_id = p.loadURDF(
                os.fspath(urdf),
                basePosition=position,
                useFixedBase=fixed,
                # Bullet otherwise replaces the file's inertias by those of its collision shapes.
                flags=p.URDF_USE_INERTIA_FROM_FILE,
                physicsClientId=self.client,
            )
        return Body(self.client, body_id)

    def step(self) -> None:
        """Advance by one control period. Torques set before act through all of its inner steps."""
        p.stepSimulation(self.client)

    def look(self, eye: Sequence[float], target: Sequence[float]) -> None:
        """Point the camera of the window (m)."""
        x, y, z = (a - b for a, b in zip(eye, target, strict=True))
        p.resetDebugVisualizerCamera(
            math.hypot(x, y, z),
            math.degrees(math.atan2(x, -y)),
            -math.degrees(math.atan2(z, math.hypot(x, y))),
            target,
            physicsClientId=self.client,
        )
        p.configureDebugVisualizer(p.COV_ENABLE_GUI, 0, physicsClientId=self.client)

    def draw(
        self,
        width: int,
        height: int,
        view: Sequence[float],
        projection: Sequence[float],
        light_direction: Sequence[float],
        shadow: bool,
    ) -> npt.NDArray[np.uint8]:
        """Return a picture, uint8 of shape (height, width, 3)."""
        # The client remembers light and shadow, so each call passes all of them.
        _, _, rgba, _, _ = p.getCameraImage(
            width,
            height,
            viewMatrix=view,
            projectionMatrix=projection,
            lightDirection=light_direction,
            lightColor=(1.0, 1.0, 1.0),
            lightDistance=2.0,
            lightAmbientCoeff=0.55,
            lightDiffuseCoeff=0.5,
            lightSpecularCoeff=0.05,
            shadow=int(shadow),
            renderer=p.ER_TINY_RENDERER,
            physicsClientId=self.client,
        )
        # A PyBullet that was built without NumPy returns a tuple.
        pixels = np.asarray(rgba, np.uint8).reshape(height, width, 4)
        return np.ascontiguousarray(pixels[..., :3])


def _disconnect(client: int) -> None:
    if p.isConnected(client):  # a window may have been closed by hand
        p.disconnect(client)


class Body:
    """A loaded URDF. Its joints are known by name; Bullet's numbers never leave this module."""

    def __init__(self, client: int, body_id: int) -> None:
        self._client = client
        self._id = body_id
        joints = range(p.getNumJoints(body_id, client))
        self._index = {
            p.getJointInfo(body_id, joint, client)[1].decode(): joint for joint in joints
        }
        for joint in joints:
            # Every joint is born with a velocity motor that holds it still.
            p.setJointMotorControl2(
                body_id, joint, p.VELOCITY_CONTROL, force=0, physicsClientId=client
            )
        for link in (-1, *joints):
            # Every link is born with linear and angular damping 0.04.
            p.changeDynamics(
                body_id,
                link,
                linearDamping=0,
                angularDamping=0,
                jointDamping=0,
                physicsClientId=client,
            )

    def joints(self, *names: str) -> tuple[int, ...]:
        """Return handles of joints for the methods below, in the order of ``names``."""
        return tuple(self._index[name] for name in names)

    def apply(self, joints: tuple[int, ...], efforts: Sequence[float]) -> None:
        """Set the forces (N) or torques (N·m) of joints for the next :meth:`World.step`."""
        p.setJointMotorControlArray(
            self._id, joints, p.TORQUE_CONTROL, forces=efforts, physicsClientId=self._client
        )

    def joint_states(self, joints: tuple[int, ...]) -> list[tuple[float, float, Any, float]]:
        """Return a tuple per joint that begins with position (m or rad) and speed (per s)."""
        states: list[tuple[float, float, Any, float]] = p.getJointStates(
            self._id, joints, self._client
        )
        return states

    def place_joint(self, joint: int, position: float, speed: float) -> None:
        """Teleport a joint to a position (m or rad) and speed (m/s or rad/s)."""
        p.resetJointState(self._id, joint, position, speed, self._client)

    def base(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return position (m) and orientation (quaternion x, y, z, w) of the base."""
        pose: tuple[tuple[float, ...], tuple[float, ...]] = p.getBasePositionAndOrientation(
            self._id, self._client
        )
        return pose

    def base_velocity(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return linear (m/s) and angular (rad/s) velocity of the base in world axes."""
        velocity: tuple[tuple[float, ...], tuple[float, ...]] = p.getBaseVelocity(
            self._id, self._client
        )
        return velocity

    def place_base(
        self,
        position: Sequence[float],
        orientation: Sequence[float],
        velocity: Sequence[float] = (0.0, 0.0, 0.0),
        angular_velocity: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Teleport the base; units as in :meth:`base` and :meth:`base_velocity`."""
        p.resetBasePositionAndOrientation(self._id, position, orientation, self._client)
        p.resetBaseVelocity(self._id, velocity, angular_velocity, physicsClientId=self._client)

    def set_base_mass(self, mass: float, inertia: float) -> None:
        """Replace mass (kg) and moment of inertia (kg·m², the same about all axes) of the base."""
        p.changeDynamics(
            self._id,
            -1,
            mass=mass,
            localInertiaDiagonal=(inertia, inertia, inertia),
            physicsClientId=self._client,
        )
