"""The wheel alone is enough: it is built from what git knows and used in an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

USE_IT = """
import sys
from pathlib import Path

import bullet_envs
import gymnasium as gym

assert Path(bullet_envs.__file__).is_relative_to(sys.prefix), bullet_envs.__file__

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


def run(*command, cwd):
    """Run a command and show its output where it fails."""
    done = subprocess.run(command, cwd=cwd, text=True, stdout=-1, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # A copy, so that setuptools leaves no build/ in the checkout and sees no ignored file.
    copy = tmp_path_factory.mktemp("copy")
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():  # git lists a file deleted but not committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=copy)
    [built] = (copy / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    in_package = {name for name in names if ".dist-info/" not in name}

    expected = {"bullet_envs/py.typed"}
    for folder, inside in [
        ("bullet_envs", "bullet_envs"),
        ("agents", "bullet_envs/agents"),
        ("assets", "bullet_envs/assets"),
    ]:
        for pattern in ["*.py", "*.urdf", "pretrained/*.safetensors", "pretrained/*.json"]:
            for file in (ROOT / folder).glob(pattern):
                expected.add(f"{inside}/{file.relative_to(ROOT / folder).as_posix()}")
    assert in_package == expected
    assert {"bullet_envs/agents/__init__.py", "bullet_envs/assets/__init__.py"} <= names
    assert any(name.endswith(".urdf") for name in names)


@pytest.mark.slow
def test_use_from_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # The dependencies come from here. A folder named in a .pth has its own .pth files ignored, so
    # an editable install of the checkout stays out of sight; bullet_envs.__file__ proves it.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    (Path(site.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    empty = tmp_path / "empty"
    empty.mkdir()
    run(python, "-I", "-c", USE_IT, cwd=empty)
