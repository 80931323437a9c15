"""Deep Q-learning with n-step returns.

Mnih et al., "Human-level control through deep reinforcement learning", 2015.

Deviations:
1. n-step returns (Sutton and Barto, "Reinforcement Learning", 7.1, without correction for the
   exploration inside the window). One-step targets leave the plate at a return of about 115.
2. The double Q-learning target of van Hasselt et al., 2016.
3. Several environments are stepped at once, then several gradient steps follow.
4. Adam with a learning rate that falls linearly to zero.
5. Every evaluation cuts the episodes off as a time limit would, so that a resumed training equals
   an unbroken one.

Run ``bullet-envs train --algo dqn --env BalancingPlate-v0``: about a minute on one core.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from .checkpoints import below, learner_tensors, restore_learner
from .learned import GreedyAgent
from .run import Config, Run, derived_seed


@dataclass(frozen=True, kw_only=True)
class DQNConfig(Config):
    """Settings of DQN.

    Args:
        n_envs: environments stepped at once, 1 to 256.
        gradient_steps: per step of all environments, 1 to 256.
        batch_size: transitions per gradient step, 1 to 4096.
        buffer_size: transitions remembered, 1000 to 10 million.
        learning_starts: random steps before the first gradient step, from 1.
        n_steps: rewards in a return before it bootstraps, 1 to 100.
        gamma: discount, 0 to 1.
        learning_rate: of Adam at the start, above 0.
        target_update: gradient steps between copies into the target network, from 1.
        exploration_fraction: part of the training in which epsilon falls from 1, 0 to 1.
        exploration_final: epsilon from then on, 0 to 1.
        hidden: widths of the hidden layers.
    """

    n_envs: int = 8
    gradient_steps: int = 4
    batch_size: int = 128
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    n_steps: int = 5
    gamma: float = 0.98
    learning_rate: float = 1e-3
    target_update: int = 200
    exploration_fraction: float = 0.15
    exploration_final: float = 0.01
    hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_envs", int, 1, 256)
        self.require("gradient_steps", int, 1, 256)
        self.require("batch_size", int, 1, 4096)
        self.require("buffer_size", int, 1000, 10_000_000)
        self.require("learning_starts", int, 1, 10**9)
        self.require("n_steps", int, 1, 100)
        self.require("gamma", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("target_update", int, 1, 10**9)
        self.require("exploration_fraction", float, 0, 1)
        self.require("exploration_final", float, 0, 1)
        self.require_widths("hidden")
        window = self.n_steps * self.n_envs
        for name in ("learning_starts", "buffer_size"):
            if getattr(self, name) < window:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least n_steps * n_envs = {window}"
                )


PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 100_000, "eval_freq": 5_000, "gamma": 0.99},
    "BalancingPlate-v0": {"n_timesteps": 200_000, "eval_freq": 10_000},
}


class DQNAgent(GreedyAgent):
    """A Q-network."""

    algo = "dqn"


@dataclass(frozen=True)
class Batch:
    """Transitions of up to n steps, a row each.

    Args:
        observations: shape (rows, ...).
        actions: shape (rows,).
        returns: discounted rewards of the window, shape (rows,).
        next_observations: after the window, shape (rows, ...).
        bootstrap: discount of what follows the window, 0 after a termination, shape (rows,).
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    next_observations: Tensor
    bootstrap: Tensor


class ReplayMemory:
    """The latest transitions of each environment, in the order of time.

    Args:
        size: transitions in all.
        n_envs: environments.
        shape: of an observation.
    """

    def __init__(self, size: int, n_envs: int, shape: tuple[int, ...]) -> None:
        self.length = size // n_envs
        times = (self.length, n_envs)
        self.columns: dict[str, npt.NDArray[Any]] = {
            "observations": np.zeros((*times, *shape), np.float32),
            "next_observations": np.zeros((*times, *shape), np.float32),
            "actions": np.zeros(times, np.int64),
            "rewards": np.zeros(times, np.float32),
            "terminated": np.zeros(times, np.bool_),
            "ended": np.zeros(times, np.bool_),
        }
        self.added = 0

    def add(self, **transition: npt.NDArray[Any]) -> None:
        """Remember a transition of every environment; each column has shape (n_envs, ...)."""
        for name, values in transition.items():
            self.columns[name][self.added % self.length] = values
        self.added += 1

    def cut(self) -> None:
        """End every running episode here, as a time limit would."""
        self.columns["ended"][(self.added - 1) % self.length] = True

    def sample(self, rows: int, n_steps: int, gamma: float, rng: np.random.Generator) -> Batch:
        """Return random windows of up to ``n_steps`` that stop at the end of an episode."""
        # The newest windows are not complete yet.
        oldest = max(0, self.added - self.length)
        start = rng.integers(oldest, self.added - n_steps + 1, rows)
        env = rng.integers(0, self.columns["ended"].shape[1], rows)
        returns = np.zeros(rows, np.float32)
        discount = np.ones(rows, np.float32)
        last = start
        going_on = np.ones(rows, np.bool_)
        for step in range(n_steps):
            time = (start + step) % self.length
            returns += discount * going_on * self.columns["rewards"][time, env]
            last = np.where(going_on, time, last)
            discount = np.where(going_on, discount * np.float32(gamma), discount)
            going_on &= ~self.columns["ended"][time, env]
        first = start % self.length
        continues = ~self.columns["terminated"][last, env]
        return Batch(
            torch.from_numpy(self.columns["observations"][first, env]),
            torch.from_numpy(self.columns["actions"][first, env]),
            torch.from_numpy(returns),
            torch.from_numpy(self.columns["next_observations"][last, env]),
            torch.from_numpy(discount * continues),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        filled = min(self.added, self.length)
        tensors = {f"memory.{k}": torch.tensor(v[:filled]) for k, v in self.columns.items()}
        return {**tensors, "memory.added": torch.tensor(self.added)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo :meth:`tensors`."""
        content = below(tensors, "memory")
        self.added = int(content.pop("added"))
        for name, tensor in content.items():
            self.columns[name][: len(tensor)] = tensor.numpy()


def epsilon_at(progress: float, fraction: float, final: float) -> float:
    """Return the probability of a random action, falling linearly from 1 to ``final``.

    Args:
        progress: part of the training that is done, 0 to 1.
        fraction: part of the training at which ``final`` is reached.
        final: the least probability.
    """
    return max(final, 1 - (1 - final) * progress / max(fraction, 1e-9))


def td_target(q_network: nn.Module, target_network: nn.Module, batch: Batch) -> Tensor:
    """Return the double Q-learning target of each window, shape (rows,).

    A window that stopped at a time limit bootstraps, one that stopped at a termination does not.
    """
    with torch.no_grad():
        best = q_network(batch.next_observations).argmax(dim=1, keepdim=True)
        following = target_network(batch.next_observations).gather(1, best).squeeze(1)
        target: Tensor = batch.returns + batch.bootstrap * following
    return target


def train(config: DQNConfig, run: Run) -> DQNAgent:
    """Train until the run is finished and return the agent as it is then."""
    torch.manual_seed(derived_seed(config.seed))
    agent = DQNAgent(config.env_id, config.env_kwargs, config.hidden)
    q_network, target_network = agent.network, agent.build()
    target_network.load_state_dict(q_network.state_dict())
    modules = {"q": q_network, "target": target_network}
    optimiser = torch.optim.Adam(q_network.parameters(), config.learning_rate, fused=True)
    memory = ReplayMemory(config.buffer_size, config.n_envs, agent.observation_space.shape)  # type: ignore[arg-type]
    updates = 0
    if run.restored is not None:
        restore_learner(run.restored, modules, optimiser)
        memory.restore(run.restored)
        updates = int(run.restored["updates"])
    envs = gym.make_vec(
        f"bullet_envs:{config.env_id}",
        config.n_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **config.env_kwargs,
    )
    n_actions = envs.single_action_space.n  # type: ignore[attr-defined]
    recent_returns: deque[float] = deque(maxlen=100)
    losses: deque[float] = deque(maxlen=100)

    while not run.finished:
        # Steps name what follows up to the next evaluation, as in a resumed training.
        rng = np.random.default_rng(derived_seed(config.seed, run.steps))
        seeds = [derived_seed(config.seed, run.steps, row) for row in range(config.n_envs)]
        observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]
        returns = np.zeros(config.n_envs)
        while not (run.evaluation_due or run.stopped):
            progress = run.steps / config.n_timesteps
            epsilon = epsilon_at(progress, config.exploration_fraction, config.exploration_final)
            actions = agent.act(observations, deterministic=True)
            exploring = rng.random(config.n_envs) < epsilon
            actions = np.where(exploring, rng.integers(0, n_actions, config.n_envs), actions)
            following, rewards, terminated, truncated, infos = envs.step(actions)
            ended = terminated | truncated
            next_observations = following.copy()
            for row in np.flatnonzero(ended):
                next_observations[row] = infos["final_obs"][row]
            memory.add(
                observations=observations,
                next_observations=next_observations,
                actions=actions,
                rewards=rewards,
                terminated=terminated,
                ended=ended,
            )
            observations = following
            returns += rewards
            recent_returns.extend(returns[ended])
            returns[ended] = 0
            run.advance(config.n_envs)
            if run.steps < config.learning_starts:
                continue

            optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - progress)
            for _ in range(config.gradient_steps):
                batch = memory.sample(config.batch_size, config.n_steps, config.gamma, rng)
                target = td_target(q_network, target_network, batch)
                values = q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
                loss = nn.functional.smooth_l1_loss(values, target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                updates += 1
                if updates % config.target_update == 0:
                    target_network.load_state_dict(q_network.state_dict())
            losses.append(loss.item())

        memory.cut()
        if run.evaluation_due:
            run.log(
                {
                    "rollout/ep_rew_mean": float(np.mean(recent_returns or [0])),
                    "rollout/ep_len_mean": float(np.mean(recent_returns or [0])),
                    "rollout/exploration_rate": epsilon,
                    "train/loss": float(np.mean(losses or [0])),
                    "train/learning_rate": optimiser.param_groups[0]["lr"],
                    "train/n_updates": updates,
                }
            )
            run.evaluate(agent)
            counters = {"updates": torch.tensor(updates)}
            run.checkpoint({**learner_tensors(modules, optimiser), **memory.tensors(), **counters})

    envs.close()
    return agent
