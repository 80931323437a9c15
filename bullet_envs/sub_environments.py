"""Several sub-environments in one process: physics, observation, autoreset and seeds.

A vector environment has one such part, or one in each of its worker processes. Parts do what is the
same for each sub-environment, and leave their results in arrays; the vector environment makes of
these what Gymnasium's protocol returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from . import snapshots
from .observers import Observation, Observer
from .perturbations import Perturbations
from .perturbed_episode import PerturbedEpisode
from .simulation import Simulation
from .task import State, Task

Array = npt.NDArray[Any]
# Makes an array from the shape of a sub-environment's share of it and a dtype.
Allocate = Callable[[tuple[int, ...], Any], Array]


@dataclass
class Results:
    """What a part is given and what it returns: arrays whose first axis is the sub-environment.

    They are written in place.

    Args:
        commands: of each actuator (SI units), float64 of shape (n, actuators): given.
        states: float64 of shape (n, columns).
        observations: the latest.
        final_observations: of episodes that the latest step ended, with ``SAME_STEP``.
        rewards: of the latest step, as are ``terminated`` and ``truncated``; shape (n,).
        terminated: bool.
        truncated: bool.
        terms: of the reward by name, empty where it has none; float64.
        info: ``task.info`` of the states, by name.
        final_info: of episodes that the latest step ended, with ``SAME_STEP``.
        parameters: the perturbed ones of the present episodes, one column each; float64.
    """

    commands: Array
    states: Array
    observations: Observation
    final_observations: Observation
    rewards: Array
    terminated: Array
    truncated: Array
    terms: dict[str, Array]
    info: dict[str, Array]
    final_info: dict[str, Array]
    parameters: Array

    @staticmethod
    def make(
        task: Task, space: spaces.Space[Any], perturbations: Perturbations, allocate: Allocate
    ) -> Results:
        """Return results for a task and the observations of a space."""
        terms, info = _columns(task)

        def observation() -> Observation:
            if isinstance(space, spaces.Dict):
                return {name: allocate(of.shape, of.dtype) for name, of in space.items()}  # type: ignore[arg-type]
            return allocate(space.shape, space.dtype)  # type: ignore[arg-type]

        return Results(
            commands=allocate((len(task.actuators),), np.float64),
            states=allocate((len(task.state_names),), np.float64),
            observations=observation(),
            final_observations=observation(),
            rewards=allocate((), np.float64),
            terminated=allocate((), np.bool_),
            truncated=allocate((), np.bool_),
            terms={name: allocate((), np.float64) for name in terms},
            info={name: allocate((), dtype) for name, dtype in info.items()},
            final_info={name: allocate((), dtype) for name, dtype in info.items()},
            parameters=allocate((len(perturbations.parameters),), np.float64),
        )

    def part(self, rows: slice) -> Results:
        """Return views of those of some sub-environments."""
        return Results(**{name: _view(value, rows) for name, value in self.__dict__.items()})

    def arrays(self) -> Iterator[Array]:
        """Yield all arrays, always in the same order."""
        for value in self.__dict__.values():
            yield from value.values() if isinstance(value, dict) else [value]


def _view(value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return {name: array[rows] for name, array in value.items()}
    return value[rows]


def _columns(task: Task) -> tuple[list[str], dict[str, np.dtype[Any]]]:
    """Return the names of the reward's terms, and names and dtypes of ``task.info``."""
    state = tuple(np.array(task.rest(), np.float64)[:, None])
    command = tuple(np.array([[actuator.centre] for actuator in task.actuators], np.float64))
    reward = task.reward(state, command, state)
    terms = list(reward) if isinstance(reward, Mapping) else []
    return terms, {name: np.asarray(value).dtype for name, value in task.info(state).items()}


class SubEnvironments:
    """Some sub-environments of a vector environment, in this process.

    Sub-environments are counted from 0 in each part.

    Args:
        task: the problem.
        observer: what the agent observes.
        count: of sub-environments.
        time_limit: actions after which an episode is truncated, inf for none.
        autoreset_mode: what follows the end of an episode.
        perturbations: None where nothing is.

    Attributes:
        results: arrays to read commands from and to write to, which may be replaced by others.
        generators: a pair of generator and seed for each sub-environment.
    """

    def __init__(
        self,
        task: Task,
        observer: Observer,
        count: int,
        time_limit: float,
        autoreset_mode: AutoresetMode,
        perturbations: Perturbations | None = None,
    ) -> None:
        self.task = task
        self.observer = observer
        self.count = count
        self.generators = [seeding.np_random() for _ in range(count)]
        self.perturbations = perturbations or Perturbations()
        self.results = Results.make(
            *(task, observer.space, self.perturbations),
            lambda shape, dtype: np.zeros((count, *shape), dtype),
        )
        self._episodes: list[PerturbedEpisode] | None = None
        self._gains = np.ones((count, len(task.actuators)))
        self._rest = np.array([actuator.centre for actuator in task.actuators], np.float64)
        is_image = observer.space.dtype == np.uint8
        self._reads_singly = self.perturbations.decides_observations(task, is_image)
        if perturbations is not None:
            self._episodes = [
                PerturbedEpisode(task, perturbations, observer.space) for _ in range(count)
            ]
        self._time_limit = time_limit
        self._autoreset_mode = autoreset_mode
        self._has_info = type(task).info is not Task.info
        self._simulation: Simulation | None = None
        self._is_running = False  # whether results.states are those of the engine
        self._elapsed = np.zeros(count, np.int64)
        self._ended = np.zeros(count, np.bool_)

    def reset(
        self,
        indices: Sequence[int],
        seeds: Mapping[int, int],
        state: State | None,
        parameters: Mapping[str, float],
    ) -> None:
        """Begin an episode in some sub-environments.

        Args:
            indices: of these, maybe none.
            seeds: by index; the others go on with their generators.
            state: to begin from, None for a random one.
            parameters: that are not drawn.
        """
        if not indices:
            return
        for index, seed in seeds.items():
            self.generators[index] = seeding.np_random(seed)
        self._begin(indices, state, parameters)
        self._observe(indices)
        self._write_info()

    def step(self, skip_observations: bool) -> None:
        """Act for one control period on ``results.commands``, and write all other results.

        Args:
            skip_observations: leave the observations of episodes that go on as they are.
        """
        results = self.results
        before = results.states.copy()
        was_ended = self._ended
        (ended,) = was_ended.nonzero()
        autoresets = self._autoreset_mode is AutoresetMode.NEXT_STEP
        waits = self._autoreset_mode is AutoresetMode.DISABLED
        self._elapsed += ~was_ended
        indices = ended.tolist()
        initial: dict[int, State] = {}
        if self._episodes is None:
            if autoresets:
                initial = {i: self._sample_initial_state(i) for i in indices}
            columns = self._ready().step(
                results.commands.ravel().tolist(), initial, set(indices if waits else ())
            )
        else:
            columns = self._step_perturbed(self._episodes, indices, autoresets, waits)
        results.states[...] = np.array(columns).reshape(before.shape)
        if waits:
            results.states[ended] = before[ended]
        columns_after = self._state_columns()
        terminated, truncated = results.terminated, results.truncated
        terminated[...] = self.task.terminated(columns_after)
        np.greater_equal(self._elapsed, self._time_limit, out=truncated)
        commands = tuple(results.commands.T)
        reward = self.task.reward(tuple(before.T), commands, columns_after)
        if isinstance(reward, Mapping):
            for name, term in reward.items():
                results.terms[name][...] = term
            reward = sum(results.terms.values())
        results.rewards[...] = reward
        results.rewards[ended] = 0.0
        if autoresets:
            self._elapsed[ended] = 0
            terminated[ended] = truncated[ended] = False
        self._ended = terminated | truncated
        acted_and_ended = self._ended & ~was_ended
        observed: Any = ~was_ended if waits else slice(None)
        if skip_observations and not self._reads_singly:
            observed = acted_and_ended | was_ended if autoresets else acted_and_ended
        self._observe(observed)
        self._write_info()
        if self._autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            indices = np.flatnonzero(self._ended).tolist()
            put(results.final_observations, indices, take(results.observations, indices))
            put(results.final_info, indices, take(results.info, indices))
            self._begin(indices)
            self._observe(indices)
            self._write_info()

    def _step_perturbed(
        self, episodes: Sequence[PerturbedEpisode], ended: Sequence[int], begins: bool, waits: bool
    ) -> list[float]:
        """Step the engine, and begin new episodes where they have ended if asked to."""
        forces = {}
        if self.perturbations.acts:
            commands: list[float] = []
            for index, command in enumerate(self.results.commands.tolist()):
                if not self._ended[index]:
                    rng, episode = self.generators[index][0], episodes[index]
                    command = episode.command(rng, command)
                    if pushes := episode.forces(rng):
                        forces[index] = pushes
                commands += command
        else:
            scaled = self._rest + self._gains * (self.results.commands - self._rest)
            commands = scaled.ravel().tolist()
        initial = {i: self._sample_episode(i, None, {}) for i in ended} if begins else {}
        tasks = {index: episodes[index].task for index in initial}
        idle = set(ended if waits else ())
        return self._ready().step(commands, initial, idle, forces, tasks)

    def observe(self) -> None:
        """Write the observations of the present states; perturbed sensors are read once a step."""
        if not self._reads_singly:
            self._observe(slice(None))

    def resynchronize(self) -> None:
        """Set the engine to ``results.states`` anew. One that has still to be built will be so."""
        if self._simulation is not None:
            self._ready(resynchronize=True)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return where each sub-environment is, as data; the engine has to be set to it anew."""
        return [
            {
                "state": self.results.states[index].tolist(),
                "ended": bool(self._ended[index]),
                "elapsed": int(self._elapsed[index]),
                "generator": snapshots.of_generator(*self.generators[index]),
                "observation": snapshots.of_array(take(self.results.observations, index)),
                "episode": None if self._episodes is None else self._episodes[index].snapshot(),
            }
            for index in range(self.count)
        ]

    def restore(self, taken: Sequence[Mapping[str, Any]]) -> None:
        """Go on where other sub-environments were."""
        for index, one in enumerate(taken):
            self.generators[index] = snapshots.to_generator(one["generator"])
            self.results.states[index] = one["state"]
            self._ended[index], self._elapsed[index] = one["ended"], one["elapsed"] or 0
            put(self.results.observations, index, snapshots.to_array(one["observation"]))
            if self._episodes is not None:
                episode = self._episodes[index]
                episode.restore(one["episode"], self.generators[index][0])
                self._gains[index] = episode.gains
                self.results.parameters[index] = list(episode.parameters.values())
        self._is_running = True
        self._ready(resynchronize=True)
        self._write_info()

    def discard_engine(self) -> None:
        """Forget the engine, which may be half-way through a step: all must be reset."""
        self._close_engine()
        self._is_running = False

    def abandon(self) -> None:
        """Become as new, with new generators."""
        self.discard_engine()
        self.generators = [seeding.np_random() for _ in range(self.count)]

    def close(self) -> None:
        """Free the engine and what drawing needs; a reset of all begins anew."""
        self._close_engine()
        self.observer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: a copy builds its own."""
        return {**self.__dict__, "_simulation": None}

    def _close_engine(self) -> None:
        if self._simulation is not None:
            self._simulation.close()
        self._simulation = None

    def _ready(self, resynchronize: bool = False) -> Simulation:
        """Return the engine, which a copy has to build first."""
        if self._simulation is None:
            self._simulation = Simulation(self.task, self.count, self.perturbations.names)
            resynchronize = self._is_running
        if resynchronize:
            for index, episode in enumerate(self._episodes or ()):
                self._simulation.set_task(index, episode.task)
            self._simulation.set_state(dict(enumerate(self.results.states.tolist())))
        return self._simulation

    def _begin(
        self,
        indices: Sequence[int],
        state: State | None = None,
        parameters: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Begin an episode in some sub-environments, from a random state if none is given."""
        simulation = self._ready()
        initial = {}
        for index in indices:
            if self._episodes is None:
                initial[index] = self._sample_initial_state(index) if state is None else state
            else:
                initial[index] = self._sample_episode(index, state, parameters)
                simulation.set_task(index, self._episodes[index].task)
        placed = simulation.set_state(initial)
        self._is_running = True
        self.results.states[indices] = [placed[index] for index in indices]
        self._elapsed[indices] = 0
        self._ended[indices] = False

    def _sample_episode(
        self, index: int, state: State | None, parameters: Mapping[str, float]
    ) -> State:
        """Draw the parameters of an episode, and its initial state if none is given."""
        rng = self.generators[index][0]
        episode = self._episodes[index]  # type: ignore[index]
        task = episode.begin(rng, parameters)
        self._gains[index] = episode.gains
        self.results.parameters[index] = list(episode.parameters.values())
        return task.sample_initial_state(rng) if state is None else state

    def _sample_initial_state(self, index: int) -> State:
        return self.task.sample_initial_state(self.generators[index][0])

    def _state_columns(self) -> tuple[Array, ...]:
        states = self.results.states.view()
        states.flags.writeable = False
        return tuple(states.T)

    def _observe(self, indices: Any) -> None:
        states: Array = self.results.states[indices]
        if self._episodes is not None and self._reads_singly:
            for index in np.arange(self.count)[indices].tolist():
                episode, state = self._episodes[index], tuple(self.results.states[index].tolist())
                seen = self.observer.observe_episode(state, episode)
                read = episode.observe(self.generators[index][0], seen)
                put(self.results.observations, index, read)
        elif len(states):
            put(self.results.observations, indices, self.observer.observe_many(states))

    def _write_info(self) -> None:
        if self._has_info:
            for name, value in self.task.info(self._state_columns()).items():
                np.copyto(self.results.info[name], value)


def put(observations: Observation, indices: Any, new: Observation) -> None:
    """Write the observations of some sub-environments."""
    if isinstance(observations, dict):
        for name, array in observations.items():
            array[indices] = new[name]
    else:
        observations[indices] = new


def take(observations: Observation, indices: Any) -> Observation:
    """Return the observations of one or some sub-environments, new arrays."""
    if isinstance(observations, dict):
        return {name: array[indices].copy() for name, array in observations.items()}
    return observations[indices].copy()
