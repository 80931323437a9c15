"""What must hold for the task and its robot. Run ``pytest`` in this folder."""

import gymnasium as gym
import numpy as np
import planar_arm
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

ENV_ID = "planar_arm:PlanarArm-v0"
VARIANTS = ({}, {"goal_observation": True}, {"sparse": True})


@pytest.mark.parametrize("keywords", VARIANTS)
def test_gymnasium_checker(keywords):
    """Gymnasium finds nothing to complain of."""
    check_env(gym.make(ENV_ID, **keywords).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("keywords", VARIANTS)
def test_vector_equals_single(keywords):
    """The vector environment equals single ones to the bit."""
    envs = gym.make_vec(ENV_ID, num_envs=5, **keywords)
    singles = SyncVectorEnv([lambda: gym.make(ENV_ID, **keywords)] * 5)
    envs.action_space.seed(0)
    pairs = [(envs.reset(seed=0)[0], singles.reset(seed=0)[0])]
    for _ in range(120):
        actions = envs.action_space.sample()
        mine, theirs = envs.step(actions), singles.step(actions)
        assert np.array_equal(mine[1], theirs[1])
        pairs.append((mine[0], theirs[0]))
    for mine, theirs in pairs:
        flat = [gym.spaces.flatten(envs.observation_space, one) for one in (mine, theirs)]
        assert np.array_equal(*flat)
    envs.close()
    singles.close()


def test_rewards_are_the_sums_of_their_terms():
    """``info["reward_terms"]`` explains every reward."""
    env = gym.make(ENV_ID)
    env.reset(seed=0)
    for _ in range(20):
        _, reward, _, _, info = env.step(env.action_space.sample())
        assert reward == pytest.approx(sum(info["reward_terms"].values()))
    env.close()


def test_limits_hold():
    """Full torque for a whole episode does not break through a joint limit."""
    env = gym.make(ENV_ID)
    for sign in (-1, 1):
        env.reset(seed=0)
        for _ in range(100):
            env.step(np.array([sign, sign], np.float32))
            assert abs(env.unwrapped.state()["elbow"]) < planar_arm.ELBOW.upper + 0.2
    env.close()


def elbow_angles(x, y):
    """Return the angles that put the fingertip at a point (inverse kinematics)."""
    upper, fore = planar_arm.UPPER_ARM, planar_arm.FOREARM
    cosine = (x**2 + y**2 - upper**2 - fore**2) / (2 * upper * fore)
    elbow = np.arccos(np.clip(cosine, -1, 1))
    shoulder = np.arctan2(y, x) - np.arctan2(fore * np.sin(elbow), upper + fore * np.cos(elbow))
    return shoulder, elbow


def test_a_controller_reaches_every_target():
    """Inverse kinematics and a PD controller reach all of 50 targets: the task can be solved."""
    env = gym.make(ENV_ID)
    for seed in range(50):
        env.reset(seed=seed)
        for _ in range(100):
            state = env.unwrapped.state()
            shoulder, elbow = elbow_angles(state["target_x"], state["target_y"])
            turn = (shoulder - state["shoulder"] + np.pi) % (2 * np.pi) - np.pi
            torque = [
                4 * turn - 0.5 * state["shoulder_rate"],
                1 * (elbow - state["elbow"]) - 0.05 * state["elbow_rate"],
            ]
            _, _, terminated, _, info = env.step(np.clip(torque, -1, 1).astype(np.float32))
            assert not terminated
        assert info["is_success"], (seed, info)
    env.close()
