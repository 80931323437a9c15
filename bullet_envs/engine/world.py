"""A PyBullet client with every setting that decides a trajectory."""

import functools
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import GRAVITY, egl, urdf
from .body import Body
from .silence import p, silenced

LIGHT: dict[str, Any] = {
    "lightColor": (1.0, 1.0, 1.0),
    "lightDistance": 2.0,
    "lightAmbientCoeff": 0.55,
    "lightDiffuseCoeff": 0.5,
    "lightSpecularCoeff": 0.05,
}
VIDEO_LIGHT: dict[str, Any] = {**LIGHT, "lightAmbientCoeff": 0.6, "lightDiffuseCoeff": 0.55}
MAX_ENVS = 31  # of bodies that collide: a bit each of Bullet's collision masks
MAX_JOINTS = 120  # of one body
_CONTACT_BREAKING_THRESHOLD = 0.02  # m, Bullet's default


class World:
    """A PyBullet client in DIRECT mode.

    Args:
        physics_hz: physics steps per second, a whole multiple of ``control_hz``.
        control_hz: control periods per second.
        gravity: along -z (m/s²).
        bullet_substeps: let one ``step`` be a whole control period, divided by Bullet itself
            (``numSubSteps``). A third faster at 1000 Hz, but Bullet then applies joint damping once
            a period: :meth:`load` refuses robots that have any. Otherwise a step is one physics
            step and a control period has :attr:`steps` of them.
        egl_renderer: draw with OpenGL through EGL in place of Bullet's software renderer.
        visible: load what is only seen, such as the marker of a goal.

    Attributes:
        steps: calls of ``step`` in a control period.
        step: ``step()`` advances by one of these. Forces and torques that were set before act in
            this step alone, motors until changed.
        client: PyBullet's ``physicsClientId``.

    Raises:
        RuntimeError: EGL or one more client cannot be had.
    """

    def __init__(
        self,
        physics_hz: int,
        control_hz: int,
        gravity: float = GRAVITY,
        bullet_substeps: bool = False,
        egl_renderer: bool = False,
        visible: bool = False,
    ) -> None:
        if egl_renderer:
            egl.require_egl()
        try:
            with silenced():
                self.client: int = p.connect(p.DIRECT)
        except p.error as error:
            raise RuntimeError(f"PyBullet has no client left: {error}") from None
        # Runs once: at close, when the world is forgotten, or when Python ends.
        self.close = weakref.finalize(self, _disconnect, self.client)
        self.visible = visible
        self._renderer = p.ER_TINY_RENDERER
        self._egl = self._load_egl() if egl_renderer else None
        p.setGravity(0, 0, -gravity, physicsClientId=self.client)
        self.step = functools.partial(p.stepSimulation, self.client)
        steps = physics_hz // control_hz
        self._substeps = steps if bullet_substeps else 1
        self.steps = 1 if bullet_substeps else steps
        # 1 / physics_hz in whole units of 2^-56 s: Bullet divides the period by the sub-steps, and
        # would lose one now and then (at 220 / 20 Hz, say) if that division were not exact.
        physics_step = round(2**56 / physics_hz) / 2**56
        p.setTimeStep(physics_step * self._substeps, physicsClientId=self.client)
        p.setPhysicsEngineParameter(
            numSubSteps=self._substeps,
            numSolverIterations=50,
            # Without it contacts are solved in an order that depends on the client's history.
            deterministicOverlappingPairs=1,
            # Otherwise an edited URDF stays stale for as long as the process lives.
            enableFileCaching=0,
            physicsClientId=self.client,
        )

    def _load_egl(self) -> egl.EglContext:
        self._renderer = p.ER_BULLET_HARDWARE_OPENGL
        # Bodies that are loaded before the plugin would never be drawn.
        with silenced():
            plugin = p.loadPlugin(
                egl.plugin_path(), "_eglRendererPlugin", physicsClientId=self.client
            )
            # The first two images print the driver's name and are lit unlike all later ones.
            for _ in range(2):
                p.getCameraImage(16, 16, renderer=self._renderer, physicsClientId=self.client)
        if plugin < 0:  # Bullet would draw with its software renderer and not say so
            self.close()
            raise egl.egl_error("the plugin cannot be loaded")
        context = egl.EglContext()
        self.close.detach()
        self.close = weakref.finalize(self, _disconnect, self.client, context)
        return context

    def load(
        self,
        path: str | os.PathLike[str],
        position: Sequence[float] = (0.0, 0.0, 0.0),
        fixed: bool = False,
        env_index: int = 0,
    ) -> Body:
        """Load a URDF as PyBullet does: limits, damping, friction, shapes and meshes of the file.

        Three things that PyBullet does and the file does not say are undone: the velocity motor
        that holds every joint, the damping of 0.04 that every link gets, and the inertias that it
        computes from collision shapes in place of the file's. Joint friction (N or N·m), which
        PyBullet reads and does not apply, acts on joints that no motor drives. Only bodies with the
        same ``env_index`` collide.

        Args:
            path: the file.
            position: of the base (m).
            fixed: hold the base.
            env_index: 0 to 30, a bit each of Bullet's collision masks.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: PyBullet cannot load it, ``env_index`` is out of range, or the robot has
                damping that ``bullet_substeps`` would apply wrongly.
        """
        path = Path(path)
        if not 0 <= env_index < MAX_ENVS:
            raise ValueError(
                f"a world has room for {MAX_ENVS} sub-environments: lower envs_per_world"
            )
        if not path.is_file():
            raise FileNotFoundError(f"no URDF at {path}")
        body = self._load(path, position, fixed, env_index)
        if self._substeps > 1 and body.has_damping:
            raise ValueError(
                f"{path} has joint damping, which bullet_substeps=True would apply wrongly"
            )
        return body

    def load_contact_free(self, path: Path, copies: int) -> Body:
        """Load ``copies`` of a robot on a fixed base as one body, without limits and contacts.

        Each copy moves as it would alone, and one body is driven and read by one call. Only for
        robots that have proved that they need no more: no joint limits, damping, friction,
        collision shapes or motors (see :func:`bullet_envs.engine.urdf.contact_free`).

        Raises:
            ValueError: the robot has one of these, or all copies together more than 120 joints, for
                which Bullet has no room.
        """
        joints = copies * len(urdf.read_joints(path))
        if joints > MAX_JOINTS:
            raise ValueError(
                f"{copies} copies of {path} have {joints} joints and may have {MAX_JOINTS} in a"
                " world: lower envs_per_world"
            )
        with urdf.contact_free(path, copies) as prepared:
            return self._load(prepared, (0.0, 0.0, 0.0), True, 0, copies)

    def _load(
        self,
        path: Path,
        position: Sequence[float],
        fixed: bool,
        env_index: int,
        copies: int | None = None,
    ) -> Body:
        try:
            with silenced():
                body_id = p.loadURDF(
                    os.fspath(path),
                    basePosition=position,
                    useFixedBase=fixed,
                    flags=p.URDF_USE_INERTIA_FROM_FILE,
                    physicsClientId=self.client,
                )
        except p.error:
            raise ValueError(
                f"PyBullet cannot load {path}: not a URDF, or a mesh is missing"
            ) from None
        return Body(self.client, body_id, env_index, copies, self._substeps)

    def load_marker(self, radius: float, colour: Sequence[float]) -> Body:
        """Load a sphere (m) that is only seen, in a colour (red, green, blue, 0 to 1)."""
        shape = p.createVisualShape(
            p.GEOM_SPHERE, radius=radius, rgbaColor=(*colour, 1.0), physicsClientId=self.client
        )
        body_id = p.createMultiBody(
            baseMass=0, baseVisualShapeIndex=shape, physicsClientId=self.client
        )
        return Body(self.client, body_id, 0, None, self._substeps)

    def add_box(
        self, size: Sequence[float], position: Sequence[float], colour: Sequence[float]
    ) -> None:
        """Add a box that is only seen (m; red, green, blue, 0 to 1)."""
        shape = p.createVisualShape(
            p.GEOM_BOX,
            halfExtents=[side / 2 for side in size],
            rgbaColor=(*colour, 1.0),
            physicsClientId=self.client,
        )
        p.createMultiBody(
            baseMass=0,
            baseVisualShapeIndex=shape,
            basePosition=position,
            physicsClientId=self.client,
        )

    def paint(self, link: str, colour: Sequence[float]) -> None:
        """Give all links of a name another colour (red, green, blue, 0 to 1)."""
        for body in range(p.getNumBodies(self.client)):
            for joint in range(p.getNumJoints(body, self.client)):
                if p.getJointInfo(body, joint, self.client)[12].decode() == link:
                    p.changeVisualShape(
                        body, joint, rgbaColor=(*colour, 1.0), physicsClientId=self.client
                    )

    def is_prismatic(self, joint: str) -> bool:
        """Return whether a joint moves along an axis, not about it."""
        for body in range(p.getNumBodies(self.client)):
            for index in range(p.getNumJoints(body, self.client)):
                _, name, kind, *_ = p.getJointInfo(body, index, self.client)
                if name.decode() == joint:
                    return bool(kind == p.JOINT_PRISMATIC)
        raise ValueError(f"no body has a joint {joint!r}")

    def set_shared_parameters(self) -> None:
        """Set what another client of this process may have changed for all (3 µs).

        PyBullet keeps ``contactBreakingThreshold`` in a global variable.
        """
        p.setPhysicsEngineParameter(
            contactBreakingThreshold=_CONTACT_BREAKING_THRESHOLD, physicsClientId=self.client
        )

    def draw(
        self,
        width: int,
        height: int,
        view: Sequence[float],
        projection: Sequence[float],
        light_direction: Sequence[float],
        shadow: bool,
    ) -> npt.NDArray[np.uint8]:
        """Return an image, uint8 of shape (height, width, 3)."""
        if self._egl is not None:
            self._egl.make_current()
        # The client remembers light and shadow, so each call passes all of them.
        _, _, rgba, _, _ = p.getCameraImage(
            width,
            height,
            viewMatrix=view,
            projectionMatrix=projection,
            lightDirection=light_direction,
            shadow=int(shadow),
            **LIGHT,
            renderer=self._renderer,
            flags=p.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self.client,
        )
        if rgba.__class__ is tuple:  # from a PyBullet that was built without NumPy
            rgba = np.frombuffer(bytes(rgba), np.uint8)  # a third of the time of np.asarray
        pixels = rgba.reshape(-1, 4)
        image = np.empty((width * height, 3), np.uint8)
        for channel in range(3):  # a quarter of the time of one copy, which goes three by three
            image[:, channel] = pixels[:, channel]
        return image.reshape(height, width, 3)

    def draw_bodies(
        self,
        width: int,
        height: int,
        view: Sequence[float],
        projection: Sequence[float],
        light_direction: Sequence[float],
    ) -> npt.NDArray[np.uint8]:
        """Return an image of what is not background: uint8 of shape (height, width, 4).

        The fourth number is the opacity: 255, 0 where there is no body.
        """
        if self._egl is not None:
            self._egl.make_current()
        _, _, rgba, _, bodies = p.getCameraImage(
            width,
            height,
            viewMatrix=view,
            projectionMatrix=projection,
            lightDirection=light_direction,
            shadow=0,
            **VIDEO_LIGHT,
            renderer=self._renderer,
            physicsClientId=self.client,
        )
        if rgba.__class__ is tuple:  # from a PyBullet that was built without NumPy
            rgba = np.frombuffer(bytearray(rgba), np.uint8)
            bodies = np.array(bodies, np.int32)
        image: npt.NDArray[np.uint8] = rgba.reshape(height, width, 4)
        image[..., 3] = np.where(bodies.reshape(height, width) < 0, 0, 255)
        return image


def _disconnect(client: int, context: egl.EglContext | None = None) -> None:
    if context is None:
        if p.isConnected(client):  # a window may have been closed by hand
            p.disconnect(client)
    elif not egl.is_forked():
        context.make_current()
        with silenced():
            p.disconnect(client)
