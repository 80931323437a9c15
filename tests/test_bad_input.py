"""Whatever a caller gets wrong is said plainly, and the episode goes on as if it had not been."""

import dataclasses
import decimal
import fractions
import functools
import re

import gymnasium as gym
import numpy as np
import pytest
from conftest import ALL_IDS, ALL_STATE_IDS, STATE_IDS, begin, differs_at, play, sample, state_of
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.wrappers import PassiveEnvChecker, TimeLimit

import bullet_envs
from bullet_envs.checks import shorten
from bullet_envs.env import BulletEnv

NAN, INF = float("nan"), float("inf")


DISCRETE_IDS = [env_id for env_id in ALL_STATE_IDS if env_id != "ElbowArm-v0"]
discrete_only = pytest.mark.parametrize("env_id", DISCRETE_IDS)


@pytest.fixture(params=ALL_STATE_IDS)
def env_id(request):
    """Observers have no part in actions, task keywords or options; test_pixels.py has theirs."""
    return request.param


def named(value):
    """Return a test's name for a value, the same in every process."""
    return f"{type(value).__name__} {value}"[:30].split(" object at")[0]


# What each bad action is, given the number of legal ones.
BAD_DISCRETE = {
    "too high": lambda n: n,
    "far too high": lambda n: n + 100,
    "negative": lambda n: -1,
    "huge": lambda n: 10**30,
    "hugely negative": lambda n: -(10**30),
    "int64 too high": lambda n: np.int64(n),
    "int8 negative": lambda n: np.int8(-1),
    "uint8 255": lambda n: np.uint8(255),
    "array too high": lambda n: np.array(n),
    "nan": lambda n: NAN,
    "inf": lambda n: INF,
    "minus inf": lambda n: -INF,
    "float": lambda n: 1.0,
    "float32": lambda n: np.float32(1),
    "float array": lambda n: np.array(1.0),
    "shape (1,)": lambda n: np.array([1]),
    "shape (1, 1)": lambda n: np.array([[1]]),
    "shape (2, 2)": lambda n: np.zeros((2, 2), int),
    "empty": lambda n: np.array([], int),
    "complex": lambda n: 1j,
    "complex64": lambda n: np.complex64(1),
    "bool array": lambda n: np.array([True]),
    "bool": lambda n: True,
    "bool_": lambda n: np.True_,
    "bool array of shape ()": lambda n: np.array(True),
    "huge array": lambda n: np.arange(10**6),
    "object array": lambda n: np.array([None]),
    "datetime": lambda n: np.datetime64(1, "s"),
    "str": lambda n: "1",
    "word": lambda n: "left",
    "empty str": lambda n: "",
    "bytes": lambda n: b"1",
    "None": lambda n: None,
    "object": lambda n: object(),
    "list": lambda n: [1],
    "list of str": lambda n: ["1"],
    "tuple": lambda n: (1,),
    "dict": lambda n: {"action": 1},
    "set": lambda n: {1},
    "range": lambda n: range(1),
    "Fraction": lambda n: fractions.Fraction(1),
    "Decimal": lambda n: decimal.Decimal(1),
    "type": lambda n: int,
    "function": lambda n: len,
}

# The same, given the number of actuators.
BAD_BOX = {
    "nan": lambda n: np.full(n, NAN, np.float32),
    "one nan": lambda n: np.array([0.0] * (n - 1) + [NAN]),
    "inf": lambda n: np.full(n, INF, np.float32),
    "minus inf": lambda n: np.full(n, -INF),
    "list with nan": lambda n: [NAN] * n,
    "float": lambda n: 0.5,
    "nan float": lambda n: NAN,
    "int": lambda n: 0,
    "float32": lambda n: np.float32(0.5),
    "shape ()": lambda n: np.array(0.5),
    "shape (0,)": lambda n: np.zeros(0),
    "one too many": lambda n: np.zeros(n + 1),
    "one too few": lambda n: np.zeros(n - 1),
    "shape (2, 2)": lambda n: np.zeros((2, 2)),
    "shape (1, n)": lambda n: np.zeros((1, n)),
    "shape (n, 1)": lambda n: np.zeros((n, 1)),
    "list of list": lambda n: [[0.0] * n],
    "empty list": lambda n: [],
    "ragged": lambda n: [[0.0], [0.0, 0.0]],
    "complex": lambda n: np.zeros(n, complex),
    "bool array": lambda n: np.zeros(n, bool),
    "list of bool": lambda n: [True] * n,
    "object array": lambda n: np.zeros(n, object),
    "list of None": lambda n: [None] * n,
    "list of str": lambda n: ["0.5"] * n,
    "str array": lambda n: np.array(["0.5"] * n),
    "list of huge": lambda n: [10**400] * n,
    "timedelta": lambda n: np.zeros(n, "m8[s]"),
    "huge array": lambda n: np.arange(1e6).reshape(1000, 1000),
    "structured": lambda n: np.zeros(n, [("x", float)]),
    "str": lambda n: "0.5",
    "bytes": lambda n: b"0.5",
    "None": lambda n: None,
    "object": lambda n: object(),
    "dict": lambda n: {"action": 0.5},
    "set": lambda n: {0.5},
    "generator": lambda n: (0.0 for _ in range(n)),
    "Decimal": lambda n: [decimal.Decimal(0)] * n,
}


@functools.cache
def lent(env_id, continuous=False, number=0):
    """Return one of the raw environments that these tests share: Bullet takes 20 ms to make one."""
    return gym.make(env_id, continuous=continuous).unwrapped


def wrapped(env):
    """Put an environment into new wrappers, those of gym.make."""
    return TimeLimit(PassiveEnvChecker(env), 500)


def assert_short(message):
    """An error is one line of less than 250 characters, whatever it was given."""
    assert "\n" not in message and len(message) < 250, message


@functools.cache
def without_it(env_id, continuous):
    """Return what 103 actions look like when nothing bad happens."""
    env = lent(env_id, continuous)
    return [begin(env, seed=1), *play(env, sample(env, 103, seed=1))]


def assert_harmless(env, env_id, continuous, action, legal):
    expected = without_it(env_id, continuous)
    actions = sample(env, 103, seed=1)
    seen = [begin(env, seed=1)]
    # At once, where gymnasium's checker looks on, and again in mid-episode.
    for then in (actions[:3], actions[3:]):
        with pytest.raises((TypeError, ValueError)) as caught:
            env.step(action)
        for words in (shorten(action), *legal):
            assert words in str(caught.value)
        assert_short(str(caught.value))
        assert seen[-1][-1] == state_of(env)
        seen += play(env, then)
    assert differs_at(seen, expected) is None


@discrete_only
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
@pytest.mark.parametrize("bad", BAD_DISCRETE.values(), ids=BAD_DISCRETE)
def test_bad_discrete_action(env_id, bad, raw):
    """A bad action is refused by name, and the next 100 steps are what they were, to the bit."""
    env = lent(env_id)
    n = int(env.action_space.n)
    legal = ["whole number", f"from 0 to {n - 1}"]
    assert_harmless(env if raw else wrapped(env), env_id, False, bad(n), legal)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
@pytest.mark.parametrize("bad", BAD_BOX.values(), ids=BAD_BOX)
def test_bad_box_action(env_id, bad, raw):
    """The same for actions that are arrays."""
    env = lent(env_id, continuous=True)
    n = env.action_space.shape[0]
    legal = ["from -1 to 1", f"shape ({n},)"]
    assert_harmless(env if raw else wrapped(env), env_id, True, bad(n), legal)


@discrete_only
@pytest.mark.parametrize("make_it", [int, np.int64, np.uint8, np.array], ids=lambda t: t.__name__)
def test_whole_numbers_of_any_kind_are_actions(env_id, make_it):
    """An agent may answer with NumPy's integers, or with an array of none dimensions."""
    env = wrapped(lent(env_id))
    seen = [begin(env, seed=1)]
    seen += play(env, [make_it(int(action)) for action in sample(env, 103, seed=1)])
    assert differs_at(seen, without_it(env_id, False)) is None


@pytest.mark.parametrize(
    "make_it",
    [list, tuple, np.float64, lambda action: action[::-1][::-1]],
    ids=["list", "tuple", "float64", "view"],
)
def test_arrays_of_any_kind_are_actions(env_id, make_it):
    """An agent may answer with a list, a tuple, doubles, or a view."""
    env = wrapped(lent(env_id, continuous=True))
    seen = [begin(env, seed=1)]
    seen += play(env, [make_it(action) for action in sample(env, 103, seed=1)])
    assert differs_at(seen, without_it(env_id, True)) is None


@pytest.mark.parametrize("size", [1.0 + 1e-6, 2, 1e30, np.finfo(np.float64).max])
def test_box_actions_beyond_the_bounds_are_clipped(env_id, size):
    """A Box action out of range does what the nearest one in range does."""
    env = lent(env_id, continuous=True)
    signs = [np.where(action < 0, -1.0, 1.0) for action in sample(env, 60)]
    clipped = [begin(env, seed=1), *play(env, signs)]
    beyond = [begin(env, seed=1), *play(env, [sign * size for sign in signs])]
    assert differs_at(clipped, beyond) is None


def test_an_action_is_left_as_it_is(env_id):
    """Clipping never writes into the caller's array."""
    env = lent(env_id, continuous=True)
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 5, np.float32)
    env.step(action)
    assert (action == 5).all()


@pytest.mark.parametrize("env_id", ALL_IDS)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
@pytest.mark.parametrize("call", ["step", "render"])
def test_use_before_reset(make, raw, call):
    """Nothing runs before the first reset, and the error says so."""
    env = make(render_mode="rgb_array")
    arguments = [sample(env, 1)[0]] if call == "step" else []
    with pytest.raises(ResetNeeded, match="reset"):
        getattr(env.unwrapped if raw else env, call)(*arguments)
    env.reset(seed=0)


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_state_before_reset(make):
    """There is no state before the first reset."""
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        make().unwrapped.state()


@pytest.mark.parametrize("env_id", ALL_IDS)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
@pytest.mark.parametrize("call", ["step", "render"])
def test_use_after_close(make, call, raw, used):
    """Nothing but a reset runs after close, and the error says so."""
    env = make(render_mode="rgb_array")
    if used:
        env.reset(seed=0)
        env.render()
    env.close()
    arguments = [sample(env, 1)[0]] if call == "step" else []
    with pytest.raises(ClosedEnvironmentError, match=rf"{call}\(\) after close\(\): call reset"):
        getattr(env.unwrapped if raw else env, call)(*arguments)
    with pytest.raises(ClosedEnvironmentError, match=r"state\(\) after close"):
        env.unwrapped.state()


def keywords(env_id):
    fields = dataclasses.fields(lent(env_id).task)
    return [field.name for field in fields if field.name != "continuous"]


def class_of(env_id):
    """Return what makes a raw environment from its keywords."""
    return functools.partial(BulletEnv, bullet_envs.registered(env_id).task)


OUT_OF_RANGE = [-1, -(10**30), 10**9, 10**400]
NOT_A_NUMBER = ["1", b"1", None, [1.0], np.array([1.0]), 1j, np.complex64(1), True, {}, object()]


@pytest.mark.parametrize(
    "value", [*OUT_OF_RANGE, -0.5, 1e9, NAN, INF, -INF, *NOT_A_NUMBER], ids=named
)
def test_bad_keyword(env_id, value):
    """Each keyword out of its range or of another type is refused: name, value, legal range."""
    for name in keywords(env_id):
        with pytest.raises((TypeError, ValueError)) as caught:
            class_of(env_id)(**{name: value})
        message = str(caught.value)
        assert f"{name}={shorten(value)}" in message
        assert_short(message)
        assert re.search(r"from \S+ to \S+", message), message
        if not isinstance(value, int | float) or isinstance(value, bool):
            assert caught.type is TypeError, message


@pytest.mark.parametrize("value", [1, 0, "yes", None, np.True_, [True]], ids=named)
def test_bad_switch(env_id, value):
    """A continuous that is not a bool is refused: 1 and "no" are more often a slip than a wish."""
    with pytest.raises(TypeError, match=r"continuous=.*True or False"):
        class_of(env_id)(continuous=value)


@pytest.mark.parametrize(
    "rates",
    [(120, 50), (50, 100), (75, 50), (999, 1000), (100, 9), (1001, 1001), (10, 50)],
    ids=str,
)
def test_bad_rates(env_id, rates):
    """Rates that do not divide, or are out of range, are refused with both numbers."""
    physics_hz, control_hz = rates
    with pytest.raises(ValueError, match=f"{physics_hz}|{control_hz}") as caught:
        class_of(env_id)(physics_hz=physics_hz, control_hz=control_hz)
    assert "_hz" in str(caught.value)


def test_fractional_rate(env_id):
    """A rate is a whole number: 100.5 Hz is refused, and 100.0 is too."""
    for value in (100.0, 100.5):
        with pytest.raises(TypeError, match=f"physics_hz={value} .*whole"):
            class_of(env_id)(physics_hz=value)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
def test_unknown_keyword(env_id, raw):
    """A keyword that does not exist is refused in Python's words, with those that do exist.

    TorchRL tries ``frameskip`` and goes on without it only if the error has these words.
    """
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'") as caught:
        class_of(env_id)(frameskip=1) if raw else gym.make(env_id, frameskip=1)
    legal = re.search(r"legal: ([\w, ]+?)( was raised|$)", str(caught.value))[1].split(", ")
    assert {"render_mode", "observer", "continuous", *keywords(env_id)} <= set(legal)


def test_initial_states_past_a_limit():
    """Keywords that fit alone may not fit together: no episode may begin terminated."""
    with pytest.raises(ValueError, match=r"start_range=0\.1 .*angle_limit=0\.05"):
        class_of("BulletCartPole-v0")(start_range=0.1, angle_limit=0.05)
    with pytest.raises(ValueError, match=r"start_position=0\.1 .*ball_limit=0\.05"):
        class_of("BalancingPlate-v0")(start_position=0.1, ball_limit=0.05)
    with pytest.raises(ValueError, match=r"start_tilt=0\.2 .*tilt_limit=0\.1"):
        class_of("BalancingPlate-v0")(start_tilt=0.2, tilt_limit=0.1)


@pytest.mark.parametrize("mode", ["ansi", "", 3, "RGB_ARRAY", ["rgb_array"]], ids=named)
def test_unknown_render_mode(env_id, mode):
    """A render mode that does not exist is refused, with those that do."""
    with pytest.raises(ValueError, match=r"rgb_array.*human") as caught:
        class_of(env_id)(render_mode=mode)
    assert repr(mode) in str(caught.value)
    assert_short(str(caught.value))


def assert_refused(env_id, *words, kinds=(TypeError, ValueError), **reset):
    """Ask for a bad reset in mid-episode; it is refused and leaves no trace, not even in luck."""
    env, undisturbed = wrapped(lent(env_id)), lent(env_id, number=1)
    actions = sample(env, 40, seed=2)
    for each in (env, undisturbed):
        each.reset(seed=2)
        play(each, actions[:4])
    with pytest.raises(kinds) as caught:
        env.reset(**reset)
    for word in words:
        assert word in str(caught.value)
    if caught.type in (TypeError, ValueError):
        assert "\n" not in str(caught.value)
    assert differs_at(play(env, actions), play(undisturbed, actions)) is None


@pytest.mark.parametrize(
    "options",
    [
        *(5, "state", "", 0, False, [], ["state"], ("state",), {"state"}, [("state", {})]),
        *(object(), np.arange(10**6)),
    ],
    ids=named,
)
def test_options_that_are_no_dict(env_id, options):
    """options must be a dict, or None; an empty list is neither."""
    assert_refused(env_id, shorten(options), "dict", options=options)


@pytest.mark.parametrize("options", [{"State": {}}, {"state": None, "low": 1}, {1: 2}], ids=named)
def test_unknown_option(env_id, options):
    """An option that does not exist is refused, with the one that does."""
    assert_refused(env_id, repr(list(options)[-1]), "legal: state", options=options, seed=5)


@pytest.mark.parametrize(
    "state", [5, 0, "x", "", [0.1], (), False, {"x"}, np.zeros((99, 99))], ids=named
)
def test_state_that_is_no_dict(env_id, state):
    """A state is a dict by name: a bare list of numbers would hide which is which."""
    assert_refused(env_id, shorten(state), "dict", options={"state": state})


@pytest.mark.parametrize("name", ["X", "", "x ", 0, None, ("x",), "no_such_column"], ids=named)
def test_unknown_state_column(env_id, name):
    """A column that does not exist is refused, with those that do."""
    names = lent(env_id).task.state_names
    assert_refused(env_id, repr(name), *names, options={"state": {name: 0.0}})


@pytest.mark.parametrize(
    "value",
    [
        *(NAN, INF, -INF, 1e9, -1e9, 10**400),
        *("0.01", "x", b"0.01", bytearray(b"1"), None),
        *([0.01], np.array([0.01]), np.zeros((9, 99)), True, 1j, np.complex128(0.01), {}, object()),
    ],
    ids=named,
)
def test_bad_state_value(env_id, value):
    """Every column refuses what is not a finite number in reach, and names what it was given."""
    for name in lent(env_id).task.state_names:
        assert_refused(env_id, name, shorten(value)[:20], options={"state": {name: value}})


BAD_STATES = {
    "BulletCartPole-v0": [
        ({"x": 2.41}, "terminated"),
        ({"x": -2.41}, "terminated"),
        ({"theta": 0.21}, "terminated"),
        ({"theta": -3.0}, "terminated"),
        ({"x_dot": 100.1}, "100"),
        ({"theta_dot": -100.1}, "100"),
    ],
    "BalancingPlate-v0": [
        ({"ball_x": 0.151}, "terminated"),
        ({"ball_y": -0.151}, "terminated"),
        ({"ball_z": 0.19}, "terminated"),
        ({"ball_z": -0.1}, "terminated"),
        ({"pitch": 1.6}, "terminated"),
        ({"roll": -1.6}, "terminated"),
        ({"ball_z": 0.027}, "0.03"),  # inside the plate, though not by much
        ({"ball_z": 0.0}, "0.03"),
        ({"roll": -0.2, "ball_x": 0.1}, "0.03"),  # the plate has come up to the ball
        ({"pitch": 0.2, "ball_y": 0.1}, "0.03"),
        ({"ball_qw": 0.0}, "length 1"),
        ({"ball_qw": -1.01}, "length 1"),
        ({"ball_qx": 0.1}, "length 1"),
        ({"ball_vx": 100.1}, "100"),
        ({"ball_wz": -101.0}, "100"),
    ],
}


def bad_states():
    return [(env_id, *bad) for env_id in STATE_IDS for bad in BAD_STATES[env_id]]


@pytest.mark.parametrize(("env_id", "state", "word"), bad_states(), ids=str)
def test_bad_initial_state(env_id, state, word):
    """A state that has terminated, lies inside a body, is too fast or is no rotation is refused."""
    assert_refused(env_id, "state", word, options={"state": state}, seed=5)


@pytest.mark.parametrize("seed", [-1, "a", 1.5, [1]], ids=named)
def test_bad_seed(env_id, seed):
    """A seed that gymnasium refuses leaves the episode alone."""
    assert_refused(env_id, "eed", kinds=gym.error.Error, seed=seed)
