"""The Gymnasium protocol for many robots: a few Bullet worlds with many rows each.

A row is one robot, its own episode and its own random generator. Rows of one world never touch, so
that each of them moves as it would alone.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.logger import warn
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .balancing_plate import BalancingPlate
from .camera import Studio
from .cart_pole import CartPole
from .env import BulletEnv, problem
from .observers import Observer
from .task import Scene, State, Task, require
from .world import World

MAX_ROWS = 4096
KEYWORDS = ("num_envs", "max_episode_steps", "autoreset_mode", "render_mode")

Array = npt.NDArray[Any]


def require_disabled(envs: VectorEnv[Any, Any, Any], user: str) -> None:
    """Refuse a batch that begins episodes by itself.

    Raises:
        ValueError: its autoreset mode is not DISABLED.
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.DISABLED:
        raise ValueError(f"{user} needs a batch with autoreset_mode='Disabled', not {mode}")


class BulletVectorEnv(VectorEnv[Array, Array, Array]):
    """Many robots with the same problem, equal to a ``SyncVectorEnv`` of as many single ones.

    Args:
        task: the problem.
        observer: what the agent is shown of its states.
        num_envs: rows, 1 to 4096.
        max_episode_steps: actions after which an episode is cut off; None or -1 never cuts.
            ``gym.make_vec`` passes the limit of the id unless it is told another.
        autoreset_mode: what follows the end of an episode, a
            :class:`gymnasium.vector.AutoresetMode`. ``NEXT_STEP``: the next step ignores the row's
            action and begins the next episode. ``SAME_STEP``: the step that ends an episode also
            begins the next; ``final_obs`` and ``final_info`` in the info, each with a mask of the
            rows that ended, are of the last. ``DISABLED``: the row stays as it is, with reward 0
            and its flags, until ``reset(options={"reset_mask": ...})``; a ``SyncVectorEnv``
            refuses to step it.
        render_mode: ``"rgb_array"`` for pictures or None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        task: Task,
        observer: Observer,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        require("num_envs", num_envs, 1, MAX_ROWS, "rows", whole=True)
        if max_episode_steps == -1:  # as in gym.make
            max_episode_steps = None
        if max_episode_steps is not None:
            require("max_episode_steps", max_episode_steps, 1, 10**9, "actions", whole=True)
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise ValueError(f"autoreset_mode={autoreset_mode!r} must be one of {modes}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} must be None or 'rgb_array'")
        self.task = task
        self.observer = observer
        self.num_envs = int(num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        self.metadata = {
            **BulletEnv.metadata,
            "render_modes": ["rgb_array"],
            "render_fps": task.control_hz,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = task.action_space
        self.single_observation_space = observer.space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._time_limit = max_episode_steps
        self._efforts = np.array(task.efforts)
        numbers = f"whole numbers from 0 to {len(task.efforts) - 1}"
        self._legal_actions = (
            f"{'finite numbers' if task.continuous else numbers}, shape {self.action_space.shape}"
        )
        self._generators = [seeding.np_random() for _ in range(self.num_envs)]
        self._worlds: list[tuple[World, Scene, slice]] = []
        self._studio: Studio | None = None
        # A row per robot; None before the first reset.
        self._states: Array | None = None
        self._latest: Array = np.zeros(
            self.observation_space.shape or (), self.single_observation_space.dtype
        )
        # Generators that have drawn in the present call, and their states before.
        self._drawn: list[tuple[Any, Any]] = []
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every row, or in some.

        Args:
            seed: row i gets ``seed + i`` or the i-th of a list, None goes on with its generator.
            options: ``{"reset_mask": mask}`` begins only where the mask, bool of shape
                (num_envs,), is True. ``{"state": {name: value}}`` begins all of these rows from
                one exact state, as for a single environment.

        Returns:
            The observations of all rows and an empty info.

        Raises:
            TypeError: seed or options are not of the form above.
            ValueError: seed or options have the wrong length or hold what is not legal.
            ResetNeeded: a mask, before all rows have been reset once.
            ClosedEnvironmentError: the environment has been closed.
        """
        if self.closed:
            raise ClosedEnvironmentError("reset() after close(): make a new environment")
        seeds = self._seeds(seed)
        rows, start = self._chosen(options)
        if self._states is None and len(rows) < self.num_envs:
            raise ResetNeeded("reset() of some rows before reset() of all")
        seeded = {row: seeding.np_random(seeds[row]) for row in rows if seeds[row] is not None}
        with self._undone_if_interrupted():
            if self._states is None:
                self._states = np.zeros((self.num_envs, len(self.task.state_names)))
            for row, generator in seeded.items():
                self._generators[row] = generator
            self._begin(rows, start)
            return self._observe(rows), {}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Act for one control period in every row.

        Args:
            actions: an element of ``action_space``, or what NumPy makes one; Box values beyond
                the bounds are clipped.

        Returns:
            Observations, rewards, terminated and truncated, each with a row per robot, and an info
            that is empty but under ``SAME_STEP`` after an end.

        Raises:
            TypeError: the actions are of the wrong type.
            ValueError: the actions are out of range, of the wrong shape or not finite.
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        efforts = self._wanted(actions)
        self._require_running("step")
        with self._undone_if_interrupted():
            return self._step(efforts)

    def _step(self, efforts: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        (ended,) = self._ended.nonzero()
        begins = self.autoreset_mode is AutoresetMode.NEXT_STEP
        waits = self.autoreset_mode is AutoresetMode.DISABLED
        before = self._states
        self._elapsed += ~self._ended
        starts = {row: self._draw(row) for row in ended.tolist()} if begins else {}
        self._states = self._advance(efforts, starts)
        if waits:
            self._states[ended] = before[ended]  # type: ignore[index]
        reward, terminated = self.task.outcome(tuple(self._states.T))
        rewards = np.full(self.num_envs, reward)
        truncated = np.zeros(self.num_envs, np.bool_)
        if self._time_limit is not None:
            truncated = self._elapsed >= self._time_limit
        rewards[ended] = 0.0
        if begins:
            self._elapsed[ended] = 0
            terminated[ended] = truncated[ended] = False
        observations = self._observe(~self._ended if waits else slice(None))
        self._ended = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos = self._renew(observations)
        return observations, rewards, terminated, truncated, infos

    def state(self) -> dict[str, Array]:
        """Return the full state by name, in SI units, each column of shape (num_envs,).

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("state")
        return dict(zip(self.task.state_names, self._states.T.copy(), strict=True))  # type: ignore[union-attr]

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """Return a picture per row, as a single environment draws it.

        Raises:
            ResetNeeded: there has been no reset.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._require_running("render")
        if self.render_mode is None:
            warn("render() without a render mode: make the environment with 'rgb_array'")
            return None
        if self._studio is None:
            self._studio = Studio(self.task)
        pictures = []
        for state in map(tuple, self._states.tolist()):  # type: ignore[union-attr]
            picture = self._studio.draw(state, self.task.video_camera)
            pictures.append(self.observer.beside(picture, state))
        return tuple(pictures)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine."""
        if not hasattr(self, "_ended"):
            return  # refused by the constructor, which gymnasium 1.2 closes too
        self._discard_engine()
        if self._studio is not None:
            self._studio.close()
        self._studio = None
        self.observer.close()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each row."""
        return tuple(generator for generator, _ in self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's generator."""
        return tuple(seed for _, seed in self._generators)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own and goes on from the same states."""
        return {**self.__dict__, "_worlds": [], "_studio": None}

    def _advance(self, efforts: Array, placed: Mapping[int, State]) -> Array:
        """Act in every row, teleport some of them, and return where all are then."""
        assert self._states is not None
        waits = self.autoreset_mode is AutoresetMode.DISABLED
        if not self._worlds:
            self._build()
            self._place(dict(enumerate(self._states.tolist())))
        axes = efforts.shape[1]
        forces = efforts.ravel().tolist()
        columns: list[float] = []
        for world, scene, rows in self._worlds:
            if waits and self._ended[rows].all():
                columns += self._states[rows].ravel().tolist()
                continue
            scene.act(forces[rows.start * axes : rows.stop * axes])
            world.step()
            # Here, while the world is in the processor's cache, this takes half the time.
            self._place_in(scene, rows, placed)
            columns += scene.read()
        return np.array(columns).reshape(self._states.shape)

    def _begin(self, rows: Sequence[int], start: State | None = None) -> None:
        """Begin an episode in some rows, from their own random starts if none is given."""
        assert self._states is not None
        if not self._worlds:
            self._build()
            others = set(range(self.num_envs)) - set(rows)
            self._place({row: self._states[row].tolist() for row in others})
        starts = {row: start or self._draw(row) for row in rows}
        present = self._states.copy()
        for _, scene, block in self._worlds:
            if self._place_in(scene, block, starts):
                present[block] = np.array(scene.read()).reshape(-1, present.shape[1])
        self._states[rows] = present[rows]
        self._elapsed[rows] = 0
        self._ended[rows] = False

    def _draw(self, row: int) -> State:
        """Draw a row's first state."""
        generator = self._generators[row][0]
        self._drawn.append((generator.bit_generator, generator.bit_generator.state))
        return self.task.draw_start(generator)

    def _place(self, states: Mapping[int, State]) -> None:
        """Teleport some rows to states."""
        for _, scene, rows in self._worlds:
            self._place_in(scene, rows, states)

    @staticmethod
    def _place_in(scene: Scene, rows: slice, states: Mapping[int, State]) -> bool:
        """Teleport those of some rows that a scene has, and return whether it has any."""
        here = {row - rows.start: states[row] for row in states if rows.start <= row < rows.stop}
        if here:
            scene.place(here)
        return bool(here)

    def _build(self) -> None:
        worlds = []
        count = -(-self.num_envs // self.task.rows_per_world)
        for rows in np.array_split(np.arange(self.num_envs), count):
            engine = World(self.task.physics_hz, self.task.control_hz)
            scene = self.task.build(engine, len(rows))
            worlds.append((engine, scene, slice(rows[0], rows[-1] + 1)))
        self._worlds = worlds

    @contextlib.contextmanager
    def _undone_if_interrupted(self) -> Iterator[None]:
        """Leave all as it was before if Ctrl-C or an error ends what is done inside."""
        states = None if self._states is None else self._states.copy()
        elapsed, ended, generators = self._elapsed.copy(), self._ended.copy(), [*self._generators]
        latest, self._drawn = self._latest, []
        try:
            yield
        except BaseException:
            self._states, self._elapsed, self._ended = states, elapsed, ended
            self._latest, self._generators = latest, generators
            for bits, state in reversed(self._drawn):
                bits.state = state
            self._discard_engine()
            raise

    def _discard_engine(self) -> None:
        """Forget the worlds, which may be half-way through something."""
        for world, _, _ in self._worlds:
            world.close()
        self._worlds = []

    def _renew(self, observations: Array) -> dict[str, Any]:
        """Begin the next episode of the rows that ended and return the info of their last step."""
        ended = self._ended.copy()
        rows = np.flatnonzero(ended).tolist()
        finals = np.full(self.num_envs, None, dtype=object)
        for row in rows:
            finals[row] = observations[row].copy()
        self._begin(rows)
        self._observe(rows)
        observations[rows] = self._latest[rows]
        return {
            "final_obs": finals,
            "_final_obs": ended,
            "final_info": {},
            "_final_info": ended.copy(),
        }

    def _observe(self, rows: Any) -> Array:
        """Look at some rows and return a new array of all observations."""
        states = self._states[rows]  # type: ignore[index]
        self._latest = self._latest.copy()
        if len(states):
            self._latest[rows] = self.observer.observe_rows(states)
        observations: Array = self._latest.copy()
        return observations

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, np.ndarray):
            seed = seed.tolist()
        if isinstance(seed, int | np.integer):
            return [self._seed(seed, "seed") + row for row in range(self.num_envs)]
        if isinstance(seed, str | bytes) or not isinstance(seed, Sequence):
            raise TypeError(f"seed={seed!r} must be None, a whole number or one for each row")
        if len(seed) != self.num_envs:
            raise ValueError(f"seed has {len(seed)} entries and must have {self.num_envs}")
        return [one if one is None else self._seed(one, f"seed[{i}]") for i, one in enumerate(seed)]

    @staticmethod
    def _seed(seed: Any, name: str) -> int:
        legal = f"{name}={seed!r} must be a whole number from 0"
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(legal)
        if seed < 0:
            raise ValueError(legal)
        return int(seed)

    def _chosen(self, options: Any) -> tuple[list[int], State | None]:
        """Return the rows to begin, and the state to begin from if one is given."""
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise TypeError(f"options {options!r} must be None or a dict")
        if unknown := [name for name in options if name not in ("state", "reset_mask")]:
            raise ValueError(f"options has no {unknown}; its names are 'state' and 'reset_mask'")
        named = options.get("state")
        start = None if named is None else self.task.named_state(named)
        if "reset_mask" not in options:
            return list(range(self.num_envs)), start
        mask = options["reset_mask"]
        legal = f"a NumPy array of {self.num_envs} bools, at least one of them True"
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"reset_mask={mask!r} must be {legal}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask={mask!r} must be {legal}")
        return np.flatnonzero(mask).tolist(), start

    def _wanted(self, actions: Any) -> Array:
        """Return the force or torques that each row's action asks for, a row each."""
        whole, legal = not self.task.continuous, self._legal_actions
        try:
            array = np.asarray(actions)
        except ValueError:
            raise ValueError(f"actions of different lengths must be {legal}") from None
        if array.dtype.kind not in ("iu" if whole else "fiu"):
            raise TypeError(f"actions of dtype {array.dtype} must be {legal}")
        if array.shape != self.action_space.shape:
            raise ValueError(f"actions of shape {array.shape} must be {legal}")
        if whole:
            self._refuse((array < 0) | (array >= len(self._efforts)), array)
            return self._efforts.take(array, axis=0)
        self._refuse(~np.isfinite(array).all(axis=1), array)
        scaled = self.task.greatest_effort * np.clip(array.astype(np.float64), -1.0, 1.0)
        return scaled

    def _refuse(self, wrong: Array, actions: Array) -> None:
        """Refuse the actions of some rows, and name the first of these."""
        if np.count_nonzero(wrong):  # faster than any
            row = int(wrong.argmax())
            action = actions[row].tolist()
            raise ValueError(f"actions[{row}]={action!r} must be {self._legal_actions}")

    def _require_running(self, call: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{call}() after close(): make a new environment")
        if self._states is None:
            raise ResetNeeded(f"{call}() before reset(): call reset() first")


class BulletCartPoleVectorEnv(BulletVectorEnv):
    """Many :class:`~bullet_envs.env.BulletCartPoleEnv`, with its keywords."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **keywords: Any,
    ) -> None:
        task, observer = problem(CartPole, KEYWORDS, **keywords)
        super().__init__(task, observer, num_envs, max_episode_steps, autoreset_mode, render_mode)


class BalancingPlateVectorEnv(BulletVectorEnv):
    """Many :class:`~bullet_envs.env.BalancingPlateEnv`, with its keywords."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **keywords: Any,
    ) -> None:
        task, observer = problem(BalancingPlate, KEYWORDS, **keywords)
        super().__init__(task, observer, num_envs, max_episode_steps, autoreset_mode, render_mode)
