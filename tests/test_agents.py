"""Agents act as Stable-Baselines3's do, their formulas are right, and training repeats itself."""

import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import random
import re
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import BUNDLED, PIXEL_IDS, STATE_IDS, TRAINED_HERE
from gymnasium.spaces import Box
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import nn

from bullet_envs.agents import (
    ALGOS,
    CONTROLLERS,
    ROBUST,
    algorithm,
    controllers_of,
    load_agent,
    new_agent,
    pretrained_card,
    reinforce,
    settings_help,
    settings_ranges,
)
from bullet_envs.agents.checkpoints import digest, read_tensors
from bullet_envs.agents.dqn import DQNPolicy, epsilon_at, td_target
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents.evaluation import (
    AT_ONCE,
    EVALUATION_SEEDS,
    Episode,
    Evaluation,
    evaluate,
    evaluate_in_each,
    run_episodes,
)
from bullet_envs.agents.reinforce import policy_loss, returns_to_go
from bullet_envs.agents.replay_buffer import Batch, ReplayBuffer
from bullet_envs.agents.run import Run, derived_seed


@pytest.fixture(params=STATE_IDS + PIXEL_IDS)
def env_id(request):
    """An id of the suite: those of the tests' own robots have no agents."""
    return request.param


# Trainings of about a second that evaluate twice.
TINY = {
    "reinforce": {
        "n_timesteps": 2000,
        "eval_freq": 1000,
        "save_freq": 1000,
        "episodes": 4,
        "hidden": (16,),
    },
    "dqn": {
        "n_timesteps": 1200,
        "eval_freq": 600,
        "save_freq": 600,
        "learning_starts": 300,
        "hidden": (16,),
    },
    "a2c": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 32,
        "hidden": (16,),
    },
    "ppo": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 32,
        "hidden": (16,),
    },
    "sb3-ppo": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 32,
        "hidden": (16,),
    },
    "sb3-a2c": {"n_timesteps": 1200, "eval_freq": 600, "save_freq": 600, "hidden": (16,)},
    "sb3-dqn": {
        "n_timesteps": 1200,
        "eval_freq": 600,
        "save_freq": 600,
        "learning_starts": 300,
        "gradient_steps": 1,
        "hidden": (16,),
    },
    "sb3-sac": {
        "n_timesteps": 1200,
        "eval_freq": 600,
        "save_freq": 600,
        "learning_starts": 300,
        "batch_size": 32,
        "gradient_steps": 1,
        "hidden": (16,),
    },
}
# Longer ones, so that a signal falls into their middle.
SHORT = {
    "reinforce": {"n_timesteps": 10_000, "eval_freq": 2000, "save_freq": 2000, "hidden": (16,)},
    "dqn": {
        "n_timesteps": 2500,
        "eval_freq": 500,
        "save_freq": 500,
        "learning_starts": 300,
        "hidden": (16,),
    },
    "a2c": {
        "n_timesteps": 5000,
        "eval_freq": 1000,
        "save_freq": 1000,
        "n_steps": 32,
        "hidden": (16,),
    },
    "ppo": {
        "n_timesteps": 5000,
        "eval_freq": 1000,
        "save_freq": 1000,
        "n_steps": 32,
        "hidden": (16,),
    },
    "sb3-ppo": {
        "n_timesteps": 5000,
        "eval_freq": 1000,
        "save_freq": 1000,
        "n_steps": 32,
        "hidden": (16,),
    },
    **{
        algo: {**TINY[algo], "n_timesteps": 2500, "eval_freq": 500, "save_freq": 500}
        for algo in ("sb3-a2c", "sb3-dqn", "sb3-sac")
    },
}
# What makes a training on images as short: they are small, and so are the episodes in actions.
IMAGES = {"env_kwargs": {"size": 20}, "frame_stack": 2, "action_repeat": 2}
TINY_IMAGES = {
    "reinforce": {
        **{
            "n_timesteps": 400,
            "eval_freq": 200,
            "save_freq": 200,
            "episodes": 2,
            "baseline_epochs": 3,
            "baseline_buffer": 100,
        },
        **IMAGES,
    },
    "dqn": {
        "n_timesteps": 400,
        "eval_freq": 200,
        "save_freq": 200,
        "learning_starts": 100,
        "batch_size": 16,
        **IMAGES,
    },
    "a2c": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 16,
        **IMAGES,
    },
    "ppo": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 16,
        "batch_size": 64,
        **IMAGES,
    },
    "sb3-ppo": {
        "n_timesteps": 1024,
        "eval_freq": 512,
        "save_freq": 512,
        "n_steps": 16,
        "batch_size": 64,
        **IMAGES,
    },
    **{
        algo: {"n_timesteps": 400, "eval_freq": 200, "save_freq": 200, **IMAGES}
        for algo in ("sb3-a2c", "sb3-dqn", "sb3-sac")
    },
}
TINY_IMAGES["sb3-dqn"]["learning_starts"] = TINY_IMAGES["sb3-sac"]["learning_starts"] = 50


DISCRETE_ONLY = ("reinforce", "dqn", "sb3-dqn", "rllib-dqn")
BOTH_MODES = pytest.mark.parametrize("deterministic", [True, False], ids=["likeliest", "drawn"])
# Those of SB3's that share all but their names with sb3-ppo take part in few tests but the sweeps.
FEW = ("sb3-a2c", "sb3-dqn", "sb3-sac")


def sweep_few(*values):
    """Return a parameter of a test, in the sweeps only if one of the values is of ``FEW``."""
    return pytest.param(*values, marks=[pytest.mark.sweep] if set(values) & set(FEW) else [])


MOST_ALGOS = [sweep_few(algo) for algo in TRAINED_HERE]
# Where a training is taken as a whole: those that a Run serves in different ways.
FEWEST_ALGOS = [
    pytest.param(algo, marks=[] if algo in ("reinforce", "dqn") else [pytest.mark.sweep])
    for algo in TRAINED_HERE
]
KINDS = [
    (env_id, name, continuous)
    for env_id in STATE_IDS + PIXEL_IDS
    for name in (*controllers_of(env_id), *ALGOS)
    for continuous in (False, True)
    if not (continuous and name in DISCRETE_ONLY) and (continuous or name != "sb3-sac")
]


def kind_id(kind):
    env_id, name, continuous = kind
    return f"{env_id}-{name}" + "-continuous" * continuous


def small(env_id):
    """Return keywords that make the images of an id small, none for the ids of states."""
    return {"size": 20} if env_id in PIXEL_IDS else {}


def fit_for(algo, env_id):
    """Return keywords that give an id of the suite actions that an algorithm can take."""
    is_ours = env_id in STATE_IDS + PIXEL_IDS
    return {"continuous": True} if is_ours and algo == "sb3-sac" else {}


def untrained(env_id, algo, **env_kwargs):
    """Return a small agent with random weights; one for images sees two of them at once."""
    frame_stack = 2 if env_id in PIXEL_IDS else 1
    env_kwargs = {**small(env_id), **fit_for(algo, env_id), **env_kwargs}
    env = EnvConfig(env_id, env_kwargs, frame_stack)
    return new_agent(algorithm(algo).policy, env, (8,))


@pytest.fixture(
    params=[
        pytest.param(
            kind, marks=[pytest.mark.sweep] if kind[1] in FEW and kind[0] != STATE_IDS[0] else []
        )
        for kind in KINDS
    ],
    ids=kind_id,
)
def agent(request):
    """Return each kind of agent that an id can have, the learned ones without any training."""
    env_id, name, continuous = request.param
    if name in CONTROLLERS:
        return load_agent(env_id, name, continuous=continuous, **small(env_id))
    torch.manual_seed(0)
    return untrained(env_id, name, continuous=continuous)


def some_observations(agent, count):
    rng = np.random.default_rng(0)
    space = agent.observation_space
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *space.shape), np.uint8)
    return rng.normal(0, 0.3, (count, *space.shape)).astype(np.float32)


@BOTH_MODES
def test_predict_gives_an_action_that_step_takes(agent, deterministic):
    """A single observation gets a single action, in the space and fit for step as it is."""
    with agent.make_env() as env:
        observation, _ = env.reset(seed=0)
        for _ in range(3):
            action, state = agent.predict(observation, deterministic=deterministic)
            assert state is None
            assert env.action_space.contains(action)
            assert np.shape(action) == env.action_space.shape
            assert np.asarray(action).dtype == env.action_space.dtype
            observation, _, _, _, _ = env.step(action)


@BOTH_MODES
def test_predict_takes_batches(agent, deterministic):
    """A batch of observations gets a batch of actions, also one of one; state returns."""
    with agent.make_env() as env:
        space = env.action_space
    for count in (1, 7):
        actions, state = agent.predict(
            some_observations(agent, count), ("kept",), np.ones(count, bool), deterministic
        )
        assert state == ("kept",)
        assert actions.shape == (count, *space.shape)
        assert actions.dtype == space.dtype
        assert all(space.contains(action) for action in actions)


def test_a_batch_is_as_its_single_observations(agent):
    """The likeliest action does not depend on the other observations, nor does it vary."""
    if agent.algo == "random":
        pytest.skip("random actions have no likeliest one")
    observations = some_observations(agent, 20)
    begin = np.ones(20, bool)
    batch, _ = agent.predict(observations, None, begin, True)
    again, _ = agent.predict(observations, None, begin, True)
    np.testing.assert_array_equal(batch, again)
    rows = [agent.predict(row, None, begin[:1], True)[0] for row in observations]
    np.testing.assert_allclose(batch, rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float64, list], ids=["float64", "list"])
def test_predict_takes_any_numbers(agent, kind):
    """As in SB3, observations may be float64 or plain lists."""
    observation = some_observations(agent, 1)[0]
    begin = np.ones(1, bool)
    expected, _ = agent.predict(observation, None, begin, True)
    given = observation.tolist() if kind is list else observation.astype(kind)
    action, _ = agent.predict(given, None, begin, True)
    if agent.algo != "random":
        np.testing.assert_allclose(action, expected, rtol=1e-6, atol=1e-6)


def test_agents_leave_observations_as_they_are(agent):
    """What is given to predict is not written to."""
    observations = some_observations(agent, 5)
    before = observations.copy()
    agent.predict(observations, deterministic=True)
    agent.predict(observations, deterministic=False)
    np.testing.assert_array_equal(observations, before)


# The last of each name: on images, and with continuous actions, where it can have them.
@pytest.mark.sweep
@pytest.mark.parametrize(
    "agent", {kind[1]: kind for kind in KINDS}.values(), ids=kind_id, indirect=True
)
def test_sb3_can_evaluate(agent):
    """SB3's evaluate_policy takes every agent, with one environment and with several."""
    with Monitor(agent.make_env()) as env:
        mean, std = evaluate_policy(agent, env, n_eval_episodes=2)
    assert mean > 0 and std >= 0
    envs = make_vec_env(agent.make_env, 3, seed=0)
    returns, lengths = evaluate_policy(agent, envs, n_eval_episodes=3, return_episode_rewards=True)
    envs.close()
    assert returns == lengths
    assert len(returns) == 3


@pytest.mark.parametrize("algo", ["reinforce", "sb3-ppo"])
def test_drawn_actions_follow_the_policy(env_id, algo):
    """Drawn actions come in the policy's own proportions, and again with the same torch seed."""
    torch.manual_seed(1)
    agent = untrained(env_id, algo)
    observation = some_observations(agent, 1)[0]
    tensor = agent.policy.tensor(observation[None])
    with torch.no_grad():
        if algo == "sb3-ppo":
            expected = agent.policy.network.get_distribution(tensor).distribution.probs[0].numpy()
        else:
            expected = torch.softmax(agent.policy.network(tensor), 1)[0].numpy()
    batch = np.repeat(observation[None], 4000, axis=0)
    torch.manual_seed(5)
    drawn, _ = agent.predict(batch)
    counts = np.bincount(drawn, minlength=len(expected)) / len(drawn)
    np.testing.assert_allclose(counts, expected, atol=0.04)  # 5 standard errors
    torch.manual_seed(5)
    np.testing.assert_array_equal(agent.predict(batch)[0], drawn)


@pytest.mark.parametrize("algo", ["dqn", "sb3-dqn"])
def test_dqn_takes_the_greatest_value(env_id, algo):
    """A Q-network has no policy to draw from; ours then takes one action in 20 at random."""
    agent = untrained(env_id, algo)
    observations = some_observations(agent, 50)
    with torch.no_grad():
        greatest = agent.policy.network(agent.policy.tensor(observations)).argmax(1).numpy()
    actions, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, greatest)
    torch.manual_seed(0)
    drawn = np.array([agent.predict(observations)[0] for _ in range(40)])
    n_actions = int(agent.action_space.n)
    share = 0.05 * (1 - 1 / n_actions) if algo == "dqn" else 0.0
    assert (drawn != greatest).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    "env_id, name",
    [(env_id, name) for env_id in STATE_IDS + PIXEL_IDS for name in controllers_of(env_id)],
)
def test_make_env_passes_keywords(env_id, name):
    """make_env makes the agent's own environment; keywords given to it win."""
    agent = load_agent(env_id, name, control_hz=25, physics_hz=200)
    with agent.make_env(physics_hz=300, render_mode="rgb_array") as env:
        assert env.spec.id == env_id
        assert env.render_mode == "rgb_array"
        assert (env.unwrapped.task.control_hz, env.unwrapped.task.physics_hz) == (25, 300)
    with agent.make_env() as env:
        assert env.render_mode is None
        assert env.unwrapped.task.physics_hz == 200


@pytest.mark.parametrize("algo", DISCRETE_ONLY)
def test_continuous_actions_are_refused_by_name(env_id, algo):
    """An algorithm for Discrete actions says so."""
    with pytest.raises(ValueError, match=f"{algo} needs Discrete actions"):
        untrained(env_id, algo, continuous=True)


def test_discrete_actions_are_refused_by_name(env_id):
    """SAC says what it needs."""
    with pytest.raises(ValueError, match=r"sb3-sac needs Box actions .*, not Discrete\("):
        untrained(env_id, "sb3-sac", continuous=False)


@pytest.mark.parametrize("env_id", ["Foo-v0", "no_such_module:Foo-v0", "CartPole-v9", "", "a:b:c"])
def test_unknown_ids_are_named(env_id):
    """The error is one line with the id, whether its name or its module is unknown."""
    for make in (EnvConfig, lambda env_id: load_agent(env_id, "random")):
        with pytest.raises(ValueError, match=f"env_id={env_id!r} is not an environment") as caught:
            make(env_id)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env_id", PIXEL_IDS)
def test_no_lqr_for_images(env_id):
    """An LQR cannot see; the error names the id where it acts and the agents that can."""
    state_id = env_id.replace("Pixels", "")
    message = f"'lqr' needs to observe .* {env_id} does not show: use it on {state_id}, or one of"
    with pytest.raises(ValueError, match=message):
        load_agent(env_id, "lqr")
    assert controllers_of(env_id) == ("random",)
    assert controllers_of(state_id) == CONTROLLERS


@pytest.mark.parametrize("agent", ["sac", "LQR", "no/such/folder", "weights.safetensors"])
def test_load_agent_names_the_agents(env_id, agent):
    """An unknown agent is answered with the known ones."""
    with pytest.raises(ValueError, match=", ".join((*ALGOS, *ROBUST, *CONTROLLERS))):
        load_agent(env_id, agent)


def test_algorithm_names_the_algorithms():
    """An unknown algorithm is answered with the known ones."""
    with pytest.raises(ValueError, match=f"'sac' must be one of {', '.join(ALGOS)}"):
        algorithm("sac")


def fields_of(config):
    return [f.name for f in dataclasses.fields(config) if f.name not in ("env_id", "env_kwargs")]


@pytest.mark.parametrize(
    "algo, name",
    [(algo, name) for algo in TRAINED_HERE for name in fields_of(algorithm(algo).config)],
)
def test_every_setting_has_a_legal_range(algo, name):
    """Whatever is no number of a setting's range is refused by the setting's name."""
    bad = [None, "x", True, math.nan, math.inf, -1, 1e30, [], (0,), (8.5,), (-8,), (True,)]
    if isinstance(getattr(algorithm(algo).config, name, None), bool):
        bad.remove(True)
    if name == "hidden":
        bad = [value for value in bad if value != []]  # a linear network
        bad += [8, (4097,), (8,) * 9, ("8",), {"8": 8}]
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=name):
            algorithm(algo).config(env_id="BulletCartPole-v0", **{name: value})


@pytest.mark.parametrize(
    "algo, settings",
    [
        ("dqn", {"n_steps": 100, "n_envs": 256, "buffer_size": 1000}),
        ("dqn", {"learning_starts": 1}),
        ("dqn", {"learning_starts": 79, "n_steps": 5, "n_envs": 8, "action_repeat": 2}),
        ("dqn", {"buffer_size": 1023, "n_steps": 5, "n_envs": 128, "frame_stack": 4}),
        ("sb3-ppo", {"batch_size": 100_000}),
        ("sb3-ppo", {"batch_size": 100}),
        ("sb3-dqn", {"buffer_size": 1000, "n_steps": 100, "n_envs": 16}),
    ],
)
def test_settings_that_cannot_go_together_are_refused(algo, settings):
    """Settings that are legal one by one but not together are refused before the training."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        algorithm(algo).config(env_id="BulletCartPole-v0", **settings)


def test_image_shift_needs_images(tmp_path):
    """A shift of four numbers is refused before the first step."""
    learner = algorithm("dqn")
    config = learner.config(env_id="BulletCartPole-v0", image_shift=2)
    refusal = pytest.raises(ValueError, match="image_shift=2 must be 0 where there are no images")
    with Run(tmp_path / "run", config, progress=False) as run, refusal:
        learner.train(config, run)
    assert run.steps == 0


@pytest.mark.parametrize("algo", TRAINED_HERE)
def test_presets_are_legal(algo):
    """There are presets for known ids only, and each makes a config."""
    learner = algorithm(algo)
    assert set(STATE_IDS) <= set(learner.presets)
    for env_id, settings in learner.presets.items():
        if env_id == "ALE/":  # of all Atari games
            pytest.importorskip("ale_py")
            env_id = "ALE/Pong-v5"
        learner.config(env_id=env_id, **settings)


def test_derived_seeds_differ():
    """10,000 seeds of neighbouring words: legal, repeatable, all different."""
    words = list(itertools.product(range(10), range(0, 100_000, 1000), range(10)))
    seeds = [derived_seed(*numbers) for numbers in words]
    assert seeds == [derived_seed(*numbers) for numbers in words]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) <= max(seeds) < 2**31


def test_episodes_are_recorded_as_they_were_played(env_id):
    """Entry i is the observation before action i and the reward after it."""
    envs = gym.make_vec(env_id, num_envs=3, autoreset_mode="Disabled")
    with contextlib.closing(envs), gym.make(env_id) as env:
        rng = np.random.default_rng(0)
        draws = rng.integers(0, env.action_space.n, 1000).tolist()

        def act(batch, _=None):
            return np.array([draws.pop() for _ in batch])

        episodes = run_episodes(envs, act, [3, 4])
        for seed, episode in zip([3, 4], episodes, strict=True):
            observation, _ = env.reset(seed=seed)
            for index, action in enumerate(episode.actions):
                np.testing.assert_allclose(episode.observations[index], observation, atol=1e-6)
                observation, reward, terminated, _, _ = env.step(action)
                assert reward == episode.rewards[index]
                assert terminated == (index == len(episode.actions) - 1)
            assert episode.episode_return == len(episode.rewards) == len(episode.observations)


def test_returns_belong_to_their_seeds(env_id):
    """evaluate() gives each seed its own return, however many play at once."""
    agent = untrained(env_id, "dqn")
    seeds = range(40, 65)
    together = evaluate(agent, seeds).returns
    alone = [evaluate(agent, [seed]).returns[0] for seed in seeds]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("algo", ["ppo", "lqr"])
def test_results_belong_to_their_environments(algo):
    """evaluate_in_each() gives each what evaluate() does, and None where parameters are refused."""
    perturbations = [
        {"actions": {"delay": 4}},
        {"parameters": {"pole_length": 4.0, "pole_mass": 1.0, "cart_mass": 0.1}},
        {"observations": {"noise": {"theta": 0.2}}},
        {"parameters": {"pole_length": 0.4}},
    ]
    load = functools.partial(load_agent, "BulletCartPole-v0", algo)
    loads = [functools.partial(load, perturbations=one) for one in perturbations]
    seeds = range(AT_ONCE + 3)
    results = evaluate_in_each(loads, seeds)
    assert [result is None for result in results] == [False, True, False, False]
    for load, result in zip(loads, results, strict=True):
        if result is not None:
            alone = evaluate(load(), seeds)
            assert result.returns.tolist() == alone.returns.tolist()
            assert result.terminated.tolist() == alone.terminated.tolist()
    assert len({result.returns.mean() for result in results if result is not None}) == 3


@pytest.mark.parametrize("later", [0.0, 7.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_returns_to_go(gamma, later):
    """Each return is the brute-force sum of what follows."""
    rewards = np.random.default_rng(0).normal(size=50).tolist()
    everything = [*rewards, later]
    expected = [
        sum(gamma ** (place - step) * everything[place] for place in range(step, 51))
        for step in range(50)
    ]
    returns = returns_to_go(rewards, gamma, later)
    assert returns.dtype == np.float32
    np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("baseline_epochs", [0, 1])
def test_reinforce_looks_beyond_a_time_limit(baseline_epochs):
    """A reward of 1 for ever is worth 1 / (1 - gamma): by the baseline, unless it terminated.

    The baseline knows that worth, so with it every return of a truncated episode is the same.
    """
    agent = untrained("BulletCartPole-v0", "reinforce")
    config = config_of("reinforce", gamma=0.9, reward_scale=0.1, baseline_epochs=baseline_epochs)
    learner = reinforce._Learner(config, agent.policy)
    learner._baseline = lambda observations: torch.full((len(observations), 1), 0.1 / (1 - 0.9))
    space = agent.observation_space
    steps = {"observations": [space.sample()] * 4, "actions": [0] * 4, "rewards": [1.0] * 4}
    episodes = [
        Episode(**steps, final_observation=space.sample(), terminated=terminated, ended=True)
        for terminated in (False, True)
    ]
    truncated, terminated = learner._returns(episodes).numpy().reshape(2, 4)
    to_the_end = [0.1 * (1 - 0.9**left) / (1 - 0.9) for left in (4, 3, 2, 1)]
    np.testing.assert_allclose(terminated, to_the_end, rtol=1e-6)
    np.testing.assert_allclose(truncated, 1.0 if baseline_epochs else to_the_end, rtol=1e-6)


def test_policy_gradient_of_two_actions():
    """Its gradient is mean((pi - onehot) * advantage), as worked out by hand."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(2, (20,), generator=generator)
    advantages = torch.randn(20, generator=generator, dtype=torch.float64)
    policy_loss(logits, actions, advantages, entropy=0.0).backward()

    right = torch.sigmoid(logits[:, 1] - logits[:, 0]).detach()
    policy = torch.stack([1 - right, right], 1)
    expected = (policy - torch.eye(2)[actions]) * advantages[:, None] / 20
    torch.testing.assert_close(logits.grad, expected)


def test_policy_loss_against_finite_differences():
    """Loss and entropy bonus have the gradient that small steps show."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(4, (6,), generator=generator)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits: policy_loss(logits, actions, advantages, 0.3), logits
    )


def test_entropy_bonus_is_subtracted():
    """The bonus lowers the loss by entropy times its weight: log 4 for a uniform policy."""
    logits, actions, advantages = torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.zeros(3)
    loss = policy_loss(logits, actions, advantages, entropy=0.5)
    assert loss.item() == pytest.approx(-0.5 * math.log(4))


def test_policy_loss_learns_a_bandit():
    """Plain gradient steps on drawn actions find the arm that pays."""
    torch.manual_seed(0)
    logits = torch.zeros(3, requires_grad=True)
    for _ in range(80):
        actions = torch.distributions.Categorical(logits=logits.detach()).sample((32,))
        pays = torch.tensor([0.2, 1.0, 0.5])[actions]
        policy_loss(logits.expand(32, 3), actions, pays - pays.mean(), 0.0).backward()
        with torch.no_grad():
            logits -= 2 * logits.grad
            logits.grad.zero_()
    assert torch.softmax(logits, 0)[1] > 0.95


@pytest.mark.parametrize(
    "progress, fraction, final, expected",
    [
        (0.0, 0.2, 0.1, 1.0),
        (0.1, 0.2, 0.1, 0.55),
        (0.2, 0.2, 0.1, 0.1),
        (0.7, 0.2, 0.1, 0.1),
        (1.0, 1.0, 0.0, 0.0),
        (0.25, 1.0, 0.0, 0.75),
        (0.5, 0.0, 0.05, 0.05),
        (0.5, 0.8, 1.0, 1.0),
    ],
)
def test_epsilon(progress, fraction, final, expected):
    """Epsilon falls in a straight line from 1 to its least value and stays there."""
    assert epsilon_at(progress, fraction, final) == pytest.approx(expected)


def table(values):
    """Return a Q-network over one-hot states whose outputs are the rows of a table."""
    network = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor(values).T)
    return network


def two_states(gamma=0.9):
    """Return the batch of: s0 ends at a termination, s0 is cut by a time limit, s0 goes on."""
    buffer = ReplayBuffer(6, 3, Box(0, 1, (2,), np.float32), 1)
    here, there = np.eye(2, dtype=np.float32)
    buffer.begin(np.array([here, here, here]))
    buffer.add(
        actions=np.array([0, 1, 0]),
        rewards=np.array([1.0, 2.0, 3.0]),
        terminated=np.array([True, False, False]),
        truncated=np.array([False, True, False]),
        next_obs=np.array([here, here, there]),
        final_obs=np.array([there, there, None], object),
    )
    return buffer.sample(300, 1, gamma, np.random.default_rng(0))


def test_td_target_bootstraps_on_truncation_only():
    """A termination is worth its reward; a time limit is worth what may follow it."""
    online, target = table([[0.0, 0.0], [5.0, 7.0]]), table([[0.0, 0.0], [40.0, 30.0]])
    batch = two_states()
    values = td_target(online, target, batch)
    # The online network likes action 1 of the second state, the target network values it at 30.
    expected = {1.0: 1.0, 2.0: 2.0 + 0.9 * 30, 3.0: 3.0 + 0.9 * 30}
    assert set(batch.returns.tolist()) == set(expected)
    torch.testing.assert_close(
        values, torch.tensor([expected[reward] for reward in batch.returns.tolist()])
    )
    assert not values.requires_grad


def test_td_target_finds_the_values_of_two_states():
    """Repeated targets converge to the values worked out by hand, truncation or not."""
    # State 0: action 0 pays 1 and terminates; action 1 pays 0 and leads to state 1.
    # State 1: action 0 pays 2 and leads to state 0; action 1 pays 0 and stays. All are truncated.
    gamma = 0.9
    states, next_obs = torch.eye(2)[[0, 0, 1, 1]], torch.eye(2)[[0, 1, 0, 1]]
    actions = torch.tensor([0, 1, 0, 1])
    batch = Batch(
        states,
        actions,
        torch.tensor([1.0, 0.0, 2.0, 0.0]),
        next_obs,
        gamma * torch.tensor([0.0, 1.0, 1.0, 1.0]),
    )
    network = table([[0.0, 0.0], [0.0, 0.0]])
    for _ in range(500):
        targets = td_target(network, network, batch)
        with torch.no_grad():
            network.weight[actions, states.argmax(1)] = targets
    second = 2 / (1 - gamma**2)
    first = gamma * second
    expected = [[1.0, first], [2 + gamma * first, gamma * second]]
    torch.testing.assert_close(network.weight.T.detach(), torch.tensor(expected))


def tiny(algo, env_id):
    return {**TINY[algo], **(TINY_IMAGES[algo] if env_id in PIXEL_IDS else {})}


def config_of(algo, env_id="BulletCartPole-v0", **settings):
    """Return a config for an id with actions that the algorithm can take."""
    settings["env_kwargs"] = {**fit_for(algo, env_id), **settings.get("env_kwargs", {})}
    return algorithm(algo).config(env_id=env_id, **settings)


def train(algo, folder, env_id="BulletCartPole-v0", **settings):
    """Train and return the run and the agent as it was in the end."""
    learner = algorithm(algo)
    config = config_of(algo, env_id, **settings)
    with Run(folder, config, progress=False) as run:
        agent = learner.train(config, run)
    return run, agent


def test_dqn_learns_from_scaled_rewards(tmp_path, monkeypatch):
    seen = []
    add = ReplayBuffer.add

    def spy(self, actions, rewards, *others):
        seen.extend(rewards)
        add(self, actions, rewards, *others)

    monkeypatch.setattr(ReplayBuffer, "add", spy)
    run, _ = train("dqn", tmp_path / "run", **TINY["dqn"], reward_scale=0.25)
    assert len(seen) == run.steps and set(seen) == {0.25}


def test_dqn_plays_by_the_moving_average_of_its_networks(tmp_path):
    """With tau 1 it is the latest network, with a small tau nearly the first."""
    networks = {}
    for tau in (1.0, 1e-6):
        folder = tmp_path / str(tau)
        _, agent = train("dqn", folder, **TINY["dqn"], tau=tau)
        tensors, _, _ = read_tensors(folder / "checkpoint.safetensors")
        for name, weights in agent.policy.network.state_dict().items():
            torch.testing.assert_close(weights, tensors[f"target.{name}"], rtol=0, atol=0)
            distance = (weights - tensors[f"q.{name}"]).abs().max()
            assert distance == 0 if tau == 1 else distance > 0.01
        networks[tau] = agent.policy.network
    torch.manual_seed(derived_seed(0))
    first = new_agent(DQNPolicy, EnvConfig("BulletCartPole-v0"), TINY["dqn"]["hidden"])
    for average, begun in zip(
        networks[1e-6].parameters(), first.policy.network.parameters(), strict=True
    ):
        torch.testing.assert_close(average, begun, rtol=0, atol=1e-4)


def test_the_baseline_learns_scaled_returns(tmp_path, monkeypatch):
    greatest = []
    value_loss = reinforce.value_loss

    def spy(baseline, observations, returns):
        greatest.append(returns.max().item())
        return value_loss(baseline, observations, returns)

    monkeypatch.setattr(reinforce, "value_loss", spy)
    for scale in (1.0, 0.01):
        greatest.clear()
        train("reinforce", tmp_path / str(scale), **TINY["reinforce"], gamma=1, reward_scale=scale)
        # The first update is of the same episodes; the longest pays 1 per step.
        assert max(greatest) > 10 * scale and max(greatest) <= 500 * scale


def test_the_baseline_learns_from_earlier_policies_too(tmp_path, monkeypatch):
    """As many steps per update as are new, from a buffer of the latest ones."""
    updates, learned = [], []
    update, value_loss = reinforce._Learner.update, reinforce.value_loss

    def updating(learner, episodes, progress):
        updates.append(np.concatenate([e.observations for e in episodes]))
        learned.append([])
        return update(learner, episodes, progress)

    def spy(baseline, observations, returns):
        learned[-1].append(observations.numpy())
        return value_loss(baseline, observations, returns)

    monkeypatch.setattr(reinforce._Learner, "update", updating)
    monkeypatch.setattr(reinforce, "value_loss", spy)
    train(
        "reinforce", tmp_path / "run", **TINY["reinforce"], baseline_buffer=500, baseline_epochs=2
    )
    assert len(updates) > 8
    for number, parts in enumerate(learned):
        latest = np.concatenate(updates[: number + 1])[-500:]
        of_this_update = min(len(updates[number]), 500)
        seen = np.concatenate(parts)
        assert len(seen) == 2 * of_this_update
        assert {row.tobytes() for row in seen} <= {row.tobytes() for row in latest}
        if number > 4:
            earlier = {row.tobytes() for row in latest[:-of_this_update]}
            assert any(row.tobytes() in earlier for row in seen)


@pytest.mark.parametrize("vec_env", ["batch", "sync"])
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sb3-ppo"])
def test_training_episodes_can_be_shorter_than_those_of_an_evaluation(tmp_path, algo, vec_env):
    settings = {**TINY[algo], "training_episode_steps": 7, "vec_env": vec_env}
    run, _ = train(algo, tmp_path / "run", **settings)
    with (run.folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["rollout/ep_len_mean"]) for row in rows if row["rollout/ep_len_mean"]} == {7}
    assert min(float(row["eval/mean_ep_length"]) for row in rows if row["eval/mean_ep_length"]) > 7
    with pytest.raises(ValueError, match="training_episode_steps=-1 must lie from 0"):
        config_of(algo, training_episode_steps=-1)


def test_dqn_learns_to_see_at_a_rate_of_its_own(tmp_path, monkeypatch):
    optimisers = []
    adam = torch.optim.Adam

    def spy(*args, **kwargs):
        optimisers.append(adam(*args, **kwargs))
        return optimisers[-1]

    monkeypatch.setattr(torch.optim, "Adam", spy)
    settings = {**tiny("dqn", PIXEL_IDS[0]), "learning_rate": 0.01, "encoder_learning_rate": 0.02}
    run, agent = train("dqn", tmp_path / "images", PIXEL_IDS[0], **settings)
    rest, encoder = optimisers[0].param_groups
    shapes = [parameter.shape for parameter in agent.policy.network.parameters()]
    own = [parameter.shape for parameter in agent.policy.network[0].parameters()]
    assert [parameter.shape for parameter in encoder["params"]] == own
    assert sorted(one.shape for one in rest["params"]) == sorted(shapes[len(own) :])
    # The last step was taken before the last actions were counted.
    left = 1 - (run.steps - 8 * run.config.action_repeat) / run.config.n_timesteps
    assert rest["lr"] == pytest.approx(0.01 * left) and encoder["lr"] == pytest.approx(0.02 * left)
    train("dqn", tmp_path / "states", **TINY["dqn"])
    assert len(optimisers[1].param_groups) == 1


def outcome(folder):
    """Return what a training left that must not depend on time: hashes and scores."""
    tensors, info, _ = read_tensors(folder / "checkpoint.safetensors")
    with (folder / "progress.csv").open(newline="") as file:
        scores = [
            (int(row["time/total_timesteps"]), float(row["eval/mean_reward"]))
            for row in csv.DictReader(file)
            if row["eval/mean_reward"]
        ]
    card = json.loads((folder / "best.json").read_text())
    return {
        "learner": digest(tensors),
        "best": card["sha256"],
        "best step": card["steps"],
        "scores": scores,
        "steps": info["steps"],
        "best return": info["best_return"],
    }


@pytest.mark.parametrize(
    "algo, env_id",
    [
        ("reinforce", "BalancingPlate-v0"),
        ("dqn", "BulletCartPole-v0"),
        ("sb3-ppo", "BalancingPlate-v0"),
        *(
            pytest.param(algo, "BulletCartPolePixels-v0", marks=pytest.mark.sweep)
            for algo in TRAINED_HERE
            if algo not in ("sb3-a2c", "sb3-dqn")  # as sb3-ppo and sb3-sac
        ),
    ],
)
def test_same_seed_same_weights(tmp_path, algo, env_id):
    """A seed decides the weights to the bit, whatever was drawn before; another seed others."""
    seeds = {"one": 3, "same": 3, "other": 4}
    seen = {}
    for name, seed in seeds.items():
        _, agent = train(algo, tmp_path / name, env_id, seed=seed, **tiny(algo, env_id))
        seen[name] = {**outcome(tmp_path / name), "final": weights_of(agent)}
        # What others draw from the global generators is no business of a training.
        torch.rand(seed + 1)
        np.random.random(3)

    assert seen["same"] == seen["one"]
    for kind in ("learner", "best", "final"):
        assert seen["other"][kind] != seen["one"][kind]
    assert len(seen["one"]["scores"]) == 2


@pytest.mark.parametrize(
    "algo, env_id",
    [
        ("ppo", "BalancingPlate-v0"),
        *(
            pytest.param(algo, "BulletCartPolePixels-v0", marks=pytest.mark.sweep)
            for algo in TRAINED_HERE
            if algo not in FEW
        ),
    ],
)
def test_workers_change_no_weight(tmp_path, algo, env_id):
    """Two processes learn the same as one, and one goes on with what two began."""
    settings = {**tiny(algo, env_id), "seed": 3}
    shorter = settings["n_timesteps"] // 2
    train(algo, tmp_path / "one", env_id, **{**settings, "n_timesteps": shorter})
    run, _ = train(
        algo, tmp_path / "two", env_id, workers=2, **{**settings, "n_timesteps": shorter}
    )
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")
    resume(algo, tmp_path / "one", dataclasses.replace(run.config, n_timesteps=2 * shorter))
    one = dataclasses.replace(run.config, n_timesteps=2 * shorter, workers=1)
    resume(algo, tmp_path / "two", one)
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")
    assert multiprocessing.active_children() == []


def test_workers_are_for_environments_of_this_package():
    """Others have a process each with vec_env="async", and say so before anything is written."""
    for settings in ({"env_id": "CartPole-v1"}, {"env_id": "BulletCartPole-v0", "vec_env": "sync"}):
        with pytest.raises(ValueError, match=r"workers=2 must be 1 but for .* vec_env='async'"):
            algorithm("ppo").config(workers=2, **settings)
    with pytest.raises(ValueError, match="workers='auto' must be 1"):
        evaluate(untrained("CartPole-v1", "ppo"), workers="auto")


@pytest.mark.parametrize("workers", [2, "auto", 100])
def test_evaluation_with_workers(workers):
    """Episodes are the same in several processes, of which there are no more than episodes."""
    agent = load_agent("BalancingPlate-v0", "lqr")
    alone = evaluate(agent, range(5))
    shared = evaluate(agent, range(5), workers=workers)
    assert (shared.returns == alone.returns).all() and (shared.lengths == alone.lengths).all()


def log_of(folder):
    """Return the lines of progress.csv without what depends on time."""
    with (folder / "progress.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{k: v for k, v in line.items() if k != "time/fps"} for line in lines]


def resume(algo, folder, config):
    """Go on with a training; return the run and the agent as it was in the end."""
    with Run(folder, config, resume=True, progress=False) as run:
        agent = algorithm(algo).train(config, run)
    return run, agent


TRAIN = """
import json, sys
from pathlib import Path
from bullet_envs.agents import algorithm
from bullet_envs.agents.run import Run

algo, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
learner = algorithm(algo)
config = learner.config(**settings)
with Run(folder, config, progress=False) as run:
    learner.train(config, run)
print(run.stopped, run.steps, run.steps_to_replay)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo, env_id, number",
    [
        ("dqn", "BulletCartPole-v0", signal.SIGTERM),
        pytest.param("sb3-sac", "BulletCartPole-v0", signal.SIGINT, marks=pytest.mark.sweep),
    ],
    ids=str,
)
def test_stopped_and_resumed_as_unbroken(tmp_path, algo, env_id, number):
    """A training stopped by a signal and resumed ends with the weights of an unbroken one."""
    settings = {
        **{**SHORT[algo], "env_id": env_id, "env_kwargs": fit_for(algo, env_id)},
        **{"seed": 5, "solved_evaluations": 0},
    }
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, algo, str(broken), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if (broken / "best.json").exists():  # so has been the first evaluation
            break
        time.sleep(0.005)
    process.send_signal(number)
    printed, complained = process.communicate(timeout=100)

    # It stopped in the middle and left nothing torn.
    assert process.returncode == 0 and not complained
    stopped, steps, steps_to_replay = printed.split()
    _, info, _ = read_tensors(broken / "checkpoint.safetensors")
    assert stopped == "True"
    assert int(steps) - int(steps_to_replay) == info["steps"] < SHORT[algo]["n_timesteps"]
    assert json.loads((broken / "config.json").read_text())["seed"] == 5
    load_agent(env_id, broken)

    settings["hidden"] = tuple(settings["hidden"])
    resume(algo, broken, algorithm(algo).config(**settings))
    train(algo, unbroken, **settings)
    assert outcome(broken) == outcome(unbroken)
    assert log_of(broken) == log_of(unbroken)
    assert outcome(broken)["steps"] >= SHORT[algo]["n_timesteps"]


@pytest.mark.parametrize("algo", ["dqn", pytest.param("sb3-sac", marks=pytest.mark.sweep)])
def test_a_second_signal_does_not_wait(tmp_path, monkeypatch, algo):
    """Ctrl-C twice breaks off at once; the last checkpoint is resumed from."""
    settings = {**TINY[algo], "solved_evaluations": 0}
    before = signal.getsignal(signal.SIGINT)
    evaluate_, stopped_at = Run.evaluate, []

    def stopping(run, agent):
        evaluate_(run, agent)
        stopped_at.append(run.steps)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "evaluate", stopping)
        train(algo, tmp_path / "broken", **settings)
    assert len(stopped_at) == 1
    assert signal.getsignal(signal.SIGINT) is before

    _, agent = train(algo, tmp_path / "unbroken", **settings)
    config = config_of(algo, **settings)
    _, again = resume(algo, tmp_path / "broken", config)
    assert weights_of(again) == weights_of(agent)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")


def weights_of(agent):
    # SB3 lists the parts that actor and critic share more than once.
    return digest({k: v.clone() for k, v in agent.policy.network.state_dict().items()})


def stop_at(patch, steps):
    """Let trainings be asked to stop when they have taken so many steps."""
    advance = Run.advance

    def stopping(run, actions):
        advance(run, actions)
        run.stopped = run.stopped or run.steps >= steps

    patch.setattr(Run, "advance", stopping)


# Evaluations and checkpoints on schedules of their own, neither a multiple of a rollout.
AWKWARD = {
    "reinforce": {
        **{"n_timesteps": 3000, "eval_freq": 700, "save_freq": 1100, "episodes": 4},
        **{"baseline_epochs": 2, "baseline_buffer": 300},
    },
    "dqn": {"n_timesteps": 2000, "eval_freq": 350, "save_freq": 600, "learning_starts": 300},
    "a2c": {"n_timesteps": 3000, "eval_freq": 300, "save_freq": 700, "n_steps": 32},
    "ppo": {"n_timesteps": 3000, "eval_freq": 300, "save_freq": 700, "n_steps": 32},
    "sb3-ppo": {"n_timesteps": 3000, "eval_freq": 300, "save_freq": 700, "n_steps": 32},
    "sb3-a2c": {"n_timesteps": 2000, "eval_freq": 350, "save_freq": 600, "n_steps": 7},
    "sb3-dqn": {
        **{"n_timesteps": 2000, "eval_freq": 350, "save_freq": 600, "learning_starts": 150},
        **{"train_freq": 3, "gradient_steps": 2, "target_update_interval": 50, "buffer_size": 1000},
    },
    "sb3-sac": {
        **{"n_timesteps": 2000, "eval_freq": 350, "save_freq": 600, "learning_starts": 150},
        **{"train_freq": 3, "batch_size": 16, "n_steps": 3, "buffer_size": 1000},
    },
}


@pytest.mark.parametrize(
    "stops, algo",
    [
        *(
            pytest.param(
                (1, 10, 777), algo, marks=[pytest.mark.sweep] if algo in (*FEW, "ppo") else []
            )
            for algo in TRAINED_HERE
        ),
        pytest.param((1777,), "reinforce", marks=pytest.mark.sweep),
    ],
    ids=str,
)
def test_a_resumed_training_equals_an_unbroken_one(tmp_path, monkeypatch, algo, stops):
    """Weights, checkpoint and every column of progress.csv but time/fps, wherever it was stopped.

    A stop before the first evaluation is resumed too.
    """
    settings = {**AWKWARD[algo], "hidden": (16,), "solved_evaluations": 0, "action_repeat": 2}
    config = config_of(algo, **settings)
    for number, steps in enumerate(stops):
        with monkeypatch.context() as patch:
            stop_at(patch, steps)
            if number == 0:
                run, agent = train(algo, tmp_path / "broken", **settings)
                assert steps > 300 or run.best_return is None
            else:
                run, agent = resume(algo, tmp_path / "broken", config)
        assert run.stopped and not run.complete and run.steps >= steps
        _, info, _ = read_tensors(tmp_path / "broken" / "checkpoint.safetensors")
        assert run.steps_to_replay == run.steps - info["steps"]
        if algo == "reinforce":  # nothing is lost
            assert run.steps_to_replay == 0
    _, agent = resume(algo, tmp_path / "broken", config)
    _, other = train(algo, tmp_path / "unbroken", **settings)
    assert weights_of(agent) == weights_of(other)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")
    lines = log_of(tmp_path / "broken")
    assert lines == log_of(tmp_path / "unbroken")
    assert sum(line["eval/mean_reward"] != "" for line in lines) > 4


class Reckless(gym.Env):
    """A cart-pole that draws from all global generators, as no environment should."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)
    observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self):
        self.env = gym.make("CartPole-v1")

    def reset(self, *, seed=None, options=None):
        random.random(), np.random.random(), torch.rand(1)
        return self.env.reset(seed=seed)

    def step(self, action):
        random.random(), np.random.random(), torch.rand(1)
        return self.env.step(action)


@pytest.fixture
def reckless():
    gym.register("Reckless-v0", Reckless, max_episode_steps=100)
    yield "Reckless-v0"
    del gym.registry["Reckless-v0"]


@pytest.mark.parametrize(
    "env_id", ["Reckless-v0", pytest.param("BulletCartPole-v0", marks=pytest.mark.sweep)]
)
@pytest.mark.parametrize("algo", FEWEST_ALGOS)
def test_evaluating_does_not_change_the_training(tmp_path, algo, env_id, reckless):
    """The same seed with other evaluations, or with nearly none, ends with the same weights."""
    if (algo, env_id) == ("sb3-sac", reckless):
        pytest.skip("its actions are discrete")
    settings = {**AWKWARD[algo], "hidden": (16,), "solved_evaluations": 0}
    seen = {}
    for eval_freq in (300, 10**6):
        _, agent = train(
            algo, tmp_path / str(eval_freq), env_id, **{**settings, "eval_freq": eval_freq}
        )
        tensors, _, _ = read_tensors(tmp_path / str(eval_freq) / "checkpoint.safetensors")
        seen[eval_freq] = weights_of(agent), digest(tensors)
    assert seen[300] == seen[10**6]


@pytest.mark.parametrize("algo", TRAINED_HERE)
@pytest.mark.parametrize("action_repeat", [1, 3])
def test_the_budget_of_steps_is_kept(tmp_path, algo, action_repeat):
    """-n 100 takes 100 steps, rounded up to one step of all sub-environments, then evaluates."""
    run, _ = train(algo, tmp_path / "run", n_timesteps=100, action_repeat=action_repeat)
    num_envs = getattr(run.config, "n_envs", 16)
    assert 100 <= run.steps < 100 + num_envs * action_repeat
    assert run.complete and run.steps_to_replay == 0 and run.best_return > 0
    _, info, _ = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert info["steps"] == run.steps
    assert load_agent("BulletCartPole-v0", tmp_path / "run").facts["steps"] == run.steps


@pytest.mark.parametrize("algo", ["reinforce", "sb3-ppo"])
def test_an_incomplete_batch_teaches_nothing(tmp_path, algo):
    """Where no episode ended, or no rollout was completed, the weights are the first ones."""
    seen = set()
    for n_timesteps in (16, 64):
        run, agent = train(
            algo, tmp_path / str(n_timesteps), "MountainCar-v0", n_timesteps=n_timesteps
        )
        assert run.steps == n_timesteps
        assert {
            line.keys() <= {"eval/mean_reward", "eval/mean_ep_length", "time/total_timesteps"}
            for line in log_of(run.folder)
        } == {True}
        seen.add(weights_of(agent))
    assert len(seen) == 1


@pytest.mark.parametrize("algo", MOST_ALGOS)
def test_lengths_are_lengths(tmp_path, algo):
    """With repeated actions they are environment steps: here each step pays 1, there it does not.

    Returns of 0.5 per step would not equal the lengths.
    """
    settings = {**TINY[algo], "action_repeat": 2, "solved_evaluations": 0}
    train(algo, tmp_path / "one", **settings)
    for kind, ours in (
        ("eval/mean_", ("reward", "ep_length")),
        ("rollout/ep_", ("rew_mean", "len_mean")),
    ):
        pairs = [[line[kind + name] for name in ours] for line in log_of(tmp_path / "one")]
        pairs = [[float(value) for value in pair] for pair in pairs if "" not in pair]
        assert pairs and all(one == other > 1 for one, other in pairs)
    if algo == "sb3-sac":
        return  # the actions there are discrete
    train(algo, tmp_path / "other", "MountainCar-v0", **settings)
    lengths = [line["eval/mean_ep_length"] for line in log_of(tmp_path / "other")]
    rewards = [line["eval/mean_reward"] for line in log_of(tmp_path / "other")]
    assert {float(length) for length in lengths if length} == {200.0}
    assert {float(reward) for reward in rewards if reward} == {-200.0}


@pytest.mark.parametrize(
    "returns, threshold, solved",
    [
        ([475.0] * 20, 475.0, True),
        ([475.0] * 19 + [474.9], 475.0, False),
        ([500.0] * 19 + [400.0], 475.0, False),
        ([500.0] * 20, None, False),
        ([-90.0] * 20, -110.0, True),
    ],
)
def test_solved_is_the_threshold_of_the_spec(tmp_path, monkeypatch, returns, threshold, solved):
    """Each episode must reach it; without a threshold nothing is ever solved."""
    agent = untrained("BulletCartPole-v0", "dqn")
    monkeypatch.setattr(gym.spec("BulletCartPole-v0"), "reward_threshold", threshold)
    evaluation = Evaluation(np.array(returns), np.full(20, 7), np.zeros(20, bool))
    monkeypatch.setattr("bullet_envs.agents.run.evaluate", lambda *args, **kwargs: evaluation)
    config = algorithm("dqn").config(env_id="BulletCartPole-v0")
    with Run(tmp_path / "run", config, progress=False) as run:
        assert run.best_return is None
        run.evaluate(agent)
        assert (run.solved_in_a_row, run.solved, run.finished) == (int(solved), False, False)
        run.evaluate(agent)
        assert run.solved == run.complete == run.finished == solved
        assert run.best_return == np.mean(returns)


MODES = list(gym.vector.AutoresetMode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "BulletCartPole-v0", "BalancingPlate-v0"])
@pytest.mark.parametrize("action_repeat", [1, 3])
def test_episodes_are_the_same_in_every_autoreset_mode(env_id, mode, action_repeat):
    """Each equals the episode of a single environment, its last observation included.

    More sub-environments than episodes are at work, and they end at different times.
    """
    config = EnvConfig(env_id, action_repeat=action_repeat)

    def act(observations, _=None):
        return (observations.sum(axis=1) > 0).astype(np.int64)

    seeds = range(30, 38)
    if env_id == "CartPole-v1" or action_repeat > 1:
        makers = [config.make] * 10
        envs = gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    else:
        envs = gym.make_vec(env_id, num_envs=10, autoreset_mode=mode)
    with contextlib.closing(envs), config.make() as env:
        for _ in range(2):  # the second time after what the first has left behind
            episodes = run_episodes(envs, act, seeds)
            for seed, episode in zip(seeds, episodes, strict=True):
                observation, _ = env.reset(seed=seed)
                total, ended, steps = 0.0, False, 0
                while not ended:
                    observation, reward, terminated, truncated, info = env.step(
                        act(observation[None])[0]
                    )
                    total, steps = total + reward, steps + info.get("action_repeats", 1)
                    ended = terminated or truncated
                assert (episode.ended, episode.terminated) == (True, terminated)
                assert (episode.episode_return, episode.length) == (pytest.approx(total), steps)
                np.testing.assert_allclose(episode.final_observation, observation, atol=1e-6)
    assert len({episode.length for episode in episodes}) > 1


def test_episodes_are_left_when_the_steps_are_used_up():
    """Those that have not ended are returned as such, and no more steps are taken."""
    with contextlib.closing(EnvConfig("MountainCar-v0").make_vec(3)) as envs:
        episodes = run_episodes(
            envs, lambda seen, _: np.ones(len(seen), int), [1, 2, 3], max_steps=10
        )
    assert [len(episode.rewards) for episode in episodes] == [4, 4, 4]
    assert not any(episode.ended for episode in episodes)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_truncated_episodes_have_not_terminated(mode):
    makers = [functools.partial(gym.make, "CartPole-v1", max_episode_steps=9)] * 20
    with contextlib.closing(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)) as envs:
        episodes = run_episodes(envs, lambda seen, _: np.ones(len(seen), int), range(20))
    assert all(episode.ended for episode in episodes)
    assert {episode.terminated for episode in episodes} == {True, False}
    assert all(episode.length == 9 for episode in episodes if not episode.terminated)


DISCRETE = [algo for algo in TRAINED_HERE if algo != "sb3-sac"]
FOREIGN = [
    *(("CartPole-v1", algo) for algo in DISCRETE),
    *(("MountainCar-v0", algo) for algo in DISCRETE),
    *(("gymnasium.envs.toy_text:FrozenLake-v1", algo) for algo in DISCRETE),
    *(("Pendulum-v1", algo) for algo in ("sb3-ppo", "sb3-a2c", "sb3-sac")),
]


@pytest.mark.parametrize("env_id, algo", [sweep_few(*one) for one in FOREIGN])
def test_foreign_environments(tmp_path, env_id, algo):
    """Any Gymnasium id is trained on, loaded, evaluated and played like ours."""
    run, _ = train(algo, tmp_path / "run", env_id, n_timesteps=200, frame_stack=2)
    assert run.best_return is not None
    loaded = load_agent(env_id, tmp_path / "run")
    assert (loaded.env_id, loaded.renderer) == (env_id, None)
    evaluation = evaluate(loaded, range(3))
    assert evaluation.returns.shape == evaluation.lengths.shape == (3,)
    with loaded.make_env() as env:
        observation, _ = env.reset(seed=0)
        action, _ = loaded.predict(observation, deterministic=True)
        assert action in env.action_space


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "FrozenLake-v1"]
)
def test_random_actions_anywhere(env_id):
    """The random policy plays any environment; an LQR does not, and says why."""
    evaluation = evaluate(load_agent(env_id, "random"), range(3))
    assert (evaluation.lengths >= 1).all()
    assert controllers_of(env_id) == ("random",)
    with pytest.raises(
        ValueError, match=f"'lqr' needs to observe the state .* {env_id} does not show$"
    ):
        load_agent(env_id, "lqr")


@pytest.mark.parametrize("algo", DISCRETE_ONLY)
def test_box_actions_are_refused_anywhere(algo):
    """In one line, with the space."""
    with pytest.raises(ValueError, match=f"{algo} needs Discrete actions .*, not Box"):
        untrained("Pendulum-v1", algo)


@pytest.mark.parametrize("algo", TRAINED_HERE)
def test_every_setting_is_explained(algo):
    """Name, default and a sentence, from the docstrings; numbers come with their range."""
    described = settings_help(algo)
    config = algorithm(algo).config(env_id="CartPole-v1")
    assert [name for name, _, _ in described] == [n for n in fields_of(config) if n != "seed"]
    for name, default, meaning in described:
        assert getattr(config, name) == default
        assert meaning.endswith(".") and "\n" not in meaning and "  " not in meaning
        if isinstance(default, int | float | tuple) and not isinstance(default, bool):
            assert " to " in meaning or "at least" in meaning, name


@pytest.mark.parametrize("algo", TRAINED_HERE)
def test_ranges_of_settings(algo):
    """Every number has a range, and what lies outside is refused with it."""
    learner, ranges = algorithm(algo), settings_ranges(algo)
    unlimited = {"device"}
    assert {name for name, _, _ in settings_help(algo)} == ranges.keys() | unlimited
    for name, shown in ranges.items():
        limits = re.fullmatch(r"(\S+) to (\S+)", shown)
        if limits is None:
            with pytest.raises(ValueError, match=f"^{name}="):
                learner.config(env_id="CartPole-v1", **{name: "x"})
            continue
        low, high = (float(limit.replace(",", "")) for limit in limits.groups())
        for outside in (low - 1, 2 * high + 1):
            value = int(outside) if outside == int(outside) else outside
            told = re.escape(f"={value!r} must lie from {low:g} to {high:g}")
            with pytest.raises(ValueError, match=f"^{name}{told}$"):
                learner.config(env_id="CartPole-v1", **{name: value})


@pytest.mark.parametrize(
    "env_id", [PIXEL_IDS[0], pytest.param(PIXEL_IDS[1], marks=pytest.mark.sweep)]
)
@pytest.mark.parametrize("algo", FEWEST_ALGOS)
def test_pixel_training_is_resumed_exactly(tmp_path, monkeypatch, algo, env_id):
    """Stopped and resumed, a training on images ends as an unbroken one does."""
    settings = {**tiny(algo, env_id), "solved_evaluations": 0}
    with monkeypatch.context() as patch:
        stop_at(patch, settings["eval_freq"] + 20)
        run, _ = train(algo, tmp_path / "broken", env_id, **settings)
    assert not run.complete
    resume(algo, tmp_path / "broken", run.config)
    train(algo, tmp_path / "unbroken", env_id, **settings)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "unbroken")
    assert len(outcome(tmp_path / "broken")["scores"]) >= 2


@pytest.mark.parametrize("algo", ["dqn", "sb3-ppo"])
def test_steps_are_those_of_the_environment(tmp_path, algo):
    """A training whose actions last three steps takes a third as many of them."""
    settings = {
        **TINY[algo],
        "n_timesteps": 1536,
        "eval_freq": 1536,
        "save_freq": 1536,
        "solved_evaluations": 0,
    }
    actions = {}
    for repeat in (1, 3):
        folder = tmp_path / str(repeat)
        envs = []
        make_vec = EnvConfig.make_vec

        def counting(env, num_envs, make_vec=make_vec, envs=envs, **kwargs):
            envs.append(Counting(make_vec(env, num_envs, **kwargs)))
            return envs[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EnvConfig, "make_vec", counting)
            patch.setattr(Run, "evaluate", lambda run, agent: None)
            run, _ = train(algo, folder, action_repeat=repeat, **settings)
        actions[repeat] = sum(env.actions for env in envs)
        # No more than the rest of a rollout above what was asked for.
        assert 1536 <= run.steps == actions[repeat] * repeat < 1536 + 8 * 32 * repeat
    assert actions[3] < 0.4 * actions[1]


class Counting(gym.vector.VectorWrapper):
    """Counts the actions of an agent."""

    actions = 0

    def step(self, actions):
        self.actions += self.num_envs
        return self.env.step(actions)


def test_a_checkpoint_is_a_time_limit_for_sb3(tmp_path):
    """No return of several steps goes on in the episodes that begin after a checkpoint."""
    train("sb3-dqn", tmp_path / "run", **{**TINY["sb3-dqn"], "solved_evaluations": 0})
    tensors, _, _ = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    content = [tensors[f"replay_buffer.{name}"] for name in ("dones", "timeouts")]
    dones, timeouts = (column.numpy().astype(bool) for column in content)
    assert len(dones) == 150  # 8 transitions each
    assert (dones | timeouts)[[74, 149]].all() and not (dones | timeouts).all(axis=1)[:74].any()
    assert timeouts[[74, 149]].any() and not (dones & timeouts).any()


@pytest.mark.parametrize("env_id", ["BulletCartPole-v0", "BulletCartPolePixels-v0"])
def test_dqn_remembers_what_happened(tmp_path, monkeypatch, env_id):
    """Each observation leads to the next; one that ends, to where the pole fell or time was up.

    A time limit of six actions makes sure that both happen.
    """
    begun, added = [], []
    begin, add = ReplayBuffer.begin, ReplayBuffer.add

    def beginning(self, observations):
        begun.append(observations.copy())
        begin(self, observations)

    def adding(self, *columns):
        names = ("actions", "rewards", "terminated", "truncated", "next_obs", "final_obs")
        added.append({"before": begun[-1], **dict(zip(names, columns, strict=True))})
        add(self, *columns)
        begun.append(added[-1]["next_obs"].copy())

    monkeypatch.setattr(ReplayBuffer, "begin", beginning)
    monkeypatch.setattr(ReplayBuffer, "add", adding)
    settings = {
        **TINY["dqn"],
        "n_timesteps": 400,
        "eval_freq": 400,
        "save_freq": 400,
        "frame_stack": 2,
    }
    monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 6)
    keywords = {**small(env_id), "start_range": 0.17}
    train("dqn", tmp_path / "run", env_id, env_kwargs=keywords, **settings)
    assert len(added) == 50
    ends = {"terminated": 0, "truncated": 0}
    for step in added:
        for row in range(8):
            before, next_obs = step["before"][row], step["next_obs"][row]
            ended = step["terminated"][row] or step["truncated"][row]
            after = step["final_obs"][row] if ended else next_obs
            # The stack moves on by one, and what comes in was not there; a small image may
            # not show what an action did.
            np.testing.assert_array_equal(after[0], before[1])
            assert env_id in PIXEL_IDS or not np.array_equal(after[1], after[0])
            if ended:
                np.testing.assert_array_equal(next_obs[0], next_obs[1])
                assert not np.array_equal(next_obs[1], after[1])
            if env_id in STATE_IDS:
                fallen = abs(after[1][0]) > 2.4 or abs(after[1][2]) > 0.2094
                assert step["terminated"][row] == fallen
            for name in ends:
                ends[name] += step[name][row]
    assert min(ends.values()) > 5, ends


@pytest.mark.parametrize("algo", MOST_ALGOS)
def test_resuming_what_is_finished_changes_nothing(tmp_path, algo):
    """A finished training, resumed, is finished at once with the same files."""
    run, agent = train(algo, tmp_path / "run", **TINY[algo])
    before = outcome(tmp_path / "run")
    learner = algorithm(algo)
    with Run(tmp_path / "run", run.config, resume=True, progress=False) as again:
        same = learner.train(run.config, again)
    assert digest(same.policy.network.state_dict()) == digest(agent.policy.network.state_dict())
    assert again.steps == run.steps
    assert outcome(tmp_path / "run") == before


# What is changed in the presets, for speed.
CELLS = {
    ("reinforce", "BalancingPlate-v0"): {"n_timesteps": 300_000, "learning_rate": 5e-3},
    ("dqn", "BulletCartPole-v0"): {},
    ("sb3-ppo", "BalancingPlate-v0"): {
        "n_timesteps": 100_000,
        "eval_freq": 5000,
        "save_freq": 5000,
    },
    ("sb3-sac", "BalancingPlate-v0"): {},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo, env_id",
    [
        pytest.param(*cell, marks=[] if cell[0] == "reinforce" else [pytest.mark.sweep])
        for cell in CELLS
    ],
)
def test_learns(tmp_path, algo, env_id):
    """From nothing to a mean of >= 475 over 30 starts that it never saw."""
    settings = {**algorithm(algo).presets[env_id], **CELLS[algo, env_id], "solved_evaluations": 1}
    run, _ = train(algo, tmp_path / "run", env_id, **settings)
    returns = evaluate(load_agent(env_id, tmp_path / "run"), range(30)).returns
    assert returns.mean() >= 475, (run.steps, returns)
    assert run.solved, "it never solved all 20 selection episodes"


@pytest.mark.slow
@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agent_solves_its_task(env_id, algo):
    """The bundled weights reach the threshold over unseen episodes, as their card says."""
    episodes = 10 if env_id in PIXEL_IDS else 50
    returns = evaluate(load_agent(env_id, algo), EVALUATION_SEEDS[:episodes]).returns
    assert returns.mean() >= gym.spec(env_id).reward_threshold
    promised = json.loads(pretrained_card(env_id, algo).read_text())["returns"]
    assert promised["episodes"] == (300 if env_id in PIXEL_IDS else 1000)
    # Another processor may round one of the episodes to another end.
    assert returns.mean() == pytest.approx(promised["mean"], abs=500 / episodes)


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agent_was_trained_as_anyone_can(env_id, algo):
    """Its card's settings are the preset of the id and its seed: `bullet-envs train` repeats it."""
    learner = algorithm(algo)
    card = json.loads(pretrained_card(env_id, algo).read_text())
    config = learner.config(env_id=env_id, seed=card["seed"], **learner.presets[env_id])
    assert card["settings"] == json.loads(json.dumps(dataclasses.asdict(config)))
    assert card["env_kwargs"] == {}
    assert card["renderer"] == ("tiny" if env_id in PIXEL_IDS else None)
    for name in ("frame_stack", "action_repeat"):
        assert card[name] == card["settings"][name]


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agent_is_small(env_id, algo):
    """Card and weights take no more than 3 MB."""
    card = pretrained_card(env_id, algo)
    weights = card.with_name(json.loads(card.read_text())["weights"])
    assert card.stat().st_size + weights.stat().st_size <= 3_000_000
