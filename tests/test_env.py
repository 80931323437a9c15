"""The environments are good citizens of Gymnasium: checkers, spaces, initial states, frames."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pygame
import pytest
from conftest import (
    ALL_IDS,
    ALL_PIXEL_IDS,
    ALL_STATE_IDS,
    PIXEL_IDS,
    STATE_IDS,
    begin,
    bits,
    differs_at,
    digest,
    play,
    prefixed,
    sample,
    state_of,
)
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_render_passive_checker

import bullet_envs
from bullet_envs import window
from bullet_envs.engine import GRAVITY
from bullet_envs.engine.silence import p


def test_ids_are_registered(env_id):
    """Every public id has a time limit, a threshold below the greatest return, and a string."""
    spec = gym.spec(env_id)
    if env_id in STATE_IDS + PIXEL_IDS:
        assert spec.max_episode_steps == 500
        assert 0 < spec.reward_threshold < spec.max_episode_steps
    assert isinstance(spec.entry_point, str) and isinstance(spec.vector_entry_point, str)
    assert not spec.nondeterministic


def test_registering_again_changes_nothing():
    """register_envs() may be called by an entry point and by an import."""
    before = dict(gym.registry)
    bullet_envs.register_envs()
    assert gym.registry == before


def test_spec_round_trip(make):
    """An environment can be made again from the JSON of its spec."""
    env = make(render_mode="rgb_array", control_hz=25)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert again.unwrapped.task == env.unwrapped.task
    assert again.render_mode == "rgb_array"
    again.close()


def test_prefixed_id_imports_the_package(run_python):
    """gym.make("module:<id>") works where nobody imported the module, single and vector."""
    child = run_python(
        "import sys, gymnasium\n"
        "for env_id in sys.argv[1:]:\n"
        "    print(gymnasium.make(env_id).spec.id, gymnasium.make_vec(env_id).spec.id)",
        *map(prefixed, ALL_IDS),
    )
    assert child.stdout.decode().split() == [each for id in ALL_IDS for each in (id, id)], child


def test_import_is_light_and_silent(run_python):
    """Importing the package loads neither PyBullet nor torch nor imageio, and prints nothing."""
    child = run_python(
        "import bullet_envs, sys\n"
        "heavy = {'pybullet', 'torch', 'imageio', 'stable_baselines3', 'matplotlib'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")


def test_use_is_silent(run_python):
    """Making, resetting, stepping, drawing and closing print nothing, Bullet's banner included."""
    child = run_python(
        "import bullet_envs, gymnasium, robots\n"
        "for env_id in bullet_envs.ENV_IDS:\n"
        "    env = gymnasium.make(env_id, render_mode='rgb_array')\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
        "    env.render()\n"
        "    env.close()\n"
        "    gymnasium.make(env_id).reset()  # left open",
        PYTHONUNBUFFERED=None,  # with it C's stdout needs no flush
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_works_without_standard_streams(tmp_path, closed):
    """A daemon has no stdin, stdout or stderr: Python sets them to None."""
    code = (
        "import bullet_envs, gymnasium; env = gymnasium.make(bullet_envs.ENV_IDS[0]);"
        " env.reset(); env.step(0); env.close(); open('alive', 'w').close()"
    )
    subprocess.run(f'{sys.executable} -c "{code}" {closed}', shell=True, cwd=tmp_path)
    assert (tmp_path / "alive").exists()


@pytest.mark.sweep
def test_threads_leave_the_standard_streams_alone(run_python):
    """Environments that are made in several threads at once do not lose the process's stdout."""
    child = run_python(
        "import os, sys, threading, bullet_envs, gymnasium\n"
        "sys.setswitchinterval(1e-5)\n"
        "def live():\n"
        "    for _ in range(60):\n"
        "        env = gymnasium.make(bullet_envs.ENV_IDS[0])\n"
        "        env.reset()\n"
        "        env.close()\n"
        "threads = [threading.Thread(target=live) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "os.write(1, b'out')\n"
        "os.write(2, b'err')\n"
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, b"out", b"err")


def test_gymnasium_checker(make):
    """Gymnasium's check_env finds nothing on the raw environment. Warnings are errors here."""
    check_env(make().unwrapped, skip_render_check=True)


def test_gymnasium_render_checker(make):
    """Gymnasium's checker accepts frames and their metadata."""
    env = make(render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    env_render_passive_checker(env)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "wrapped"])
def test_sb3_checker(make, raw, monkeypatch):
    """Stable-Baselines3's check_env finds nothing; its render check resets after close()."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = make(render_mode="rgb_array")
    # It makes an environment of every render mode: a window would need a display.
    monkeypatch.setitem(env.unwrapped.metadata, "render_modes", ["rgb_array"])
    checker.check_env(env.unwrapped if raw else env, warn=True, skip_render_check=False)


def test_reset_after_close(make):
    """close() frees the engine and what draws, and reset() begins anew."""
    env, new = make(render_mode="rgb_array"), make(render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    env.close()
    assert begin(env, seed=4) == begin(new, seed=4)
    actions = sample(env, 5)
    assert play(env, actions) == play(new, actions)
    assert np.array_equal(env.render(), new.render())


def test_metadata_belongs_to_the_instance(make):
    """A control rate sets its own environment's frame rate and nobody else's."""
    other, slow = make(), make(control_hz=25)
    assert slow.metadata["render_fps"] == 25
    assert other.metadata["render_fps"] == other.unwrapped.task.control_hz == 50
    assert type(slow.unwrapped).metadata["render_fps"] == 50
    assert slow.metadata["render_modes"] == ["rgb_array", "human"]


def test_time_limit_truncates(make):
    """Only gymnasium's TimeLimit truncates, and keywords may move it."""
    env = make(max_episode_steps=3)
    env.reset(seed=0)
    flags = [env.step(action)[2:4] for action in sample(env, 3)]
    assert flags == [(False, False), (False, False), (False, True)]


# Each list covers the default, the greatest effort, and the longest way one action can lead.
EXTREMES = {
    "BulletCartPole-v0": [
        {},
        {"force": 1000},
        {"force": 1000, "x_limit": 15, "angle_limit": 3.14, "physics_hz": 10, "control_hz": 10},
        {"force": 1000, "x_limit": 15, "angle_limit": 3.14, "control_hz": 20},
    ],
    "BalancingPlate-v0": [
        {},
        {"torque": 0.05},
        {"torque": 0.05, "ball_mass": 1e-4, "physics_hz": 50, "control_hz": 10},
        {
            "torque": 0.05,
            "physics_hz": 50,
            "control_hz": 10,
            "ball_mass": 0.1,
            "start_position": 0.14,
            "start_speed": 1,
            "start_tilt": 0.3,
            "drop_height": 0.1,
        },
    ],
}


def adversarial(env, count, seed):
    """Return actions of which one half are random and the other are held for many steps."""
    rng = np.random.default_rng(seed)
    if isinstance(env.action_space, gym.spaces.Box):
        pool = rng.uniform(-1, 1, (count, *env.action_space.shape))
        pool[rng.random(count) < 0.5] *= 1e6
    else:
        pool = rng.integers(env.action_space.n, size=count)
    holds = np.where(rng.random(count) < 0.5, 1, rng.integers(2, 60, count))
    return np.repeat(pool, holds, axis=0)[:count]


def assert_inside(space, observations):
    assert all(observation.dtype == np.float32 for observation in observations)
    observations = np.array(observations)
    assert np.isfinite(observations).all()
    assert (observations >= space.low).all()
    assert (observations <= space.high).all()


@pytest.mark.parametrize("steps", [2_000, pytest.param(25_000, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("env_id", STATE_IDS)
@pytest.mark.parametrize("extreme", range(4))
def test_fuzz(make, env_id, extreme, steps):
    """Observations stay in their space, rewards and flags keep their types.

    The sweep's 16 cases take 25,000 steps each.
    """
    env = make(**EXTREMES[env_id][extreme]).unwrapped
    observations = [env.reset(seed=extreme)[0]]
    for action in adversarial(env, steps, seed=extreme):
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        assert type(reward) is float and type(terminated) is bool
        assert reward == 1.0 and truncated is False and not info
        if terminated:
            observations.append(env.reset()[0])
    assert_inside(env.observation_space, observations)


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_fuzz_of_given_states(make, env_id):
    """An initial state at any legal place and speed leads to observations in their space."""
    env = make(**EXTREMES[env_id][3]).unwrapped
    task, rng = env.task, np.random.default_rng(0)
    observations, accepted = [], 0
    for _ in range(1000):
        start = dict(zip(task.state_names, task.sample_initial_state(rng), strict=True))
        for name in rng.choice(task.state_names, 4):
            if "_q" not in name:  # a quaternion is not a bag of numbers
                start[name] = rng.choice([0.01, 0.1, 1, 10, 100]) * rng.uniform(-1, 1)
        try:
            observations.append(env.reset(seed=0, options={"state": start})[0])
        except ValueError:
            continue
        accepted += 1
        for action in sample(env, 8, seed=accepted):
            observation, *_, terminated, _, _ = env.step(action)
            observations.append(observation)
            if terminated:
                break
    assert accepted > 300
    assert_inside(env.observation_space, observations)


def test_no_observation_element_is_constant():
    """Each element of what a state id observes takes more than two values in a few episodes."""
    for env_id in ALL_STATE_IDS:
        env = gym.make(env_id)
        seen = []
        for seed in range(3):
            seen.append(gym.spaces.flatten(env.observation_space, env.reset(seed=seed)[0]))
            for action in sample(env, 8, seed):
                seen.append(gym.spaces.flatten(env.observation_space, env.step(action)[0]))
        distinct = [len(np.unique(column)) for column in np.transpose(seen)]
        assert min(distinct) > 2, (env_id, distinct)
        env.close()


def arrays(observation):
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_observations_are_not_reused(make):
    """Writing into an observation that was returned changes nothing."""
    env, undisturbed = make(), make()
    expected = [begin(undisturbed, seed=1), *play(undisturbed, sample(undisturbed, 20))]
    first, _ = env.reset(seed=1)
    kept = bits(first)
    second, *_ = env.step(sample(env, 20)[0])
    for one, other in zip(arrays(first), arrays(second), strict=True):
        assert not np.shares_memory(one, other)
    assert bits(first) == kept
    for array in arrays(first) + arrays(second):
        array.fill(7)
    assert differs_at(play(env, sample(env, 20)[1:]), expected[2:]) is None


@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS, "Shover-v0"])
def test_step_after_a_termination_holds_the_state(make):
    """Afterwards nothing moves, no reward comes, and a warning says what to do."""
    env = make().unwrapped
    terminated = False
    for seed in range(30):
        env.reset(seed=seed)
        for action in sample(env, 100, seed):
            last, _, terminated, _, _ = env.step(action)
            if terminated:
                break
        if terminated:
            break
    before = state_of(env)
    for action in sample(env, 3):
        with pytest.warns(UserWarning, match=r"call reset\(\)"):
            observation, *rest = env.step(action)
        assert rest == [0.0, True, False, {}]
        assert np.array_equal(observation, last)
    assert state_of(env) == before
    env.reset(seed=0)
    assert not env.step(action)[2]


def physics_of(env):
    return p.getPhysicsEngineParameters(env.unwrapped._simulation.world.client)


def test_hand_made_cart_pole(continuous):
    """The hand-made original, 20 Hz and 50 N on a long rail, is three keywords away."""
    env = gym.make("BulletCartPole-v0", control_hz=20, force=50, x_limit=10, continuous=continuous)
    env.reset(options={"state": {}})
    physics = physics_of(env)
    assert physics["fixedTimeStep"] == pytest.approx(1 / 20)
    assert physics["numSubSteps"] == 5
    assert env.metadata["render_fps"] == 20
    env.step(np.ones(1, np.float32) if continuous else 1)
    # A force moves cart and pole like a mass of 1 + m (1 - 3/4) kg while the pole is upright.
    x_dot = env.unwrapped.state()["x_dot"]
    assert x_dot == pytest.approx(50 / 20 / (1 + 0.1 / 4), rel=0.02)
    near_the_limit = {"state": {"x": 9.99}}
    env.reset(options=near_the_limit)
    with pytest.raises(ValueError, match="terminated"):
        env.reset(options={"state": {"x": 10.01}})
    env.close()


def test_hand_made_plate(continuous):
    """The hand-made original, 100 Hz, weak motors and a light ball that drops, is made so too."""
    env = gym.make(
        "BalancingPlate-v0",
        control_hz=100,
        torque=0.0003,
        ball_mass=0.0007,
        drop_height=0.02,
        start_position=0.01,
        start_tilt=0.01,
        continuous=continuous,
    )
    env.reset(options={"state": {}})
    physics = physics_of(env)
    assert physics["fixedTimeStep"] == pytest.approx(1 / 100)
    assert physics["numSubSteps"] <= 1
    assert env.metadata["render_fps"] == 100
    ball = 1  # Bullet's number of the second body
    client = env.unwrapped._simulation.world.client
    mass, _, inertia, *_ = p.getDynamicsInfo(ball, -1, client)
    assert mass == 0.0007
    assert inertia == pytest.approx([2 / 3 * 0.0007 * 0.02**2] * 3)
    # The plate turns about y by torque / inertia, and the ball in its middle takes no part.
    env.step(np.ones(2, np.float32) if continuous else 3)
    assert env.unwrapped.state()["roll_rate"] == pytest.approx(0.0003 / 0.00226 / 100, rel=0.01)
    for seed in range(50):
        env.reset(seed=seed)
        state = env.unwrapped.state()
        assert max(abs(state["pitch"]), abs(state["roll"])) <= 0.01
        assert max(abs(state["ball_x"]), abs(state["ball_y"])) <= 0.01 + 0.05 * 0.01 + 1e-3
        assert state["ball_z"] == pytest.approx(0.05, abs=2e-4)
    # Nothing holds the ball before it has fallen.
    env.step(sample(env, 1)[0])
    assert env.unwrapped.state()["ball_vz"] == pytest.approx(-GRAVITY / 100, abs=2e-3)
    env.close()


def clients():
    return {client for client in range(1024) if p.isConnected(client)}


def test_frame(make, env_id):
    """A frame is uint8 of its shape, shows something, and shows when something moves."""
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert (before.dtype, before.shape) == (np.uint8, (540, 960, 3))
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 10
    play(env, sample(env, 20))
    after = env.render()
    assert not np.shares_memory(before, after)
    assert (before != after).any(axis=2).sum() > 50


def test_frame_depends_on_the_state_only(make, small_frames):
    """After other episodes and frames, in mid-contact, a state looks as it does at first."""
    env, new = make(render_mode="rgb_array"), make(render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    play(env, sample(env, 30))
    env.render()
    env.reset(seed=3)
    play(env, sample(env, 4))
    new.reset(seed=3)
    play(new, sample(new, 4))
    assert np.array_equal(env.render(), new.render())


FRAMES = """
import sys
import gymnasium as gym
from conftest import ALL_IDS
from test_env import frame_digest
sys.stdout.write(" ".join(map(frame_digest, ALL_IDS)))
"""


def frame_digest(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=6)
    env.step(sample(env, 1)[0])
    frame = digest(env.render().tobytes())
    env.close()
    return frame


@pytest.mark.sweep
def test_frame_in_another_process(run_python):
    """Another process draws the same frames to the bit."""
    child = run_python(FRAMES, PYTHONHASHSEED="7")
    assert child.returncode == 0, child.stderr.decode()
    assert child.stdout.decode().split() == list(map(frame_digest, ALL_IDS))


def test_drawing_never_changes_the_physics(make, small_frames):
    """A frame at every step leaves all that is seen as it was, to the bit."""
    drawn, plain = make(render_mode="rgb_array"), make()
    seen = []
    for env in (drawn, plain):
        record = [begin(env, seed=2)]
        for action in sample(env, 15, seed=2):
            record += play(env, [action])
            if env is drawn:
                env.render()
        seen.append(record)
    assert differs_at(*seen) is None


def test_renderer_waits_for_the_first_frame(make, env_id):
    """Asking for rgb_array costs no client until a frame is drawn, but a pixel id's observer."""
    observers = 1 if env_id in ALL_PIXEL_IDS else 0
    before = clients()
    env = make(render_mode="rgb_array")
    assert clients() == before
    env.reset(seed=0)
    env.step(sample(env, 1)[0])
    assert len(clients() - before) == 1 + observers
    env.render()
    env.render()
    assert len(clients() - before) == 2 + observers


def test_list_of_frames(env_id):
    """Gymnasium's rgb_array_list collects what rgb_array draws."""
    env = gym.make(env_id, render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(sample(env, 1)[0])
    frames = env.render()
    assert len(frames) == 2
    assert frames[0].shape == (540, 960, 3)
    env.close()


def test_render_without_a_mode_warns(make):
    """render() of an environment that was made without a render mode says what to ask for."""
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.render() is None


HEADLESS = """
import bullet_envs, gymnasium, sys
for env_id in bullet_envs.ENV_IDS:
    env = gymnasium.make(env_id, render_mode="human")
    try:
        env.reset()
    except RuntimeError as error:
        assert "rgb_array" in str(error), error
    else:
        sys.exit("a window without a display")
    env.close()
sys.stdout.write("alive")
"""


@pytest.mark.parametrize("display", [None, ":987"])
def test_human_without_a_display(run_python, display):
    """human where there is no display is an error that names rgb_array, and Python lives on."""
    child = run_python(HEADLESS, DISPLAY=display)
    assert child.stdout == b"alive", child.stderr.decode()


@pytest.fixture
def unseen_window(monkeypatch):
    """Let windows open that nobody sees."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_a_window_shows_the_frames_and_changes_nothing(make, small_frames, unseen_window):
    """All that is seen is the same; there is one window per process, which ends with its env."""
    watched, drawn, plain = make(render_mode="human"), make(render_mode="rgb_array"), make()
    seen = [[begin(env, seed=0)] for env in (watched, drawn, plain)]
    assert watched.render() is None
    surface = pygame.display.get_surface()
    assert surface.get_size() == (240, 136)
    shown = pygame.surfarray.array3d(surface).transpose(1, 0, 2)
    assert np.array_equal(shown, drawn.render())
    actions = sample(plain, 5)
    for one, env in zip(seen, (watched, plain, drawn), strict=True):
        one += play(env, actions)
    assert digest(seen[0]) == digest(seen[1]) == digest(seen[2])
    second = make(render_mode="human")
    with pytest.raises(RuntimeError, match="one environment per process; use 'rgb_array'"):
        second.reset()
    watched.close()
    second.reset()
    second.close()
    assert pygame.display.get_surface() is None


class Clock:
    """A clock that sleeping and drawing move on."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("drawing, stepping, least", [(0.005, 0.001, 500), (0.05, 0.001, 120)])
def test_a_window_keeps_time_and_drops_frames(monkeypatch, unseen_window, drawing, stepping, least):
    """Ten seconds take ten, whether drawing is fast or takes longer than a control period."""
    clock = Clock()
    monkeypatch.setattr(window, "time", clock)
    shown = []

    def draw():
        clock.now += drawing
        shown.append(clock.now)
        return np.zeros((54, 96, 3), np.uint8)

    opened = window.Window("title", 50)
    start = clock.now
    for _ in range(500):
        clock.now += stepping
        opened.show(draw)
    opened.close()
    assert clock.now - start == pytest.approx(10, rel=0.02)
    assert least <= len(shown) <= 500
    assert np.diff(shown).max() <= window.LONGEST_GAP + drawing + 0.02


def test_a_slow_agent_is_shown_too(monkeypatch, unseen_window):
    """What takes longer than real time is shown ten times a second, and never made up for."""
    clock, shown = Clock(), []
    monkeypatch.setattr(window, "time", clock)
    opened = window.Window("title", 50)
    for _ in range(300):
        clock.now += 0.03
        opened.show(lambda: shown.append(clock.now) or np.zeros((54, 96, 3), np.uint8))
    start = clock.now
    assert len(shown) >= 9 * 10 * 0.9
    for _ in range(300):
        opened.show(lambda: np.zeros((54, 96, 3), np.uint8))
    opened.close()
    assert clock.now - start > 300 / 50 - window.LATE - 0.02


def test_the_cross_ends_the_program_without_a_traceback(run_python):
    """The window is closed, and Python ends with status 0."""
    program = """
import gymnasium as gym, bullet_envs, pygame
env = gym.make("BulletCartPole-v0", render_mode="human")
env.reset(seed=0)
pygame.event.post(pygame.event.Event(pygame.QUIT))
env.step(0)
print("goes on")
"""
    child = run_python(program, SDL_VIDEODRIVER="dummy")
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")


CHECKED = """
import sys, warnings
import gymnasium as gym
from gymnasium.utils.env_checker import check_env
import robots
warnings.simplefilter("error")
check_env(gym.make(sys.argv[1]).unwrapped)
"""


@pytest.mark.parametrize("env_id", ["BalancingPlate-v0", "ElbowArmPixels-v0"])
def test_gymnasium_checker_with_a_window(env_id, run_python):
    """Gymnasium's check_env, all render modes included, finds nothing."""
    child = run_python(CHECKED, env_id, SDL_VIDEODRIVER="dummy")
    assert child.returncode == 0, child.stderr.decode()
