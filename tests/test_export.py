"""What is exported acts as the agent does, and says of it what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUNDLED, PIXEL_IDS, STATE_IDS, everything_in

from bullet_envs import cli
from bullet_envs.agents import EnvConfig, algorithm, load_agent, new_agent
from bullet_envs.agents.export import to_huggingface, to_onnx

ENV_ID = "BulletCartPole-v0"
CONTINUOUS = ("a2c", "ppo", "sb3-ppo", "sb3-a2c", "sb3-sac", "rllib-ppo")
EXPORT = f"export --env {ENV_ID} --algo reinforce"

pytestmark = pytest.mark.slow


def untrained(algo, env_id=ENV_ID, **env_kwargs):
    torch.manual_seed(0)
    return new_agent(algorithm(algo).policy, EnvConfig(env_id, env_kwargs), (8,))


def some_observations(space, count):
    """Return such as are seen, and beyond, so that actions are clipped too."""
    rng = np.random.default_rng(count)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *space.shape), np.uint8)
    return rng.normal(scale=3, size=(count, *space.shape)).astype(np.float32)


def assert_parity(agent, path):
    """Compare the model with `agent.predict`, for batches of several sizes."""
    onnxruntime = pytest.importorskip("onnxruntime")
    to_onnx(agent, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3, 64):
        observations = some_observations(agent.observation_space, count)
        [mine] = session.run(["action"], {"observation": observations})
        theirs, _ = agent.predict(observations, deterministic=True)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        if mine.dtype == np.int64:
            assert np.array_equal(mine, theirs)
        else:
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    return session, theirs


@pytest.mark.parametrize(
    "env_id, algo",
    [pytest.param(*one, marks=[pytest.mark.sweep] if "Plate" in one[0] else []) for one in BUNDLED],
)
def test_bundled_agents_act_alike(tmp_path, env_id, algo):
    """Of vectors and of stacks of images, and the model names where it belongs."""
    pytest.importorskip("onnxscript")
    agent = load_agent(env_id, algo)
    session, actions = assert_parity(agent, tmp_path / "model.onnx")
    assert len(np.unique(actions)) > 1 or agent.observation_space.dtype == np.uint8
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["env_id"] == env_id and facts["sha256"] == agent.weights_hash
    assert facts["frame_stack"] == str(agent.env.frame_stack)


@pytest.mark.parametrize("algo", CONTINUOUS)
def test_continuous_actions_are_scaled_and_clipped(tmp_path, algo):
    """To a Box that is not [-1, 1], with weights that would leave it."""
    pytest.importorskip("onnxscript")
    agent = untrained(algo, "Pendulum-v1")
    # Only the last layer: large weights before it would multiply the error of float32.
    for name, parameter in agent.policy.network.named_parameters():
        if name.startswith(("policy.2", "action_net", "mu")):
            parameter.data *= 10 if algo == "sb3-sac" else 300  # the others begin small
    _, actions = assert_parity(agent, tmp_path / "model.onnx")
    assert np.abs(actions).max() > 1.5 and np.abs(actions).max() <= 2


@pytest.mark.parametrize("algo", ["ppo", "sb3-dqn"])
def test_untrained_discrete_actions(tmp_path, algo):
    pytest.importorskip("onnxscript")
    assert_parity(untrained(algo), tmp_path / "model.onnx")


@pytest.mark.parametrize("env_id, frames", [("BalancingPlate-v0", 40), (PIXEL_IDS[0], 2)])
def test_histories_with_actions(tmp_path, env_id, frames):
    """Long stacks of vectors, and images with planes of actions."""
    pytest.importorskip("onnxscript")
    env = EnvConfig(env_id, {}, frames, 1, True)
    agent = new_agent(algorithm("ppo").policy, env, (8,))
    for parameter in agent.policy.network.policy.parameters():
        parameter.data *= 30
    assert_parity(agent, tmp_path / "model.onnx")


def front_matter(folder):
    yaml = pytest.importorskip("yaml")
    opening, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(front)


def test_huggingface_folder(tmp_path, capsys):
    """Its front matter has the figures of the card, and `load_agent` loads the same agent."""
    pytest.importorskip("yaml")
    folder = tmp_path / "below" / "sb3-ppo"
    words = f"export --env BalancingPlate-v0 --algo sb3-ppo --format huggingface -o {folder}"
    assert cli.main(words.split()) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    front = front_matter(folder)
    card = load_agent("BalancingPlate-v0", "sb3-ppo")
    returns = card.facts["returns"]
    assert front["library_name"] == "stable-baselines3"
    assert {"BalancingPlate-v0", "reinforcement-learning"} < set(front["tags"])
    [result] = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "BalancingPlate-v0"
    [metric] = result["metrics"]
    assert metric["type"] == "mean_reward"
    assert metric["value"] == f"{returns['mean']:.2f} +/- {returns['std']:.2f}"
    loaded = load_agent("BalancingPlate-v0", folder)
    assert loaded.weights_hash == card.weights_hash and loaded.facts == card.facts
    assert [path.name for path in folder.parent.iterdir()] == ["sb3-ppo"]  # no part is left
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".md", ".safetensors"]


def test_an_agent_without_returns_is_evaluated(tmp_path):
    """As a training leaves it: 100 episodes, whose figures the new card keeps."""
    pytest.importorskip("yaml")
    agent = untrained("reinforce")
    to_huggingface(agent, tmp_path / "agent")
    returns = json.loads((tmp_path / "agent" / "best.json").read_text())["returns"]
    assert returns["episodes"] == 100 and returns["mean"] < 200
    [metric] = front_matter(tmp_path / "agent")["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{returns['mean']:.2f} +/- {returns['std']:.2f}"


def test_a_video_is_included(tmp_path):
    """One that is there, or one that is recorded."""
    pytest.importorskip("yaml")
    Path(tmp_path, "some.mp4").write_bytes(b"video")
    words = f"{EXPORT} --format huggingface"
    given = f"{words} -o {tmp_path / 'given'} --video {tmp_path / 'some.mp4'}"
    assert cli.main(given.split()) == 0
    assert (tmp_path / "given" / "replay.mp4").read_bytes() == b"video"
    assert "replay.mp4" in (tmp_path / "given" / "README.md").read_text()


@pytest.mark.slow
def test_a_video_is_recorded(tmp_path):
    pytest.importorskip("yaml")
    words = f"{EXPORT} --format huggingface -o {tmp_path / 'agent'} --record"
    assert cli.main(words.split()) == 0
    assert (tmp_path / "agent" / "replay.mp4").stat().st_size > 10_000


WRONG = {
    f"{EXPORT} --format onnx": "-o/--output",
    f"{EXPORT} --format tflite -o x": "'tflite' (choose from 'onnx', 'huggingface')",
    f"export --env {ENV_ID} --algo lqr --format onnx -o x": "invalid choice: 'lqr'",
    f"export --env {ENV_ID} -i nowhere --format onnx -o x": "'nowhere' must be one of",
    "export --env CartPole-v1 --algo dqn --format onnx -o x": "no dqn agent of CartPole-v1",
    f"{EXPORT} --format onnx -o full": "cannot write full: it is a folder, and must be a file",
    f"{EXPORT} --format onnx -o x --record": "--format onnx has no video",
    f"{EXPORT} --format huggingface -o full": "full: it exists, and must be new or an empty",
    f"{EXPORT} --format huggingface -o full --record": "full: it exists, and must be new or an",
    f"{EXPORT} --format huggingface -o full/file": "file: it exists, and must be new or an empty",
    f"{EXPORT} --format huggingface -o x --video no.mp4": "cannot read no.mp4: no such file",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_gets_one_line(tmp_path, monkeypatch, capsys, command):
    """Exit code 2, one line that says what is legal, nothing on disk."""
    pytest.importorskip("yaml")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").write_text("x")
    before = everything_in(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.split())
    printed, complained = capsys.readouterr()
    assert printed == "" and complained.count("\n") == 1
    assert WRONG[command] in complained
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("module, extra", [("onnx", "onnx"), ("yaml", "huggingface")])
def test_missing_packages_are_named(tmp_path, monkeypatch, capsys, module, extra):
    monkeypatch.setitem(cli.sys.modules, module, None)
    format_ = "onnx" if extra == "onnx" else "huggingface"
    with pytest.raises(SystemExit, match="2"):
        cli.main(f"{EXPORT} --format {format_} -o {tmp_path / 'x'}".split())
    assert f"pip install 'bullet-envs[{extra}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_controllers_have_no_network(tmp_path):
    with pytest.raises(ValueError, match="'lqr' has no network"):
        to_onnx(load_agent(ENV_ID, "lqr"), tmp_path / "model.onnx")


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_settings_for_rl_zoo_are_the_presets(env_id):
    """What RL Zoo gives to SB3's PPO is what `train --algo sb3-ppo` gives to it."""
    yaml = pytest.importorskip("yaml")
    path = Path(__file__).parent.parent / "examples" / "rl_zoo_ppo.yml"
    given = yaml.safe_load(path.read_text())[env_id]
    ppo = algorithm("sb3-ppo")
    config = ppo.config(env_id=env_id, **ppo.preset(env_id))
    assert given.pop("policy") == "MlpPolicy"
    assert given.pop("policy_kwargs") == f"dict(net_arch={list(config.hidden)})"
    for name in ("learning_rate", "clip_range"):  # fall linearly to zero
        assert given.pop(name) == f"lin_{getattr(config, name)}"
    assert given == {name: getattr(config, name) for name in given}
    assert given.keys() == {
        *("n_envs", "n_timesteps", "n_steps", "batch_size"),
        *("n_epochs", "gamma", "gae_lambda", "ent_coef"),
    }
