"""Stable-Baselines3's PPO, trained here, published without its pickles.

Schulman et al., "Proximal policy optimization algorithms", 2017, as implemented by
Stable-Baselines3. Settings follow RL Zoo's for CartPole-v1.

Deviations:
1. Every evaluation restarts the environments and all random generators, so that a resumed training
   equals an unbroken one.

Run ``bullet-envs train --algo ppo --env BalancingPlate-v0``: about a minute on one core.
"""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers.vector import TransformReward
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from ..sb3 import GymnasiumVecEnv
from .checkpoints import learner_tensors, restore_learner
from .learned import LearnedAgent
from .run import Config, Run, derived_seed
from .vision import Keypoints


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Config):
    """Settings of PPO, under SB3's names.

    Args:
        n_envs: environments stepped at once, 1 to 256.
        n_steps: steps of each environment per update, 2 to 100000.
        batch_size: of a minibatch, 2 to 100000.
        n_epochs: passes over a rollout, 1 to 1000.
        gamma: discount, 0 to 1.
        gae_lambda: of the generalised advantage estimate, 0 to 1.
        learning_rate: at the start, above 0; falls linearly to zero.
        clip_range: at the start, above 0; falls linearly to zero.
        ent_coef: weight of the entropy bonus, from 0.
        target_kl: end an update early where the policy has moved 1.5 times so far; 0 never does.
        reward_scale: factor of the rewards that PPO learns from, above 0. Where both networks see
            with the same eyes, values far above 1 would drown the policy's gradient.
        hidden: widths of the hidden layers of policy and value network.
    """

    n_envs: int = 8
    n_steps: int = 128
    batch_size: int = 256
    n_epochs: int = 10
    gamma: float = 0.98
    gae_lambda: float = 0.9
    learning_rate: float = 1e-3
    clip_range: float = 0.2
    ent_coef: float = 0.0
    target_kl: float = 0.0
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_envs", int, 1, 256)
        self.require("n_steps", int, 2, 100_000)
        self.require("batch_size", int, 2, 100_000)
        self.require("n_epochs", int, 1, 1000)
        self.require("gamma", float, 0, 1)
        self.require("gae_lambda", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("clip_range", float, 1e-8, 1)
        self.require("ent_coef", float, 0, 1)
        self.require("target_kl", float, 0, 10)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")
        rollout = self.n_envs * self.n_steps
        if rollout % self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} must divide n_envs * n_steps = {rollout}"
            )


_PICTURES = {
    "frame_stack": 3,
    "action_repeat": 2,
    "eval_freq": 20_480,
    "n_epochs": 6,
    "target_kl": 0.05,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 200_000},
    "BalancingPlate-v0": {"n_timesteps": 300_000},
    "BulletCartPolePixels-v0": {
        **_PICTURES,
        "n_timesteps": 200_000,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "reward_scale": 0.01,
    },
    "BalancingPlatePixels-v0": {**_PICTURES, "n_timesteps": 300_000, "reward_scale": 0.02},
}


class KeypointsExtractor(BaseFeaturesExtractor):
    """:class:`~bullet_envs.agents.vision.Keypoints` as SB3 wants a features extractor.

    Args:
        observation_space: of a stack of pictures, uint8 of shape (frames, height, width, 3).
    """

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        eyes = Keypoints(observation_space.shape or ())
        super().__init__(observation_space, eyes.outputs)
        self.eyes = eyes

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features, shape (rows, features_dim)."""
        features: Tensor = self.eyes(observations)
        return features


class PPOAgent(LearnedAgent):
    """An actor-critic policy of SB3's."""

    algo = "ppo"
    network: ActorCriticPolicy

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """What SB3 builds the policy from, e.g. ``PPO("MlpPolicy", env, policy_kwargs=...)``."""
        kwargs: dict[str, Any] = {"net_arch": list(self.hidden)}
        if self.renderer is not None:
            kwargs["features_extractor_class"] = KeypointsExtractor
        return kwargs

    def build(self) -> ActorCriticPolicy:
        """Return a new policy, built as ``PPO("MlpPolicy")`` builds its own."""
        policy = ActorCriticPolicy(
            self.observation_space,
            self.action_space,
            lambda _: 0.0,
            **self.policy_kwargs,
        )
        policy.set_training_mode(False)
        return policy

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the policy's action per row, a random one drawn from torch's global generator."""
        actions, _ = self.network.predict(observations, deterministic=deterministic)
        return actions


class _RunCallback(BaseCallback):
    """Evaluates, saves and ends SB3's loop as a :class:`Run` asks for."""

    def __init__(self, run: Run, agent: PPOAgent) -> None:
        super().__init__()
        self._run = run
        self._agent = agent

    def _on_training_start(self) -> None:
        self._restart()

    def _on_step(self) -> bool:
        if self._run.solved:
            return False
        self._run.advance(self.training_env.num_envs)
        return not self._run.stopped

    def _on_rollout_start(self) -> None:
        if self._run.evaluation_due:
            self.evaluate()
            self._restart()

    def evaluate(self) -> None:
        """Evaluate and save the policy as it is now."""
        policy = self.model.policy
        self._agent.network.load_state_dict(policy.state_dict())
        self._run.evaluate(self._agent)
        self._run.checkpoint(learner_tensors({"policy": policy}, policy.optimizer))

    def _restart(self) -> None:
        seed = derived_seed(self._run.config.seed, self._run.steps)
        set_random_seed(seed)
        self.training_env.seed(seed)
        self.model._last_obs = self.training_env.reset()  # type: ignore[assignment]
        self.model._last_episode_starts = np.ones(self.training_env.num_envs, np.bool_)


class _RunWriter(KVWriter):
    """Passes what SB3 logs to the run's own log."""

    def __init__(self, run: Run, reward_scale: float) -> None:
        self._run = run
        self._reward_scale = reward_scale

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log the numbers but those that the run counts itself."""
        numbers = {k: float(v) for k, v in key_values.items() if not k.startswith("time/")}
        if "rollout/ep_rew_mean" in numbers:
            numbers["rollout/ep_rew_mean"] /= self._reward_scale
        self._run.log(numbers)

    def close(self) -> None:
        """Leave the run open."""


def train(config: PPOConfig, run: Run) -> PPOAgent:
    """Train until the run is finished and return the agent as it is then."""
    set_random_seed(derived_seed(config.seed))
    agent = PPOAgent(*config.of_agent)

    rows = TransformReward(agent.make_envs(config.n_envs), lambda r: config.reward_scale * r)
    envs = VecMonitor(GymnasiumVecEnv(rows))
    model = PPO(
        "MlpPolicy",
        envs,
        learning_rate=LinearSchedule(config.learning_rate, 0.0, 1.0),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=LinearSchedule(config.clip_range, 0.0, 1.0),
        ent_coef=config.ent_coef,
        target_kl=config.target_kl or None,
        policy_kwargs=agent.policy_kwargs,
        device="cpu",
    )
    if run.restored is not None:
        restore_learner(run.restored, {"policy": model.policy}, model.policy.optimizer)
        model.num_timesteps = run.steps // config.action_repeat  # SB3 counts actions
    model.set_logger(Logger(None, [_RunWriter(run, config.reward_scale)]))
    callback = _RunCallback(run, agent)
    if not run.finished:
        actions = math.ceil((config.n_timesteps - run.steps) / config.action_repeat)
        model.learn(actions, callback, reset_num_timesteps=False)
        if run.evaluation_due and not run.stopped:
            callback.evaluate()
    envs.close()
    agent.network.load_state_dict(model.policy.state_dict())
    return agent
