"""A window that shows an environment in real time."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

# What SDL takes where there is no display. Named in SDL_VIDEODRIVER they are what is wanted.
UNSEEN = ("offscreen", "dummy")
LATE = 0.5  # s, from which on time that was lost is not made up for
LONGEST_GAP = 0.1  # s between frames of an environment that is always late


class Window:
    """Shows the frames of an environment when they are due; drawing takes none of their time.

    A frame that is late is left out, so that ten seconds of an episode take ten seconds.

    Args:
        title: of the window.
        fps: frames per second.

    Attributes:
        speed: of the time that is shown, 1 for real time.

    Raises:
        RuntimeError: there is no display, or another window of this process is open.
    """

    def __init__(self, title: str, fps: float) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame = pygame
        self._title, self._fps = title, fps
        self.speed = 1.0
        if pygame.display.get_surface() is not None:
            raise RuntimeError(
                "render_mode='human' can show one environment per process; use 'rgb_array'"
            )
        try:
            pygame.display.init()
            if pygame.display.get_driver() in UNSEEN and "SDL_VIDEODRIVER" not in os.environ:
                raise pygame.error("no display")
        except pygame.error as error:
            pygame.display.quit()
            raise RuntimeError(
                f"render_mode='human' cannot open a window: {error}"
                f" (DISPLAY={os.environ.get('DISPLAY')!r});"
                " without a display, bullet-envs record makes videos and render_mode='rgb_array'"
                " frames"
            ) from None
        # Runs once: at close, when the window is forgotten, or when Python ends.
        self.close = weakref.finalize(self, pygame.display.quit)
        self._due: float | None = None
        self._shown = 0.0

    def restart(self) -> None:
        """Let the next frame be due at once."""
        self._due = None

    def leave_at(self, keys: Sequence[str]) -> None:
        """Close the window if one of some keys was pressed, by their names in pygame.

        Raises:
            SystemExit: one was.
        """
        pressed = self._pygame.event.get(self._pygame.KEYDOWN)
        if any(self._pygame.key.name(event.key) in keys for event in pressed):
            self.close()
            raise SystemExit(0)

    def show(self, draw: Callable[[], npt.NDArray[np.uint8]]) -> None:
        """Wait until the next frame is due, and show it unless it is late.

        Args:
            draw: returns the frame, uint8 of shape (height, width, 3).

        Raises:
            SystemExit: the window has been closed by its cross.
        """
        pygame = self._pygame
        if pygame.event.get(pygame.QUIT):
            self.close()
            raise SystemExit(0)
        pygame.event.pump()
        now = time.monotonic()
        if self._due is None or now > self._due + LATE:
            self._due = now
        period = 1 / (self._fps * self.speed)
        if now < self._due + period or now > self._shown + LONGEST_GAP:
            frame = draw()
            time.sleep(max(0.0, self._due - time.monotonic()))
            height, width, _ = frame.shape
            surface = pygame.display.get_surface()
            if surface is None or surface.get_size() != (width, height):
                surface = pygame.display.set_mode((width, height))
                pygame.display.set_caption(self._title)
            pygame.surfarray.blit_array(surface, frame.transpose(1, 0, 2))
            pygame.display.flip()
            self._shown = time.monotonic()
        self._due += period
