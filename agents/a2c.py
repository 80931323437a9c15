"""Advantage actor-critic (A2C).

Mnih et al., "Asynchronous methods for deep reinforcement learning", 2016, algorithm S3, with all
sub-environments stepped together in place of asynchronous workers. The details that the paper
leaves open are those of Stable-Baselines3, to whose update this one is equal
(``tests/test_actor_critic.py``).

Deviations from the paper:
1. Generalised advantage estimates; with ``gae_lambda`` 1 they are the paper's n-step advantages.
2. The gradient is clipped by its norm.
3. Weights begin orthogonal; policy and value network are separate but for the encoder of images.
4. An episode that was truncated bootstraps from its last observation.
5. Every checkpoint restarts the environments and all random generators, so that a resumed training
   equals an unbroken one.

Run ``bullet-envs train --algo a2c --env BulletCartPole-v0``: about a minute on one core.
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
class A2CConfig(Config):
    """Settings of A2C, under SB3's names.

    Args:
        n_envs: sub-environments stepped at once, 1 to 256.
        n_steps: actions of each sub-environment per update, 1 to 100000.
        gamma: discount, 0 to 1.
        gae_lambda: of the generalised advantage estimate, 0 to 1.
        learning_rate: of RMSprop at the start, 1e-8 to 1; falls linearly to zero.
        normalize_advantage: whether the advantages of an update are given mean 0 and deviation 1.
        ent_coef: weight of the entropy bonus, 0 to 1.
        vf_coef: weight of the value loss, 0 to 10.
        max_grad_norm: greatest norm of a gradient, 1e-8 to 1e6.
        teacher_coef: weight of the imitation of an LQG that knows the episode's parameters, 0 to
            1000; falls linearly to zero; 0 asks no LQG. For tasks of this package that have an
            equilibrium, on images too.
        reward_scale: factor of the rewards that A2C learns from, 1e-6 to 1e6. Where both networks
            share an encoder, larger ones let the values teach it more, and the policy less.
        hidden: widths of the hidden layers of policy and value network, 0 to 8 numbers from 1 to
            4096.
    """

    n_envs: int = 8
    n_steps: int = 16
    gamma: float = 0.99
    gae_lambda: float = 1.0
    learning_rate: float = 1e-3
    normalize_advantage: bool = False
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    teacher_coef: float = 0.0
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_envs", int, 1, 256)
        self.require("n_steps", int, 1, 100_000)
        self.require("gamma", float, 0, 1)
        self.require("gae_lambda", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require_choice("normalize_advantage", (False, True))
        self.require("ent_coef", float, 0, 1)
        self.require("vf_coef", float, 0, 10)
        self.require("max_grad_norm", float, 1e-8, 1e6)
        self.require("teacher_coef", float, 0, 1000)
        if self.teacher_coef:
            require_teachable(self.env, self.vec_env)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")


LOG_FREQ = 1000  # environment steps between lines of the log, or less between evaluations

_IMAGES = {
    "frame_stack": 2,
    "action_repeat": 2,
    "n_timesteps": 800_000,
    "eval_freq": 40_000,
    "save_freq": 40_000,
    "n_steps": 8,
    "gae_lambda": 0.95,
    "reward_scale": 0.1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 500_000},
    "BalancingPlate-v0": {"n_timesteps": 500_000},
    "BulletCartPolePixels-v0": _IMAGES,
    "BalancingPlatePixels-v0": {**_IMAGES, "gamma": 0.98, "training_episode_steps": 100},
    "CartPole-v1": {"n_timesteps": 500_000},
    "LunarLander-v3": {
        "n_timesteps": 200_000,
        "eval_freq": 2_500,
        "save_freq": 20_000,
        "n_envs": 16,
        "n_steps": 8,
        "gamma": 0.995,
        "gae_lambda": 0.95,
        "learning_rate": 2e-3,
        "ent_coef": 0.01,
        "reward_scale": 0.05,  # as of PPO
    },
    "ALE/": {
        "n_timesteps": 10_000_000,
        "eval_freq": 250_000,
        "save_freq": 12_800,
        "deterministic_eval": False,
        "frame_stack": 4,
        "n_envs": 16,
        "n_steps": 5,
        "learning_rate": 7e-4,
        "ent_coef": 0.01,
        "vf_coef": 0.25,
        "hidden": (),
    },
}


class A2CPolicy(ActorCriticPolicy):
    """The policy of A2C."""

    algo = "a2c"


def policy_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Return the loss whose gradient is the policy gradient.

    Args:
        log_probs: of the actions, shape (batch,).
        advantages: shape (batch,).
    """
    return -(advantages * log_probs).mean()


def losses(
    network: ActorCritic, batch: Minibatch, config: A2CConfig, left: float
) -> dict[str, Tensor]:
    """Return the loss of a rollout and its parts, under SB3's names.

    Args:
        network: being trained.
        batch: the rollout.
        config: the settings.
        left: part of the training that is left, 0 to 1: scales teacher_coef.
    """
    policy, values = network(batch.observations)
    advantages = normalized(batch.advantages) if config.normalize_advantage else batch.advantages
    gradient_loss = policy_loss(policy.log_prob(batch.actions), advantages)
    value_loss = nn.functional.mse_loss(values, batch.returns)
    entropy_loss = -policy.entropy().mean()
    terms = {
        "loss": gradient_loss + config.vf_coef * value_loss + config.ent_coef * entropy_loss,
        "policy_loss": gradient_loss,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
    }
    if batch.advised is not None:
        terms["imitation_loss"] = policy.imitation_loss(batch.advised)
        terms["loss"] = terms["loss"] + config.teacher_coef * left * terms["imitation_loss"]
    return terms


def update(
    network: ActorCritic,
    optimiser: torch.optim.Optimizer,
    batch: Minibatch,
    config: A2CConfig,
    left: float,
) -> dict[str, Tensor]:
    """Take one gradient step on a whole rollout and return its losses.

    Args:
        network: to be trained.
        optimiser: of its parameters.
        batch: all transitions of the rollout.
        config: the settings.
        left: part of the training that is left, 0 to 1: scales the learning rate.
    """
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * left
    terms = losses(network, batch, config, left)
    optimiser.zero_grad()
    terms["loss"].backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm, foreach=True)
    optimiser.step()
    return terms


def train(
    config: A2CConfig,
    run: Run,
    envs: VectorEnv[Any, Any, Any] | None = None,
    policy_class: type[A2CPolicy] = A2CPolicy,
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
    optimiser = torch.optim.RMSprop(
        network.parameters(), config.learning_rate, alpha=0.99, eps=1e-5, foreach=True
    )
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
            before = run.steps
            rollout = collector.collect(n_steps, on_step)
            if rollout is None:  # stopped: what has not been learned from is done again
                envs.close()
                return agent
            left = max(0.0, 1 - run.steps / config.n_timesteps)
            batch = transitions(rollout, policy, config.gamma, config.gae_lambda)
            terms = update(network, optimiser, batch, config, left)
            updates += 1
            if run.steps // LOG_FREQ > before // LOG_FREQ or run.evaluation_due:
                run.log(
                    {
                        **collector.episodes.means(),
                        **{f"train/{name}": term.item() for name, term in terms.items()},
                        "train/explained_variance": explained_variance(batch),
                        "train/learning_rate": optimiser.param_groups[0]["lr"],
                        "train/n_updates": updates,
                    }
                )
            if run.evaluation_due:
                run.evaluate(agent)
        run.checkpoint(learner_state())
    envs.close()
    return agent
