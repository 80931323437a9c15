"""PPO and A2C: their formulas in closed form, one update equal to SB3's, any vector environment."""

import dataclasses
import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from bullet_envs.agents import a2c, algorithm, load_agent, ppo
from bullet_envs.agents.actor_critic import (
    ActorCritic,
    Categorical,
    Gaussian,
    RolloutCollector,
    explained_variance,
    gae,
    transitions,
)
from bullet_envs.agents.adapters import EnvPoolVectorEnv, SB3VectorEnv
from bullet_envs.agents.run import Run


def some_rollout(seed=0, n_steps=40, num_envs=5):
    """Return rewards, values, next values, terminated and ended with all kinds of ends."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, num_envs)
    rewards, values, next_values = rng.normal(size=(3, *shape))
    terminated = rng.random(shape) < 0.1
    ended = terminated | (rng.random(shape) < 0.1)
    return rewards, values, next_values, terminated, ended


@pytest.mark.parametrize("gamma, gae_lambda", [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.98, 1.0)])
def test_gae_is_the_plain_double_sum(gamma, gae_lambda):
    """Each advantage is the sum of later deltas of its episode, added up term by term."""
    rewards, values, next_values, terminated, ended = some_rollout()
    n_steps, num_envs = rewards.shape
    expected = np.zeros_like(rewards)
    for env, first in itertools.product(range(num_envs), range(n_steps)):
        for step in range(first, n_steps):
            after = 0.0 if terminated[step, env] else next_values[step, env]
            delta = rewards[step, env] + gamma * after - values[step, env]
            expected[first, env] += (gamma * gae_lambda) ** (step - first) * delta
            if ended[step, env]:
                break
    advantages = gae(rewards, values, next_values, terminated, ended, gamma, gae_lambda)
    np.testing.assert_allclose(advantages, expected, rtol=0, atol=1e-10)


class Corridor(gym.Env):
    """Pays 1 a step; after ``length`` steps it terminates, or else a time limit truncates it.

    The observation is the number of steps so far.
    """

    observation_space = Box(0, 100, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length, terminates):
        self.length, self.terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps >= self.length
        observation = np.full(1, self.steps, np.float32)
        return observation, 1.0, ended and self.terminates, ended and not self.terminates, {}


MODES = [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


class OfSteps(ActorCritic):
    """A value of 10 at the beginning of an episode, and 1 more after each step."""

    def forward(self, observations):
        return self.distribution(observations), self.values(observations)

    def values(self, observations):
        return 10 + observations[:, 0]


def corridor_policy(network_class=OfSteps):
    policy = ppo.PPOPolicy(Corridor.observation_space, Corridor.action_space, (4,))
    policy.network = network_class(Corridor.observation_space, Corridor.action_space, (4,))
    return policy


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terminates", [True, False], ids=["terminated", "truncated"])
def test_only_a_truncated_episode_bootstraps(mode, terminates):
    """With lambda 1 a return is the discounted rewards, and the last value where truncated.

    In every autoreset mode: what follows a reset has no part in it, and a step that only resets is
    no transition.
    """
    lengths, gamma, n_steps = (3, 4), 0.9, 10
    envs = SyncVectorEnv(
        [lambda length=length: Corridor(length, terminates) for length in lengths],
        autoreset_mode=mode,
    )
    policy = corridor_policy()
    collector = RolloutCollector(envs, policy, reward_scale=1.0)
    collector.reset([0, 1])
    rollout = collector.collect(n_steps, lambda: True)
    batch = transitions(rollout, policy, gamma, gae_lambda=1.0)
    expected = []
    resets = mode is AutoresetMode.NEXT_STEP
    for length in lengths:
        place = np.arange(n_steps) % (length + resets)  # steps since the reset
        for step in range(n_steps):
            if place[step] == length:  # the step of the reset
                expected.append(math.nan)
                continue
            left = min(length - place[step], n_steps - step)
            total = sum(gamma**k for k in range(left))
            at = place[step] + left  # steps in the episode where the sum ends
            if at < length or not terminates:
                total += gamma**left * (10 + at)
            expected.append(total)
    expected = np.reshape(expected, (2, n_steps)).T
    np.testing.assert_array_equal(rollout.valid, ~np.isnan(expected))
    np.testing.assert_allclose(batch.returns.numpy(), expected[rollout.valid], rtol=1e-6)
    assert collector.episodes.lengths[:2] == [3, 4]
    assert set(collector.episodes.lengths) == {3, 4}
    assert collector.episodes.returns == collector.episodes.lengths


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 3]), Box(-1, 1, (2,))], ids=str)
def test_distributions_are_those_of_torch(space):
    """Probabilities and entropies are torch's own, and samples follow them."""
    torch.manual_seed(0)
    if isinstance(space, Box):
        outputs = torch.randn(7, 2)
        ours = Gaussian(outputs, torch.full((2,), math.log(0.5)))
        normal = torch.distributions.Normal(outputs, 0.5)
        theirs = torch.distributions.Independent(normal, 1)
    elif isinstance(space, Discrete):
        outputs = torch.randn(7, 3)
        ours = Categorical(outputs, [3])
        categorical = torch.distributions.Categorical(logits=outputs[:, None])
        theirs = torch.distributions.Independent(categorical, 1)
    else:
        outputs = torch.randn(7, 5)
        ours = Categorical(outputs, [2, 3])
        parts = [torch.distributions.Categorical(logits=one) for one in outputs.split([2, 3], 1)]
    actions = ours.sample()
    if isinstance(space, MultiDiscrete):
        columns = zip(parts, actions.T, strict=True)
        log_prob = sum(part.log_prob(column) for part, column in columns)
        entropy = sum(part.entropy() for part in parts)
    else:
        log_prob, entropy = theirs.log_prob(actions), theirs.entropy()
    torch.testing.assert_close(ours.log_prob(actions), log_prob)
    torch.testing.assert_close(ours.entropy(), entropy)
    best = ours.log_prob(ours.mode())
    draws = [ours.sample() for _ in range(4000)]
    assert all((ours.log_prob(drawn) <= best + 1e-6).all() for drawn in draws[:20])
    # The mean of -log p over samples is the entropy.
    mean = torch.stack([ours.log_prob(drawn) for drawn in draws]).mean(0)
    torch.testing.assert_close(-mean, entropy, atol=0.06, rtol=0)  # about 4 standard errors


def sb3_model(kind, space, hidden, **settings):
    """Return SB3's algorithm on an environment that is never stepped, and its policy."""

    class Still(gym.Env):
        observation_space, action_space = Box(-1, 1, (4,)), space

    policy_kwargs = {"net_arch": list(hidden)}
    model = kind("MlpPolicy", Still(), policy_kwargs=policy_kwargs, device="cpu", **settings)
    model.set_logger(Logger(None, []))
    return model


def copy_to_sb3(network, policy):
    """Give SB3's policy the weights of ours."""
    names = {
        "policy": ("mlp_extractor.policy_net", "action_net"),
        "value": ("mlp_extractor.value_net", "value_net"),
    }
    weights = {}
    for ours, (body, head) in names.items():
        layers = [key for key in network.state_dict() if key.startswith(f"{ours}.")]
        for key in layers:
            place = key.removeprefix(f"{ours}.")
            is_head = key in layers[-2:]
            name = f"{head}.{place.partition('.')[2]}" if is_head else f"{body}.{place}"
            weights[name] = network.state_dict()[key]
    if network.sizes is None:
        weights["log_std"] = network.log_std
    policy.load_state_dict({name: value.detach().clone() for name, value in weights.items()})


def weights_of(network, policy):
    """Return pairs of our parameters and SB3's that should be the same, with their gradients."""
    theirs = {
        "policy": [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()],
        "value": [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()],
    }
    pairs = [
        pair
        for name, parameters in theirs.items()
        for pair in zip(getattr(network, name).parameters(), parameters, strict=True)
    ]
    if network.sizes is None:
        pairs.append((network.log_std, policy.log_std))
    return pairs


def fill_sb3(model, batch, n_steps, num_envs):
    """Put a rollout of ours, in the order of time, into SB3's buffer."""
    buffer = RolloutBuffer(n_steps, model.observation_space, model.action_space, n_envs=num_envs)
    shape = (n_steps, num_envs)
    buffer.observations = batch.observations.numpy().reshape(*shape, -1)
    buffer.actions = batch.actions.numpy().astype(np.float32).reshape(*shape, -1)
    for name in ("values", "advantages", "returns", "log_probs"):
        setattr(buffer, name, getattr(batch, name).numpy().reshape(shape))
    buffer.full = True
    model.rollout_buffer = buffer


def random_batch(network, n_steps, num_envs):
    """Return a rollout of random observations whose actions the network has drawn."""
    size = n_steps * num_envs
    observations = torch.randn(size, 4)
    with torch.no_grad():
        policy, values = network(observations)
        actions = policy.sample()
        log_probs = policy.log_prob(actions)
    advantages = torch.randn(size)
    return ppo.Minibatch(observations, actions, log_probs, values, advantages, values + advantages)


SPACES = [Discrete(3), MultiDiscrete([2, 4]), Box(-2, 2, (3,))]
N_STEPS, NUM_ENVS = 16, 4


def same_order(monkeypatch):
    """Let both shuffle alike: SB3 goes through each sub-environment's steps one after another."""
    generator = np.random.default_rng(7)
    shuffled = [generator.permutation(N_STEPS * NUM_ENVS) for _ in range(10)]
    theirs = iter(shuffled)
    monkeypatch.setattr(np.random, "permutation", lambda size: next(theirs))
    ours = iter(torch.as_tensor(o % N_STEPS * NUM_ENVS + o // N_STEPS) for o in shuffled)
    monkeypatch.setattr(torch, "randperm", lambda size: next(ours))


@pytest.mark.parametrize("space", SPACES, ids=["Discrete", "MultiDiscrete", "Box"])
@pytest.mark.parametrize("clip_range_vf", [0.0, 0.15])
def test_an_update_of_ppo_equals_that_of_sb3(space, clip_range_vf, monkeypatch):
    """Same weights, rollout and order of minibatches: same losses, gradients and weights."""
    torch.manual_seed(3)
    settings = {"batch_size": 16, "n_epochs": 3, "ent_coef": 0.01, "learning_rate": 3e-3}
    network = ActorCritic(Box(-1, 1, (4,)), space, (16, 16))
    for parameter in network.parameters():  # a policy that is not almost uniform
        parameter.data += 0.3 * torch.randn_like(parameter)
    model = sb3_model(
        PPO,
        space,
        (16, 16),
        n_steps=N_STEPS * NUM_ENVS,
        clip_range_vf=clip_range_vf or None,
        **settings,
    )
    copy_to_sb3(network, model.policy)
    batch = random_batch(network, N_STEPS, NUM_ENVS)
    batch = dataclasses.replace(
        batch,
        log_probs=batch.log_probs + 0.2 * torch.randn(len(batch)),
        values=batch.values + 0.2 * torch.randn(len(batch)),
    )
    fill_sb3(model, batch, N_STEPS, NUM_ENVS)
    same_order(monkeypatch)
    config = ppo.PPOConfig(env_id="CartPole-v1", clip_range_vf=clip_range_vf, **settings)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, eps=1e-5, fused=True)

    logged = ppo.update(network, optimiser, batch, config, left=1.0)
    model.train()
    theirs = model.logger.name_to_value
    for name in (
        "policy_gradient_loss",
        "value_loss",
        "entropy_loss",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    ):
        mean = theirs[f"train/{name}"]
        if name == "approx_kl":  # SB3 logs that of the last epoch
            continue
        assert logged[f"train/{name}"] == pytest.approx(mean, abs=1e-5), name
    assert logged["train/clip_fraction"] > 0.05
    for ours, sb3s in weights_of(network, model.policy):
        torch.testing.assert_close(ours.grad, sb3s.grad, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours, sb3s, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=["Discrete", "MultiDiscrete", "Box"])
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_an_update_of_a2c_equals_that_of_sb3(space, normalize_advantage):
    """Same weights and rollout: same losses, gradients and weights."""
    torch.manual_seed(4)
    settings = {
        "normalize_advantage": normalize_advantage,
        "ent_coef": 0.01,
        "vf_coef": 0.4,
        "learning_rate": 3e-3,
    }
    network = ActorCritic(Box(-1, 1, (4,)), space, (16, 16))
    model = sb3_model(A2C, space, (16, 16), n_steps=N_STEPS * NUM_ENVS, **settings)
    copy_to_sb3(network, model.policy)
    config = a2c.A2CConfig(env_id="CartPole-v1", **settings)
    optimiser = torch.optim.RMSprop(network.parameters(), config.learning_rate, eps=1e-5)
    for _ in range(2):  # the second with moments
        batch = random_batch(network, N_STEPS, NUM_ENVS)
        fill_sb3(model, batch, N_STEPS, NUM_ENVS)
        terms = a2c.update(network, optimiser, batch, config, left=1.0)
        model.train()
        for name in ("policy_loss", "value_loss", "entropy_loss"):
            theirs = model.logger.name_to_value[f"train/{name}"]
            assert terms[name].item() == pytest.approx(theirs, abs=1e-5), name
        theirs = model.logger.name_to_value["train/explained_variance"]
        assert explained_variance(batch) == pytest.approx(theirs, abs=1e-5)
        for ours, sb3s in weights_of(network, model.policy):
            torch.testing.assert_close(ours.grad, sb3s.grad, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours, sb3s, rtol=1e-5, atol=1e-5)


def make_foreign(kind, num_envs):
    """Return CartPole-v1 in a vector environment of another library."""
    if kind == "envpool":
        envpool = pytest.importorskip("envpool")
        return EnvPoolVectorEnv(envpool.make_gymnasium("CartPole-v1", num_envs=num_envs, seed=1))
    of = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}[kind]
    return SB3VectorEnv(make_vec_env("CartPole-v1", num_envs, vec_env_cls=of))


@pytest.mark.filterwarnings("ignore:.*precision lowered:UserWarning")  # of EnvPool's spaces
@pytest.mark.parametrize(
    "algo, kind", [("ppo", "envpool"), ("a2c", "envpool"), ("ppo", "SubprocVecEnv")]
)
def test_learners_take_vector_environments_of_other_libraries(kind, algo, tmp_path):
    """EnvPool's and SB3's, through their adapters: trainings end, count and log as others do."""
    learner = algorithm(algo)
    config = learner.config(
        env_id="CartPole-v1", n_timesteps=512, eval_freq=512, n_envs=4, n_steps=32, hidden=(8,)
    )
    with Run(tmp_path / "run", config, progress=False) as run:
        agent = learner.train(config, run, make_foreign(kind, 4))
    assert run.steps == 512
    assert run.best_return > 0
    assert load_agent("CartPole-v1", tmp_path / "run").algo == agent.algo == algo


def test_sb3_environments_are_the_same_through_the_adapter():
    """With a seed each they return what Gymnasium's own return, final observations included."""
    theirs = make_foreign("DummyVecEnv", 3)
    ours = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    seeds = [5, 9, 2]
    first, _ = theirs.reset(seed=seeds)
    np.testing.assert_array_equal(first, ours.reset(seed=seeds)[0])
    ours.action_space.seed(0)
    ends = 0
    for _ in range(100):
        actions = ours.action_space.sample()
        *result, info = theirs.step(actions)
        *expected, expected_info = ours.step(actions)
        for got, wanted in zip(result, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        for index in np.flatnonzero(result[2]).tolist():
            ends += 1
            final = expected_info["final_obs"][index]
            np.testing.assert_array_equal(info["final_obs"][index], final)
    assert ends > 5
    theirs.close()
    ours.close()
