"""Every command and snippet of README and documents runs as it stands, trainings shortened."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import bullet_envs
from benchmarks import custom_environment
from benchmarks.tables import read_rows
from bullet_envs import cli
from bullet_envs.agents import algorithm
from bullet_envs.agents.run import Run
from bullet_envs.cli import main
from bullet_envs.template import EXAMPLE, write_package

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
    "agents/README.md",
)
# What a document shows that is not to be run here: installation, other programs, and make.
NOT_OURS = (
    *("pip ", "conda ", "source ", "make ", "jupytext ", "jupyter "),
    *("pytest", "tensorboard", "python -m benchmarks", "python examples/", "python -m rl_zoo3"),
)
# Pages whose blocks other tests run: parts of one file, cells of a notebook, an example.
ELSEWHERE = ("docs/custom_environment.md", "docs/tutorial.md", "docs/data.md")
EXTRAS = ("envpool", "ray")  # snippets that import these need them
# Settings that snippets have, and what makes their trainings take seconds.
SHORTER = {"timesteps=": 512, "n_steps=": 16, "batch_size=": 64}


def blocks(document, language):
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"<!-- code .*?<!-- /code -->", "", text, flags=re.DOTALL)  # parts of functions
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(document):
    """Return the commands of a document, those in console blocks and those in tables."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = [line for block in blocks(document, "console") for line in block.splitlines()]
    lines += re.findall(r"\| `(bullet-envs [^`]*)` \|", text)
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, without a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*precision lowered:UserWarning")  # of EnvPool's spaces
@pytest.mark.parametrize(
    "document",
    [
        # Those of the agents train on images.
        pytest.param(name, marks=[pytest.mark.slow] if name == "docs/agents.md" else [])
        for name in DOCUMENTS
    ],
)
def test_snippets_run(document, elsewhere):
    """The Python blocks of a document run one after the other, in one namespace."""
    namespace = {}
    for block in blocks(document, "python"):
        if document in ELSEWHERE:
            continue
        needs = [name for name in EXTRAS if re.search(rf"^(import|from) {name}\b", block, re.M)]
        if not all(map(importlib.util.find_spec, needs)):
            continue
        code = block.replace('render_mode="human"', 'render_mode="rgb_array"')
        for name, value in SHORTER.items():
            code = re.sub(rf"{name}[\d_]+", f"{name}{value}", code)
        exec(compile(code, document, "exec"), namespace)
    for name in ("env", "envs"):
        if name in namespace:
            namespace[name].close()


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run(document, elsewhere, monkeypatch):
    """Each command ends well, with trainings of a few steps and evaluations of a few episodes."""
    if document == "docs/custom_environment.md":  # calls its package so
        sys.path.append(str(write_package("planar_arm", elsewhere) / "src"))
        importlib.invalidate_caches()
        importlib.import_module("planar_arm")
    for env_id in bullet_envs.ENV_IDS:
        monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 30)
    ran = 0
    for command in commands(document):
        if command.startswith(NOT_OURS):
            continue
        program, *arguments = shlex.split(command)
        assert program == "bullet-envs", command
        # Minutes, or extras; the tests of RLlib, of validation, of exports and of datasets.
        elsewhere_tested = arguments[0] in ("validate", "export", "collect")
        if "ALE/" in command or "rllib" in command or elsewhere_tested:
            cli._build_parser().parse_args(arguments)
            continue
        if arguments[0] == "train":
            arguments += ["-n", "200", "--no-progress"]
            if "--hyperparams" in arguments:  # of the guide: a rollout of 8,192 steps
                arguments += ["--hyperparams", "n_envs:4", "n_steps:32", "batch_size:64"]
        if arguments[0] in ("evaluate", "compare"):
            arguments += ["--eval-episodes", "3"]
        if arguments[0] == "bench" and "--only" not in arguments:
            continue  # minutes; tests/test_bench.py has its own
        if arguments[0] == "bench":
            arguments += ["--repeats", "1"]
        assert main(arguments) == 0, command
        ran += 1
    at_least = {"docs/use.md": 5, "docs/trouble.md": 4, "docs/custom_environment.md": 4}
    at_least |= {"docs/agents.md": 4, "docs/recording.md": 3, "agents/README.md": 3}
    assert ran >= at_least.get(document, 0)


def test_commands_of_tables_are_found():
    """A table that is laid out anew must not take its commands out of the test above."""
    assert "bullet-envs train --algo dqn --env BalancingPlate-v0" in commands("agents/README.md")


TINY = {
    "reinforce": {"episodes": 4},
    "dqn": {"learning_starts": 100, "gradient_steps": 1},
    "a2c": {},
    "ppo": {"n_steps": 32, "batch_size": 64, "n_epochs": 1},
}


@pytest.mark.parametrize(
    "algo, env_id",
    [
        *((algo, "CartPole-v1") for algo in TINY),
        *((algo, "Pendulum-v1") for algo in ("a2c", "ppo")),
        *((algo, "BulletCartPole-v0") for algo in ("a2c", "ppo")),  # with a teacher
    ],
)
def test_page_explains_every_metric(algo, env_id, tmp_path):
    """The tables of an algorithm have the columns that a training logs, no others."""
    teacher = {"teacher_coef": 1.0} if env_id == "BulletCartPole-v0" else {}
    config = algorithm(algo).config(
        env_id=env_id, n_timesteps=2000, eval_freq=1000, hidden=(8,), **TINY[algo], **teacher
    )
    with Run(tmp_path / "run", config, progress=False) as run:
        algorithm(algo).train(config, run)
    logged = set(read_rows(tmp_path / "run" / "progress.csv")[0])
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    explained = []
    for name in ("all", algo):
        (table,) = re.findall(rf"<!-- metrics {name} -->(.*?)<!-- /metrics -->", text, re.DOTALL)
        explained += re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    if env_id != "Pendulum-v1":  # of Box actions only
        explained = [name for name in explained if name != "train/std"]
    if not teacher:
        explained = [name for name in explained if name != "train/imitation_loss"]
    assert sorted(explained) == sorted(logged)


def test_guide_shows_the_file_that_new_writes():
    """The Python blocks of the guide, in their order, are the task's file, line by line."""
    shown = "\n".join(blocks("docs/custom_environment.md", "python")).splitlines()
    file = (EXAMPLE / "src" / "planar_arm" / "__init__.py").read_text(encoding="utf-8").splitlines()
    assert [line for line in shown if line.strip()] == [line for line in file if line.strip()]


def test_guide_shows_the_urdf_that_new_writes():
    """The XML of the guide is part of the robot's file."""
    (shown,) = blocks("docs/custom_environment.md", "xml")
    urdf = (EXAMPLE / "src" / "planar_arm" / "planar_arm.urdf").read_text(encoding="utf-8")
    assert re.sub(r"\s+", " ", shown.strip()) in re.sub(r"\s+", " ", urdf)


def test_data_shows_the_example():
    """The page has examples/behaviour_cloning.py, which tests/test_collect.py runs."""
    [shown] = blocks("docs/data.md", "python")
    file = (ROOT / "examples" / "behaviour_cloning.py").read_text(encoding="utf-8")
    assert file.endswith(f'"""\n\n{shown}')


def test_guide_and_package_train_alike():
    """The guide's commands are those of the package's README."""
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8").splitlines()
    for command in commands("docs/custom_environment.md"):
        if command.startswith(("bullet-envs train", "bullet-envs evaluate", "bullet-envs record")):
            assert command in readme


def test_guide_shows_what_was_measured():
    """The guide's table is that of the CSV, and every seed solves the arm in five minutes."""
    rows = read_rows(ROOT / "benchmarks" / "custom_environment.csv")
    text = (ROOT / "docs" / "custom_environment.md").read_text(encoding="utf-8")
    assert custom_environment.table(rows) in text
    assert [int(row["seed"]) for row in rows] == [0, 1, 2, 3, 4]
    assert all(float(row["reached"]) >= 0.95 and float(row["seconds"]) <= 300 for row in rows)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "assets/README.md"])
def test_files_that_documents_name_exist(document):
    """Every link to a file, and every file in backticks with a folder, is there."""
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((path.parent / link).exists() for link in links), links
    named = re.findall(r"`((?:bullet_envs|agents|benchmarks|tests|docs)/[\w/.]+)`", text)
    missing = [n for n in named if not ((ROOT / n).exists() or (EXAMPLE / n).exists())]
    assert not missing


def test_map_names_every_module():
    """CONTRIBUTING's table has every module of the package and of the agents."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {*re.findall(r"[\w/]+\.py", text)}
    names = {name.rpartition("/")[2] for name in named}
    for folder in ("bullet_envs", "bullet_envs/engine", "agents"):
        for module in (ROOT / folder).glob("*.py"):
            if not module.stem.startswith("__"):
                assert module.name in names, module
