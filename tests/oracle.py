"""Independent integrators of both problems, and the table that chooses their physics rate.

Nothing here asks Bullet for an answer except ``simulate``. Masses, sizes and inertias come from the
URDF files. ``python tests/oracle.py`` prints what each physics rate errs and costs.

A state is an array whose last axis holds the columns of ``Task.state_names``, in SI units.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bullet_envs import Task, assets, read_links
from bullet_envs.engine.silence import p
from bullet_envs.simulation import Simulation
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import CartPole

Array = npt.NDArray[np.float64]
Rates = Callable[[Array, Array], Array]  # state and effort to d(state)/dt

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

# Columns of a plate's state.
PITCH, PITCH_RATE, ROLL, ROLL_RATE = range(4)
POSITION, QUATERNION, VELOCITY, SPIN = slice(4, 7), slice(7, 11), slice(11, 14), slice(14, 17)


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


def rk4(rates: Rates, initial: Array, efforts: Array, control_hz: int, substeps: int = 3) -> Array:
    """Return the exact solution in the shape of ``simulate``; 3 substeps leave less than 1e-6."""
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


def cart_pole_rates(state: Array, force: Array, task: CartPole = CART_POLE) -> Array:
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


def plate_axes(state: Array) -> tuple[Array, Array]:
    """Return unit vectors along the roll axis and along the plate's normal."""
    pitch, roll = state[..., PITCH], state[..., ROLL]
    axis = np.stack([np.zeros_like(pitch), np.cos(pitch), np.sin(pitch)], -1)
    normal = np.stack(
        [np.sin(roll), -np.sin(pitch) * np.cos(roll), np.cos(pitch) * np.cos(roll)], -1
    )
    return axis, normal


def slip(state: Array) -> Array:
    """Return the velocity of the ball's lowest point relative to the plate under it (m/s)."""
    axis, normal = plate_axes(state)
    turn = state[..., [PITCH_RATE]] * [1.0, 0.0, 0.0] + state[..., [ROLL_RATE]] * axis
    touch = state[..., POSITION] - RADIUS * normal
    ball = state[..., VELOCITY] - RADIUS * np.cross(state[..., SPIN], normal)
    return ball - np.cross(turn, touch)


def plate_rates(state: Array, torque: Array, task: BalancingPlate = BALANCING_PLATE) -> Array:
    """Return d(state)/dt of the gimballed plate and a ball that rolls on it without slipping.

    Newton's and Euler's equations of the three bodies and the rolling constraint, solved together
    for the accelerations and for the force between ball and plate. The quaternion stays as it is:
    a ball looks the same from everywhere.
    """
    return _plate_solution(state, torque, task)[0]


def plate_load(state: Array, torque: Array) -> tuple[Array, Array]:
    """Return the ball's pressure on the plate and the friction that its rolling needs (N)."""
    _, force = _plate_solution(state, torque)
    normal = plate_axes(state)[1]
    press = np.sum(force * normal, -1)
    return press, np.linalg.norm(force - press[..., None] * normal, axis=-1)


def _plate_solution(
    state: Array, torque: Array, task: BalancingPlate = BALANCING_PLATE
) -> tuple[Array, Array]:
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
