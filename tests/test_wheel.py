"""The wheel alone is enough: it is built from what git knows and used in an empty folder."""

import sys
import zipfile

import pytest
from wheels import ROOT, build_wheel, install, run

USE_IT = """
import sys
from pathlib import Path

import bullet_envs
import gymnasium as gym

assert Path(bullet_envs.__file__).is_relative_to(sys.argv[1]), bullet_envs.__file__

for env_id in bullet_envs.ENV_IDS:
    env = gym.make(env_id)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()

env = gym.make(bullet_envs.ENV_IDS[0], render_mode="rgb_array")
env = bullet_envs.Recorder(env, "videos", episode_trigger=lambda n: True, name_prefix="wheel")
env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
assert Path("videos/wheel-episode-0.mp4").stat().st_size > 0
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where the wheel is installed; its dependencies are those of this Python.

    A folder of PYTHONPATH comes before an editable install of the checkout.
    """
    target = tmp_path_factory.mktemp("installed")
    install(wheel, target, "--target", target)
    return target


@pytest.mark.slow
def test_contents(wheel):
    """The modules, models, trained agents and the template; no tests, benchmarks or documents."""
    names = set(zipfile.ZipFile(wheel).namelist())
    in_package = {name for name in names if ".dist-info/" not in name}

    expected = {"bullet_envs/py.typed"}
    for folder, inside, patterns in [
        ("bullet_envs", "bullet_envs", ["*.py", "engine/*.py", "tasks/*.py", "template/*.py"]),
        ("agents", "bullet_envs/agents", ["*.py", "pretrained/*.json", "pretrained/*.safetensors"]),
        ("assets", "bullet_envs/assets", ["*.py", "*.urdf"]),
    ]:
        for pattern in patterns:
            for file in (ROOT / folder).glob(pattern):
                expected.add(f"{inside}/{file.relative_to(ROOT / folder).as_posix()}")
    example = "bullet_envs/template/planar_arm"
    expected |= {f"{example}/{name}" for name in ("README.md", "pyproject.toml")}
    expected |= {f"{example}/src/planar_arm/{name}" for name in ("__init__.py", "planar_arm.urdf")}
    expected.add(f"{example}/tests/test_planar_arm.py")
    assert in_package == expected
    assert {name.partition("/")[0] for name in in_package} == {"bullet_envs"}


@pytest.mark.slow
def test_use_from_an_empty_folder(installed, tmp_path):
    """Environments, a video, the bundled agents and the command."""
    run(sys.executable, "-c", USE_IT, str(installed), cwd=tmp_path, path=[installed])
    command = [sys.executable, "-m", "bullet_envs"]
    words = ["evaluate", "--env", "BalancingPlate-v0", "--algo", "dqn", "--eval-episodes", "2"]
    shown = run(*command, *words, cwd=tmp_path, path=[installed])
    assert shown.splitlines()[-1].split()[:2] == ["dqn", "500.0"]


@pytest.mark.slow
def test_a_new_package_passes_its_own_tests(installed, tmp_path):
    """Written, installed and tested outside the repository, by what the wheel has."""
    command = [sys.executable, "-m", "bullet_envs"]
    run(*command, "new", "my_arm", cwd=tmp_path, path=[installed])
    site = tmp_path / "site"
    install(tmp_path / "my_arm", tmp_path, "--target", site)
    assert sorted(path.name for path in (site / "my_arm").glob("*.*")) == [
        "__init__.py",
        "my_arm.urdf",
    ]
    tests = tmp_path / "my_arm" / "tests"
    words = ["-q", "-p", "no:cacheprovider", "-W", "error", "."]
    path = [installed, site]
    shown = run(sys.executable, "-m", "pytest", *words, cwd=tests, path=path)
    assert "passed" in shown and "failed" not in shown and "skipped" not in shown
    words = "train --env my_arm:MyArm-v0 --algo sb3-ppo -n 128 --no-progress"
    words += " --hyperparams n_steps:8 batch_size:32"
    shown = run(*command, *words.split(), cwd=tmp_path, path=path)
    assert "next: bullet-envs evaluate --env my_arm:MyArm-v0" in shown
