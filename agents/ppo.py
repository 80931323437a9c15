"""Proximal policy optimisation with a clipped objective.

Schulman et al., "Proximal policy optimization algorithms", 2017, algorithm 1 in actor-critic style.
The details that the paper leaves open are those of Stable-Baselines3, to whose update this one is
equal (``tests/test_actor_critic.py``); Huang et al., "The 37 implementation details of proximal
policy optimization", 2022, explains each.

Deviations from the paper:
1. Advantages are normalised in each minibatch.
2. The gradient is clipped by its norm, and Adam has an epsilon of 1e-5.
3. Learning rate and clip range fall linearly to zero.
4. Weights begin orthogonal; policy and value network are separate but for the encoder of images.
5. An update can end early where the policy has moved too far (``target_kl``).
6. An episode that was truncated bootstraps from its last observation.
7. The last rollout is as short as the steps that are left.
8. Every checkpoint restarts the environments and all random generators, so that a resumed training
   equals an unbroken one.

Run ``bullet-envs train --algo ppo --env BalancingPlate-v0``: some seconds on one core.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from .actor_critic import (
    ActorCritic,
    ActorCriticPolicy,
    Minibatch,
    RolloutCollector,
    explained_variance,
    normalized,
    transitions,
)
from .agent import Agent, new_agent
from .checkpoints import LearnerState, learner_tensors, restore_learner
from .run import Config, Run, derived_seed
from .teacher import Teacher, require_teachable


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Config):
    """Settings of PPO, under SB3's names.

    Args:
        n_envs: sub-environments stepped at once, 1 to 256.
        n_steps: actions of each sub-environment per update, 1 to 100000.
        batch_size: transitions in a minibatch, 2 to 100000.
        n_epochs: passes over a rollout, 1 to 1000.
        gamma: discount, 0 to 1.
        gae_lambda: of the generalised advantage estimate, 0 to 1.
        learning_rate: of Adam at the start, 1e-8 to 1; falls linearly to zero.
        clip_range: how far the ratio of probabilities may leave 1 at the start, 1e-8 to 1; falls
            linearly to zero.
        clip_range_vf: how far an update may move a value at the start, 0 to 1e6; falls linearly to
            zero; 0 for any distance.
        normalize_advantage: whether minibatches of advantages are given mean 0 and deviation 1.
        ent_coef: weight of the entropy bonus, 0 to 1.
        vf_coef: weight of the value loss, 0 to 10.
        max_grad_norm: greatest norm of a gradient, 1e-8 to 1e6.
        target_kl: end an update early where the policy has moved 1.5 times so far, 0 to 10; 0
            never does.
        teacher_coef: weight of the imitation of an LQG that knows the episode's parameters, 0 to
            1000; falls linearly to zero; 0 asks no LQG. For tasks of this package that have an
            equilibrium, on images too.
        reward_scale: factor of the rewards that PPO learns from, 1e-6 to 1e6. Where both networks
            share an encoder, larger ones let the values teach it more, and the policy less.
        hidden: widths of the hidden layers of policy and value network, 0 to 8 numbers from 1 to
            4096.
    """

    n_envs: int = 8
    n_steps: int = 128
    batch_size: int = 256
    n_epochs: int = 10
    gamma: float = 0.98
    gae_lambda: float = 0.9
    learning_rate: float = 1e-3
    clip_range: float = 0.2
    clip_range_vf: float = 0.0
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float = 0.0
    teacher_coef: float = 0.0
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_envs", int, 1, 256)
        self.require("n_steps", int, 1, 100_000)
        self.require("batch_size", int, 2, 100_000)
        self.require("n_epochs", int, 1, 1000)
        self.require("gamma", float, 0, 1)
        self.require("gae_lambda", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("clip_range", float, 1e-8, 1)
        self.require("clip_range_vf", float, 0, 1e6)
        self.require_choice("normalize_advantage", (False, True))
        self.require("ent_coef", float, 0, 1)
        self.require("vf_coef", float, 0, 10)
        self.require("max_grad_norm", float, 1e-8, 1e6)
        self.require("target_kl", float, 0, 10)
        self.require("teacher_coef", float, 0, 1000)
        if self.teacher_coef:
            require_teachable(self.env, self.vec_env)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")


_IMAGES = {
    "frame_stack": 2,
    "action_repeat": 2,
    "eval_freq": 20_480,
    "save_freq": 20_480,
    "solved_evaluations": 4,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 200_000},
    "BalancingPlate-v0": {"n_timesteps": 300_000},
    "BulletCartPolePixels-v0": {
        **_IMAGES,
        "n_timesteps": 200_000,
        "n_epochs": 4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "reward_scale": 0.02,
    },
    # Short episodes, since in long ones nearly all images show a ball at rest. With a reward_scale
    # of 0.1 the values teach the encoder in half the steps that 0.02 takes.
    "BalancingPlatePixels-v0": {
        **_IMAGES,
        "n_timesteps": 280_000,
        "training_episode_steps": 100,
        "batch_size": 128,
        "n_epochs": 6,
        "reward_scale": 0.1,
    },
    "CartPole-v1": {
        "n_timesteps": 100_000,
        "n_steps": 32,
        "n_epochs": 20,
        "gae_lambda": 0.8,
    },
    "LunarLander-v3": {
        "n_timesteps": 1_000_000,
        "eval_freq": 50_000,
        "save_freq": 50_000,
        "n_envs": 16,
        "n_steps": 1024,
        "gamma": 0.995,
        "gae_lambda": 0.95,
        "ent_coef": 0.01,
        # Unscaled, returns of some hundred take all of the gradient's clipped norm for the values.
        "reward_scale": 0.05,
    },
    "Pendulum-v1": {
        "n_timesteps": 100_000,
        "n_envs": 4,
        "n_steps": 1024,
        "batch_size": 64,
        "gamma": 0.9,
        "gae_lambda": 0.95,
    },
    "ALE/": {
        "n_timesteps": 3_000_000,
        "eval_freq": 250_000,
        "save_freq": 12_800,
        "deterministic_eval": False,
        "frame_stack": 4,
        "n_epochs": 3,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "learning_rate": 5e-4,
        "ent_coef": 0.01,
        "hidden": (),
    },
}


class PPOPolicy(ActorCriticPolicy):
    """The policy of PPO."""

    algo = "ppo"


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Return the clipped objective of the paper's equation 7, as a loss.

    Args:
        ratio: probability of each action now, over that when it was taken, shape (batch,).
        advantages: shape (batch,).
        clip_range: how far a ratio may leave 1 before it gains nothing more.
    """
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(advantages * ratio, advantages * clipped).mean()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Return the mean squared error of values that may move so far, by any distance if 0.

    All tensors are of shape (batch,).
    """
    if clip_range > 0:
        values = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return nn.functional.mse_loss(values, returns)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Return an estimate of KL(old, new) that is never negative and has little variance.

    Schulman, "Approximating KL divergence", 2020: the mean of ``(ratio - 1) - log_ratio``.

    Args:
        log_ratio: log probability of each action now, less that when it was taken, shape (batch,).
    """
    return (log_ratio.exp() - 1 - log_ratio).mean()


def losses(
    network: ActorCritic, batch: Minibatch, config: PPOConfig, left: float
) -> dict[str, Tensor]:
    """Return the loss of a minibatch, its parts and what they tell, under SB3's names.

    Args:
        network: being trained.
        batch: transitions.
        config: the settings.
        left: part of the training that is left, 0 to 1: scales clip ranges and teacher_coef.
    """
    policy, values = network(batch.observations)
    log_ratio = policy.log_prob(batch.actions) - batch.log_probs
    ratio = log_ratio.exp()
    advantages = batch.advantages
    if config.normalize_advantage:
        advantages = normalized(advantages)
    clip_range = config.clip_range * left
    policy_loss = clipped_surrogate(ratio, advantages, clip_range)
    error = value_loss(values, batch.values, batch.returns, config.clip_range_vf * left)
    entropy_loss = -policy.entropy().mean()
    terms = {
        "loss": policy_loss + config.vf_coef * error + config.ent_coef * entropy_loss,
        "policy_gradient_loss": policy_loss,
        "value_loss": error,
        "entropy_loss": entropy_loss,
        "approx_kl": approximate_kl(log_ratio.detach()),
        "clip_fraction": ((ratio.detach() - 1).abs() > clip_range).float().mean(),
    }
    if batch.advised is not None:
        terms["imitation_loss"] = policy.imitation_loss(batch.advised)
        terms["loss"] = terms["loss"] + config.teacher_coef * left * terms["imitation_loss"]
    return terms


def update(
    network: ActorCritic,
    optimiser: torch.optim.Optimizer,
    batch: Minibatch,
    config: PPOConfig,
    left: float,
) -> dict[str, float]:
    """Improve a policy by a whole rollout and return numbers for the log.

    Args:
        network: to be trained.
        optimiser: of its parameters.
        batch: all transitions of the rollout.
        config: the settings.
        left: part of the training that is left, 0 to 1: scales learning rate and clip ranges.
    """
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * left
    seen: list[Tensor] = []
    moved_too_far = False
    for _ in range(config.n_epochs):
        for indices in torch.randperm(len(batch)).split(config.batch_size):
            terms = losses(network, batch.at(indices), config, left)
            seen.append(torch.stack(list(terms.values())).detach())
            moved_too_far = 0 < 1.5 * config.target_kl < terms["approx_kl"].item()
            if moved_too_far:
                break
            optimiser.zero_grad()
            terms["loss"].backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm, foreach=True)
            optimiser.step()
        if moved_too_far:
            break
    means = torch.stack(seen).mean(0).tolist()
    logged = {
        **dict(zip(terms, means, strict=True)),
        "explained_variance": explained_variance(batch),
        "learning_rate": config.learning_rate * left,
        "clip_range": config.clip_range * left,
    }
    if (log_std := getattr(network, "log_std", None)) is not None:
        logged["std"] = log_std.exp().mean().item()
    return {f"train/{name}": value for name, value in logged.items()}


def train(
    config: PPOConfig,
    run: Run,
    envs: VectorEnv[Any, Any, Any] | None = None,
    policy_class: type[PPOPolicy] = PPOPolicy,
) -> Agent:
    """Train until the run is finished and return the agent as it is then.

    Args:
        config: the settings.
        run: where the training is kept.
        envs: what to learn in, with ``n_envs`` sub-environments and any autoreset mode, in place of
            the vector environment of ``config``.
        policy_class: with a network of one's own.
    """
    torch.manual_seed(derived_seed(config.seed))
    agent = new_agent(policy_class, config.env, config.hidden, config.device)
    policy: Any = agent.policy
    network = policy.network
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, eps=1e-5, fused=True)
    if envs is None:
        envs = config.make_vec(config.n_envs)
    teacher = Teacher(config.env, envs) if config.teacher_coef else None
    collector = RolloutCollector(envs, policy, config.reward_scale, teacher)
    updates = 0
    with run.restoring() as restored:
        if restored is not None:
            restore_learner(restored.tensors, {"network": network}, optimiser)
            collector.episodes.restore(restored.values["episodes"])
            updates = int(restored.values["updates"])

    def learner_state() -> LearnerState:
        return LearnerState(
            learner_tensors({"network": network}, optimiser),
            {"episodes": collector.episodes.state(), "updates": updates},
        )

    def on_step() -> bool:
        run.advance(config.n_envs)
        return not run.stopped

    if restored is None:
        run.checkpoint(learner_state())
    while not run.finished:
        # Seeded by the steps so far, so that a resumed training draws the same numbers.
        torch.manual_seed(derived_seed(config.seed, run.steps))
        collector.reset([derived_seed(config.seed, run.steps, i) for i in range(config.n_envs)])
        while not run.checkpoint_due:
            n_steps = min(config.n_steps, -(-run.actions_left // config.n_envs))
            rollout = collector.collect(n_steps, on_step)
            if rollout is None:  # stopped: what has not been learned from is done again
                envs.close()
                return agent
            left = max(0.0, 1 - run.steps / config.n_timesteps)
            batch = transitions(rollout, policy, config.gamma, config.gae_lambda)
            logged = update(network, optimiser, batch, config, left)
            updates += config.n_epochs
            run.log({**collector.episodes.means(), **logged, "train/n_updates": updates})
            if run.evaluation_due:
                run.evaluate(agent)
        run.checkpoint(learner_state())
    envs.close()
    return agent
