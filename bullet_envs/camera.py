"""Pictures of a state, drawn in a client of their own so that looking never touches the physics."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .world import World

if TYPE_CHECKING:
    from .task import State, Task


RENDERERS = ("tiny", "egl")


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Args:
        eye: position (m).
        target: the point in the middle of the picture (m).
        fov: vertical field of view (degrees).
        width: pixels.
        height: pixels.
        light: direction towards the light.
        shadow: whether bodies cast shadows, ten times as slow.
        up: a direction that points up in the picture; where that is the line of sight, y does in
            place of z, or z in place of y.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float
    width: int = 480
    height: int = 360
    light: tuple[float, float, float] = (-0.15, -0.25, 1.0)
    shadow: bool = True
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @functools.cached_property
    def _axes(self) -> list[list[float]]:
        """The directions right, up and back, a row each."""
        forward = np.array(self.target) - np.array(self.eye)
        forward /= np.linalg.norm(forward)
        x, y, z = self.up
        right = np.cross(forward, self.up)
        if np.linalg.norm(right) < 1e-6:
            right = np.cross(forward, (x, z, y))
        right /= np.linalg.norm(right)
        axes: list[list[float]] = np.array([right, np.cross(right, forward), -forward]).tolist()
        return axes

    @functools.cached_property
    def _rotation(self) -> list[float]:
        """The first three columns of the view matrix."""
        return [number for column in zip(*self._axes, strict=True) for number in (*column, 0.0)]

    def view(self, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[float]:
        """Return the OpenGL view matrix, column-major, of the camera moved by ``shift`` (m)."""
        # Every observation needs one: floats take 1 microsecond, arrays 5.
        x, y, z = map(operator.add, self.eye, shift)
        moved = [-(a * x + b * y + c * z) for a, b, c in self._axes]
        return [*self._rotation, *moved, 1.0]

    @functools.cached_property
    def projection(self) -> list[float]:
        """Return the OpenGL projection matrix, column-major."""
        near, far = 0.05, 50.0
        scale = 1 / math.tan(math.radians(self.fov) / 2)
        matrix = np.zeros((4, 4))
        matrix[0, 0] = scale * self.height / self.width
        matrix[1, 1] = scale
        matrix[2, 2] = (far + near) / (near - far)
        matrix[2, 3] = 2 * far * near / (near - far)
        matrix[3, 2] = -1
        values: list[float] = matrix.T.ravel().tolist()
        return values


class Studio:
    """A second scene of a task, posed by a state and photographed.

    Args:
        task: what to draw.
        gui: show the scene in a window as well.
        renderer: one of ``RENDERERS``.

    Raises:
        RuntimeError: the window or the renderer cannot be had here.
    """

    def __init__(self, task: Task, gui: bool = False, renderer: str = "tiny") -> None:
        self._world = World(task.physics_hz, task.control_hz, gui, egl=renderer == "egl")
        self._scene = task.build(self._world)
        if gui:
            self._world.look(task.video_camera.eye, task.video_camera.target)

    def pose(self, state: State) -> None:
        """Show a state."""
        self._scene.place({0: state})

    def draw(
        self, state: State, camera: Camera, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> npt.NDArray[np.uint8]:
        """Return a picture of a state, uint8 of shape (height, width, 3).

        Args:
            state: what to show.
            camera: how.
            shift: how far to move the camera (m).
        """
        self.pose(state)
        return self._world.draw(
            camera.width,
            camera.height,
            camera.view(shift),
            camera.projection,
            camera.light,
            camera.shadow,
        )

    def close(self) -> None:
        """Free the client or window. Safe to call twice."""
        self._world.close()
