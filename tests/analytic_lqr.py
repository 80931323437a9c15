"""Analytic gains of a linear-quadratic regulator, from the URDF files and textbook models alone.

Nothing of the simulator is in them, so they are evidence about it.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bullet_envs import assets, read_links
from bullet_envs.engine.urdf import Link

Array = npt.NDArray[np.float64]


def links(name: str) -> dict[str, Link]:
    """Return the links of a URDF of the suite."""
    return read_links(assets.path(name))


def lqr_gain(
    mass: np.ndarray,
    stiffness: np.ndarray,
    input_vector: np.ndarray,
    dt: float,
    tolerance: np.ndarray,
    effort: float,
    physics_hz: int | None = None,
) -> tuple[Array, Array]:
    """Return the gain and the cost matrix of a sampled mechanical system.

    The system ``mass @ q'' = stiffness @ q + input_vector * u`` is sampled with a zero-order hold,
    exactly or as a semi-implicit Euler steps it: speeds first, then positions by the new speeds.
    The Riccati difference equation is iterated to its fixed point (Bertsekas, Dynamic Programming
    and Optimal Control I, 4.1). Cost weights are 1 / tolerance^2 (Bryson's rule).

    Args:
        mass: shape (n, n).
        stiffness: shape (n, n).
        input_vector: shape (n,).
        dt: control period (s).
        tolerance: tolerable deviation of (q, q'), shape (2n,).
        effort: tolerable u (N or N·m).
        physics_hz: steps per second of the Euler; None for the exact solution.

    Returns:
        Gain, shape (2n,), so that u = -gain @ (q, q'), and cost matrix, shape (2n, 2n).
    """
    n = len(mass)
    augmented = np.zeros((2 * n + 1, 2 * n + 1))
    augmented[:n, n : 2 * n] = np.eye(n)
    augmented[n : 2 * n, :n] = np.linalg.solve(mass, stiffness)
    augmented[n : 2 * n, 2 * n] = np.linalg.solve(mass, input_vector)
    if physics_hz is None:
        # Its exponential by the power series: periods are far shorter than the time constants.
        terms = [np.linalg.matrix_power(augmented * dt, k) / math.factorial(k) for k in range(20)]
        sampled = np.sum(terms, axis=0)
    else:
        speeds, positions = np.eye(2 * n + 1), np.eye(2 * n + 1)
        speeds[n : 2 * n] += augmented[n : 2 * n] / physics_hz
        positions[:n] += augmented[:n] / physics_hz
        sampled = np.linalg.matrix_power(positions @ speeds, round(dt * physics_hz))
    a, b = sampled[: 2 * n, : 2 * n], sampled[: 2 * n, 2 * n :]

    weights = np.diag(1 / tolerance**2)
    cost = weights
    while True:
        gain = np.linalg.solve(effort**-2 + b.T @ cost @ b, b.T @ cost @ a)
        updated = weights + a.T @ cost @ (a - b @ gain)
        if np.allclose(updated, cost, rtol=1e-12, atol=0):
            return gain[0], updated
        cost = updated


def cart_pole_model(links: dict[str, Link], gravity: float) -> tuple[Array, Array, Array]:
    """Return mass matrix, stiffness and input vector for (x, theta) about the upright pole."""
    cart, pole = links["cart"], links["pole"]
    length = pole.centre[2]
    coupling = pole.mass * length
    mass = [
        [cart.mass + pole.mass, coupling],
        [coupling, pole.inertia[1] + coupling * length],
    ]
    stiffness = [[0.0, 0.0], [0.0, coupling * gravity]]
    return np.array(mass), np.array(stiffness), np.array([1.0, 0.0])


def plate_model(
    axis_inertia: float, ball_mass: float, radius: float, height: float, gravity: float
) -> tuple[Array, Array, Array]:
    """Return mass matrix, stiffness and input vector for (s, theta) of one axis about level.

    s (m) is the ball's place on the plate downhill of the axis for positive theta (rad).

    Args:
        axis_inertia: of all that turns with the axis (kg·m²).
        ball_mass: kg, in a hollow ball.
        radius: of the ball (m).
        height: of the ball's centre above the axis (m).
        gravity: m/s².
    """
    spin = 2 / 3 * ball_mass * radius**2
    mass = [
        [ball_mass + spin / radius**2, ball_mass * height + spin / radius],
        [ball_mass * height + spin / radius, axis_inertia + ball_mass * height**2 + spin],
    ]
    weight = ball_mass * gravity
    stiffness = [[0.0, weight], [weight, weight * height]]
    return np.array(mass), np.array(stiffness), np.array([0.0, 1.0])


def _cart_pole_gain(task: Any, physics_hz: int | None) -> Array:
    model = cart_pole_model(links("cart_pole.urdf"), task.gravity)
    tolerance = np.array([0.5, 0.1, 1.0, 0.5])
    gain, _ = lqr_gain(*model, 1 / task.control_hz, tolerance, task.force, physics_hz)
    # The model's columns are x, theta, x_dot, theta_dot.
    return gain[None, [0, 2, 1, 3]]


def _plate_gain(task: Any, physics_hz: int | None) -> Array:
    parts = links("balancing_plate.urdf")
    plate, ring = parts["plate"], parts["ring"]
    radius = links("ball.urdf")["ball"].collision_size[0]
    height = plate.collision_size[2] / 2 + radius
    tolerance = np.array([0.02, 0.05, 0.2, 0.4])
    gains = np.zeros((2, len(task.observation_scale)))
    x, y, vx, vy, pitch, roll, pitch_rate, roll_rate = 0, 1, 3, 4, 6, 7, 8, 9
    for row, inertia, sign, columns in (
        # Positive pitch raises +y, so its axis is mirrored.
        (0, plate.inertia[0] + ring.inertia[0], -1, (y, vy, pitch, pitch_rate)),
        (1, plate.inertia[1], 1, (x, vx, roll, roll_rate)),
    ):
        model = plate_model(inertia, task.ball_mass, radius, height, task.gravity)
        period, effort = 1 / task.control_hz, task.torque / 5
        gain, _ = lqr_gain(*model, period, tolerance, effort, physics_hz)
        place, tilt, speed, rate = gain
        position, velocity, angle, angle_rate = columns
        gains[row, position] = sign * place
        gains[row, velocity] = sign * speed
        # The ball's centre stands above the axis, so a tilt moves it without any rolling.
        gains[row, angle] = tilt - height * place
        gains[row, angle_rate] = rate - height * speed
    gains *= np.array(task.observation_scale)
    return gains


def analytic_gain(task: Any, physics_hz: int | None = None) -> Array:
    """Return the gain of a task of the suite, shape (actuators, columns of the observation).

    Args:
        task: a CartPole or a BalancingPlate.
        physics_hz: as of :func:`lqr_gain`.
    """
    gains = {"CartPole": _cart_pole_gain, "BalancingPlate": _plate_gain}
    return gains[type(task).__name__](task, physics_hz)
