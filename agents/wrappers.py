"""What Gymnasium has no wrapper for."""

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, iterate

from ..checks import require_disabled

# Generic for type checkers, but not at run time in gymnasium 1.2.
if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper

RGB = 3  # channels of an image; what follows them are planes of actions

# In the info of ActionRepeat: the environment steps that an action took.
REPEATS = "action_repeats"


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """Takes each action several times, or until the episode ends, and sums the rewards.

    An environment with the attribute ``skip_observations`` does not draw the images between.

    Args:
        env: what to act in.
        times: environment steps per action, from 1.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self._times = times

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return the last observation, the sum of rewards, the flags and the last info.

        The info has the number of steps taken under ``"action_repeats"``.
        """
        unwrapped: Any = self.env.unwrapped
        skips = hasattr(unwrapped, "skip_observations")
        total = 0.0
        try:
            for taken in range(1, self._times + 1):
                if skips:
                    unwrapped.skip_observations = taken < self._times
                observation, reward, terminated, truncated, info = self.env.step(action)
                total += float(reward)
                if terminated or truncated:
                    break
        finally:
            if skips:
                unwrapped.skip_observations = False
        if skips and taken < self._times and not terminated:
            # The time limit lies outside the environment, which could not know of the end.
            observation = unwrapped.observation()
        return observation, total, terminated, truncated, {**info, REPEATS: taken}


class VectorActionRepeat(_VectorWrapper):
    """:class:`ActionRepeat` for a vector environment of this package.

    Its ended sub-environments wait for their reset, with reward 0.

    Args:
        envs: what to act in, with ``AutoresetMode.DISABLED``.
        times: environment steps per action, from 1.

    Raises:
        ValueError: the vector environment resets sub-environments by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], times: int) -> None:
        require_disabled(envs, "VectorActionRepeat")
        super().__init__(envs)
        self._times = times
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-environment, or in those of a ``reset_mask``."""
        mask = (options or {}).get("reset_mask", slice(None))
        result = self.env.reset(seed=seed, options=options)
        self._ended[mask] = False
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return the last observations, the sums of rewards, the flags and the last info.

        The info has the number of steps of each sub-environment under ``"action_repeats"``.
        """
        unwrapped: Any = self.env.unwrapped
        skips = hasattr(unwrapped, "skip_observations")
        total = np.zeros(self.num_envs)
        taken = np.zeros(self.num_envs, np.int64)
        try:
            for left in reversed(range(self._times)):
                if skips:
                    unwrapped.skip_observations = left > 0
                observations, rewards, terminated, truncated, info = self.env.step(actions)
                total += rewards
                taken += ~self._ended
                self._ended = terminated | truncated
        finally:
            if skips:
                unwrapped.skip_observations = False
        return observations, total, terminated, truncated, {**info, REPEATS: taken}


def require_vectors(space: gym.Space[Any]) -> None:
    """Refuse a space that does not flatten to a vector without losing its shape.

    Raises:
        ValueError: it has an array of more than one axis, or an element of no fixed size.
    """
    parts: list[Any] = [space]
    while parts:
        part = parts.pop()
        if isinstance(part, spaces.Dict):
            parts += part.spaces.values()
        elif isinstance(part, spaces.Tuple):
            parts += part.spaces
        elif not (
            isinstance(part, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
            or (isinstance(part, spaces.Box) and len(part.shape) <= 1)
        ):
            raise ValueError(f"observations must be an array or made of vectors, not {space}")


class VectorFlattenObservation(_VectorWrapper):
    """Gymnasium's ``FlattenObservation``, column by column.

    Args:
        envs: what to look at.

    Raises:
        ValueError: the observations are not made of vectors.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        self._inner = envs.single_observation_space
        require_vectors(self._inner)
        self.single_observation_space = flatten_space(self._inner)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Return flat observations, shape (num_envs, elements), and the info as it is."""
        observations, info = self.env.reset(seed=seed, options=options)
        return self._flat(observations), info

    def step(self, actions: Any) -> tuple[npt.NDArray[Any], Any, Any, Any, dict[str, Any]]:
        """Return flat observations, shape (num_envs, elements), and the rest as it is."""
        observations, *rest = self.env.step(actions)
        return self._flat(observations), *rest

    def _flat(self, observations: Any) -> npt.NDArray[Any]:
        inner, dtype = self._inner, self.single_observation_space.dtype
        if isinstance(inner, spaces.Dict) and all(
            isinstance(part, spaces.Box) for part in inner.spaces.values()
        ):
            columns = [observations[key].reshape(self.num_envs, -1) for key in inner.spaces]
            return np.concatenate(columns, axis=1).astype(dtype)
        each = iterate(self.env.observation_space, observations)
        flat: list[Any] = [flatten(inner, one) for one in each]
        return np.stack(flat).astype(dtype)


def _hold(read: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what is read, with what was before in place of columns of 0 or of black images.

    Args:
        read: vectors or images of uint8, along a first axis.
        before: as many.
    """
    if read.dtype == np.uint8 and read.ndim > 2:
        lost = ~read.any(axis=tuple(range(1, read.ndim)), keepdims=True)
    else:
        lost = read == 0
    return np.where(lost, before, read)


class HoldDropped(gym.Wrapper[Any, Any, Any, Any]):
    """Shows what reads 0, as dropped sensors do, as it was before: columns, or images as a whole.

    Args:
        env: whose observations are vectors or images.
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, whose first observation is as it is."""
        self._latest, info = self.env.reset(**kwargs)
        return self._latest, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return the observation without what was dropped, and the rest as it is."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._latest = _hold(observation[None], self._latest[None])[0]
        return self._latest, reward, terminated, truncated, info


class VectorHoldDropped(_VectorWrapper):
    """:class:`HoldDropped` for a vector environment.

    Args:
        envs: whose observations are vectors or images, with ``AutoresetMode.DISABLED``.

    Raises:
        ValueError: the vector environment resets sub-environments by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "VectorHoldDropped")
        super().__init__(envs)
        self._latest: npt.NDArray[Any] = np.zeros(0)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Begin episodes, whose first observations are as they are."""
        observations, info = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask", slice(None))
        if len(self._latest) != self.num_envs:
            self._latest = observations.copy()
        self._latest[mask] = observations[mask]
        return self._latest.copy(), info

    def step(self, actions: Any) -> tuple[npt.NDArray[Any], Any, Any, Any, dict[str, Any]]:
        """Return the observations without what was dropped, and the rest as it is."""
        observations, *rest = self.env.step(actions)
        self._latest = _hold(observations, self._latest)
        return self._latest.copy(), *rest


class _ActionColumns:
    """What actions are appended to observations as: columns of a vector, or planes of an image.

    A Discrete action is one number for each choice, 1 for the one that was taken. A plane has it
    times 255 in all pixels.

    Args:
        space: of an observation.
        actions: of an action.

    Raises:
        ValueError: the observations are neither vectors nor RGB images, or images where
            actions are not Discrete.
    """

    def __init__(self, space: gym.Space[Any], actions: gym.Space[Any]) -> None:
        shape = space.shape or ()
        self._is_image = space.dtype == np.uint8 and len(shape) == 3
        if self._is_image:
            legal = shape[-1] == RGB and isinstance(actions, spaces.Discrete)
        else:
            legal = isinstance(space, spaces.Box) and len(shape) == 1
        if not legal:
            raise ValueError(
                "observe_actions needs observations that are vectors, or RGB images and Discrete"
                f" actions, not {space} and {actions}"
            )
        self._actions = actions
        flat: Any = flatten_space(actions)
        self._size = flat.shape
        self.space: spaces.Box[Any]
        if self._is_image:
            self.space = spaces.Box(0, 255, (*shape[:2], shape[2] + self._size[0]), np.uint8)
            return
        box: Any = space
        low = np.concatenate([box.low, np.minimum(flat.low, 0)]).astype(np.float32)
        high = np.concatenate([box.high, np.maximum(flat.high, 0)]).astype(np.float32)
        self.space = spaces.Box(low, high, dtype=np.float32)

    def none(self, count: int) -> npt.NDArray[np.float32]:
        """Return the numbers of episodes without an action, shape (count, numbers)."""
        return np.zeros((count, *self._size), np.float32)

    def numbers(self, actions: Any) -> npt.NDArray[np.float32]:
        """Return the numbers of actions, shape (count, numbers)."""
        space = self._actions
        if isinstance(space, spaces.Discrete):
            chosen = np.asarray(actions) - space.start
            one_hot: npt.NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)[chosen]
            return one_hot
        flat: list[Any] = [flatten(space, action) for action in actions]
        return np.array(flat, np.float32)

    def append(self, observations: Any, numbers: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return observations with the numbers of the actions before them.

        Args:
            observations: along a first axis.
            numbers: of as many actions.
        """
        if not self._is_image:
            return np.concatenate([observations, numbers], axis=1, dtype=np.float32)
        planes = (255 * numbers).astype(np.uint8)[:, None, None]
        planes = np.broadcast_to(planes, (*observations.shape[:3], *self._size))
        return np.concatenate([observations, planes], axis=3)


class ObserveActions(gym.Wrapper[Any, Any, Any, Any]):
    """Appends the latest action to each observation: columns of a vector, or planes of an image.

    At the beginning of an episode these are 0.

    Args:
        env: whose observations are vectors, or RGB images where actions are Discrete.

    Raises:
        ValueError: they are not.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._columns = _ActionColumns(env.observation_space, env.action_space)
        self.observation_space = self._columns.space

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode without an action."""
        observation, info = self.env.reset(**kwargs)
        return self._columns.append(observation[None], self._columns.none(1))[0], info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Return the observation with the action, and the rest as it is."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = self._columns.append(observation[None], self._columns.numbers([action]))[0]
        return seen, reward, terminated, truncated, info


class VectorObserveActions(_VectorWrapper):
    """:class:`ObserveActions` for a vector environment.

    Args:
        envs: with ``AutoresetMode.DISABLED``, whose observations are vectors, or RGB images where
            actions are Discrete.

    Raises:
        ValueError: they are not, or the vector environment resets sub-environments by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "VectorObserveActions")
        super().__init__(envs)
        self._columns = _ActionColumns(envs.single_observation_space, envs.single_action_space)
        self.single_observation_space = self._columns.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._latest = self._columns.none(self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Begin episodes without an action."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._latest[(options or {}).get("reset_mask", slice(None))] = 0
        return self._columns.append(observations, self._latest), info

    def step(self, actions: Any) -> tuple[npt.NDArray[Any], Any, Any, Any, dict[str, Any]]:
        """Return the observations with the actions, and the rest as it is."""
        observations, *rest = self.env.step(actions)
        self._latest = self._columns.numbers(actions)
        return self._columns.append(observations, self._latest), *rest


class VectorFrameStack(_VectorWrapper):
    """Gymnasium's ``FrameStackObservation`` for a vector environment.

    Args:
        envs: what to look at, with ``AutoresetMode.DISABLED``.
        frames: observations in a stack, the latest last; the first of an episode is repeated.

    Raises:
        ValueError: the vector environment resets sub-environments by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], frames: int) -> None:
        require_disabled(envs, "VectorFrameStack")
        super().__init__(envs)
        self.single_observation_space = batch_space(envs.single_observation_space, frames)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)
        space = self.observation_space
        self._stacks: npt.NDArray[Any] = np.zeros(space.shape or (), space.dtype)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Begin the stacks of the sub-environments that begin an episode."""
        mask = (options or {}).get("reset_mask", slice(None))
        observations, info = self.env.reset(seed=seed, options=options)
        self._stacks[mask] = observations[mask][:, None]
        return self._stacks.copy(), info

    def step(self, actions: Any) -> tuple[npt.NDArray[Any], Any, Any, Any, dict[str, Any]]:
        """Return the stacks with the latest observations, and the rest as it is."""
        observations, *rest = self.env.step(actions)
        self._stacks = np.concatenate([self._stacks[:, 1:], observations[:, None]], axis=1)
        return self._stacks.copy(), *rest


class NextStepAutoreset(_VectorWrapper):
    """Gives a vector environment that waits for resets the mode ``NEXT_STEP``.

    The step after the end of an episode ignores the sub-environment's action and begins its next
    episode. Infos are left out.

    Args:
        envs: of this package, with ``AutoresetMode.DISABLED``.

    Raises:
        ValueError: it resets sub-environments by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "NextStepAutoreset")
        super().__init__(envs)
        self.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._ended = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-environment, or in those of a ``reset_mask``."""
        observations, _ = self.env.reset(seed=seed, options=options)
        self._ended[(options or {}).get("reset_mask", slice(None))] = False
        return observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act, or begin an episode where one has ended, with reward 0 and both flags False."""
        observations, rewards, terminated, truncated, _ = self.env.step(actions)
        if (begun := self._ended).any():
            observations, _ = self.env.reset(options={"reset_mask": begun})
            terminated, truncated = terminated & ~begun, truncated & ~begun
        self._ended = terminated | truncated
        return observations, rewards, terminated, truncated, {}


def autoreset_mode(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return when a vector environment resets ended sub-environments."""
    # One without a mode is of the kind that Gymnasium makes by default.
    return AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


class VectorEpisodeStatistics(_VectorWrapper):
    """Keeps the returns and lengths of the latest episodes.

    Args:
        envs: what to count in, with any autoreset mode.

    Attributes:
        returns: undiscounted, of the latest 100 episodes that ended by themselves, oldest first.
        lengths: theirs, in environment steps.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._reset_by_step = np.zeros(self.num_envs, np.bool_)
        self._mode = autoreset_mode(envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin to count anew in the sub-environments that begin an episode."""
        mask = (options or {}).get("reset_mask", slice(None))
        result = self.env.reset(seed=seed, options=options)
        self._returns[mask] = 0
        self._lengths[mask] = 0
        self._reset_by_step[mask] = False
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Count, and return what the environment returns."""
        result = self.env.step(actions)
        _, rewards, terminated, truncated, info = result
        self._returns += rewards
        self._lengths += ~self._reset_by_step * info.get(REPEATS, 1)
        ended = terminated | truncated
        if ended.any():
            self.returns = [*self.returns, *self._returns[ended].tolist()][-100:]
            self.lengths = [*self.lengths, *self._lengths[ended].tolist()][-100:]
            if self._mode is not AutoresetMode.DISABLED:
                self._returns[ended] = 0
                self._lengths[ended] = 0
        if self._mode is AutoresetMode.NEXT_STEP:
            self._reset_by_step = ended
        return result

    def state(self) -> dict[str, list[Any]]:
        """Return returns and lengths for a checkpoint."""
        return {"returns": self.returns, "lengths": self.lengths}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state`.

        Raises:
            TypeError: a number is none.
            ValueError: the lists differ in length.
        """
        self.returns = [float(value) for value in state["returns"]]
        self.lengths = [operator.index(value) for value in state["lengths"]]
        if len(self.returns) != len(self.lengths):
            raise ValueError("each episode must have a return and a length")

    def means(self) -> dict[str, float]:
        """Return the means under SB3's names, nothing before the first end of an episode."""
        if not self.returns:
            return {}
        return {
            "rollout/ep_rew_mean": float(np.mean(self.returns)),
            "rollout/ep_len_mean": float(np.mean(self.lengths)),
        }
