"""What an agent is shown of a state. An observer sees nothing else: no reward, end or history."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .camera import RENDERERS, Camera, Studio
from .task import State, Task, require

OBSERVERS = ("state", "pixels")
_LENS = ("eye", "target", "fov")


class Observer(Protocol):
    """Turns a state into an observation."""

    space: spaces.Box[Any]

    def observe(self, state: State) -> npt.NDArray[Any]:
        """Return the observation of a state, a new array."""

    def observe_rows(self, states: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return the observations of many states, given a row each, as a new array."""

    def beside(self, picture: npt.NDArray[np.uint8], state: State) -> npt.NDArray[np.uint8]:
        """Return a film's picture with what the agent sees of it, if that can be shown."""

    def close(self) -> None:
        """Free what drawing needs. Safe to call twice."""


class StateObserver:
    """Shows the numbers that the task chose."""

    def __init__(self, task: Task) -> None:
        self.space = task.observation_space
        self._columns = task.observe
        self._dtype = self.space.dtype  # NumPy is slower with np.float32

    def observe(self, state: State) -> npt.NDArray[np.float32]:
        """Return the task's columns, float32."""
        return np.asarray(self._columns(state), self._dtype)

    def observe_rows(self, states: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return the task's columns, float32 of shape (rows, columns)."""
        rows: npt.NDArray[np.float32] = np.array(self._columns(tuple(states.T)), self._dtype).T
        return rows

    def beside(self, picture: npt.NDArray[np.uint8], state: State) -> npt.NDArray[np.uint8]:
        """Return the picture as it is."""
        return picture

    def close(self) -> None:
        """Hold nothing, free nothing."""


class PixelObserver:
    """Shows one picture, taken by the task's ``agent_camera`` or by one of the user's.

    The picture depends on the state alone: what moves must be told from several of them
    (``gymnasium.wrappers.FrameStackObservation``).

    Args:
        task: whose states to draw.
        size: width and height of the picture, 16 to 512 pixels.
        camera: what to change about ``agent_camera``: ``{"eye": (x, y, z), "target": (x, y, z)}``
            in m, relative to what the camera follows, and ``"fov"``, 1 to 120 degrees.
        supersampling: draw 1 to 4 times as large and average, which smooths edges.
        renderer: ``"tiny"`` is Bullet's software renderer, the same bits on every machine of a
            kind; ``"egl"`` is OpenGL without a window, whose pictures are others.

    Raises:
        TypeError: a keyword has the wrong type.
        ValueError: a keyword is out of its range.
    """

    def __init__(
        self,
        task: Task,
        size: int = 64,
        camera: Mapping[str, Any] | None = None,
        supersampling: int = 1,
        renderer: str = "tiny",
    ) -> None:
        require("size", size, 16, 512, "pixels", whole=True)
        require("supersampling", supersampling, 1, 4, "times", whole=True)
        if renderer not in RENDERERS:
            raise ValueError(f"renderer={renderer!r} must be one of {', '.join(RENDERERS)}")
        self._task = task
        self._supersampling = supersampling
        self._renderer = renderer
        self.camera = dataclasses.replace(
            task.agent_camera,
            **_lens(task.agent_camera, {} if camera is None else camera),
            width=size * supersampling,
            height=size * supersampling,
        )
        self._studio: Studio | None = None
        self.space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def observe(self, state: State) -> npt.NDArray[np.uint8]:
        """Return the picture of a state, uint8 of shape (size, size, 3)."""
        if self._studio is None:
            self._studio = Studio(self._task, renderer=self._renderer)
        picture = self._studio.draw(state, self.camera, self._task.followed(state))
        times = self._supersampling
        if times == 1:
            return picture
        size = self.space.shape[0]
        total = picture.reshape(size, times, size, times, 3).sum((1, 3), dtype=np.uint16)
        mean: npt.NDArray[np.uint8] = ((total + times**2 // 2) // times**2).astype(np.uint8)
        return mean

    def observe_rows(self, states: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """Return the pictures of many states, uint8 of shape (rows, size, size, 3)."""
        return np.stack([self.observe(tuple(state)) for state in states.tolist()])

    def beside(self, picture: npt.NDArray[np.uint8], state: State) -> npt.NDArray[np.uint8]:
        """Return the picture and to its right the observation, enlarged to its height."""
        height = len(picture)
        nearest = np.arange(height) * self.space.shape[0] // height
        seam = np.full((height, 8, 3), 90, np.uint8)
        return np.concatenate([picture, seam, self.observe(state)[nearest][:, nearest]], axis=1)

    def close(self) -> None:
        """Free the client. Safe to call twice."""
        if self._studio is not None:
            self._studio.close()
        self._studio = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the client behind: a copy makes its own."""
        return {**self.__dict__, "_studio": None}


def _lens(default: Camera, given: Any) -> dict[str, Any]:
    """Return the checked fields of a camera that a user wants otherwise."""
    if not isinstance(given, Mapping):
        raise TypeError(f"camera={given!r} must be a dict such as {{'fov': {default.fov:g}}}")
    if unknown := [name for name in given if name not in _LENS]:
        raise ValueError(f"camera has no {unknown}; its names are {', '.join(_LENS)}")
    lens: dict[str, Any] = {}
    for name in ("eye", "target"):
        if name in given:
            lens[name] = _point(name, given[name])
    if lens.get("eye", default.eye) == lens.get("target", default.target):
        raise ValueError(f"camera={given!r} must have its eye elsewhere than its target")
    if "fov" in given:
        require("camera fov", given["fov"], 1, 120, "degrees")
        lens["fov"] = float(given["fov"])
    return lens


def _point(name: str, value: Any) -> tuple[float, ...]:
    legal = f"camera {name}={value!r} must be three numbers from -40 to 40 m"
    if not isinstance(value, list | tuple) or not all(
        isinstance(number, Real) and not isinstance(number, bool) for number in value
    ):
        raise TypeError(legal)
    if len(value) != 3 or not all(math.isfinite(x) and abs(x) <= 40 for x in value):
        raise ValueError(legal)
    return tuple(float(number) for number in value)
