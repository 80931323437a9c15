"""Stable-Baselines3's algorithms as they are, with settings equal to those of ours.

They act in the same vector environments (:class:`bullet_envs.sb3.GymnasiumVecEnv`). A training is
evaluated as one of ours is but, unlike one of ours, cannot be resumed.
"""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from bullet_envs.agents import Agent, EnvConfig
from bullet_envs.agents.policy import Policy
from bullet_envs.agents.run import Config, Run
from bullet_envs.sb3 import GymnasiumVecEnv

CLASSES: dict[str, Any] = {"sb3-ppo": PPO, "sb3-a2c": A2C, "sb3-dqn": DQN}


def settings_like(algo: str, config: Any) -> dict[str, Any]:
    """Return the settings of :func:`new_model` that equal those of one of our algorithms.

    What only one of the two has stays as it is: our DQN's double targets and its evaluation of the
    moving average, the clipped gradients of SB3's DQN.

    Args:
        algo: one of :data:`CLASSES`.
        config: of our algorithm of that name.

    Raises:
        ValueError: SB3 has no setting for a reward scale or what wraps an environment.
    """
    wrapped = config.action_repeat != 1 or config.frame_stack != 1
    wrapped = wrapped or config.observe_actions or config.hold_dropped
    if config.reward_scale != 1 or wrapped:
        raise ValueError(f"{config} has no equal in SB3")
    settings = {
        "n_envs": config.n_envs,
        "n_steps": config.n_steps,
        "gamma": config.gamma,
        "learning_rate": _falling(config.learning_rate),
        "policy_kwargs": {"net_arch": list(config.hidden)},
    }
    if algo == "sb3-dqn":
        # SB3 moves the target network once per step of all sub-environments, we per gradient step.
        tau = 1 - (1 - config.tau) ** config.gradient_steps
        return settings | {
            "batch_size": config.batch_size,
            "buffer_size": config.buffer_size,
            "learning_starts": config.learning_starts,
            "train_freq": 1,
            "gradient_steps": config.gradient_steps,
            "tau": tau,
            "target_update_interval": config.n_envs,
            "exploration_fraction": config.exploration_fraction,
            "exploration_final_eps": config.exploration_final,
        }
    names = ("gae_lambda", "normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm")
    settings |= {name: getattr(config, name) for name in names}
    if algo == "sb3-ppo":
        settings |= {
            "batch_size": config.batch_size,
            "n_epochs": config.n_epochs,
            "clip_range": _falling(config.clip_range),
            "clip_range_vf": _falling(config.clip_range_vf) if config.clip_range_vf else None,
            "target_kl": config.target_kl or None,
        }
    return settings


def _falling(value: float) -> LinearSchedule:
    return LinearSchedule(value, 0.0, 1.0)


def new_model(algo: str, env: EnvConfig, seed: int, settings: Mapping[str, Any]) -> Any:
    """Return an untrained model of SB3's.

    Args:
        algo: one of :data:`CLASSES`.
        env: its environment.
        seed: decides every random number.
        settings: ``n_envs`` and arguments of SB3's class.
    """
    arguments = dict(settings)
    envs = GymnasiumVecEnv(env.make_vec(arguments.pop("n_envs")))
    return CLASSES[algo]("MlpPolicy", envs, seed=seed, device="cpu", **arguments)


def train(config: Config, run: Run, algo: str, settings: Mapping[str, Any]) -> Agent:
    """Train until the run is finished and return the agent as it is then.

    As always with SB3, the last rollout is a whole one.
    """
    model = new_model(algo, config.env, config.seed, settings)
    agent = Agent(algo, config.env, _ModelPolicy(model))
    model.learn(config.n_timesteps, _RunCallback(run, agent))
    if not (run.solved or run.stopped):
        run.evaluate(agent)
    model.env.close()
    return agent


class _ModelPolicy(Policy):
    """The policy of a model of SB3's, with what a card says of it."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.observation_space, model.action_space)
        self.network = model.policy
        widths = model.policy.net_arch  # by default a dict, of policy and value network
        self.hidden = tuple(widths["pi"] if isinstance(widths, dict) else widths)

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return SB3's actions."""
        actions: npt.NDArray[Any]
        actions, _ = self.network.predict(observations, deterministic=deterministic)
        return actions


class _RunCallback(BaseCallback):
    """Counts steps, evaluates between updates, and ends SB3's loop as a :class:`Run` asks for."""

    def __init__(self, run: Run, agent: Agent) -> None:
        super().__init__()
        self._run = run
        self._agent = agent

    def _on_rollout_start(self) -> None:
        if self._run.steps and self._run.evaluation_due:
            self._run.evaluate(self._agent)

    def _on_step(self) -> bool:
        if self._run.solved or self._run.stopped:
            return False
        self._run.advance(self.training_env.num_envs)
        return True
