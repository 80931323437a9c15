"""Stable-Baselines3's PPO, A2C, DQN and SAC, trained here, published without their pickles.

Schulman et al., "Proximal policy optimization algorithms", 2017; Mnih et al., "Asynchronous methods
for deep reinforcement learning", 2016; Mnih et al., "Human-level control through deep reinforcement
learning", 2015; Haarnoja et al., "Soft actor-critic", 2018; as implemented by Stable-Baselines3.
PPO's settings follow RL Zoo's for CartPole-v1, DQN's those of ``dqn.py``.

Deviations:
1. Learning rates fall linearly to zero.
2. Every checkpoint restarts the environments and all random generators, so that a resumed training
   equals an unbroken one. For the replay buffer that is a time limit.
3. When the environment steps are used up in the middle of a rollout, it is left without an update.

Run ``bullet-envs train --algo sb3-ppo --env BalancingPlate-v0``: about a minute on one core.
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.wrappers.vector import TransformReward
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from torch import Tensor, nn

from ..sb3 import GymnasiumVecEnv
from .agent import Agent, new_agent
from .checkpoints import (
    CheckpointError,
    LearnerState,
    below,
    learner_tensors,
    matching,
    restore_learner,
    whole_number,
)
from .network_policy import NetworkPolicy, clip
from .networks import build_encoder, is_image
from .run import Config, Run, derived_seed
from .wrappers import VectorEpisodeStatistics

LOG_FREQ = 1000  # environment steps between lines of the log, rounded up to whole rollouts


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


class _SB3Policy(NetworkPolicy):
    """The part of a policy of SB3's that acts."""

    model: ClassVar[type[BaseAlgorithm]]
    part: ClassVar[str] = ""  # the attribute of SB3's policy that acts, if not all of it does
    legal_actions: ClassVar[tuple[type[gym.Space[Any]], ...]] = (
        *(gym.spaces.Discrete, gym.spaces.Box),
        *(gym.spaces.MultiDiscrete, gym.spaces.MultiBinary),
    )
    network: BasePolicy

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """What SB3 builds the policy from, e.g. ``PPO("MlpPolicy", env, policy_kwargs=...)``."""
        kwargs: dict[str, Any] = {"net_arch": list(self.hidden)}
        if is_image(self.observation_space):
            # The encoder takes pixels from 0 to 255.
            kwargs |= {"features_extractor_class": EncoderExtractor, "normalize_images": False}
        return kwargs

    def build(self) -> BasePolicy:
        """Return the acting part of a new policy, built as ``PPO("MlpPolicy")`` builds its own.

        Raises:
            ValueError: there is no network for the observations, or no policy for the actions.
        """
        space = self.observation_space
        if not is_image(space) and len(space.shape or ()) not in (1, 2):
            raise ValueError(
                f"no network for observations {space}: they must be vectors, or images of uint8"
            )
        actions = self.action_space
        if (
            not isinstance(actions, self.legal_actions)
            or (isinstance(actions, gym.spaces.Discrete) and actions.start != 0)
            or (isinstance(actions, gym.spaces.Box) and not actions.is_bounded())
        ):
            kinds = " or ".join(kind.__name__ for kind in self.legal_actions)
            raise ValueError(
                f"{self.algo} needs {kinds} actions (Discrete ones begin with 0, Box ones are"
                f" bounded), not {actions}"
            )
        policy_class: Any = self.model.policy_aliases["MlpPolicy"]
        policy = policy_class(space, actions, lambda _: 0.0, **self.policy_kwargs)
        policy.set_training_mode(False)
        return self.acting_part(policy)

    def acting_part(self, policy: Any) -> BasePolicy:
        """Return what the agent needs of a policy of SB3's."""
        part: BasePolicy = getattr(policy, self.part) if self.part else policy
        return part

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the policy's actions, random ones drawn from torch's global generator."""
        actions, _ = self.network.predict(observations, deterministic=deterministic)
        return actions

    def most_likely(self, observations: Tensor) -> Tensor:
        """Return what ``predict`` does, in PyTorch alone: actions scaled, or clipped."""
        actions = self.network._predict(observations, deterministic=True)
        space = self.action_space
        if not isinstance(space, gym.spaces.Box):
            return actions
        actions = actions.reshape(-1, *space.shape)
        if self.network.squash_output:
            low, high = (torch.as_tensor(bound) for bound in (space.low, space.high))
            return low + 0.5 * (actions + 1) * (high - low)
        return clip(actions, space)


class SB3PPOPolicy(_SB3Policy):
    """An actor-critic policy of SB3's PPO."""

    algo = "sb3-ppo"
    model = PPO


class SB3A2CPolicy(_SB3Policy):
    """An actor-critic policy of SB3's A2C."""

    algo = "sb3-a2c"
    model = A2C


class SB3DQNPolicy(_SB3Policy):
    """A Q-network of SB3's."""

    algo = "sb3-dqn"
    model = DQN
    part = "q_net"
    legal_actions = (gym.spaces.Discrete,)


class SB3SACPolicy(_SB3Policy):
    """An actor of SB3's SAC."""

    algo = "sb3-sac"
    model = SAC
    part = "actor"
    legal_actions = (gym.spaces.Box,)


@dataclass(frozen=True, kw_only=True)
class _SB3Config(Config):
    """Settings of all of SB3's algorithms, under SB3's names.

    Args:
        n_envs: sub-environments stepped at once, 1 to 256.
        gamma: discount, 0 to 1.
        learning_rate: of the optimiser at the start, 1e-8 to 1; falls linearly to zero.
        reward_scale: factor of the rewards that are learned from, 1e-6 to 1e6. Where policy and
            value network share an encoder, larger ones let the values teach it more.
        hidden: widths of the hidden layers of each network, 0 to 8 numbers from 1 to 4096.
    """

    n_envs: int = 8
    gamma: float = 0.98
    learning_rate: float = 1e-3
    reward_scale: float = 1.0
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_envs", int, 1, 256)
        self.require("gamma", float, 0, 1)
        self.require("learning_rate", float, 1e-8, 1)
        self.require("reward_scale", float, 1e-6, 1e6)
        self.require_widths("hidden")

    def arguments(self) -> dict[str, Any]:
        """Return the settings as SB3's class takes them."""
        settings = {field.name for field in dataclasses.fields(self)}
        settings -= {field.name for field in dataclasses.fields(Config)}
        return {
            **{
                name: getattr(self, name)
                for name in settings - {"n_envs", "reward_scale", "hidden"}
            },
            "learning_rate": LinearSchedule(self.learning_rate, 0.0, 1.0),
        }


@dataclass(frozen=True, kw_only=True)
class _OnPolicyConfig(_SB3Config):
    """Settings of the algorithms that learn from rollouts.

    Args:
        n_steps: steps of each sub-environment per update, 2 to 100000.
        gae_lambda: of the generalised advantage estimate, 0 to 1.
        ent_coef: weight of the entropy bonus, 0 to 1.
    """

    n_steps: int = 128
    gae_lambda: float = 0.9
    ent_coef: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("n_steps", int, 2, 100_000)
        self.require("gae_lambda", float, 0, 1)
        self.require("ent_coef", float, 0, 1)


@dataclass(frozen=True, kw_only=True)
class SB3PPOConfig(_OnPolicyConfig):
    """Settings of PPO.

    Args:
        batch_size: transitions in a minibatch, 2 to 100000; must divide n_envs * n_steps.
        n_epochs: passes over a rollout, 1 to 1000.
        clip_range: at the start, 1e-8 to 1; falls linearly to zero.
        target_kl: end an update early where the policy has moved 1.5 times so far, 0 to 10; 0
            never does.
    """

    batch_size: int = 256
    n_epochs: int = 10
    clip_range: float = 0.2
    target_kl: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("batch_size", int, 2, 100_000)
        self.require("n_epochs", int, 1, 1000)
        self.require("clip_range", float, 1e-8, 1)
        self.require("target_kl", float, 0, 10)
        rollout = self.n_envs * self.n_steps
        if rollout % self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} must divide n_envs * n_steps = {rollout}"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the settings as SB3's class takes them."""
        return {
            **super().arguments(),
            "clip_range": LinearSchedule(self.clip_range, 0.0, 1.0),
            "target_kl": self.target_kl or None,
        }


@dataclass(frozen=True, kw_only=True)
class SB3A2CConfig(_OnPolicyConfig):
    """Settings of A2C. Its optimiser is RMSprop.

    Args:
        vf_coef: weight of the value network's loss, 0 to 100.
        max_grad_norm: greatest norm of a gradient, 1e-8 to 1e6.
    """

    n_steps: int = 5
    gae_lambda: float = 1.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("vf_coef", float, 0, 100)
        self.require("max_grad_norm", float, 1e-8, 1e6)


@dataclass(frozen=True, kw_only=True)
class _OffPolicyConfig(_SB3Config):
    """Settings of the algorithms that learn from a replay buffer.

    Args:
        buffer_size: transitions in the replay buffer, 1000 to 10 million.
        learning_starts: random actions before the first gradient step, at least 1.
        batch_size: transitions per gradient step, 1 to 4096.
        n_steps: rewards in a return before it bootstraps, 1 to 100.
        train_freq: steps of each sub-environment between updates, 1 to 100000.
        gradient_steps: gradient steps per update, 1 to 100000.
    """

    buffer_size: int = 100_000
    learning_starts: int = 1000
    batch_size: int = 128
    n_steps: int = 5
    train_freq: int = 1
    gradient_steps: int = 4

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("buffer_size", int, 1000, 10_000_000)
        self.require("learning_starts", int, 1, 10**9)
        self.require("batch_size", int, 1, 4096)
        self.require("n_steps", int, 1, 100)
        self.require("train_freq", int, 1, 100_000)
        self.require("gradient_steps", int, 1, 100_000)
        if self.buffer_size < (window := self.n_steps * self.n_envs):
            raise ValueError(
                f"buffer_size={self.buffer_size} must be at least n_steps * n_envs = {window}"
            )


@dataclass(frozen=True, kw_only=True)
class SB3DQNConfig(_OffPolicyConfig):
    """Settings of DQN.

    Args:
        target_update_interval: actions between copies into the target network, at least 1.
        exploration_fraction: part of the training in which epsilon falls from 1, 0 to 1.
        exploration_final_eps: epsilon from then on, 0 to 1.
    """

    target_update_interval: int = 400
    exploration_fraction: float = 0.15
    exploration_final_eps: float = 0.01
    hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("target_update_interval", int, 1, 10**9)
        self.require("exploration_fraction", float, 0, 1)
        self.require("exploration_final_eps", float, 0, 1)


@dataclass(frozen=True, kw_only=True)
class SB3SACConfig(_OffPolicyConfig):
    """Settings of SAC. The weight of its entropy is learned.

    Args:
        tau: part of the way that the target networks go in a gradient step, 1e-8 to 1.
    """

    n_steps: int = 1
    tau: float = 0.005

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require("tau", float, 1e-8, 1)


_IMAGES = {
    "frame_stack": 2,
    "action_repeat": 2,
    "eval_freq": 20_480,
    "save_freq": 20_480,
    "solved_evaluations": 4,
}
PPO_PRESETS: dict[str, dict[str, Any]] = {
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
}
A2C_PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {"n_timesteps": 500_000},
    "BalancingPlate-v0": {"n_timesteps": 500_000},
}
DQN_PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {
        "n_timesteps": 100_000,
        "eval_freq": 5_000,
        "save_freq": 5_000,
        "gamma": 0.99,
    },
    "BalancingPlate-v0": {"n_timesteps": 200_000, "eval_freq": 10_000},
}
_CONTINUOUS = {"env_kwargs": {"continuous": True}}
SAC_PRESETS: dict[str, dict[str, Any]] = {
    "BulletCartPole-v0": {**_CONTINUOUS, "n_timesteps": 100_000},
    "BalancingPlate-v0": {
        **_CONTINUOUS,
        "n_timesteps": 60_000,
        "eval_freq": 5_000,
        "save_freq": 5_000,
        "tau": 0.02,
    },
}


class _RunCallback(BaseCallback):
    """Evaluates, logs, saves and ends SB3's loop as a :class:`Run` asks for."""

    def __init__(
        self, run: Run, agent: Agent, episodes: VectorEpisodeStatistics, model: BaseAlgorithm
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._run = run
        self._agent = agent
        self._episodes = episodes
        self._logged_steps = run.steps
        self._rollout_left = 0
        self._buffer: ReplayBuffer | None = getattr(model, "replay_buffer", None)

    def learner_state(self) -> LearnerState:
        """Return all that SB3 learns from, and what it has learned."""
        modules, optimisers = _learned(self.model)
        tensors = learner_tensors(modules, *optimisers)
        if self._buffer is not None:
            tensors |= _buffer_tensors(self._buffer)
        values = {
            "episodes": self._episodes.state(),
            "updates": self.model._n_updates,
            "calls": getattr(self.model, "_n_calls", 0),
        }
        return LearnerState(tensors, values)

    def restore(self, state: LearnerState) -> None:
        """Undo :meth:`learner_state`."""
        modules, optimisers = _learned(self.model)
        restore_learner(state.tensors, modules, *optimisers)
        if self._buffer is not None:
            _restore_buffer(self._buffer, below(state.tensors, "replay_buffer"))
        self._episodes.restore(state.values["episodes"])
        self.model._n_updates = int(state.values["updates"])
        self.model._n_calls = int(state.values["calls"])
        self.model.num_timesteps = self._run.steps // self._run.config.action_repeat  # of actions

    def sync(self) -> None:
        """Give the agent the weights that SB3 has learned."""
        policy: Any = self._agent.policy
        policy.network.load_state_dict(policy.acting_part(self.model.policy).state_dict())

    def save(self) -> bool:
        """Log, evaluate and write a checkpoint where due; return whether a checkpoint was."""
        run = self._run
        log_due = run.steps // LOG_FREQ > self._logged_steps // LOG_FREQ
        # A resumed training knows nothing of what was not logged before the checkpoint.
        if log_due or run.evaluation_due or run.checkpoint_due:
            self._log()
        if run.evaluation_due:
            self.sync()
            run.evaluate(self._agent)
        due = run.checkpoint_due
        if due:
            if self._buffer is not None:
                last = self._buffer.pos - 1
                self._buffer.timeouts[last] = np.maximum(
                    self._buffer.timeouts[last], 1 - self._buffer.dones[last]
                )
            run.checkpoint(self.learner_state())
        return due

    def _log(self) -> None:
        values = self.model.logger.name_to_value
        scalars = {name: float(value) for name, value in values.items()}
        values.clear()
        if scalars := {**self._episodes.means(), **scalars}:
            self._run.log(scalars)
        self._logged_steps = self._run.steps

    def _on_training_start(self) -> None:
        model = self.model
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        if isinstance(model, DQN):
            left = model._current_progress_remaining
            model.exploration_rate = model.exploration_schedule(left)
        self._restart()

    def _on_rollout_start(self) -> None:
        if self.save():
            self._restart()
        off_policy = self._buffer is not None
        self._rollout_left = self.model.train_freq.frequency if off_policy else self.model.n_steps

    def _on_step(self) -> bool:
        if self._run.solved:  # SB3 does not let a callback end the training between rollouts
            return False
        self._run.advance(self.training_env.num_envs)
        self._rollout_left -= 1
        used_up = self._run.steps >= self._run.config.n_timesteps
        return not (self._run.stopped or (used_up and self._rollout_left > 0))

    def _restart(self) -> None:
        self.model.set_random_seed(derived_seed(self._run.config.seed, self._run.steps))
        self.model._last_obs = self.training_env.reset()
        self.model._last_episode_starts = np.ones(self.training_env.num_envs, np.bool_)


def _learned(model: BaseAlgorithm) -> tuple[dict[str, nn.Module], list[torch.optim.Optimizer]]:
    """Return the modules and optimisers that SB3 itself would save."""
    names, variables = model._get_torch_save_params()
    others = nn.Module()
    for name in variables:  # SAC's log_ent_coef
        others.register_buffer(name, getattr(model, name))
    optimisers = [attrgetter(name)(model) for name in names if name != "policy"]
    return {"policy": model.policy, "others": others}, optimisers


_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _buffer_tensors(buffer: ReplayBuffer) -> dict[str, Tensor]:
    """Return the content of a replay buffer for a checkpoint."""
    columns = {name: torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in _COLUMNS}
    content = {**columns, "pos": torch.tensor(buffer.pos)}
    return {f"replay_buffer.{name}": tensor for name, tensor in content.items()}


def _restore_buffer(buffer: ReplayBuffer, content: Mapping[str, Tensor]) -> None:
    """Undo :func:`_buffer_tensors`.

    Raises:
        CheckpointError: the content is not that of such a buffer.
    """
    size = len(content["rewards"])
    buffer.full = size == buffer.buffer_size
    buffer.pos = whole_number(content["pos"], buffer.buffer_size - 1)
    for name in _COLUMNS:
        column = getattr(buffer, name)
        dtype = torch.from_numpy(column[:0]).dtype
        column[:size] = matching(content[name], (size, *column.shape[1:]), dtype).numpy()
    actions, space = buffer.actions[:size], buffer.action_space
    legal = (
        not isinstance(space, gym.spaces.Discrete) or ((actions >= 0) & (actions < space.n)).all()
    )
    if not legal or not (buffer.full or buffer.pos == size):
        raise CheckpointError("the replay buffer of the checkpoint is out of its range")


_POLICIES: dict[type[_SB3Config], type[_SB3Policy]] = {
    SB3PPOConfig: SB3PPOPolicy,
    SB3A2CConfig: SB3A2CPolicy,
    SB3DQNConfig: SB3DQNPolicy,
    SB3SACConfig: SB3SACPolicy,
}


def train(config: _SB3Config, run: Run) -> Agent:
    """Train until the run is finished and return the agent as it is then."""
    set_random_seed(derived_seed(config.seed))
    agent = new_agent(_POLICIES[type(config)], config.env, config.hidden, config.device)
    policy: Any = agent.policy
    episodes = VectorEpisodeStatistics(config.make_vec(config.n_envs))
    envs = GymnasiumVecEnv(TransformReward(episodes, lambda r: config.reward_scale * r))
    model_class: Any = policy.model
    model = model_class(
        "MlpPolicy",
        envs,
        policy_kwargs=policy.policy_kwargs,
        device=config.device,
        **config.arguments(),
    )
    model.set_logger(Logger(None, []))  # the callback logs
    callback = _RunCallback(run, agent, episodes, model)
    with run.restoring() as restored:
        if restored is not None:
            callback.restore(restored)
    if restored is None:
        run.checkpoint(callback.learner_state())
    if not run.finished:
        model.learn(run.actions_left, callback, sys.maxsize, reset_num_timesteps=False)
        if run.complete and not run.stopped:
            callback.save()
    envs.close()
    callback.sync()
    return agent
