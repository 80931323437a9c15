"""Equations of motion of this package's robots that do not come from the engine.

They are what the engine is compared with (``bullet-envs validate``, ``tests/test_physics.py``).
Masses and inertias come from the URDF files and the task's keywords.

A state is an array whose last axis holds the columns of ``Task.state_names``, in SI units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import assets
from .engine import GRAVITY
from .engine.urdf import read_links

if TYPE_CHECKING:
    from .task import Task
    from .tasks.balancing_plate import BalancingPlate
    from .tasks.cart_pole import CartPole

Array = npt.NDArray[np.float64]
Rates = Callable[[Array, Array], Array]  # state and effort to d(state)/dt

POLE = read_links(assets.path("cart_pole.urdf"))["pole"]
RING = read_links(assets.path("balancing_plate.urdf"))["ring"]
PLATE = read_links(assets.path("balancing_plate.urdf"))["plate"]

# Columns of a plate's state.
PITCH, PITCH_RATE, ROLL, ROLL_RATE = range(4)
POSITION, QUATERNION, VELOCITY, SPIN = slice(4, 7), slice(7, 11), slice(11, 14), slice(14, 17)


def rk4(rates: Rates, initial: Array, efforts: Array, control_hz: int, substeps: int = 3) -> Array:
    """Return the exact solution; 3 substeps leave less than 1e-6.

    Args:
        rates: d(state)/dt.
        initial: states, shape (runs, columns).
        efforts: of the actuators in each control period, shape (actions, runs, actuators).
        control_hz: control periods per second.
        substeps: of the integrator (Runge-Kutta of order 4) in a control period.

    Returns:
        Shape (actions + 1, runs, columns).
    """
    dt = 1 / control_hz / substeps
    states = np.empty((len(efforts) + 1, *initial.shape))
    states[0] = state = initial
    for step, effort in enumerate(efforts):
        for _ in range(substeps):
            k1 = rates(state, effort)
            k2 = rates(state + dt / 2 * k1, effort)
            k3 = rates(state + dt / 2 * k2, effort)
            k4 = rates(state + dt * k3, effort)
            state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        states[step + 1] = state
    return states


def in_play(task: Task, states: Array) -> npt.NDArray[np.bool_]:
    """Return (actions + 1, runs), whether the run has not terminated yet."""
    terminated = task.terminated(tuple(np.moveaxis(states, -1, 0)))
    return ~np.logical_or.accumulate(terminated, axis=0)


def cart_pole_rates(state: Array, force: Array, task: CartPole) -> Array:
    """Return d(state)/dt of a cart with a hinged rigid pole, from Lagrange's equations.

    Args:
        state: of the cart-pole.
        force: on the cart (N).
        task: with masses, length and friction; the pole is a solid box.
    """
    _, x_dot, theta, theta_dot = np.moveaxis(state, -1, 0)
    half, mass = task.pole_length / 2, task.pole_mass
    inertia = mass / POLE.mass * POLE.inertia[1]
    if half != POLE.centre[2]:
        inertia = mass / 12 * (POLE.visual_size[0] ** 2 + task.pole_length**2)
    m11 = task.cart_mass + mass
    m12 = mass * half * np.cos(theta)
    m22 = inertia + mass * half**2
    f1 = force[..., 0] + mass * half * theta_dot**2 * np.sin(theta) - task.cart_friction * x_dot
    f2 = mass * GRAVITY * half * np.sin(theta) - task.pole_friction * theta_dot
    det = m11 * m22 - m12**2
    x_dot_dot = (m22 * f1 - m12 * f2) / det
    theta_dot_dot = (m11 * f2 - m12 * f1) / det
    return np.stack([x_dot, x_dot_dot, theta_dot, theta_dot_dot], -1)


def plate_axes(state: Array) -> tuple[Array, Array]:
    """Return unit vectors along the roll axis and along the plate's normal."""
    pitch, roll = state[..., PITCH], state[..., ROLL]
    axis = np.stack([np.zeros_like(pitch), np.cos(pitch), np.sin(pitch)], -1)
    normal = np.stack(
        [np.sin(roll), -np.sin(pitch) * np.cos(roll), np.cos(pitch) * np.cos(roll)], -1
    )
    return axis, normal


def plate_rates(state: Array, torque: Array, task: BalancingPlate) -> Array:
    """Return d(state)/dt of the gimballed plate and a ball that rolls on it without slipping.

    Newton's and Euler's equations of the three bodies and the rolling constraint, solved together
    for the accelerations and for the force between ball and plate. The quaternion stays as it is:
    a ball looks the same from everywhere.
    """
    return plate_solution(state, torque, task)[0]


def plate_solution(state: Array, torque: Array, task: BalancingPlate) -> tuple[Array, Array]:
    """Return d(state)/dt and the force of the plate on the ball (N): see :func:`plate_rates`."""
    mass, radius = task.ball_mass, task.ball_radius
    inertia = 2 / 3 * mass * radius**2
    of_plate, of_ring = task.plate_mass / PLATE.mass, task.ring_mass / RING.mass
    roll, pitch_rate, roll_rate = state[..., ROLL], state[..., PITCH_RATE], state[..., ROLL_RATE]
    velocity, spin = state[..., VELOCITY], state[..., SPIN]
    axis, normal = plate_axes(state)
    x_axis = np.broadcast_to([1.0, 0.0, 0.0], axis.shape)
    turn = pitch_rate[..., None] * x_axis + roll_rate[..., None] * axis
    normal_dot = np.cross(turn, normal)
    touch = state[..., POSITION] - radius * normal
    touch_dot = velocity - radius * normal_dot

    # The plate turns with the ring about x and its Ixx and Izz mix as it rolls.
    ixx, iyy, izz = (of_plate * one for one in PLATE.inertia)
    about_x = of_ring * RING.inertia[0] + ixx * np.cos(roll) ** 2 + izz * np.sin(roll) ** 2
    about_x_slope = (izz - ixx) * np.sin(2 * roll)

    # Unknowns: pitch and roll acceleration, ball acceleration, spin acceleration, contact force.
    matrix = np.zeros((*state.shape[:-1], 11, 11))
    right = np.zeros((*state.shape[:-1], 11))
    matrix[..., 0, 0] = about_x
    matrix[..., 0, 8:11] = np.cross(x_axis, touch)
    right[..., 0] = torque[..., 0] - about_x_slope * pitch_rate * roll_rate
    matrix[..., 1, 1] = iyy
    matrix[..., 1, 8:11] = np.cross(axis, touch)
    right[..., 1] = torque[..., 1] + about_x_slope * pitch_rate**2 / 2
    eye = np.eye(3)
    matrix[..., 2:5, 2:5] = mass * eye
    matrix[..., 2:5, 8:11] = -eye
    right[..., 4] = -mass * GRAVITY
    matrix[..., 5:8, 5:8] = inertia * eye
    matrix[..., 5:8, 8:11] = radius * _cross_matrix(normal)
    # The time derivative of: velocity - radius * spin x normal = turn x touch.
    matrix[..., 8:11, 0] = -np.cross(x_axis, touch)
    matrix[..., 8:11, 1] = -np.cross(axis, touch)
    matrix[..., 8:11, 2:5] = eye
    matrix[..., 8:11, 5:8] = radius * _cross_matrix(normal)
    right[..., 8:11] = (
        radius * np.cross(spin, normal_dot)
        + (pitch_rate * roll_rate)[..., None] * np.cross(np.cross(x_axis, axis), touch)
        + np.cross(turn, touch_dot)
    )
    solution = np.linalg.solve(matrix, right[..., None])[..., 0]

    rates = np.zeros_like(state)
    rates[..., [PITCH, ROLL]] = state[..., [PITCH_RATE, ROLL_RATE]]
    rates[..., [PITCH_RATE, ROLL_RATE]] = solution[..., :2]
    rates[..., POSITION] = velocity
    rates[..., VELOCITY] = solution[..., 2:5]
    rates[..., SPIN] = solution[..., 5:8]
    return rates, solution[..., 8:11]


def _cross_matrix(vector: Array) -> Array:
    """Return the matrices that multiply like ``np.cross(vector, .)``."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, -1) for row in rows], -2)
