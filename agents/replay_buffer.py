"""The transitions that DQN learns from."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checkpoints import CheckpointError, below, matching, whole_number
from .networks import height_axis


@dataclass(frozen=True)
class Batch:
    """Transitions of up to n steps.

    Args:
        observations: shape (batch_size, ...).
        actions: shape (batch_size,).
        returns: discounted rewards of the window, shape (batch_size,).
        next_obs: after the window, shape (batch_size, ...).
        bootstrap: discount of what follows the window, 0 after a termination, shape
            (batch_size,).
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    next_obs: Tensor
    bootstrap: Tensor

    def to(self, device: str) -> "Batch":
        """Return the same transitions on a device."""
        return Batch(*(tensor.to(device) for tensor in vars(self).values()))

    def shifted(self, pixels: int, rng: np.random.Generator) -> "Batch":
        """Return the same transitions with their images shifted at random.

        Kostrikov et al., "Image augmentation is all you need", 2021: a network that sees the same
        thing at many places learns what it is rather than the images by heart.

        Args:
            pixels: the greatest shift in each direction; the edge is repeated.
            rng: draws the shift of each stack.
        """
        return dataclasses.replace(
            self,
            observations=_shifted(self.observations, pixels, rng),
            next_obs=_shifted(self.next_obs, pixels, rng),
        )


def _shifted(images: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    shape = images.shape
    axis = 1 + height_axis(shape[1:])
    height, width = shape[axis : axis + 2]
    stacks = images.numpy().reshape(len(images), shape[1:axis].numel(), height, width, -1)
    edge = (pixels, pixels)
    padded = np.pad(stacks, [(0, 0), (0, 0), edge, edge, (0, 0)], mode="edge")
    shifts = pixels + rng.integers(-pixels, pixels + 1, (2, len(images)))
    shifted = [
        stack[:, down : down + height, right : right + width]
        for stack, down, right in zip(padded, *shifts, strict=True)
    ]
    return torch.from_numpy(np.stack(shifted).reshape(shape))


class ReplayBuffer:
    """The latest transitions of each sub-environment, in the order of time.

    Every observation is kept once, as the latest of its stack: a stack is put together from the
    observations before it, and what follows an action is what the next one begins with.

    Args:
        size: transitions in all.
        n_envs: sub-environments.
        space: of an observation.
        frame_stack: observations in a stack; with 1 the space is of a single one.
    """

    def __init__(self, size: int, n_envs: int, space: gym.Space[Any], frame_stack: int) -> None:
        shape = space.shape or ()
        self._stacked = frame_stack > 1
        self._frame_stack = frame_stack
        self.length = size // n_envs + 1  # and a place for the latest observation
        times = (self.length, n_envs)
        self.columns: dict[str, npt.NDArray[Any]] = {
            "frames": np.zeros((*times, *shape[self._stacked :]), space.dtype),
            "ages": np.zeros(times, np.int32),  # actions since the first of the episode
            "actions": np.zeros(times, np.int64),
            "rewards": np.zeros(times, np.float32),
            "terminated": np.zeros(times, np.bool_),
            "ended": np.zeros(times, np.bool_),
        }
        # The last observation of a truncated episode, by the time and env index of its action.
        self.final_obs: dict[tuple[int, int], npt.NDArray[Any]] = {}
        self.added = 0

    def begin(self, observations: npt.NDArray[Any]) -> None:
        """Begin an episode in every sub-environment."""
        now = self.added % self.length
        self.columns["frames"][now] = self._latest(observations)
        self.columns["ages"][now] = 0

    def add(
        self,
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        next_obs: npt.NDArray[Any],
        final_obs: npt.NDArray[Any],
    ) -> None:
        """Add a transition of every sub-environment.

        Args:
            actions: shape (n_envs,).
            rewards: shape (n_envs,).
            terminated: shape (n_envs,).
            truncated: shape (n_envs,).
            next_obs: what the next actions begin with, of a new episode after an end.
            final_obs: what followed the actions, before any reset.
        """
        now, then = self.added % self.length, (self.added + 1) % self.length
        ended = terminated | truncated
        for name, values in (
            ("actions", actions),
            ("rewards", rewards),
            ("terminated", terminated),
            ("ended", ended),
        ):
            self.columns[name][now] = values
        for index in range(len(ended)):
            self.final_obs.pop((now, index), None)
        for index in np.flatnonzero(truncated & ~terminated).tolist():
            self.final_obs[now, index] = self._latest(final_obs[index][None])[0].copy()
        self.columns["frames"][then] = self._latest(next_obs)
        self.columns["ages"][then] = np.where(ended, 0, self.columns["ages"][now] + 1)
        self.added += 1

    def _latest(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return observations[:, -1] if self._stacked else observations

    def truncate(self) -> None:
        """End every running episode here, as a time limit would."""
        last, now = (self.added - 1) % self.length, self.added % self.length
        for index in np.flatnonzero(~self.columns["ended"][last]):
            self.final_obs[last, int(index)] = self.columns["frames"][now, index].copy()
        self.columns["ended"][last] = True

    def sample(
        self, batch_size: int, n_steps: int, gamma: float, rng: np.random.Generator
    ) -> Batch:
        """Return random windows of up to ``n_steps`` that stop at the end of an episode."""
        # The newest windows are not complete yet, and the oldest stacks no longer are.
        oldest = max(0, self.added - self.length + self._frame_stack)
        first_time = rng.integers(oldest, self.added - n_steps + 1, batch_size)
        env = rng.integers(0, self.columns["ended"].shape[1], batch_size)
        returns = np.zeros(batch_size, np.float32)
        discount = np.ones(batch_size, np.float32)
        last = first_time
        going_on = np.ones(batch_size, np.bool_)
        for step in range(n_steps):
            time = (first_time + step) % self.length
            returns += discount * going_on * self.columns["rewards"][time, env]
            last = np.where(going_on, time, last)
            discount = np.where(going_on, discount * np.float32(gamma), discount)
            going_on &= ~self.columns["ended"][time, env]
        first = first_time % self.length
        continues = ~self.columns["terminated"][last, env]
        return Batch(
            torch.from_numpy(self._observations(first, env)),
            torch.from_numpy(self.columns["actions"][first, env]),
            torch.from_numpy(returns),
            torch.from_numpy(self._next_obs(last, env)),
            torch.from_numpy(discount * continues),
        )

    def _observations(
        self, time: npt.NDArray[np.int64], env: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Return observations; before the first of an episode its stack repeats that."""
        frames: npt.NDArray[Any] = self.columns["frames"]
        if not self._stacked:
            single: npt.NDArray[Any] = frames[time, env]
            return single
        back = np.minimum(np.arange(self._frame_stack)[::-1], self.columns["ages"][time, env, None])
        stacks: npt.NDArray[Any] = frames[(time[:, None] - back) % self.length, env[:, None]]
        return stacks

    def _next_obs(
        self, time: npt.NDArray[np.int64], env: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Return what followed; after a termination, where it is not used, anything."""
        next_obs: npt.NDArray[Any] = self.columns["frames"][(time + 1) % self.length, env]
        for index, key in enumerate(zip(time.tolist(), env.tolist(), strict=True)):
            if key in self.final_obs:
                next_obs[index] = self.final_obs[key]
        if not self._stacked:
            return next_obs
        # The stack of the action, without its oldest and with what followed.
        back = np.minimum(
            np.arange(self._frame_stack - 1)[::-1], self.columns["ages"][time, env, None]
        )
        earlier = self.columns["frames"][(time[:, None] - back) % self.length, env[:, None]]
        return np.concatenate([earlier, next_obs[:, None]], axis=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content for a checkpoint."""
        filled = min(self.added + 1, self.length)
        tensors = {
            f"replay_buffer.{name}": torch.from_numpy(column[:filled])
            for name, column in self.columns.items()
        }
        frame = self.columns["frames"][0, 0]
        final_obs = np.array(list(self.final_obs.values()), frame.dtype).reshape(-1, *frame.shape)
        places = np.array(list(self.final_obs), np.int64).reshape(-1, 2)
        return {
            **tensors,
            "replay_buffer.final_obs": torch.from_numpy(final_obs),
            "replay_buffer.final_places": torch.from_numpy(places),
            "replay_buffer.added": torch.tensor(self.added),
        }

    def restore(self, tensors: Mapping[str, Tensor], n_actions: int) -> None:
        """Undo :meth:`tensors`.

        Args:
            tensors: of a checkpoint.
            n_actions: that there are, for the check.

        Raises:
            CheckpointError: the content is not that of such a buffer.
        """
        content = below(tensors, "replay_buffer")
        added = whole_number(content["added"])
        filled = min(added + 1, self.length)
        for name, column in self.columns.items():
            dtype = torch.from_numpy(column[:0]).dtype
            matching(content[name], (filled, *column.shape[1:]), dtype)
        actions, ages = content["actions"], content["ages"]
        places = matching(content["final_places"], (-1, 2), torch.int64)
        frame = self.columns["frames"][0, 0]
        final_obs = matching(
            content["final_obs"], (len(places), *frame.shape), content["frames"].dtype
        )
        limits = torch.tensor(self.columns["ended"].shape)
        if not (
            ((actions >= 0) & (actions < n_actions)).all()
            and (ages >= 0).all()
            and ((places >= 0) & (places < limits)).all()
        ):
            raise CheckpointError("the replay buffer of the checkpoint is out of its range")
        self.added = added
        self.final_obs = {
            (time, env): final
            for (time, env), final in zip(places.tolist(), final_obs.numpy(), strict=True)
        }
        for name, column in self.columns.items():
            column[:filled] = content[name].numpy()
