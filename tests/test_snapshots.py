"""An environment and all that is restored from a snapshot of it go on equal, to the bit."""

import functools
import json

import gymnasium as gym
import numpy as np
import pytest
from conftest import ALL_IDS, ALL_PIXEL_IDS, assert_same, sample, states_of
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from test_perturbations import PERTURBED

import bullet_envs

KINDS = [
    *((env_id, {}) for env_id in ALL_IDS),
    *((env_id, {"perturbations": given}) for env_id, given in PERTURBED.items()),
]
IDS = [f"{env_id}{'-perturbed' * bool(kwargs)}" for env_id, kwargs in KINDS]


def small(env_id, kwargs):
    return {**kwargs, **({"size": 20} if env_id in ALL_PIXEL_IDS else {})}


def through_json(taken):
    return json.loads(json.dumps(taken, allow_nan=False))


def play(env, actions):
    """Return what an environment answers, through the ends of episodes."""
    answers = []
    for action in actions:
        answers.append(env.step(action))
        if answers[-1][2] or answers[-1][3]:
            answers.append(env.reset())
    return answers


def assert_equal(mine, theirs):
    for one, other in zip(mine, theirs, strict=True):
        assert_same(one[0], other[0])
        assert one[1:] == other[1:]


@pytest.mark.parametrize(("env_id", "kwargs"), KINDS, ids=IDS)
def test_single(env_id, kwargs):
    """Also the time limit, the generator and a snapshot of what was restored."""
    kwargs = small(env_id, kwargs) | {"max_episode_steps": 20}
    env, other, third = (gym.make(env_id, **kwargs) for _ in range(3))
    env.reset(seed=1)
    play(env, sample(env, 13, seed=1))
    taken = through_json(bullet_envs.snapshot(env))
    bullet_envs.restore(other, taken)
    again = through_json(bullet_envs.snapshot(other))
    assert again == taken
    bullet_envs.restore(third, again)
    actions = sample(env, 40, seed=2)
    answers = play(env, actions)
    assert_equal(answers, play(other, actions))
    assert_equal(answers, play(third, actions))
    for each in (env, other, third):
        each.close()


# One mode in the quick tests, the others in the sweeps.
MODES = [
    AutoresetMode.NEXT_STEP,
    *(
        pytest.param(mode, marks=pytest.mark.sweep)
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("env_id", "kwargs"), KINDS, ids=IDS)
def test_vector(make_vec, env_id, kwargs, mode):
    """In one process and in several, with some sub-environments ended."""
    kwargs = small(env_id, kwargs) | {"max_episode_steps": 9, "autoreset_mode": mode}
    envs, other = (make_vec(env_id, 4, **kwargs) for _ in range(2))
    several = make_vec(env_id, 4, workers=2, **kwargs)
    envs.reset(seed=1)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(30)]
    for action in actions[:9]:
        envs.step(action)
    taken = through_json(envs.snapshot())
    other.restore(taken)
    several.restore(taken)
    assert through_json(several.snapshot()) == taken
    for action in actions:
        mine = envs.step(action)
        assert_same(mine, other.step(action))
        assert_same(mine, several.step(action))
        ended = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            resets = [one.reset(options={"reset_mask": ended}) for one in (envs, other, several)]
            assert_same(*resets[:2])
            assert_same(*resets[::2])
    assert_same(states_of(envs), states_of(several))


def test_in_another_process(run_python):
    """A plate in contact."""
    env = gym.make("BalancingPlate-v0")
    env.reset(seed=0)
    play(env, sample(env, 15, seed=1))
    taken = bullet_envs.snapshot(env)
    actions = sample(env, 10, seed=2)
    program = f"""
import json
import gymnasium as gym
import bullet_envs
env = gym.make("BalancingPlate-v0")
bullet_envs.restore(env, json.loads({json.dumps(json.dumps(taken))}))
for action in {[int(action) for action in actions]}:
    env.step(action)
print(json.dumps(list(env.unwrapped.state().values())))
"""
    for action in actions:
        env.step(action)
    printed = run_python(program)
    assert json.loads(printed.stdout) == list(env.unwrapped.state().values()), printed.stderr


def test_wrong_snapshots(make_vec):
    env = gym.make("BulletCartPole-v0")
    with pytest.raises(ResetNeeded, match=r"snapshot\(\) before reset"):
        bullet_envs.snapshot(env)
    env.reset(seed=0)
    taken = bullet_envs.snapshot(env)
    heavier = gym.make("BulletCartPole-v0", pole_mass=0.2)
    for wrong, error, words in (
        (5, TypeError, "snapshot 5 must be what bullet_envs.snapshot returned"),
        ({}, TypeError, "must be what"),
        ({**taken, "version": 0}, ValueError, "snapshot of version 0 does not fit version 2"),
        ({**taken, "envs": []}, ValueError, "snapshot of number of sub-environments 0 does not"),
    ):
        with pytest.raises(error, match=words):
            bullet_envs.restore(env, wrong)
    assert bullet_envs.snapshot(env) == taken
    with pytest.raises(ValueError, match="snapshot of task CartPole"):
        bullet_envs.restore(heavier, taken)
    with pytest.raises(TypeError, match="is no environment of bullet_envs"):
        bullet_envs.snapshot(gym.make("CartPole-v1"))
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        bullet_envs.snapshot(env)
    bullet_envs.restore(env, taken)
    assert np.isfinite(env.step(0)[0]).all()
    env.close()


@pytest.mark.parametrize("vector", [False, True])
def test_snapshots_of_other_perturbations(make_vec, vector):
    """Are refused, and whoever refuses them goes on as before."""
    kwargs = [{}, *({"perturbations": {"actions": {"delay": n}}} for n in (2, 5))]
    kwargs.append({"perturbations": {}})
    make = functools.partial(make_vec, num_envs=2) if vector else gym.make
    envs = [make("BulletCartPole-v0", **one) for one in kwargs]
    taken = []
    for env in envs:
        env.reset(seed=0)
        taken.append(bullet_envs.snapshot(env))
    for n, env in enumerate(envs):
        for m, other in enumerate(taken):
            if m != n:
                with pytest.raises(ValueError, match=r"snapshot of perturbations .* does not fit"):
                    bullet_envs.restore(env, other)
        assert bullet_envs.snapshot(env) == taken[n]
        env.close()


def test_a_snapshot_without_a_time_limit():
    """A time limit begins to count where it is restored."""
    bare, env = (gym.make("BulletCartPole-v0", max_episode_steps=10) for _ in range(2))
    bare.reset(seed=0)
    play(bare, [0, 1, 0])
    bullet_envs.restore(env, through_json(bullet_envs.snapshot(bare.unwrapped)))
    assert [env.step(n % 2)[3] for n in range(10)] == [False] * 9 + [True]
    for each in (bare, env):
        each.close()


def test_parameters_that_are_drawn_once():
    """What restores has those of the original for good, not its own."""
    kwargs = {
        "perturbations": {"parameters": {"pole_mass": {"uniform": [0.05, 0.2], "when": "make"}}}
    }
    env, other = (gym.make("BulletCartPole-v0", **kwargs) for _ in range(2))
    own = [each.reset(seed=seed)[1]["parameters"] for seed, each in enumerate((env, other))]
    assert own[0] != own[1]
    bullet_envs.restore(other, through_json(bullet_envs.snapshot(env)))
    assert env.reset()[1]["parameters"] == own[0] == other.reset()[1]["parameters"]
    for each in (env, other):
        each.close()


@pytest.mark.parametrize("steps", [5, 12, 30])
@pytest.mark.parametrize("duration", [0.2, 100.0])
def test_before_during_and_after_a_push(steps, duration):
    """A push that has been is not repeated, one that is to come comes, one that acts goes on."""
    push = {"body": "pole", "force": 0.5, "time": 0.2, "duration": duration}
    kwargs = {"x_limit": 15, "angle_limit": 3.0, "perturbations": {"pushes": [push]}}
    env, other = (gym.make("BulletCartPole-v0", **kwargs) for _ in range(2))
    env.reset(seed=0)
    play(env, [0] * steps)
    bullet_envs.restore(other, through_json(bullet_envs.snapshot(env)))
    assert_equal(play(env, [1] * 20), play(other, [1] * 20))
    for each in (env, other):
        each.close()
