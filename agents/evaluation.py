"""Whole episodes of an agent, several at a time, and what they returned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from .agent import Agent

# Training draws its seeds as 32-bit hashes; these starts are no agent's training or selection.
EVALUATION_SEEDS = range(10_000_000, 10_000_100)
SELECTION_SEEDS = range(20_000_000, 20_000_020)


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
    envs: Sequence[gym.Env[Any, Any]],
    act: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    seeds: Sequence[int],
) -> list[Episode]:
    """Run one episode in each environment, all at once.

    Args:
        envs: at least as many environments as seeds.
        act: maps observations of shape (rows, ...) to actions of shape (rows, ...).
        seeds: the reset seed of each episode.

    Returns:
        The episodes, in the order of their seeds.
    """
    episodes = [Episode() for _ in seeds]
    latest = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=False)]
    live = list(range(len(episodes)))
    while live:
        actions = act(np.stack([latest[row] for row in live]))
        going_on = []
        for row, action in zip(live, actions, strict=True):
            episode = episodes[row]
            episode.observations.append(latest[row])
            episode.actions.append(action)
            latest[row], reward, terminated, truncated, _ = envs[row].step(action)
            episode.rewards.append(float(reward))
            if not (terminated or truncated):
                going_on.append(row)
        live = going_on
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
    envs = [agent.make_env(**env_kwargs) for _ in range(min(10, len(seeds)))]
    returns: list[float] = []
    try:
        for first in range(0, len(seeds), len(envs)):
            batch = seeds[first : first + len(envs)]
            episodes = run_episodes(envs, lambda batch: agent.act(batch, deterministic), batch)
            returns += [episode.episode_return for episode in episodes]
    finally:
        for env in envs:
            env.close()
    return np.array(returns)
