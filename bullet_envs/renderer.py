"""Images of a state, drawn in a client of their own so that drawing never touches the physics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .camera import Camera
from .simulation import Simulation

if TYPE_CHECKING:
    from .task import State, Task


class Renderer:
    """A second simulation of a task that is placed in a state and drawn.

    Args:
        task: what to draw.
        gui: show it in a window as well.
        renderer: one of ``camera.RENDERERS``.

    Raises:
        RuntimeError: the window or the renderer cannot be had here.
    """

    def __init__(self, task: Task, gui: bool = False, renderer: str = "tiny") -> None:
        self._simulation = Simulation(task, gui=gui, egl_renderer=renderer == "egl", visible=True)
        if gui:
            self._simulation.world.look(task.video_camera.eye, task.video_camera.target)

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
        """Free the client or window. Safe to call twice."""
        self._simulation.close()


def visible_parameters(task: Task) -> tuple[float, ...]:
    """Return the sizes of bodies that a task may change."""
    return tuple([getattr(task, one.name) for one in task.parameters if one.visible])
