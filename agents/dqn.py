"""Deep Q-learning with n-step returns.

Mnih et al., "Human-level control through deep reinforcement learning", 2015.

Deviations:
1. n-step returns (Sutton and Barto, "Reinforcement Learning", 7.1, without correction for the
   exploration inside the window). One-step targets leave the plate at a return of about 115.
2. The double Q-learning target of van Hasselt et al., 2016.
3. Several environments are stepped at once, then several gradient steps follow.
4. Adam with a learning rate that falls linearly to zero; what sees pictures has its own.
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
from torch import Tensor, nn

from .checkpoints import below, learner_tensors, restore_learner
from .learned import GreedyAgent, parameter_groups
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
        eyes_learning_rate: the same for the keypoints of pictures, above 0.
        target_update: gradient steps between copies into the target network, from 1.
        exploration_fraction: part of the training in which epsilon falls from 1, 0 to 1.
        exploration_final: epsilon from then on, 0 to 1.
        reward_scale: factor of the rewards that the network learns from, above 0.
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
    eyes_learning_rate: float = 1e-3
    target_update: int = 200
    exploration_fraction: float = 0.15
    exploration_final: float = 0.01
    reward_scale: float = 1.0
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
        self.require("eyes_learning_rate", float, 1e-8, 1)
        self.require("target_update", int, 1, 10**9)
        self.require("exploration_fraction", float, 0, 1)
        self.require("exploration_final", float, 0, 1)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")
        window = self.n_steps * self.n_envs
        for name in ("learning_starts", "buffer_size"):
            if getattr(self, name) < window:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least n_steps * n_envs = {window}"
                )


# Hundreds of keypoints overfit where four numbers do not: used 64 times, as the transitions of
# states are, each transition of pictures teaches less than used 8 times.
_PICTURES = {
    "frame_stack": 3,
    "action_repeat": 2,
    "gradient_steps": 1,
    "batch_size": 64,
    "learning_rate": 2.5e-4,
    "eyes_learning_rate": 5e-4,
    "reward_scale": 0.01,
    "exploration_fraction": 0.1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 100_000, "eval_freq": 5_000, "gamma": 0.99},
    "BalancingPlate-v0": {"n_timesteps": 200_000, "eval_freq": 10_000},
    "BulletCartPolePixels-v0": {
        **_PICTURES,
        "n_timesteps": 200_000,
        "n_steps": 3,
        "learning_rate": 5e-4,
        "eyes_learning_rate": 1e-3,
    },
    "BalancingPlatePixels-v0": {**_PICTURES, "n_timesteps": 300_000},
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

    Every observation is kept once, as the latest of its stack: a stack is put together from the
    observations before it, and what follows an action is what the next one begins with.

    Args:
        size: transitions in all.
        n_envs: environments.
        space: of an observation.
        frame_stack: observations in a stack; with 1 the space is of a single one.
    """

    def __init__(self, size: int, n_envs: int, space: gym.Space[Any], frame_stack: int) -> None:
        shape = space.shape or ()
        # Pictures come in stacks always, states only if asked to.
        self._stacked = frame_stack > 1 or len(shape) == 4
        self._frame_stack = frame_stack
        self.length = size // n_envs + 1  # and a place for the latest observation
        times = (self.length, n_envs)
        self.columns: dict[str, npt.NDArray[Any]] = {
            "frames": np.zeros((*times, *shape[self._stacked :]), space.dtype),
            "ages": np.zeros(times, np.int32),  # actions since the first of the episode
            "actions": np.zeros(times, np.int64),
            "rewards": np.zeros(times, np.float32),
            "terminated": np.zeros(times, np.bool_),
            "ended": np.zeros(times, np.bool_),
        }
        # The last observation of an episode that was cut off, by the time and row of its action.
        self.finals: dict[tuple[int, int], npt.NDArray[Any]] = {}
        self.added = 0

    def begin(self, observations: npt.NDArray[Any]) -> None:
        """Begin an episode in every environment."""
        now = self.added % self.length
        self.columns["frames"][now] = self._latest(observations)
        self.columns["ages"][now] = 0

    def add(
        self,
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        following: npt.NDArray[Any],
        finals: npt.NDArray[Any],
    ) -> None:
        """Remember a transition of every environment.

        Args:
            actions: shape (n_envs,).
            rewards: shape (n_envs,).
            terminated: shape (n_envs,).
            truncated: shape (n_envs,).
            following: what the next actions begin with, of a new episode after an end.
            finals: what followed the actions, before any reset.
        """
        now, then = self.added % self.length, (self.added + 1) % self.length
        ended = terminated | truncated
        for name, values in (
            ("actions", actions),
            ("rewards", rewards),
            ("terminated", terminated),
            ("ended", ended),
        ):
            self.columns[name][now] = values
        for row in range(len(ended)):
            self.finals.pop((now, row), None)
        for row in np.flatnonzero(truncated & ~terminated).tolist():
            self.finals[now, row] = self._latest(finals[row][None])[0].copy()
        self.columns["frames"][then] = self._latest(following)
        self.columns["ages"][then] = np.where(ended, 0, self.columns["ages"][now] + 1)
        self.added += 1

    def _latest(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return observations[:, -1] if self._stacked else observations

    def cut(self) -> None:
        """End every running episode here, as a time limit would."""
        last, now = (self.added - 1) % self.length, self.added % self.length
        for row in np.flatnonzero(~self.columns["ended"][last]):
            self.finals[last, int(row)] = self.columns["frames"][now, row].copy()
        self.columns["ended"][last] = True

    def sample(self, rows: int, n_steps: int, gamma: float, rng: np.random.Generator) -> Batch:
        """Return random windows of up to ``n_steps`` that stop at the end of an episode."""
        # The newest windows are not complete yet, and the oldest stacks no longer are.
        oldest = max(0, self.added - self.length + self._frame_stack)
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
            torch.from_numpy(self._observations(first, env)),
            torch.from_numpy(self.columns["actions"][first, env]),
            torch.from_numpy(returns),
            torch.from_numpy(self._next_observations(last, env)),
            torch.from_numpy(discount * continues),
        )

    def _observations(
        self, time: npt.NDArray[np.int64], env: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Return observations; before the first of an episode its stack repeats that."""
        frames: npt.NDArray[Any] = self.columns["frames"]
        if not self._stacked:
            chosen: npt.NDArray[Any] = frames[time, env]
            return chosen
        back = np.minimum(np.arange(self._frame_stack)[::-1], self.columns["ages"][time, env, None])
        stacks: npt.NDArray[Any] = frames[(time[:, None] - back) % self.length, env[:, None]]
        return stacks

    def _next_observations(
        self, time: npt.NDArray[np.int64], env: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Return what followed; after a termination, where nobody looks, anything."""
        following: npt.NDArray[Any] = self.columns["frames"][(time + 1) % self.length, env]
        for index, key in enumerate(zip(time.tolist(), env.tolist(), strict=True)):
            if key in self.finals:
                following[index] = self.finals[key]
        if not self._stacked:
            return following
        # The stack of the action, without its oldest and with what followed.
        back = np.minimum(
            np.arange(self._frame_stack - 1)[::-1], self.columns["ages"][time, env, None]
        )
        earlier = self.columns["frames"][(time[:, None] - back) % self.length, env[:, None]]
        return np.concatenate([earlier, following[:, None]], axis=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        filled = min(self.added + 1, self.length)
        tensors = {f"memory.{k}": torch.from_numpy(v[:filled]) for k, v in self.columns.items()}
        frame = self.columns["frames"][0, 0]
        finals = np.array(list(self.finals.values()), frame.dtype).reshape(-1, *frame.shape)
        places = np.array(list(self.finals), np.int64).reshape(-1, 2)
        return {
            **tensors,
            "memory.finals": torch.from_numpy(finals),
            "memory.final_places": torch.from_numpy(places),
            "memory.added": torch.tensor(self.added),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo :meth:`tensors`."""
        content = below(tensors, "memory")
        self.added = int(content.pop("added"))
        finals = content.pop("finals").numpy()
        places = content.pop("final_places").tolist()
        self.finals = {
            (time, row): final for (time, row), final in zip(places, finals, strict=True)
        }
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
    agent = DQNAgent(*config.of_agent)
    q_network, target_network = agent.network, agent.build()
    target_network.load_state_dict(q_network.state_dict())
    modules = {"q": q_network, "target": target_network}
    optimiser = torch.optim.Adam(
        parameter_groups(q_network, config.learning_rate, config.eyes_learning_rate), fused=True
    )
    memory = ReplayMemory(
        config.buffer_size, config.n_envs, agent.observation_space, config.frame_stack
    )
    updates = 0
    if run.restored is not None:
        restore_learner(run.restored, modules, optimiser)
        memory.restore(run.restored)
        updates = int(run.restored["updates"])
    envs = agent.make_envs(config.n_envs)
    n_actions = agent.action_space.n  # type: ignore[attr-defined]
    recent_returns: deque[float] = deque(maxlen=100)
    losses: deque[float] = deque(maxlen=100)

    while not run.finished:
        # Steps name what follows up to the next evaluation, as in a resumed training.
        rng = np.random.default_rng(derived_seed(config.seed, run.steps))
        seeds = [derived_seed(config.seed, run.steps, row) for row in range(config.n_envs)]
        observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]
        memory.begin(observations)
        returns = np.zeros(config.n_envs)
        while not (run.evaluation_due or run.stopped):
            progress = run.steps / config.n_timesteps
            epsilon = epsilon_at(progress, config.exploration_fraction, config.exploration_final)
            actions = agent.act(observations, deterministic=True)
            exploring = rng.random(config.n_envs) < epsilon
            actions = np.where(exploring, rng.integers(0, n_actions, config.n_envs), actions)
            finals, rewards, terminated, truncated, _ = envs.step(actions)
            ended = terminated | truncated
            observations = finals
            if ended.any():
                observations, _ = envs.reset(options={"reset_mask": ended})
            memory.add(
                actions, config.reward_scale * rewards, terminated, truncated, observations, finals
            )
            returns += rewards
            recent_returns.extend(returns[ended])
            returns[ended] = 0
            run.advance(config.n_envs)
            if run.steps < config.learning_starts:
                continue

            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * (1 - progress)
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
