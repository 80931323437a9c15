"""REINFORCE with a learned baseline.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", 1992; with the baseline of Sutton and Barto, "Reinforcement Learning", 13.4.

Deviations:
1. An update uses a batch of whole episodes, played in parallel, rather than one.
2. The factor gamma^t in front of the gradient is left out, as nearly everybody does.
3. Advantages are divided by their standard deviation over the batch.
4. Adam, in place of plain gradient ascent.
5. An entropy bonus, and a learning rate that falls linearly to zero.
6. With ``baseline_reuse`` the baseline learns from each step several times, also from steps of
   earlier policies: with any baseline the gradient's expectation is the same. On pictures it then
   shares its eyes with the policy, which teaches these more than the policy's noisy gradient does.

Run ``bullet-envs train --algo reinforce --env BalancingPlate-v0``: about 20 seconds on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from .checkpoints import below, learner_tensors, restore_learner
from .evaluation import run_episodes
from .learned import GreedyAgent, build_network, parameter_groups
from .run import Config, Run, derived_seed
from .vision import Keypoints


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(Config):
    """Settings of REINFORCE.

    Args:
        episodes: whole episodes per update, 1 to 256.
        gamma: discount, 0 to 1.
        learning_rate: of Adam at the start, above 0.
        eyes_learning_rate: the same for the keypoints of pictures, above 0.
        entropy: weight of the entropy bonus, from 0.
        baseline_reuse: how often a step serves the baseline, 1 to 100; once along with the policy,
            more often out of a memory of the latest 10,000 steps.
        hidden: widths of the hidden layers of policy and baseline.
    """

    episodes: int = 16
    gamma: float = 0.99
    learning_rate: float = 3e-3
    eyes_learning_rate: float = 1e-3
    entropy: float = 0.01
    baseline_reuse: int = 1
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("episodes", int, 1, 256)
        self.require("gamma", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("eyes_learning_rate", float, 1e-8, 1)
        self.require("entropy", float, 0, 1)
        self.require("baseline_reuse", int, 1, 100)
        self.require_widths("hidden")


CHUNK_BYTES = 40_000_000  # observations whose activations, 20 times as large, are kept at once
MEMORY = 10_000  # steps that a baseline learns from again
MEMORY_BATCH = 64

PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 300_000, "learning_rate": 1e-2, "entropy": 0.0},
    "BalancingPlate-v0": {"n_timesteps": 600_000},
    "BulletCartPolePixels-v0": {
        "frame_stack": 3,
        "action_repeat": 2,
        "n_timesteps": 300_000,
        "eval_freq": 20_000,
        "learning_rate": 1e-3,
        "entropy": 0.0,
    },
    "BalancingPlatePixels-v0": {
        "frame_stack": 3,
        "action_repeat": 3,
        "n_timesteps": 400_000,
        "episodes": 4,
        "gamma": 0.98,
        "learning_rate": 1e-3,
        "eyes_learning_rate": 5e-4,
        "entropy": 0.03,
        "baseline_reuse": 6,
    },
}


class ReinforceAgent(GreedyAgent):
    """A softmax policy."""

    algo = "reinforce"
    network: nn.Sequential

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the most likely action per row, or one drawn from torch's global generator."""
        if deterministic:
            return super().act(observations, deterministic)
        with torch.no_grad():
            logits = self.network(self.tensor(observations))
            actions: npt.NDArray[Any] = Categorical(logits=logits).sample().numpy()
        return actions


class ReturnMemory:
    """The latest steps and the returns that followed them.

    Args:
        size: steps.
        space: of an observation.
    """

    def __init__(self, size: int, space: gym.Space[Any]) -> None:
        self.observations = torch.from_numpy(np.zeros((size, *(space.shape or ())), space.dtype))
        self.returns = torch.zeros(size)
        self.added = 0

    def add(self, observations: Tensor, returns: Tensor) -> None:
        """Remember steps, in place of the oldest ones."""
        size = len(self.returns)
        places = (self.added + torch.arange(len(returns)))[-size:] % size
        self.observations[places] = observations[-size:]
        self.returns[places] = returns[-size:]
        self.added += len(returns)

    def sample(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return observations and returns of random steps, drawn by torch's global generator."""
        chosen = torch.randint(min(self.added, len(self.returns)), (rows,))
        return self.observations[chosen], self.returns[chosen]

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        filled = min(self.added, len(self.returns))
        return {
            "memory.observations": self.observations[:filled],
            "memory.returns": self.returns[:filled],
            "memory.added": torch.tensor(self.added),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo :meth:`tensors`."""
        content = below(tensors, "memory")
        self.added = int(content["added"])
        self.observations[: len(content["returns"])] = content["observations"]
        self.returns[: len(content["returns"])] = content["returns"]


def returns_to_go(rewards: Sequence[float], gamma: float) -> npt.NDArray[np.float32]:
    """Return the discounted sum of the rewards from each step on, shape (len(rewards),)."""
    returns = np.zeros(len(rewards), np.float32)
    later = 0.0
    for step in reversed(range(len(rewards))):
        later = rewards[step] + gamma * later
        returns[step] = later
    return returns


def policy_loss(logits: Tensor, actions: Tensor, advantages: Tensor, entropy: float) -> Tensor:
    """Return the loss whose gradient is REINFORCE's, with an entropy bonus.

    Args:
        logits: shape (steps, actions).
        actions: shape (steps,).
        advantages: return less baseline, shape (steps,).
        entropy: weight of the bonus.
    """
    policy = Categorical(logits=logits)
    gain = (policy.log_prob(actions) * advantages).mean()
    loss: Tensor = -gain - entropy * policy.entropy().mean()
    return loss


def value_loss(baseline: nn.Module, observations: Tensor, returns: Tensor) -> Tensor:
    """Return how far a baseline is from the returns, shape (steps,)."""
    return nn.functional.smooth_l1_loss(baseline(observations).squeeze(1), returns)


def _make_uniform(policy: nn.Module) -> None:
    """Let a policy begin with nearly equal probabilities, before its eyes have learned anything."""
    weight, bias = list(policy.parameters())[-2:]
    with torch.no_grad():
        weight.mul_(0.01)
        bias.zero_()


def train(config: ReinforceConfig, run: Run) -> ReinforceAgent:
    """Train until the run is finished and return the agent as it is then."""
    torch.manual_seed(derived_seed(config.seed))
    agent = ReinforceAgent(*config.of_agent)
    baseline = build_network(agent.observation_space, config.hidden, 1)
    modules = {"policy": agent.network, "baseline": baseline}
    replays = config.baseline_reuse > 1
    memory = ReturnMemory(MEMORY, agent.observation_space)
    if replays and isinstance(agent.network[0], Keypoints):
        baseline[0] = agent.network[0]
        _make_uniform(agent.network)
    optimiser = torch.optim.Adam(
        parameter_groups(
            nn.ModuleList(modules.values()), config.learning_rate, config.eyes_learning_rate
        )
    )
    if run.restored is not None:
        restore_learner(run.restored, modules, optimiser)
        if replays:
            memory.restore(run.restored)
    envs = agent.make_envs(config.episodes)

    while not run.finished:
        # Steps name the batch, so a resumed training draws the same numbers as an unbroken one.
        torch.manual_seed(derived_seed(config.seed, run.steps))
        seeds = [derived_seed(config.seed, run.steps, row) for row in range(config.episodes)]
        episodes = run_episodes(envs, lambda batch: agent.act(batch, deterministic=False), seeds)

        observations = agent.tensor(np.concatenate([e.observations for e in episodes]))
        actions = torch.as_tensor(np.concatenate([e.actions for e in episodes]))
        returns = torch.as_tensor(
            np.concatenate([returns_to_go(e.rewards, config.gamma) for e in episodes])
        )
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * (1 - run.steps / config.n_timesteps)
        optimiser.zero_grad()
        gradient_loss = baseline_loss = 0.0
        chunk = max(1, CHUNK_BYTES // observations[0].nbytes)
        with torch.no_grad():
            values = torch.cat([baseline(part) for part in observations.split(chunk)]).squeeze(1)
        advantages = returns - values
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        # The gradient of a sum is the sum of gradients.
        for rows in torch.arange(len(actions)).split(chunk):
            share = len(rows) / len(actions)
            logits = agent.network(observations[rows])
            loss = share * policy_loss(logits, actions[rows], advantages[rows], config.entropy)
            gradient_loss += loss.item()
            if not replays:
                error = share * value_loss(baseline, observations[rows], returns[rows])
                baseline_loss += error.item()
                loss = loss + error
            loss.backward()
        optimiser.step()
        if replays:
            memory.add(observations, returns)
            batches = max(1, config.baseline_reuse * len(actions) // MEMORY_BATCH)
            for _ in range(batches):
                optimiser.zero_grad()
                error = value_loss(baseline, *memory.sample(MEMORY_BATCH))
                error.backward()
                optimiser.step()
                baseline_loss += error.item() / batches

        run.advance(len(actions))
        lengths = [len(episode.rewards) for episode in episodes]
        run.log(
            {
                "rollout/ep_rew_mean": float(np.mean([e.episode_return for e in episodes])),
                "rollout/ep_len_mean": float(np.mean(lengths)),
                "train/policy_gradient_loss": gradient_loss,
                "train/value_loss": baseline_loss,
                "train/learning_rate": optimiser.param_groups[0]["lr"],
            }
        )
        if run.evaluation_due:
            run.evaluate(agent)
            remembered = memory.tensors() if replays else {}
            run.checkpoint({**learner_tensors(modules, optimiser), **remembered})

    envs.close()
    return agent
