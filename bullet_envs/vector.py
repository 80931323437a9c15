"""Gymnasium's protocol for many sub-environments: a few Bullet worlds with several of them each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.logger import warn
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array

from .actions import ActionDecoder
from .checks import require, shorten
from .env import BulletEnv
from .observers import Observation
from .options import make_task, parse_options
from .renderer import Renderer
from .simulation import Simulation
from .task import State, Task

MAX_ENVS = 4096
RENDER_MODES = ("rgb_array", "rgb_array_list")
KEYWORDS = ("num_envs", "max_episode_steps", "autoreset_mode", "render_mode")

Array = npt.NDArray[Any]
Result = TypeVar("Result")


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
        self._time_limit = np.inf if max_episode_steps is None else max_episode_steps
        self._decoder = ActionDecoder(self.task, self.num_envs)
        self._has_info = type(self.task).info is not Task.info
        self._generators = [seeding.np_random() for _ in range(self.num_envs)]
        self._simulation: Simulation | None = None
        self._renderer: Renderer | None = None
        self._states: Array | None = None  # (num_envs, columns); None before the first reset
        self._latest: Observation = create_empty_array(
            self.single_observation_space, self.num_envs, np.zeros
        )
        self._elapsed = np.zeros(self.num_envs, np.int64)
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
                exact state, as for a single environment.

        Returns:
            The observations of all sub-environments and the info of those that were reset.

        Raises:
            TypeError: seed or options are not of the form above.
            ValueError: seed or options have the wrong length or hold what is not legal.
            ResetNeeded: a mask, before all have been reset once.
        """
        seeds = self._seeds(seed)
        indices, state = parse_options(options, self.task, self.num_envs)
        if (self._states is None or self.closed) and len(indices) < self.num_envs:
            raise ResetNeeded("reset() of some sub-environments before reset() of all")
        for index in indices:
            if seeds[index] is not None:
                self._generators[index] = seeding.np_random(seeds[index])
        self.closed = False
        return self._guarded(lambda: self._reset(indices, state))

    def _reset(
        self, indices: Sequence[int], state: State | None
    ) -> tuple[Observation, dict[str, Any]]:
        self._begin(indices, state)
        observations = self._observe(indices)
        if self.render_mode == "rgb_array_list":
            for index in indices:
                self._frames[index] = [self._frame(index)]
        mask = np.zeros(self.num_envs, np.bool_)
        mask[indices] = True
        return observations, self._infos({}, mask, mask)

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
        return self._guarded(lambda: self._step(commands))

    def _step(self, commands: Array) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        before: Array = self._states  # type: ignore[assignment]
        was_ended = self._ended
        (ended,) = was_ended.nonzero()
        autoresets = self.autoreset_mode is AutoresetMode.NEXT_STEP
        waits = self.autoreset_mode is AutoresetMode.DISABLED
        self._elapsed += ~was_ended
        indices = ended.tolist()
        initial = {i: self._sample_initial_state(i) for i in indices} if autoresets else {}
        columns = self._ready().step(
            commands.ravel().tolist(), initial, set(indices if waits else ())
        )
        self._states = states = np.array(columns).reshape(before.shape)
        if waits:
            states[ended] = before[ended]
        states.flags.writeable = False  # tasks are given views of it
        columns_after = tuple(states.T)
        terminated = np.full(self.num_envs, self.task.terminated(columns_after), np.bool_)
        truncated = self._elapsed >= self._time_limit
        reward = self.task.reward(tuple(before.T), tuple(commands.T), columns_after)
        terms: dict[str, Array] = {}
        if isinstance(reward, Mapping):
            terms = {name: self._column(term) for name, term in reward.items()}
            reward = sum(terms.values())
        rewards = self._column(reward)
        rewards[ended] = 0.0
        if autoresets:
            self._elapsed[ended] = 0
            terminated[ended] = truncated[ended] = False
        self._ended = terminated | truncated
        acted = ~was_ended
        ended_now = self._ended
        observed: Any = acted if waits else slice(None)
        if self.skip_observations:
            observed = acted & ended_now | was_ended if autoresets else acted & ended_now
        observations = self._observe(observed)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended_now.any():
            finals = self._finals(terms)
            indices = np.flatnonzero(ended_now).tolist()
            self._begin(indices)
            observations = self._observe(indices)
            infos = {**self._infos(terms, acted & ~ended_now, acted), **finals}
        else:
            infos = self._infos(terms, acted, acted | autoresets)
        if self.render_mode == "rgb_array_list":
            began = was_ended if autoresets else ended_now
            self._collect_frames(acted | autoresets, began & (not waits))
        return observations, rewards, terminated, truncated, infos

    def state(self) -> dict[str, Array]:
        """Return the full states by name, in SI units, each column of shape (num_envs,).

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("state")
        return dict(zip(self.task.state_names, self._states.T.copy(), strict=True))  # type: ignore[union-attr]

    def observation(self) -> Observation:
        """Return the observations of the present states, new ones.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("observation")
        return self._observe(slice(None))

    def resynchronize(self) -> None:
        """Set the engine to :meth:`state` anew, as :meth:`BulletEnv.resynchronize` does.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("resynchronize")
        self._ready(resynchronize=True)

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
        self._discard_engine()
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None
        self.observer.close()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each sub-environment."""
        return tuple(generator for generator, _ in self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each sub-environment's generator."""
        return tuple(seed for _, seed in self._generators)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own, and both go on equal to the bit."""
        if self._simulation is not None:
            self.resynchronize()
        return {**self.__dict__, "_simulation": None, "_renderer": None}

    def _guarded(self, call: Callable[[], Result]) -> Result:
        """Return what a call returns; after Ctrl-C or an error in it, all must be reset."""
        try:
            return call()
        except BaseException:
            self._discard_engine()
            self._states = None
            raise

    def _ready(self, resynchronize: bool = False) -> Simulation:
        """Return the engine, which a copy has to build first."""
        if self._simulation is None:
            self._simulation = Simulation(self.task, self.num_envs)
            resynchronize = self._states is not None
        if resynchronize:
            self._simulation.set_state(dict(enumerate(self._states.tolist())))  # type: ignore[union-attr]
        return self._simulation

    def _begin(self, indices: Sequence[int], state: State | None = None) -> None:
        """Begin an episode in some sub-environments, from a random state if none is given."""
        initial = {
            index: self._sample_initial_state(index) if state is None else state
            for index in indices
        }
        placed = self._ready().set_state(initial)
        if self._states is None:
            self._states = np.zeros((self.num_envs, len(self.task.state_names)))
        self._states = self._states.copy()
        self._states[indices] = [placed[index] for index in indices]
        self._states.flags.writeable = False
        self._elapsed[indices] = 0
        self._ended = self._ended.copy()
        self._ended[indices] = False

    def _sample_initial_state(self, index: int) -> State:
        return self.task.sample_initial_state(self._generators[index][0])

    def _finals(self, terms: dict[str, Array]) -> dict[str, Any]:
        """Return the last observation and info of the sub-environments whose episode ends."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(self._ended).tolist():
            final_obs[index] = _take(self._latest, index)
        return {
            "final_obs": final_obs,
            "_final_obs": self._ended.copy(),
            "final_info": self._infos(terms, self._ended, self._ended),
            "_final_info": self._ended.copy(),
        }

    def _observe(self, indices: Any) -> Observation:
        """Observe some sub-environments and return new arrays of all observations."""
        states: Array = self._states[indices]  # type: ignore[index]
        if len(states):
            _put(self._latest, indices, self.observer.observe_many(states))
        return _copy(self._latest)

    def _infos(self, terms: dict[str, Array], acted: Array, shown: Array) -> dict[str, Any]:
        """Return the info as ``SyncVectorEnv`` puts it together.

        Args:
            terms: of the reward, each of shape (num_envs,).
            acted: where the info has them.
            shown: where the info has ``task.info`` of the present state.
        """
        infos: dict[str, Any] = {}
        if terms and acted.any():
            infos = {"reward_terms": _masked(terms, acted), "_reward_terms": acted.copy()}
        if self._has_info and shown.any():
            info = self.task.info(tuple(self._states.T))  # type: ignore[union-attr]
            infos |= _masked({k: np.broadcast_to(v, self.num_envs) for k, v in info.items()}, shown)
        return infos

    def _column(self, value: Any) -> Array:
        """Return a reward as a new array of shape (num_envs,), given that or one number."""
        return np.full(self.num_envs, value, np.float64)

    def _collect_frames(self, shown: Array, began: Array) -> None:
        """Add a frame for some sub-environments, as the only one where an episode began."""
        for index in np.flatnonzero(shown).tolist():
            kept = [] if began[index] else self._frames[index]
            self._frames[index] = [*kept, self._frame(index)]

    def _frame(self, index: int) -> Array:
        if self._renderer is None:
            self._renderer = Renderer(self.task)
        state = tuple(self._states[index].tolist())  # type: ignore[index]
        frame = self._renderer.draw(state, self.task.video_camera)
        return self.observer.with_observation_inset(frame, state)

    def _discard_engine(self) -> None:
        if self._simulation is not None:
            self._simulation.close()
        self._simulation = None

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
        if self._states is None:
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


def _put(observations: Observation, indices: Any, new: Observation) -> None:
    if isinstance(observations, dict):
        for name, array in observations.items():
            array[indices] = new[name]
    else:
        observations[indices] = new


def _take(observations: Observation, index: int) -> Observation:
    if isinstance(observations, dict):
        return {name: array[index].copy() for name, array in observations.items()}
    return observations[index].copy()


def _masked(columns: Mapping[str, Array], mask: Array) -> dict[str, Any]:
    """Return columns as an info has them: 0 where the mask is False, and the mask of each."""
    info: dict[str, Any] = {}
    for name, column in columns.items():
        info[name] = np.where(mask, column, np.zeros(1, column.dtype))
        info[f"_{name}"] = mask.copy()
    return info
