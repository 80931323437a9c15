"""Bullet moves the bodies as the textbook does, at a rate that is fine enough."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from oracle import (
    BALL,
    CART,
    GRAVITY,
    HEIGHT,
    PITCH_RATE,
    PLATE,
    POLE,
    POSITION,
    RADIUS,
    RING,
    ROLL,
    ROLL_RATE,
    SPIN,
    VELOCITY,
    aloft,
    cart_pole_energy,
    cart_pole_rates,
    linear_plate_rates,
    plate_axes,
    plate_energy,
    plate_load,
    plate_rates,
    slip,
)

from benchmarks.convergence import euler_cart_pole, order, random_play, simulate, state_errors
from bullet_envs import assets
from bullet_envs.engine.silence import p
from bullet_envs.engine.world import World
from bullet_envs.equations_of_motion import PITCH, QUATERNION, in_play, rk4
from bullet_envs.simulation import Simulation
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import SHORTEST_POLE, CartPole

CART_POLE_LENGTH = 0.5 * POLE.mass * GRAVITY * POLE.visual_size[2]  # J, from upright to level
# Everything of a plate's state but the quaternion, whose sign and angle mean nothing for a ball.
SEEN = [i for i in range(17) if i not in range(QUATERNION.start, QUATERNION.stop)]


def build(task):
    """Return a world of Bullet's and the task's scene in it. A step is a control period."""
    world = World(task.physics_hz, task.control_hz, bullet_substeps=True)
    scene = task.build(world, 1)
    task.set_parameters(scene, 0)
    return world, scene


def there_and_back(rng, runs, actions, amplitude):
    """Return efforts (actions, runs, 1) that leave the cart where it was, without the pole."""
    efforts = np.empty((runs, actions + 32))
    for row in efforts:
        filled = 0
        while filled < actions:
            length = rng.integers(1, 9)
            push = amplitude(rng)
            pushes = np.repeat([push, -push, push], [length, 2 * length, length])
            row[filled : filled + 4 * length] = pushes
            filled += 4 * length
    return efforts[:, :actions].T[..., None]


def full(rng):
    return rng.choice([-10.0, 10.0])


def any_size(rng):
    return rng.uniform(-10, 10)


@pytest.mark.parametrize("amplitude", [full, any_size])
def test_cart_pole_equals_semi_implicit_euler(amplitude):
    """200 runs of 500 actions equal our own integrator to 1e-9, whirling poles included."""
    task = CartPole(x_limit=15, angle_limit=np.pi)
    rng = np.random.default_rng(0)
    initial = rng.uniform(-1, 1, (200, 4)) * [1, 1, 3, 3]
    efforts = there_and_back(rng, 200, 500, amplitude)
    states = simulate(task, initial, efforts)
    assert np.abs(states[..., 0]).max() < 15  # m: far from the slider's stops at 20 m
    assert np.abs(states[..., 2]).max() > 2 * np.pi
    for first in range(0, 500, 100):
        # A pole on its head multiplies rounding by e^4 a second, so each 2 s start from Bullet.
        state = states[first]
        for action in range(first, first + 100):
            state = euler_cart_pole(state, efforts[action], task.physics_hz, 2)
            error = np.abs(states[action + 1] - state).max()
            assert error < 1e-9, f"{error} after {action + 1} actions"


def test_cart_pole_equals_semi_implicit_euler_without_correction():
    """200 initial states pushed for 500 physics steps equal one unbroken integration to 1e-9."""
    task = CartPole(x_limit=15, angle_limit=np.pi)
    rng = np.random.default_rng(1)
    initial = np.array([task.sample_initial_state(rng) for _ in range(200)])
    efforts = there_and_back(rng, 200, 250, any_size)
    states = simulate(task, initial, efforts)
    state = initial
    for action, effort in enumerate(efforts):
        state = euler_cart_pole(state, effort, task.physics_hz, 2)
        error = np.abs(states[action + 1] - state).max()
        assert error < 1e-9, f"{error} after {action + 1} actions"


def test_cart_pole_equals_semi_implicit_euler_while_it_is_balanced():
    """30 whole episodes of 500 actions equal our own integrator to 1e-9, never restarted.

    Bullet and the integrator are each balanced by a controller that sees their own state. Given
    Bullet's forces instead, the integrator parts from it like any pole from its unstable balance:
    by 7e-10 after 200 actions at worst.
    """
    task = CartPole()
    gains = np.array([2.0, 3.0, 30.0, 6.0])  # N per m, m/s, rad, rad/s
    rng = np.random.default_rng(0)
    simulation = Simulation(task)
    worst = given_forces = 0.0
    for _ in range(30):
        state = follower = np.array(task.sample_initial_state(rng))
        own = np.array(simulation.set_state({0: state.tolist()})[0])
        for action in range(500):
            force = np.clip(own @ gains, -10, 10)
            own = np.array(simulation.step([force]))
            state = euler_cart_pole(state, np.clip(state @ gains, -10, 10)[None], 100, 2)
            worst = max(worst, np.abs(own - state).max())
            if action < 200:
                follower = euler_cart_pole(follower, force[None], 100, 2)
                given_forces = max(given_forces, np.abs(own - follower).max())
        assert not task.terminated(own)
    simulation.close()
    assert worst < 1e-9, worst
    assert given_forces < 1e-8, given_forces


@pytest.mark.parametrize("continuous", [False, True])
def test_cart_pole_env_equals_semi_implicit_euler(continuous):
    """200 whole episodes through gym.make equal our own integrator to 1e-9."""
    env = gym.make("BulletCartPole-v0", continuous=continuous)
    env.action_space.seed(0)
    for seed in range(200):
        env.reset(seed=seed)
        state = np.array(list(env.unwrapped.state().values()))
        ended = False
        while not ended:
            action = env.action_space.sample()
            force = 10 * action.astype(float) if continuous else np.array([(-10.0, 10.0)[action]])
            state = euler_cart_pole(state, force, 100, 2)
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            assert np.abs(list(env.unwrapped.state().values()) - state).max() < 1e-9
            assert np.abs(observation - state).max() < 1e-6
    env.close()


@pytest.mark.parametrize(
    ("physics_hz", "control_hz"),
    [(50, 50), (20, 20), (100, 20), (240, 60), (300, 100), (1000, 50), (1000, 10), (1000, 1000)],
)
def test_cart_pole_rates_are_those_asked_for(physics_hz, control_hz):
    """At other rates too, 2 s equal our own integrator with that step to 1e-9."""
    task = CartPole(physics_hz=physics_hz, control_hz=control_hz, x_limit=15, angle_limit=np.pi)
    rng = np.random.default_rng(2)
    initial = rng.uniform(-1, 1, (4, 4)) * [1, 1, 3, 3]
    efforts = there_and_back(rng, 4, 2 * control_hz, any_size)
    state = initial
    for effort in efforts:
        state = euler_cart_pole(state, effort, physics_hz, physics_hz // control_hz)
    error = np.abs(simulate(task, initial, efforts)[-1] - state).max()
    assert error < 1e-9, error


# Of the last five Bullet loses a step where its period is set to 1 / control_hz as it stands.
@pytest.mark.parametrize(
    ("physics_hz", "control_hz"),
    [
        *[(100, 50), (50, 50), (1000, 50), (240, 60), (300, 100), (100, 20), (1000, 10)],
        *[(220, 20), (880, 80), (375, 75), (750, 150), (459, 153)],
    ],
)
def test_no_physics_step_is_lost(physics_hz, control_hz):
    """Each of 2000 actions makes exactly physics_hz / control_hz steps, the first one too."""
    world, scene = build(CartPole(physics_hz=physics_hz, control_hz=control_hz))
    # A cart that creeps under a hanging pole is a clock.
    speed = 1e-3  # m/s
    scene.set_state({0: (0.0, speed, math.pi, 0.0)})
    times = [0.0]
    for _ in range(2000):
        world.step()
        times.append(scene.state()[0] / speed)
    world.close()
    lost = physics_hz // control_hz - np.diff(times) * physics_hz
    wrong = np.flatnonzero(np.abs(lost) > 1e-3)
    assert not wrong.size, f"actions {wrong} lost {lost[wrong]} steps"
    assert abs(times[-1] - 2000 / control_hz) < 1e-6


def rate_errors(task, truth, initial, efforts):
    """Return Bullet's errors of place (mm) and angle (deg)."""
    return state_errors(task, truth, simulate(task, initial, efforts))


def test_cart_pole_error_is_proportional_to_the_step():
    """Against the exact solution the error is dt^(1.0 +- 0.1) from 50 to 1000 Hz."""
    initial, efforts = random_play(CartPole(), 200, 25)
    truth = rk4(cart_pole_rates, initial, efforts, 50)
    rates = (50, 100, 200, 500, 1000)
    found = [rate_errors(CartPole(physics_hz=rate), truth, initial, efforts) for rate in rates]
    places, angles = np.max(found, axis=(2, 3)).T
    assert abs(order(rates, places) - 1) < 0.1, places
    assert abs(order(rates, angles) - 1) < 0.1, angles


def test_cart_pole_error_at_the_shipped_rate():
    """In 0.5 s of random play: under 1 deg, and under 10 mm but for 1 run in 1000 (12 mm)."""
    task = CartPole()
    initial, efforts = random_play(task, 2000, 25)
    truth = rk4(cart_pole_rates, initial, efforts, 50)
    millimetres, degrees = rate_errors(task, truth, initial, efforts)
    assert degrees.max() < 1, f"{degrees.max()} deg"
    assert np.quantile(millimetres.max(0), 0.999) < 10, np.sort(millimetres.max(0))[-5:]
    assert millimetres.max() < 12, f"{millimetres.max()} mm"


@pytest.mark.parametrize("axis", ["pitch", "roll"])
def test_plate_oracle_is_the_textbook_model_around_the_top(axis):
    """Our equations of the whole plate, made linear, are the textbook's for one axis."""
    step = 1e-6
    rates = np.empty((4, 4))
    for column in range(4):
        start = np.eye(4)[column] * step
        rate = plate_rates(on_one_axis(axis, *start), np.zeros(2))
        angle, angle_rate = (PITCH, PITCH_RATE) if axis == "pitch" else (ROLL, ROLL_RATE)
        # The ball's path in the plate's axes: down = u + angle * HEIGHT in the world's.
        velocity, acceleration = down(axis, rate[POSITION]), down(axis, rate[VELOCITY])
        rates[:, column] = (
            velocity - HEIGHT * rate[angle],
            rate[angle],
            acceleration - HEIGHT * rate[angle_rate],
            rate[angle_rate],
        )
    assert np.abs(rates / step - linear_plate_rates(axis)).max() < 1e-6


def down(axis, vector):
    """Return the part of a vector along the side that a positive angle lowers."""
    return -vector[..., 1] if axis == "pitch" else vector[..., 0]


def on_one_axis(axis, u, angle, u_dot, angle_rate):
    """Return the state of a ball that rolls down one side of a plate turned about one axis."""
    sine, cosine = math.sin(angle), math.cos(angle)
    along = u_dot + HEIGHT * angle_rate
    position = np.array([cosine * u + sine * HEIGHT, 0, cosine * HEIGHT - sine * u])
    velocity = along * np.array([cosine, 0, -sine]) - angle_rate * u * np.array([sine, 0, cosine])
    spin = np.array([0, angle_rate + u_dot / RADIUS, 0])
    joints = [0.0, 0.0, angle, angle_rate]
    if axis == "pitch":
        # A quarter turn about z takes the roll axis y to -x, and x to y: pitch lowers -y.
        joints = [angle, angle_rate, 0.0, 0.0]
        position, velocity = position[[1, 0, 2]] * [1, -1, 1], velocity[[1, 0, 2]] * [1, -1, 1]
        spin = np.array([spin[1], 0, 0])
    return np.concatenate([joints, position, [0, 0, 0, 1], velocity, spin])


@pytest.mark.parametrize("axis", ["pitch", "roll"])
def test_plate_follows_the_textbook_model_around_the_top(axis):
    """Small passive motion for 0.5 s is the linear model's, the error proportional to dt."""
    initial = np.array([[2e-3, 0, 0, 0], [0, 4e-3, 0, 0], [1e-3, 2e-3, 0.01, -0.02]])
    values, vectors = np.linalg.eig(linear_plate_rates(axis))
    grown = (vectors * np.exp(values * 0.5)) @ np.linalg.inv(vectors)
    expected = (initial @ grown.T).real
    rates = (100, 200, 500, 1000)
    errors = []
    for rate in rates:
        states = simulate(
            BalancingPlate(physics_hz=rate),
            np.array([on_one_axis(axis, *start) for start in initial]),
            np.zeros((25, len(initial), 2)),
        )[-1]
        angles = states[:, PITCH if axis == "pitch" else ROLL]
        path = down(axis, states[:, POSITION]) - HEIGHT * np.sin(angles)
        errors.append(np.abs(np.stack([path, angles], -1) - expected[:, :2]).max(0))
    assert np.all(errors[-1] < 0.005 * np.abs(expected[:, :2]).max(0)), errors[-1]
    for column in np.array(errors).T:
        assert abs(order(rates, column) - 1) < 0.1, column


@pytest.fixture(scope="module")
def plate_play():
    """Random play of the plate and its exact solution, as long as the ball can hold on."""
    task = BalancingPlate()
    initial, efforts = random_play(task, 100, 25)
    truth = rk4(plate_rates, initial, efforts, task.control_hz)
    pressing, friction = plate_load(truth[:-1], efforts)
    assert np.all(friction < 0.95 * pressing)
    assert np.abs(slip(truth)).max() < 1e-6
    return initial, efforts, truth


def test_plate_error_is_proportional_to_the_step(plate_play):
    """Against the exact solution the error is dt^(1.0 +- 0.1) from 100 to 1000 Hz."""
    initial, efforts, truth = plate_play
    rates = (100, 200, 500, 1000)
    found = [
        rate_errors(BalancingPlate(physics_hz=rate), truth, initial, efforts) for rate in rates
    ]
    places, angles = np.max(found, axis=(2, 3)).T
    assert abs(order(rates, places) - 1) < 0.1, places
    assert abs(order(rates, angles) - 1) < 0.1, angles


def test_plate_error_at_the_shipped_rate(plate_play):
    """In 0.5 s of random play: under 3 mm and 0.4 deg."""
    initial, efforts, truth = plate_play
    millimetres, degrees = rate_errors(BalancingPlate(), truth, initial, efforts)
    assert millimetres.max() < 3, f"{millimetres.max()} mm"
    assert degrees.max() < 0.4, f"{degrees.max()} deg"


@pytest.mark.parametrize("continuous", [False, True])
def test_plate_env_follows_the_exact_solution(continuous):
    """Through gym.make, each action turns the axis, and the way, that its table says."""
    table = {0: (-1, -1), 1: (-1, 1), 2: (1, -1), 3: (1, 1)}
    env = gym.make("BalancingPlate-v0", continuous=continuous)
    for action, signs in table.items():
        env.reset(seed=action)
        start = np.array([list(env.unwrapped.state().values())])
        for _ in range(15):
            env.step(np.array(signs, np.float32) if continuous else action)
        state = np.array(list(env.unwrapped.state().values()))
        efforts = np.broadcast_to(0.005 * np.array(signs), (15, 1, 2))
        truth = rk4(plate_rates, start, efforts, 50)[-1, 0]
        assert np.abs(state - truth)[POSITION].max() < 1e-3
        assert np.abs(state - truth)[[PITCH, ROLL]].max() < math.radians(0.3)
    env.close()


def roll_down(physics_hz, tilt, heading, duration=0.25):
    """Return states of a ball that initial at rest on a plate held at a tilt, and the way down."""
    normal = np.array(
        [
            math.sin(tilt) * math.cos(heading),
            math.sin(tilt) * math.sin(heading),
            math.cos(tilt),
        ]
    )
    slope = np.array(
        [
            math.cos(tilt) * math.cos(heading),
            math.cos(tilt) * math.sin(heading),
            -math.sin(tilt),
        ]
    )
    held = (math.atan2(-normal[1], normal[2]), math.asin(normal[0]))
    world, scene = build(BalancingPlate(physics_hz=physics_hz, control_hz=physics_hz))
    # It initial up the slope, to have the way to roll.
    position = HEIGHT * normal - 0.1 * slope
    at_rest = (held[0], 0.0, held[1], 0.0, *position, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6)
    scene.set_state({0: at_rest})
    plate = bodies(world)["balancing_plate"]
    for joint, angle in enumerate(held):
        p.setJointMotorControl2(
            plate,
            joint,
            p.POSITION_CONTROL,
            targetPosition=angle,
            force=1e3,
            physicsClientId=world.client,
        )
    states = [scene.state()]
    for _ in range(round(duration * physics_hz)):
        world.step()
        states.append(scene.state())
    world.close()
    states = np.array(states)
    assert np.abs(states[:, [PITCH, ROLL]] - held).max() < 1e-6
    return states, slope


def bodies(world):
    """Return the number of each body in a world by name."""
    ids = [p.getBodyUniqueId(i, world.client) for i in range(p.getNumBodies(world.client))]
    return {p.getBodyInfo(i, world.client)[1].decode(): i for i in ids}


HEADINGS = [k * np.pi / 4 for k in range(8)]
# The ball slips where tan(tilt) > friction * (1 + m r^2 / I), with friction 1 * 1.
GRIP = math.atan(1 + BALL.mass * RADIUS**2 / BALL.inertia[0])


@pytest.mark.parametrize(("physics_hz", "tolerance"), [(100, 0.01), (1000, 0.002)])
@pytest.mark.parametrize("tilt", [0.01, 0.05, 0.2, 0.5, 1.0, 0.98 * GRIP])
def test_ball_rolls_down_a_held_plate(physics_hz, tolerance, tilt):
    """Its acceleration is g sin(tilt) / (1 + I / m r^2) = 3/5 g sin(tilt), without slipping."""
    expected = GRAVITY * math.sin(tilt) / (1 + BALL.inertia[0] / BALL.mass / RADIUS**2)
    assert expected == pytest.approx(0.6 * GRAVITY * math.sin(tilt))
    for heading in HEADINGS:
        states, slope = roll_down(physics_hz, tilt, heading)
        seconds = (len(states) - 1) / physics_hz
        acceleration = (states[-1] - states[0])[VELOCITY] / seconds
        error = np.linalg.norm(acceleration - expected * slope) / expected
        assert error < tolerance, f"{error:.2%} at heading {math.degrees(heading):.0f} deg"
        normal = plate_axes(states)[1]
        # The first 50 ms hold the jolt of settling 0.01 mm into the contact.
        sliding = np.cross(slip(states), normal)[physics_hz // 20 :]
        assert np.abs(sliding).max() < 1e-6, f"{np.abs(sliding).max()} m/s"


@pytest.mark.parametrize("physics_hz", [100, 1000])
def test_ball_slips_on_a_steeper_plate(physics_hz):
    """Past the angle of grip its acceleration is g (sin(tilt) - friction cos(tilt))."""
    tilt = 1.02 * GRIP
    expected = GRAVITY * (math.sin(tilt) - math.cos(tilt))
    for heading in HEADINGS:
        states, slope = roll_down(physics_hz, tilt, heading)
        seconds = (len(states) - 1) / physics_hz
        acceleration = states[-1][VELOCITY] @ slope / seconds
        assert acceleration == pytest.approx(expected, rel=0.01)
        assert np.linalg.norm(slip(states[-1])) > 0.1  # m/s


def test_cart_pole_is_mirror_symmetric():
    """The mirrored start and pushes give the mirrored run, to the bit."""
    task = CartPole()
    initial, efforts = random_play(task, 100, 100)
    assert np.array_equal(simulate(task, -initial, -efforts), -simulate(task, initial, efforts))


# A mirror turns over the vector along its normal, and the two axial ones across it.
MIRRORS = {
    "x": ([1, 1, -1, -1, -1, 1, 1, 1, -1, -1, 1, -1, 1, 1, 1, -1, -1], [1, -1]),
    "y": ([-1, -1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1], [-1, 1]),
}


@pytest.mark.parametrize("mirror", MIRRORS)
def test_plate_is_mirror_symmetric(mirror):
    """The mirrored start and torques give the mirrored run, to the rounding of the solver.

    Bullet's contact solver stops at a remainder of 1e-7, which the unstable plate then multiplies.
    Where it goes on to the end, only the rounding of numbers is left.
    """
    states, torques = map(np.array, MIRRORS[mirror])
    task = BalancingPlate()
    initial, efforts = random_play(task, 100, 50)
    for settings, tolerance in (({}, 1e-4), ({"solverResidualThreshold": 0}, 1e-11)):
        run = simulate(task, initial, efforts, **settings)
        other = simulate(task, initial * states, efforts * torques, **settings) * states
        error = np.abs(other - run)[..., SEEN].max(-1)[in_play(task, run)].max()
        assert error < tolerance, error


def test_plate_axes_differ():
    """Pitch turns the ring as well, so it answers the same torque less than roll."""
    level = np.array([aloft()] * 2)
    efforts = np.array([[[0.005, 0.0], [0.0, 0.005]]])
    pitch_rate, roll_rate = simulate(BalancingPlate(), level, efforts)[1, [0, 1], [1, 3]]
    inertia = PLATE.inertia[0] + RING.inertia[0]
    assert pitch_rate == pytest.approx(0.005 / inertia / 50, rel=1e-9)
    assert roll_rate == pytest.approx(0.005 / PLATE.inertia[1] / 50, rel=1e-9)
    assert pitch_rate < 0.8 * roll_rate


def test_unforced_cart_pole_keeps_its_energy():
    """It wavers by under 5 % of the pole's m g l, in proportion to dt, and does not drift up.

    A first-order integrator keeps an energy that differs from the true one by a term in dt.
    """
    rng = np.random.default_rng(0)
    initial = rng.uniform(-1, 1, (50, 4)) * [1, 0, 3, 3]
    rates, rises = (100, 200, 500, 1000), []
    for rate in rates:
        states = simulate(CartPole(physics_hz=rate), initial, np.zeros((500, 50, 1)))
        energy = cart_pole_energy(states) / CART_POLE_LENGTH
        rise = energy - energy[0]
        rises.append(rise.max())
        # Both halves hold several swings, so both reach the same heights.
        drift = (rise[250:].max(0) - rise[:250].max(0)).max()
        assert drift < 1e-3, drift
    assert rises[0] < 0.05, rises
    assert abs(order(rates, rises) - 1) < 0.1, rises


WIDEST = {"start_position": 0.14, "start_tilt": 0.3, "start_speed": 1.0}


# What the ball's weight would gain by being lifted so far, m: over the first energy, and over the
# least energy so far.
@pytest.mark.parametrize(
    ("keywords", "over_first", "over_least"),
    [
        ({}, 5e-5, 1e-4),
        (WIDEST, 3e-4, 1e-3),
        ({"drop_height": 0.02}, 0.0, 2e-3),
        ({"drop_height": 0.1, **WIDEST}, 0.0, 2e-2),
    ],
    ids=["rolling", "rolling, widest", "dropped", "dropped, widest"],
)
def test_passive_energy(keywords, over_first, over_least):
    """Without torques plate and ball never have more energy than at first, but for the integrator.

    While a ball rolls uphill, the energy that a first-order integrator keeps parts from the true
    one, and comes back. A ball that lands loses nearly all of its fall, and gets a part of the loss
    back while the solver presses it out of the plate: 2.5 % of a fall of 2 cm, and 10 % of one of
    10 cm on a tilted plate, 2.6e-4 J. It never has more than it began with.
    """
    task = BalancingPlate(**keywords)
    initial, efforts = random_play(task, 300, 60)
    states = simulate(task, initial, 0 * efforts)
    weight = BALL.mass * GRAVITY
    energy = np.where(in_play(task, states), plate_energy(states), np.nan) / weight
    assert np.nanmax(energy - energy[0]) <= over_first
    assert np.nanmax(energy - np.fmin.accumulate(energy)) < over_least


def test_passive_plate_loses_energy_to_the_integrator_only():
    """While the ball rolls, what is lost in 0.5 s is small and proportional to dt."""
    initial, efforts = random_play(BalancingPlate(), 50, 25)
    rates, losses = (100, 200, 500, 1000), []
    for rate in rates:
        energy = plate_energy(simulate(BalancingPlate(physics_hz=rate), initial, 0 * efforts))
        # Settling 0.01 mm into the contact takes a fixed amount, in the first action.
        losses.append((energy[1] - energy[-1]).max())
    moved = BALL.mass * GRAVITY * 0.05  # J, the ball's weight over half of the plate's half
    assert losses[0] < 0.02 * moved, losses
    assert abs(order(rates, losses) - 1) < 0.1, losses


def test_dropped_ball_does_not_bounce():
    """A ball dropped from up to 10 cm stays down, and sinks no deeper than one step's fall."""
    task = BalancingPlate()
    drops = np.linspace(0.001, 0.1, 100)
    initial = np.array([task.rest()] * 100)
    initial[:, POSITION.stop - 1] += drops
    heights = simulate(task, initial, np.zeros((50, 100, 2)))[..., POSITION.stop - 1] - HEIGHT
    touched = np.logical_or.accumulate(heights <= 0)
    assert touched[-1].all()
    assert heights[touched].max() <= 0, f"{heights[touched].max()} m"
    assert np.all(-heights.min(0) < np.sqrt(2 * GRAVITY * drops) / task.physics_hz)


@pytest.fixture
def cart_pole_world():
    world, scene = build(CartPole())
    yield world, scene
    world.close()


@pytest.fixture
def plate_world():
    world, scene = build(BalancingPlate())
    yield world, scene
    world.close()


def test_nothing_damps_the_cart(cart_pole_world):
    """A cart under a hanging pole keeps its speed for 10 s: no damping, drag, motor or stop."""
    world, scene = cart_pole_world
    scene.set_state({0: (10.0, 2.0, math.pi, 0.0)})
    for _ in range(500):
        world.step()
    assert scene.state() == pytest.approx((30.0, 2.0, math.pi, 0.0), abs=1e-9)


def test_nothing_damps_the_plate_or_a_flying_ball(plate_world):
    """A turning plate keeps its speed, and a flying ball its spin and level speed, for 1 s."""
    world, scene = plate_world
    for joint in (PITCH_RATE, ROLL_RATE):
        state = np.array(aloft())
        state[joint] = 5.0  # rad/s
        state[POSITION] = (1.0, 0.0, 10.0)
        state[VELOCITY] = (3.0, -2.0, 1.0)
        state[SPIN] = (20.0, -30.0, 10.0)
        scene.set_state({0: tuple(state.tolist())})
        for _ in range(50):
            world.step()
        after = np.array(scene.state())
        assert after[[PITCH_RATE, ROLL_RATE]] == pytest.approx(
            state[[PITCH_RATE, ROLL_RATE]], abs=1e-9
        )
        assert after[SPIN] == pytest.approx(state[SPIN], abs=1e-9)
        assert after[VELOCITY] == pytest.approx((3.0, -2.0, 1.0 - GRAVITY), abs=1e-9)


def box(mass, a, b, c):
    """Return the moments of inertia of a uniform box (kg m^2)."""
    return mass / 12 * np.array([b * b + c * c, a * a + c * c, a * a + b * b])


def dynamics(world, body, link):
    """Return what Bullet holds of a link: mass, moments, friction, rolling, spinning, bounce."""
    found = p.getDynamicsInfo(bodies(world)[body], link, world.client)
    mass, friction, moments, _, _, bounce, rolling, spinning = found[:8]
    return mass, np.array(moments), (friction, rolling, spinning, bounce)


def test_cart_pole_bodies_are_those_of_the_issue(cart_pole_world):
    """A 1 kg cart and a 0.1 kg, 1 m pole, with the inertia of uniform boxes, in file and engine."""
    world, _ = cart_pole_world
    for link, mass, body in ((0, 1.0, CART), (1, 0.1, POLE)):
        engine_mass, moments, _ = dynamics(world, "cart_pole", link)
        assert engine_mass == body.mass == mass
        assert moments == pytest.approx(box(mass, *body.visual_size), rel=1e-9)
        assert body.inertia == pytest.approx(box(mass, *body.visual_size), rel=1e-9)
    assert POLE.visual_size == (0.05, 0.05, 1.0)
    assert POLE.centre == (0, 0, 0.5)


@pytest.mark.parametrize("length", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("loaded", [None, SHORTEST_POLE])
def test_cart_poles_of_any_size_are_boxes(length, loaded):
    """The engine has a box's moments about the hinge, also in a pole that was loaded shorter."""
    task = CartPole(pole_length=length, pole_mass=0.2, cart_mass=1.5)
    world, scene = build(task if loaded is None else replace(task, pole_length=loaded))
    task.set_parameters(scene, 0)
    cart_mass, cart_moments, _ = dynamics(world, "cart_pole", 0)
    mass, moments, _ = dynamics(world, "cart_pole", 1)
    width, depth, _ = POLE.visual_size
    half, loaded_half = length / 2, (loaded or length) / 2
    expected = box(0.2, width, depth, length) + 0.2 * half**2 * np.array([1, 1, 0])
    assert moments + mass * loaded_half**2 * np.array([1, 1, 0]) == pytest.approx(
        expected, rel=1e-9
    )
    assert mass * loaded_half == pytest.approx(0.2 * half, rel=1e-9)
    assert cart_mass + mass == pytest.approx(1.7, rel=1e-9)
    assert cart_moments == pytest.approx(box(cart_mass, *CART.visual_size), rel=1e-9)
    world.close()


def test_plate_bodies_are_those_of_the_issue(plate_world):
    """A 0.5 kg square ring and a 0.3 kg plate, uniform, in file and engine."""
    world, _ = plate_world
    outside, inside, thick = 0.1, 0.08, 0.018  # m
    area = outside**2 - inside**2
    # The frame is a box less the box inside it.
    ring = box(0.5 * outside**2 / area, outside, outside, thick) - box(
        0.5 * inside**2 / area, inside, inside, thick
    )
    assert PLATE.collision_size == (0.3, 0.3, 0.02)
    for link, mass, body, expected in (
        (0, 0.5, RING, ring),
        (1, 0.3, PLATE, box(0.3, 0.3, 0.3, 0.02)),
    ):
        engine_mass, moments, _ = dynamics(world, "balancing_plate", link)
        assert engine_mass == body.mass == mass
        assert moments == pytest.approx(expected, rel=1e-9)
        assert body.inertia == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mass", [0.0027, 0.0007, 0.1])
def test_ball_is_hollow_whatever_its_mass(mass):
    """A shell of radius 0.02 m has 2/3 m r^2, in the engine and for 2.7 g in the file."""
    world, _ = build(BalancingPlate(ball_mass=mass))
    engine_mass, moments, _ = dynamics(world, "ball", -1)
    world.close()
    assert engine_mass == mass
    assert moments == pytest.approx([2 / 3 * mass * 0.02**2] * 3, rel=1e-9)
    assert (BALL.mass, BALL.collision_size) == (0.0027, (0.02,))
    assert BALL.inertia == pytest.approx([2 / 3 * 0.0027 * 0.02**2] * 3, rel=1e-9)


def test_ball_and_plate_touch_as_their_files_say(plate_world):
    """Friction 1, no rolling or spinning friction and no bounce, on both."""
    world, _ = plate_world
    assert dynamics(world, "balancing_plate", 1)[2] == (1, 0, 0, 0)
    assert dynamics(world, "ball", -1)[2] == (1, 0, 0, 0)


def test_ball_falls_through_a_cart_pole():
    """A contact-free robot touches nothing, whatever shape its links are given."""
    world = World(50, 50)
    world.load_contact_free(assets.path("cart_pole.urdf"), 1)
    ball = world.load(assets.path("ball.urdf"), (0.0, 0.0, 2.0))
    for _ in range(50):
        world.step()
    fallen = 2.0 - ball.base()[2]
    world.close()
    assert fallen == pytest.approx(GRAVITY / 2 * (1.0 + 0.02), rel=1e-9)  # semi-implicit Euler


def test_world_settings():
    """Gravity is 9.8 m/s^2 downwards, and a step is one control period in whole physics steps."""
    world = World(100, 50, bullet_substeps=True)
    found = p.getPhysicsEngineParameters(world.client)
    world.close()
    gravity = [found[f"gravityAcceleration{axis}"] for axis in "XYZ"]
    assert gravity == [0, 0, -GRAVITY]
    assert found["fixedTimeStep"] == pytest.approx(0.02, rel=1e-12)
    assert found["numSubSteps"] == 2


def test_rates_are_those_of_the_equations_of_motion():
    """With the sizes of the task; None where they leave something out."""
    rng = np.random.default_rng(0)
    states, forces = rng.normal(size=(5, 4)), rng.normal(size=(5, 1))
    task = CartPole(cart_mass=2.0, pole_length=0.7)
    assert np.array_equal(task.rates(states, forces), cart_pole_rates(states, forces, task))
    assert not np.array_equal(task.rates(states, forces), CartPole().rates(states, forces))
    plate = BalancingPlate(ball_mass=0.005)
    states = np.array([plate.rest(), plate.rest()])
    torques = 1e-3 * rng.normal(size=(2, 2))
    assert np.array_equal(plate.rates(states, torques), plate_rates(states, torques, plate))
    assert not np.array_equal(plate.rates(states, torques), plate.rates(states, -torques))
    for other in ({"rolling_friction": 1e-4}, {"drop_height": 0.1}):
        assert BalancingPlate(**other).rates(states, torques) is None


def test_a_ball_moves_with_its_plate():
    """Its velocity is what its places say at angles a moment before and after."""
    task, dt = BalancingPlate(), 1e-6
    u, v, pitch, roll, pitch_rate, roll_rate = 0.03, -0.02, 0.3, -0.2, 0.7, -1.1

    def state(time):
        angles = pitch + time * pitch_rate, pitch_rate, roll + time * roll_rate, roll_rate
        return np.array(task.from_coordinates((u, 0.0, v, 0.0, *angles)))

    places = [state(time)[4:7] for time in (-dt, dt)]
    assert state(0)[11:14] == pytest.approx((places[1] - places[0]) / (2 * dt), abs=1e-8)
    assert task.coordinates(state(0)) == pytest.approx(
        (u, 0.0, v, 0.0, pitch, pitch_rate, roll, roll_rate), abs=1e-12
    )
