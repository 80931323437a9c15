"""Small parts of the tasks, of their perturbations and of these as data, one by one."""

import contextlib
import json
import math
import types
from pathlib import Path

import numpy as np
import pybullet as p
import pytest
from gymnasium import spaces

import bullet_envs
from bullet_envs import Actuator, BodyScene
from bullet_envs.engine.world import World
from bullet_envs.env import BulletEnv
from bullet_envs.equations_of_motion import cart_pole_rates, plate_rates
from bullet_envs.perturbation_scaling import scaled
from bullet_envs.perturbations import (
    VARIANTS,
    column_scales,
    for_observer,
    parse_perturbations,
)
from bullet_envs.perturbed_episode import PerturbedEpisode, parse_parameters
from bullet_envs.simulation import Simulation
from bullet_envs.tasks import BalancingPlate, CartPole, balancing_plate, cart_pole

ELBOW_ARM = Path(__file__).parent / "elbow_arm.urdf"

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ((2.5, 0.0, 0.0, 0.0), "cart beyond 2.4 m"),
        ((-2.5, 0.0, 0.3, 0.0), "cart beyond 2.4 m"),
        ((2.4, 9.0, 0.3, 0.0), "pole beyond 0.209 rad"),
        ((0.0, 9.0, -0.3, 0.0), "pole beyond 0.209 rad"),
    ],
)
def test_what_ends_an_episode_of_the_cart_pole(state, said):
    """The limit that has been passed; a cart that is at its limit has not passed it."""
    assert CartPole().failure(state) == said


@pytest.mark.parametrize(
    ("pitch", "roll", "said"),
    [
        (1.6, 0.0, "plate beyond 1.57 rad"),
        (0.0, -1.6, "plate beyond 1.57 rad"),
        (BalancingPlate().tilt_limit, 0.0, "ball off the plate"),
        (0.1, 0.1, "ball off the plate"),
    ],
)
def test_what_ends_an_episode_of_the_plate(pitch, roll, said):
    """Speeds do not count, however great."""
    assert BalancingPlate().failure((pitch, 9.0, roll, 9.0, *[0.0] * 13)) == said


def test_rates_are_those_of_the_equations_of_motion():
    """With the parameters of the task; none where the plate's equations do not hold."""
    rng = np.random.default_rng(0)
    task, state, effort = CartPole(pole_mass=0.2), rng.normal(size=(3, 4)), rng.normal(size=(3, 1))
    assert np.array_equal(task.rates(state, effort), cart_pole_rates(state, effort, task))
    assert not np.allclose(task.rates(state, effort), cart_pole_rates(state, effort, CartPole()))
    plate = BalancingPlate(ball_mass=0.01)
    states = np.array([plate.sample_initial_state(rng) for _ in range(3)])
    torques = rng.normal(size=(3, 2))
    assert np.array_equal(plate.rates(states, torques), plate_rates(states, torques, plate))
    assert BalancingPlate(rolling_friction=1e-4).rates(states, torques) is None
    assert BalancingPlate(drop_height=0.1).rates(states, torques) is None
    assert BalancingPlate(sliding_friction=0.05).rates(states, torques) is None
    assert BalancingPlate(sliding_friction=0.1).rates(states, torques) is not None


def test_the_angular_velocity_of_a_tilted_plate():
    """That of the rotation between two moments, in world axes."""
    pitch, roll, pitch_rate, roll_rate, step = 0.8, 0.4, 0.7, -1.3, 1e-6
    before = balancing_plate._plate_axes(pitch, roll)
    after = balancing_plate._plate_axes(pitch + step * pitch_rate, roll + step * roll_rate)
    spin = (after - before) @ before.T / step
    expected = [spin[2, 1], spin[0, 2], spin[1, 0]]
    assert balancing_plate._plate_rate(pitch, pitch_rate, roll_rate) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("wrong", [[0.0] * 3, [0.0] * 5])
def test_coordinates_have_a_column_each(wrong):
    """Of the state, and of rest."""
    task = CartPole()
    assert task.coordinates([0.1, 0.2, 0.3, 0.4]) == [0.1, 0.2, 0.3, 0.4]
    for convert in (task.coordinates, task.from_coordinates):
        with pytest.raises(ValueError, match="zip"):
            convert(wrong)


def test_the_challenges_of_realworldrl_suite():
    """Delays in control periods, noise in its units, faults of both kinds."""
    fault = {"probability": 0.05, "steps": 3}
    noise = {"x": 0.3, "x_dot": 0.3, "theta": 0.3, "theta_dot": 0.3}
    expected = {
        "parameters": {"pole_length": {"uniform": [0.7, 1.7], "operation": "scale"}},
        "actions": {"delay": 3, "noise": {"slider": 3.0}},
        "observations": {"delay": 3, "noise": noise, "dropped": fault, "stuck": fault},
    }
    assert cart_pole._realworldrl(3, 0.3, 0.05, 3, [0.7, 1.7]) == expected
    assert CartPole.perturbation_presets["rwrl-medium"] == expected


def test_a_preset_without_sensors_is_for_images_too():
    """Noise and bias of columns are left out, and images where states are observed."""
    assert for_observer({"actions": {"delay": 1}}, True) == {
        "actions": {"delay": 1},
        "observations": {},
    }
    preset = {
        "images": {"noise": 1.0},
        "observations": {"delay": 1, "noise": {"x": 1.0}, "bias": {"x": 1.0}},
    }
    assert for_observer(preset, True) == {
        "images": {"noise": 1.0},
        "observations": {"delay": 1},
    }
    assert for_observer(preset, False) == {"observations": preset["observations"]}


def test_a_fault_without_a_probability_never_begins():
    """On any scale."""
    perturbed = scaled({"observations": {"dropped": {"steps": 2}}}, 3.0)
    assert perturbed["observations"]["dropped"] == {"steps": 2, "probability": 0.0}


def test_a_parameter_that_is_set_has_a_unit_in_its_error():
    """And the range that is legal."""
    task = CartPole()
    perturbations = parse_perturbations({"parameters": {"pole_mass": 0.2}}, task, False)
    assert parse_parameters({"pole_mass": 0.3}, task, perturbations) == {"pole_mass": 0.3}
    with pytest.raises(ValueError) as error:
        parse_parameters({"pole_mass": 2}, task, perturbations)
    said = "parameters['pole_mass']=2 must be a number from 0.01 to 1 kg"
    assert str(error.value) == said


@pytest.mark.parametrize(
    "push",
    [
        {"impulse": 0.05, "time": 0.2},
        {"force": 0.3, "time": 0.06},
        {"force": 0.3, "duration": 0.1, "time": 0.02, "period": 0.14},
        {"impulse": {"uniform": [-0.05, 0.05]}, "rate": 5.0},
    ],
)
@pytest.mark.parametrize("steps", [0, 5])
def test_pushes_go_on_from_a_snapshot(push, steps):
    """Those to come, those that last and those at random times; JSON has no infinity."""
    pushes = [{"body": "pole", "direction": [1, 0, 0], **push}]
    given = {"perturbations": {"pushes": pushes}, "angle_limit": 3.0}
    with BulletEnv(CartPole, **given) as env, BulletEnv(CartPole, **given) as other:
        env.reset(seed=1)
        for _ in range(steps):
            env.step(0)
        taken = json.loads(json.dumps(bullet_envs.snapshot(env), allow_nan=False))
        other.reset(seed=2)
        bullet_envs.restore(other, taken)
        for action in [1, 0] * 10:
            for one, two in zip(env.step(action), other.step(action), strict=True):
                assert np.array_equal(one, two)
        assert math.isfinite(env.state()["theta"])


@pytest.mark.parametrize("count", [1, 2])
def test_commands_are_in_the_order_of_the_actuators(count):
    """Also where a body has torques and motors: each has its own command."""
    shoulder = Actuator(joint="shoulder", scale=0.3)
    elbow = Actuator(joint="elbow", scale=1.0, kind="velocity", max_force=0.5)

    def played(actuators, commands):
        with contextlib.closing(World(240, 240)) as world:
            scene = BodyScene(world, count, actuators)
            scene.add_robot(ELBOW_ARM, ("shoulder", "elbow"))
            scene.check()
            scene.set_state({index: [0.1, 0.0, 0.2, 0.0] for index in range(count)})
            for _ in range(5):
                scene.act(commands)
                world.step()
            return scene.state()

    torques, speeds = [0.05, -0.02][:count], [0.4, -0.3][:count]
    pairs = list(zip(torques, speeds, strict=True))
    first = played((shoulder, elbow), [one for pair in pairs for one in pair])
    second = played((elbow, shoulder), [one for pair in pairs for one in reversed(pair)])
    assert first == second
    assert first[3] == pytest.approx(speeds[0], abs=0.05)
    without = played((shoulder, elbow), [0.0, speeds[0]] * count)
    assert first[1] != without[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"actions": 3},
            "perturbations['actions']=3 must be a dict with delay, noise, dead_zone, saturation",
        ),
        (
            {"actions": {"delay": -1}},
            "perturbations['actions']['delay']=-1 must be a whole number from 0 to 100 control"
            " periods",
        ),
        (
            {"actions": {"noise": {"slider": -1}}},
            "perturbations['actions']['noise']['slider']=-1 must be a number from 0 to 1e+09 SI"
            " units",
        ),
        (
            {"images": 3},
            "perturbations['images']=3 must be a dict with brightness, noise, camera",
        ),
        (
            {"images": {"brightness": "dark"}},
            "perturbations['images']['brightness']='dark' must be a number, {'uniform': [low,"
            " high]}, {'log_uniform': [low, high]} or {'normal': [mean, std, low, high]}",
        ),
        (
            {"images": {"brightness": 10.5}},
            "perturbations['images']['brightness']=10.5 must be a number from 0 to 10",
        ),
        (
            {"images": {"noise": 255.5}},
            "perturbations['images']['noise']=255.5 must be a number from 0 to 255 of 255",
        ),
        (
            {"images": {"camera": 1.5}},
            "perturbations['images']['camera']=1.5 must be a number from 0 to 1 m",
        ),
    ],
)
def test_errors_name_the_part_and_what_is_legal(given, said):
    """In one sentence."""
    with pytest.raises((TypeError, ValueError)) as error:
        parse_perturbations(given, CartPole(), True)
    assert str(error.value) == said


def _of_mass(of):
    return {"parameters": {"pole_mass": of}}


def _of_push(**of):
    return {"pushes": [{"body": "pole", **of}]}


_MASS = "perturbations['parameters']['pole_mass']"
_SENSORS = "perturbations['observations']"
_PUSH = "perturbations['pushes'][0]"
_KINDS = (
    " must be a number, {'uniform': [low, high]}, {'log_uniform': [low, high]} or {'normal':"
    " [mean, std, low, high]}"
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (_of_mass(2e9), f"{_MASS}=2000000000.0 must be a number from -1e+09 to 1e+09"),
        (_of_mass(None), f"{_MASS}=None{_KINDS}"),
        (_of_mass(True), f"{_MASS}=True{_KINDS}"),
        (_of_mass({"uniform": [0.1, 0.2], "normal": []}), None),
        (_of_mass({"uniform": 0.1}), f"{_MASS}['uniform']=0.1 must be 2 numbers"),
        (_of_mass({"normal": [1, 2]}), f"{_MASS}['normal']=[1, 2] must be 4 numbers"),
        (
            _of_mass({"uniform": [0.1, "0.2"]}),
            f"{_MASS}['uniform']='0.2' must be a number from -1e+09 to 1e+09",
        ),
        (
            _of_mass({"uniform": [0.2, 0.1]}),
            f"{_MASS}['uniform']=[0.2, 0.1] must be 2 numbers, the last two in order",
        ),
        (
            _of_mass({"log_uniform": [0, 0.1]}),
            f"{_MASS}['log_uniform']=[0, 0.1] must be 2 numbers, the last two in order and above 0",
        ),
        (
            _of_mass({"normal": [0.1, 0, 0.05, 0.2]}),
            f"{_MASS}['normal']=[0.1, 0, 0.05, 0.2] must be 4 numbers: std above 0, and mean at"
            " most 3 std beyond the bounds",
        ),
        (
            _of_mass({"uniform": [0.1, 0.2], "mode": "reset"}),
            f"{_MASS} has no 'mode'; legal: operation, when",
        ),
        (
            _of_mass({"uniform": [0.1, 0.2], "operation": "times"}),
            f"{_MASS}['operation']='times' must be one of absolute, scale, add",
        ),
        (_of_mass(2), f"{_MASS}: pole_mass=2.0 must be a number from 0.01 to 1 kg"),
        (
            {"observations": {"delay": 101}},
            f"{_SENSORS}['delay']=101 must be a whole number from 0 to 100 control periods",
        ),
        (
            {"observations": 3},
            f"{_SENSORS}=3 must be a dict with delay, noise, bias, dropped, stuck",
        ),
        (
            {"observations": {"dropped": 0.1}},
            f"{_SENSORS}['dropped']=0.1 must be a dict with probability, steps",
        ),
        (
            {"observations": {"stuck": {"probability": 1.5}}},
            f"{_SENSORS}['stuck']['probability']=1.5 must be a number from 0 to 1",
        ),
        (
            {"observations": {"stuck": {"steps": 0}}},
            f"{_SENSORS}['stuck']['steps']=0 must be a whole number from 1 to 1000 control periods",
        ),
        (
            {"observations": {"stuck": {"steps": 1001}}},
            f"{_SENSORS}['stuck']['steps']=1001 must be a whole number from 1 to 1000 control"
            " periods",
        ),
        (
            {"observations": {"noise": {"x": 2e9}}},
            f"{_SENSORS}['noise']['x']=2000000000.0 must be a number from 0 to 1e+09 SI units",
        ),
        (
            {"observations": {"bias": 3}},
            f"{_SENSORS}['bias']=3 must be a dict with x, x_dot, theta, theta_dot",
        ),
        ({"observations": {"bias": {"x": None}}}, f"{_SENSORS}['bias']['x']=None{_KINDS}"),
        (
            {"pushes": ["pole"]},
            f"{_PUSH}='pole' must be a dict with body, direction, force, impulse, duration, time,"
            " period, rate",
        ),
        (
            _of_push(force=1, impulse=1),
            f"{_PUSH} must have either 'force' (N) or 'impulse' (N·s)",
        ),
        (
            {"pushes": [{"force": 1}]},
            f"{_PUSH} must have a 'body': the name of a link",
        ),
        (
            _of_push(force=1, rate=1, time=1),
            f"{_PUSH} must have either 'rate' or 'time' and 'period'",
        ),
        (
            _of_push(force=1, rate=1, period=1),
            f"{_PUSH} must have either 'rate' or 'time' and 'period'",
        ),
        (
            _of_push(force=1, direction=5),
            f"{_PUSH}['direction']=5 must be 'random' or three numbers",
        ),
        (
            _of_push(force=1, direction=[1, 0]),
            f"{_PUSH}['direction']=[1, 0] must be 'random' or three numbers",
        ),
        (
            _of_push(force=1, direction=[1, 0, 1000000.5]),
            f"{_PUSH}['direction']=1000000.5 must be a number from -1e+06 to 1e+06",
        ),
        (
            _of_push(force=1, direction=[1, 0, -1000000.5]),
            f"{_PUSH}['direction']=-1000000.5 must be a number from -1e+06 to 1e+06",
        ),
        (
            _of_push(force=1, direction=[0, 0, 0]),
            f"{_PUSH}['direction']=[0, 0, 0] must not be 0",
        ),
        (
            _of_push(impulse=1, duration=1),
            f"{_PUSH}['duration'] is for a 'force': an impulse takes one period",
        ),
        (_of_push(impulse="1"), f"{_PUSH}['impulse']='1'{_KINDS}"),
        (_of_push(force="1"), f"{_PUSH}['force']='1'{_KINDS}"),
        (
            _of_push(force=1, duration=0.01),
            f"{_PUSH}['duration']=0.01 must be a number from 0.02 to inf s",
        ),
        (
            _of_push(force=1, period=-1),
            f"{_PUSH}['period']=-1 must be a number from 0 to 1e+06 s",
        ),
        (
            _of_push(force=1, period=1000000.5),
            f"{_PUSH}['period']=1000000.5 must be a number from 0 to 1e+06 s",
        ),
        (
            _of_push(force=1, rate=50.5),
            f"{_PUSH}['rate']=50.5 must be a number from 0 to 50 per second",
        ),
        (_of_push(force=1, time="now"), f"{_PUSH}['time']='now'{_KINDS}"),
        (
            _of_push(force=1, time=-0.5),
            f"{_PUSH}['time']=-0.5 must be a number from 0 to 1e+06 s",
        ),
        (
            _of_push(force=1, time=1000000.5),
            f"{_PUSH}['time']=1000000.5 must be a number from 0 to 1e+06 s",
        ),
    ],
)
def test_errors_of_states_and_pushes_name_them(given, said):
    """In one sentence; a dict of two distributions is named by both."""
    with pytest.raises((TypeError, ValueError)) as error:
        parse_perturbations(given, CartPole(), False)
    if said is None:
        said = f"{_MASS}={given['parameters']['pole_mass']}{_KINDS}"
    assert str(error.value) == said


def test_what_is_not_said_of_a_push():
    """It is along x at the begin, a force lasts, and directions of any length are as legal."""
    (push,) = parse_perturbations(_of_push(force=2), CartPole(), False).pushes
    assert (push.direction, push.duration, push.period, push.rate) == ((1, 0, 0), math.inf, 0, 0)
    assert (push.time.numbers, push.force.numbers) == ((0.0,), (2.0,))
    (push,) = parse_perturbations(
        _of_push(impulse={"uniform": [-0.1, 0.1]}, direction=(0, -1e6, 0)), CartPole(), False
    ).pushes
    assert (push.direction, push.duration) == ((0, -1, 0), 0.02)
    assert push.force.numbers == pytest.approx((-5.0, 5.0))


def test_distributions_at_the_edge_of_what_is_legal():
    """Bounds may be equal, a mean three deviations beyond them, and a push at the last moment."""
    for of, numbers in (
        ({"uniform": [0.2, 0.2]}, (0.2, 0.2)),
        ({"normal": [0.1, 0.1, 0.4, 0.5]}, (0.1, 0.1, 0.4, 0.5)),
        ({"normal": [0.5, 0.1, 0.1, 0.2]}, (0.5, 0.1, 0.1, 0.2)),
    ):
        checked = parse_perturbations(_of_mass(of), CartPole(), False)
        assert checked.parameters["pole_mass"].distribution.numbers == numbers
    for of in ({"normal": [0.1, 0.1, 0.41, 0.5]}, {"normal": [0.51, 0.1, 0.1, 0.2]}):
        with pytest.raises(ValueError, match="at most 3 std"):
            parse_perturbations(_of_mass(of), CartPole(), False)
    for of in ({"time": 1e6}, {"period": 1e6}, {"rate": 50}, {"duration": 0.02}):
        parse_perturbations(_of_push(force=1, **of), CartPole(), False)


def test_actuators_that_are_not_named_are_not_perturbed():
    """Of a body with several; limits are none."""
    parts = {"noise": {"pitch": 0.1}, "dead_zone": {"roll": 0.2}, "saturation": {"roll": 0.3}}
    of = parse_perturbations({"actions": parts}, BalancingPlate(), False)
    assert of.action_noise == (0.1, 0.0)
    assert of.dead_zone == (0.0, 0.2)
    assert of.saturation == (math.inf, 0.3)


def test_states_that_no_episode_begins_from():
    """The errors name the state, and quaternions may be as long as rounding leaves them."""
    with pytest.raises(ValueError) as error:
        CartPole().check_initial_state((2.5, 0.0, 0.0, 0.0))
    named = {"x": 2.5, "x_dot": 0.0, "theta": 0.0, "theta_dot": 0.0}
    said = f"state {named} is one in which the episode has terminated"
    assert str(error.value) == said
    plate = BalancingPlate()
    rest = list(plate.rest())
    plate.check_initial_state(tuple(rest))
    rest[7:11] = [0.5, 0.5, 0.5, 0.6]
    with pytest.raises(ValueError) as error:
        plate.check_initial_state(tuple(rest))
    said = "state ball_qx..ball_qw=(0.5, 0.5, 0.5, 0.6) must have length 1"
    assert str(error.value) == said


def _episode(task, given, *, is_image=False):
    space = spaces.Box(0, 255, (2, 2, 3), np.uint8) if is_image else task.observation_space
    episode = PerturbedEpisode(task, parse_perturbations(given, task, is_image), space)
    episode.begin(np.random.default_rng(7), {})
    return episode


def test_the_brightness_and_the_noise_of_an_image():
    """Shades are multiplied, noise of a standard deviation is added, and what is beyond is cut."""
    task, image = CartPole(), np.full((2, 2, 3), 100, np.uint8)
    bright = _episode(task, {"images": {"brightness": 1.2}}, is_image=True)
    assert (bright.observe(np.random.default_rng(0), image) == 120).all()
    white = _episode(task, {"images": {"brightness": 3.0}}, is_image=True)
    assert (white.observe(np.random.default_rng(0), image) == 255).all()
    noisy = _episode(task, {"images": {"noise": 30.0}}, is_image=True)
    expected = 100 + 30 * np.random.default_rng(3).standard_normal(image.shape)
    assert expected.min() > 0.5 and expected.max() < 254.5
    seen = noisy.observe(np.random.default_rng(3), image)
    assert np.array_equal(seen, np.rint(expected))
    dark = noisy.observe(np.random.default_rng(3), np.zeros_like(image))
    assert np.array_equal(dark, np.rint(expected - 100).clip(0))


def _forces(push, steps):
    episode = _episode(CartPole(), {"pushes": [{"body": "pole", **push}]})
    rng = np.random.default_rng(5)
    return [episode.forces(rng) for _ in range(steps)]


def test_when_a_push_begins_and_ends():
    """Nothing pushes before; a period of one control period pushes in each of them."""
    assert _forces({"force": 0.3, "time": 0.04, "duration": 0.04}, 5) == [
        *([], []),
        *([("pole", (0.3, 0.0, 0.0))], [("pole", (0.3, 0.0, 0.0))]),
        [],
    ]
    assert all(_forces({"force": 0.3, "duration": 0.02, "period": 0.001}, 5))
    drawn = {"force": 0.3, "duration": 0.02, "time": {"uniform": [0.0, 1.0]}}
    begins = round(np.random.default_rng(7).uniform(0.0, 1.0) * 50)
    assert [bool(of) for of in _forces(drawn, 50)] == [step == begins for step in range(50)]


def test_a_random_direction_is_level_and_uniform():
    """An angle, then a force, from the generator of the sub-environment."""
    pushed = _forces({"force": {"uniform": [1.0, 2.0]}, "rate": 50.0, "direction": "random"}, 200)
    rng = np.random.default_rng(5)
    for (one,) in pushed:
        rng.random()
        angle, size = rng.uniform(0.0, 2 * math.pi), rng.uniform(1.0, 2.0)
        assert one[1] == pytest.approx((size * math.cos(angle), size * math.sin(angle), 0.0))
    down = _forces({"force": 2.0, "direction": [0.0, 3.0, -4.0]}, 1)
    assert down == [[("pole", (0.0, pytest.approx(1.2), pytest.approx(-1.6)))]]


def test_a_random_push_never_begins_at_a_rate_of_zero():
    """Not even where the generator gives 0."""

    class Zero:
        def random(self):
            return 0.0

    episode = _episode(CartPole(), {"pushes": [{"body": "pole", "force": 1.0, "rate": 0.0}]})
    assert episode.forces(Zero()) == [("pole", (1.0, 0.0, 0.0))]  # that of the time 0
    rare = _episode(CartPole(), {"pushes": [{"body": "pole", "force": 1.0, "rate": 1e-9}]})
    assert rare.forces(np.random.default_rng(0)) == []


_IMPULSE = {"body": "pole", "impulse": 0.01, "direction": [1, 0, 0]}


def test_pushes_of_a_contact_free_body_act_at_its_centre():
    """Also where no parameter has moved it: the pole turns as by a torque of force and distance."""
    with BulletEnv(CartPole, perturbations={"pushes": [_IMPULSE]}) as env:
        env.reset(options={"state": {}}, seed=0)
        env.step(0)
        pushed = env.state()
    with BulletEnv(CartPole) as env:
        env.reset(options={"state": {}}, seed=0)
        env.step(0)
        left = env.state()
    task = CartPole()
    half, mass = task.pole_length / 2, task.cart_mass + task.pole_mass
    # A uniform pole and a cart, both at rest, and a level impulse at the centre of the pole.
    inertia = task.pole_mass * task.pole_length**2 / 3
    matrix = [[mass, task.pole_mass * half], [task.pole_mass * half, inertia]]
    expected = np.linalg.solve(matrix, [0.01, 0.01 * half])
    changes = [pushed[name] - left[name] for name in ("x_dot", "theta_dot")]
    assert changes == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("perturbed", "changed"),
    [
        ((), {}),
        (("pushes",), {}),
        (("pole_mass", "pushes"), {}),
        (("pole_length",), {"pole_length": cart_pole.SHORTEST_POLE}),
        (("pole_friction",), {"cart_friction": 1.0}),
        (
            ("pole_length", "pushes"),
            {"pole_length": cart_pole.SHORTEST_POLE, "cart_friction": 1.0},
        ),
    ],
)
def test_what_the_engine_loads_for_perturbed_cart_poles(perturbed, changed):
    """The shortest pole if lengths are drawn; friction where Bullet must take single steps."""
    assert CartPole().world_task(perturbed) == CartPole(**changed)


def test_a_named_state_is_a_dict_of_the_columns():
    """The error shows one."""
    with pytest.raises(TypeError) as error:
        CartPole().named_state(5)
    assert str(error.value) == "state 5 must be a dict such as {'x': 0.1}"
    assert CartPole().named_state({"theta": 0.1}) == (0.0, 0.0, 0.1, 0.0)


def test_a_link_that_no_body_has():
    """The error names all that there are."""
    with contextlib.closing(World(240, 240)) as world:
        scene = BodyScene(world, 1, (Actuator(joint="shoulder", scale=0.3),))
        scene.add_robot(ELBOW_ARM, ("shoulder", "elbow"))
        with pytest.raises(ValueError) as error:
            scene.body(0, "wheel")
        names = [name for body in scene._bodies[0] for name in body.link_names]
    assert len(names) > 1
    assert str(error.value) == f"no body has a link 'wheel'; the links are {', '.join(names)}"


def test_pushes_must_be_a_list():
    """The error shows what they are, and another the place of the wrong one."""
    for given, said in (
        ("hard", "perturbations['pushes']='hard' must be a list of dicts"),
        (
            [{"body": "pole", "force": 1}, {"body": "pole"}],
            "perturbations['pushes'][1] must have either 'force' (N) or 'impulse' (N·s)",
        ),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            parse_perturbations({"pushes": given}, CartPole(), False)
        assert str(error.value) == said


def test_what_becomes_of_a_command():
    """Gains act about the rest of each actuator; noise, dead zone and saturation on each alone."""
    task, rng = BalancingPlate(), np.random.default_rng(0)
    plain = _episode(task, {"actions": {}})
    plain.gains, plain._rest = (2.0, 0.5), (0.1, -0.2)
    assert plain.command(rng, [0.3, 0.4]) == pytest.approx([0.1 + 2 * 0.2, -0.2 + 0.5 * 0.6])
    noisy = _episode(task, {"actions": {"noise": {"pitch": 0.1, "roll": 0.3}}})
    expected = [0.1, 0.2] + np.array([0.1, 0.3]) * np.random.default_rng(4).standard_normal(2)
    assert noisy.command(np.random.default_rng(4), [0.1, 0.2]) == pytest.approx(expected.tolist())
    dead = _episode(task, {"actions": {"dead_zone": {"pitch": 0.1, "roll": 0.3}}})
    assert dead.command(rng, [-0.1, -0.31]) == [0.0, -0.31]
    cut = _episode(task, {"actions": {"saturation": {"pitch": 0.1, "roll": 0.3}}})
    assert cut.command(rng, [-0.2, 0.31]) == [-0.1, 0.3]
    late = _episode(task, {"actions": {"delay": 2}})
    commands = [[float(step), -float(step)] for step in range(1, 5)]
    assert [late.command(rng, one) for one in commands] == [(0.0, 0.0)] * 2 + commands[:2]


@pytest.mark.parametrize("part", ["noise", "dead_zone", "saturation", "gains"])
def test_a_command_has_a_number_for_each_actuator(part):
    """No more, and no fewer."""
    given = {} if part == "gains" else {part: {"pitch": 0.1, "roll": 0.1}}
    episode = _episode(BalancingPlate(), {"actions": given})
    if part == "gains":
        episode.gains = (2.0, 2.0)
    for command in ([0.1], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="zip"):
            episode.command(np.random.default_rng(0), command)


def test_a_snapshot_has_as_many_pushes():
    """One of another environment is not restored in part."""
    episode = _episode(CartPole(), {"pushes": [{"body": "pole", "force": 1}]})
    taken = episode.snapshot()
    for pushes in ([], [*taken["pushes"]] * 2):
        with pytest.raises(ValueError, match="zip"):
            episode.restore({**taken, "pushes": pushes}, np.random.default_rng(0))


def test_what_becomes_of_a_column():
    """Noise and bias are added in the units of the observation, and what is beyond is cut."""
    task = BalancingPlate()
    columns = np.arange(1.0, 11.0, dtype=np.float32)
    parts = {"noise": {"ball_x": 0.05, "pitch": 0.2}, "bias": {"ball_y": 0.1, "pitch": -0.05}}
    episode = _episode(task, {"observations": parts})
    noise = np.random.default_rng(2).standard_normal(10)
    expected = columns.astype(float)
    expected[0] += noise[0] * 0.05 / 0.05
    expected[1] += 0.1 / 0.05
    expected[6] += (noise[6] * 0.2 - 0.05) / 0.1
    seen = episode.observe(np.random.default_rng(2), columns)
    assert seen == pytest.approx(expected) and seen.dtype == np.float32
    only = _episode(task, {"observations": {"bias": {"pitch": 0.5}}})
    expected = columns.astype(float)
    expected[6] += 5.0
    assert only.observe(np.random.default_rng(2), columns) == pytest.approx(expected)
    far = _episode(task, {"observations": {"bias": {"pitch": 100.0, "roll": -100.0}}})
    space = task.observation_space
    seen = far.observe(np.random.default_rng(2), columns)
    assert (seen[6], seen[7]) == (space.high[6], space.low[7])


def test_a_normal_distribution_has_its_deviation():
    """Drawn again until it is within the bounds, by the generator it is given."""
    of = parse_perturbations(_of_mass({"normal": [0.2, 0.05, 0.15, 0.24]}), CartPole(), False)
    distribution = of.parameters["pole_mass"].distribution
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        while not 0.15 <= (expected := same.normal(0.2, 0.05)) <= 0.24:
            pass
        assert distribution.sample(rng) == expected


def test_an_episode_before_it_begins():
    """Its task is the nominal one, its camera and its actuators are as they are."""
    task = BalancingPlate(ball_limit=0.1)
    of = parse_perturbations({"parameters": {"ball_mass": 0.01}}, task, False)
    episode = PerturbedEpisode(task, of, task.observation_space)
    assert episode.task is task
    assert (episode.gains, episode.eye) == ((1.0, 1.0), (0.0, 0.0, 0.0))
    assert episode.parameters == {"ball_mass": task.ball_mass}
    begun = episode.begin(np.random.default_rng(0), {})
    assert begun == BalancingPlate(ball_limit=0.1, ball_mass=0.01) and episode.task is begun


@pytest.mark.parametrize("is_image", [False, True])
def test_what_images_show_is_drawn_from_some_values(is_image):
    """Each size needs a renderer of its own; states have any."""
    low, high = 0.8, 1.3
    parts = {name: {"uniform": [low, high]} for name in ("pole_length", "cart_mass")}
    task, space = CartPole(), CartPole().observation_space
    if is_image:
        space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    of = parse_perturbations({"parameters": parts}, task, is_image)
    episode = PerturbedEpisode(task, of, space)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        length, mass = low + (high - low) * rng.random(), low + (high - low) * rng.random()
        if is_image:
            steps = VARIANTS - 1
            length = low + round((length - low) / (high - low) * steps) / steps * (high - low)
        begun = episode.begin(np.random.default_rng(seed), {})
        assert (begun.pole_length, begun.cart_mass) == pytest.approx((length, mass))


def test_a_size_that_is_not_drawn_is_shown():
    """As it is."""
    task = CartPole()
    of = parse_perturbations({"parameters": {"pole_length": 0.83}}, task, True)
    episode = PerturbedEpisode(task, of, spaces.Box(0, 255, (4, 4, 3), np.uint8))
    assert episode.begin(np.random.default_rng(0), {}).pole_length == 0.83


@pytest.mark.parametrize("visible", [False, True])
def test_goals_are_columns_of_the_state(visible):
    """One after the other, 0 at first; only where there is a camera are they bodies too."""
    with contextlib.closing(World(240, 240, visible=visible)) as world:
        before = p.getNumBodies(world.client)
        scene = BodyScene(world, 1, ())
        scene.add_goal(2, origin=(1.0, 2.0, 3.0))
        scene.add_goal(3)
        scene.add_goal(1)
        assert p.getNumBodies(world.client) - before == (3 if visible else 0)
        assert scene.state() == [0.0] * 6
        scene.set_state({0: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
        assert scene.state() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        if visible:
            places = [
                p.getBasePositionAndOrientation(body, world.client)[0]
                for body in range(before, before + 3)
            ]
            assert places == [
                pytest.approx((1.1, 2.2, 3.0)),
                pytest.approx((0.3, 0.4, 0.5)),
                pytest.approx((0.6, 0.0, 0.0)),
            ]


def test_a_fault_of_an_image_is_one_number():
    """Of the generator, in each period; what is left of it is whole."""
    given = {"observations": {"dropped": {"probability": 0.5, "steps": 3}}}
    episode = _episode(CartPole(), given, is_image=True)
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    episode.observe(rng, np.ones((2, 2, 3), np.uint8))
    same.random()
    assert rng.random() == same.random()
    left = episode.snapshot()["sensors"]["dropped"]
    assert len(left) == 1 and isinstance(left[0], int)


def test_worlds_whose_sub_environments_all_wait_are_not_stepped():
    """Their columns are 0; the others go on, also those beside one that waits."""
    task, num_envs = BalancingPlate(), 4
    per_world = task.envs_per_world

    def stepped(idle):
        count = per_world * num_envs
        with contextlib.closing(Simulation(task, count)) as simulation:
            rng = np.random.default_rng(0)
            simulation.set_state({i: task.sample_initial_state(rng) for i in range(count)})
            columns = simulation.step([0.001, -0.002] * count, idle=idle)
            assert len(columns) == count * len(task.state_names)
            return np.array(columns).reshape(num_envs, per_world, -1)

    whole = stepped(())
    idle = [*range(per_world, 2 * per_world), 2 * per_world]
    some = stepped(idle)
    assert not some[1].any()
    assert np.array_equal(some[[0, 2, 3]], whole[[0, 2, 3]])
    assert whole[1].any()


def test_a_push_reaches_the_sub_environment_that_is_named():
    """In the second of two worlds."""
    task = BalancingPlate()
    count = 2 * task.envs_per_world
    with contextlib.closing(Simulation(task, count)) as simulation:
        rest = task.rest()
        found = simulation.set_state(dict.fromkeys(range(count), rest))
        assert len(found) == count
        simulation.push(count - 1, "ball", (0.01, 0.0, 0.0))
        columns = np.array(simulation.step([0.0, 0.0] * count)).reshape(count, -1)
    speed = columns[:, task.state_names.index("ball_vx")]
    assert speed[-1] > 0.01 and np.abs(speed[:-1]).max() < 1e-6


def test_a_push_acts_at_the_centre_of_a_link_that_is_as_it_was_loaded():
    """Speeds of cart and pole are those after a level impulse at the centre of the pole."""
    task = CartPole()
    with contextlib.closing(Simulation(task)) as simulation:
        simulation.set_state({0: task.rest()})
        simulation.push(0, "pole", (0.5, 0.0, 0.0))
        _, cart, _, pole = simulation.step([0.0])
    half, mass = task.pole_length / 2, task.cart_mass + task.pole_mass
    arm = task.pole_mass * half
    matrix = [[mass, arm], [arm, task.pole_mass * task.pole_length**2 / 3]]
    of_cart, of_pole = np.linalg.solve(matrix, [1.0, half])
    assert pole > 0
    assert cart / pole == pytest.approx(of_cart / of_pole, abs=0.02)


def test_units_of_the_columns_of_a_dict():
    """Entry by entry; without a scale they are SI units."""
    entries = {"a": spaces.Box(-1, 1, (1,)), "b": spaces.Box(-1, 1, (2,))}
    scaled_task = types.SimpleNamespace(
        observation_scale={"b": (3.0, 4.0), "a": (2.0,)}, observation_space=spaces.Dict(entries)
    )
    assert list(column_scales(scaled_task, 3)) == [2.0, 3.0, 4.0]
    plain = types.SimpleNamespace(observation_scale=None)
    assert column_scales(plain, 2) == (1.0, 1.0)
