"""Independent integrators of both problems, and the table that chooses their physics rate.

Nothing here asks Bullet for an answer except ``simulate``. Masses, sizes and inertias come from the
URDF files. ``python tests/oracle.py`` prints what each physics rate errs and costs.

A state is an array whose last axis holds the columns of ``Task.state_names``, in SI units.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from bullet_envs import Task, assets, equations_of_motion, read_links
from bullet_envs.engine.silence import p
from bullet_envs.equations_of_motion import (
    PITCH,
    PITCH_RATE,
    POSITION,
    ROLL,
    ROLL_RATE,
    SPIN,
    VELOCITY,
    Array,
    Rates,
    in_play,
    plate_axes,
    plate_solution,
    rk4,
)
from bullet_envs.simulation import Simulation
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


def random_play(task: Task, runs: int, actions: int, seed: int = 0) -> tuple[Array, Array]:
    """Return usual initial states (runs, columns) and random efforts (actions, runs, axes)."""
    rng = np.random.default_rng(seed)
    initial = np.array([task.sample_initial_state(rng) for _ in range(runs)])
    scales = [actuator.scale for actuator in task.actuators]
    return initial, scales * rng.choice([-1.0, 1.0], (actions, runs, len(scales)))


def aloft() -> list[float]:
    """Return a level plate with the ball at rest 1 m above its place."""
    state = list(BalancingPlate().rest())
    state[POSITION.stop - 1] += 1.0
    return state


def simulate(task: Task, initial: Array, efforts: Array, **settings: float) -> Array:
    """Return what Bullet does: (actions + 1, runs, columns), given other engine settings."""
    simulation = Simulation(task)
    p.setPhysicsEngineParameter(**settings, physicsClientId=simulation.world.client)
    states = np.empty((len(efforts) + 1, *initial.shape))
    for run, state in enumerate(initial.tolist()):
        states[0, run] = simulation.set_state({0: state})[0]
        for step, effort in enumerate(efforts[:, run].tolist()):
            states[step + 1, run] = simulation.step(effort)
    simulation.close()
    return states


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


def euler_cart_pole(
    state: Array, force: Array, physics_hz: int, steps: int, task: CartPole = CART_POLE
) -> Array:
    """Return the state after semi-implicit Euler steps: speeds first, then places with them."""
    for _ in range(steps):
        speeds = state[..., 1::2] + cart_pole_rates(state, force, task)[..., 1::2] / physics_hz
        places = state[..., ::2] + speeds / physics_hz
        state = np.stack([places, speeds], -1).reshape(state.shape)
    return state


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


def rate_errors(
    task: Task, truth: Array, initial: Array, efforts: Array
) -> tuple[Array, Array, float]:
    """Return Bullet's errors of place (mm) and angle (deg), 0 once terminated, µs per action."""
    began = time.perf_counter()
    states = simulate(task, initial, efforts)
    microseconds = (time.perf_counter() - began) / efforts[..., 0].size * 1e6
    places, angles = ([0], [2]) if isinstance(task, CartPole) else (POSITION, [PITCH, ROLL])
    error = np.where(in_play(task, truth)[..., None], states - truth, 0)
    millimetres = np.linalg.norm(error[..., places], axis=-1) * 1e3
    return millimetres, np.degrees(np.abs(error[..., angles]).max(-1)), microseconds


def cart_pole_rate_error(runs: int = 2000) -> None:
    """Print what the physics rates of the cart-pole err and cost in random play."""
    _print_rate_errors(CartPole, cart_pole_rates, runs)


def plate_rate_error(runs: int = 500) -> None:
    """Print what the physics rates of the plate err and cost in random play."""
    _print_rate_errors(BalancingPlate, plate_rates, runs)


def _print_rate_errors(problem: Callable[..., Task], rates: Rates, runs: int) -> None:
    task = problem()
    initial, efforts = random_play(task, runs, task.control_hz)
    truth = rk4(rates, initial, efforts, task.control_hz)
    half = task.control_hz // 2
    going = in_play(task, truth).mean(1)
    lines = [
        f"{type(task).__name__}: worst error against the exact solution until the end of an"
        f" episode, {runs} runs of random play ({going[half]:.0%} last 0.5 s, {going[-1]:.0%} 1 s)",
        "physics_hz  0.5 s: mm   deg      1 s: mm   deg      us per action",
    ]
    for physics_hz in (50, 100, 200, 250, 500, 1000):
        place, angle, microseconds = rate_errors(
            problem(physics_hz=physics_hz), truth, initial, efforts
        )
        lines.append(
            f"{physics_hz:10d}  {place[: half + 1].max():9.2f}  {angle[: half + 1].max():5.2f}"
            f"  {place.max():10.2f}  {angle.max():5.2f}  {microseconds:15.0f}"
        )
    sys.stdout.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    cart_pole_rate_error()
    plate_rate_error()
