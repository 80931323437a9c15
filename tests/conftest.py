"""What the tests share: which environments, a seeded player, and what it saw to the bit.

The tests that every environment must pass run over the suite's ids and over those of ``robots.py``.
"""

import copy
import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import bullet_envs

# What runs without torch, which has no CPU wheels at hand for the newest Pythons, and of that what
# runs with gymnasium 0.29.1, which has no such vector environments.
SINGLE = ("test_env", "test_physics", "test_pixels", "test_determinism", "test_urdf", "test_mp4")
CORE = (
    *SINGLE,
    "test_vector",
    "test_workers",
    "test_recorder",
    "test_frames",
    "test_doctor",
    "test_certificate",
)
collect_ignore = []
try:
    import torch

    torch.set_num_threads(1)  # two test processes would otherwise wait for each other's threads
except ImportError:
    runs = SINGLE if gym.__version__ < "1.1" else CORE
    everything = Path(__file__).parent.glob("test_*.py")
    collect_ignore = [path.name for path in everything if path.stem not in runs]
SUITE = tuple(dict.fromkeys(map(bullet_envs.registered, bullet_envs.ENV_IDS)))
# What a state id shows of the physics, the pixel id of the same task cannot show differently:
# tests/test_pixels.py proves their states equal. Only the state ids bear the long tests.
STATE_IDS = tuple(task.state_id for task in SUITE)
PIXEL_IDS = tuple(task.pixel_id for task in SUITE)

import robots  # noqa: E402, F401  (registers its tasks after the suite's)

TASKS = tuple(dict.fromkeys(map(bullet_envs.registered, bullet_envs.ENV_IDS)))
ALL_STATE_IDS = tuple(task.state_id for task in TASKS)
ALL_PIXEL_IDS = tuple(task.pixel_id for task in TASKS)
ALL_IDS = ALL_STATE_IDS + ALL_PIXEL_IDS


# The arm has no discrete actions; what an action does is the same for a state and a pixel id.
KINDS = [
    (env_id, continuous)
    for env_id in ALL_IDS
    for continuous in (False, True)
    if continuous == env_id.startswith("ElbowArm") or env_id in (*STATE_IDS, "Shover-v0")
]


def __getattr__(name):
    """``BUNDLED``: where an algorithm has results. ``TRAINED_HERE``: those that need no Ray."""
    if name == "TRAINED_HERE":  # tests/test_rllib.py trains the others
        from bullet_envs.agents import ALGOS

        return tuple(algo for algo in ALGOS if not algo.startswith("rllib-"))
    if name != "BUNDLED":
        raise AttributeError(name)
    from benchmarks.results import BUNDLED_ALGOS

    return tuple((env_id, algo) for env_id in STATE_IDS + PIXEL_IDS for algo in BUNDLED_ALGOS)


def prefixed(env_id):
    """Return an id that also works in a process that has not imported its package."""
    package = "robots" if env_id.startswith(("ElbowArm", "Shover")) else "bullet_envs"
    return f"{package}:{env_id}"


@pytest.fixture(params=ALL_IDS)
def env_id(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["discrete", "continuous"])
def continuous(request):
    return request.param


def pytest_collection_modifyitems(items):
    """Leave out kinds of action that test nothing new, see ``KINDS``, and mark the core."""
    items[:] = [item for item in items if not _is_redundant(item)]
    for item in items:
        if item.path.stem in CORE:
            item.add_marker("core")
        if item.path.stem in SINGLE:
            item.add_marker("single")
        # What is general shows with the first task of robots.py; the second bears the sweeps.
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(one, str) and one.startswith("Shover") for one in values):
            item.add_marker("sweep")


def _is_redundant(item):
    given = item.callspec.params if hasattr(item, "callspec") else {}
    if "env_id" not in given or "continuous" not in given or "test_pixels" in item.nodeid:
        return False
    return (given["env_id"], given["continuous"]) not in KINDS


@pytest.fixture
def make(env_id, continuous):
    """Make environments of one id and one kind of action; the test's end closes them."""
    made = []

    def make_one(**kwargs):
        made.append(gym.make(env_id, **{"continuous": continuous, **kwargs}))
        return made[-1]

    yield make_one
    for env in made:
        env.close()


@pytest.fixture
def small_frames(monkeypatch):
    """Let frames take an eighth of their time, where it only matters whether they are equal."""
    for registered in TASKS:
        task = bullet_envs.registration.load_task(registered.task)
        camera = dataclasses.replace(task.video_camera, width=240, height=136)
        monkeypatch.setattr(task, "video_camera", camera)


@pytest.fixture
def make_vec():
    made = []

    def make(env_id, num_envs, **kwargs):
        made.append(gym.make_vec(env_id, num_envs=num_envs, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def everything_in(folder):
    """Return the content of each file below a folder by its path, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def states_of(envs):
    """Return the states, shape (num_envs, columns)."""
    if isinstance(envs, SyncVectorEnv):
        return np.array([list(env.unwrapped.state().values()) for env in envs.envs])
    return np.stack(list(envs.unwrapped.state().values()), axis=1)


def assert_same(mine, theirs):
    """Compare what two environments returned, to the bit: arrays, infos, final observations."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert_same(mine[name], theirs[name])
    elif isinstance(mine, tuple | list) or mine.dtype == object:
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            if one is not None or other is not None:
                assert_same(one, other)
    else:
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        assert np.array_equal(mine, theirs)


def compare(vector, singles, steps, seed=0, kept=0):
    """Play both with the same actions, compare all that they return, and count the ends.

    Args:
        kept: how many sub-environments are reset at random moments, to stagger the ends.
    """
    assert_same(vector.reset(seed=seed), singles.reset(seed=seed))
    vector.action_space.seed(seed)
    rng = np.random.default_rng(seed)
    ends = 0
    for step in range(steps):
        actions = vector.action_space.sample()
        mine, theirs = vector.step(actions), singles.step(actions)
        assert_same(mine, theirs)
        if step % 10 == 0 or step == steps - 1:  # the states of singles take longest to gather
            assert_same(states_of(vector), states_of(singles))
        ended = mine[2] | mine[3]
        ends += ended.sum()
        disabled = vector.metadata["autoreset_mode"].name == "DISABLED"
        mask = ended.copy() if disabled else np.zeros(len(ended), bool)
        if kept and step % 7 == 3:
            mask[rng.integers(len(ended), size=kept)] = True
            if not disabled:  # an ended one waits for its autoreset
                mask &= ~ended
        if mask.any():
            masks = [{"reset_mask": mask.copy()} for _ in range(2)]
            assert_same(vector.reset(options=masks[0]), singles.reset(options=masks[1]))
    return ends


def sample(env, count, seed=0):
    """Return random actions that depend on the seed only."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def state_of(env):
    return tuple(env.unwrapped.state().values())


def bits(value):
    """Return an observation or info in a form that compares to the bit."""
    if isinstance(value, dict):
        return {name: bits(part) for name, part in value.items()}
    return (value.tobytes(), value.dtype.str) if isinstance(value, np.ndarray) else value


def begin(env, **reset):
    """Reset, and return what was seen in a form that compares to the bit."""
    observation, info = env.reset(**reset)
    return bits(observation), bits(info), state_of(env)


def play(env, actions):
    """Take each action, reset after each end, and return all that was seen, to the bit."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        flags = reward, terminated, truncated
        seen.append((bits(observation), *flags, bits(info), state_of(env)))
        if terminated or truncated:
            seen.append(begin(env))
    return seen


def differs_at(seen, other):
    """Return where two records first differ, or None. An index reads better than both records."""
    for index, (one, two) in enumerate(zip(seen, other, strict=True)):
        if one != two:
            return index
    return None


def worst(seen, other):
    """Return the largest difference between the states of two records (SI units)."""
    states = [np.array([entry[-1] for entry in record]) for record in (seen, other)]
    return np.abs(states[0] - states[1]).max()


def rounding(env_id):
    """Return how far a state may be from itself after it was read, put back and played on.

    Bullet does not give back the very quaternion it was given; all else is exact.
    """
    return 0.0 if env_id.startswith(("BulletCartPole", "ElbowArm")) else 1e-7


def digest(seen):
    return hashlib.sha256(repr(seen).encode()).hexdigest()


@pytest.fixture
def run_python(tmp_path):
    """Run code in a fresh interpreter that starts in an empty folder."""

    def run(code, *arguments, given=None, **environ):
        environ = {**os.environ, **environ}
        paths = [str(Path(__file__).parent), environ.get("PYTHONPATH", "")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            input=given,
            capture_output=True,
            cwd=tmp_path,
            env={name: value for name, value in environ.items() if value is not None},
            timeout=120,
        )

    return run
