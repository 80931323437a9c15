"""Masses, energies and linear models of both problems, to compare the engine with.

Nothing here asks Bullet for an answer. Masses, sizes and inertias come from the URDF files.

A state is an array whose last axis holds the columns of ``Task.state_names``, in SI units.
"""

import numpy as np

from bullet_envs import assets, equations_of_motion, read_links
from bullet_envs.equations_of_motion import (
    PITCH_RATE,
    POSITION,
    ROLL,
    ROLL_RATE,
    SPIN,
    VELOCITY,
    Array,
    plate_axes,
    plate_solution,
)
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import CartPole

GRAVITY = 9.8  # m/s^2

CART = read_links(assets.path("cart_pole.urdf"))["cart"]
POLE = read_links(assets.path("cart_pole.urdf"))["pole"]
RING = read_links(assets.path("balancing_plate.urdf"))["ring"]
PLATE = read_links(assets.path("balancing_plate.urdf"))["plate"]
BALL = read_links(assets.path("ball.urdf"))["ball"]

CART_POLE, BALANCING_PLATE = CartPole(), BalancingPlate()
RADIUS = BALL.collision_size[0]  # m
HEIGHT = PLATE.collision_size[2] / 2 + RADIUS  # m, a resting ball's centre above the plate's
TURNED = {"pitch": RING.inertia[0] + PLATE.inertia[0], "roll": PLATE.inertia[1]}  # kg m^2, level


def aloft() -> list[float]:
    """Return a level plate with the ball at rest 1 m above its place."""
    state = list(BalancingPlate().rest())
    state[POSITION.stop - 1] += 1.0
    return state


def cart_pole_rates(state: Array, force: Array, task: CartPole = CART_POLE) -> Array:
    """Return d(state)/dt, of the usual cart-pole where none is given."""
    return equations_of_motion.cart_pole_rates(state, force, task)


def cart_pole_energy(state: Array) -> Array:
    """Return kinetic and potential energy (J), 0 at rest upright."""
    _, x_dot, theta, theta_dot = np.moveaxis(state, -1, 0)
    half = POLE.centre[2]
    pole_x, pole_z = x_dot + half * theta_dot * np.cos(theta), -half * theta_dot * np.sin(theta)
    return (
        CART.mass * x_dot**2 / 2
        + POLE.mass * (pole_x**2 + pole_z**2) / 2
        + POLE.inertia[1] * theta_dot**2 / 2
        + POLE.mass * GRAVITY * half * (np.cos(theta) - 1)
    )


def slip(state: Array) -> Array:
    """Return the velocity of the ball's lowest point relative to the plate under it (m/s)."""
    axis, normal = plate_axes(state)
    turn = state[..., [PITCH_RATE]] * [1.0, 0.0, 0.0] + state[..., [ROLL_RATE]] * axis
    touch = state[..., POSITION] - RADIUS * normal
    ball = state[..., VELOCITY] - RADIUS * np.cross(state[..., SPIN], normal)
    return ball - np.cross(turn, touch)


def plate_rates(state: Array, torque: Array, task: BalancingPlate = BALANCING_PLATE) -> Array:
    """Return d(state)/dt, of the usual plate where none is given."""
    return equations_of_motion.plate_rates(state, torque, task)


def plate_load(state: Array, torque: Array) -> tuple[Array, Array]:
    """Return the ball's pressure on the plate and the friction that its rolling needs (N)."""
    _, force = plate_solution(state, torque, BALANCING_PLATE)
    normal = plate_axes(state)[1]
    press = np.sum(force * normal, -1)
    return press, np.linalg.norm(force - press[..., None] * normal, axis=-1)


def plate_energy(state: Array) -> Array:
    """Return kinetic and potential energy of ring, plate and ball (J), 0 at rest at the top."""
    roll, pitch_rate, roll_rate = state[..., ROLL], state[..., PITCH_RATE], state[..., ROLL_RATE]
    ixx, iyy, izz = PLATE.inertia
    about_x = RING.inertia[0] + ixx * np.cos(roll) ** 2 + izz * np.sin(roll) ** 2
    return (
        about_x * pitch_rate**2 / 2
        + iyy * roll_rate**2 / 2
        + BALL.mass * np.sum(state[..., VELOCITY] ** 2, -1) / 2
        + BALL.inertia[0] * np.sum(state[..., SPIN] ** 2, -1) / 2
        + BALL.mass * GRAVITY * (state[..., POSITION.stop - 1] - HEIGHT)
    )


def linear_plate_rates(axis: str) -> Array:
    """Return A of d(u, angle, u_dot, angle_dot)/dt = A @ (..) for one axis around the top.

    u is how far the ball is down the side that a positive angle lowers, in the plate's own axes.
    """
    mass, inertia = BALL.mass, BALL.inertia[0]
    mixed = mass * HEIGHT + inertia / RADIUS
    masses = np.array(
        [
            [mass + inertia / RADIUS**2, mixed],
            [mixed, TURNED[axis] + mass * HEIGHT**2 + inertia],
        ]
    )
    pulls = np.array([[0.0, mass * GRAVITY], [mass * GRAVITY, mass * GRAVITY * HEIGHT]])
    rates = np.zeros((4, 4))
    rates[:2, 2:] = np.eye(2)
    rates[2:, :2] = np.linalg.solve(masses, pulls)
    return rates
