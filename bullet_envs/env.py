"""Gymnasium's protocol for one sub-environment: reset, step, render, copies and clear errors."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.logger import warn

from . import snapshots
from .actions import ActionDecoder
from .checks import shorten
from .frames import Command, Painter, Picture
from .observers import Observation
from .options import make_perturbations, make_task, parse_options
from .perturbed_episode import PerturbedEpisode
from .scene import UNITS
from .simulation import Simulation
from .task import State, Task
from .window import Window


class BulletEnv(gym.Env[Observation, Any]):
    """One sub-environment of a task.

    Usually made by ``gym.make`` with an id of :func:`~bullet_envs.registration.register_task`.

    Args:
        task: the problem, its class, or ``"module:Class"``.
        render_mode: ``"rgb_array"`` for frames, ``"human"`` for a window, or None.
        observer: what the agent observes: ``"state"`` or ``"pixels"``.
        perturbations: see :mod:`~bullet_envs.perturbations`: None, a dict, or the name of one of
            the task's presets.
        **keywords: of the task, unless it is an instance, and of
            :class:`~bullet_envs.observers.PixelObserver`.

    Attributes:
        skip_observations: while True, ``step`` returns the observation of before unless the episode
            terminates: a wrapper that repeats an action sets it for the steps between, whose images
            are not used. :meth:`observation` returns the present one.

    Raises:
        TypeError: a keyword is unknown or of the wrong type.
        ValueError: a keyword is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 50}  # noqa: RUF012

    def __init__(
        self,
        task: Task | type[Task] | str,
        render_mode: str | None = None,
        observer: str = "state",
        perturbations: Mapping[str, Any] | str | None = None,
        **keywords: Any,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode={shorten(render_mode)} must be None or one of"
                f" {self.metadata['render_modes']}"
            )
        others = ("render_mode", "perturbations")
        self.task, self.observer = make_task(task, observer, keywords, others)
        self.perturbations = make_perturbations(perturbations, self.task, observer)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self.task.control_hz}
        self.action_space = self.task.action_space
        self.observation_space = self.observer.space
        self._decode = ActionDecoder(self.task).decode
        self._episode: PerturbedEpisode | None = None
        self._perturbed_by: str | None = None  # for snapshots
        if perturbations is not None:
            self._episode = PerturbedEpisode(self.task, self.perturbations, self.observation_space)
            self._perturbed_by = repr(self.perturbations)
        # Looked up once, for a step that takes 7 microseconds.
        self._observe = self.observer.observe
        self._is_terminated = self.task.terminated
        self._is_watched = render_mode == "human"
        self._has_info = type(self.task).info is not Task.info
        self._has_reward = type(self.task).reward is not Task.reward
        self.skip_observations = False
        self._simulation: Simulation | None = None
        self._painter = Painter()
        self._window: Window | None = None
        self._state: State | None = None
        self._latest: Observation = None
        self._command: Sequence[float] | None = None
        self._terminated = False
        self._closed = False

    @property
    def skip_observations(self) -> bool:
        """Whether ``step`` leaves out the observation of an episode that goes on."""
        return self._skips_observations

    @skip_observations.setter
    def skip_observations(self, value: bool) -> None:
        self._skips_observations = value
        # One look in a step of 7 microseconds, in place of three. Without more, the reward is 1.
        self._has_more = value or self._has_info or self._has_reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. After ``close()`` the environment is open again.

        Args:
            seed: decides this and all later episodes until the next seed.
            options: ``{"state": {name: value}}`` begins from an exact state in the names and units
                of :meth:`state`; columns that are not named are at rest. ``{"parameters": {name:
                value}}`` sets parameters that would otherwise be drawn (SI units).

        Returns:
            The first observation and ``task.info``, empty for most tasks, with ``"parameters"``
            where some are perturbed.

        Raises:
            TypeError: the options or the state are not of the form above.
            ValueError: an option or column is unknown, or the state is not one to begin from.
        """
        _, state, parameters = parse_options(options, self.task, self.perturbations)
        super().reset(seed=seed)
        task = self.task
        if self._episode is not None:
            task = self._episode.begin(self.np_random, parameters)
        if state is None:
            state = task.sample_initial_state(self.np_random)
        self._closed = False
        try:
            self._make_ready(task)
            self._state = self._simulation.set_state({0: state})[0]  # type: ignore[union-attr]
        except BaseException:  # Ctrl-C
            self._discard_engine()
            raise
        self._terminated = False
        self._command = None
        info = _plain(self.task.info(self._state)) if self._has_info else {}
        if self.perturbations.parameters:
            info["parameters"] = self._episode.parameters  # type: ignore[union-attr]
        self._latest = None
        observation = self.observation()
        if self._is_watched:
            self.render()
        return observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act for one control period.

        Args:
            action: an element of ``action_space``; Box values beyond the bounds are clipped.

        Returns:
            Observation, reward, terminated, truncated (always False: the time limit is gymnasium's
            TimeLimit) and an info with ``task.info``, and with ``"reward_terms"`` where the reward
            has several. After a termination the state stays as it is, with reward 0 and a warning.

        Raises:
            TypeError: the action is of the wrong type.
            ValueError: the action is out of range, of the wrong shape or not finite.
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._command = command = self._decode(action)
        if self._simulation is None or self._terminated:
            self._require_running("step")
            if self._terminated:
                warn("step() after the episode has terminated does nothing: call reset()")
                return self.observation(), 0.0, True, False, {}
            self.resynchronize()
        try:
            if self._episode is None:
                next_state = self._simulation.step_one(command)  # type: ignore[union-attr]
            else:
                next_state = self._step_perturbed(command)
        except BaseException:  # Ctrl-C
            self._discard_engine()
            raise
        terminated = self._is_terminated(next_state)
        if terminated.__class__ is not bool:
            terminated = bool(terminated)
        self._terminated = terminated
        reward: Any = 1.0
        info: dict[str, Any] = {}
        if self._has_more:
            reward = self.task.reward(self._state, command, next_state)  # type: ignore[arg-type]
            if isinstance(reward, Mapping):
                terms = {name: float(term) for name, term in reward.items()}
                # From Python 3.12 on sum() of floats rounds otherwise than one of arrays.
                reward = functools.reduce(operator.add, terms.values(), 0.0)
                info["reward_terms"] = terms
            reward = float(reward)
        self._state = next_state
        if self._has_more:
            if self._has_info:
                info.update(_plain(self.task.info(next_state)))
            if self._skips_observations and not (terminated or self.perturbations.observes):
                if self._is_watched:
                    self.render()
                # A new object, since users keep observations.
                return copy.deepcopy(self._latest), reward, False, False, info
        if self._episode is None:
            self._latest = observation = self._observe(next_state)
        else:
            self._latest = None
            observation = self.observation()
        if self._is_watched:
            self.render()
        return observation, reward, terminated, False, info

    def _step_perturbed(self, command: Sequence[float]) -> State:
        episode: PerturbedEpisode = self._episode  # type: ignore[assignment]
        command = episode.command(self.np_random, command)
        forces = episode.forces(self.np_random)
        return self._simulation.step(command, forces={0: forces} if forces else None)  # type: ignore[union-attr]

    def _make_ready(self, task: Task) -> None:
        """Build the engine if there is none, and give it the parameters of a task."""
        if self._simulation is None:
            self._simulation = Simulation(self.task, perturbed=self.perturbations.names)
        if self._episode is not None:
            self._simulation.set_task(0, task)

    def observation(self) -> Observation:
        """Return the observation of the present state, a new one.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("observation")
        state: State = self._state  # type: ignore[assignment]
        if self._episode is None:
            self._latest = self._observe(state)
        elif self._latest is None or not self.perturbations.observes:
            seen = self.observer.observe_episode(state, self._episode)
            self._latest = self._episode.observe(self.np_random, seen)
        else:  # sensors are read once
            self._latest = copy.deepcopy(self._latest)
        return self._latest

    def state(self) -> dict[str, float]:
        """Return the full state by name, in SI units, fit for ``reset(options={"state": ...})``.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("state")
        return dict(zip(self.task.state_names, self._state, strict=True))  # type: ignore[arg-type]

    def resynchronize(self) -> None:
        """Set the engine to :meth:`state` anew, so that what follows depends on that alone.

        Bullet's solver begins each step from the contact forces of the last, which are not part of
        the state. A copy or a replay does not have them: the states of a ball that rolls on a plate
        then differ by 1e-14 in the median and by up to 2e-6 within 20 steps, and those of robots
        with friction and motors by as much as the solver has left undone. Copying an environment,
        and beginning a video in the middle of an episode, therefore call this, and the original
        and the copy go on equal to the bit.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("resynchronize")
        try:
            self._make_ready(self.task if self._episode is None else self._episode.task)
            self._simulation.set_state({0: self._state})  # type: ignore[dict-item, union-attr]
        except BaseException:  # Ctrl-C
            self._discard_engine()
            raise

    def snapshot(self) -> snapshots.Snapshot:
        """Return where the environment is, see :func:`~bullet_envs.snapshots.snapshot`.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("snapshot")
        self.resynchronize()
        taken = {
            "state": list(map(float, self._state)),  # type: ignore[arg-type]
            "ended": self._terminated,
            "elapsed": None,
            "generator": snapshots.of_generator(self.np_random, self._np_random_seed),
            "observation": snapshots.of_array(self._latest),
            "episode": None if self._episode is None else self._episode.snapshot(),
        }
        return snapshots.make(self.task, self._perturbed_by, [taken])

    def restore(self, taken: Any) -> None:
        """Go on where another environment was, see :func:`~bullet_envs.snapshots.restore`."""
        (one,) = snapshots.check(taken, self.task, self._perturbed_by, 1)
        generator, seed = snapshots.to_generator(one["generator"])
        self.np_random, self._np_random_seed = generator, seed
        if self._episode is not None:
            self._episode.restore(one["episode"], generator)
        self._state, self._terminated = list(one["state"]), one["ended"]
        self._latest = snapshots.to_array(one["observation"])
        self._closed = False
        self.resynchronize()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return a frame, or show the state in the window.

        Returns:
            uint8 of shape (540, 960, 3) for most tasks, as :attr:`Task.video_camera` has it; with
            ``observer="pixels"`` the observation is in its corner. None in a window.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
            RuntimeError: ``human`` without a display.
            SystemExit: the window has been closed by its cross.
        """
        self._require_running("render")
        if self.render_mode is None:
            warn("render() without a render mode: make the environment with 'rgb_array' or 'human'")
            return None
        picture = self.picture()
        if not self._is_watched:
            return self._painter.draw(picture)
        if self._window is None:
            title = self.spec.id if self.spec else type(self.task).__name__
            self._window = Window(title, self.task.control_hz)
        self._window.show(lambda: self._painter.draw(picture))
        return None

    def commands(self) -> tuple[Command, ...]:
        """Return what the agent has last told each actuator, none before the first step."""
        if self._simulation is None or self._command is None:
            return ()
        is_prismatic = self._simulation.world.is_prismatic
        return tuple(
            Command(one.joint, value, one.scale, UNITS[one.kind][not is_prismatic(one.joint)])
            for one, value in zip(self.task.actuators, self._command, strict=True)
        )

    def picture(self) -> Picture:
        """Return what :meth:`render` draws, which another process may draw.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("picture")
        state: State = self._state  # type: ignore[assignment]
        if self._episode is None:
            return Picture(self.task, state, self.observer.picture(state))
        image: Any = None
        if self.observation_space.dtype == np.uint8:
            sees_more = self.perturbations.observes  # than the state: what was last observed
            image = (
                self._latest if sees_more else self.observer.observe_episode(state, self._episode)
            )
        return Picture(self._episode.task, state, image)

    def close(self) -> None:
        """Free the engine. Safe to call twice; ``reset`` opens the environment again."""
        self._closed = True
        self._discard_engine()
        self._painter.close()
        if self._window is not None:
            self._window.close()
        self._window = None
        self.observer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own, and both go on equal to the bit."""
        if self._simulation is not None:
            self.resynchronize()
        return {
            **self.__dict__,
            "_simulation": None,
            "_painter": Painter(),
            "_window": None,
        }

    def _discard_engine(self) -> None:
        """Forget the engine, which may be half-way through a step; the state is that of before."""
        if self._simulation is not None:
            self._simulation.close()
        self._simulation = None

    def _require_running(self, call: str) -> None:
        if self._closed:
            raise ClosedEnvironmentError(f"{call}() after close(): call reset() first")
        if self._state is None:
            raise ResetNeeded(f"{call}() before reset(): call reset() first")


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return an info with Python's numbers in place of NumPy's, which many a logger refuses."""
    return {k: v.item() if isinstance(v, np.generic | np.ndarray) else v for k, v in info.items()}
