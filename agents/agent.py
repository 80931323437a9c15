"""What an agent is: a policy and the environment that it acts in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from .environment import EnvConfig
from .policy import Policy


@dataclass
class Agent:
    """A policy together with its environment.

    Args:
        algo: name of the algorithm or controller.
        env: the environment.
        policy: made for the spaces of the environment.
        facts: what a card says of the training: seed, settings, steps, seconds, versions, returns.
        weights_hash: SHA-256 of the file of weights, None where there is none.
        name: for people; that of the algorithm, or ``"ppo-robust"``.
    """

    algo: str
    env: EnvConfig
    policy: Policy
    facts: dict[str, Any] = field(default_factory=dict)
    weights_hash: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Name the agent after its algorithm."""
        self.name = self.name or self.algo

    @property
    def env_id(self) -> str:
        """The id of the environment, as it was given."""
        return self.env.env_id

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The space of one observation."""
        return self.policy.observation_space

    @property
    def action_space(self) -> gym.Space[Any]:
        """The space of one action."""
        return self.policy.action_space

    @property
    def renderer(self) -> str | None:
        """What draws the images that the agent sees, None if it sees none of this package's."""
        if self.observation_space.dtype != np.uint8 or not self.env.is_ours:
            return None
        return str(self.env.env_kwargs.get("renderer", "tiny"))

    def act(
        self,
        observations: npt.NDArray[Any],
        deterministic: bool,
        episodes: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[Any]:
        """Return an action for each of several observations, shape (num_envs, ...).

        Args:
            observations: of some episodes.
            deterministic: whether the most likely actions.
            episodes: which they are of those that the policy has begun, for one with a memory.
        """
        if self.policy.has_memory:
            memorising: Any = self.policy
            actions: npt.NDArray[Any] = memorising.act(observations, deterministic, episodes)
            return actions
        return self.policy.act(observations, deterministic)

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...] | None]:
        """Return an action and ``state``: see :meth:`Policy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment that the agent acts in: see :meth:`EnvConfig.make`."""
        return self.env.make(**kwargs)

    def make_vec(self, num_envs: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        """Make several of them, with ``AutoresetMode.DISABLED``: see :meth:`EnvConfig.make_vec`."""
        return self.env.make_vec(num_envs, **kwargs)

    def save(self, path: Path) -> None:
        """Write the weights, then the card that names them, with the agent's ``facts``.

        Args:
            path: of the card, ``….json``; the weights are written beside it.
        """
        from .card import write_card  # here, so that controllers need no torch

        policy: Any = self.policy
        entries = {
            "algo": self.algo,
            "env_id": self.env.env_id,
            "env_kwargs": self.env.env_kwargs,
            "renderer": self.renderer,
            "frame_stack": self.env.frame_stack,
            "action_repeat": self.env.action_repeat,
            "observe_actions": self.env.observe_actions,
            "hold_dropped": self.env.hold_dropped,
            "hidden": list(policy.hidden),
        }
        self.weights_hash = write_card(path, entries, self.facts, policy.network.state_dict())


def new_agent(policy: Any, env: EnvConfig, hidden: tuple[int, ...], device: str = "cpu") -> Agent:
    """Return an untrained agent, whose weights torch's global generator decides.

    Args:
        policy: the class of its policy, see :class:`NetworkPolicy`.
        env: its environment, made once to learn its spaces.
        hidden: widths of the hidden layers.
        device: where its network is.
    """
    with env.make() as made:
        spaces = made.observation_space, made.action_space
    made_policy = policy(*spaces, hidden)
    made_policy.network.to(device)
    return Agent(policy.algo, env, made_policy)
