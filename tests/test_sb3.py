"""Stable-Baselines3's ``VecEnv`` of a vector environment, beside SB3's own of single ones."""

import gymnasium as gym
import numpy as np
import pytest
from conftest import ALL_STATE_IDS, assert_same, bits
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from bullet_envs.sb3 import GymnasiumVecEnv


@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_adapter_equals_dummy_vec_env(make_vec, env_id):
    kwargs = {"max_episode_steps": 25}
    mine = GymnasiumVecEnv(make_vec(env_id, 6, autoreset_mode="Disabled", **kwargs))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 6)
    mine.seed(3)
    theirs.seed(3)
    assert_same(mine.reset(), theirs.reset())
    assert mine.reset_infos == theirs.reset_infos
    assert mine.observation_space == theirs.observation_space
    mine.action_space.seed(0)
    truncations = terminations = 0
    for _ in range(200):
        actions = np.array([mine.action_space.sample() for _ in range(6)])
        a, b = mine.step(actions), theirs.step(actions)
        assert_same(tuple(a[:3]), tuple(b[:3]))
        for info, other in zip(a[3], b[3], strict=True):
            assert bits(info) == bits(other)
            if "terminal_observation" in info:
                truncations += info["TimeLimit.truncated"]
                terminations += not info["TimeLimit.truncated"]
    assert truncations > 5 and (terminations > 5 or "CartPole" not in env_id)
    assert mine.get_attr("render_mode") == [None] * 6
    assert mine.get_attr("np_random_seed", [1, 4]) == theirs.get_attr("np_random_seed", [1, 4])
    assert mine.get_attr("np_random", 2)[0] is mine.envs.unwrapped.np_random[2]
    states = [env.unwrapped.state() for env in theirs.envs]
    assert mine.env_method("state") == states
    assert mine.env_method("state", indices=[2, 0]) == [states[2], states[0]]
    assert mine.env_method("state", indices=5) == [states[5]]
    assert mine.metadata["render_fps"] == theirs.metadata["render_fps"]
    assert mine.env_is_wrapped(gym.Wrapper, [0, 2]) == [False, False]
    assert not mine.has_attr("nothing")
    for refused in (lambda: mine.set_attr("x", 1), lambda: mine.env_method("reset")):
        with pytest.raises(NotImplementedError):
            refused()
    theirs.close()


def test_options_and_frames(make_vec):
    envs = GymnasiumVecEnv(
        make_vec("BulletCartPole-v0", 4, autoreset_mode="Disabled", render_mode="rgb_array")
    )
    envs.set_options({"state": {"x": 0.5}})
    assert (envs.reset()[:, 0] == 0.5).all()
    envs.seed(0)
    first = envs.reset()
    assert (np.abs(first[:, 0]) < 0.1).all()
    assert not np.array_equal(envs.reset(), first)
    assert envs.render().shape == (2 * 540, 2 * 960, 3)
    frames = envs.env_method("render", indices=[3, 1])
    assert [frame.shape for frame in frames] == [(540, 960, 3)] * 2
    assert np.array_equal(frames[1], envs.get_images()[1])
    envs.set_options([{}, {}, {}, {"state": {"x": 0.5}}])
    with pytest.raises(ValueError, match="same for all"):
        envs.reset()


def test_adapter_refuses_other_modes(make_vec):
    with pytest.raises(ValueError, match="'Disabled', not AutoresetMode"):
        GymnasiumVecEnv(make_vec("BulletCartPole-v0", 2))


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("BalancingPlate-v0", {"continuous": True}), ("BulletCartPolePixels-v0", {"size": 24})],
)
def test_adapter_carries_all_spaces(make_vec, env_id, kwargs):
    """Continuous actions and images come through as from SB3's own DummyVecEnv."""
    mine = GymnasiumVecEnv(make_vec(env_id, 3, autoreset_mode="Disabled", **kwargs))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 3)
    assert mine.action_space == theirs.action_space
    assert mine.observation_space == theirs.observation_space
    mine.seed(5)
    theirs.seed(5)
    assert np.array_equal(mine.reset(), theirs.reset())
    mine.action_space.seed(0)
    for _ in range(60):
        actions = np.array([mine.action_space.sample() for _ in range(3)])
        a, b = mine.step(actions), theirs.step(actions)
        assert all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    theirs.close()


@pytest.mark.slow
@pytest.mark.sweep
def test_sb3_learns_on_a_vector_environment(make_vec):
    envs = VecMonitor(GymnasiumVecEnv(make_vec("BulletCartPole-v0", 16, autoreset_mode="Disabled")))
    model = PPO("MlpPolicy", envs, n_steps=64, n_epochs=10, learning_rate=1e-3, seed=0)
    model.learn(20_000)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=16)
    assert mean > 150  # 20 before


def test_several_workers_equal_one(make_vec):
    several, one = (
        GymnasiumVecEnv(make_vec("BulletCartPole-v0", 4, workers=n, autoreset_mode="Disabled"))
        for n in (2, 1)
    )
    for envs in (several, one):
        envs.seed(0)
    assert_same(several.reset(), one.reset())
    for _ in range(60):
        mine, theirs = (envs.step(np.ones(4, np.int64)) for envs in (several, one))
        assert_same(mine[:3], theirs[:3])
