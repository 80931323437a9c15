"""RL Zoo trains with the suite's settings for it, in a virtual environment of its own.

`.ci/run` makes that one: RL Zoo needs older releases than constraints.txt has.
"""

import json
import shlex
import shutil
import zipfile

import pytest
from conftest import STATE_IDS
from test_documents import commands
from wheels import ROOT, build_wheel, install, run

yaml = pytest.importorskip("yaml")
BIN = ROOT / "build" / "rl-zoo" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BIN.exists(), reason="build/rl-zoo is missing: .ci/run makes it"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the wheel."""
    target = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(tmp_path_factory.mktemp("copy"))
    install(wheel, target, "--target", target)
    return target


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_rl_zoo_trains(env_id, installed, tmp_path):
    """The command of the page, with fewer steps, leaves a model with the settings of the file."""
    [command] = [one for one in commands("docs/data.md") if "rl_zoo3.train" in one]
    python, *words = shlex.split(command.replace("BulletCartPole-v0", env_id))
    words += ["-n", "2048", "--eval-freq", "1024", "--eval-episodes", "2", "--seed", "0"]
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run(str(BIN / python), *words, cwd=tmp_path, path=[installed])
    path = tmp_path / "logs" / "ppo" / f"{env_id}_1" / f"{env_id}.zip"
    model = json.loads(zipfile.ZipFile(path).read("data"))
    assert model["num_timesteps"] == 2048
    settings = yaml.safe_load((ROOT / "examples" / "rl_zoo_ppo.yml").read_text())[env_id]
    for name in ("n_envs", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef"):
        assert model[name] == settings[name]
