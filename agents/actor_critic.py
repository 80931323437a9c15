"""What A2C and PPO share: a network with policy and value, rollouts, and their advantages."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from .network_policy import NetworkPolicy, clip
from .networks import build_features, mlp
from .wrappers import VectorEpisodeStatistics, autoreset_mode

if TYPE_CHECKING:
    from .teacher import Teacher

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


class Categorical:
    """Independent choices, one for a Discrete action or one for each part of a MultiDiscrete one.

    Args:
        logits: of all choices side by side, shape (batch, sum of sizes).
        sizes: number of options of each choice.
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        self._logits = logits.split_with_sizes(sizes, 1)

    @functools.cached_property
    def log_probs(self) -> list[Tensor]:
        """Logarithms of the probabilities of each choice, shape (batch, size) each."""
        return [part.log_softmax(1) for part in self._logits]

    def sample(self) -> Tensor:
        """Return random actions, int64 of shape (batch, choices), by torch's global generator.

        The Gumbel-max trick: less than half the time of torch.multinomial.
        """
        noisy = [part - torch.empty_like(part).exponential_().log() for part in self.log_probs]
        return torch.stack([part.argmax(1) for part in noisy], 1)

    def mode(self) -> Tensor:
        """Return the most likely actions, int64 of shape (batch, choices)."""
        return torch.stack([part.argmax(1) for part in self._logits], 1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the logarithm of the actions' probabilities, shape (batch,)."""
        choices = zip(self.log_probs, actions.unbind(1), strict=True)
        return _total([part.gather(1, chosen.unsqueeze(1)).squeeze(1) for part, chosen in choices])

    def imitation_loss(self, advised: Tensor) -> Tensor:
        """Return the cross-entropy to probabilities of one choice, shape (batch, size)."""
        return -(advised * self.log_probs[0]).sum(1).mean()

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape (batch,)."""
        return _total([-(part.exp() * part).sum(1) for part in self.log_probs])


def _total(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


class Gaussian:
    """A normal distribution for each element of a Box action, independent of each other.

    Args:
        mean: shape (batch, elements).
        log_std: logarithm of the standard deviations, shape (elements,).
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self) -> Tensor:
        """Return random actions, shape (batch, elements), by torch's global generator."""
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def mode(self) -> Tensor:
        """Return the most likely actions, shape (batch, elements)."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the logarithm of the actions' densities, shape (batch,)."""
        deviations = (actions - self.mean) / self.log_std.exp()
        return (-0.5 * (deviations**2 + math.log(2 * math.pi)) - self.log_std).sum(1)

    def imitation_loss(self, advised: Tensor) -> Tensor:
        """Return the mean negative log density of a teacher's actions, shape (batch, elements)."""
        return -self.log_prob(advised).mean()

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, shape (batch,)."""
        entropies = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return entropies.sum().expand(len(self.mean))


class ActorCritic(nn.Module):
    """A policy and a value network; only the encoder of images is shared.

    The weights begin orthogonal and the biases zero. The last layer of the policy begins a hundred
    times smaller, so that all actions are nearly as likely at first.

    Args:
        observation_space: vectors, stacks of vectors, or images.
        action_space: Discrete, MultiDiscrete or Box.
        hidden: widths of the hidden layers of each network, with tanh between.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.encoder, features = build_features(observation_space)
        self.sizes: list[int] | None = None
        if isinstance(action_space, gym.spaces.Discrete):
            self.sizes = [int(action_space.n)]
        elif isinstance(action_space, gym.spaces.MultiDiscrete):
            self.sizes = action_space.nvec.tolist()
        outputs = math.prod(action_space.shape or ()) if self.sizes is None else sum(self.sizes)
        if self.sizes is None:
            self.log_std = nn.Parameter(torch.zeros(outputs))
        self.policy = mlp(features, hidden, outputs, nn.Tanh)
        self.value = mlp(features, hidden, 1, nn.Tanh)
        for network, last_gain in (
            (self.encoder, math.sqrt(2)),
            (self.policy, 0.01),
            (self.value, 1.0),
        ):
            make_orthogonal(network, last_gain)

    def forward(self, observations: Tensor) -> tuple[Categorical | Gaussian, Tensor]:
        """Return the distribution of actions, and values of shape (batch,)."""
        features = self.encoder(observations)
        return self._distribution(features), self.value(features).squeeze(1)

    def distribution(self, observations: Tensor) -> Categorical | Gaussian:
        """Return the distribution of actions."""
        return self._distribution(self.encoder(observations))

    def values(self, observations: Tensor) -> Tensor:
        """Return the values, shape (batch,)."""
        values: Tensor = self.value(self.encoder(observations)).squeeze(1)
        return values

    def _distribution(self, features: Tensor) -> Categorical | Gaussian:
        outputs = self.policy(features)
        if self.sizes is None:
            return Gaussian(outputs, self.log_std)
        return Categorical(outputs, self.sizes)


def make_orthogonal(network: nn.Module, last_gain: float) -> None:
    """Make linear maps and convolutions orthogonal with gain sqrt(2), the last with its own."""
    layers = [one for one in network.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    for layer in layers:
        is_last = layer is layers[-1]
        nn.init.orthogonal_(layer.weight, last_gain if is_last else math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class ActorCriticPolicy(NetworkPolicy):
    """A policy whose network is an :class:`ActorCritic`, or any module with its methods."""

    network: ActorCritic

    def build(self) -> nn.Module:
        """Return a new network for the policy's spaces and widths.

        Raises:
            ValueError: there is no network for the observations, or no policy for the actions.
        """
        space = self.action_space
        legal = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        if isinstance(space, gym.spaces.Discrete):
            legal = space.start == 0
        elif isinstance(space, gym.spaces.MultiDiscrete):
            legal = space.nvec.ndim == 1 and not space.start.any()
        if not legal:
            raise ValueError(
                f"{self.algo} has no policy for actions {space}: they must be Discrete or"
                " MultiDiscrete that begin with 0, or a Box of one axis"
            )
        return ActorCritic(self.observation_space, space, self.hidden)

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the most likely actions, or some drawn from torch's global generator."""
        with torch.no_grad():
            policy = self.network.distribution(self.tensor(observations))
            actions = policy.mode() if deterministic else policy.sample()
        return self.env_actions(actions)

    def most_likely(self, observations: Tensor) -> Tensor:
        """Return the modes of the distributions, those of a Box clipped."""
        actions = self.network.distribution(observations).mode()
        space = self.action_space
        if isinstance(space, gym.spaces.Box):
            return clip(actions, space)
        return actions[:, 0] if isinstance(space, gym.spaces.Discrete) else actions

    def env_actions(self, actions: Tensor) -> npt.NDArray[Any]:
        """Return actions of a distribution as environments take them: a Box clips its own."""
        space = self.action_space
        array: npt.NDArray[Any] = actions.cpu().numpy()
        if isinstance(space, gym.spaces.Box):
            return array.clip(space.low, space.high).astype(space.dtype)
        if isinstance(space, gym.spaces.Discrete):
            array = array[:, 0]
        return array.astype(space.dtype, copy=False)


@dataclass(frozen=True)
class Rollout:
    """What a policy did in ``num_envs`` sub-environments over ``n_steps`` actions.

    Args:
        observations: before each action, as the network takes them, shape (n_steps, num_envs, ...).
        actions: of the distribution, shape (n_steps, num_envs, choices or elements).
        log_probs: of the actions, shape (n_steps, num_envs).
        values: of the observations, shape (n_steps, num_envs).
        next_values: of the observations after the actions, before any reset, shape
            (n_steps, num_envs).
        rewards: shape (n_steps, num_envs).
        terminated: whether the action ended the task, shape (n_steps, num_envs).
        ended: whether the episode ended, by a time limit too, shape (n_steps, num_envs).
        valid: False where a step only reset a sub-environment, and its action had no effect, shape
            (n_steps, num_envs).
        advised: what a teacher would have done, shape (n_steps, num_envs, ...), see
            :meth:`Teacher.advise`; None without one.
    """

    observations: npt.NDArray[Any]
    actions: Tensor
    log_probs: Tensor
    values: Floats
    next_values: Floats
    rewards: Floats
    terminated: Flags
    ended: Flags
    valid: Flags
    advised: Tensor | None


def gae(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Flags,
    ended: Flags,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """Return generalised advantage estimates, shape (n_steps, num_envs).

    Schulman et al., "High-dimensional continuous control using generalized advantage estimation",
    2016, equation 16: the sum over l of ``(gamma * gae_lambda)**l * delta[t + l]`` up to the end of
    the episode or of the rollout, with ``delta = reward + gamma * next_value - value``.

    A termination is worth nothing after it. An episode that was truncated, or that goes on after
    the rollout, bootstraps from the value of its last observation.

    Args:
        rewards: shape (n_steps, num_envs), as all that follow.
        values: of the observations before the actions.
        next_values: of the observations after them, before any reset.
        terminated: whether the action ended the task.
        ended: whether the episode ended, by a time limit too.
        gamma: discount, 0 to 1.
        gae_lambda: 0 for one-step advantages, 1 for the whole rollout's.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    discounts = gamma * gae_lambda * ~ended
    advantages = np.empty_like(deltas)
    later = np.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        advantages[step] = later = deltas[step] + discounts[step] * later
    return advantages


class RolloutCollector:
    """Plays a policy in a vector environment of any autoreset mode, a rollout at a time.

    Args:
        envs: what to play in.
        policy: who plays.
        reward_scale: factor of the rewards in rollouts.
        teacher: who is asked in each step what it would do, None for nobody.

    Attributes:
        episodes: the returns and lengths of the latest episodes, unscaled.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        policy: ActorCriticPolicy,
        reward_scale: float,
        teacher: "Teacher | None" = None,
    ) -> None:
        self.episodes = VectorEpisodeStatistics(envs)
        self._mode = autoreset_mode(envs)
        self._policy = policy
        self._reward_scale = reward_scale
        self._teacher = teacher

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin an episode in every sub-environment."""
        self._observations, infos = self.episodes.reset(seed=list(seeds))
        self._ended = np.zeros(self.episodes.num_envs, np.bool_)
        if self._teacher is not None:
            self._teacher.begin(~self._ended, infos)

    def collect(self, n_steps: int, on_step: Callable[[], bool]) -> Rollout | None:
        """Return what happens in the next steps, None where ``on_step`` returned False.

        Args:
            n_steps: actions of each sub-environment.
            on_step: called after each step of all sub-environments; returns whether to go on.
        """
        network, device = self._policy.network, self._policy.device
        times = (n_steps, self.episodes.num_envs)
        inputs = torch.empty(
            (*times, *(self._policy.observation_space.shape or ())), dtype=self._policy.dtype
        )
        observations = inputs.numpy()
        values, rewards = np.empty(times, np.float32), np.empty(times, np.float32)
        terminated, ended, valid = (np.empty(times, np.bool_) for _ in range(3))
        actions, log_probs, advised = [], [], []
        truncations: list[tuple[tuple[int, int], npt.NDArray[Any]]] = []
        for step in range(n_steps):
            observations[step] = self._observations
            with torch.no_grad():
                policy, value = network(inputs[step].to(device))
                actions.append(policy.sample())
                log_probs.append(policy.log_prob(actions[-1]))
            if self._teacher is not None:
                advised.append(
                    torch.as_tensor(self._teacher.advise(self._observations), device=device)
                )
            values[step] = value.cpu().numpy()
            valid[step] = ~self._ended if self._mode is AutoresetMode.NEXT_STEP else True
            final_obs, truncated = self._step(actions[-1], rewards[step], terminated[step])
            ended[step] = self._ended
            if truncated.any():
                for index in np.flatnonzero(truncated & ~terminated[step]).tolist():
                    truncations.append(((step, index), final_obs[index]))
            if not on_step():
                return None
        next_values = np.empty_like(values)
        next_values[:-1] = values[1:]
        next_values[-1] = self._values(self._observations)
        if truncations:
            # After a reset the next step's value is that of another episode.
            places, finals = zip(*truncations, strict=True)
            next_values[tuple(np.transpose(places))] = self._values(np.stack(finals))
        return Rollout(
            *(observations, torch.stack(actions), torch.stack(log_probs), values, next_values),
            *(rewards, terminated, ended, valid),
            torch.stack(advised) if advised else None,
        )

    def _step(self, actions: Tensor, rewards: Floats, terminated: Flags) -> tuple[Any, Flags]:
        """Act, fill in rewards and terminations, and return last observations and truncations."""
        envs = self.episodes
        taken = self._policy.env_actions(actions)
        final_obs, rewards[:], terminated[:], truncated, infos = envs.step(taken)
        if self._teacher is not None:
            self._teacher.see(taken)
        rewards *= self._reward_scale
        self._ended = terminated | truncated
        self._observations = final_obs
        if self._ended.any():
            if self._mode is AutoresetMode.DISABLED:
                self._observations, infos = envs.reset(options={"reset_mask": self._ended})
                if self._teacher is not None:
                    self._teacher.begin(self._ended, infos)
            elif self._mode is AutoresetMode.SAME_STEP:
                final_obs = infos["final_obs"]
        return final_obs, truncated

    def _values(self, observations: npt.NDArray[Any]) -> Floats:
        with torch.no_grad():
            values = self._policy.network.values(self._policy.tensor(observations))
        array: Floats = values.cpu().numpy()
        return array


@dataclass(frozen=True)
class Minibatch:
    """Transitions that one gradient is computed from; all but the observations of shape (batch,).

    Args:
        observations: shape (batch, ...).
        actions: shape (batch, choices or elements).
        log_probs: of the actions, by the policy that took them.
        values: of the observations, by the network at that time.
        advantages: estimated.
        returns: what the values should be.
        advised: what a teacher would have done, shape (batch, ...); None without one.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    advised: Tensor | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def at(self, indices: Tensor) -> "Minibatch":
        """Return some of the transitions."""
        columns: Any = {
            name: None if one is None else one[indices] for name, one in vars(self).items()
        }
        return Minibatch(**columns)


def normalized(advantages: Tensor) -> Tensor:
    """Return advantages with mean 0 and standard deviation 1, shape (batch,)."""
    if len(advantages) == 1:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def transitions(
    rollout: Rollout, policy: ActorCriticPolicy, gamma: float, gae_lambda: float
) -> Minibatch:
    """Return all transitions of a rollout with their advantages and returns."""
    estimated = gae(
        *(rollout.rewards, rollout.values, rollout.next_values, rollout.terminated, rollout.ended),
        *(gamma, gae_lambda),
    )
    valid = rollout.valid
    kept = torch.from_numpy(valid).to(policy.device)
    values, advantages, returns = (
        torch.from_numpy(array[valid]).to(policy.device)
        for array in (rollout.values, estimated, estimated + rollout.values)
    )
    return Minibatch(
        policy.tensor(rollout.observations[valid]),
        *(rollout.actions[kept], rollout.log_probs[kept], values, advantages, returns),
        None if rollout.advised is None else rollout.advised[kept],
    )


def explained_variance(batch: Minibatch) -> float:
    """Return how much of the returns' variance the values explain: at most 1, NaN without any."""
    spread = batch.returns.var()
    return float(1 - (batch.returns - batch.values).var() / spread) if spread > 0 else math.nan
