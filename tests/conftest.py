"""What the tests share: which environments, a seeded player, and what it saw to the bit."""

import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import bullet_envs
from bullet_envs.agents import ALGOS, algorithm

torch.set_num_threads(1)  # two test processes would otherwise wait for each other's threads
sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/, which the wheel lacks
_TASKS = dict.fromkeys(map(bullet_envs.registered, bullet_envs.ENV_IDS))
STATE_IDS = tuple(task.state_id for task in _TASKS)
PIXEL_IDS = tuple(task.pixel_id for task in _TASKS)
# What a state id shows of the physics, the pixel id of the same task cannot show differently:
# tests/test_pixels.py proves their states equal. Only the state ids bear the long tests.
# Where an algorithm has a preset, `make results` trains it and an agent is bundled.
BUNDLED = tuple(
    (env_id, algo)
    for env_id in STATE_IDS + PIXEL_IDS
    for algo in ALGOS
    if algorithm(algo).preset(env_id)
)


@pytest.fixture(params=STATE_IDS + PIXEL_IDS)
def env_id(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["discrete", "continuous"])
def continuous(request):
    return request.param


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


def sample(env, count, seed=0):
    """Return random actions that depend on the seed only."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def state_of(env):
    return tuple(env.unwrapped.state().values())


def begin(env, **reset):
    """Reset, and return what was seen in a form that compares to the bit."""
    observation, info = env.reset(**reset)
    return observation.tobytes(), observation.dtype.str, info, state_of(env)


def play(env, actions):
    """Take each action, reset after each end, and return all that was seen, to the bit."""
    seen = []
    for action in actions:
        observation, *rest = env.step(action)
        seen.append((observation.tobytes(), observation.dtype.str, *rest, state_of(env)))
        if rest[1] or rest[2]:
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
    return 1e-7 if env_id.startswith("BalancingPlate") else 0.0


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
