"""OpenGL without a window (EGL): whether it works here, and which context draws."""

import ctypes
import functools
import importlib.util
import os
import subprocess
import sys

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_note_fork)

# Draws a box in front of the camera; its mask differs from an empty image's where EGL works.
_TEST = """
import sys
import numpy
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
sys.exit(None if numpy.max(mask) >= 0 else "it draws empty images")
"""


def plugin_path() -> str | None:
    """Return where PyBullet's EGL plugin is, None where it was built without."""
    spec = importlib.util.find_spec("eglRenderer")
    return None if spec is None else spec.origin


def require_egl() -> None:
    """Refuse EGL where it does not work.

    Raises:
        RuntimeError: with the reason.
    """
    plugin = plugin_path()
    reason: str | None
    if _forked:
        reason = "this process is a fork, in which EGL hangs; use forkserver or spawn"
    elif plugin is None:
        reason = "this PyBullet was built without the eglRenderer plugin"
    else:
        reason = _fault(plugin)
    if reason is not None:
        raise egl_error(reason)


def egl_error(reason: str) -> RuntimeError:
    """Return the error for EGL that cannot be used."""
    return RuntimeError(f"renderer='egl' cannot be used: {reason}; renderer='tiny' needs no driver")


@functools.cache
def _fault(plugin: str) -> str | None:
    """Return why EGL does not draw, or None. A driver may crash or hang, so a child tries."""
    try:
        test = subprocess.run(
            [sys.executable, "-c", _TEST, plugin],
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


class EglContext:
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
            require_egl()  # the context is the parent's: touching it would kill this process
        if not self._make_current():
            raise egl_error("another thread draws with it")


def is_forked() -> bool:
    """Return whether this process was forked from one that had imported this module."""
    return _forked
