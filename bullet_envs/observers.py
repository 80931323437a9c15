"""What an agent observes of a state. An observer knows nothing else: no reward, no history."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .camera import RENDERERS, Camera
from .checks import require, shorten
from .perturbations import VARIANTS
from .perturbed_episode import PerturbedEpisode
from .renderer import Renderer, visible_parameters
from .task import State, Task

Observation: TypeAlias = Any  # an array, or a dict of arrays for a Dict space

OBSERVERS = ("state", "pixels")
MOST_DRAWERS = 2 * VARIANTS  # a client of 30 MB each
_LENS = ("eye", "target", "fov")


class Observer(Protocol):
    """Turns a state into an observation."""

    @property
    def space(self) -> spaces.Space[Any]:
        """Of an observation."""

    def observe(self, state: State) -> Observation:
        """Return the observation of a state: new arrays."""

    def observe_episode(self, state: State, episode: PerturbedEpisode) -> Observation:
        """Return the observation of a state of a perturbed episode, before its sensors."""

    def observe_many(self, states: npt.NDArray[np.float64]) -> Observation:
        """Return the observations of states of shape (n, columns): new arrays of length n."""

    def picture(self, state: State) -> npt.NDArray[np.uint8] | None:
        """Return the image to show beside a frame, None if the agent observes none."""

    def close(self) -> None:
        """Free what drawing needs. Safe to call twice."""


class StateObserver:
    """Observes the columns that the task chose."""

    def __init__(self, task: Task) -> None:
        self.space: spaces.Box | spaces.Dict = task.observation_space
        self._columns = task.observe
        self._is_dict = isinstance(self.space, spaces.Dict)
        self._dtype = np.dtype(np.float32)  # NumPy is slower with np.float32

    def observe(self, state: State) -> Observation:
        """Return the task's columns, float32."""
        columns: Any = self._columns(state)
        if self._is_dict:
            return {name: np.array(column, self._dtype) for name, column in columns.items()}
        return np.array(columns, self._dtype)

    def observe_episode(self, state: State, episode: PerturbedEpisode) -> Observation:
        """Return the task's columns, float32."""
        return self.observe(state)

    def observe_many(self, states: npt.NDArray[np.float64]) -> Observation:
        """Return the task's columns, float32 of shape (n, columns)."""
        columns: Any = self._columns(tuple(states.T))
        if self._is_dict:
            return {name: self._stack(column, len(states)) for name, column in columns.items()}
        return self._stack(columns, len(states))

    def _stack(self, columns: Any, count: int) -> npt.NDArray[np.float32]:
        try:
            stacked: npt.NDArray[np.float32] = np.array(columns, self._dtype).T
        except ValueError:  # some of them are one number, the same for all
            stacked = np.empty((count, len(columns)), self._dtype)
            for index, column in enumerate(columns):
                stacked[:, index] = column
        return stacked

    def picture(self, state: State) -> None:
        """Return None: there is no image to show."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class PixelObserver:
    """Observes one image, taken by the task's ``agent_camera`` or by one of the user's.

    The image depends on the state alone: what moves must be told from several of them
    (``gymnasium.wrappers.FrameStackObservation``).

    Args:
        task: whose states to draw.
        size: width and height of the image, 16 to 512 pixels.
        camera: what to change about ``agent_camera``: ``{"eye": (x, y, z), "target": (x, y, z)}``
            in m, relative to what the camera follows, and ``"fov"``, 1 to 120 degrees.
        supersampling: draw 1 to 4 times as large and average, which smooths edges.
        renderer: ``"tiny"`` is Bullet's software renderer, the same bits on every machine of a
            kind; ``"egl"`` is OpenGL without a window, whose images differ.

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
            raise ValueError(f"renderer={shorten(renderer)} must be one of {', '.join(RENDERERS)}")
        self._task = task
        self._supersampling = supersampling
        self._renderer = renderer
        self.camera = dataclasses.replace(
            task.agent_camera,
            **_lens(task.agent_camera, {} if camera is None else camera),
            width=size * supersampling,
            height=size * supersampling,
        )
        self._drawers: dict[tuple[float, ...], Renderer] = {}  # by the sizes of bodies
        self.space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def observe(self, state: State) -> npt.NDArray[np.uint8]:
        """Return the image of a state, uint8 of shape (size, size, 3)."""
        return self._draw(state, self._task, self.camera)

    def observe_episode(self, state: State, episode: PerturbedEpisode) -> npt.NDArray[np.uint8]:
        """Return the image of a state with the sizes and the camera of an episode."""
        camera = self.camera
        if any(episode.eye):
            x, y, z = (a + b for a, b in zip(camera.eye, episode.eye, strict=True))
            camera = dataclasses.replace(camera, eye=(x, y, z))
        return self._draw(state, episode.task, camera)

    def _draw(self, state: State, task: Task, camera: Camera) -> npt.NDArray[np.uint8]:
        sizes = visible_parameters(task)
        drawer = self._drawers.get(sizes)
        if drawer is None:
            if len(self._drawers) == MOST_DRAWERS:
                self._drawers.pop(next(iter(self._drawers))).close()
            drawer = self._drawers[sizes] = Renderer(task, renderer=self._renderer)
        image = drawer.draw(state, camera, task.camera_target(state))
        times = self._supersampling
        if times == 1:
            return image
        size = self.space.shape[0]
        total = image.reshape(size, times, size, times, 3).sum((1, 3), dtype=np.uint16)
        mean: npt.NDArray[np.uint8] = ((total + times**2 // 2) // times**2).astype(np.uint8)
        return mean

    def observe_many(self, states: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """Return the images of states, uint8 of shape (n, size, size, 3)."""
        return np.stack([self.observe(tuple(state)) for state in states.tolist()])

    def picture(self, state: State) -> npt.NDArray[np.uint8]:
        """Return the image to show beside a frame."""
        return self.observe(state)

    def close(self) -> None:
        """Free the client. Safe to call twice."""
        for drawer in self._drawers.values():
            drawer.close()
        self._drawers = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the clients behind: a copy makes its own."""
        return {**self.__dict__, "_drawers": {}}


def _lens(default: Camera, given: Any) -> dict[str, Any]:
    """Return the checked fields of a camera that a user wants otherwise."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"camera={shorten(given)} must be a dict such as {{'fov': {default.fov:g}}}"
        )
    if unknown := [name for name in given if name not in _LENS]:
        raise ValueError(f"camera has no {shorten(unknown)}; its names are {', '.join(_LENS)}")
    lens: dict[str, Any] = {}
    for name in ("eye", "target"):
        if name in given:
            lens[name] = _point(name, given[name])
    if lens.get("eye", default.eye) == lens.get("target", default.target):
        raise ValueError(f"camera={shorten(given)} must have its eye elsewhere than its target")
    if "fov" in given:
        require("camera fov", given["fov"], 1, 120, "degrees")
        lens["fov"] = float(given["fov"])
    return lens


def _point(name: str, value: Any) -> tuple[float, ...]:
    legal = f"camera {name}={shorten(value)} must be three numbers from -40 to 40 m"
    if not isinstance(value, list | tuple) or not all(
        isinstance(number, Real) and not isinstance(number, bool) for number in value
    ):
        raise TypeError(legal)
    if len(value) != 3 or not all(math.isfinite(x) and abs(x) <= 40 for x in value):
        raise ValueError(legal)
    return tuple(float(number) for number in value)
