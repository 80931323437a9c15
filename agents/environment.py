"""Which environment an agent acts in, and what is put around it."""

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import (
    AtariPreprocessing,
    FlattenObservation,
    FrameStackObservation,
    TransformReward,
)

from .. import registered
from .wrappers import (
    ActionRepeat,
    HoldDropped,
    ObserveActions,
    VectorActionRepeat,
    VectorFlattenObservation,
    VectorFrameStack,
    VectorHoldDropped,
    VectorObserveActions,
    require_vectors,
)

Made = TypeVar("Made")

# What gym.make, gym.make_vec and vector environments take: not keywords of an environment.
RESERVED_KEYWORDS = frozenset(
    {
        *inspect.signature(gym.make).parameters,
        *inspect.signature(gym.make_vec).parameters,
        *("render_mode", "autoreset", "autoreset_mode", "order_enforce"),
        *("apply_api_compatibility", "additional_wrappers", "reward_threshold"),
        *("workers", "start_method"),
    }
) - {"kwargs"}


ATARI = "ALE/"  # the namespace of its games
VEC_ENVS = ("batch", "sync", "async")


def _sign(reward: SupportsFloat) -> float:
    return float(np.sign(float(reward)))


def bare_id(env_id: str) -> str:
    """Return an id without the module that registers it."""
    return env_id.rpartition(":")[2]


@dataclass(frozen=True)
class EnvConfig:
    """An environment and the wrappers that an agent needs.

    Observations of a ``Dict`` of vectors are flattened.

    Args:
        env_id: any id of Gymnasium's, ``"CartPole-v1"`` or ``"module:Id-v0"``; those of this
            package need no module.
        env_kwargs: keywords of the environment.
        frame_stack: observations that the agent sees at once, the latest last on a new first axis;
            1 adds no axis.
        action_repeat: steps of the environment that each action lasts.
        observe_actions: whether the latest action is appended to each observation, a vector or, as
            planes, an RGB image; with a stack the latest ones. Where actions act late or are noisy,
            an agent needs them.
        hold_dropped: whether columns that read exactly 0, as dropped ones do, or black images are
            shown as they were before.

    Raises:
        ValueError: Gymnasium does not know the id, or a keyword is not the environment's own but
            one of ``gym.make`` or ``gym.make_vec``.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    frame_stack: int = 1
    action_repeat: int = 1
    observe_actions: bool = False
    hold_dropped: bool = False

    def __post_init__(self) -> None:
        """Check id and keywords."""
        if reserved := sorted(RESERVED_KEYWORDS & self.env_kwargs.keys()):
            raise ValueError(f"env_kwargs cannot set {', '.join(reserved)}")
        _ = self.spec

    @property
    def spec(self) -> EnvSpec:
        """Gymnasium's specification of the id."""
        module, _, name = self.env_id.rpartition(":")
        if name.startswith(ATARI):
            module = "ale_py"
        try:
            if module:
                imported = importlib.import_module(module)
            if name.startswith(ATARI):  # its banner, on every new game
                imported.ALEInterface.setLoggerMode(imported.LoggerMode.Error)
            return gym.spec(name)
        except (gym.error.Error, ModuleNotFoundError) as error:
            reason = " ".join(str(error).split())
            if self.is_atari and isinstance(error, ModuleNotFoundError):
                reason += ": pip install 'bullet-envs[atari]'"
            raise ValueError(f"env_id={self.env_id!r} is not an environment: {reason}") from None

    @property
    def name(self) -> str:
        """The id with its module, so that worker processes find it too."""
        task = registered(self.env_id)
        if self.is_atari:
            return f"ale_py:{bare_id(self.env_id)}"
        if task is None or ":" in self.env_id:
            return self.env_id
        module = task.task.partition(":")[0]
        return f"{'bullet_envs' if module.startswith('bullet_envs.') else module}:{self.env_id}"

    @property
    def is_ours(self) -> bool:
        """Whether the environment has a vector version of this package."""
        return str(self.spec.vector_entry_point).startswith("bullet_envs.")

    @property
    def is_atari(self) -> bool:
        """Whether the environment is an Atari game of the Arcade Learning Environment."""
        return bare_id(self.env_id).startswith(ATARI)

    @property
    def _kwargs(self) -> dict[str, Any]:
        # The preprocessing skips frames itself, and games that repeat actions at random are others.
        game = {"frameskip": 1, "repeat_action_probability": 0.0} if self.is_atari else {}
        return {**game, **self.env_kwargs}

    @property
    def max_episode_steps(self) -> int | None:
        """Environment steps after which an episode is truncated, None for no limit."""
        return self.spec.max_episode_steps

    @property
    def reward_threshold(self) -> float | None:
        """The return from which an episode counts as solved, None where there is none."""
        return self.spec.reward_threshold

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment, :meth:`wrap` included.

        Args:
            **kwargs: for ``gym.make``, e.g. ``render_mode="rgb_array"``; they override
                ``env_kwargs``.
        """
        return self.wrap(self.make_bare(**kwargs))

    def make_bare(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment without :meth:`wrap`."""
        return self._made(lambda: gym.make(self.name, **{**self._kwargs, **kwargs}))

    def make_vec(
        self,
        num_envs: int,
        *,
        training: bool = False,
        vec_env: str = "batch",
        workers: int | str = 1,
        **kwargs: Any,
    ) -> VectorEnv[Any, Any, Any]:
        """Make several of what :meth:`make` makes, with ``AutoresetMode.DISABLED``.

        Args:
            num_envs: number of sub-environments.
            training: for a training, see :meth:`wrap`.
            vec_env: how they are stepped: ``"batch"`` (this package's own together, others one
                after the other), ``"sync"`` (one after the other) or ``"async"`` (a process each).
            workers: processes that share them, no more than there are sub-environments, or
                ``"auto"``: see :class:`~bullet_envs.vector.BulletVectorEnv`.
            **kwargs: for ``gym.make_vec``, as in :meth:`make`.

        Raises:
            ValueError: several workers for other environments than this package's, or with another
                ``vec_env`` than ``"batch"``.
        """
        self.check_workers(workers, vec_env)
        kwargs = {**self._kwargs, **kwargs}
        if vec_env != "batch" or not self.is_ours:
            return self._made(
                lambda: gym.make_vec(
                    self.name,
                    num_envs=num_envs,
                    vectorization_mode="sync" if vec_env == "batch" else vec_env,
                    wrappers=[functools.partial(self.wrap, training=training)],  # type: ignore[list-item]
                    vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
                    **kwargs,
                )
            )
        envs: VectorEnv[Any, Any, Any] = self._made(
            lambda: gym.make_vec(
                self.name,
                num_envs=num_envs,
                autoreset_mode=AutoresetMode.DISABLED,
                workers=min(workers, num_envs) if isinstance(workers, int) else workers,
                **kwargs,
            )
        )
        if self.action_repeat > 1:
            envs = VectorActionRepeat(envs, self.action_repeat)
        if not isinstance(envs.single_observation_space, gym.spaces.Box):
            envs = VectorFlattenObservation(envs)
        if self.hold_dropped:
            envs = VectorHoldDropped(envs)
        if self.observe_actions:
            envs = VectorObserveActions(envs)
        return VectorFrameStack(envs, self.frame_stack) if self.frame_stack > 1 else envs

    def check_workers(self, workers: int | str, vec_env: str = "batch") -> None:
        """Refuse several workers where :meth:`make_vec` would."""
        if workers != 1 and not (self.is_ours and vec_env == "batch"):
            raise ValueError(
                f"workers={workers!r} must be 1 but for environments of this package with"
                " vec_env='batch'; vec_env='async' gives each sub-environment a process"
            )

    def wrap(self, env: gym.Env[Any, Any], training: bool = False) -> gym.Env[Any, Any]:
        """Add action repeat, flattening, held and observed columns and frames to an environment.

        Atari games are first preprocessed as by Mnih et al., "Human-level control through deep
        reinforcement learning", 2015: up to 30 idle actions at the beginning, each action for 4
        frames, the greater of the last two frames, grey, 84 x 84 pixels.

        Args:
            env: to be wrapped.
            training: for a training: in Atari games the loss of a life then terminates the episode,
                and rewards are cut to -1, 0 or 1.

        Raises:
            ValueError: the observations are neither an array nor made of vectors, or such that
                :class:`ObserveActions` refuses.
        """
        if self.is_atari:
            env = AtariPreprocessing(env, terminal_on_life_loss=training)
            if training:
                env = TransformReward(env, _sign)
        if self.action_repeat > 1:
            env = ActionRepeat(env, self.action_repeat)
        if not isinstance(env.observation_space, gym.spaces.Box):
            require_vectors(env.observation_space)
            env = FlattenObservation(env)
        if self.hold_dropped:
            env = HoldDropped(env)
        if self.observe_actions:
            env = ObserveActions(env)
        return FrameStackObservation(env, self.frame_stack) if self.frame_stack > 1 else env

    def _made(self, make: Callable[[], Made]) -> Made:
        try:
            return make()
        except gym.error.Error as error:  # e.g. a package that the environment needs is missing
            raise ValueError(f"env_id={self.env_id!r}: {' '.join(str(error).split())}") from None
