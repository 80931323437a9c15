"""Ray RLlib: its episodes, its agents without Ray, a resumed training, a cluster that breaks."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import PIXEL_IDS, STATE_IDS

ray = pytest.importorskip("ray")

from ray import tune  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.rllib.core.rl_module.rl_module import RLModuleSpec  # noqa: E402
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner  # noqa: E402
from ray.rllib.env.single_agent_episode import SingleAgentEpisode  # noqa: E402

from benchmarks import rllib_scaling  # noqa: E402
from benchmarks.tables import with_section  # noqa: E402
from benchmarks.time_to_solve import summary  # noqa: E402
from bullet_envs import cli  # noqa: E402
from bullet_envs.agents import algorithm, load_agent, new_agent, settings_help  # noqa: E402
from bullet_envs.agents.evaluation import evaluate  # noqa: E402
from bullet_envs.agents.rllib import algorithm_config, make_envs  # noqa: E402
from bullet_envs.agents.rllib_modules import (  # noqa: E402
    ActorCriticModule,
    NStepEpisodeReplayBuffer,
    RequireNextStep,
)
from bullet_envs.agents.run import Run  # noqa: E402

# RLlib registers its own id anew in each env runner.
pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment")
ALGOS = ("rllib-ppo", "rllib-dqn")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    """One Ray for all tests but those of a cluster."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def config_of(algo, env_id="BulletCartPole-v0", **settings):
    learner = algorithm(algo)
    return learner.config(env_id=env_id, **{**learner.preset(env_id), **settings})


def bare_config(env_id, mode="NextStep", **kwargs):
    """Return RLlib's settings as a user of RLlib writes them."""
    config = PPOConfig().environment(
        f"bullet_envs:{env_id}", env_config={"autoreset_mode": mode, **kwargs}
    )
    return config.env_runners(
        gym_env_vectorize_mode="vector_entry_point", num_envs_per_env_runner=4
    ).callbacks(RequireNextStep)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_other_modes_are_refused(mode):
    """Without the callback RLlib samples, and mixes episodes."""
    with pytest.raises(ValueError, match=f"autoreset_mode='{mode}' must be 'NextStep'"):
        SingleAgentEnvRunner(config=bare_config("BulletCartPole-v0", mode))


def replayed(env, episode):
    """Return what an environment of one's own gives for an episode's first state and actions."""
    first = episode.get_observations(0)
    names = env.unwrapped.task.state_names
    env.reset(options={"state": dict(zip(names, first.tolist(), strict=True))})
    steps = [env.step(action) for action in episode.get_actions()]
    return np.array([first, *(step[0] for step in steps)]), [step[1:4] for step in steps]


@pytest.mark.parametrize("limit", [None, 7])
def test_episodes_are_those_of_the_environment(limit):
    """Of 600 steps of 4 batched cart-poles: observations, rewards, ends, and no mixed episodes."""
    kwargs = {} if limit is None else {"max_episode_steps": limit}
    runner = SingleAgentEnvRunner(config=bare_config("BulletCartPole-v0", **kwargs))
    episodes = runner.sample(num_timesteps=600, random_actions=True)
    runner.stop()
    ended = [episode for episode in episodes if episode.is_done and episode.t_started == 0]
    assert len(ended) > 10
    env = gym.make("BulletCartPole-v0", **kwargs)
    for episode in ended:
        observations, steps = replayed(env, episode)
        # The first state is known in float32 only.
        assert episode.get_observations() == pytest.approx(observations, abs=1e-4)
        assert [reward for reward, _, _ in steps] == list(episode.get_rewards())
        *before, (_, terminated, truncated) = steps
        assert not any(terminated or truncated for _, terminated, truncated in before)
        assert (episode.is_terminated, episode.is_truncated) == (terminated, truncated)


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS])
def test_modules_act_as_their_policies(algo, env_id):
    """What an RLModule computes in an env runner is what the exported policy does with it."""
    config = config_of(algo, env_id, num_envs_per_env_runner=3)
    runner = SingleAgentEnvRunner(config=algorithm_config(config))
    episodes = runner.sample(num_timesteps=30, explore=False)
    agent = new_agent(algorithm(algo).policy, config.env, config.hidden)
    agent.policy.network.load_state_dict(runner.module.network.state_dict())
    runner.stop()
    for episode in episodes:
        observations = np.array(episode.get_observations(slice(0, len(episode))))
        assert agent.act(observations, True).tolist() == list(episode.get_actions())


def test_bare_id_without_registration():
    """`bullet_envs:` and the vector entry point suffice, in env runners of their own too."""
    config = bare_config("BalancingPlate-v0").env_runners(num_env_runners=1)
    algo = config.training(train_batch_size_per_learner=64, minibatch_size=32).build_algo()
    result = algo.train()
    algo.stop()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] >= 64


def test_module_takes_images_of_a_bare_id():
    """RLlib's own networks end in "unsigned char" there."""
    config = bare_config("BulletCartPolePixels-v0", size=36).rl_module(
        rl_module_spec=RLModuleSpec(ActorCriticModule, model_config={"hidden": (8,)})
    )
    algo = config.training(train_batch_size_per_learner=32, minibatch_size=16).build_algo()
    result = algo.train()
    algo.stop()
    assert np.isfinite(result["learners"]["default_policy"]["policy_loss"])


SHORT = {
    "rllib-ppo": {"train_batch_size": 128, "minibatch_size": 64, "num_epochs": 2},
    "rllib-dqn": {"learning_starts": 100, "train_batch_size": 16, "training_intensity": 4.0},
}


def short(algo, **settings):
    numbers = {"n_timesteps": 1000, "eval_freq": 500, "save_freq": 300}
    return config_of(algo, **{**numbers, **SHORT[algo], **settings})


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGOS)
def test_trained_agent_needs_no_ray(tmp_path, algo):
    """Trained, evaluated here, and in a process that refuses to import Ray."""
    config = short(algo)
    with Run(tmp_path / "run", config, progress=False) as run:
        agent = algorithm(algo).train(config, run)
    card = json.loads((tmp_path / "run" / "best.json").read_text())
    assert card["algo"] == algo
    best = load_agent(config.env_id, tmp_path / "run")
    expected = evaluate(best).returns.mean()
    assert evaluate(agent).returns.mean() > 0
    script = f"""
import sys
sys.modules["ray"] = None
from bullet_envs.agents import load_agent
from bullet_envs.agents.evaluation import evaluate
print(evaluate(load_agent("BulletCartPole-v0", {str(tmp_path / "run")!r})).returns.mean())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(expected), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGOS)
def test_a_seed_repeats_a_training(tmp_path, algo):
    """With the env runner in the training's own process, to the bit."""
    networks = []
    for folder in ("one", "two"):
        with Run(tmp_path / folder, short(algo), progress=False) as run:
            agent = algorithm(algo).train(short(algo), run)
        networks.append(agent.policy.network.state_dict())
    assert all((value == networks[1][name]).all() for name, value in networks[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGOS)
def test_stopped_training_goes_on(tmp_path, algo):
    """From its checkpoint: steps, weights, and learning rate go on."""
    config = short(algo)
    run = Run(tmp_path / "run", config, progress=False)
    with run:
        checkpoint = run.checkpoint

        def stop_after(learner):
            checkpoint(learner)
            run.stopped = True

        run.checkpoint = stop_after
        stopped = algorithm(algo).train(config, run)
    steps = run.steps
    assert 300 <= steps < 1000
    weights = {name: value.clone() for name, value in stopped.policy.network.state_dict().items()}
    with Run(tmp_path / "run", config, resume=True, progress=False) as run:
        assert run.steps == steps
        restored = run.restored.tensors
        assert all((restored[name] == value).all() for name, value in weights.items())
        algorithm(algo).train(config, run)
        assert run.steps >= 1000


@pytest.mark.parametrize("algo", ALGOS)
def test_every_setting_is_explained(algo):
    described = settings_help(algo)
    config = algorithm(algo).config(env_id="BulletCartPole-v0")
    for name, default, meaning in described:
        assert getattr(config, name) == default and meaning


def test_wrong_settings_are_refused():
    for settings, message in (
        ({"num_env_runners": -1}, "num_env_runners=-1 must lie from 0 to 1024"),
        ({"num_envs_per_env_runner": 0}, "num_envs_per_env_runner=0 must lie from 1 to 4096"),
        ({"ray_address": 5}, "ray_address=5 must be a string"),
        ({"lr": 0}, "lr=0 must lie from 1e-08 to 1"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            config_of("rllib-ppo", **settings)


def test_returns_end_with_their_episode():
    """Ended, truncated, cut by the end of a rollout: each transition as computed by hand."""
    buffer = NStepEpisodeReplayBuffer(capacity=1000)
    n_step, gamma = 5, 0.9
    lengths = {"terminated": 2, "truncated": 7, "goes on": 4}
    for end, length in lengths.items():
        episode = SingleAgentEpisode(
            id_=end,
            observation_space=gym.spaces.Box(-1e3, 1e3, (2,), np.float32),
            action_space=gym.spaces.Discrete(100),
            observations=[np.full(2, t, np.float32) for t in range(length + 1)],
            actions=list(range(length)),
            rewards=[10.0 + t for t in range(length)],
            terminated=end == "terminated",
            truncated=end == "truncated",
            len_lookback_buffer=0,
        )
        buffer.add([episode])
    seen = set()
    for sample in buffer.sample(num_items=500, n_step=n_step, gamma=gamma, sample_episodes=True):
        start, length = sample.t_started, lengths[sample.id_]
        end = min(start + n_step, length)
        seen.add((sample.id_, start))
        assert sample.get_actions(0) == start
        assert sample.get_observations(0)[0] == start and sample.get_observations(-1)[0] == end
        rewards = [gamma**k * (10 + start + k) for k in range(end - start)]
        assert sample.get_rewards(0) == pytest.approx(sum(rewards))
        assert sample.get_extra_model_outputs("n_step", 0) == end - start
        assert sample.is_terminated == (sample.id_ == "terminated")
        assert sample.is_truncated == (sample.id_ == "truncated" and end == length)
    assert len(seen) == sum(lengths.values())


def test_make_envs_scales_rewards():
    envs = make_envs(config_of("rllib-ppo", reward_scale=0.5), {"num_envs": 2})
    envs.reset(seed=0)
    assert envs.step(np.array([0, 1]))[1].tolist() == [0.5, 0.5]
    envs.close()


def test_no_cluster_at_the_address(tmp_path, monkeypatch, capsys):
    """One clear sentence."""
    ray.shutdown()
    words = "train --algo rllib-ppo --env BulletCartPole-v0 --no-progress --ray-address 127.0.0.1:1"
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words.split(), "-f", str(tmp_path)])
    error = capsys.readouterr().err
    assert "127.0.0.1:1" in error and error.count("\n") == 1
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


@pytest.fixture
def cluster():
    """Two raylets of one CPU each beside a head without any, and this process connected to them."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1, resources={f"node{index}": 1}) for index in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


def train_with(config, folder, at_first_evaluation):
    """Train; call something in a thread of its own after the first evaluation."""
    with Run(folder, config, progress=False) as run:
        evaluate_run = run.evaluate

        def evaluate_and_break(agent):
            evaluate_run(agent)
            run.evaluate = evaluate_run
            threading.Thread(target=at_first_evaluation).start()

        run.evaluate = evaluate_and_break
        algorithm("rllib-ppo").train(config, run)
        return run


@pytest.mark.slow
def test_training_goes_on_without_a_killed_env_runner(tmp_path, cluster):
    """RLlib begins it anew; only the rollout in flight is lost."""
    killed = []

    def kill():
        command = ["pgrep", "-f", "ray::SingleAgentEnvRunner"]
        killed.append(int(subprocess.check_output(command).split()[0]))
        os.kill(killed[0], signal.SIGKILL)

    settings = {"num_env_runners": 2, "num_envs_per_env_runner": 8, "n_timesteps": 12_000}
    settings["solved_evaluations"] = 0  # to the end, also where it is solved before
    config = short("rllib-ppo", **settings, eval_freq=2000, save_freq=2000)
    run = train_with(config, tmp_path / "run", kill)
    assert killed and run.steps >= 12_000


@pytest.mark.slow
def test_training_goes_on_without_a_removed_node(tmp_path, cluster):
    """Its env runners begin anew where there is room, or those that are left play alone."""
    raylets, nodes = cluster
    settings = {"num_env_runners": 2, "num_envs_per_env_runner": 8, "n_timesteps": 12_000}
    settings["solved_evaluations"] = 0  # to the end, also where it is solved before
    config = short("rllib-ppo", **settings, eval_freq=2000, save_freq=2000)
    run = train_with(config, tmp_path / "run", lambda: raylets.remove_node(nodes[0]))
    assert run.steps >= 12_000


@pytest.mark.slow
def test_a_killed_driver_goes_on_from_its_checkpoint(tmp_path):
    """`--resume` after `kill -9` takes the steps since the last checkpoint again, no more."""
    words = "train --algo rllib-ppo --env BulletCartPole-v0 --num-env-runners 1 --no-progress"
    sizes = "-n 20000 --save-freq 2000 --eval-freq 2000 -params train_batch_size:512 num_epochs:2"
    command = [sys.executable, "-m", "bullet_envs", *words.split(), *sizes.split()]
    command += ["-f", str(tmp_path)]
    checkpoint = tmp_path / "rllib-ppo" / "BulletCartPole-v0_seed0_1" / "checkpoint.safetensors"
    driver = subprocess.Popen(command, start_new_session=True)
    while not checkpoint.is_file():
        assert driver.poll() is None
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 20_000


@pytest.mark.slow
def test_example_collects(monkeypatch, capsys):
    """RLlib's env runners play for our DQN: steps, weights and epsilon reach them."""
    ray.shutdown()
    monkeypatch.setattr(sys, "argv", ["rllib_collect.py", "-n", "3000"])
    runpy.run_path(str(EXAMPLES / "rllib_collect.py"), run_name="__main__")
    assert 9 < float(capsys.readouterr().out) <= 500
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


def test_windows_of_the_example():
    """Of 5 steps, n_steps 2: rewards 1, a termination, and the end of a part of an episode."""
    example = runpy.run_path(str(EXAMPLES / "rllib_collect.py"))
    for terminated, last in ((True, 0.0), (False, 0.5)):
        episode = SingleAgentEpisode(
            observations=[np.float32([number]) for number in range(6)],
            actions=[0, 1, 0, 1, 0],
            rewards=[1.0] * 5,
            terminated=terminated,
            len_lookback_buffer=0,
        )
        episode.to_numpy()
        transitions = example["Transitions"](size=8, n_steps=2, gamma=0.5)
        transitions.add(episode)
        columns = {
            name: column[:5].squeeze().tolist() for name, column in transitions.columns.items()
        }
        assert columns == {
            "observations": [0, 1, 2, 3, 4],
            "actions": [0, 1, 0, 1, 0],
            "returns": [1.5, 1.5, 1.5, 1.5, 1],
            "next_obs": [2, 3, 4, 5, 5],
            "bootstrap": [0.25, 0.25, 0.25, last and 0.25, last],
        }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Tune imports warns of much
def test_example_of_tune(monkeypatch, tmp_path, capsys):
    """Two trainings of two iterations."""
    short = {"stop": {"training_iteration": 2}, "storage_path": str(tmp_path)}

    class ShortRunConfig(tune.RunConfig):
        def __init__(self, **settings):
            super().__init__(**{**settings, **short})

    make = tune.TuneConfig
    monkeypatch.setattr(tune, "TuneConfig", lambda **of: make(**{**of, "num_samples": 2}))
    monkeypatch.setattr(tune, "RunConfig", ShortRunConfig)
    runpy.run_path(str(EXAMPLES / "rllib_tune.py"), run_name="__main__")
    assert "lr=" in capsys.readouterr().out


def test_snippets_of_the_document(monkeypatch):
    """docs/scaling.md's Python, and its sampling."""
    text = (EXAMPLES.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    workers, rllib = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    namespace = {}
    exec(workers, namespace)
    namespace["envs"].close()
    exec(rllib, namespace)
    runners = namespace["algorithm"].env_runner_group
    samples = runners.foreach_env_runner(
        lambda runner: len(runner.sample(num_timesteps=64)), local_env_runner=False
    )
    assert len(samples) == 2 and all(samples)
    namespace["algorithm"].stop()


def test_the_document_shows_what_was_measured():
    results = json.loads((EXAMPLES.parent / "docs" / "rllib.json").read_text())
    text = (EXAMPLES.parent / "docs" / "scaling.md").read_text()
    shown = f"{summary(results)}\n\n{rllib_scaling.seconds_to_solve(results)}"
    assert with_section(text, "rllib", shown) == text
    assert all(f"| {env_id} | " in shown for env_id in rllib_scaling.TRAINED)


def test_constraints_are_the_same():
    """But for gymnasium, which RLlib pins, and what only Ray needs."""
    lines = {
        name: (EXAMPLES.parent / name).read_text().split("# bullet-envs\n")[1].splitlines()
        for name in ("constraints.txt", "constraints-rllib.txt")
    }
    common, of_rllib = lines["constraints.txt"], lines["constraints-rllib.txt"]
    others = [line for line, other in zip(common, of_rllib, strict=False) if line != other]
    assert [line.partition("==")[0] for line in others] == ["gymnasium"]
