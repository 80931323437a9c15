"""A linear-quadratic regulator for any task with an equilibrium, and the controller made of it.

The engine is linearised numerically about ``task.rest()``, one control period at a time, and the
discrete-time algebraic Riccati equation is solved with SciPy (Anderson and Moore, "Optimal control:
linear quadratic methods", 1990, 2.4). Costs follow Bryson's rule: a deviation of
``task.tolerances``, or a command of ``task.command_tolerances``, costs 1 per control period.

Run ``bullet-envs evaluate --algo lqr --env BalancingPlate-v0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from scipy.linalg import solve_discrete_are

from ..simulation import Simulation
from ..task import Task
from .policy import Policy

Array = npt.NDArray[np.float64]

STEP = 1e-3  # of the numerical differentiation, in units of the tolerances
UNCONTROLLABLE = 1e-6  # of a mode's reach by the commands, relative to the largest
MARGINAL = 1e-6  # a mode that decays slower than this in a period does not decay


@dataclass(frozen=True)
class LinearModel:
    """``x' = a @ x + b @ u`` over one control period, about rest.

    Args:
        a: shape (n, n), of ``task.coordinates``.
        b: shape (n, m), of the commands of the actuators less those at rest (SI units).
        names: of the n coordinates.
    """

    a: Array
    b: Array
    names: tuple[str, ...]


@dataclass(frozen=True)
class Regulator:
    """The regulator ``u = -gain @ x`` of a linear model.

    Args:
        gain: shape (m, n).
        cost_to_go: ``x @ cost_to_go @ x`` is the cost of all that follows x, shape (n, n).
        state_cost: of x in each control period, shape (n, n).
        command_cost: of u in each control period, shape (m, m).
    """

    gain: Array
    cost_to_go: Array
    state_cost: Array
    command_cost: Array


def linearise(task: Task, step: float = STEP, simulation: Simulation | None = None) -> LinearModel:
    """Return the engine's linear model about ``task.rest()``.

    Central differences with two step sizes, extrapolated to none (Richardson); no dry friction.

    Args:
        task: whose engine to differentiate.
        step: in units of ``task.tolerances`` and ``task.command_tolerances``.
        simulation: with the parameters of ``task.without_dry_friction()``, None for a new one.

    Raises:
        ValueError: the state at rest does not stay where it is.
    """
    widths = np.array([*task.tolerances, *task.command_tolerances], np.float64)
    n = len(task.tolerances)
    resting = np.array([actuator.centre for actuator in task.actuators], np.float64)
    engine = Simulation(task.without_dry_friction()) if simulation is None else simulation

    def advance(point: Array) -> Array:
        engine.set_state({0: task.from_coordinates(point[:n].tolist())})
        columns = engine.step((resting + point[n:]).tolist())
        return np.array(task.coordinates(columns), np.float64)

    try:
        drift = advance(np.zeros(len(widths)))
        if (np.abs(drift) > step * widths[:n]).any():
            worst = int(np.argmax(np.abs(drift) / widths[:n]))
            raise ValueError(
                f"{type(task).__name__}.rest() is no equilibrium: {task.coordinate_names[worst]}"
                f" moves by {drift[worst]:.2g} in one control period"
            )
        jacobian = _extrapolated(advance, step * widths)
    finally:
        if simulation is None:
            engine.close()
    return LinearModel(jacobian[:, :n], jacobian[:, n:], task.coordinate_names)


def _extrapolated(function: Callable[[Array], Array], widths: Array) -> Array:
    """Return the Jacobian of a function at 0, a column for each width."""
    columns = []
    for index, width in enumerate(widths):
        slopes = []
        for h in (width, width / 2):
            point = np.zeros(len(widths))
            point[index] = h
            slopes.append((function(point) - function(-point)) / (2 * h))
        columns.append((4 * slopes[1] - slopes[0]) / 3)
    jacobian: Array = np.array(columns).T
    return jacobian


def regulate(model: LinearModel, task: Task) -> Regulator:
    """Return the regulator of least cost.

    Raises:
        ValueError: a mode that does not decay by itself cannot be controlled; it is named by the
            coordinate that has most of it.
    """
    tolerances = np.array(task.tolerances, np.float64)
    commands = np.array(task.command_tolerances, np.float64)
    state_cost, command_cost = np.diag(tolerances**-2), np.diag(commands**-2)
    # In units of the tolerances, so that all numbers are near 1.
    a = model.a * tolerances / tolerances[:, None]
    b = model.b * commands / tolerances[:, None]
    _require_stabilisable(a, b, model.names)
    cost = solve_discrete_are(a, b, np.eye(len(a)), np.eye(b.shape[1]))
    gain = np.linalg.solve(np.eye(b.shape[1]) + b.T @ cost @ b, b.T @ cost @ a)
    return Regulator(
        commands[:, None] * gain / tolerances,
        cost / np.outer(tolerances, tolerances),
        state_cost,
        command_cost,
    )


def _require_stabilisable(a: Array, b: Array, names: tuple[str, ...]) -> None:
    """Refuse modes that neither decay nor can be reached (the test of Popov, Belevitch, Hautus)."""
    scale = max(float(np.abs(b).max()), 1e-12)
    values = np.linalg.eigvals(a)
    for value in values[np.abs(values) > 1 - MARGINAL]:
        reach = np.hstack([a - value * np.eye(len(a)), b / scale])
        left, singular, _ = np.linalg.svd(reach)
        if singular[-1] < UNCONTROLLABLE:
            name = names[int(np.argmax(np.abs(left[:, -1])))]
            raise ValueError(f"LQR: no actuator controls {name!r}, which does not decay by itself")


class LQRPolicy(Policy):
    """The regulator as a policy: it reads the coordinates out of the observation.

    A ``Discrete`` action is the one whose command is nearest to the regulator's.

    Args:
        env: of a task of :class:`~bullet_envs.Task` that observes its state.

    Raises:
        ValueError: the state at rest is no equilibrium, something cannot be controlled, or the
            observation does not show a coordinate.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env.observation_space, env.action_space)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        regulator = regulate(linearise(task), task)
        at_rest, shown = observation_model(task)
        coordinates = np.linalg.pinv(shown)
        if (bad := np.abs(coordinates @ shown - np.eye(shown.shape[1])).max(axis=0) > 1e-6).any():
            hidden = task.coordinate_names[int(bad.argmax())]
            raise ValueError(f"LQR: the observation does not show {hidden!r}")
        self.gain = regulator.gain @ coordinates  # (actuators, columns of the observation)
        self._at_rest = at_rest
        self._scales = np.array([actuator.scale for actuator in task.actuators])
        self._discrete: Array | None = None
        if isinstance(self.action_space, spaces.Discrete):
            self._discrete = np.array(task.discrete_actions)

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the regulator's actions."""
        shares = -(observations - self._at_rest) @ self.gain.T / self._scales
        actions: npt.NDArray[Any] = np.clip(shares, -1, 1).astype(np.float32)
        if self._discrete is not None:
            actions = ((shares[:, None] - self._discrete) ** 2).sum(axis=2).argmin(axis=1)
        return actions


def flat_observation(task: Task, state: Sequence[float]) -> Array:
    """Return the columns of the observation of a state, a Dict's flattened as by Gymnasium."""
    columns = task.observe([float(x) for x in state])
    if isinstance(columns, Mapping):  # by name
        columns = [column for name in sorted(columns) for column in columns[name]]
    return np.array(columns, np.float64)


def observation_model(task: Task) -> tuple[Array, Array]:
    """Return the observation at rest, and its Jacobian with respect to the coordinates."""

    def observe(coordinates: Array) -> Array:
        return flat_observation(task, task.from_coordinates(coordinates.tolist()))

    widths = STEP * np.array(task.tolerances, np.float64)
    return observe(np.zeros(len(widths))), _extrapolated(observe, widths)
