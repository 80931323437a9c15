"""The only module that talks to PyBullet, so that each of its traps is handled once."""

import ctypes
import functools
import importlib.util
import math
import operator
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

# Reentrant: the garbage collector may close a forgotten world in the middle of a silence.
_SILENCING = threading.RLock()
_LIBC = ctypes.CDLL(None)


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
            _LIBC.fflush(None)  # what the caller's own C code has to say is heard
            for descriptor in saved:
                os.dup2(null, descriptor)
            yield
        finally:
            _LIBC.fflush(None)  # into a pipe C writes late, after the silence
            os.close(null)
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)


with _silenced():
    import pybullet as p

GRAVITY = 9.8  # m/s^2, as in Gymnasium's CartPole
MAX_SPEED = 100.0  # m/s or rad/s: Bullet clamps the speed of every joint and body here
MAX_PHYSICS_HZ = 1000
_POSITION, _SPEED = operator.itemgetter(0), operator.itemgetter(1)  # of what getJointStates returns
LIGHT: dict[str, Any] = {
    "lightColor": (1.0, 1.0, 1.0),
    "lightDistance": 2.0,
    "lightAmbientCoeff": 0.55,
    "lightDiffuseCoeff": 0.5,
    "lightSpecularCoeff": 0.05,
}


class World:
    """A PyBullet client in DIRECT mode with every setting that decides a trajectory.

    Args:
        physics_hz: inner steps per second, a whole multiple of ``control_hz``.
        control_hz: calls of :meth:`step` per second.
        gui: open a window that shows this world. The caller checks for a display first,
            because PyBullet ends the Python process where there is none.
        egl: draw with OpenGL through EGL in place of Bullet's software renderer.

    Raises:
        RuntimeError: the window, EGL or one more client cannot be had.
    """

    def __init__(
        self, physics_hz: int, control_hz: int, gui: bool = False, egl: bool = False
    ) -> None:
        if egl:
            _require_egl()
        if gui:
            _require_display()
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
        self._renderer = p.ER_TINY_RENDERER
        self._egl = self._load_egl() if egl else None
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

    def _load_egl(self) -> "_EglContext":
        self._renderer = p.ER_BULLET_HARDWARE_OPENGL
        # Bodies that are loaded before the plugin would never be drawn.
        with _silenced():
            plugin = p.loadPlugin(_egl_plugin(), "_eglRendererPlugin", physicsClientId=self.client)
            # The first two pictures print the driver's name and are lit unlike all later ones.
            for _ in range(2):
                p.getCameraImage(16, 16, renderer=self._renderer, physicsClientId=self.client)
        if plugin < 0:  # Bullet would draw with its software renderer and not say so
            self.close()
            raise _egl_error("the plugin cannot be loaded")
        context = _EglContext()
        self.close.detach()
        self.close = weakref.finalize(self, _disconnect, self.client, context)
        return context

    def load(
        self,
        urdf: Path,
        position: Sequence[float] = (0.0, 0.0, 0.0),
        fixed: bool = False,
        row: int = 0,
        copies: int = 1,
    ) -> "Body":
        """Load a URDF and return its body, free of joint limits and Bullet's motors and damping.

        Only bodies of the same row can touch, and no links of the same body. A link whose file
        has no collision shape touches nothing. A body of such links alone has no constraints:
        no joint limits, and no motors but what :meth:`Body.apply` sets.

        Args:
            urdf: the file.
            position: of the base (m).
            fixed: hold the base.
            row: 0 to 30, a bit each of Bullet's collision masks.
            copies: of all links and joints, on the one base. On a fixed base each of them moves as
                it would alone, and one body is driven and read by one call. Bullet has room for
                120 joints of a body.
        """
        with _prepared(urdf, copies) as path, _silenced():
            body_id = p.loadURDF(
                os.fspath(path),
                basePosition=position,
                useFixedBase=fixed,
                # Bullet otherwise replaces the file's inertias by those of its collision shapes.
                flags=p.URDF_USE_INERTIA_FROM_FILE,
                physicsClientId=self.client,
            )
        return Body(self.client, body_id, row, copies)

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
        # A PyBullet that was built without NumPy returns a tuple.
        pixels = np.asarray(rgba, np.uint8).reshape(-1, 4)
        picture = np.empty((width * height, 3), np.uint8)
        for channel in range(3):  # a quarter of the time of one copy, which goes three by three
            picture[:, channel] = pixels[:, channel]
        return picture.reshape(height, width, 3)


@contextmanager
def _prepared(urdf: Path, copies: int) -> Iterator[Path]:
    """Write the URDF that Bullet is given.

    All but the base, the first link, is there several times. Bullet keeps a box around every link
    and sorts it into a search tree as it moves. A link that touches nothing is therefore given an
    infinite plane: a box of that size makes Bullet leave the link out of its collisions, and solve
    no constraints of a body all of whose moving links are left out; the body moves as before.
    Limits of joints, which would then do nothing but be sorted, are left out too. A link without
    looks would be drawn as the plane and gets none.
    """
    robot = ElementTree.parse(urdf).getroot()
    base, *links = robot.findall("link")
    joints = robot.findall("joint")
    for link in (base, *links):
        if link.find("collision") is None and link.find("visual") is not None:
            everywhere = ElementTree.SubElement(link, "collision")
            geometry = ElementTree.SubElement(everywhere, "geometry")
            ElementTree.SubElement(geometry, "plane", normal="0 0 1")
    for limit in robot.iter("limit"):
        limit.attrib = {}
    for copy in range(1, copies):
        for original in (*links, *joints):
            part = deepcopy(original)
            part.set("name", _of_copy(original.attrib["name"], copy))
            for end in (*part.findall("parent"), *part.findall("child")):
                if end.attrib["link"] != base.attrib["name"]:
                    end.set("link", _of_copy(end.attrib["link"], copy))
            robot.append(part)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / urdf.name
        ElementTree.ElementTree(robot).write(path)
        yield path


def _of_copy(name: str, copy: int) -> str:
    return f"{name}-{copy}" if copy else name


def _require_display() -> None:
    # Connecting to a missing display ends the process without an exception, so a child tries first.
    attempt = "import pybullet; pybullet.disconnect(pybullet.connect(pybullet.GUI))"
    child = subprocess.run(
        [sys.executable, "-c", attempt], capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    )
    if child.returncode:
        raise RuntimeError(
            f"render_mode='human' cannot open a window (DISPLAY={os.environ.get('DISPLAY')!r});"
            " use render_mode='rgb_array' for frames and videos without a display"
        )


def _egl_plugin() -> str | None:
    spec = importlib.util.find_spec("eglRenderer")
    return None if spec is None else spec.origin


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)

# Draws a box in front of the camera; its pixels differ from an empty picture's where EGL works.
_EGL_TEST = """
import sys
import pybullet as p
client = p.connect(p.DIRECT)
here = {"physicsClientId": client}
if p.loadPlugin(sys.argv[1], "_eglRendererPlugin", **here) < 0:
    sys.exit("the plugin cannot be loaded")
box = p.createVisualShape(p.GEOM_BOX, halfExtents=(1, 1, 1), **here)
p.createMultiBody(0, -1, box, **here)
view = p.computeViewMatrix((0, 0, 5), (0, 0, 0), (0, 1, 0))
lens = p.computeProjectionMatrixFOV(60, 1, 0.1, 10)
mask = p.getCameraImage(16, 16, view, lens, renderer=p.ER_BULLET_HARDWARE_OPENGL, **here)[4]
sys.exit(None if (mask.max() >= 0) else "it draws empty pictures")
"""


def _require_egl() -> None:
    """Refuse EGL where it does not work."""
    plugin = _egl_plugin()
    reason: str | None
    if _forked:
        reason = "this process is a fork, in which EGL hangs; use forkserver or spawn"
    elif plugin is None:
        reason = "this PyBullet was built without the eglRenderer plugin"
    else:
        reason = _egl_fault(plugin)
    if reason is not None:
        raise _egl_error(reason)


def _egl_error(reason: str) -> RuntimeError:
    return RuntimeError(f"renderer='egl' cannot be used: {reason}; renderer='tiny' needs no driver")


@functools.cache
def _egl_fault(plugin: str) -> str | None:
    """Return why EGL does not draw, or None. A driver may crash or hang, so a child tries."""
    try:
        test = subprocess.run(
            [sys.executable, "-c", _EGL_TEST, plugin],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "the graphics driver hangs"
    if test.returncode == 0:
        return None
    return " ".join([*test.stderr.split(), f"(exit status {test.returncode})"])


class _EglContext:
    """The OpenGL context that was made last, to go back to when others have been made since.

    Bullet draws every client in the latest context, so that one would show another's scene.
    """

    def __init__(self) -> None:
        egl = ctypes.CDLL("libEGL.so.1")
        for name in ("eglGetCurrentDisplay", "eglGetCurrentSurface", "eglGetCurrentContext"):
            getattr(egl, name).restype = ctypes.c_void_p
        surface = ctypes.c_void_p(egl.eglGetCurrentSurface(0x3059))  # EGL_DRAW
        display = ctypes.c_void_p(egl.eglGetCurrentDisplay())
        context = ctypes.c_void_p(egl.eglGetCurrentContext())
        self._make_current = functools.partial(
            egl.eglMakeCurrent, display, surface, surface, context
        )

    def make_current(self) -> None:
        """Let Bullet draw here.

        Raises:
            RuntimeError: in a fork or in a second thread.
        """
        if _forked:
            _require_egl()  # the context is the parent's: touching it would kill this process
        if not self._make_current():
            raise _egl_error("another thread draws with it")


def _disconnect(client: int, egl: _EglContext | None = None) -> None:
    if egl is None:
        if p.isConnected(client):  # a window may have been closed by hand
            p.disconnect(client)
    elif not _forked:
        egl.make_current()
        with _silenced():
            p.disconnect(client)


class Body:
    """A loaded URDF. Its joints are known by name; Bullet's numbers never leave this module."""

    def __init__(self, client: int, body_id: int, row: int, copies: int) -> None:
        self._client = client
        self._id = body_id
        self._copies = copies
        self._group = 1 << row
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
            shapes = p.getCollisionShapeData(body_id, link, client)
            if any(shape[2] != p.GEOM_PLANE for shape in shapes):
                self._touch_only_own_row(link)
            else:
                p.setCollisionFilterGroupMask(body_id, link, 0, 0, physicsClientId=client)
            # Every link is born with linear and angular damping 0.04.
            p.changeDynamics(
                body_id,
                link,
                linearDamping=0,
                angularDamping=0,
                jointDamping=0,
                physicsClientId=client,
            )

    def _touch_only_own_row(self, link: int) -> None:
        p.setCollisionFilterGroupMask(
            self._id, link, self._group, self._group, physicsClientId=self._client
        )

    def joints(self, *names: str) -> tuple[int, ...]:
        """Return handles for the methods below: these joints of the first copy, then the next."""
        return tuple(
            self._index[_of_copy(name, copy)] for copy in range(self._copies) for name in names
        )

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

    def joint_states(self, joints: tuple[int, ...]) -> list[float]:
        """Return the position (m or rad) and speed (per s) of one joint after the other."""
        states = p.getJointStates(self._id, joints, self._client)
        if len(states) == 2:  # one robot, for which a loop takes four times as long
            (first, first_speed, _, _), (second, second_speed, _, _) = states
            return [first, first_speed, second, second_speed]
        numbers = [0.0] * (2 * len(states))
        numbers[::2], numbers[1::2] = map(_POSITION, states), map(_SPEED, states)
        return numbers

    def place_joints(
        self, joints: Sequence[int], positions: Sequence[float], speeds: Sequence[float]
    ) -> None:
        """Teleport joints to positions (m or rad) and speeds (per s)."""
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
        orientation: Sequence[float],
        velocity: Sequence[float] = (0.0, 0.0, 0.0),
        angular_velocity: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Teleport the base; units as in :meth:`base`."""
        # Bullet then forgets the base's contact points, which would warm-start the solver.
        self._touch_only_own_row(-1)
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
