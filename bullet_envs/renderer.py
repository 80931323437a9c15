"""Images of a state, drawn in a client of their own so that drawing never touches the physics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .backdrop import SUPERSAMPLING, compose, shadow_view
from .camera import Camera
from .simulation import Simulation

if TYPE_CHECKING:
    from .task import State, Task

COARSE = 4  # pixels of a frame to one of the image that says where the robot is
RIM = 2  # of those pixels, for what that image misses


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
        left, right = _extent(bodies.max(axis=0), camera.width)
        top, bottom = _extent(bodies.max(axis=1), camera.height)
        robot = draw(
            (right - left) * SUPERSAMPLING,
            (bottom - top) * SUPERSAMPLING,
            view,
            camera.part(left, top, right - left, bottom - top),
            light,
        )
        flat = shadow_view(camera, self._floor)
        shadow = draw(2 * width, 2 * height, flat, camera.projection, light)[..., 3]
        return compose(camera, self._floor, robot, (left, top), shadow)


def _extent(occupied: npt.NDArray[np.uint8], side: int) -> tuple[int, int]:
    """Return the first pixel of a frame that a robot may cover, and that after the last."""
    places = np.flatnonzero(occupied)
    if not len(places):
        return 0, COARSE
    first, after = places[0] - RIM, places[-1] + RIM + 1
    return max(COARSE * int(first), 0), min(COARSE * int(after), side)


def visible_parameters(task: Task) -> tuple[float, ...]:
    """Return the sizes of bodies that a task may change."""
    return tuple([getattr(task, one.name) for one in task.parameters if one.visible])
