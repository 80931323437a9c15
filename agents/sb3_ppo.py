"""Stable-Baselines3's PPO, trained here, published without its pickles.

Schulman et al., "Proximal policy optimization algorithms", 2017, as implemented by
Stable-Baselines3. Settings follow RL Zoo's for CartPole-v1.

Deviations:
1. Every checkpoint restarts the environments and all random generators, so that a resumed training
   equals an unbroken one.
2. When the environment steps are used up in the middle of a rollout, it is left without an update.

Run ``bullet-envs train --algo sb3-ppo --env BalancingPlate-v0``: about a minute on one core.
"""

from collections.abc import Callable
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
from torch import Tensor

from ..sb3 import GymnasiumVecEnv
from .agent import Agent, new_agent
from .checkpoints import LearnerState, learner_tensors, restore_learner
from .network_policy import NetworkPolicy
from .networks import build_encoder, is_image
from .run import Config, Run, derived_seed
from .wrappers import VectorEpisodeStatistics


@dataclass(frozen=True, kw_only=True)
class SB3PPOConfig(Config):
    """Settings of PPO, under SB3's names.

    Args:
        n_envs: sub-environments stepped at once, 1 to 256.
        n_steps: steps of each sub-environment per update, 2 to 100000.
        batch_size: transitions in a minibatch, 2 to 100000; must divide n_envs * n_steps.
        n_epochs: passes over a rollout, 1 to 1000.
        gamma: discount, 0 to 1.
        gae_lambda: of the generalised advantage estimate, 0 to 1.
        learning_rate: of Adam at the start, 1e-8 to 1; falls linearly to zero.
        clip_range: at the start, 1e-8 to 1; falls linearly to zero.
        ent_coef: weight of the entropy bonus, 0 to 1.
        target_kl: end an update early where the policy has moved 1.5 times so far, 0 to 10; 0
            never does.
        reward_scale: factor of the rewards that PPO learns from, 1e-6 to 1e6. Where both networks
            share the encoder, values far above 1 would drown the policy's gradient.
        hidden: widths of the hidden layers of policy and value network, 1 to 8 numbers from 1 to
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


_IMAGES = {
    "frame_stack": 3,
    "action_repeat": 2,
    "eval_freq": 20_480,
    "save_freq": 20_480,
    "n_epochs": 6,
    "target_kl": 0.05,
}
PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 200_000},
    "BalancingPlate-v0": {"n_timesteps": 300_000},
    "BulletCartPolePixels-v0": {
        **_IMAGES,
        "n_timesteps": 200_000,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "reward_scale": 0.01,
    },
    "BalancingPlatePixels-v0": {**_IMAGES, "n_timesteps": 300_000, "reward_scale": 0.02},
}


class EncoderExtractor(BaseFeaturesExtractor):
    """The encoder of :mod:`~bullet_envs.agents.networks` as an SB3 features extractor.

    Args:
        observation_space: images of uint8, or stacks of them.
    """

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        encoder = build_encoder(observation_space)
        super().__init__(observation_space, encoder.outputs)
        self.encoder = encoder

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features, shape (batch_size, features_dim)."""
        features: Tensor = self.encoder(observations)
        return features


class SB3PPOPolicy(NetworkPolicy):
    """An actor-critic policy of SB3's."""

    algo = "sb3-ppo"
    network: ActorCriticPolicy

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """What SB3 builds the policy from, e.g. ``PPO("MlpPolicy", env, policy_kwargs=...)``."""
        kwargs: dict[str, Any] = {"net_arch": list(self.hidden)}
        if is_image(self.observation_space):
            # The encoder takes pixels from 0 to 255.
            kwargs |= {"features_extractor_class": EncoderExtractor, "normalize_images": False}
        return kwargs

    def build(self) -> ActorCriticPolicy:
        """Return a new policy, built as ``PPO("MlpPolicy")`` builds its own.

        Raises:
            ValueError: there is no network for the observations, or no policy for the actions.
        """
        space = self.observation_space
        if not is_image(space) and len(space.shape or ()) not in (1, 2):
            raise ValueError(
                f"no network for observations {space}: they must be vectors, or images of uint8"
            )
        actions = self.action_space
        legal: bool = isinstance(actions, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)
        if isinstance(actions, gym.spaces.Discrete):
            legal = actions.start == 0
        elif isinstance(actions, gym.spaces.Box):
            legal = actions.is_bounded()
        if not legal:
            raise ValueError(f"{self.algo} has no policy for actions {actions}")
        policy = ActorCriticPolicy(space, actions, lambda _: 0.0, **self.policy_kwargs)
        policy.set_training_mode(False)
        return policy

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the policy's actions, random ones drawn from torch's global generator."""
        actions, _ = self.network.predict(observations, deterministic=deterministic)
        return actions


class _RunCallback(BaseCallback):
    """Evaluates, saves and ends SB3's loop as a :class:`Run` asks for."""

    def __init__(self, run: Run, agent: Agent, learner_state: Callable[[], LearnerState]) -> None:
        super().__init__()
        self._run = run
        self._agent = agent
        self._learner_state = learner_state

    def _on_training_start(self) -> None:
        self._restart()

    def _on_rollout_start(self) -> None:
        if self.save():
            self._restart()

    def _on_step(self) -> bool:
        if self._run.solved:  # SB3 does not let a callback end the training between rollouts
            return False
        self._run.advance(self.training_env.num_envs)
        used_up = self._run.steps >= self._run.config.n_timesteps
        rollout_complete = self.locals["n_steps"] + 1 == self.locals["n_rollout_steps"]
        return not (self._run.stopped or (used_up and not rollout_complete))

    def save(self) -> bool:
        """Evaluate and write a checkpoint if they are due; return whether a checkpoint was."""
        if self._run.evaluation_due:
            policy: Any = self._agent.policy
            policy.network.load_state_dict(self.model.policy.state_dict())
            self._run.evaluate(self._agent)
        due = self._run.checkpoint_due
        if due:
            self._run.checkpoint(self._learner_state())
        return due

    def _restart(self) -> None:
        seed = derived_seed(self._run.config.seed, self._run.steps)
        set_random_seed(seed)
        self.training_env.seed(seed)
        self.model._last_obs = self.training_env.reset()  # type: ignore[assignment]
        self.model._last_episode_starts = np.ones(self.training_env.num_envs, np.bool_)


class _RunWriter(KVWriter):
    """Passes what SB3 logs to the run's own log, with the episodes' returns and lengths."""

    def __init__(self, run: Run, episodes: VectorEpisodeStatistics) -> None:
        self._run = run
        self._episodes = episodes

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log the numbers but those that the run counts itself."""
        numbers = {k: float(v) for k, v in key_values.items() if not k.startswith("time/")}
        self._run.log({**self._episodes.means(), **numbers})

    def close(self) -> None:
        """Leave the run open."""


def train(config: SB3PPOConfig, run: Run) -> Agent:
    """Train until the run is finished and return the agent as it is then."""
    set_random_seed(derived_seed(config.seed))
    agent = new_agent(SB3PPOPolicy, config.env, config.hidden)
    policy: Any = agent.policy

    episodes = VectorEpisodeStatistics(agent.make_vec(config.n_envs))
    envs = GymnasiumVecEnv(TransformReward(episodes, lambda r: config.reward_scale * r))
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
        policy_kwargs=policy.policy_kwargs,
        device="cpu",
    )
    model.set_logger(Logger(None, [_RunWriter(run, episodes)]))

    def learner_state() -> LearnerState:
        # SB3 logs an update together with the rollout after it.
        pending = {k: v for k, v in model.logger.name_to_value.items() if k.startswith("train/")}
        return LearnerState(
            learner_tensors({"policy": model.policy}, model.policy.optimizer),
            {
                "episodes": episodes.state(),
                "updates": model._n_updates,
                "log": {name: float(value) for name, value in pending.items()},
            },
        )

    with run.restoring() as restored:
        if restored is not None:
            restore_learner(restored.tensors, {"policy": model.policy}, model.policy.optimizer)
            episodes.restore(restored.values["episodes"])
            model._n_updates = int(restored.values["updates"])
            for name, value in restored.values["log"].items():
                model.logger.record(str(name), float(value))
            model.num_timesteps = run.steps // config.action_repeat  # SB3 counts actions
    if restored is None:
        run.checkpoint(learner_state())
    callback = _RunCallback(run, agent, learner_state)
    if not run.finished:
        model.learn(run.actions_left, callback, reset_num_timesteps=False)
        if run.complete and not run.stopped:
            callback.save()
    envs.close()
    policy.network.load_state_dict(model.policy.state_dict())
    return agent
