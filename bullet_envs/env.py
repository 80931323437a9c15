"""The Gymnasium protocol for one robot: reset, step, render, copies and clear errors."""

import dataclasses
import inspect
import math
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.logger import warn

from .balancing_plate import BalancingPlate
from .camera import Studio
from .cart_pole import CartPole
from .observers import OBSERVERS, Observer, PixelObserver, StateObserver
from .task import Effort, Scene, State, Task
from .world import World

Observation = npt.NDArray[Any]


class BulletEnv(gym.Env[Observation, Any]):
    """One robot with a problem to solve.

    Args:
        task: the problem.
        observer: what the agent is shown of its states.
        render_mode: ``"rgb_array"`` for pictures, ``"human"`` for a window, or None.

    Raises:
        ValueError: the render mode is unknown.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, task: Task, observer: Observer, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode={render_mode!r} must be None or one of"
                f" {self.metadata['render_modes']}"
            )
        self.task = task
        self.observer = observer
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": task.control_hz}
        self.action_space = task.action_space
        self.observation_space = observer.space
        self._efforts = task.efforts
        self._world: World | None = None
        self._scene: Scene | None = None
        self._studio: Studio | None = None
        self._state: State | None = None
        self._ended = False
        self._closed = False
        self._next_frame_time = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: decides this and all later episodes until the next seed.
            options: ``{"state": {name: value}}`` begins from an exact state in the names and units
                of :meth:`state`; columns that are not named are at rest.

        Returns:
            The first observation and an empty info.

        Raises:
            TypeError: the options or the state are not of the form above.
            ValueError: an option or column is unknown, or the state is not one to start from.
            ClosedEnvironmentError: the environment has been closed.
        """
        if self._closed:
            raise ClosedEnvironmentError("reset() after close(): make a new environment")
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise TypeError(f"options {options!r} must be None or a dict with the key 'state'")
        if unknown := [name for name in options if name != "state"]:
            raise ValueError(f"options has no {unknown}; the only option is 'state'")
        named = options.get("state")
        given = None if named is None else self.task.named_state(named)
        super().reset(seed=seed)
        self._start(self.task.draw_start(self.np_random) if given is None else given)
        self._ended = False
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act for one control period.

        Args:
            action: an element of ``action_space``; Box values beyond the bounds are clipped.

        Returns:
            Observation, reward, terminated, truncated (always False: the time limit is
            gymnasium's TimeLimit) and an empty info. After an end the state stays as it is, with
            reward 0 and a warning.

        Raises:
            TypeError: the action is of the wrong type.
            ValueError: the action is out of range, of the wrong shape or not finite.
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        effort = self._effort(action)
        if self._scene is None or self._ended:
            if self._state is None or self._closed:
                raise self._not_running("step")
            if self._ended:
                warn("step() after the episode has terminated does nothing: call reset()")
                return self._observation(), 0.0, True, False, {}
            self._start(self._state)
        scene: Scene = self._scene  # type: ignore[assignment]
        try:
            scene.act(effort)
            self._world.step()  # type: ignore[union-attr]
            self._state = state = scene.read()
        except BaseException:  # Ctrl-C
            self._discard_engine()
            raise
        reward, self._ended = self.task.outcome(state)
        if self.render_mode == "human":
            self.render()
        return self.observer.observe(state), reward, self._ended, False, {}

    def state(self) -> dict[str, float]:
        """Return the full state by name, in SI units, fit for ``reset(options={"state": ...})``.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        if self._state is None or self._closed:
            raise self._not_running("state")
        return dict(zip(self.task.state_names, self._state, strict=True))

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return a picture, or show the state in the window.

        Returns:
            uint8 of shape (360, 480, 3); with ``observer="pixels"`` of shape (360, 848, 3), the
            observation enlarged to its right. None in a window.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
            RuntimeError: ``human`` without a display.
        """
        if self._state is None or self._closed:
            raise self._not_running("render")
        if self.render_mode is None:
            warn("render() without a render mode: make the environment with 'rgb_array' or 'human'")
            return None
        human = self.render_mode == "human"
        if self._studio is None:
            self._studio = Studio(self.task, gui=human)
        if not human:
            picture = self._studio.draw(self._state, self.task.video_camera)
            return self.observer.beside(picture, self._state)
        self._studio.pose(self._state)
        # The window shows the motion at its true speed.
        now = time.monotonic()
        time.sleep(max(0.0, self._next_frame_time - now))
        self._next_frame_time = max(now, self._next_frame_time) + 1 / self.task.control_hz
        return None

    def close(self) -> None:
        """Free the engine. Safe to call twice."""
        self._closed = True
        self._discard_engine()
        if self._studio is not None:
            self._studio.close()
        self._studio = None
        self.observer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own and goes on from the same state."""
        return {**self.__dict__, "_world": None, "_scene": None, "_studio": None}

    def _start(self, state: State) -> None:
        if self._world is None or self._scene is None:
            self._world = World(self.task.physics_hz, self.task.control_hz)
            self._scene = self.task.build(self._world)
        try:
            self._scene.place({0: state})
            self._state = self._scene.read()
        except BaseException:  # Ctrl-C
            self._discard_engine()
            raise

    def _discard_engine(self) -> None:
        """Forget the world, which is half-way through something; the state is as it was before."""
        if self._world is not None:
            self._world.close()
        self._world = self._scene = None

    def _observation(self) -> Observation:
        assert self._state is not None
        return self.observer.observe(self._state)

    def _effort(self, action: Any) -> Effort:
        """Return the force or torques that an action asks for."""
        if self.task.continuous:
            return self._scaled_effort(action)
        count = len(self._efforts)
        try:
            index = operator.index(action)
        except TypeError:
            raise TypeError(
                f"action {action!r} must be a whole number from 0 to {count - 1}"
            ) from None
        if not 0 <= index < count:
            raise ValueError(f"action {action!r} must be a whole number from 0 to {count - 1}")
        return self._efforts[index]

    def _scaled_effort(self, action: Any) -> Effort:
        size = len(self._efforts[0])
        legal = f"{size} finite numbers from -1 to 1, shape ({size},)"
        try:
            array = np.asarray(action)
        except ValueError:
            raise ValueError(f"action {action!r} must be {legal}") from None
        if array.dtype.kind not in "fiu":
            raise TypeError(f"action {action!r} must be {legal}")
        values = array.tolist()
        if array.shape != (size,) or not all(map(math.isfinite, values)):
            raise ValueError(f"action {action!r} must be {legal}")
        greatest = self.task.greatest_effort
        return tuple([greatest * min(1.0, max(-1.0, value)) for value in values])

    def _not_running(self, call: str) -> Exception:
        if self._closed:
            return ClosedEnvironmentError(f"{call}() after close(): make a new environment")
        return ResetNeeded(f"{call}() before reset(): call reset() first")


class BulletCartPoleEnv(BulletEnv):  # noqa: D101
    __doc__ = CartPole.__doc__

    def __init__(self, render_mode: str | None = None, **keywords: Any) -> None:
        super().__init__(*problem(CartPole, ("render_mode",), **keywords), render_mode)


class BalancingPlateEnv(BulletEnv):  # noqa: D101
    __doc__ = BalancingPlate.__doc__

    def __init__(self, render_mode: str | None = None, **keywords: Any) -> None:
        super().__init__(*problem(BalancingPlate, ("render_mode",), **keywords), render_mode)


def problem(
    kind: type[Task], others: Sequence[str], observer: str = "state", **keywords: Any
) -> tuple[Task, Observer]:
    """Return the task and the observer that the keywords of an environment ask for.

    Args:
        kind: of task.
        others: keywords that the environment has beside these, for the error that lists them.
        observer: what the agent is shown, one of ``OBSERVERS``.
        keywords: of the task and the observer.
    """
    if observer not in OBSERVERS:
        raise ValueError(f"observer={observer!r} must be one of {', '.join(OBSERVERS)}")
    of_task = [field.name for field in dataclasses.fields(kind)]
    of_pixels = list(inspect.signature(PixelObserver).parameters)[1:]
    legal = [*others, "observer", *of_task, *(of_pixels if observer == "pixels" else [])]
    if unknown := [name for name in keywords if name not in legal]:
        raise TypeError(f"unknown keyword {', '.join(unknown)}; legal: {', '.join(legal)}")
    task = kind(**{name: keywords.pop(name) for name in of_task if name in keywords})
    if observer == "pixels":
        return task, PixelObserver(task, **keywords)
    return task, StateObserver(task)
