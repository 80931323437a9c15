"""REINFORCE with a learned baseline.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", 1992; with the baseline of Sutton and Barto, "Reinforcement Learning", 13.4.

Deviations:
1. An update uses a batch of whole episodes, played in parallel, rather than one.
2. The factor gamma^t in front of the gradient is left out, as nearly everybody does.
3. Advantages are divided by their standard deviation over the batch.
4. Adam, in place of plain gradient ascent.
5. An entropy bonus, and a learning rate that falls linearly to zero.
6. The baseline takes many gradient steps after one of the policy, with ``baseline_buffer`` also on
   steps of earlier policies: any baseline leaves the gradient's expectation as it is. On images it
   shares its encoder with the policy, and teaches it more than the policy's noisy gradient does.
7. The return of an episode that a time limit truncated goes on with the baseline's value of its
   last observation. Without it, good episodes seem to go bad at an hour that no observation shows.
   Pardo et al., "Time limits in reinforcement learning", 2018.
8. When the environment steps are used up, episodes that have not ended are left out of the last
   update; where none has ended there is no update.

Run ``bullet-envs train --algo reinforce --env BalancingPlate-v0``: about 10 seconds on one core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from .agent import Agent, new_agent
from .checkpoints import LearnerState, learner_tensors, restore_learner
from .evaluation import Episode, run_episodes
from .network_policy import GreedyPolicy
from .networks import build_network, is_image
from .return_buffer import ReturnBuffer
from .run import Config, Run, derived_seed


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(Config):
    """Settings of REINFORCE.

    Args:
        episodes: whole episodes per update, 1 to 256.
        gamma: discount, 0 to 1.
        learning_rate: of Adam at the start, 1e-8 to 1; falls linearly to zero.
        entropy: weight of the entropy bonus, 0 to 1.
        baseline_epochs: passes of the baseline over the episodes of an update, 0 to 100; 0 for no
            baseline at all.
        baseline_buffer: steps that the baseline learns from again, 0 to 1e6: the latest ones, also
            of earlier policies; 0 for those of the update alone.
        baseline_learning_rate: of the baseline and the encoder of images, 1e-8 to 1, as above.
        reward_scale: factor of the rewards that the baseline learns from, 1e-6 to 1e6. Where it
            shares the encoder of images, returns far above 1 would take long to learn.
        hidden: widths of the hidden layers of policy and baseline, 0 to 8 numbers from 1 to 4096.
    """

    episodes: int = 16
    gamma: float = 0.99
    learning_rate: float = 3e-3
    entropy: float = 0.01
    baseline_epochs: int = 1
    baseline_buffer: int = 0
    baseline_learning_rate: float = 1e-3
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("episodes", int, 1, 256)
        self.require("gamma", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("entropy", float, 0, 1)
        self.require("baseline_epochs", int, 0, 100)
        self.require("baseline_buffer", int, 0, 1_000_000)
        self.require("baseline_learning_rate", float, 1e-8, 1)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")


MINIBATCH = 256  # steps that are propagated through a network at once

_CART_POLE = {
    "episodes": 4,
    "entropy": 0.0,
    "baseline_epochs": 4,
    "reward_scale": 0.1,
}
_IMAGES = {
    "n_timesteps": 400_000,
    "eval_freq": 20_000,
    "save_freq": 20_000,
    "solved_evaluations": 4,
    "gamma": 0.98,
    "baseline_learning_rate": 5e-4,
    "baseline_buffer": 10_000,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {**_CART_POLE, "n_timesteps": 300_000, "solved_evaluations": 4},
    "BalancingPlate-v0": {
        "n_timesteps": 300_000,
        "solved_evaluations": 4,
        "action_repeat": 3,
        "episodes": 4,
        "gamma": 0.95,
        "entropy": 0.03,
        "baseline_epochs": 4,
        "reward_scale": 0.1,
    },
    "BulletCartPolePixels-v0": {
        **_IMAGES,
        "frame_stack": 2,
        "action_repeat": 2,
        "episodes": 8,
        "learning_rate": 2e-3,
        "entropy": 0.0,
        "baseline_epochs": 3,
        "reward_scale": 0.05,
    },
    "BalancingPlatePixels-v0": {
        **_IMAGES,
        "frame_stack": 3,
        "action_repeat": 3,
        "episodes": 4,
        "learning_rate": 1e-3,
        "entropy": 0.03,
        # The baseline teaches the encoder: at half this rate a training of four ended at 138.
        "baseline_learning_rate": 1e-3,
        "baseline_epochs": 6,
        "reward_scale": 0.1,
    },
    "CartPole-v1": {**_CART_POLE, "n_timesteps": 167_000},
}


class ReinforcePolicy(GreedyPolicy):
    """A softmax policy."""

    algo = "reinforce"
    network: nn.Sequential

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the most likely actions, or some drawn from torch's global generator."""
        if deterministic:
            return super().act(observations, deterministic)
        with torch.no_grad():
            logits = self.network(self.tensor(observations))
            actions: npt.NDArray[Any] = Categorical(logits=logits).sample().numpy()
        return actions


def returns_to_go(
    rewards: Sequence[float] | npt.NDArray[np.float64], gamma: float, later: float
) -> npt.NDArray[np.float32]:
    """Return the discounted sum of the rewards from each step on, shape (len(rewards),).

    Args:
        rewards: of an episode.
        gamma: discount.
        later: what is to be expected after the last of them.
    """
    returns = np.zeros(len(rewards), np.float32)
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
    """Let a policy begin with nearly equal probabilities, before its encoder has learned."""
    weight, bias = list(policy.parameters())[-2:]
    with torch.no_grad():
        weight.mul_(0.01)
        bias.zero_()


def train(config: ReinforceConfig, run: Run) -> Agent:
    """Train until the run is finished and return the agent as it is then."""
    torch.manual_seed(derived_seed(config.seed))
    agent = new_agent(ReinforcePolicy, config.env, config.hidden, config.device)
    learner = _Learner(config, agent.policy)
    with run.restoring() as restored:
        if restored is not None:
            learner.restore(restored.tensors)
    if restored is None:
        run.checkpoint(LearnerState(learner.tensors()))
    envs = config.make_vec(config.episodes)

    while not run.finished:
        # Seeded by the steps so far, so that a resumed training draws the same numbers.
        torch.manual_seed(derived_seed(config.seed, run.steps))
        seeds = [derived_seed(config.seed, run.steps, index) for index in range(config.episodes)]
        played = run_episodes(
            *(envs, lambda seen, _: agent.act(seen, deterministic=False), seeds),
            max_steps=run.actions_left,
        )
        episodes = [episode for episode in played if episode.ended]
        losses = learner.update(episodes, run.steps / config.n_timesteps) if episodes else {}
        run.advance(sum(len(episode.rewards) for episode in played))
        if episodes:
            run.log(
                {
                    "rollout/ep_rew_mean": float(np.mean([e.episode_return for e in episodes])),
                    "rollout/ep_len_mean": float(np.mean([e.length for e in episodes])),
                    **losses,
                }
            )
        if run.evaluation_due:
            run.evaluate(agent)
        # Between updates there is nothing to lose, so a stop is a checkpoint too.
        if run.checkpoint_due or run.stopped:
            run.checkpoint(LearnerState(learner.tensors()))

    envs.close()
    return agent


class _Learner:
    """Policy, baseline and optimiser.

    Args:
        config: the settings.
        policy: to be trained.
    """

    def __init__(self, config: ReinforceConfig, policy: Any) -> None:
        self._config = config
        self._policy: ReinforcePolicy = policy
        network, space = policy.network, policy.observation_space
        self._baseline = build_network(space, config.hidden, 1).to(policy.device)
        own: nn.Module = network
        if is_image(space):
            self._baseline[0], own = network
            _make_uniform(network)
        self._modules = {"policy": network, "baseline": self._baseline}
        self._buffer = ReturnBuffer(config.baseline_buffer, space)
        rates = (own, config.learning_rate), (self._baseline, config.baseline_learning_rate)
        self._optimiser = torch.optim.Adam(
            [{"params": list(of.parameters()), "initial_lr": rate} for of, rate in rates]
        )

    def update(self, episodes: Sequence[Episode], progress: float) -> dict[str, float]:
        """Take a step along the policy gradient, teach the baseline, and return their losses.

        Args:
            episodes: that the policy has played, at least one.
            progress: part of the training that was done before them, 0 to 1.
        """
        config, network, optimiser = self._config, self._policy.network, self._optimiser
        device = self._policy.device
        observations = self._policy.tensor(np.concatenate([e.observations for e in episodes]))
        actions = torch.as_tensor(np.concatenate([e.actions for e in episodes]), device=device)
        returns = self._returns(episodes)
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * (1 - progress)
        advantages = returns
        if config.baseline_epochs:
            with torch.no_grad():
                values = [self._baseline(part) for part in observations.split(MINIBATCH)]
            advantages = returns - torch.cat(values).squeeze(1)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gradient_loss = 0.0
        optimiser.zero_grad()
        # The gradient of a sum is the sum of gradients.
        for steps in torch.arange(len(actions)).split(MINIBATCH):
            logits = network(observations[steps])
            loss = policy_loss(logits, actions[steps], advantages[steps], config.entropy)
            share = len(steps) / len(actions)
            (share * loss).backward()
            gradient_loss += share * loss.item()
        optimiser.step()
        if config.baseline_buffer:
            self._buffer.add(observations, returns)
            observations, returns = self._buffer.content()
        errors = [0.0]
        for _ in range(config.baseline_epochs):
            for steps in torch.randperm(len(returns))[: len(actions)].split(MINIBATCH):
                optimiser.zero_grad()
                error = value_loss(self._baseline, observations[steps], returns[steps])
                error.backward()
                optimiser.step()
                errors.append(error.item())
        return {
            "train/policy_gradient_loss": gradient_loss,
            "train/value_loss": errors[-1],
            "train/learning_rate": optimiser.param_groups[0]["lr"],
        }

    def _returns(self, episodes: Sequence[Episode]) -> Tensor:
        """Return the scaled returns from each step of some episodes on, shape (steps,)."""
        config = self._config
        later = torch.zeros(len(episodes))
        if config.baseline_epochs:
            with torch.no_grad():
                last = self._policy.tensor(np.array([e.final_observation for e in episodes]))
                later = self._baseline(last).squeeze(1).cpu()
            later[torch.tensor([episode.terminated for episode in episodes])] = 0
        returns = [
            returns_to_go(config.reward_scale * np.array(e.rewards), config.gamma, value)
            for e, value in zip(episodes, later.tolist(), strict=True)
        ]
        return torch.as_tensor(np.concatenate(returns), device=self._policy.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        return {**learner_tensors(self._modules, self._optimiser), **self._buffer.tensors()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo :meth:`tensors`.

        Raises:
            CheckpointError: the tensors are not those of such a learner.
        """
        restore_learner(tensors, self._modules, self._optimiser)
        self._buffer.restore(tensors)
