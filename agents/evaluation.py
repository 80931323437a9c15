"""Whole episodes of an agent, several at a time, with their returns and lengths."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from typing_extensions import Self

from .agent import Agent
from .wrappers import REPEATS, autoreset_mode

# Training draws its seeds as 32-bit hashes; no agent trains on these, nor is it selected by them.
EVALUATION_SEEDS = range(10_000_000, 10_001_000)
SELECTION_SEEDS = range(20_000_000, 20_001_000)
EPISODES = 100  # of an evaluation, where no other number is asked for
AT_ONCE = 20  # episodes that are played together


@dataclass
class Episode:
    """What happened in one episode, a list entry per action.

    ``final_observation`` is the one after the last action, ``length`` counts environment steps,
    ``terminated`` tells whether the task ended the episode, not a time limit, and ``ended`` is
    False where it was left before its end.
    """

    observations: list[npt.NDArray[Any]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    final_observation: npt.NDArray[Any] | None = None
    length: int = 0
    terminated: bool = False
    ended: bool = False

    @property
    def episode_return(self) -> float:
        """The undiscounted sum of rewards."""
        return sum(self.rewards)


@dataclass(frozen=True)
class Evaluation:
    """The results of episodes.

    Args:
        returns: undiscounted, shape (episodes,).
        lengths: in environment steps, shape (episodes,).
        terminated: whether the task ended the episode, not a time limit, shape (episodes,).
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Self:
        """Return the results of episodes that have ended."""
        return cls(
            np.array([episode.episode_return for episode in episodes]),
            np.array([episode.length for episode in episodes]),
            np.array([episode.terminated for episode in episodes]),
        )


def ended_wait(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Return whether ended sub-environments may be stepped on and stay as they are."""
    return bool(envs.metadata.get("ended_wait", False))


# Yields observations, shape (n, ...), and the numbers of their episodes, is sent the actions, and
# returns the episodes.
_Playing = Generator[
    tuple[npt.NDArray[Any], npt.NDArray[np.int64]], npt.NDArray[Any], list[Episode]
]


def run_episodes(
    envs: VectorEnv[Any, Any, Any],
    act: Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], npt.NDArray[Any]],
    seeds: Sequence[int],
    max_steps: int | None = None,
    keep_observations: bool = True,
    begin: Callable[[dict[str, Any], int], None] | None = None,
) -> list[Episode]:
    """Run one episode from each seed, all at once.

    Args:
        envs: at least as many sub-environments as seeds, with any autoreset mode.
        act: maps observations of shape (n, ...), and the numbers of their episodes, to actions of
            shape (n, ...).
        seeds: the reset seed of each episode.
        max_steps: actions in all episodes together after which those that have not ended are
            left; the last step of all sub-environments may exceed it.
        keep_observations: whether episodes have their observations and actions.
        begin: is given the infos of the reset and the number of episodes.

    Returns:
        The episodes, in the order of their seeds.
    """
    playing = _playing(envs, seeds, max_steps, keep_observations, begin)
    actions = None
    while True:
        try:
            asked = playing.send(actions)  # type: ignore[arg-type]
        except StopIteration as end:
            episodes: list[Episode] = end.value
            return episodes
        actions = act(*asked)


def _playing(
    envs: VectorEnv[Any, Any, Any],
    seeds: Sequence[int],
    max_steps: int | None = None,
    keep_observations: bool = True,
    begin: Callable[[dict[str, Any], int], None] | None = None,
) -> _Playing:
    """Play as :func:`run_episodes` does, and yield what that calls ``act`` with."""
    mode = autoreset_mode(envs)
    resets_ended = mode is AutoresetMode.DISABLED and not ended_wait(envs)
    episodes = [Episode() for _ in seeds]
    others = [None] * (envs.num_envs - len(seeds))
    latest, reset_infos = envs.reset(seed=[*map(int, seeds), *others])  # type: ignore[arg-type]
    if begin is not None:
        begin(reset_infos, len(seeds))
    actions = np.zeros(envs.action_space.shape or (), envs.action_space.dtype)
    live = np.arange(len(seeds))
    taken = 0
    while len(live) and (max_steps is None or taken < max_steps):
        observations = latest[live]
        actions[live] = decided = yield observations, live
        if not taken:
            actions[len(seeds) :] = actions[0]  # legal, for those that are not used
        latest, rewards, terminated, truncated, infos = envs.step(actions)
        ended = terminated | truncated
        taken += len(live)
        for index, observation, action in zip(live.tolist(), observations, decided, strict=True):
            episode = episodes[index]
            if keep_observations:
                episode.observations.append(observation)
                episode.actions.append(action)
            episode.rewards.append(float(rewards[index]))
            final = infos if not (ended[index] and "final_info" in infos) else infos["final_info"]
            episode.length += int(final[REPEATS][index]) if REPEATS in final else 1
            if ended[index]:
                episode.ended, episode.terminated = True, bool(terminated[index])
                # With SAME_STEP the latest observation is that of the next episode.
                is_next = mode is AutoresetMode.SAME_STEP
                episode.final_observation = (infos["final_obs"] if is_next else latest)[index]
        live = live[~ended[live]]
        if resets_ended and ended.any() and len(live):
            latest, _ = envs.reset(options={"reset_mask": ended})
    for index in live.tolist():
        episodes[index].final_observation = latest[index]
    return episodes


def evaluate(
    agent: Agent,
    seeds: Sequence[int] = EVALUATION_SEEDS[:EPISODES],
    deterministic: bool = True,
    workers: int | str = 1,
    progress: Callable[[int], object] | None = None,
    **env_kwargs: Any,
) -> Evaluation:
    """Return the undiscounted return and the length of an episode from each seed.

    Args:
        agent: whose actions to take.
        seeds: reset seeds, an initial state each.
        deterministic: take the most likely actions.
        workers: processes that share the sub-environments: see :meth:`EnvConfig.make_vec`.
        progress: is told how many episodes have ended, each time that some have.
        **env_kwargs: keywords of the environment that override the agent's.

    Raises:
        ValueError: several workers for other environments than this package's.
    """
    envs = agent.make_vec(min(AT_ONCE, len(seeds)), workers=workers, **env_kwargs)
    try:
        episodes = []
        for first in range(0, len(seeds), AT_ONCE):
            played = run_episodes(
                envs,
                lambda observations, live: agent.act(observations, deterministic, live),
                seeds[first : first + AT_ONCE],
                keep_observations=False,
                begin=agent.policy.begin,
            )
            episodes += played
            if progress is not None:
                progress(len(played))
    finally:
        envs.close()
    return Evaluation.of(episodes)


def evaluate_in_each(
    loads: Sequence[Callable[[], Agent]], seeds: Sequence[int] = EVALUATION_SEEDS[:EPISODES]
) -> list[Evaluation | None]:
    """Return the results of an agent in several environments, as :func:`evaluate` does for one.

    All are played at once, with one call of the network for the observations of all.

    Args:
        loads: each returns the same agent, with perturbations of its own.
        seeds: reset seeds, an initial state each.

    Returns:
        The results, None where these were refused: the engine cannot have the parameters together.
    """
    agents: dict[int, Agent] = {}
    for index, load in enumerate(loads):
        with contextlib.suppress(ValueError):
            agents[index] = load()
    if any(agent.weights_hash is None for agent in agents.values()):
        # A controller is made for its environment, and may remember its episodes.
        return [evaluate(agents[i], seeds) if i in agents else None for i in range(len(loads))]
    with contextlib.ExitStack() as stack:
        envs = {}
        for index, agent in agents.items():
            envs[index] = agent.make_vec(min(AT_ONCE, len(seeds)))
            stack.callback(envs[index].close)
        episodes: dict[int, list[Episode]] = {index: [] for index in envs}
        for first in range(0, len(seeds), AT_ONCE):
            some = seeds[first : first + AT_ONCE]
            playing = {i: _playing(envs[i], some, keep_observations=False) for i in episodes}
            played = _play_together(playing, agents)
            for index, more in played.items():
                episodes[index] += more
    return [Evaluation.of(episodes[i]) if i in episodes else None for i in range(len(loads))]


def _play_together(
    playing: Mapping[int, _Playing], agents: Mapping[int, Agent]
) -> dict[int, list[Episode]]:
    """Return the episodes of each, played with one call of the network for all."""
    played = {}
    answers: dict[int, Any] = dict.fromkeys(playing)
    while answers:
        asked = {}
        for index, actions in answers.items():
            try:
                asked[index], _ = playing[index].send(actions)
            except StopIteration as end:
                played[index] = end.value
        answers = {}
        if asked:
            agent = agents[min(asked)]  # any: they have the same network
            decided = agent.act(np.concatenate(list(asked.values())), deterministic=True)
            ends = np.cumsum([len(observations) for observations in asked.values()])
            answers = dict(zip(asked, np.split(decided, ends[:-1]), strict=True))
    return played
