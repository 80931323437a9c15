"""Datasets hold the episodes that were played, to the bit, and say how they came about."""

import gc
import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import everything_in

from bullet_envs import cli
from bullet_envs.agents import EnvConfig, algorithm, load_agent, new_agent
from bullet_envs.agents.collect import collect

minari = pytest.importorskip("minari")
pytest.importorskip("jax")
pytest.importorskip("h5py")

# Minari's collector leaves its temporary folders to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]
ENV_ID = "BulletCartPole-v0"
EXAMPLE = Path(__file__).parent.parent / "examples" / "behaviour_cloning.py"
COLLECT = f"collect --env {ENV_ID} --algo random -n 2"
PERTURBED = {"perturbations": {"parameters": {"pole_mass": {"uniform": [0.05, 0.2]}}}}


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Keep datasets in a folder of the test."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    yield folder
    gc.collect()


def assert_replays(dataset, **kwargs):
    """Play a dataset's actions again from its seeds, in the environment that it names itself."""
    env = dataset.recover_environment(**kwargs)
    for episode in dataset.iterate_episodes():
        [facts] = dataset.storage.get_episode_metadata([episode.id])
        observations, rewards = [env.reset(seed=int(facts["seed"]))[0]], []
        for action in episode.actions:
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        stored = episode.observations
        assert stored.dtype == env.observation_space.dtype
        assert np.array_equal(stored, np.stack(observations))
        assert np.array_equal(episode.rewards, rewards)
        assert (terminated, truncated) == (episode.terminations[-1], episode.truncations[-1])
        assert terminated or truncated
    env.close()


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("env_id", [ENV_ID, "BalancingPlate-v0"])
def test_a_dataset_replays_to_the_bit(env_id, continuous):
    """Observations, rewards and ends, and the seeds are those that were asked for."""
    agent = load_agent(env_id, "lqr", continuous=continuous)
    collect(agent, "robots/lqr-v0", range(5, 7))
    dataset = minari.load_dataset("robots/lqr-v0")
    assert [int(one["seed"]) for one in dataset.storage.get_episode_metadata([0, 1])] == [5, 6]
    assert dataset.total_steps == 1000
    assert_replays(dataset)


def test_metadata(datasets, capsys):
    """The command's, with spaces, keywords, algorithm and requirements."""
    words = f"{COLLECT} -o cart/random-v3 --env-kwargs force:5 --author A --author-email a@b.c"
    assert cli.main([*words.split(), "--code-permalink", "https://example.org"]) == 0
    assert capsys.readouterr().out.startswith("2 episodes, ")
    dataset = minari.load_dataset("cart/random-v3")
    facts = dataset.storage.metadata
    assert facts["algorithm_name"] == "random" and facts["author"] == {"A"}
    assert facts["code_permalink"] == "https://example.org"
    assert facts["requirements"][0].startswith("bullet-envs==")
    assert "2 episodes of random on BulletCartPole-v0" in facts["description"]
    assert dataset.env_spec.kwargs["force"] == 5
    with gym.make(ENV_ID) as env:
        assert dataset.observation_space == env.observation_space
        assert dataset.action_space == env.action_space
    assert_replays(dataset)
    assert sorted(path.name for path in datasets.iterdir()) == ["cart"]  # nothing temporary


def test_parameters_of_each_episode():
    """Where there are perturbations, the infos have what was drawn."""
    collect(load_agent(ENV_ID, "random", **PERTURBED), "cart/perturbed-v0", range(3))
    dataset = minari.load_dataset("cart/perturbed-v0")
    masses = [one.infos["parameters"]["pole_mass"] for one in dataset.iterate_episodes()]
    assert len({float(one[0]) for one in masses}) == 3
    with gym.make(ENV_ID, **PERTURBED) as env:
        for seed, mass in enumerate(masses):
            assert (mass == env.reset(seed=seed)[1]["parameters"]["pole_mass"]).all()
    assert_replays(dataset)


def test_pictures_are_kept_to_the_bit():
    """A step each, though the agent sees stacks and repeats its actions."""
    env = EnvConfig("BulletCartPolePixels-v0", {"size": 24}, frame_stack=2, action_repeat=2)
    agent = new_agent(algorithm("reinforce").policy, env, (8,))
    collect(agent, "pixels-v0", range(1))
    dataset = minari.load_dataset("pixels-v0")
    [episode] = dataset.iterate_episodes()
    assert episode.observations.shape == (len(episode) + 1, 24, 24, 3)
    assert np.array_equal(episode.actions[0:-1:2], episode.actions[1::2][: len(episode) // 2])
    assert_replays(dataset)


@pytest.mark.parametrize("env_id", [ENV_ID, "BalancingPlate-v0"])
def test_behaviour_cloning_solves(env_id, monkeypatch, capsys):
    """The example, after the commands of docs/data.md, on each state id."""
    collect(load_agent(env_id, "ppo"), "cloned/ppo-v0", range(100))
    monkeypatch.setattr(sys, "argv", ["behaviour_cloning.py", "cloned/ppo-v0"])
    runpy.run_path(str(EXAMPLE))
    [episodes, mean] = re.findall(r"of (\d+) episodes: ([\d.]+)", capsys.readouterr().out)[0]
    assert int(episodes) == 100 and float(mean) >= 475


def test_the_example_is_twenty_lines():
    """Without its docstring and its imports."""
    _, code = EXAMPLE.read_text().split("\n\ndataset = ")
    assert len(code.splitlines()) <= 20


WRONG = {
    COLLECT: "-o/--output",
    f"{COLLECT} -o name": "dataset id 'name' must be NAME-vNUMBER or NAMESPACE/NAME-vNUMBER",
    f"{COLLECT} -o ../name-v0": "dataset id '../name-v0' must be",
    f"{COLLECT} -o taken-v0": "dataset id 'taken-v0' is in use",
    f"{COLLECT} -o x-v0 -n 0": "--n-episodes 0 must lie from 1 to 1000000",
    f"{COLLECT} -o x-v0 --seed -1": "--seed -1 must be 0 or more",
    f"{COLLECT} -o x-v0 --env-kwargs force:0": "force=0 must be a number from 0.1",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_gets_one_line(datasets, capsys, command):
    """Exit code 2, one line that says what is legal, nothing on disk."""
    (datasets / "taken-v0").mkdir()
    before = everything_in(datasets)
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.split())
    printed, complained = capsys.readouterr()
    assert printed == "" and complained.count("\n") == 1
    assert WRONG[command] in complained
    assert everything_in(datasets) == before


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setitem(cli.sys.modules, "jax", None)
    with pytest.raises(SystemExit, match="2"):
        cli.main(f"{COLLECT} -o x-v0".split())
    assert "pip install 'bullet-envs[minari]'" in capsys.readouterr().err


def test_an_interrupted_collection_leaves_nothing(datasets, monkeypatch):
    agent = load_agent(ENV_ID, "random")

    def interrupted(*arguments, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(agent.policy, "act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(agent, "x-v0", range(2))
    assert not list(Path(datasets).iterdir())
