"""Frames for people, described first and drawn later.

A frame depends on its description alone, so that other processes can draw it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .renderer import VideoRenderer, visible_parameters

if TYPE_CHECKING:
    from .camera import Camera
    from .overlay import Overlay
    from .task import State, Task

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Command:
    """What an actuator is told.

    Args:
        name: of its joint.
        value: the command, in ``unit``.
        scale: that of an action of size 1.
        unit: SI.
    """

    name: str
    value: float
    scale: float
    unit: str


@dataclass(frozen=True)
class Picture:
    """What a frame shows.

    Args:
        task: with the parameters of the episode.
        state: of the task.
        observation: image that the agent observes, None if it observes none.
        width: of the frame in pixels, None for that of the task's camera.
    """

    task: Task
    state: State
    observation: Frame | None = None
    width: int | None = None

    @property
    def camera(self) -> Camera:
        """The task's camera for people, with as many pixels as the frame has."""
        camera = self.task.video_camera
        if self.width is None:
            return camera
        height = 2 * round(camera.height * self.width / camera.width / 2)  # even, for MP4
        return dataclasses.replace(camera, width=self.width, height=height)


class Painter:
    """Draws pictures of a task, with a client for the sizes of bodies and frame at the time."""

    def __init__(self) -> None:
        self._renderer: VideoRenderer | None = None
        self._sizes: tuple[float | None, ...] = ()

    def draw(self, picture: Picture) -> Frame:
        """Return a frame, uint8 of shape (height, width, 3)."""
        sizes = (*visible_parameters(picture.task), picture.width)
        if self._renderer is not None and self._sizes != sizes:
            self.close()
        if self._renderer is None:
            self._renderer = VideoRenderer(picture.task, picture.camera)
            self._sizes = sizes
        frame = self._renderer.draw_frame(picture.state)
        if picture.observation is None:
            return frame
        from .overlay import with_inset

        return with_inset(frame, picture.observation)

    def close(self) -> None:
        """Free the client. Safe to call twice."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None


_painter = Painter()  # of pictures that are drawn one after the other in this process


def _draw(picture: Picture, overlay: Overlay | None) -> Frame:
    frame = _painter.draw(picture)
    return frame if overlay is None else overlay.drawn_into(frame)


def _begin_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that records ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the process that records has ended, which a signal may have killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


class _Here(concurrent.futures.Executor):
    """Calls in this process, at once."""

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class DrawingProcesses:
    """Processes that draw, whose frames come back in the order of their pictures.

    Args:
        workers: how many; with 0 frames are drawn here.
    """

    def __init__(self, workers: int) -> None:
        self._executor: concurrent.futures.Executor = _Here()
        if workers:
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _begin_process
            )
        self._most = 4 * workers  # frames that wait, of 1.5 MB
        self._waiting: collections.deque[concurrent.futures.Future[Frame]] = collections.deque()

    def submit(self, picture: Picture, overlay: Overlay | None) -> concurrent.futures.Future[Frame]:
        """Have a picture drawn."""
        return self._executor.submit(_draw, picture, overlay)

    def add(self, picture: Picture, overlay: Overlay | None, times: int = 1) -> Iterator[Frame]:
        """Have one more picture drawn, and return frames that are to be taken now.

        Args:
            picture: what to draw.
            overlay: what to write into it.
            times: how often the frame is to be returned.
        """
        self._waiting.extend([self.submit(picture, overlay)] * times)
        while len(self._waiting) > self._most:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[Frame]:
        """Return the frames that are left."""
        while self._waiting:
            yield self._waiting.popleft().result()

    def close(self) -> None:
        """End the processes, and free the client if frames were drawn here."""
        # Without waiting, its thread and the end of the program may close a pipe at the same time.
        self._executor.shutdown(cancel_futures=True)
        _painter.close()
