"""The LQG that a training can imitate at first."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from bullet_envs.agents import algorithm, load_agent
from bullet_envs.agents.actor_critic import Minibatch
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.agents.lqg import LQGPolicy
from bullet_envs.agents.run import Run
from bullet_envs.agents.teacher import Teacher

PLATE = "BalancingPlate-v0"
PIXELS = "BulletCartPolePixels-v0"
MEDIUM = {"perturbations": "medium"}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(("frame_stack", "hold_dropped"), [(1, False), (3, False), (2, True)])
def test_who_obeys_it_plays_as_the_lqg(continuous, frame_stack, hold_dropped):
    """In episodes that begin together, and in those that begin while others go on."""
    kwargs = {**MEDIUM, "continuous": continuous}
    env = EnvConfig(PLATE, kwargs, frame_stack, 1, True, hold_dropped)
    envs = env.make_vec(2)
    teacher = Teacher(env, envs)
    observations, infos = envs.reset(seed=[1, 2])
    mask, states = np.ones(2, np.bool_), []
    for step in range(40):
        if mask.any():
            teacher.begin(mask, infos)
        advised = teacher.advise(observations)
        if not continuous:
            assert advised.sum(axis=1) == pytest.approx(1)
        taken = advised if continuous else advised.argmax(axis=1)
        observations, *_ = envs.step(taken)
        teacher.see(taken)
        states.append(envs.unwrapped.state())
        mask = np.array([False, step == 14])
        if mask.any():
            observations, infos = envs.reset(seed=[None, 3], options={"reset_mask": mask})

    def alone(seed, steps):
        with gym.make(PLATE, **kwargs) as one:
            policy = LQGPolicy(one)
            observation, info = one.reset(seed=seed)
            policy.begin(info, 1)
            for _ in range(steps):
                observation, *_ = one.step(policy.act(observation[None], True)[0])
            return one.unwrapped.state()

    for index, seed, begun, ended in ((0, 1, 0, 40), (1, 2, 0, 15), (1, 3, 15, 40)):
        state = alone(seed, ended - begun)
        found = {name: column[index] for name, column in states[ended - 1].items()}
        assert found == pytest.approx(state, rel=1e-5, abs=1e-9)
    envs.close()


def test_of_images_the_teacher_sees_the_state():
    """As it is, whatever the camera shows; it plays as the LQG without noise and delay does."""
    dynamics = {
        "parameters": {"force": {"uniform": [0.7, 1.4], "operation": "scale"}},
        "actions": {"delay": 1},
    }
    sensors = {"observations": {"delay": 2, "dropped": {"probability": 0.5}}}
    env = EnvConfig(PIXELS, {"perturbations": {**dynamics, **sensors}}, 2)
    envs = env.make_vec(2)
    teacher = Teacher(env, envs)
    images, infos = envs.reset(seed=[3, 4])
    teacher.begin(np.ones(2, np.bool_), infos)
    with gym.make(PIXELS.replace("Pixels", ""), perturbations=dynamics) as alone:
        policy = LQGPolicy(alone)
        observation, info = alone.reset(seed=4)
        assert info["parameters"]["force"] == infos["parameters"]["force"][1]
        policy.begin(info, 1)
        for _ in range(40):
            taken = teacher.advise(images).argmax(axis=1)
            images, *_ = envs.step(taken)
            teacher.see(taken)
            (action,) = policy.act(observation[None], True)
            assert action == taken[1]
            observation, *_ = alone.step(action)
    envs.close()


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_the_weight_of_the_teacher_falls_to_zero(algo):
    """And its term is the cross-entropy to the probabilities of what it would do."""
    learner = algorithm(algo)
    module = __import__(f"bullet_envs.agents.{algo}", fromlist=["losses"])
    config = learner.config(env_id=PLATE, teacher_coef=3.0)
    with gym.make(PLATE) as env:
        policy = learner.policy(env.observation_space, env.action_space, (8,))
    torch.manual_seed(0)
    batch = Minibatch(
        torch.randn(6, 10),
        torch.randint(4, (6, 1)),
        *torch.randn(4, 6),
        torch.rand(6, 4).softmax(1),
    )
    with torch.no_grad():
        (of_actions,) = policy.network.distribution(batch.observations).log_probs
        of_teacher = (batch.advised * of_actions).sum(1)
        plain = {**vars(batch), "advised": None}
        for left, weight in ((1.0, 3.0), (0.5, 1.5), (0.0, 0.0)):
            terms = module.losses(policy.network, batch, config, left)
            without = module.losses(policy.network, Minibatch(**plain), config, left)
            assert terms["imitation_loss"].item() == pytest.approx(-of_teacher.mean().item())
            more = (terms["loss"] - without["loss"]).item()
            assert more == pytest.approx(-weight * of_teacher.mean().item(), abs=1e-5)
            assert "imitation_loss" not in without


@pytest.mark.parametrize(
    "settings",
    [
        {"env_id": "CartPole-v1"},
        {"env_id": PIXELS, "action_repeat": 2},
        {"env_id": PLATE, "action_repeat": 2},
        {"env_id": PLATE, "vec_env": "sync"},
    ],
)
def test_there_must_be_a_teacher(settings):
    """An LQG, asked before each control period; it sees states of all sub-environments."""
    for algo in ("ppo", "a2c"):
        with pytest.raises(ValueError, match=r"teacher_coef must be 0 but for a bullet_envs\.Task"):
            algorithm(algo).config(**settings, teacher_coef=1.0)
        algorithm(algo).config(**settings)


@pytest.mark.slow
def test_a_pupil_learns_soon(tmp_path):
    """In 80,000 steps on perturbed plates, after which PPO alone has about 60."""
    learner = algorithm("ppo")
    settings = {"n_timesteps": 80_000, "n_envs": 32, "n_steps": 128, "batch_size": 512}
    settings |= {"gamma": 0.99, "reward_scale": 0.05, "frame_stack": 8, "observe_actions": True}
    settings |= {"solved_evaluations": 0, "eval_freq": 80_000, "save_freq": 80_000}
    config = learner.config(env_id=PLATE, env_kwargs=MEDIUM, teacher_coef=1.0, **settings)
    with Run(tmp_path / "run", config) as run:
        learner.train(config, run)
    assert evaluate(load_agent(PLATE, tmp_path / "run"), range(100)).returns.mean() > 300
