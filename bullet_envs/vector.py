"""Gymnasium's protocol for many sub-environments, in this process or in several."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.logger import warn
from gymnasium.vector.utils import batch_space

try:
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError:
    raise ImportError(
        f"vector environments need gymnasium 1.1 or newer, and this is {gym.__version__}"
    ) from None

from . import snapshots
from .actions import ActionDecoder
from .checks import require, shorten
from .env import BulletEnv
from .frames import Painter, Picture
from .observers import Observation
from .options import make_perturbations, make_task, parse_options
from .sub_environments import Array, SubEnvironments, take
from .task import Task
from .workers import Workers, check_start_method, count_workers

MAX_ENVS = 4096
RENDER_MODES = ("rgb_array", "rgb_array_list")
KEYWORDS = (
    *("num_envs", "max_episode_steps", "autoreset_mode", "render_mode"),
    *("workers", "start_method", "perturbations"),
)


class BulletVectorEnv(VectorEnv[Observation, Array, Array]):
    """Many sub-environments of a task, equal to a ``SyncVectorEnv`` of as many single ones.

    Usually made by ``gym.make_vec``.

    Args:
        task: the problem, its class, or ``"module:Class"``.
        num_envs: sub-environments, 1 to 4096.
        max_episode_steps: actions after which an episode is truncated; None or -1 never truncates.
            ``gym.make_vec`` passes the limit of the id unless it is told another.
        autoreset_mode: what follows the end of an episode, a
            :class:`gymnasium.vector.AutoresetMode`. ``NEXT_STEP``: the next step ignores the
            sub-environment's action and begins its next episode. ``SAME_STEP``: the step that ends
            an episode also begins the next; ``final_obs`` and ``final_info`` in the info, each with
            a mask, are of the last. ``DISABLED``: the sub-environment stays as it is, with reward 0
            and its flags, until ``reset(options={"reset_mask": ...})``; a ``SyncVectorEnv`` refuses
            to step it. ``metadata["ended_wait"]`` says so.
        render_mode: ``"rgb_array"`` for frames, ``"rgb_array_list"`` for all frames since the last
            ``render()`` or ``reset()``, or None.
        observer: what the agent observes: ``"state"`` or ``"pixels"``.
        perturbations: as for :class:`BulletEnv`, drawn for each sub-environment.
        workers: processes that share the sub-environments, this one included, at most
            ``num_envs``. ``"auto"``: as many as this process has physical cores, by its
            affinity and its cgroup's quota. The bits are the same for any number.
        start_method: of these processes, ``"fork"``, ``"forkserver"`` or ``"spawn"``; None for
            Python's default.
        **keywords: of the task, unless it is an instance, and of
            :class:`~bullet_envs.observers.PixelObserver`.

    Attributes:
        skip_observations: while True, ``step`` returns the observations of before for all
            sub-environments but those whose episode ends, as for :class:`BulletEnv`.

    Raises:
        TypeError: an argument is unknown or has the wrong type.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        task: Task | type[Task] | str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        observer: str = "state",
        perturbations: Mapping[str, Any] | str | None = None,
        workers: int | str = 1,
        start_method: str | None = None,
        **keywords: Any,
    ) -> None:
        require("num_envs", num_envs, 1, MAX_ENVS, "sub-environments", whole=True)
        if max_episode_steps == -1:  # as in gym.make
            max_episode_steps = None
        if max_episode_steps is not None:
            require("max_episode_steps", max_episode_steps, 1, 10**9, "actions", whole=True)
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise ValueError(f"autoreset_mode={shorten(autoreset_mode)} must be one of {modes}")
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"render_mode={shorten(render_mode)} must be None or one of {list(RENDER_MODES)}"
            )
        self.task, self.observer = make_task(task, observer, keywords, KEYWORDS)
        self.perturbations = make_perturbations(perturbations, self.task, observer)
        self._perturbed_by = None if perturbations is None else repr(self.perturbations)
        self.num_envs = int(num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        self.metadata = {
            **BulletEnv.metadata,
            "render_modes": list(RENDER_MODES),
            "render_fps": self.task.control_hz,
            "autoreset_mode": self.autoreset_mode,
            "ended_wait": self.autoreset_mode is AutoresetMode.DISABLED,
        }
        self.single_action_space = self.task.action_space
        self.single_observation_space = self.observer.space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.skip_observations = False
        self.workers = count_workers(workers, self.num_envs)
        start_method = check_start_method(start_method)
        self._decoder = ActionDecoder(self.task, self.num_envs)
        time_limit = np.inf if max_episode_steps is None else max_episode_steps
        ends = [self.num_envs * n // self.workers for n in range(self.workers + 1)]
        parts = [
            SubEnvironments(
                *(self.task, self.observer, stop - start, time_limit, self.autoreset_mode),
                None if perturbations is None else self.perturbations,
            )
            for start, stop in itertools.pairwise(ends)
        ]
        self._envs = parts[0] if self.workers == 1 else Workers(parts, start_method)
        self._painter = Painter()
        self._is_running = False
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._frames: list[list[Array]] = [[] for _ in range(self.num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every sub-environment, or in some.

        After ``close()``, or after Ctrl-C or an error in a call, a reset of all begins anew.

        Args:
            seed: sub-environment i gets ``seed + i`` or the i-th of a list, None goes on with its
                generator.
            options: ``{"reset_mask": mask}`` resets only where the mask, bool of shape
                (num_envs,), is True. ``{"state": {name: value}}`` begins all of these from one
                exact state, and ``{"parameters": {name: value}}`` with these, as for a single
                environment.

        Returns:
            The observations of all sub-environments and the info of those that were reset.

        Raises:
            TypeError: seed or options are not of the form above.
            ValueError: seed or options have the wrong length or hold what is not legal.
            ResetNeeded: a mask, before all have been reset once.
        """
        seeds = self._seeds(seed)
        indices, state, parameters = parse_options(
            options, self.task, self.perturbations, self.num_envs
        )
        if (not self._is_running or self.closed) and len(indices) < self.num_envs:
            raise ResetNeeded("reset() of some sub-environments before reset() of all")
        given = {index: one for index in indices if (one := seeds[index]) is not None}
        self.closed = False
        self._guarded(lambda: self._envs.reset(indices, given, state, parameters))
        self._is_running = True
        self._ended[indices] = False
        if self.render_mode == "rgb_array_list":
            for index in indices:
                self._frames[index] = [self._frame(index)]
        mask = np.zeros(self.num_envs, np.bool_)
        mask[indices] = True
        infos = self._infos(np.zeros_like(mask), mask) | self._parameters(mask)
        return _copy(self._envs.results.observations), infos

    def step(self, actions: Any) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        """Act for one control period in every sub-environment.

        Args:
            actions: an element of ``action_space``, or what NumPy makes one; Box values beyond the
                bounds are clipped.

        Returns:
            Observations, rewards, terminated and truncated of shape (num_envs, ...), and an info as
            ``SyncVectorEnv`` makes it of those of :class:`BulletEnv`.

        Raises:
            TypeError: the actions are of the wrong type.
            ValueError: the actions are out of range, of the wrong shape or not finite.
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        commands = self._decoder.decode_many(actions)
        self._require_running("step")
        results = self._envs.results
        results.commands[...] = commands
        self._guarded(lambda: self._envs.step(self.skip_observations))
        was_ended, acted = self._ended, ~self._ended
        self._ended = ended = results.terminated | results.truncated
        autoresets = self.autoreset_mode is AutoresetMode.NEXT_STEP
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            infos = {**self._infos(acted & ~ended, acted), **self._finals(ended)}
            infos |= self._parameters(ended)
            self._ended = np.zeros_like(ended)
        else:
            infos = self._infos(acted, acted | autoresets)
            if autoresets:
                infos |= self._parameters(was_ended)
        if self.render_mode == "rgb_array_list":
            waits = self.autoreset_mode is AutoresetMode.DISABLED
            began = was_ended if autoresets else ended
            self._collect_frames(acted | autoresets, began & (not waits))
        return (
            _copy(results.observations),
            results.rewards.copy(),
            results.terminated.copy(),
            results.truncated.copy(),
            infos,
        )

    def state(self) -> dict[str, Array]:
        """Return the full states by name, in SI units, each column of shape (num_envs,).

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("state")
        return dict(zip(self.task.state_names, self._envs.results.states.T.copy(), strict=True))

    def observation(self) -> Observation:
        """Return the observations of the present states, new ones.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("observation")
        self._guarded(self._envs.observe)
        return _copy(self._envs.results.observations)

    def resynchronize(self) -> None:
        """Set the engine to :meth:`state` anew, as :meth:`BulletEnv.resynchronize` does.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("resynchronize")
        self._guarded(self._envs.resynchronize)

    def snapshot(self) -> snapshots.Snapshot:
        """Return where the environment is, see :func:`~bullet_envs.snapshots.snapshot`.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("snapshot")
        self.resynchronize()
        return snapshots.make(self.task, self._perturbed_by, self._envs.snapshot())

    def restore(self, taken: Any) -> None:
        """Go on where another environment was, see :func:`~bullet_envs.snapshots.restore`."""
        envs = snapshots.check(taken, self.task, self._perturbed_by, self.num_envs)
        self.closed = False
        self._guarded(lambda: self._envs.restore(envs))
        self._is_running = True
        self._ended = np.array([one["ended"] for one in envs])
        self._frames = [[] for _ in range(self.num_envs)]

    def render(self) -> tuple[Any, ...] | None:
        """Return a frame, or a list of frames, for each sub-environment, as a single one draws it.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("render")
        if self.render_mode is None:
            warn("render() without a render mode: make the environment with 'rgb_array'")
            return None
        if self.render_mode == "rgb_array_list":
            frames, self._frames = self._frames, [[] for _ in range(self.num_envs)]
            return tuple(frames)
        return tuple(self._frame(index) for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine; ``reset`` opens the environment again."""
        if not hasattr(self, "_frames"):
            return  # refused by the constructor, which gymnasium 1.2 closes too
        self._envs.close()
        self._painter.close()
        self.observer.close()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each sub-environment; with several workers, a copy of it."""
        return tuple(generator for generator, _ in self._envs.generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each sub-environment's generator."""
        return tuple(seed for _, seed in self._envs.generators)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own, and both go on equal to the bit."""
        if self._is_running and not self.closed:
            self.resynchronize()
        return {**self.__dict__, "_painter": Painter()}

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call what changes the sub-environments; after Ctrl-C or an error, all must be reset."""
        try:
            call()
        except BaseException:
            self._is_running = False
            self._envs.discard_engine()
            raise

    def _finals(self, ended: Array) -> dict[str, Any]:
        """Return the last observation and info of the sub-environments whose episode ends."""
        results = self._envs.results
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(ended).tolist():
            final_obs[index] = take(results.final_observations, index)
        return {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": self._infos(ended, ended, results.final_info),
            "_final_info": ended.copy(),
        }

    def _infos(
        self, acted: Array, shown: Array, info: Mapping[str, Array] | None = None
    ) -> dict[str, Any]:
        """Return the info as ``SyncVectorEnv`` puts it together.

        Args:
            acted: where the info has the terms of the reward.
            shown: where the info has ``task.info``.
            info: these; None for those of the present states.
        """
        terms, info = self._envs.results.terms, self._envs.results.info if info is None else info
        infos: dict[str, Any] = {}
        if terms and acted.any():
            infos = {"reward_terms": _masked(terms, acted), "_reward_terms": acted.copy()}
        if info and shown.any():
            infos |= _masked(info, shown)
        return infos

    def _parameters(self, begun: Array) -> dict[str, Any]:
        """Return the info with the parameters of sub-environments whose episode begins."""
        names = self.perturbations.parameters
        if not names or not begun.any():
            return {}
        info: dict[str, Any] = {}
        values = np.where(begun, self._envs.results.parameters.T, 0.0)
        for name, value in zip(names, values, strict=True):
            info[name] = value
            info[f"_{name}"] = begun.copy()
        return {"parameters": info, "_parameters": begun.copy()}

    def _collect_frames(self, shown: Array, began: Array) -> None:
        """Add a frame for some sub-environments, as the only one where an episode began."""
        for index in np.flatnonzero(shown).tolist():
            kept = [] if began[index] else self._frames[index]
            self._frames[index] = [*kept, self._frame(index)]

    def _frame(self, index: int) -> Array:
        values = self._envs.results.parameters[index].tolist()
        of_index = dict(zip(self.perturbations.parameters, values, strict=True))
        task = self.task.with_parameters(of_index) if of_index else self.task
        state = tuple(self._envs.results.states[index].tolist())
        image = self.observer.picture(state)
        if image is not None and self.perturbations.decides_observations(self.task, True):
            image = take(self._envs.results.observations, index)  # with what perturbs it
        return self._painter.draw(Picture(task, state, image))

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, np.ndarray):
            seed = seed.tolist()
        if isinstance(seed, int | np.integer):
            return [_seed(seed, "seed") + index for index in range(self.num_envs)]
        if isinstance(seed, str | bytes) or not isinstance(seed, Sequence):
            raise TypeError(
                f"seed={shorten(seed)} must be None, a whole number or one per sub-environment"
            )
        if len(seed) != self.num_envs:
            raise ValueError(f"seed has {len(seed)} entries and must have {self.num_envs}")
        return [one if one is None else _seed(one, f"seed[{i}]") for i, one in enumerate(seed)]

    def _require_running(self, call: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{call}() after close(): call reset() first")
        if not self._is_running:
            raise ResetNeeded(f"{call}() before reset(): call reset() first")


def _seed(seed: Any, name: str) -> int:
    legal = f"{name}={shorten(seed)} must be a whole number from 0"
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(legal)
    if seed < 0:
        raise ValueError(legal)
    return int(seed)


def _copy(observations: Observation) -> Observation:
    if isinstance(observations, dict):
        return {name: array.copy() for name, array in observations.items()}
    return observations.copy()


def _masked(columns: Mapping[str, Array], mask: Array) -> dict[str, Any]:
    """Return columns as an info has them: 0 where the mask is False, and the mask of each."""
    info: dict[str, Any] = {}
    for name, column in columns.items():
        info[name] = np.where(mask, column, np.zeros(1, column.dtype))
        info[f"_{name}"] = mask.copy()
    return info
