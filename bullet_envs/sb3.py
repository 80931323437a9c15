"""Stable-Baselines3's ``VecEnv`` on top of a Gymnasium ``VectorEnv``.

::

    envs = gym.make_vec("bullet_envs:BulletCartPole-v0", num_envs=16, autoreset_mode="Disabled")
    model = PPO("MlpPolicy", VecMonitor(GymnasiumVecEnv(envs)))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .checks import require_disabled


class GymnasiumVecEnv(VecEnv):
    """A Gymnasium vector environment as SB3's algorithms want it.

    SB3 reads episode returns from a ``Monitor``; put a ``VecMonitor`` around this.

    Args:
        envs: what to step, with ``autoreset_mode="Disabled"``: sub-environments whose episode ends
            are reset here.

    Raises:
        ValueError: the autoreset mode is another.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "SB3")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(envs.metadata)

    def reset(self) -> Any:
        """Begin an episode in every sub-environment, with the seeds and options that were set.

        Raises:
            ValueError: sub-environments were given different options.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(f"options {self._options!r} must be the same for all")
        seeds = None if self._seeds == [None] * self.num_envs else self._seeds
        observations, infos = self.envs.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self.reset_infos = [info_of(infos, index) for index in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards (float32), ends and an info dict per sub-environment."""
        observations, rewards, terminated, truncated, vector_infos = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": cut} for cut in (truncated & ~terminated).tolist()
        ]
        if vector_infos:
            for index, info in enumerate(infos):
                info |= info_of(vector_infos, index)
        ended = terminated | truncated
        if ended.any():
            for index in np.flatnonzero(ended).tolist():
                infos[index]["terminal_observation"] = (
                    {name: array[index] for name, array in observations.items()}
                    if isinstance(observations, dict)
                    else observations[index]
                )
            observations, reset_infos = self.envs.reset(options={"reset_mask": ended})
            for index in np.flatnonzero(ended).tolist():
                self.reset_infos[index] = info_of(reset_infos, index)
        return observations, rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Free the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Return a frame per sub-environment."""
        return self.envs.render() or [None] * self.num_envs  # type: ignore[return-value]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of some sub-environments.

        ``np_random`` and ``np_random_seed`` are their own; all others are those of the vector
        environment, which the sub-environments share.
        """
        if attr_name in ("action_space", "observation_space"):
            attr_name = f"single_{attr_name}"
        value = getattr(self.envs.unwrapped, attr_name)
        chosen = self._get_indices(indices)
        if attr_name in ("np_random", "np_random_seed"):
            return [value[index] for index in chosen]
        return [value for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: sub-environments are not objects of their own.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"sub-environments have no attribute {attr_name!r} to set")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Return what ``"state"`` or ``"render"`` returns for some sub-environments.

        Raises:
            NotImplementedError: it is another method; sub-environments are not objects of their
                own.
        """
        if method_name not in ("state", "render"):
            raise NotImplementedError(
                f"sub-environments have no method {method_name!r}; there are 'state' and 'render'"
            )
        result = getattr(self.envs.unwrapped, method_name)(*method_args, **method_kwargs)
        chosen = self._get_indices(indices)
        if isinstance(result, dict):
            return [{k: float(column[index]) for k, column in result.items()} for index in chosen]
        return [None if result is None else result[index] for index in chosen]

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """Return False for every sub-environment."""
        return [False for _ in self._get_indices(indices)]


def info_of(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the info of one sub-environment out of that of a vector environment."""
    info: dict[str, Any] = {}
    for name, value in infos.items():
        if name.startswith("_") or not infos.get(f"_{name}", np.ones(index + 1, np.bool_))[index]:
            continue
        if isinstance(value, dict):
            info[name] = info_of(value, index)
        else:
            one = value[index]
            info[name] = one.item() if isinstance(one, np.generic) else one
    return info
