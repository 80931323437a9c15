"""REINFORCE with a learned baseline.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", 1992; with the baseline of Sutton and Barto, "Reinforcement Learning", 13.4.

Deviations:
1. An update uses a batch of whole episodes, played in parallel, rather than one.
2. The factor gamma^t in front of the gradient is left out, as nearly everybody does.
3. Advantages are divided by their standard deviation over the batch.
4. Adam, in place of plain gradient ascent.
5. An entropy bonus, and a learning rate that falls linearly to zero.

Run ``bullet-envs train --algo reinforce --env BalancingPlate-v0``: about 20 seconds on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from .checkpoints import learner_tensors, restore_learner
from .evaluation import run_episodes
from .learned import GreedyAgent, build_network
from .run import Config, Run, derived_seed


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(Config):
    """Settings of REINFORCE.

    Args:
        episodes: whole episodes per update, 1 to 256.
        gamma: discount, 0 to 1.
        learning_rate: of Adam at the start, above 0.
        entropy: weight of the entropy bonus, from 0.
        hidden: widths of the hidden layers of policy and baseline.
    """

    episodes: int = 16
    gamma: float = 0.99
    learning_rate: float = 3e-3
    entropy: float = 0.01
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("episodes", int, 1, 256)
        self.require("gamma", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("entropy", float, 0, 1)
        self.require_widths("hidden")


CHUNK_BYTES = 40_000_000  # observations whose activations, 20 times as large, are kept at once

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
}


class ReinforceAgent(GreedyAgent):
    """A softmax policy."""

    algo = "reinforce"

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the most likely action per row, or one drawn from torch's global generator."""
        if deterministic:
            return super().act(observations, deterministic)
        with torch.no_grad():
            logits = self.network(self.tensor(observations))
            actions: npt.NDArray[Any] = Categorical(logits=logits).sample().numpy()
        return actions


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


def train(config: ReinforceConfig, run: Run) -> ReinforceAgent:
    """Train until the run is finished and return the agent as it is then."""
    torch.manual_seed(derived_seed(config.seed))
    agent = ReinforceAgent(*config.of_agent)
    baseline = build_network(agent.observation_space, config.hidden, 1)
    modules: dict[str, nn.Module] = {"policy": agent.network, "baseline": baseline}
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, config.learning_rate)
    if run.restored is not None:
        restore_learner(run.restored, modules, optimiser)
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
        optimiser.param_groups[0]["lr"] = config.learning_rate * (
            1 - run.steps / config.n_timesteps
        )
        optimiser.zero_grad()
        gradient_loss = value_loss = 0.0
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
            values = baseline(observations[rows]).squeeze(1)
            error = share * nn.functional.smooth_l1_loss(values, returns[rows])
            (loss + error).backward()
            gradient_loss += loss.item()
            value_loss += error.item()
        optimiser.step()

        run.advance(len(actions))
        lengths = [len(episode.rewards) for episode in episodes]
        run.log(
            {
                "rollout/ep_rew_mean": float(np.mean([e.episode_return for e in episodes])),
                "rollout/ep_len_mean": float(np.mean(lengths)),
                "train/policy_gradient_loss": gradient_loss,
                "train/value_loss": value_loss,
                "train/learning_rate": optimiser.param_groups[0]["lr"],
            }
        )
        if run.evaluation_due:
            run.evaluate(agent)
            run.checkpoint(learner_tensors(modules, optimiser))

    envs.close()
    return agent
