"""Vector environments of other libraries as Gymnasium's, for ``train(config, run, envs)``.

::

    envs = SB3VectorEnv(make_vec_env("CartPole-v1", 8, vec_env_cls=SubprocVecEnv))
    envs = EnvPoolVectorEnv(envpool.make_gymnasium("CartPole-v1", num_envs=8))
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnv

Step = tuple[Any, npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]


class SB3VectorEnv(VectorEnv[Any, Any, Any]):
    """A ``VecEnv`` of Stable-Baselines3, ``DummyVecEnv`` or ``SubprocVecEnv`` for example.

    Args:
        envs: what to step. It resets ended sub-environments in the same step.
    """

    def __init__(self, envs: VecEnv) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = envs.observation_space
        self.single_action_space = envs.action_space
        self.observation_space = batch_space(envs.observation_space, envs.num_envs)
        self.action_space = batch_space(envs.action_space, envs.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-environment: with a seed each, or seed, seed + 1, ..."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        if seed is not None:
            self.envs._seeds = list(seed)  # VecEnv.seed() takes the first one only
        if options is not None:
            self.envs.set_options(options)
        return self.envs.reset(), {}

    def step(self, actions: Any) -> Step:
        """Return the next observations, with ``final_obs`` in the info where an episode ended."""
        observations, rewards, ended, infos = self.envs.step(actions)
        truncated = np.array([one.get("TimeLimit.truncated", False) for one in infos]) & ended
        final_obs = np.array([None] * self.num_envs, object)
        for index in np.flatnonzero(ended).tolist():
            final_obs[index] = infos[index]["terminal_observation"]
        info = {"final_obs": final_obs, "_final_obs": ended} if ended.any() else {}
        return observations, rewards, ended & ~truncated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Free the environments."""
        self.envs.close()


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments of EnvPool's ``make_gymnasium``, which get their seeds when they are made.

    Args:
        envs: what to step. It resets an ended sub-environment in the step after.
    """

    def __init__(self, envs: Any) -> None:
        self.envs = envs
        self.num_envs = envs.config["num_envs"]
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = envs.observation_space
        self.single_action_space = envs.action_space
        self.observation_space = batch_space(envs.observation_space, self.num_envs)
        self.action_space = batch_space(envs.action_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-environment; seeds and options have no effect."""
        observations, _ = self.envs.reset()
        return observations, {}

    def step(self, actions: Any) -> Step:
        """Return what the pool returns, without its infos."""
        kind = self.single_action_space.dtype
        observations, rewards, terminated, truncated, _ = self.envs.step(actions.astype(kind))
        return observations, rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Free the environments."""
        self.envs.close()
