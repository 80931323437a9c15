"""What a training can imitate at first: an LQG that knows the parameters of each episode.

The agent that is trained does not know them, and must find out from its memory of observations and
actions what it needs. Schmitt et al., "Kickstarting deep reinforcement learning", 2018: what the
teacher would do in the states that the agent comes to is one more term of the loss, whose weight
falls to zero. Imitation alone is DAgger's of Ross et al., "A reduction of imitation learning and
structured prediction to no-regret online learning", 2011, without its growing data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from . import controllers_of
from .lqg import LQGPolicy

if TYPE_CHECKING:
    from .environment import EnvConfig

SHARPNESS = 4.0  # of the probabilities of Discrete actions


def require_teachable(env: EnvConfig, vec_env: str) -> None:
    """Refuse an environment in which there is no LQG to be asked.

    Args:
        env: the environment.
        vec_env: how its sub-environments are stepped.

    Raises:
        ValueError: there is none, or another wrapper lies between.
    """
    if "lqg" not in controllers_of(env.env_id) or env.action_repeat != 1 or vec_env != "batch":
        raise ValueError(
            "teacher_coef must be 0 but for an id that has an LQG, with action_repeat=1 and"
            f" vec_env='batch', not {env.env_id} with {env.action_repeat} and {vec_env!r}"
        )


class Teacher:
    """Says what the LQG would do in the sub-environments that another policy acts in.

    Args:
        env: the environment.
        num_envs: sub-environments.
    """

    def __init__(self, env: EnvConfig, num_envs: int) -> None:
        with env.make_bare() as made:
            self._lqg = LQGPolicy(made, env.hold_dropped)
            self._columns = spaces.flatdim(made.observation_space)
            space = made.action_space
            bare: Any = made.unwrapped
        self._is_stacked = env.frame_stack > 1
        self._discrete: npt.NDArray[np.float64] | None = None
        if isinstance(space, spaces.Discrete):
            self._discrete = np.array(bare.task.discrete_actions)
        self._all = np.arange(num_envs)

    def begin(self, mask: npt.NDArray[np.bool_], infos: Mapping[str, Any]) -> None:
        """Begin episodes.

        Args:
            mask: where they begin, shape (num_envs,).
            infos: of their reset.
        """
        if mask.all():
            self._lqg.begin(infos, len(mask))
        else:
            self._lqg.begin_some(infos, np.flatnonzero(mask))

    def advise(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what the LQG would do.

        Args:
            observations: of all sub-environments, as the agent sees them.

        Returns:
            For a Box its actions, shape (num_envs, elements). For Discrete actions the probability
            of each, shape (num_envs, n), which falls with the square of the distance between its
            command and the LQG's: where the choice matters little, it tells little.
        """
        latest = observations[:, -1] if self._is_stacked else observations
        shares = self._lqg.wanted(latest[:, : self._columns], self._all)
        if self._discrete is None:
            return np.clip(shares, -1, 1).astype(np.float32)
        squares = ((shares[:, None] - self._discrete) ** 2).sum(axis=2)
        weights = np.exp(SHARPNESS * (squares.min(axis=1, keepdims=True) - squares))
        probabilities: npt.NDArray[Any] = weights / weights.sum(axis=1, keepdims=True)
        return probabilities.astype(np.float32)

    def see(self, actions: npt.NDArray[Any]) -> None:
        """Remember what the agent does, as the environments take it."""
        self._lqg.see(actions, self._all)
