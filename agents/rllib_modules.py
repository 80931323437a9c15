"""What Ray RLlib needs to learn in these environments: a check of the mode, and networks.

RLlib finds an id by itself, in every process, and steps a whole batch in each env runner::

    config = (
        PPOConfig()
        .environment("bullet_envs:BalancingPlate-v0")
        .env_runners(gym_env_vectorize_mode="vector_entry_point", num_envs_per_env_runner=64)
        .callbacks(RequireNextStep)
    )

RLlib's own networks know no images of bytes. On those of pixel ids use one of these::

    config.rl_module(
        rl_module_spec=RLModuleSpec(ActorCriticModule, model_config={"hidden": (64, 64)})
    )

This needs the extra ``[rllib]``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from .actor_critic import ActorCriticPolicy, Categorical
from .network_policy import GreedyPolicy
from .networks import is_image
from .wrappers import autoreset_mode


class RequireNextStep(RLlibCallback):  # type: ignore[misc]
    """Refuses vector environments whose episodes RLlib would mix.

    RLlib takes the first step after an end for a reset, in whatever autoreset mode.
    """

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Look at the mode.

        Raises:
            ValueError: it is another than ``NEXT_STEP``.
        """
        if (mode := autoreset_mode(env_runner.env)) is not AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"autoreset_mode={mode.value!r} must be {AutoresetMode.NEXT_STEP.value!r}: RLlib"
                " takes the first step after the end of an episode for a reset"
            )


class ActorCriticModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """:class:`~bullet_envs.agents.actor_critic.ActorCritic` as an RLModule.

    Its ``model_config`` is ``{"hidden": widths}``. Images are taken as bytes.
    """

    def setup(self) -> None:
        """Build the network."""
        hidden = tuple(self.model_config["hidden"])
        policy = ActorCriticPolicy(self.observation_space, self.action_space, hidden)
        self.network = policy.network

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        features = self._features(batch)
        policy = self.network._distribution(features)
        if isinstance(policy, Categorical):
            inputs = torch.cat(policy.log_probs, 1)
        else:
            inputs = torch.cat([policy.mean, policy.log_std.expand_as(policy.mean)], 1)
        return {Columns.ACTION_DIST_INPUTS: inputs, Columns.EMBEDDINGS: features}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Return the values, shape (batch,)."""
        features = self._features(batch) if embeddings is None else embeddings
        values: Tensor = self.network.value(features).squeeze(1)
        return values

    def _features(self, batch: Mapping[str, Any]) -> Tensor:
        features: Tensor = self.network.encoder(_observations(self, batch))
        return features


class QModule(DefaultDQNTorchRLModule):  # type: ignore[misc]
    """The Q-network of :mod:`~bullet_envs.agents.dqn` as an RLModule of RLlib's DQN.

    Its ``model_config`` is RLlib's and ``{"hidden": widths}``. Images are taken as bytes.
    """

    def setup(self) -> None:
        """Build the network."""
        self.uses_dueling, self.uses_double_q, self.num_atoms = False, True, 1
        self.epsilon_schedule = Scheduler(
            fixed_value_or_schedule=self.model_config["epsilon"], framework=self.framework
        )
        hidden = tuple(self.model_config["hidden"])
        policy = GreedyPolicy(self.observation_space, self.action_space, hidden)
        self.network = policy.network

    def get_initial_state(self) -> dict[str, Any]:
        """Return nothing: the network has no memory."""
        return {}

    def make_target_networks(self) -> None:
        """Add the target network."""
        self._target = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Return the network and its target network."""
        return [(self.network, self._target)]

    def get_non_inference_attributes(self) -> list[str]:
        """Return what an env runner does not need."""
        return ["_target"]

    def compute_q_values(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return a value for each action, shape (batch, actions)."""
        return {QF_PREDS: self.network(_observations(self, batch))}

    def forward_target(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the same of the target network."""
        return {QF_PREDS: self._target(_observations(self, batch))}


class NStepEpisodeReplayBuffer(EpisodeReplayBuffer):  # type: ignore[misc]
    """RLlib's replay buffer with returns that end where their episode does.

    That of RLlib 2.60 counts a return of more than 3 rewards at the end of an episode as less than
    no transition, so that a batch from short episodes is never full, and discounts the value after
    the last rewards of an episode as if they were ``n_step``. Nor can it be seeded.

    Args:
        *args: RLlib's.
        seed: of its random choices, None for another one each time.
        **kwargs: RLlib's.
    """

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rng = np.random.default_rng(seed)

    def _sample_episodes(
        self,
        num_items: int,
        *,
        n_step: int,
        gamma: float,
        **kwargs: Any,
    ) -> list[SingleAgentEpisode]:
        chosen = self.rng.integers(len(self._indices), size=num_items)
        return [self._transition(self._indices[index], n_step, gamma) for index in chosen]

    def _transition(self, place: tuple[int, int], n_step: int, gamma: float) -> SingleAgentEpisode:
        """Return an episode of one action and the rewards of up to ``n_step``."""
        number, start = place
        episode = self.episodes[number - self._num_episodes_evicted]
        end = min(start + n_step, len(episode))
        rewards = np.asarray(episode.get_rewards(slice(start, end)))
        is_last = end == len(episode)
        return SingleAgentEpisode(
            id_=episode.id_,
            observation_space=episode.observation_space,
            action_space=episode.action_space,
            observations=[episode.get_observations(start), episode.get_observations(end)],
            actions=[episode.get_actions(start)],
            rewards=[float(rewards @ gamma ** np.arange(len(rewards)))],
            terminated=is_last and episode.is_terminated,
            truncated=is_last and episode.is_truncated,
            extra_model_outputs={"n_step": [end - start], "weights": [1.0]},
            t_started=start,
            len_lookback_buffer=0,
        )


def _observations(module: Any, batch: Mapping[str, Any]) -> Tensor:
    observations: Tensor = batch[Columns.OBS]
    return observations if is_image(module.observation_space) else observations.float()
