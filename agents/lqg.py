"""A linear-quadratic-Gaussian controller: a Kalman filter with a predictor, and the LQR on it.

Kalman, "A new approach to linear filtering and prediction problems", 1960; for the delays Artstein,
"Linear systems with delayed controls: a reduction", 1982: what is regulated is the state at which
the command will act, predicted from the last state that has been observed and the commands since.
It knows the parameters of each episode, the noise and the delays of its perturbed environment, not
the state, and not pushes. What cannot be controlled with that is beyond an agent without memory.

Run ``bullet-envs evaluate --algo lqg --env BulletCartPole-v0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ..perturbations import Distribution, Perturbations, column_scales
from ..simulation import Simulation
from ..task import Task
from .lqr import Array, flat_observation, linearise, observation_model, regulate
from .policy import Policy

# Of what the linear model does not know, in units of the tolerances, in each control period.
MODEL_ERROR = 1e-3
UNKNOWN = 1e6  # variance of a column that tells nothing, in its own units


class LQGPolicy(Policy):
    """The controller as a policy with a memory, which :meth:`begin` begins.

    Args:
        env: of a task of :class:`~bullet_envs.Task` that observes its state.
        held: whether dropped columns are shown as they were before, not as 0.
        perturbations: what it knows of, None for all that the environment has.

    Raises:
        ValueError: as :class:`~bullet_envs.agents.lqr.LQRPolicy`.
    """

    has_memory: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        held: bool = False,
        perturbations: Perturbations | None = None,
    ) -> None:
        super().__init__(env.observation_space, env.action_space)
        self._held = held
        bare: Any = env.unwrapped
        self._task: Task = bare.task
        self._perturbations: Perturbations = perturbations or bare.perturbations
        self._nominal = linearise(self._task)
        self._at_rest, self._shown = observation_model(self._task)
        self._scales = np.array([actuator.scale for actuator in self._task.actuators])
        self._discrete: Array | None = None
        if isinstance(self.action_space, spaces.Discrete):
            self._discrete = np.array(self._task.discrete_actions)
        rng = np.random.default_rng(0)
        initial = [self._task.sample_initial_state(rng) for _ in range(1000)]
        coordinates = np.array([self._task.coordinates(one) for one in initial])
        self._prior = np.cov(coordinates.T)
        # What the observation has beyond its linear model counts as noise.
        observed = np.array([flat_observation(self._task, one) for one in initial])
        bent = observed - self._at_rest - coordinates @ self._shown.T
        self._noise = _noise(self._task, self._perturbations, np.square(bent).mean(axis=0))
        self._simulation: Simulation | None = None
        self.begin({}, 1)

    def begin(self, infos: Mapping[str, Any], count: int) -> None:
        """Begin episodes: the infos of their reset have their parameters."""
        n, m, columns = len(self._task.tolerances), len(self._scales), len(self._at_rest)
        of = self._perturbations
        self._a, self._b = np.zeros((count, n, n)), np.zeros((count, n, m))
        self._gain, self._gains = np.zeros((count, m, n)), np.zeros((count, m))
        self._estimate, self._covariance = np.zeros((count, n)), np.zeros((count, n, n))
        self._step = np.zeros(count, np.int64)
        # The commands that act at and after the state that is estimated.
        self._commands = np.zeros((count, of.observation_delay + of.action_delay + 1, m))
        self._read = np.full((count, columns), np.nan)
        self.begin_some(infos, np.arange(count))

    def begin_some(self, infos: Mapping[str, Any], episodes: npt.NDArray[np.int64]) -> None:
        """Begin some of the episodes again.

        Args:
            infos: of the reset of a vector environment, which have the parameters.
            episodes: which of its sub-environments.
        """
        parameters = infos.get("parameters", {})
        for i in episodes.tolist():
            values = {
                name: float(np.atleast_1d(parameters[name])[i])
                for name in self._perturbations.parameters
                if parameters
            }
            self._a[i], self._b[i], self._gain[i], self._gains[i] = self._model(values)
        self._estimate[episodes] = 0.0
        self._covariance[episodes] = self._prior
        self._step[episodes] = 0
        self._commands[episodes] = 0.0
        self._read[episodes] = np.nan

    def _model(self, values: Mapping[str, float]) -> tuple[Array, Array, Array, Array]:
        """Return the linear model, the regulator's gain and the actuators' gains of an episode."""
        if not values:
            gains = np.ones(len(self._scales))
            gain = regulate(self._nominal, self._task).gain
            return self._nominal.a, self._nominal.b, gain, gains
        if self._simulation is None:
            self._simulation = Simulation(self._task, perturbed=self._perturbations.names)
        task = self._task.with_parameters(values)
        self._simulation.set_task(0, task.without_dry_friction())
        model = linearise(task, simulation=self._simulation)
        scales = np.array([actuator.scale for actuator in task.actuators])
        # Its commands are in units of the nominal actuators.
        return model.a, model.b, regulate(model, task).gain, scales / self._scales

    def act(
        self,
        observations: npt.NDArray[Any],
        deterministic: bool,
        episodes: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[Any]:
        """Return the controller's actions.

        Args:
            observations: of some episodes, one more for each call.
            deterministic: not used.
            episodes: which these are, None for all.
        """
        if episodes is None and len(observations) != len(self._step):
            self.begin({}, len(observations))
        live = np.arange(len(observations)) if episodes is None else episodes
        shares = self.wanted(observations, live)
        actions: npt.NDArray[Any] = np.clip(shares, -1, 1).astype(np.float32)
        if self._discrete is not None:
            actions = ((shares[:, None] - self._discrete) ** 2).sum(axis=2).argmin(axis=1)
        self.see(actions, live)
        return actions

    def wanted(self, observations: npt.NDArray[Any], live: npt.NDArray[np.int64]) -> Array:
        """Return the regulator's command to each actuator, in units of its scale.

        :meth:`see` must follow with what is done.

        Args:
            observations: of some episodes, one more for each call.
            live: which these are.
        """
        of = self._perturbations
        known = self._step[live] > of.observation_delay
        self._predict(live[known])
        read = known | (self._step[live] == 0)
        self._update(live[read], np.asarray(observations[read], np.float64))
        ahead = np.minimum(self._step[live], of.observation_delay) + of.action_delay
        state = self._estimate[live].copy()
        for later in range(int(ahead.max())):
            moved = np.einsum("nij,nj->ni", self._a[live], state)
            moved += np.einsum("nij,nj->ni", self._b[live], self._commands[live, later])
            state = np.where((later < ahead)[:, None], moved, state)
        wanted = -np.einsum("nij,nj->ni", self._gain[live], state)
        shares: Array = wanted / (self._gains[live] * self._scales)
        return shares

    def see(self, actions: npt.NDArray[Any], live: npt.NDArray[np.int64]) -> None:
        """Keep what actions of some episodes will do, and forget what is past.

        Args:
            actions: of these episodes, by whomever.
            live: which these are.
        """
        of = self._perturbations
        shares = actions if self._discrete is None else self._discrete[actions]
        commands = shares.astype(np.float64) * self._scales * self._gains[live]
        if of.dead_zone:
            commands = np.where(np.abs(commands) > np.array(of.dead_zone), commands, 0.0)
        if of.saturation:
            commands = np.clip(commands, -np.array(of.saturation), np.array(of.saturation))
        ahead = np.minimum(self._step[live], of.observation_delay) + of.action_delay
        self._commands[live, ahead] = commands
        self._step[live] += 1

    def _predict(self, live: npt.NDArray[np.int64]) -> None:
        """Move the estimates of some episodes by one control period."""
        a, b = self._a[live], self._b[live]
        moved = a @ self._estimate[live, :, None] + b @ self._commands[live, 0, :, None]
        self._estimate[live] = moved[..., 0]
        spread = np.diag((MODEL_ERROR * np.array(self._task.tolerances)) ** 2)
        if self._perturbations.action_noise:
            spread = spread + b @ np.diag(np.square(self._perturbations.action_noise)) @ _t(b)
        self._covariance[live] = a @ self._covariance[live] @ _t(a) + spread
        self._commands[live, :-1] = self._commands[live, 1:]

    def _update(self, live: npt.NDArray[np.int64], observed: Array) -> None:
        """Correct estimates by observations; dropped and stuck columns tell nothing."""
        of = self._perturbations
        variance = np.tile(self._noise, (len(live), 1))
        if of.dropped.probability:
            variance[observed == 0] = UNKNOWN
        if of.stuck.probability or self._held:
            variance[observed == self._read[live]] = UNKNOWN
        self._read[live] = observed
        covariance, shown = self._covariance[live], self._shown
        noise = variance[:, :, None] * np.eye(variance.shape[1])
        expected = shown @ covariance @ shown.T + noise
        gain = _t(np.linalg.solve(expected, shown @ covariance))
        error = observed - self._at_rest - self._estimate[live] @ shown.T
        self._estimate[live] += (gain @ error[..., None])[..., 0]
        # Joseph's form: that of the textbook diverges on unstable systems after some hundred steps.
        kept = np.eye(gain.shape[1]) - gain @ shown
        self._covariance[live] = kept @ covariance @ _t(kept) + gain @ noise @ _t(gain)


def _t(matrices: Array) -> Array:
    return np.swapaxes(matrices, -1, -2)


def _noise(task: Task, of: Perturbations, bent: Array) -> Array:
    """Return the variance of each column of the observation, in its own units."""
    scale = np.array(column_scales(task, len(bent)))
    variance = bent + 1e-12
    if of.noise:
        variance += np.square(np.array(of.noise) / scale)
    for column, distribution in of.bias.items():
        variance[column] += _second_moment(distribution) / scale[column] ** 2
    return variance


def _second_moment(of: Distribution) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([of.sample(rng) ** 2 for _ in range(1000)]))
