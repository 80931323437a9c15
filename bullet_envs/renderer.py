"""Images of a state, drawn in a client of their own so that drawing never touches the physics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .backdrop import SUPERSAMPLING, compose, shadow_view
from .camera import Camera
from .simulation import Simulation

if TYPE_CHECKING:
    from .task import State, Task

COARSE = 4  # pixels of a frame to one of the image that says where the robot is
RIM = 2  # of those pixels, for what that image misses and for blur
BAND = 9  # of those pixels: height of the parts of a frame that are drawn large


class Renderer:
    """A second simulation of a task that is placed in a state and drawn.

    Args:
        task: what to draw.
        renderer: one of ``camera.RENDERERS``.

    Raises:
        RuntimeError: the renderer cannot be had here.
    """

    def __init__(self, task: Task, renderer: str = "tiny") -> None:
        self._simulation = Simulation(task, egl_renderer=renderer == "egl", visible=True)

    def set_state(self, state: State) -> None:
        """Show a state."""
        self._simulation.set_state({0: state})

    def draw(
        self, state: State, camera: Camera, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> npt.NDArray[np.uint8]:
        """Return an image of a state, uint8 of shape (height, width, 3).

        Args:
            state: what to show.
            camera: how.
            shift: how far to move the camera (m).
        """
        self.set_state(state)
        return self._simulation.world.draw(
            camera.width,
            camera.height,
            camera.view(shift),
            camera.projection,
            camera.light,
            camera.shadow,
        )

    def close(self) -> None:
        """Free the client. Safe to call twice."""
        self._simulation.close()


class VideoRenderer(Renderer):
    """The same for people: the robot on a floor, with marks that agents do not see.

    Args:
        task: what to draw.
        camera: that sees it.
    """

    def __init__(self, task: Task, camera: Camera) -> None:
        super().__init__(task)
        self._camera, self._floor = camera, task.floor_height
        task.decorate(self._simulation.world)

    def draw_frame(self, state: State) -> npt.NDArray[np.uint8]:
        """Return an image of a state, uint8 of shape (height, width, 3)."""
        self.set_state(state)
        camera, draw = self._camera, self._simulation.world.draw_bodies
        view, light = camera.view(), camera.light
        width, height = camera.width // COARSE, camera.height // COARSE
        bodies = draw(width, height, view, camera.projection, light)[..., 3]
        parts = []
        for left, top, right, bottom in _occupied(bodies):
            robot = draw(
                int((right - left) * SUPERSAMPLING),
                int((bottom - top) * SUPERSAMPLING),
                view,
                camera.part(left, top, right - left, bottom - top),
                light,
            )
            parts.append(((left, top), robot))
        flat = shadow_view(camera, self._floor)
        dark = draw(width, height, flat, camera.projection, light)[..., 3]
        shadow = None
        if dark.any():
            left, top, right, bottom = _around(dark)
            part = camera.part(left, top, right - left, bottom - top)
            size = (right - left) // 2, (bottom - top) // 2
            shadow = (left, top), draw(*size, flat, part, light)[..., 3]
        return compose(camera, self._floor, parts, shadow)


def _occupied(bodies: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, right and bottom of parts of a frame that a robot may cover (pixels).

    Args:
        bodies: the coarse image, 0 where there is none.
    """
    height = len(bodies)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        rows = bodies[max(top - RIM, 0) : bottom + RIM]
        if rows.any():
            left, _, right, _ = _around(rows)
            yield left, COARSE * top, right, COARSE * bottom


def _around(bodies: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of a frame that shows all bodies (pixels)."""
    height, width = bodies.shape
    (columns,), (rows,) = (bodies.any(axis=axis).nonzero() for axis in (0, 1))
    left, top = (COARSE * max(int(ends[0]) - RIM, 0) for ends in (columns, rows))
    right = COARSE * min(int(columns[-1]) + RIM + 1, width)
    return left, top, right, COARSE * min(int(rows[-1]) + RIM + 1, height)


def visible_parameters(task: Task) -> tuple[float, ...]:
    """Return the sizes of bodies that a task may change."""
    return tuple([getattr(task, one.name) for one in task.parameters if one.visible])
