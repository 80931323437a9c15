"""RLlib's PPO and DQN: on one machine or on a Ray cluster, published without RLlib's pickles.

Schulman et al., "Proximal policy optimization algorithms", 2017; Mnih et al., "Human-level control
through deep reinforcement learning", 2015; as implemented by Ray RLlib's new API stack, with the
networks of this package as its RLModules. An agent needs no Ray once it is trained: only the
functions that train import it.

Deviations:
1. Learning rates fall linearly to zero.
2. The environments of a resumed training begin anew.

Run ``bullet-envs train --algo rllib-ppo --env BalancingPlate-v0 --num-env-runners 2``.
"""

import functools
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformReward

from .actor_critic import ActorCriticPolicy
from .agent import Agent, new_agent
from .checkpoints import LearnerState
from .network_policy import GreedyPolicy
from .run import Config, Run, derived_seed
from .wrappers import NextStepAutoreset

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


class RLlibPPOPolicy(ActorCriticPolicy):
    """The policy of RLlib's PPO."""

    algo = "rllib-ppo"


class RLlibDQNPolicy(GreedyPolicy):
    """The Q-network of RLlib's DQN."""

    algo = "rllib-dqn"


@dataclass(frozen=True, kw_only=True)
class RLlibConfig(Config):
    """Settings of RLlib's algorithms, under its names.

    Args:
        num_env_runners: Ray actors that play, 0 to 1024; with 0 the training itself plays.
        num_envs_per_env_runner: sub-environments of each, stepped at once, 1 to 4096.
        ray_address: of a Ray cluster, e.g. "auto" or "ray://host:10001"; without one, Ray is
            started on this machine.
        gamma: discount, 0 to 1.
        lr: learning rate of Adam at the start, 1e-8 to 1; falls linearly to zero.
        grad_clip: greatest norm of a gradient, 1e-8 to 1e6.
        reward_scale: factor of the rewards that are learned from, 1e-6 to 1e6.
        hidden: widths of the hidden layers, 0 to 8 numbers from 1 to 4096.
    """

    num_env_runners: int = 0
    num_envs_per_env_runner: int = 8
    ray_address: str = ""
    gamma: float = 0.98
    lr: float = 1e-3
    grad_clip: float = 0.5
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings, and that there is Ray."""
        super().__post_init__()
        self.require_module("ray")
        self.require("num_env_runners", int, 0, 1024)
        self.require("num_envs_per_env_runner", int, 1, 4096)
        if not isinstance(self.ray_address, str):
            raise TypeError(f"ray_address={self.ray_address!r} must be a string")
        self.require("gamma", float, 0, 1)
        self.require("lr", float, 1e-8, 1)
        self.require("grad_clip", float, 1e-8, 1e6)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")


@dataclass(frozen=True, kw_only=True)
class RLlibPPOConfig(RLlibConfig):
    """Settings of RLlib's PPO.

    Args:
        train_batch_size: actions per update, of all env runners together, 1 to 10 million.
        minibatch_size: transitions in a minibatch, 2 to 1 million.
        num_epochs: passes over a batch, 1 to 1000.
        lambda_: of the generalised advantage estimate, 0 to 1.
        clip_param: how far the ratio of probabilities may leave 1, 1e-8 to 1.
        entropy_coeff: weight of the entropy bonus, 0 to 1.
        vf_loss_coeff: weight of the value loss, 0 to 10.
    """

    train_batch_size: int = 1024
    minibatch_size: int = 256
    num_epochs: int = 10
    lambda_: float = 0.9
    clip_param: float = 0.2
    entropy_coeff: float = 0.0
    vf_loss_coeff: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("train_batch_size", int, 1, 10**7)
        self.require("minibatch_size", int, 2, 10**6)
        self.require("num_epochs", int, 1, 1000)
        self.require("lambda_", float, 0, 1)
        self.require("clip_param", float, 1e-8, 1)
        self.require("entropy_coeff", float, 0, 1)
        self.require("vf_loss_coeff", float, 0, 10)

    def algorithm_config(self) -> "AlgorithmConfig":
        """Return RLlib's settings of its algorithm."""
        from ray.rllib.algorithms.ppo import PPOConfig

        return PPOConfig().training(
            train_batch_size_per_learner=self.train_batch_size,
            minibatch_size=min(self.minibatch_size, self.train_batch_size),
            num_epochs=self.num_epochs,
            lambda_=self.lambda_,
            clip_param=self.clip_param,
            # RLlib's 10 would clip the loss of all values that are wrong by more than 3.
            vf_clip_param=float("inf"),
            use_kl_loss=False,
            entropy_coeff=self.entropy_coeff,
            vf_loss_coeff=self.vf_loss_coeff,
        )


@dataclass(frozen=True, kw_only=True)
class RLlibDQNConfig(RLlibConfig):
    """Settings of RLlib's DQN.

    Args:
        train_batch_size: transitions per gradient step, 1 to 4096.
        training_intensity: transitions learned from for each action, 1e-3 to 1e6.
        buffer_size: transitions in the replay buffer, 1000 to 10 million.
        learning_starts: actions before the first gradient step, at least 1.
        n_step: rewards in a return before it bootstraps, 1 to 100.
        tau: how far the target network follows the Q-network at each of its updates, 1e-6 to 1.
        target_network_update_freq: least number of actions between its updates, at least 1. There
            is at most one after ``n_step`` actions of each sub-environment and all gradient steps
            for these.
        exploration_fraction: part of the training in which epsilon falls from 1, 0 to 1.
        exploration_final: epsilon from then on, 0 to 1.
    """

    # Each transition of a batch is an episode made in Python: half the gradient steps of dqn.py.
    train_batch_size: int = 128
    training_intensity: float = 32.0
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    n_step: int = 10
    tau: float = 0.2
    target_network_update_freq: int = 1
    exploration_fraction: float = 0.15
    exploration_final: float = 0.01
    grad_clip: float = 10.0
    hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("train_batch_size", int, 1, 4096)
        self.require("training_intensity", float, 1e-3, 1e6)
        self.require("buffer_size", int, 1000, 10**7)
        self.require("learning_starts", int, 1, 10**9)
        self.require("n_step", int, 1, 100)
        self.require("tau", float, 1e-6, 1)
        self.require("target_network_update_freq", int, 1, 10**9)
        self.require("exploration_fraction", float, 0, 1)
        self.require("exploration_final", float, 0, 1)

    def algorithm_config(self) -> "AlgorithmConfig":
        """Return RLlib's settings of its algorithm."""
        from ray.rllib.algorithms.dqn import DQNConfig

        actions = self.n_timesteps // self.action_repeat
        falling = max(1, round(actions * self.exploration_fraction))
        config = DQNConfig().reporting(min_sample_timesteps_per_iteration=100)
        buffer = {
            "type": _REPLAY_BUFFER,
            "capacity": self.buffer_size,
            "seed": derived_seed(self.seed),
        }
        return config.training(
            train_batch_size_per_learner=self.train_batch_size,
            training_intensity=self.training_intensity,
            replay_buffer_config=buffer,
            num_steps_sampled_before_learning_starts=self.learning_starts,
            n_step=self.n_step,
            tau=self.tau,
            target_network_update_freq=self.target_network_update_freq,
            epsilon=[(0, 1.0), (falling, self.exploration_final)],
            double_q=True,
            dueling=False,
            num_atoms=1,
        )


_IMAGES = {
    "frame_stack": 2,
    "action_repeat": 2,
    "eval_freq": 20_480,
    "save_freq": 20_480,
    "solved_evaluations": 4,
}
# Those of agents/ppo.py, whose settings are the same.
PPO_PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 200_000},
    "BalancingPlate-v0": {"n_timesteps": 300_000},
    "BulletCartPolePixels-v0": {
        **_IMAGES,
        "n_timesteps": 200_000,
        "num_epochs": 4,
        "gamma": 0.99,
        "lambda_": 0.95,
        "reward_scale": 0.02,
    },
    "BalancingPlatePixels-v0": {
        **_IMAGES,
        "n_timesteps": 280_000,
        "training_episode_steps": 100,
        "minibatch_size": 128,
        "num_epochs": 6,
        "reward_scale": 0.1,
    },
}
DQN_PRESETS: dict[str, dict[str, Any]] = {
    # Both need a longer horizon than our DQN's, which plays the average of its networks.
    "BulletCartPole-v0": {"n_timesteps": 100_000, "gamma": 0.995},
    "BalancingPlate-v0": {"n_timesteps": 200_000, "gamma": 0.99, "solved_evaluations": 4},
}

_ENVIRONMENT = "bullet_envs"  # RLlib's name of what make_envs makes
# By its name, in which RLlib looks for "EpisodeReplayBuffer".
_REPLAY_BUFFER = f"{__package__}.rllib_modules.NStepEpisodeReplayBuffer"
_POLICIES = {RLlibPPOConfig: RLlibPPOPolicy, RLlibDQNConfig: RLlibDQNPolicy}


def make_envs(config: Config, context: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    """Return what an env runner plays in: RLlib's environment creator."""
    envs = NextStepAutoreset(config.make_vec(int(context["num_envs"])))
    scale = getattr(config, "reward_scale", 1.0)
    return envs if scale == 1 else TransformReward(envs, functools.partial(np.multiply, scale))


def algorithm_config(config: Any) -> "AlgorithmConfig":
    """Return all of RLlib's settings for a training."""
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    from .rllib_modules import ActorCriticModule, QModule, RequireNextStep

    modules = {RLlibPPOConfig: ActorCriticModule, RLlibDQNConfig: QModule}
    register_env(_ENVIRONMENT, functools.partial(make_envs, config))
    actions = max(1, config.n_timesteps // config.action_repeat)
    lr = [(0, config.lr), (actions, 0.0)]
    return (
        config.algorithm_config()
        .environment(_ENVIRONMENT, normalize_actions=False, clip_actions=True)
        .env_runners(
            num_env_runners=config.num_env_runners,
            num_envs_per_env_runner=config.num_envs_per_env_runner,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .training(gamma=config.gamma, lr=lr, grad_clip=config.grad_clip, grad_clip_by="global_norm")
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=modules[type(config)], model_config={"hidden": config.hidden}
            )
        )
        .fault_tolerance(restart_failed_env_runners=True)
        .callbacks(RequireNextStep)
        .debugging(seed=derived_seed(config.seed), log_level="ERROR")
    )


def train(config: Any, run: Run) -> Agent:
    """Train until the run is finished and return the agent as it is then.

    Raises:
        ConnectionError: there is no cluster at ``ray_address``.
    """
    import ray

    begun_here = not ray.is_initialized()
    if begun_here:
        _begin_ray(config.ray_address)
    try:
        return _train(config, run)
    finally:
        if begun_here:
            ray.shutdown()


def _begin_ray(address: str) -> None:
    import ray

    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:  # Ray itself would wait for minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"ray_address={address!r} does not answer: {error}") from None

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns without
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _train(config: Any, run: Run) -> Agent:
    torch.manual_seed(derived_seed(config.seed))
    agent = new_agent(_POLICIES[type(config)], config.env, config.hidden, config.device)
    policy: Any = agent.policy
    algorithm = algorithm_config(config).build_algo()
    saved = run.folder / "rllib"
    try:
        with run.restoring() as restored:
            if restored is not None:
                algorithm.restore_from_path(str(saved.absolute()))

        while not run.finished:
            result = algorithm.train()
            sampled = result["env_runners"]["num_env_steps_sampled_lifetime"]
            run.advance(int(sampled) - run.steps // config.action_repeat)
            if run.evaluation_due or run.checkpoint_due:
                policy.network.load_state_dict(algorithm.get_module().network.state_dict())
            if run.evaluation_due:
                run.log(_logged(result, config))
                run.evaluate(agent)
            if run.checkpoint_due:
                _save(algorithm, saved)
                run.checkpoint(LearnerState(policy.network.state_dict(), {}))
    finally:
        algorithm.stop()
    return agent


def _save(algorithm: Any, folder: Path) -> None:
    """Write RLlib's checkpoint, so that there is a whole one at any time."""
    new = Path(tempfile.mkdtemp(prefix=".rllib-", dir=folder.parent))
    algorithm.save_to_path(str(new.absolute()))
    old = folder.rename(folder.with_name(".rllib-old")) if folder.exists() else None
    new.rename(folder)
    if old is not None:
        shutil.rmtree(old)


def _logged(result: Mapping[str, Any], config: Any) -> dict[str, float]:
    """Return some of RLlib's metrics under SB3's names, the others of its learner under its own."""
    runners = result["env_runners"]
    logged = {
        "rollout/ep_rew_mean": runners.get("episode_return_mean", np.nan) / config.reward_scale,
        "rollout/ep_len_mean": runners.get("episode_len_mean", np.nan) * config.action_repeat,
    }
    for name, value in result.get("learners", {}).get("default_policy", {}).items():
        if np.isscalar(value):
            logged[f"train/{name}"] = value
    return {name: float(value) for name, value in logged.items()}
