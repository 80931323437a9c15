"""Perturbed robots: right by independent models, equal in every way of running them, and felt."""

import functools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from conftest import PIXEL_IDS, STATE_IDS, assert_same, compare, sample
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from oracle import HEIGHT, plate_rates
from robots import Shover

from benchmarks.convergence import euler_cart_pole, random_play
from bullet_envs import env as env_module
from bullet_envs.env import BulletEnv
from bullet_envs.equations_of_motion import in_play, rk4
from bullet_envs.perturbations import Distribution, parse_perturbations
from bullet_envs.simulation import Simulation
from bullet_envs.tasks import BalancingPlate, CartPole

# Something of every part.
CART_POLE = {
    "parameters": {
        "pole_mass": {"uniform": [0.5, 1.5], "operation": "scale"},
        "pole_length": {"log_uniform": [0.6, 1.6]},
        "force": {"normal": [10, 1, 8, 12]},
        "cart_friction": {"uniform": [0, 0.5], "when": "make"},
    },
    "actions": {
        "delay": 1,
        "noise": {"slider": 0.5},
        "dead_zone": {"slider": 10.0},
        "saturation": {"slider": 9},
    },
    "observations": {
        "noise": {"theta": 0.01},
        "bias": {"x": {"uniform": [-0.1, 0.1]}},
        "dropped": {"probability": 0.05, "steps": 2},
        "stuck": {"probability": 0.05},
        "delay": 1,
    },
    "pushes": [
        {"body": "pole", "impulse": 0.02, "direction": "random", "rate": 2},
        {"body": "cart", "force": {"uniform": [1, 3]}, "time": 0.2, "duration": 0.1, "period": 0.5},
    ],
}
PLATE = {
    "parameters": {
        "ball_mass": {"uniform": [0.5, 1.5], "operation": "scale"},
        "ball_radius": {"uniform": [0.015, 0.03]},
        "plate_mass": {"uniform": [-0.05, 0.05], "operation": "add"},
        "torque": {"uniform": [0.8, 1.2], "operation": "scale"},
        "rolling_friction": {"uniform": [0, 1e-4]},
        "restitution": 0.3,
    },
    "observations": {"noise": {"ball_x": 0.001}, "delay": 2},
    "pushes": [{"body": "ball", "impulse": 1e-4, "direction": [1, 1, 0], "time": 0.1}],
}
SEEN = {
    "observations": {"delay": 1, "dropped": {"probability": 0.1}, "stuck": {"probability": 0.1}},
    "images": {"brightness": {"uniform": [0.7, 1.3]}, "noise": 4, "camera": 0.02},
}
ARM = {
    "parameters": {
        "torque": {"uniform": [0.5, 1.0]},
        "elbow_damping": {"log_uniform": [0.001, 0.1]},
    },
    "actions": {"delay": 1, "noise": {"elbow": 0.02}},
    "observations": {"noise": {"arm.1": 0.01, "goal.0": 0.005}, "delay": 1},
    "pushes": [{"body": "lower", "impulse": 0.01, "direction": "random", "rate": 5}],
}
SHOVER = {
    "parameters": {"puck_mass": {"log_uniform": [0.5, 2.0], "operation": "scale"}},
    "actions": {"delay": 1},
    "observations": {"noise": {"x": 0.001}, "stuck": {"probability": 0.1}},
    "pushes": [{"body": "puck", "impulse": 0.02, "direction": [0, 1, 0], "time": 0.05}],
}
PERTURBED = {
    "BulletCartPole-v0": CART_POLE,
    "BalancingPlate-v0": PLATE,
    "BulletCartPolePixels-v0": CART_POLE | SEEN,
    "BalancingPlatePixels-v0": PLATE | SEEN,
    "ElbowArm-v0": ARM,
    "Shover-v0": SHOVER,
}


def constant(**values):
    return {"parameters": values}


def states_of_episode(env, actions, **reset):
    """Return the states of an episode, shape (steps + 1, columns)."""
    env.reset(**reset)
    states = [list(env.unwrapped.state().values())]
    for action in actions:
        env.step(action)
        states.append(list(env.unwrapped.state().values()))
    return np.array(states)


CART_POLE_VALUES = [
    {"pole_mass": 0.03},
    {"pole_mass": 0.4},
    {"cart_mass": 0.3},
    {"cart_mass": 4.0},
    {"pole_length": 0.4},
    {"pole_length": 2.3},
    {"cart_friction": 3.0},
    {"pole_friction": 0.2},
    {"force": 4.0},
    {
        **{"pole_mass": 0.2, "cart_mass": 1.4, "pole_length": 0.7, "cart_friction": 0.5},
        **{"pole_friction": 0.02, "force": 12.0},
    },
]


@pytest.mark.parametrize("values", CART_POLE_VALUES, ids=lambda values: "-".join(values))
def test_cart_poles_equal_the_independent_model(values):
    """As exactly as the nominal one, perturbed and by keyword, until the pole has fallen over."""
    task = replace(CartPole(), **values)
    wide = {"angle_limit": 3.14, "x_limit": 15}
    perturbed = gym.make("BulletCartPole-v0", perturbations=constant(**values), **wide)
    by_keyword = gym.make("BulletCartPole-v0", **values, **wide)
    actions = np.random.default_rng(0).integers(0, 2, 25).tolist()
    options = {"state": {"theta": 0.1, "theta_dot": 0.2, "x_dot": -0.3}}
    for env in (perturbed, by_keyword):
        states = states_of_episode(env, actions, options=options)
        expected = [states[0]]
        for action in actions:
            force = np.array([task.force if action else -task.force])
            expected.append(euler_cart_pole(expected[-1], force, 100, 2, task))
        assert states == pytest.approx(np.array(expected), abs=1e-9)
        env.close()


PLATE_VALUES = [
    {"ball_mass": 0.0009},
    {"ball_mass": 0.02},
    {"ball_radius": 0.012},
    {"ball_radius": 0.035},
    {"plate_mass": 0.15},
    {"plate_mass": 0.9},
    {"ring_mass": 2.0},
    {"torque": 0.012},
    {"ball_mass": 0.006, "ball_radius": 0.03, "plate_mass": 0.4, "ring_mass": 0.4, "torque": 0.007},
]


@functools.cache
def plate_error(**values):
    """Return the median over runs of the greatest errors (rad and m) at 1000 Hz, in 0.3 s."""
    nominal = BalancingPlate(physics_hz=1000)
    task = replace(nominal, **values)
    initial, torques = random_play(task, 30, 15)
    simulation = Simulation(nominal, perturbed=tuple(values))
    simulation.set_task(0, task)
    states = np.empty((16, *initial.shape))
    for run, state in enumerate(initial.tolist()):
        states[0, run] = simulation.set_state({0: state})[0]
        for step, torque in enumerate(torques[:, run].tolist()):
            states[step + 1, run] = simulation.step(torque)
    simulation.close()
    exact = rk4(functools.partial(plate_rates, task=task), states[0], torques, 50)
    errors = np.abs(states - exact) * in_play(task, exact)[..., None]
    return np.median(errors[..., [0, 2]].max((0, 2))), np.median(errors[..., 4:7].max((0, 2)))


@pytest.mark.parametrize("values", PLATE_VALUES, ids=lambda values: "-".join(values))
def test_plates_follow_the_independent_model(values):
    """As closely as the nominal one, in proportion to the torque over the inertia."""
    angle, place = plate_error(**values)
    nominal_angle, nominal_place = plate_error()
    heavier = max(
        values.get("torque", 0.005) / 0.005,
        0.3 / values.get("plate_mass", 0.3),
        values.get("ball_mass", 0.0027) / 0.0027,
        1.0,
    )
    assert angle < 2 * heavier * nominal_angle
    assert place < 2 * heavier * nominal_place


def test_a_wrong_mass_is_seen_by_the_independent_model():
    """The comparison above fails if a parameter does not arrive."""
    task = replace(BalancingPlate(physics_hz=1000), plate_mass=0.9)
    initial, torques = random_play(task, 10, 15)
    exact = rk4(functools.partial(plate_rates, task=task), initial, torques, 50)
    wrong = rk4(plate_rates, initial, torques, 50)
    assert np.median(np.abs(exact - wrong)[..., [0, 2]].max((0, 2))) > 10 * plate_error()[0]


@pytest.mark.parametrize("restitution", [0.3, 0.6, 0.8])
def test_restitution(restitution):
    """A ball that falls on a heavy plate rises to the square of it, and to a quarter more."""
    values = {"restitution": restitution, "plate_mass": 3.0, "ring_mass": 5.0}
    env = gym.make(
        *("BalancingPlate-v0",),
        **{"perturbations": constant(**values), "continuous": True, "control_hz": 100},
    )
    env.reset(options={"state": {"ball_z": HEIGHT + 0.1}})
    heights = []
    for _ in range(60):
        env.step(np.zeros(2, np.float32))
        heights.append(env.unwrapped.state()["ball_z"] - HEIGHT)
    low = int(np.argmax(np.array(heights) < 0.01))
    rise = max(heights[low:])
    assert 0.1 * restitution**2 < rise < 0.125 * restitution**2
    env.close()


@pytest.mark.parametrize(("physics_hz", "stronger"), [(100, 0.3), (1000, 0.02)])
@pytest.mark.parametrize("rolling", [0.0, 2e-4, 1e-3])
def test_rolling_friction(rolling, physics_hz, stronger):
    """A ball that rolls on a level, heavy plate slows down by 3/5 g c / r; at 100 Hz by more."""
    values = {"rolling_friction": rolling, "plate_mass": 3.0, "ring_mass": 5.0}
    rates = {"physics_hz": physics_hz, "continuous": True}
    env = gym.make("BalancingPlate-v0", perturbations=constant(**values), **rates)
    state = {"ball_vx": 0.2, "ball_wy": 0.2 / 0.02, "ball_x": -0.05}
    env.reset(options={"state": state})
    for _ in range(10):
        env.step(np.zeros(2, np.float32))
    slowed = 0.2 - env.unwrapped.state()["ball_vx"]
    expected = 0.6 * 9.8 * rolling / 0.02 * 0.2
    assert 0.99 * expected - 5e-4 < slowed < (1 + stronger) * expected + 5e-4
    env.close()


def test_sliding_friction():
    """A ball that spins on a plate is driven by friction of sliding, in proportion to it."""
    speeds = []
    for friction in (0.0, 0.02, 0.04):
        values = {"sliding_friction": friction, "plate_mass": 3.0, "ring_mass": 5.0}
        env = gym.make("BalancingPlate-v0", perturbations=constant(**values), continuous=True)
        env.reset(options={"state": {"ball_wy": 50.0}})
        for _ in range(5):
            env.step(np.zeros(2, np.float32))
        speeds.append(env.unwrapped.state()["ball_vx"])
        env.close()
    assert speeds == pytest.approx([0.0, 0.02 * 9.8 * 0.1, 0.04 * 9.8 * 0.1], abs=2e-3)


@pytest.mark.parametrize(
    ("push", "speed"),
    [
        ({"impulse": 0.5}, lambda steps: 0.5),
        ({"impulse": 0.5, "direction": [-2, 0, 0]}, lambda steps: -0.5),
        ({"force": 3.0}, lambda steps: 3.0 * steps / 50),
        (
            {"force": 3.0, "time": 0.1, "duration": 0.2},
            lambda steps: 3 * min(0.2, steps / 50 - 0.1),
        ),
        ({"impulse": 0.5, "time": 0.04, "period": 0.1}, lambda steps: 0.5 * (1 + (steps - 3) // 5)),
        # 7 control periods, though 0.14 * 50 is more than 7 in floating point.
        ({"force": 20.0, "duration": 0.14}, lambda steps: 20 * 7 / 50),
    ],
)
def test_pushes_change_the_momentum(push, speed):
    """Of the cart and pole together, by the impulse."""
    env = gym.make(
        *("BulletCartPole-v0",),
        **{"perturbations": {"pushes": [{"body": "cart", **push}]}, "continuous": True},
        **{"angle_limit": 3.14, "x_limit": 15},
    )
    env.reset(options={"state": {}})
    for steps in range(1, 21):
        env.step(np.zeros(1, np.float32))
        state = env.unwrapped.state()
        pole = state["x_dot"] + 0.5 * np.cos(state["theta"]) * state["theta_dot"]
        if steps >= 10:
            momentum = state["x_dot"] + 0.1 * pole
            assert momentum == pytest.approx(speed(steps), abs=0.02)
    env.close()


@pytest.mark.parametrize("pole_length", [1.0, 1.8])
def test_a_push_on_the_pole_acts_at_its_centre(pole_length):
    """Equal to a model with the force there, also where the engine's pole is another."""
    task = replace(CartPole(), pole_length=pole_length)
    given = {
        **constant(pole_length=pole_length),
        "pushes": [{"body": "pole", "force": 0.4}],
    }
    wide = {"angle_limit": 3.14, "x_limit": 15, "continuous": True}
    env = gym.make("BulletCartPole-v0", perturbations=given, **wide)
    env.reset(options={"state": {"theta": 0.1}})
    x, x_dot, theta, theta_dot = 0.0, 0.0, 0.1, 0.0
    half, mass, total = pole_length / 2, task.pole_mass, task.pole_mass + task.cart_mass
    moment = mass / 12 * (0.05**2 + pole_length**2) + mass * half**2
    for _ in range(15):
        env.step(np.zeros(1, np.float32))
        for _ in range(2):
            mixed = mass * half * np.cos(theta)
            pushed = [
                0.4 + mass * half * theta_dot**2 * np.sin(theta),
                mass * 9.8 * half * np.sin(theta) + 0.4 * half * np.cos(theta),
            ]
            faster = np.linalg.solve([[total, mixed], [mixed, moment]], pushed)
            x_dot, theta_dot = x_dot + faster[0] / 100, theta_dot + faster[1] / 100
            x, theta = x + x_dot / 100, theta + theta_dot / 100
    expected = [x, x_dot, theta, theta_dot]
    assert list(env.unwrapped.state().values()) == pytest.approx(expected, abs=1e-9)
    env.close()


@pytest.mark.parametrize(
    "env_id", ["BulletCartPole-v0", pytest.param("BulletCartPolePixels-v0", marks=pytest.mark.slow)]
)
def test_skipped_observations_of_drawn_parameters(env_id):
    """`step` returns the last one that was asked for, `observation` and `picture` the present."""
    given = {"parameters": {"pole_length": {"uniform": [0.5, 0.6]}}}
    env, plain = (gym.make(env_id, perturbations=given).unwrapped for _ in range(2))
    first = [each.reset(seed=0)[0] for each in (env, plain)]
    assert_same(*first)
    env.skip_observations = True
    for action in (1, 1, 1):
        skipped = env.step(action)[0]
        assert_same(skipped, first[0])
        present = plain.step(action)[0]
    assert not np.array_equal(present, first[0])
    if "Pixels" in env_id:
        assert_same(env.picture().observation, present)
    assert_same(env.observation(), present)
    for each in (env, plain):
        each.close()


@pytest.mark.parametrize(
    "given", [{"images": {"noise": 20.0}}, {"parameters": {"pole_length": {"uniform": [0.5, 0.6]}}}]
)
def test_frames_show_the_image_that_is_observed(make_vec, monkeypatch, given):
    """With its noise and its sizes, in a window too, which changes no number that is drawn."""
    shown = []

    class Screen:
        def __init__(self, *of):
            pass

        def show(self, draw):
            shown.append(watched.picture().observation)

        def close(self):
            pass

    monkeypatch.setattr(env_module, "Window", Screen)
    env_id, kwargs = "BulletCartPolePixels-v0", {"perturbations": given, "size": 20}
    watched = gym.make(env_id, render_mode="human", **kwargs).unwrapped
    plain = gym.make(env_id, **kwargs).unwrapped
    many = make_vec(env_id, num_envs=1, render_mode="rgb_array", **kwargs)
    pictures = []
    monkeypatch.setattr(
        many.unwrapped._painter, "draw", lambda picture: pictures.append(picture.observation)
    )
    for seed in (0, 1):
        observations = [each.reset(seed=seed)[0] for each in (watched, plain)]
        batch = many.reset(seed=seed)[0]
        for action in (0, 1, 1):
            many.render()
            for seen in (observations[0], shown[-1], pictures[-1], batch[0]):
                assert_same(seen, observations[1])
            observations = [each.step(action)[0] for each in (watched, plain)]
            batch = many.step(np.array([action]))[0]
    for each in (watched, plain):
        each.close()


def parts(given):
    """Return every single field of some perturbations, as perturbations of its own."""
    for part, fields in given.items():
        if part == "pushes":
            yield from ({"pushes": [push]} for push in fields)
        else:
            yield from ({part: {name: value}} for name, value in fields.items())


FIELDS = [
    pytest.param(env_id, given, id=f"{env_id}-{json.dumps(given)[:60]}")
    for env_id, whole in PERTURBED.items()
    for given in parts(whole)
]


@pytest.mark.parametrize(("env_id", "given"), FIELDS)
def test_every_field_has_an_effect(env_id, given):
    """A randomisation without effect is a known bug elsewhere."""
    kwargs = {"size": 36} if env_id in PIXEL_IDS else {}
    if "restitution" in str(given):
        kwargs["drop_height"] = 0.05
    plain, perturbed = gym.make(env_id, **kwargs), gym.make(env_id, perturbations=given, **kwargs)
    plain.reset(seed=1)
    # The same initial state, whatever has been drawn before it.
    options = {"state": plain.unwrapped.state()}
    actions = sample(plain, 60 if env_id == "Shover-v0" else 25, seed=2)
    seen = []
    for env in (plain, perturbed):
        space = env.observation_space
        observations = [gym.spaces.flatten(space, env.reset(seed=1, options=options)[0])]
        for action in actions:
            observation, _, terminated, _, _ = env.step(action)
            observations.append(gym.spaces.flatten(space, observation))
            if terminated:
                break
        seen.append(observations)
        env.close()
    assert len(seen[0]) != len(seen[1]) or not all(map(np.array_equal, *seen))


@pytest.mark.parametrize("env_id", STATE_IDS + PIXEL_IDS)
def test_nominal_values_change_no_bit(env_id):
    """Neither do perturbations without content."""
    task = gym.make(env_id).unwrapped.task
    in_place = [
        p.name for p in task.parameters if not (p.rebuilds or p.visible or "friction" in p.name)
    ]
    nominal = {name: getattr(task, name) for name in in_place}
    for given in ({}, {"parameters": nominal}, {"observations": {"delay": 0}, "pushes": []}):
        plain, perturbed = (gym.make(env_id, **kwargs) for kwargs in ({}, {"perturbations": given}))
        for seed in (0, None):
            assert_same(plain.reset(seed=seed)[0], perturbed.reset(seed=seed)[0])
            for action in sample(plain, 40, seed=3):
                mine, theirs = plain.step(action), perturbed.step(action)
                assert_same(mine[0], theirs[0])
                assert mine[1:4] == theirs[1:4]
                if mine[2]:
                    break
        plain.close()
        perturbed.close()


# One mode in the quick tests, the others in the sweeps.
MODES = [
    AutoresetMode.NEXT_STEP,
    *(
        pytest.param(mode, marks=pytest.mark.sweep)
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(one, marks=[pytest.mark.sweep] if one == PIXEL_IDS[1] else [])
        for one in PERTURBED
    ],
)
def test_single_equals_vector_equals_workers(make_vec, env_id, mode):
    """To the bit: observations, rewards, ends, infos, through staggered ends and partial resets."""
    kwargs = {"perturbations": PERTURBED[env_id], "max_episode_steps": 12}
    if env_id in PIXEL_IDS:
        kwargs["size"] = 20
    vector = make_vec(env_id, 5, autoreset_mode=mode, **kwargs)
    workers = make_vec(env_id, 5, autoreset_mode=mode, workers=2, **kwargs)
    singles = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * 5, autoreset_mode=mode)
    assert compare(vector, singles, 45, kept=2) > 5
    singles.close()
    again = make_vec(env_id, 5, autoreset_mode=mode, **kwargs)
    assert compare(workers, again, 45, kept=2) > 5


@pytest.mark.parametrize("env_id", PERTURBED)
def test_the_seed_decides_whatever_came_before(env_id):
    kwargs = {"perturbations": PERTURBED[env_id]}
    used, fresh = gym.make(env_id, **kwargs), gym.make(env_id, **kwargs)
    used.reset(seed=9)
    for action in sample(used, 17, seed=1):
        used.step(action)
    # What is drawn when it is made stays as it is.
    fresh.reset(seed=9)
    first, second = used.reset(seed=4), fresh.reset(seed=4)
    assert_same(first[0], second[0])
    assert first[1] == second[1]
    for action in sample(used, 12, seed=2):
        mine, theirs = used.step(action), fresh.step(action)
        assert_same(mine[0], theirs[0])
    used.close()
    fresh.close()


def test_observations_stay_in_their_space():
    """Whatever the noise."""
    given = {
        "observations": {
            "noise": {"x": 1e4, "theta": 1e3},
            "bias": {"x_dot": {"uniform": [-1e4, 1e4]}},
        }
    }
    env = gym.make("BulletCartPole-v0", perturbations=given)
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        assert env.observation_space.contains(observation)
        observation, _, terminated, _, _ = env.step(0)
        if terminated:
            observation, _ = env.reset()


def test_noise_is_in_physical_units():
    """Of the plate, whose observation is scaled."""
    given = {"observations": {"noise": {"ball_x": 0.002}}}
    env = gym.make("BalancingPlate-v0", perturbations=given)
    errors = []
    for seed in range(400):
        observation, _ = env.reset(seed=seed, options={"state": {}})
        errors.append(observation[0] * 0.05)
    assert np.std(errors) == pytest.approx(0.002, rel=0.15)
    assert abs(np.mean(errors)) < 5e-4


def test_delays():
    """Of n control periods, of the command and of the observation."""
    plain = gym.make("BulletCartPole-v0", continuous=True)
    late = gym.make(
        *("BulletCartPole-v0",),
        **{"continuous": True, "perturbations": {"actions": {"delay": 2}}},
    )
    blind = gym.make(
        *("BulletCartPole-v0",),
        **{"continuous": True, "perturbations": {"observations": {"delay": 3}}},
    )
    actions = sample(plain, 12, seed=0)
    still = [np.zeros(1, np.float32)] * 2
    options = {"state": {"theta": 0.02}}
    expected = states_of_episode(plain, still + actions[:10], options=options)
    assert (states_of_episode(late, actions, options=options) == expected).all()
    true = [plain.reset(options=options)[0], *(plain.step(action)[0] for action in actions)]
    seen = [blind.reset(options=options)[0], *(blind.step(action)[0] for action in actions)]
    assert_same(seen, [true[0]] * 3 + true[:-3])


def test_actuators():
    """Dead zone and saturation (N)."""
    given = {"actions": {"dead_zone": {"slider": 2.0}, "saturation": {"slider": 5.0}}}
    plain = gym.make("BulletCartPole-v0", continuous=True)
    env = gym.make("BulletCartPole-v0", continuous=True, perturbations=given)
    options = {"state": {"theta": 0.02}}
    for share, acts_as in ((0.1, 0.0), (0.3, 0.3), (-0.9, -0.5)):
        mine = states_of_episode(env, [np.float32([share])] * 3, options=options)
        theirs = states_of_episode(plain, [np.float32([acts_as])] * 3, options=options)
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_faults():
    """Dropped columns read 0, stuck ones what they read before."""
    given = {"observations": {"dropped": {"probability": 0.3, "steps": 2}}}
    env = gym.make("BulletCartPole-v0", perturbations=given)
    env.reset(seed=0)
    zeros = []
    for _ in range(300):
        observation, _, terminated, _, _ = env.step(0)
        zeros.append(observation == 0)
        if terminated:
            env.reset()
    assert 0.3 < np.mean(zeros) < 0.6  # 2 p / (1 + p) in the mean
    env = gym.make(
        *("BulletCartPole-v0",),
        **{"perturbations": {"observations": {"stuck": {"probability": 1.0, "steps": 1000}}}},
    )
    first, _ = env.reset(seed=0)
    for _ in range(5):
        assert_same(env.step(0)[0], first)


def test_infos_say_what_was_drawn(make_vec):
    given = {"parameters": {"pole_mass": {"uniform": [0.05, 0.2]}, "cart_mass": 1.5}}
    env = gym.make("BulletCartPole-v0", perturbations=given)
    masses = {env.reset(seed=seed)[1]["parameters"]["pole_mass"] for seed in range(5)}
    assert len(masses) == 5 and all(0.05 <= mass <= 0.2 for mass in masses)
    assert env.reset()[1]["parameters"]["cart_mass"] == 1.5
    assert "parameters" not in env.step(0)[4]
    info = env.reset(options={"parameters": {"pole_mass": 0.123}})[1]
    assert info["parameters"] == {"pole_mass": 0.123, "cart_mass": 1.5}
    envs = make_vec("BulletCartPole-v0", 3, perturbations=given)
    _, infos = envs.reset(options={"parameters": {"pole_mass": 0.123}})
    assert infos["parameters"]["pole_mass"].tolist() == [0.123] * 3


@pytest.mark.parametrize(
    "force",
    [{"log_uniform": [0.5, 2.0]}, {"normal": [1.0, 0.2, 0.5, 2.0]}, 1.5],
    ids=["uniform", "normal", "constant"],
)
def test_parameters_are_drawn_one_after_the_other(force):
    """As they are named, whether or not all of an episode's numbers are drawn by one call."""
    of = {
        "pole_mass": {"uniform": [0.05, 0.2]},
        "force": force if isinstance(force, float) else {**force, "operation": "scale"},
        "cart_friction": {"uniform": [0.0, 0.5], "operation": "add"},
    }
    env = gym.make("BulletCartPole-v0", perturbations={"parameters": of})
    draws = parse_perturbations({"parameters": of}, env.unwrapped.task, False).parameters
    rng, _ = np_random(3)
    _, info = env.reset(seed=3)
    for name, draw in draws.items():
        number = draw.distribution.sample(rng)
        assert info["parameters"][name] == draw.value(getattr(env.unwrapped.task, name), number)


@pytest.mark.parametrize(
    ("distribution", "low", "high"),
    [
        (Distribution("uniform", (2.0, 3.0)), 2.0, 3.0),
        (Distribution("log_uniform", (0.1, 10.0)), 0.1, 10.0),
        (Distribution("normal", (1.0, 2.0, 0.5, 4.0)), 0.5, 4.0),
    ],
)
def test_distributions(distribution, low, high):
    rng = np.random.default_rng(0)
    numbers = np.array([distribution.sample(rng) for _ in range(4000)])
    assert low <= numbers.min() and numbers.max() <= high
    assert numbers.min() < low + 0.1 * (high - low) and numbers.max() > high - 0.1 * (high - low)
    if distribution.kind == "log_uniform":
        assert np.mean(numbers < 1) == pytest.approx(0.5, abs=0.04)


WRONG = [
    (5, TypeError, "perturbations=5 must be a dict with parameters, actions, observations"),
    ("stormy", ValueError, "perturbations='stormy' must be"),
    ({"weather": {}}, ValueError, "perturbations has no 'weather'; legal: parameters, actions"),
    (constant(mass=1), ValueError, r"\['parameters'\] has no 'mass'; legal: force, cart_mass"),
    (constant(pole_mass=0), ValueError, "pole_mass=0.0 must be a number from 0.01 to 1 kg"),
    (
        constant(pole_mass={"uniform": [0.5, 20], "operation": "scale"}),
        *(ValueError, "pole_mass=2.0 must be a number from 0.01 to 1 kg"),
    ),
    (constant(pole_mass={"uniform": [0.2]}), ValueError, r"=\[0.2\] must be 2 numbers"),
    (constant(pole_mass={"uniform": [0.2, 0.1]}), ValueError, "the last two in order"),
    (constant(pole_mass="heavy"), TypeError, "='heavy' must be a number, {'uniform'"),
    (
        constant(pole_mass={"uniform": [0.1, 0.2], "when": "now"}),
        *(ValueError, r"\['when'\]='now' must be one of reset, make"),
    ),
    ({"actions": {"delay": 1.5}}, TypeError, "1.5 must be a whole number from 0 to 100 control"),
    ({"actions": {"noise": {"hinge": 1}}}, ValueError, "has no 'hinge'; legal: slider"),
    ({"observations": {"noise": {"z": 1}}}, ValueError, "has no 'z'; legal: x, x_dot, theta"),
    ({"observations": {"noise": 3}}, TypeError, r"\['noise'\]=3 must be a dict with x, x_dot"),
    ({"observations": {"noise": {"x": 1e9 + 1}}}, ValueError, r"must be a number from 0 to 1e\+09"),
    ({"observations": {"dropped": {"probability": 2}}}, ValueError, "2 must be a number from 0"),
    ({"images": {}}, ValueError, "is for environments that observe images"),
    ({"pushes": {}}, TypeError, "must be a list of dicts"),
    ({"pushes": [{"body": "cart"}]}, ValueError, "must have either 'force' .* or 'impulse'"),
    ({"pushes": [{"force": 1}]}, ValueError, "must have a 'body'"),
    ({"pushes": [{"body": "wheel", "force": 1}]}, ValueError, "no link 'wheel'; its links are"),
    (
        {"pushes": [{"body": "cart", "force": 1, "direction": [0, 0, 0]}]},
        *(ValueError, "must not be 0"),
    ),
]


@pytest.mark.parametrize(("given", "error", "words"), WRONG, ids=range(len(WRONG)))
def test_bad_perturbations_are_one_sentence(given, error, words):
    with pytest.raises(error, match=words):
        gym.make("BulletCartPole-v0", perturbations=given)
    with pytest.raises(error, match=words):
        gym.make_vec("BulletCartPole-v0", num_envs=2, perturbations=given)


def test_a_cart_too_light_for_its_pole_is_refused():
    """When the environment is made, or with the parameters of a reset."""
    heavy = {"pole_mass": 1.0, "pole_length": 4.0}
    words = "cart_mass=0.1 is too light to change pole_length to 4 with pole_mass=1: .* least 9 kg"
    with pytest.raises(ValueError, match=words):
        gym.make("BulletCartPole-v0", perturbations=constant(**heavy, cart_mass=0.1))
    with gym.make("BulletCartPole-v0", perturbations=constant(**heavy, cart_mass=9.5)) as env:
        with pytest.raises(ValueError, match=words):
            env.reset(seed=0, options={"parameters": {"cart_mass": 0.1}})
        _, info = env.reset(seed=0)
    assert info["parameters"]["cart_mass"] == 9.5


def test_bad_parameters_of_a_reset():
    env = gym.make("BulletCartPole-v0", perturbations=constant(pole_mass=0.2))
    for given, error, words in (
        ({"cart_mass": 1}, ValueError, "'cart_mass' must be among .*: pole_mass"),
        ({"pole_mass": 3}, ValueError, r"parameters\['pole_mass'\]=3 must be a number from 0.01"),
        (0.2, TypeError, "parameters 0.2 must be a dict"),
    ):
        with pytest.raises(error, match=words):
            env.reset(options={"parameters": given})


def test_spec_round_trip():
    env = gym.make("BulletCartPole-v0", perturbations=CART_POLE)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    first, second = env.reset(seed=3), again.reset(seed=3)
    assert_same(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_a_plain_step_makes_no_more_calls(env_id):
    """Those that it made before there were perturbations."""
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    calls = []

    def count(frame, event, argument):
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(argument.__name__)

    env.step(0)
    sys.setprofile(count)
    env.step(0)
    sys.setprofile(None)
    assert not {"command", "forces", "set_task", "observe_episode"}.intersection(calls)
    assert calls.count("step_one") == 1
    assert len(calls) <= {"BulletCartPole-v0": 16, "BalancingPlate-v0": 40}[env_id]


def test_every_parameter_is_documented():
    for env_id in STATE_IDS:
        task = gym.make(env_id).unwrapped.task
        for parameter in task.parameters:
            assert parameter.name in type(task).__doc__
            parse_perturbations(constant(**{parameter.name: parameter.low}), task, False)


def test_the_document_has_every_parameter():
    """The table of docs/perturbations.md."""
    rows = []
    for env_id in STATE_IDS:
        task = gym.make(env_id).unwrapped.task
        for one in task.parameters:
            how = "by a new world" if one.rebuilds else "in place"
            nominal = getattr(task, one.name)
            legal = f"{one.low:g} to {one.high:g}"
            rows.append(f"| {env_id} | `{one.name}` | {one.unit} | {nominal:g} | {legal} | {how} |")
    text = (Path(__file__).parent.parent / "docs" / "perturbations.md").read_text("utf-8")
    shown = text.split("<!-- parameters -->\n")[1].split("\n<!-- /parameters -->")[0]
    assert shown.splitlines()[2:] == rows


@dataclass(frozen=True, kw_only=True)
class Plain(Shover):
    """Without parameters."""

    parameters: ClassVar = ()


def test_tasks_without_parameters():
    """A task of one's own has all but these without a line of its own."""
    env = BulletEnv(Plain(), perturbations={"observations": {"delay": 1}, "actions": {"delay": 1}})
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    with pytest.raises(ValueError, match="has no parameters"):
        BulletEnv(Plain(), perturbations=constant(mass=1.0))


def test_options_say_what_is_legal():
    """In the parameter's unit."""
    given = {"parameters": {"pole_mass": {"uniform": [0.05, 0.2]}}}
    wrong = pytest.raises(ValueError, match=r"pole_mass.*=2.* must be a number from 0.01 to 1 kg")
    with gym.make("BulletCartPole-v0", perturbations=given) as env, wrong:
        env.reset(options={"parameters": {"pole_mass": 2.0}})
