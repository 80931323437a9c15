"""Whole episodes of an agent, several at a time, and what they returned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from .agent import Agent

# Training draws its seeds as 32-bit hashes; these starts are no agent's training or selection.
EVALUATION_SEEDS = range(10_000_000, 10_000_100)
SELECTION_SEEDS = range(20_000_000, 20_000_020)
AT_ONCE = 20  # episodes that play together


@dataclass
class Episode:
    """What happened in one episode, a list entry per action."""

    observations: list[npt.NDArray[Any]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @property
    def episode_return(self) -> float:
        """The undiscounted sum of rewards."""
        return sum(self.rewards)


def run_episodes(
    envs: VectorEnv[Any, Any, Any],
    act: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    seeds: Sequence[int],
) -> list[Episode]:
    """Run one episode from each seed, all at once.

    Args:
        envs: at least as many rows as seeds; those that have ended wait, as BulletVectorEnv's do.
        act: maps observations of shape (rows, ...) to actions of shape (rows, ...).
        seeds: the reset seed of each episode.

    Returns:
        The episodes, in the order of their seeds.
    """
    episodes = [Episode() for _ in seeds]
    others = [None] * (envs.num_envs - len(seeds))
    latest, _ = envs.reset(seed=[*map(int, seeds), *others])  # type: ignore[arg-type]
    actions = np.zeros(envs.action_space.shape or (), envs.action_space.dtype)
    live = np.arange(len(seeds))
    while len(live):
        seen = latest[live]
        actions[live] = chosen = act(seen)
        latest, rewards, terminated, truncated, _ = envs.step(actions)
        for row, observation, action in zip(live.tolist(), seen, chosen, strict=True):
            episodes[row].observations.append(observation)
            episodes[row].actions.append(action)
            episodes[row].rewards.append(float(rewards[row]))
        live = live[~(terminated | truncated)[live]]
    return episodes


def evaluate(
    agent: Agent,
    seeds: Sequence[int] = EVALUATION_SEEDS,
    deterministic: bool = True,
    **env_kwargs: Any,
) -> npt.NDArray[np.float64]:
    """Return the undiscounted return of an episode from each seed.

    Args:
        agent: whose actions to take.
        seeds: reset seeds, a start each.
        deterministic: take the most likely actions.
        **env_kwargs: keywords of the environment.

    Returns:
        Returns, shape (len(seeds),).
    """
    envs = agent.make_envs(min(AT_ONCE, len(seeds)), **env_kwargs)
    returns: list[float] = []
    try:
        for first in range(0, len(seeds), AT_ONCE):
            episodes = run_episodes(
                envs,
                lambda batch: agent.act(batch, deterministic),
                seeds[first : first + AT_ONCE],
            )
            returns += [episode.episode_return for episode in episodes]
    finally:
        envs.close()
    return np.array(returns)
