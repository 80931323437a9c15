"""Stable-Baselines3's ``VecEnv`` on top of a Gymnasium ``VectorEnv``.

::

    envs = gym.make_vec("BulletCartPole-v0", num_envs=16, autoreset_mode="Disabled")
    model = PPO("MlpPolicy", VecMonitor(GymnasiumVecEnv(envs)))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .vector import require_disabled


class GymnasiumVecEnv(VecEnv):
    """A batch of environments as SB3's algorithms want it.

    SB3 reads episode returns from a ``Monitor``; put a ``VecMonitor`` around this.

    Args:
        envs: what to step, with ``autoreset_mode="Disabled"``: rows that end are reset here.

    Raises:
        ValueError: the autoreset mode is another.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "SB3")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(envs.metadata)

    def reset(self) -> npt.NDArray[Any]:
        """Begin an episode in every row, with the seeds and options that have been set.

        Raises:
            ValueError: rows were given different options.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(f"options {self._options!r} must be the same for all rows")
        seeds = None if self._seeds == [None] * self.num_envs else self._seeds
        observations: npt.NDArray[Any]
        observations, _ = self.envs.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards (float32), ends and an info dict per row."""
        observations, rewards, terminated, truncated, _ = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": cut} for cut in (truncated & ~terminated).tolist()
        ]
        ended = terminated | truncated
        if ended.any():
            for row in np.flatnonzero(ended).tolist():
                infos[row]["terminal_observation"] = observations[row]
            observations, _ = self.envs.reset(options={"reset_mask": ended})
        return observations, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Free the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return a picture per row."""
        return self.envs.render() or [None] * self.num_envs  # type: ignore[return-value]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, not of a row, once per row."""
        return [getattr(self.envs.unwrapped, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: rows of a batch are not objects of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"rows of a batch have no attribute {attr_name!r} to set")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Refuse: rows of a batch are not objects of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"rows of a batch have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Return False for every row."""
        return [False for _ in self._get_indices(indices)]
