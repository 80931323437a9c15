"""What a training can imitate at first: an LQG that knows the parameters of each episode.

The agent that is trained does not know them, and must find out from its memory of observations and
actions what it needs. Where it sees images, the LQG sees the state, without noise and delay: Chen
et al., "Learning by cheating", 2019.

Schmitt et al., "Kickstarting deep reinforcement learning", 2018: what the teacher would do in the
states that the agent comes to is one more term of the loss, whose weight falls to zero. Imitation
alone is DAgger's of Ross et al., "A reduction of imitation learning and structured prediction to
no-regret online learning", 2011, without its growing data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from .. import registered
from ..checks import require_disabled
from ..env import BulletEnv
from ..observers import StateObserver
from ..perturbations import Fault, Perturbations
from ..registration import load_task
from .lqg import LQGPolicy
from .lqr import flat_observation

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
    task = registered(env.env_id)
    regulated = task is not None and load_task(task.task).has_equilibrium
    if not regulated or env.action_repeat != 1 or vec_env != "batch":
        raise ValueError(
            "teacher_coef must be 0 but for a bullet_envs.Task with has_equilibrium, with"
            f" action_repeat=1 and vec_env='batch', not {env.env_id} with {env.action_repeat} and"
            f" {vec_env!r}"
        )


class Teacher:
    """Says what the LQG would do in the sub-environments that another policy acts in.

    Args:
        env: the environment.
        envs: the sub-environments, of this package, with ``AutoresetMode.DISABLED``.

    Raises:
        ValueError: the sub-environments are reset by themselves.
    """

    def __init__(self, env: EnvConfig, envs: VectorEnv[Any, Any, Any]) -> None:
        require_disabled(envs, "a teacher")
        bare: Any = envs.unwrapped
        self._envs = bare
        self._task = bare.task
        self._observes_state = isinstance(bare.observer, StateObserver)
        with BulletEnv(self._task) as made:
            if self._observes_state:
                self._lqg = LQGPolicy(made, env.hold_dropped, bare.perturbations)
            else:
                self._lqg = LQGPolicy(made, False, _without_sensors(bare.perturbations))
            self._columns = spaces.flatdim(made.observation_space)
        self._is_stacked = env.frame_stack > 1
        self._discrete: npt.NDArray[np.float64] | None = None
        if isinstance(self._task.action_space, spaces.Discrete):
            self._discrete = np.array(self._task.discrete_actions)
        self._all = np.arange(envs.num_envs)

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
        shares = self._lqg.wanted(self._observed(observations), self._all)
        if self._discrete is None:
            return np.clip(shares, -1, 1).astype(np.float32)
        squares = ((shares[:, None] - self._discrete) ** 2).sum(axis=2)
        weights = np.exp(SHARPNESS * (squares.min(axis=1, keepdims=True) - squares))
        probabilities: npt.NDArray[Any] = weights / weights.sum(axis=1, keepdims=True)
        return probabilities.astype(np.float32)

    def see(self, actions: npt.NDArray[Any]) -> None:
        """Remember what the agent does, as the environments take it."""
        self._lqg.see(actions, self._all)

    def _observed(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._observes_state:
            latest = observations[:, -1] if self._is_stacked else observations
            return latest[:, : self._columns]
        states = np.array(list(self._envs.state().values())).T.tolist()
        return np.array([flat_observation(self._task, state) for state in states])


def _without_sensors(of: Perturbations) -> Perturbations:
    """Return perturbations in which states are observed as they are."""
    return replace(of, observation_delay=0, noise=(), bias={}, dropped=Fault(), stuck=Fault())
