"""Agents act as Stable-Baselines3's do, their formulas are right, and training repeats itself."""

import csv
import dataclasses
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import nn

import bullet_envs
from bullet_envs.agents import ALGOS, CONTROLLERS, algorithm, load_agent, matrix, pretrained_card
from bullet_envs.agents.checkpoints import digest, read_tensors
from bullet_envs.agents.dqn import Batch, ReplayMemory, epsilon_at, td_target
from bullet_envs.agents.evaluation import evaluate, run_episodes
from bullet_envs.agents.reinforce import policy_loss, returns_to_go
from bullet_envs.agents.run import Run, derived_seed
from bullet_envs.cli import main

# Trainings of about a second that evaluate twice.
TINY = {
    "reinforce": {"n_timesteps": 2000, "eval_freq": 1000, "episodes": 4, "hidden": (16,)},
    "dqn": {"n_timesteps": 1200, "eval_freq": 600, "learning_starts": 300, "hidden": (16,)},
    "ppo": {"n_timesteps": 1024, "eval_freq": 512, "n_steps": 32, "hidden": (16,)},
}
# Longer ones, so that a signal falls into their middle.
SHORT = {
    "reinforce": {"n_timesteps": 10_000, "eval_freq": 2000, "hidden": (16,)},
    "dqn": {"n_timesteps": 2500, "eval_freq": 500, "learning_starts": 300, "hidden": (16,)},
    "ppo": {"n_timesteps": 5000, "eval_freq": 1000, "n_steps": 32, "hidden": (16,)},
}


BOTH_MODES = pytest.mark.parametrize("deterministic", [True, False], ids=["likeliest", "drawn"])
KINDS = [
    (name, continuous)
    for name in (*CONTROLLERS, *ALGOS)
    for continuous in (False, True)
    if not (continuous and name in ("reinforce", "dqn"))
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0] + "-continuous" * kind[1])
def agent(request, env_id):
    """Return each kind of agent that an id can have, the learned ones without any training."""
    name, continuous = request.param
    if name in CONTROLLERS:
        return load_agent(env_id, name, continuous=continuous)
    torch.manual_seed(0)
    return algorithm(name).agent(env_id, {"continuous": continuous}, (8,))


def some_observations(agent, rows):
    size = (rows, *agent.make_env().observation_space.shape)
    return np.random.default_rng(0).normal(0, 0.3, size).astype(np.float32)


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
    """A batch of observations gets a batch of actions, also one of a single row; state returns."""
    with agent.make_env() as env:
        space = env.action_space
    for rows in (1, 7):
        actions, state = agent.predict(
            some_observations(agent, rows), ("kept",), np.ones(rows, bool), deterministic
        )
        assert state == ("kept",)
        assert actions.shape == (rows, *space.shape)
        assert actions.dtype == space.dtype
        assert all(space.contains(action) for action in actions)


def test_a_batch_is_as_its_rows(agent):
    """The likeliest action for a row does not depend on the other rows, nor does it vary."""
    if agent.algo == "random":
        pytest.skip("random actions have no likeliest one")
    observations = some_observations(agent, 20)
    batch, _ = agent.predict(observations, deterministic=True)
    again, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(batch, again)
    rows = [agent.predict(row, deterministic=True)[0] for row in observations]
    np.testing.assert_allclose(batch, rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float64, list], ids=["float64", "list"])
def test_predict_takes_any_numbers(agent, kind):
    """As in SB3, observations may be float64 or plain lists."""
    observation = some_observations(agent, 1)[0]
    expected, _ = agent.predict(observation, deterministic=True)
    given = observation.tolist() if kind is list else observation.astype(kind)
    action, _ = agent.predict(given, deterministic=True)
    if agent.algo != "random":
        np.testing.assert_allclose(action, expected, rtol=1e-6, atol=1e-6)


def test_agents_leave_observations_as_they_are(agent):
    """What is given to predict is not written to."""
    observations = some_observations(agent, 5)
    before = observations.copy()
    agent.predict(observations, deterministic=True)
    agent.predict(observations, deterministic=False)
    np.testing.assert_array_equal(observations, before)


def test_sb3_can_evaluate(agent):
    """SB3's evaluate_policy takes every agent, with one environment and with several."""
    with Monitor(agent.make_env()) as env:
        mean, std = evaluate_policy(agent, env, n_eval_episodes=2)
    assert 1 <= mean <= 500 and std >= 0
    envs = make_vec_env(agent.make_env, 3, seed=0)
    returns, lengths = evaluate_policy(agent, envs, n_eval_episodes=3, return_episode_rewards=True)
    envs.close()
    assert returns == lengths
    assert len(returns) == 3


@pytest.mark.parametrize("algo", ["reinforce", "ppo"])
def test_drawn_actions_follow_the_policy(env_id, algo):
    """Drawn actions come in the policy's own proportions, and again with the same torch seed."""
    torch.manual_seed(1)
    agent = algorithm(algo).agent(env_id, {}, (8,))
    observation = some_observations(agent, 1)[0]
    tensor = torch.as_tensor(observation[None])
    with torch.no_grad():
        if algo == "ppo":
            expected = agent.network.get_distribution(tensor).distribution.probs[0].numpy()
        else:
            expected = torch.softmax(agent.network(tensor), 1)[0].numpy()
    batch = np.tile(observation, (4000, 1))
    torch.manual_seed(5)
    drawn, _ = agent.predict(batch)
    counts = np.bincount(drawn, minlength=len(expected)) / len(drawn)
    np.testing.assert_allclose(counts, expected, atol=0.04)  # 5 standard errors
    torch.manual_seed(5)
    np.testing.assert_array_equal(agent.predict(batch)[0], drawn)


def test_dqn_draws_nothing(env_id):
    """A Q-network has no policy to draw from: both modes take the greatest value."""
    agent = algorithm("dqn").agent(env_id, {}, (8,))
    observations = some_observations(agent, 50)
    with torch.no_grad():
        greatest = agent.network(torch.as_tensor(observations)).argmax(1).numpy()
    for deterministic in (True, False):
        actions, _ = agent.predict(observations, deterministic=deterministic)
        np.testing.assert_array_equal(actions, greatest)


@pytest.mark.parametrize("name", CONTROLLERS)
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


@pytest.mark.parametrize("algo", ["reinforce", "dqn"])
def test_continuous_actions_are_refused_by_name(env_id, algo):
    """An algorithm for Discrete actions says so."""
    with pytest.raises(ValueError, match=f"{algo} needs Discrete actions"):
        algorithm(algo).agent(env_id, {"continuous": True}, (8,))


def test_load_agent_names_the_ids():
    """An unknown id is answered with the known ones."""
    with pytest.raises(ValueError, match=r"'CartPole-v1'.*BulletCartPole-v0, BalancingPlate-v0"):
        load_agent("CartPole-v1", "lqr")


@pytest.mark.parametrize("agent", ["sac", "LQR", "no/such/folder", "weights.safetensors"])
def test_load_agent_names_the_agents(env_id, agent):
    """An unknown agent is answered with the known ones."""
    with pytest.raises(ValueError, match="reinforce, dqn, ppo, lqr, random"):
        load_agent(env_id, agent)


def test_algorithm_names_the_algorithms():
    """An unknown algorithm is answered with the known ones."""
    with pytest.raises(ValueError, match=r"'sac' must be one of reinforce, dqn, ppo"):
        algorithm("sac")


def fields_of(config):
    return [f.name for f in dataclasses.fields(config) if f.name not in ("env_id", "env_kwargs")]


@pytest.mark.parametrize(
    "algo, name", [(algo, name) for algo in ALGOS for name in fields_of(algorithm(algo).config)]
)
def test_every_setting_has_a_legal_range(algo, name):
    """Whatever is no number of a setting's range is refused by the setting's name."""
    bad = [None, "x", True, math.nan, math.inf, -1, 1e30, [], (0,), (8.5,), (-8,), (True,)]
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
        ("ppo", {"batch_size": 100_000}),
        ("ppo", {"batch_size": 100}),
    ],
)
def test_settings_that_cannot_go_together_are_refused(algo, settings):
    """Settings that are legal one by one but not together are refused before the training."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        algorithm(algo).config(env_id="BulletCartPole-v0", **settings)


@pytest.mark.parametrize("algo", ALGOS)
def test_presets_are_legal(algo):
    """There are presets for known ids only, and each makes a config."""
    learner = algorithm(algo)
    assert tuple(learner.presets) == bullet_envs.ENV_IDS
    for env_id, settings in learner.presets.items():
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
    with gym.make(env_id) as env, gym.make(env_id) as other:
        rng = np.random.default_rng(0)
        draws = rng.integers(0, env.action_space.n, 1000).tolist()

        def act(batch):
            return np.array([draws.pop() for _ in batch])

        episodes = run_episodes([env, other], act, [3, 4])
        for seed, episode in zip([3, 4], episodes, strict=True):
            observation, _ = env.reset(seed=seed)
            for index, action in enumerate(episode.actions):
                np.testing.assert_array_equal(episode.observations[index], observation)
                observation, reward, terminated, _, _ = env.step(action)
                assert reward == episode.rewards[index]
                assert terminated == (index == len(episode.actions) - 1)
            assert episode.episode_return == len(episode.rewards) == len(episode.observations)


def test_returns_belong_to_their_seeds(env_id):
    """evaluate() gives each seed its own return, however many play at once."""
    agent = algorithm("dqn").agent(env_id, {}, (8,))
    seeds = range(40, 65)
    together = evaluate(agent, seeds)
    alone = [evaluate(agent, [seed])[0] for seed in seeds]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_returns_to_go(gamma):
    """Each return is the brute-force sum of what follows."""
    rewards = np.random.default_rng(0).normal(size=50).tolist()
    expected = [
        sum(gamma ** (later - step) * rewards[later] for later in range(step, len(rewards)))
        for step in range(len(rewards))
    ]
    returns = returns_to_go(rewards, gamma)
    assert returns.dtype == np.float32
    np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)


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


def two_states(n_steps=1, gamma=0.9):
    """Return the batch of: s0 ends at a termination, s0 is cut by a time limit, s0 goes on."""
    memory = ReplayMemory(6, 3, (2,))
    here, there = np.eye(2, dtype=np.float32)
    steps = {
        "observations": np.array([here, here, here]),
        "next_observations": np.array([there, there, there]),
        "actions": np.array([0, 1, 0]),
        "rewards": np.array([1.0, 2.0, 3.0]),
        "terminated": np.array([True, False, False]),
        "ended": np.array([True, True, False]),
    }
    memory.add(**steps)
    memory.add(**{**steps, "observations": steps["next_observations"]})
    memory.added -= 1 if n_steps == 1 else 0
    return memory.sample(300, n_steps, gamma, np.random.default_rng(0))


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
    states, following = torch.eye(2)[[0, 0, 1, 1]], torch.eye(2)[[0, 1, 0, 1]]
    actions = torch.tensor([0, 1, 0, 1])
    batch = Batch(
        states,
        actions,
        torch.tensor([1.0, 0.0, 2.0, 0.0]),
        following,
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


def remembered(length, n_envs, added, cuts=(), seed=0):
    """Fill a memory with random episodes; return it and all that it was ever given, by env."""
    rng = np.random.default_rng(seed)
    memory = ReplayMemory(length * n_envs + rng.integers(n_envs), n_envs, (2,))
    past = [[] for _ in range(n_envs)]
    for time_ in range(added):
        ends, terminates = rng.random((2, n_envs)) < 0.2
        terminated = ends & terminates
        column = {
            "observations": np.array([[env, time_] for env in range(n_envs)], np.float32),
            "next_observations": np.array([[env, time_ + 0.5] for env in range(n_envs)]),
            "actions": rng.integers(0, 4, n_envs),
            "rewards": rng.normal(size=n_envs),
            "terminated": terminated,
            "ended": ends,
        }
        memory.add(**column)
        for env in range(n_envs):
            past[env].append({name: values[env] for name, values in column.items()})
        if time_ in cuts:
            memory.cut()
            for env in range(n_envs):
                past[env][-1]["ended"] = True
    return memory, past


def brute_force(past, env, start, n_steps, gamma):
    """Return reward sum, last step and bootstrap factor of a window, the slow way."""
    total = 0.0
    for step in range(n_steps):
        transition = past[env][start + step]
        total += gamma**step * transition["rewards"]
        if transition["ended"]:
            break
    bootstrap = 0.0 if transition["terminated"] else gamma ** (step + 1)
    return total, start + step, bootstrap


@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize(
    "length, added", [(50, 20), (50, 50), (50, 51), (50, 130), (7, 1000)], ids=str
)
def test_windows_against_brute_force(n_steps, length, added):
    """10,000 windows of a ring, new, full or wrapped, equal those summed up step by step.

    None begins before the oldest transition, and none is still incomplete at the newest.
    """
    memory, past = remembered(length, 3, added, cuts=(10, 33, added - 9, added - 1))
    assert memory.length == length
    batch = memory.sample(10_000, n_steps, 0.9, np.random.default_rng(1))
    begun = set()
    for row in range(10_000):
        env, start = (int(number) for number in batch.observations[row])
        begun.add((env, start))
        total, last, bootstrap = brute_force(past, env, start, n_steps, 0.9)
        assert batch.actions[row] == past[env][start]["actions"]
        assert batch.returns[row].item() == pytest.approx(total, abs=1e-5)
        assert batch.next_observations[row].tolist() == [env, last + 0.5]
        assert batch.bootstrap[row].item() == pytest.approx(bootstrap, abs=1e-6)
    starts = range(max(0, added - length), added - n_steps + 1)
    assert begun == set(itertools.product(range(3), starts))


def test_one_step_windows_are_the_textbook():
    """With n = 1: r, s' and gamma (1 - terminated) of the very transition."""
    memory, past = remembered(40, 2, 60)
    batch = memory.sample(500, 1, 0.97, np.random.default_rng(0))
    for row, (env, start) in enumerate(batch.observations.int().tolist()):
        transition = past[env][start]
        assert batch.returns[row].item() == pytest.approx(transition["rewards"], abs=1e-6)
        np.testing.assert_array_equal(batch.next_observations[row], transition["next_observations"])
        expected = 0.97 * (not transition["terminated"])
        assert batch.bootstrap[row].item() == pytest.approx(expected)


@pytest.mark.parametrize("added", [30, 175])
def test_restored_memory_goes_on_as_the_original(added):
    """A memory from a checkpoint gives the same samples, now and after more is added."""
    memory, _ = remembered(50, 3, added)
    copy = ReplayMemory(memory.length * 3, 3, (2,))
    copy.restore(memory.tensors())
    for extra in range(3):
        one, other = (m.sample(64, 4, 0.9, np.random.default_rng(extra)) for m in (memory, copy))
        for field in dataclasses.fields(Batch):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name))
        for m in (memory, copy):
            m.add(
                observations=np.full((3, 2), -extra),
                next_observations=np.full((3, 2), -extra - 0.5),
                actions=np.full(3, 1),
                rewards=np.full(3, 10.0),
                terminated=np.zeros(3, bool),
                ended=np.zeros(3, bool),
            )


def train(algo, folder, env_id="BulletCartPole-v0", **settings):
    """Train and return the run and the agent as it was in the end."""
    learner = algorithm(algo)
    config = learner.config(env_id=env_id, **settings)
    with Run(folder, config, progress=False) as run:
        agent = learner.train(config, run)
    return run, agent


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
        ("ppo", "BalancingPlate-v0"),
    ],
)
def test_same_seed_same_weights(tmp_path, algo, env_id):
    """A seed decides the weights to the bit, whatever was drawn before; another seed others."""
    seeds = {"one": 3, "same": 3, "other": 4}
    seen = {}
    for name, seed in seeds.items():
        _, agent = train(algo, tmp_path / name, env_id, seed=seed, **TINY[algo])
        seen[name] = {**outcome(tmp_path / name), "final": digest(agent.network.state_dict())}
        # What others draw from the global generators is no business of a training.
        torch.rand(seed + 1)
        np.random.random(3)

    assert seen["same"] == seen["one"]
    for kind in ("learner", "best", "final"):
        assert seen["other"][kind] != seen["one"][kind]
    assert len(seen["one"]["scores"]) == 2


COMMAND = "from bullet_envs.cli import main; raise SystemExit(main())"


def arguments_of(algo, env_id, folder):
    settings = [f"{name}:{value}" for name, value in SHORT[algo].items()]
    command = ["train", "--algo", algo, "--env", env_id, "--seed", "5", "--no-progress"]
    return [*command, "-f", str(folder), "-params", *settings, "solved_evaluations:0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo, env_id, number",
    [
        ("reinforce", "BalancingPlate-v0", signal.SIGINT),
        ("dqn", "BulletCartPole-v0", signal.SIGTERM),
        ("ppo", "BulletCartPole-v0", signal.SIGINT),
    ],
    ids=str,
)
def test_stopped_and_resumed_as_unbroken(tmp_path, algo, env_id, number):
    """A training stopped by a signal and resumed ends with the weights of an unbroken one."""
    name = f"{algo}/{env_id}_seed5_1"
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments_of(algo, env_id, broken)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = broken / name / "checkpoint.safetensors"
    deadline = time.monotonic() + 100
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    printed, complained = process.communicate(timeout=100)

    # It stopped in the middle, said how to go on, and left nothing torn.
    assert process.returncode == 130, complained
    assert "Traceback" not in complained
    assert "--resume" in complained and str(broken / name) in printed
    _, info, _ = read_tensors(checkpoint)
    assert 0 < info["steps"] < SHORT[algo]["n_timesteps"]
    stopped = load_agent(env_id, broken / name)
    assert stopped.facts["steps"] <= info["steps"]
    assert json.loads((broken / name / "config.json").read_text())["seed"] == 5
    assert outcome(broken / name)["steps"] == info["steps"]

    assert main([*arguments_of(algo, env_id, broken), "--resume"]) == 0
    assert main(arguments_of(algo, env_id, unbroken)) == 0
    assert outcome(broken / name) == outcome(unbroken / name)
    assert outcome(broken / name)["steps"] >= SHORT[algo]["n_timesteps"]


@pytest.mark.parametrize("algo", ALGOS)
def test_a_second_signal_does_not_wait(tmp_path, monkeypatch, capsys, algo):
    """Ctrl-C twice breaks off at once with code 130; the last checkpoint is resumed from."""
    monkeypatch.chdir(tmp_path)
    settings = [f"{name}:{value}" for name, value in TINY[algo].items()]
    command = ["train", "--algo", algo, "--env", "BulletCartPole-v0", "--no-progress"]
    command += ["-params", *settings, "solved_evaluations:0"]
    before = signal.getsignal(signal.SIGINT)
    log, stopped_at = Run.log, []

    def logging(run, scalars):
        log(run, scalars)
        if (run.folder / "checkpoint.safetensors").exists():
            stopped_at.append(run.steps)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", logging)
        try:
            code = main(command)
        except KeyboardInterrupt:
            pytest.fail("Ctrl-C came through")  # as it is, it would end pytest
    assert code == 130
    assert len(stopped_at) == 1
    assert signal.getsignal(signal.SIGINT) is before

    assert main([*command, "--resume"]) == 0
    assert main(command) == 0
    broken, unbroken = sorted((tmp_path / "runs" / algo).iterdir())
    assert outcome(broken) == outcome(unbroken)


def test_dqn_remembers_what_happened(tmp_path, monkeypatch):
    """Each transition leads to the next; one that ends leads to where the pole fell, not on."""
    memory = []
    add = ReplayMemory.add

    def adding(self, **columns):
        memory.append({name: values.copy() for name, values in columns.items()})
        add(self, **columns)

    monkeypatch.setattr(ReplayMemory, "add", adding)
    settings = {**TINY["dqn"], "n_timesteps": 400, "eval_freq": 400}
    train("dqn", tmp_path / "run", **settings)
    assert len(memory) == 50
    ends = 0
    for step, following in itertools.pairwise(memory):
        for row, ended in enumerate(step["ended"]):
            after, then = step["next_observations"][row], following["observations"][row]
            assert np.array_equal(after, then) == (not ended)
            assert step["terminated"][row] == (abs(after[0]) > 2.4 or abs(after[2]) > 0.2094)
            ends += ended
    assert ends > 5


@pytest.mark.parametrize("algo", ALGOS)
def test_resuming_what_is_finished_changes_nothing(tmp_path, algo):
    """A finished training, resumed, is finished at once with the same files."""
    run, agent = train(algo, tmp_path / "run", **TINY[algo])
    before = outcome(tmp_path / "run")
    learner = algorithm(algo)
    with Run(tmp_path / "run", run.config, resume=True, progress=False) as again:
        same = learner.train(run.config, again)
    assert digest(same.network.state_dict()) == digest(agent.network.state_dict())
    assert again.steps == run.steps
    assert outcome(tmp_path / "run") == before


# What is changed in the presets, for speed.
CELLS = {
    ("reinforce", "BalancingPlate-v0"): {"n_timesteps": 300_000, "learning_rate": 5e-3},
    ("dqn", "BulletCartPole-v0"): {},
    ("ppo", "BalancingPlate-v0"): {"n_timesteps": 100_000, "eval_freq": 5000},
}


@pytest.mark.slow
@pytest.mark.parametrize("algo, env_id", CELLS)
def test_learns(tmp_path, algo, env_id):
    """From nothing to a mean of >= 475 over 30 starts that it never saw."""
    settings = {**algorithm(algo).presets[env_id], **CELLS[algo, env_id], "solved_evaluations": 1}
    run, _ = train(algo, tmp_path / "run", env_id, **settings)
    returns = evaluate(load_agent(env_id, tmp_path / "run"), range(30))
    assert returns.mean() >= 475, (run.steps, returns)
    assert run.solved, "it never solved all 20 selection episodes"


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGOS)
def test_bundled_agent_solves_its_task(env_id, algo):
    """The bundled weights reach the threshold over 100 unseen starts, as their card says."""
    returns = evaluate(load_agent(env_id, algo))
    assert returns.mean() >= gym.spec(env_id).reward_threshold
    promised = json.loads(pretrained_card(env_id, algo).read_text())["returns"]
    assert promised["episodes"] == len(returns)
    # Another processor may round one of 100 episodes to another end.
    assert returns.mean() == pytest.approx(promised["mean"], abs=5)


@pytest.mark.parametrize("algo", ALGOS)
def test_bundled_agent_was_trained_as_anyone_can(env_id, algo):
    """Its card's settings are the preset of the id with seed 0: `bullet-envs train` repeats it."""
    learner = algorithm(algo)
    config = learner.config(env_id=env_id, seed=0, **learner.presets[env_id])
    card = json.loads(pretrained_card(env_id, algo).read_text())
    assert card["settings"] == json.loads(json.dumps(dataclasses.asdict(config)))
    assert card["env_kwargs"] == {}


def test_bundled_agents_are_those_of_the_results(env_id):
    """Five seeds of each algorithm solve the id; seed 0 is the one bundled, whatever its score."""
    rows = [row for row in matrix.read_rows(matrix.CSV_PATH) if row["env_id"] == env_id]
    for algo in ALGOS:
        cells = {int(row["seed"]): row for row in rows if row["algo"] == algo}
        assert sorted(cells) == [0, 1, 2, 3, 4]
        assert min(float(row["mean"]) for row in cells.values()) >= 475
        card = json.loads(pretrained_card(env_id, algo).read_text())
        assert (card["seed"], card["sha256"]) == (0, cells[0]["sha256"])
        assert card["returns"]["mean"] == float(cells[0]["mean"])


def test_bundled_results_are_the_readmes():
    """The table of the README is what `make results` writes, to the letter."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = matrix.read_rows(matrix.CSV_PATH)
    assert len(rows) == 34
    assert matrix.table(rows) in readme
    assert matrix.with_table(readme, rows) == readme


def test_table_shows_the_worst_seed():
    """A line has the lowest mean, the lowest return and the slowest training of its seeds."""
    names = ("env_id", "algo", "seed", "steps", "seconds", "mean", "worst")
    cells = [
        ("BulletCartPole-v0", "random", "", "", "", "20.25", "8.0"),
        ("BulletCartPole-v0", "dqn", "0", "20000", "10.6", "500.0", "500.0"),
        ("BulletCartPole-v0", "dqn", "1", "101999", "57.1", "490.3", "317.0"),
        ("BulletCartPole-v0", "dqn", "2", "5000", "9.0", "495.0", "316.0"),
    ]
    lines = matrix.table([dict(zip(names, cell, strict=True)) for cell in cells]).splitlines()
    assert lines[2:] == [
        "| BulletCartPole-v0 | random | 20.2 | 8 | | | |",
        "| BulletCartPole-v0 | dqn | 490.3 | 316 | 3 | 5 k to 101 k | 57 |",
    ]
