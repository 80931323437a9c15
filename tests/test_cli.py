"""The command does what it says, and says in one line what it cannot do."""

import argparse
import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import BUNDLED, PIXEL_IDS, STATE_IDS, TRAINED_HERE, everything_in
from PIL import Image
from video_tools import decode

import bullet_envs
from bullet_envs import cli
from bullet_envs.agents import (
    ALGOS,
    CONTROLLERS,
    ROBUST,
    EnvConfig,
    algorithm,
    controllers_of,
    load_agent,
    new_agent,
    pretrained_card,
    settings_help,
)
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, evaluate
from bullet_envs.agents.run import Run
from bullet_envs.overlay import MARGIN

ENV_ID = "BulletCartPole-v0"
PIXEL_ID = "BulletCartPolePixels-v0"
TRAIN = f"train --algo reinforce --env {ENV_ID} --no-progress -n 400"
EVALUATE = f"evaluate --env {ENV_ID} --algo lqr --eval-episodes 1"
RECORD = f"record --env {ENV_ID} --algo lqr -o videos"
SETTINGS = (
    "n_timesteps, eval_freq, save_freq, n_eval_episodes, solved_evaluations, frame_stack,"
    " action_repeat, observe_actions, hold_dropped,"
    " training_episode_steps, deterministic_eval, vec_env, workers, device, episodes, gamma,"
    " learning_rate"
)
KEYWORDS = (
    "continuous, force, cart_mass, pole_mass, pole_length, cart_friction, pole_friction, x_limit,"
    " angle_limit, start_range"
)
AGENTS = ", ".join((*ALGOS, *ROBUST, *CONTROLLERS))
CHOICES = ", ".join(map(repr, ALGOS))
OF_AGENTS = ", ".join(map(repr, (*ALGOS, *ROBUST, *CONTROLLERS)))
TRAIN_ON_PIXELS = f"train --algo sb3-ppo --env {PIXEL_ID} --no-progress -n 400"
COMPARE = f"compare --env {ENV_ID} --algo lqr random"
LONG = "-" * 5000

# A wrong command and what its one line must say; the legal values, where one can list them.
WRONG = {
    "foo": "'enjoy', 'compare', 'record', 'validate', 'export', 'collect', 'replay'",
    "observability": "invalid choice: 'observability'",
    "train": "--env, --algo",
    "train --algo reinforce": "--env",
    "train --algo reinforce --env CartPol-v1": "Did you mean: `CartPole`?",
    "train --algo reinforce --env CartPole": "env_id='CartPole' is not an environment",
    "train --algo reinforce --env no_such_package:CartPole-v1": "No module named 'no_such_package'",
    "train --algo reinforce --env json:Nothing-v1": "'json:Nothing-v1' is not an environment",
    "evaluate --algo random --env CartPol-v1": "Did you mean: `CartPole`?",
    "evaluate --algo dqn --env CartPole-v1": "no dqn agent of CartPole-v1 is bundled: train one",
    "evaluate --algo lqr --env CartPole-v1": "which CartPole-v1 does not show",
    "record --algo random --env Nothing-v0 -o videos": "'Nothing-v0' is not an environment",
    "evaluate --algo random --env CartPole-v1 --env-kwargs forze:1": "'forze'",
    "evaluate --algo random --env CartPole-v1 --env-kwargs render_mode:x": "set render_mode",
    "train --algo dqn --env Pendulum-v1": "dqn needs Discrete actions",
    "bench --env CartPole-v1": "--env CartPole-v1 must be a registered task: BulletCartPole-v0",
    "bench --env no_such_package:X-v0": "No module named 'no_such_package'",
    "bench --repeats 0": "repeats=0 must be 1 or more",
    "new": "NAME",
    "new Arm": "NAME 'Arm' must be",
    "new numpy": "NAME 'numpy' is that of an installed package",
    "new empty": "empty exists already: choose another name",
    "new arm -o file": "cannot write file/arm: not a directory",
    "new arm -o nowhere": "cannot write nowhere/arm: no such file or directory",
    f"{EVALUATE} --env-kwargs force:{LONG}": f"force='{LONG[:76]}... must be a number from 0.1",
    f"{EVALUATE} --env-kwargs force:{'(' * 5000}": "must be a number from 0.1 to 1000 N",
    f"{EVALUATE} --env-kwargs force:{'9' * 5000}": "must be a number from 0.1 to 1000 N",
    f"{TRAIN} -params gamma:{LONG}": "gamma='---",
    f"{TRAIN} --env-kwargs force:5 autoreset_mode:x": "env_kwargs cannot set autoreset_mode",
    f"train --algo sac --env {ENV_ID}": CHOICES,
    f"train --algo lqr --env {ENV_ID}": CHOICES,
    f"{TRAIN} --nonsense": "--nonsense",
    f"{TRAIN} -n 0": "n_timesteps=0 must lie from 1 to",
    f"{TRAIN} -n -5": "n_timesteps=-5 must lie from 1 to",
    f"{TRAIN} -n 1.5": "'1.5'",
    f"{TRAIN} -n x": "'x'",
    f"{TRAIN} --eval-freq 0": "eval_freq=0 must lie from 1 to",
    f"{TRAIN} --seed -1": "seed=-1 must lie from 0 to",
    f"{TRAIN} --seed 99999999999": "seed=99999999999 must lie from 0 to",
    f"{TRAIN} --seed x": "'x'",
    f"{TRAIN} -params": "-params",
    f"{TRAIN} -params gamma": "'gamma' must be KEY:VALUE",
    f"{TRAIN} -params gamma=0.9": "'gamma=0.9' must be KEY:VALUE",
    f"{TRAIN} -params :3": "':3' must be KEY:VALUE",
    f"{TRAIN} -params gama:0.9": f"gama; legal: {SETTINGS}",
    f"{TRAIN} -params env_id:{ENV_ID}": f"env_id; legal: {SETTINGS}",
    f"{TRAIN} -params env_kwargs:3": f"env_kwargs; legal: {SETTINGS}",
    f"{TRAIN} -params seed:3": f"seed; legal: {SETTINGS}",
    f"{TRAIN} -params gamma:2": "gamma=2 must lie from 0 to 1",
    f"{TRAIN} -params gamma:": "gamma='' must be a number",
    f"{TRAIN} -params gamma:x": "gamma='x' must be a number",
    f"{TRAIN} -params gamma:True": "gamma=True must be a number",
    f"{TRAIN} -params gamma:1e400": "gamma=inf must lie from 0 to 1",
    f"{TRAIN} -params episodes:8.0": "episodes=8.0 must be a whole number",
    f"{TRAIN} -params hidden:8": "hidden=8",
    f"{TRAIN} -params hidden:(0,)": "hidden=(0,)",
    f"{TRAIN} -params hidden:(99999,)": "hidden=(99999,)",
    f"{TRAIN} -params hidden:(64,)*2": "hidden=",
    f"{TRAIN} -f file": f"cannot write a training into file/reinforce/{ENV_ID}_seed0_1: not a dir",
    f"{TRAIN} -f file/below": "cannot write a training into file/below/reinforce",
    f"{TRAIN} --resume": "nothing to resume: runs has no reinforce training of",
    f"{TRAIN} --resume -f nowhere": "nothing to resume: nowhere has no reinforce training of",
    f"{TRAIN} --save-freq 0": "save_freq=0 must lie from 1 to",
    f"{TRAIN} --env-kwargs force": "'force' must be KEY:VALUE",
    f"{TRAIN} --env-kwargs forze:1": f"{KEYWORDS}",
    f"{TRAIN} --env-kwargs force:x": "force='x' must be a number from 0.1 to 1000 N",
    f"{TRAIN} --env-kwargs force:1e9": "force=1000000000.0 must be a number from 0.1 to 1000 N",
    f"{TRAIN} --env-kwargs force:1j": "force",
    f"{TRAIN} --env-kwargs physics_hz:120": "physics_hz=120",
    f"{TRAIN} --env-kwargs continuous:True": "reinforce needs Discrete actions",
    f"{TRAIN} --env-kwargs id:x": "id",
    f"{TRAIN} --env-kwargs max_episode_steps:9": "max_episode_steps",
    f"{TRAIN} --env-kwargs max_episode_steps:-1": "max_episode_steps",
    f"{TRAIN} --env-kwargs render_mode:human": "render_mode",
    f"train --algo dqn --env {ENV_ID} --env-kwargs continuous:True": "dqn needs Discrete actions",
    f"train --algo sb3-dqn --env {ENV_ID} --env-kwargs continuous:True": "needs Discrete actions",
    f"train --algo sb3-sac --env {ENV_ID} --env-kwargs continuous:False": "needs Box actions",
    "train --algo sb3-sac --env CartPole-v1": "sb3-sac needs Box actions (Discrete ones",
    f"train --algo dqn --env {ENV_ID} -params learning_starts:1": "learning_starts=1",
    f"train --algo sb3-ppo --env {ENV_ID} -params batch_size:100": "batch_size=100",
    "evaluate --algo lqr": "--env",
    f"evaluate --env {ENV_ID}": "--algo -i/--trained-agent",
    f"evaluate --env {ENV_ID} --algo sac": f"{OF_AGENTS}",
    f"evaluate --env {ENV_ID} --algo lqr -i x.json": "-i/--trained-agent",
    f"evaluate --env {ENV_ID} -i nowhere": f"'nowhere' must be one of {AGENTS}",
    f"evaluate --env {ENV_ID} -i nowhere.json": "nowhere.json",
    f"evaluate --env {ENV_ID} -i file": f"'file' must be one of {AGENTS}",
    f"evaluate --env {ENV_ID} -i empty": "empty",
    f"evaluate --env {ENV_ID} -i rubbish.json": "rubbish.json",
    f"evaluate --env {ENV_ID} -i damaged/best.json": "SHA-256",
    f"evaluate --env {ENV_ID} -i damaged": "SHA-256",
    "evaluate --env BalancingPlate-v0 -i good": "BulletCartPole-v0, not for BalancingPlate-v0",
    f"{EVALUATE} --eval-episodes 0": "--eval-episodes 0 must lie from 1 to 1000000",
    f"{EVALUATE} --eval-episodes -1": "--eval-episodes -1 must lie from 1 to 1000000",
    f"{EVALUATE} --eval-episodes x": "'x'",
    f"{EVALUATE} --watch --workers 2": "leave out --workers",
    f"{EVALUATE} --env-kwargs forze:1": f"{KEYWORDS}",
    f"{EVALUATE} --env-kwargs force:0": "force=0 must be a number from 0.1 to 1000 N",
    f"{EVALUATE} --env-kwargs max_episode_steps:0": "max_episode_steps",
    f"{EVALUATE} --env-kwargs render_mode:human": "render_mode",
    f"{TRAIN} -params frame_stack:0": "frame_stack=0 must lie from 1 to 256",
    f"{TRAIN} -params action_repeat:65": "action_repeat=65 must lie from 1 to 64",
    f"{TRAIN} --env-kwargs size:64": "unexpected keyword argument 'size'; legal: render_mode, ",
    f"{TRAIN_ON_PIXELS} --env-kwargs size:15": "size=15 must be a whole number from 16 to 512",
    f"{TRAIN_ON_PIXELS} --env-kwargs size:16": "20 x 20 pixels or more, not 16 x 16",
    f"{TRAIN_ON_PIXELS} --env-kwargs renderer:x": "renderer='x' must be one of tiny, egl",
    f"{TRAIN_ON_PIXELS} --env-kwargs observer:x": "observer='x' must be one of state, pixels",
    f"evaluate --env {PIXEL_ID} --algo lqr": f"{PIXEL_ID} does not show: use it on"
    f" {ENV_ID}, or one of {', '.join(ALGOS)}, random here",
    f"record --env {PIXEL_ID} --algo lqr -o videos": f"use it on {ENV_ID}",
    f"evaluate --env {PIXEL_ID} -i good": f"{ENV_ID}, not for {PIXEL_ID}",
    f"compare --env {ENV_ID}": "a comparison takes 2 to 4 agents, not 0",
    f"compare --env {ENV_ID} --algo lqr": "a comparison takes 2 to 4 agents, not 1",
    f"{COMPARE} -i good good good": "a comparison takes 2 to 4 agents, not 5",
    f"{COMPARE} sac": f"invalid choice: 'sac' (choose from {OF_AGENTS})",
    f"{COMPARE} -i nowhere": f"'nowhere' must be one of {AGENTS}",
    f"{COMPARE} -i damaged": "SHA-256",
    f"{COMPARE} --eval-episodes 1": "--eval-episodes 1 must lie from 2 to 1000",
    f"{COMPARE} --eval-episodes 1001": "--eval-episodes 1001 must lie from 2 to 1000",
    f"{COMPARE} --seed -1": "--seed -1 must be 0 or more",
    f"{COMPARE} --workers 0": "workers=0 must be a whole number from 1",
    f"{COMPARE} --env-kwargs force:0": "force=0 must be a number from 0.1 to 1000 N",
    f"{COMPARE} -o file": "cannot write into file/BulletCartPole-v0: ",
    "compare --env CartPole-v1 --algo random dqn": "no dqn agent of CartPole-v1 is bundled: train",
    "compare --env CartPole-v1 --algo random random --workers 2": "workers=2 must be 1 but for",
    f"{RECORD} --seed -1": "--seed -1",
    f"{RECORD} --seed x": "'x'",
    f"{RECORD} --env-kwargs force:x": "force='x' must be a number from 0.1 to 1000 N",
    f"record --env {ENV_ID} -i nowhere -o videos": f"must be one of {AGENTS}",
    f"record --env {ENV_ID} -i damaged -o videos": "SHA-256",
    f"record --env {ENV_ID} --algo lqr -o file": "file",
}


def untrained(algo, env_id, frame_stack=1, action_repeat=1):
    """Return a small agent with random weights."""
    env = EnvConfig(env_id, {}, frame_stack, action_repeat)
    return new_agent(algorithm(algo).policy, env, (8,))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Work in a folder with a file, an empty folder, an agent and a damaged one."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("rubbish.json").write_text("rubbish")
    for name in ("good", "damaged"):
        untrained("reinforce", ENV_ID).save(tmp_path / name / "best.json")
    [weights] = Path("damaged").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command[:90])
def test_wrong_input_gets_one_line(workplace, capsys, command):
    """Exit code 2, one line that says what is legal, nothing on stdout, nothing on disk."""
    before = everything_in(workplace)
    with pytest.raises(SystemExit) as end:
        cli.main(command.split())
    printed, complained = capsys.readouterr()
    assert end.value.code == 2
    assert printed == ""
    assert complained.startswith("bullet-envs")
    assert complained.count("\n") == 1 and complained.endswith("\n") and len(complained) < 1100
    assert WRONG[command] in complained
    assert re.search(r"; see bullet-envs( \w+)? --help\n$|pip install ", complained)
    assert everything_in(workplace) == before


[COMMANDS] = (
    action.choices
    for action in cli._build_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_an_example_and_what_to_do_next(name, capsys):
    """Both of which are commands that can be given as they stand."""
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    shown = re.search(r"\nexample:\n  (.*)\nnext:\n  (.*)\n", capsys.readouterr().out)
    example, following = (line.split() for line in shown.groups())
    assert example[:2] == ["bullet-envs", "evaluate" if name == "enjoy" else name]
    for program, *arguments in (example, following):
        if name == "collect" and program == "python":
            assert Path(__file__).parent.parent.joinpath(arguments[0]).is_file()
        else:
            assert program == "bullet-envs"
            assert cli._build_parser().parse_args(arguments).command != cli._help


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_begins_with_the_demo(arguments, capsys):
    """Without a command too, which is no mistake."""
    try:
        assert cli.main(arguments) == 0
    except SystemExit as end:
        assert end.code == 0
    shown = capsys.readouterr().out
    assert shown.endswith("\nnext:\n  bullet-envs demo\n  bullet-envs COMMAND --help\n")
    assert all(f"    {name}" in shown or name == "enjoy" for name in COMMANDS)


def run(*arguments, cwd):
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "bullet_envs", *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_wrong_input_in_a_process_of_its_own(workplace):
    """A shell sees the same: code 2, one line on stderr, no traceback and no warning before it."""
    done = run(*f"evaluate --env {ENV_ID} -i damaged".split(), cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"bullet-envs.*\n", done.stderr), done.stderr


def test_installed_command():
    """The installed script is this module's main."""
    script = Path(sys.executable).with_name("bullet-envs")
    done = subprocess.run([script, "list"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(env_id in done.stdout for env_id in STATE_IDS + PIXEL_IDS)


def test_list_loads_nothing_heavy(run_python):
    """`bullet-envs list` loads neither PyBullet nor torch."""
    code = """
import sys
from bullet_envs.cli import main
assert main(["list"]) == 0
heavy = {"pybullet", "torch", "stable_baselines3", "scipy", "imageio"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def test_list_says_what_there_is(capsys):
    """Every id with its limit and threshold, and every agent."""
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for env_id in STATE_IDS + PIXEL_IDS:
        bundled = [algo for name, algo in BUNDLED if name == env_id]
        bundled += [algo for algo in ROBUST if pretrained_card(env_id, algo).is_file()]
        agents = ", ".join((*bundled, *controllers_of(env_id)))
        assert f"{env_id}: 500 actions, solved at 475\n    agents: {agents}\n" in printed


def test_a_reader_who_has_seen_enough():
    """`bullet-envs list | head -0`: code 0 and not a word, however late it is found out."""
    script = Path(sys.executable).with_name("bullet-envs")
    for unbuffered in ("", "1"):
        reader, writer = os.pipe()
        os.close(reader)
        environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([script, "list"], stdout=writer, stderr=subprocess.PIPE, env=environ)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")


def test_names_known_without_torch():
    """The names that the parser knows are those of the agents."""
    assert cli.ALGOS == ALGOS
    assert (*ALGOS, *ROBUST, *CONTROLLERS) == cli.AGENTS


@pytest.mark.parametrize(
    "flag",
    [
        "--algo",
        "--env",
        "-n",
        "--seed",
        "-params",
        "-f",
        "--eval-freq",
        "--save-freq",
        "--env-kwargs",
    ],
)
def test_help_of_train(capsys, flag):
    """`train --help` shows RL Zoo's flags."""
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--help"])
    assert end.value.code == 0
    assert flag in capsys.readouterr().out


def test_pairs_are_literals_or_words():
    """VALUE is a Python literal where it is one, and a word where not; it is never evaluated."""
    assert cli._pair("gamma:0.98") == ("gamma", 0.98)
    assert cli._pair("learning_rate:3e-4") == ("learning_rate", 3e-4)
    assert cli._pair("hidden:(64,64)") == ("hidden", (64, 64))
    assert cli._pair("continuous:True") == ("continuous", True)
    assert cli._pair("continuous:true") == ("continuous", True)
    assert cli._pair("continuous:FALSE") == ("continuous", False)
    assert cli._pair("hidden:none") == ("hidden", None)
    assert cli._pair("name:a:b") == ("name", "a:b")
    for text in ("-" * 100_000, "(" * 100_000, "9" * 100_000, "[" * 5000 + "]" * 5000):
        assert cli._pair(f"force:{text}") == ("force", text)
    assert cli._pair("x:__import__('os').mkdir('ran')") == ("x", "__import__('os').mkdir('ran')")


SCALARS = {
    "time/total_timesteps",
    "time/fps",
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "eval/mean_reward",
    "eval/mean_ep_length",
    "train/learning_rate",
}
SCALARS_OF = {
    "reinforce": SCALARS | {"train/policy_gradient_loss", "train/value_loss"},
    "dqn": SCALARS | {"train/loss", "train/n_updates", "rollout/exploration_rate"},
    "a2c": SCALARS | {"train/policy_loss", "train/value_loss", "train/explained_variance"},
    "ppo": SCALARS | {"train/policy_gradient_loss", "train/value_loss", "train/approx_kl"},
    "sb3-ppo": SCALARS | {"train/policy_gradient_loss", "train/value_loss", "train/approx_kl"},
    "sb3-a2c": SCALARS | {"train/policy_loss", "train/value_loss", "train/explained_variance"},
    "sb3-dqn": SCALARS | {"train/loss", "train/n_updates", "rollout/exploration_rate"},
    "sb3-sac": SCALARS | {"train/actor_loss", "train/critic_loss", "train/ent_coef"},
}
TINY = {
    "reinforce": "episodes:2",
    "dqn": "learning_starts:200",
    "a2c": "n_steps:8",
    "ppo": "n_steps:32",
    "sb3-ppo": "n_steps:32",
    "sb3-a2c": "n_steps:5",
    "sb3-dqn": "learning_starts:100",
    "sb3-sac": "learning_starts:100",
}


@pytest.mark.parametrize(
    "algo, env_id",
    [
        *(
            pytest.param(algo, ENV_ID, marks=[] if algo in ("dqn", "ppo") else pytest.mark.sweep)
            for algo in TRAINED_HERE
        ),
        pytest.param("dqn", PIXEL_ID, marks=pytest.mark.sweep),
    ],
)
def test_train_evaluate_record(tmp_path, monkeypatch, capsys, algo, env_id):
    """A small training is logged under SB3's names; its agent is evaluated and recorded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "DRAWING_PROCESSES", 0)  # whose start takes seconds
    repeat = 2 if env_id == PIXEL_ID else 1
    length = 512 * repeat
    command = ["train", "--algo", algo, "--env", env_id, "-n", f"{length}"]
    command += ["--eval-freq", f"{length // 2}"]
    command += ["--seed", "3", "-params", TINY[algo], "hidden:(8,)"]
    if env_id == PIXEL_ID:
        command += ["n_steps:5", "frame_stack:2", "action_repeat:2", "--env-kwargs", "size:20"]
    assert cli.main(command) == 0
    folder = Path("runs", algo, f"{env_id}_seed3_1")
    printed = capsys.readouterr().out
    assert str(folder) in printed
    assert (
        re.search(r"next: (.*)", printed)[1] == f"bullet-envs evaluate --env {env_id} -i {folder}"
    )

    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert SCALARS_OF[algo] <= set(rows[0])
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(steps) and steps[-1] >= length
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["seed"], settings["n_timesteps"], settings["hidden"]) == (3, length, [8])

    agent = load_agent(env_id, folder)
    assert agent.env.action_repeat == repeat
    expected = evaluate(agent, EVALUATION_SEEDS[:7])
    for verb in ("evaluate", "enjoy"):
        command = [verb, "--env", env_id, "-i", str(folder), "--eval-episodes", "7"]
        assert cli.main(command) == 0
        name, *numbers = capsys.readouterr().out.splitlines()[-1].split()
        assert name == algo
        assert [float(number) for number in numbers] == [
            pytest.approx(value, abs=0.06)
            for value in (
                *(expected.returns.mean(), expected.returns.std(), expected.returns.min()),
                expected.lengths.mean(),
            )
        ]

    best = folder / "best.json"
    command = ["record", "--env", env_id, "-i", str(best), "--seed", "11", "-o", "videos"]
    assert cli.main(command) == 0
    video = Path(capsys.readouterr().out.strip())
    assert video.is_relative_to("videos") and video.read_bytes()[4:8] == b"ftyp"
    facts = json.loads(video.with_suffix(".json").read_text())
    assert facts["agent_hash"] == json.loads(best.read_text())["sha256"] == agent.weights_hash
    assert (facts["seed"], facts["env_id"], facts["complete"]) == (11, env_id, True)
    # The agent with that hash plays the very episode of the video again.
    assert replay(agent, facts) == (facts["actions"], facts["return"])


def replay(agent, facts):
    """Return the actions of the environment and the return of an agent as in a video."""
    actions = []
    with Remembering(gym.make(facts["env_id"], **{**facts["kwargs"], "render_mode": None})) as bare:
        env = agent.env.wrap(bare)
        observation, _ = env.reset(seed=facts["seed"])
        total, ended = 0.0, False
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward
            ended = terminated or truncated
        actions = bare.actions
    return actions, total


class Remembering(gym.Wrapper):
    """Remembers every action of the environment."""

    def reset(self, **arguments):
        self.actions = []
        return self.env.reset(**arguments)

    def step(self, action):
        self.actions.append(np.asarray(action).tolist())
        return self.env.step(action)


@pytest.mark.slow
def test_video_of_repeated_actions_has_every_frame(tmp_path, monkeypatch, capsys):
    """An agent that decides at every other step: a frame of each step at 50 a second."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    untrained("dqn", ENV_ID, action_repeat=2).save(tmp_path / "card.json")
    assert cli.main(f"record --env {ENV_ID} -i card.json --seed 3 -o videos".split()) == 0
    video = Path(capsys.readouterr().out.strip())
    facts = json.loads(video.with_suffix(".json").read_text())
    assert (facts["frames"], facts["fps"]) == (facts["length"] + 1 + facts["held_frames"], 50.0)
    frames, told = decode(video)
    assert len(frames) == facts["frames"] and " 50 fps" in told
    actions = facts["actions"]
    assert facts["length"] >= 8 and actions[: len(actions) // 2 * 2 : 2] == actions[1::2]
    assert replay(load_agent(ENV_ID, "card.json"), facts) == (actions, facts["return"])


def test_video_of_a_pixel_agent_shows_what_it_sees(tmp_path, monkeypatch, capsys):
    """The video of a pixel id has the observation in its corner."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    untrained("dqn", PIXEL_ID, 3, 2).save(tmp_path / "card.json")
    assert cli.main(f"record --env {PIXEL_ID} -i card.json -o videos".split()) == 0
    video = Path(capsys.readouterr().out.strip())
    facts = json.loads(video.with_suffix(".json").read_text())
    frames, _ = decode(video)
    assert len(frames) == facts["frames"] == facts["length"] + 1 + facts.get("held_frames", 0)
    assert frames[0].shape == (540, 960, 3)
    with gym.make(PIXEL_ID) as env:
        seen, _ = env.reset(seed=0)
    side = 3 * 64
    inset = frames[0][-MARGIN - side : -MARGIN, -MARGIN - side : -MARGIN]
    shown = inset[1::3, 1::3].astype(int)
    assert np.abs(shown - seen).mean() < 12  # lossy, and colours are halved


def test_tensorboard_holds_what_the_csv_holds(tmp_path, monkeypatch, capsys):
    """Each number of progress.csv is in the TensorBoard events, at the same step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRAIN.split(), "--eval-freq", "200", "-params", "episodes:2"]) == 0
    [folder] = Path("runs/reinforce").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in set(rows[0]) - {"time/total_timesteps"}:
        written = [(int(r["time/total_timesteps"]), float(r[name])) for r in rows if r[name]]
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        np.testing.assert_allclose(seen, written, rtol=1e-6)


def test_runs_are_numbered(tmp_path, monkeypatch, capsys):
    """A second training gets the next number, whatever else lies about; none is overwritten."""
    monkeypatch.chdir(tmp_path)
    parent = Path("runs/reinforce")
    for name in ("1", "9", "10", "10_old", "11.zip", "x"):
        (parent / f"{ENV_ID}_seed0_{name}").mkdir(parents=True)
    assert cli.main([*TRAIN.split(), "-params", "episodes:1"]) == 0
    assert (parent / f"{ENV_ID}_seed0_11" / "best.json").is_file()
    assert not list((parent / f"{ENV_ID}_seed0_10").iterdir())


def test_environment_keywords_stay_with_the_agent(tmp_path, monkeypatch, capsys):
    """--env-kwargs of a training are on the agent's card; its environment has them from then on."""
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TRAIN.split(), "--env-kwargs", "force:5", "control_hz:25"]) == 0
    agent = load_agent(ENV_ID, next(Path("runs/reinforce").iterdir()))
    assert agent.env.env_kwargs == {"force": 5, "control_hz": 25}
    with agent.make_env() as env:
        assert (env.unwrapped.task.force, env.unwrapped.task.control_hz) == (5, 25)


def test_keywords_of_a_preset_are_kept(tmp_path, monkeypatch):
    """SAC's preset asks for continuous actions; the command's own keywords come on top."""
    monkeypatch.chdir(tmp_path)
    command = f"train --algo sb3-sac --env {ENV_ID} -n 50 --no-progress --env-kwargs force:5"
    assert cli.main(command.split()) == 0
    agent = load_agent(ENV_ID, next(Path("runs/sb3-sac").iterdir()))
    assert agent.env.env_kwargs == {"continuous": True, "force": 5}


@pytest.mark.parametrize("algo", ["reinforce", "sb3-ppo"])
def test_stochastic_draws_actions(tmp_path, monkeypatch, capsys, algo):
    """--stochastic plays another game than the likeliest actions do."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    untrained(algo, ENV_ID).save(tmp_path / "card.json")
    command = ["evaluate", "--env", ENV_ID, "-i", "card.json", "--eval-episodes", "20"]
    tables = []
    for flags in ([], [], ["--stochastic"]):
        assert cli.main([*command, *flags]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


def test_stdout_of_evaluate_is_clean(tmp_path):
    """What evaluate prints is its table: no banner of PyBullet's, no warning, nothing on stderr."""
    arguments = EVALUATE.replace("episodes 1", "episodes 3").split()
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "",
        f"{ENV_ID}, return of 3 episodes from unseen initial states",
        "agent            mean      std    worst   length",
        "lqr             500.0      0.0    500.0    500.0",
    ]
    assert not list(tmp_path.iterdir())


BLOCKED = """
import importlib.util, sys
name = sys.argv.pop(1)
sys.modules[name] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda n, *package: None if n == name else find(n, *package)
from bullet_envs.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_without_torch_the_agents_are_not_offered(run_python):
    """`list` names none and says what to install; `demo` is no command; the LQR works."""
    done = run_python(BLOCKED, "torch", "list")
    assert done.returncode == 0 and done.stderr == b""
    listed = done.stdout.decode()
    assert "BalancingPlate-v0: 500 actions, solved at 475\nBullet" in listed
    assert not re.search("reinforce|dqn|ppo", listed)
    assert listed.endswith("agents: pip install 'bullet-envs[agents]'\n")
    done = run_python(BLOCKED, "torch", "--help")
    assert b"train" in done.stdout and b"demo" not in done.stdout
    assert b"next:\n  pip install 'bullet-envs[agents]'\n" in done.stdout
    done = run_python(BLOCKED, "torch", *EVALUATE.split())
    assert done.returncode == 0 and b"lqr             500.0" in done.stdout


@pytest.mark.parametrize("command", [TRAIN, f"evaluate --env {ENV_ID} --algo dqn", "demo"])
def test_without_torch_one_line_says_what_is_missing(run_python, command):
    """Exit code 2 and what to install; `demo` is no command then."""
    done = run_python(BLOCKED, "torch", *command.split())
    assert (done.returncode, done.stdout) == (2, b"")
    expected = r"invalid choice: 'demo'.*" if command == "demo" else r".*torch.*pip install '.*'"
    assert re.fullmatch(rf"bullet-envs( \w+)?: .*{expected}\n", done.stderr.decode()), done.stderr


def test_help_without_torch(run_python):
    """`train --algo dqn --help` shows the flags and says what the settings need."""
    done = run_python(BLOCKED, "torch", "train", "--algo", "dqn", "--help")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.endswith(b"pip install 'bullet-envs[agents]'\n")


def test_a_renderer_that_is_missing_is_named(run_python):
    """What Gymnasium says of a package that an environment needs to draw, in the last line."""
    done = run_python(BLOCKED, "pygame", *["record", "--env", "CartPole-v1", "--algo", "random"])
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"bullet-envs record: pygame is not")


@pytest.mark.parametrize(
    "env_id, algo",
    [
        pytest.param(*pair, marks=pytest.mark.sweep if pair[0] in PIXEL_IDS else ())
        for pair in BUNDLED
    ],
    ids=str,
)
def test_bundled_agent_plays_from_the_command(capsys, env_id, algo):
    """`bullet-envs evaluate --algo …` prints what the agent returns from the first seeds.

    An agent that sees images may lose one of them; that it solves its id over all 100 is for
    test_bundled_agent_solves_its_task.
    """
    episodes = 1 if env_id in PIXEL_IDS else 5
    command = ["evaluate", "--env", env_id, "--algo", algo, "--eval-episodes", str(episodes)]
    assert cli.main(command) == 0
    name, mean, *_ = capsys.readouterr().out.splitlines()[-1].split()
    assert name == algo
    returns = evaluate(load_agent(env_id, algo), EVALUATION_SEEDS[:episodes]).returns
    assert float(mean) == pytest.approx(returns.mean(), abs=0.05)
    if env_id not in PIXEL_IDS:
        assert float(mean) >= 475


def test_bundled_agents_need_no_network_and_no_folder(tmp_path, monkeypatch):
    """They are found from wherever one stands."""
    monkeypatch.chdir(tmp_path)
    agents = [load_agent(env_id, algo) for env_id, algo in BUNDLED]
    assert len({agent.weights_hash for agent in agents}) == len(agents)


@pytest.fixture
def short_demo(tmp_path, monkeypatch):
    """Let the demonstration train for a second only, in an empty folder, for short episodes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(gym.spec("BalancingPlate-v0"), "max_episode_steps", 60)
    settings = {"n_timesteps": 500, "episodes": 4, "hidden": (8,)}
    monkeypatch.setitem(algorithm("reinforce").presets, "BalancingPlate-v0", settings)


def test_demo(short_demo, capsys, monkeypatch):
    """The demo trains, sets the agent between random play and the LQR, records it, and goes on."""
    monkeypatch.setattr(cli, "DRAWING_PROCESSES", 0)
    monkeypatch.setattr(cli, "DEMO_WIDTH", 160)
    assert cli.main(["demo"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if re.search(r"\d +\d+\.\d$", line)]
    assert [row[0] for row in rows] == ["random", "lqr", "reinforce"]
    agent = load_agent("BalancingPlate-v0", re.search(r"agent: (.*)", printed)[1])
    facts = json.loads(Path(re.search(r"facts: (.*)", printed)[1]).read_text())
    assert facts["agent_hash"] == agent.weights_hash
    assert facts["complete"]
    assert Path(re.search(r"video: (.*)", printed)[1]).stat().st_size > 0
    with Image.open(re.search(r"learning curve: (.*)", printed)[1]) as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 20)}
        assert colours[31, 119, 180] > 100  # of the first curve
    commands = re.findall(r"^  .*  bullet-envs (.*)", printed, re.MULTILINE)
    assert [one.split()[0] for one in commands] == [
        *("evaluate", "play", "validate", "evaluate", "train", "new")
    ]
    for command in commands:
        cli._build_parser().parse_args(command.split())
    assert cli.main([*commands[3].split(), "--eval-episodes", "2"]) == 0


@pytest.mark.parametrize("opener", [True, False])
def test_a_video_is_opened_on_a_desktop(tmp_path, monkeypatch, opener):
    """By xdg-open; where there is none, or no display, nothing happens and nothing fails."""
    seen, script = tmp_path / "seen", tmp_path / "xdg-open"
    if opener:
        script.write_text(f'#!/bin/sh\necho "$1" >> {seen}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for display in ("WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(display, raising=False)
    assert cli._open(Path("one.mp4")) is None
    monkeypatch.setenv("DISPLAY", ":0")
    opening = cli._open(Path("two words.mp4"))
    if opener:
        assert opening.wait(60) == 0 and seen.read_text() == "two words.mp4\n"
    else:
        assert opening is None


@pytest.mark.sweep
def test_demo_stops_on_ctrl_c(short_demo, monkeypatch, capsys):
    """Stopped in its training the demo ends with code 130 and without a video."""
    monkeypatch.setattr(Run, "advance", lambda run, steps: signal.raise_signal(signal.SIGINT))
    assert cli.main(["demo"]) == 130
    assert "video:" not in capsys.readouterr().out


def test_version(capsys):
    """`bullet-envs --version` and `python -m bullet_envs --version` say the package's."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"bullet-envs {bullet_envs.__version__}\n"
    done = run("--version", cwd=None)
    assert done.returncode == 0 and done.stdout == f"bullet-envs {bullet_envs.__version__}\n"


@pytest.mark.parametrize("algo", ALGOS)
def test_help_lists_every_setting(capsys, algo):
    """`train --algo … --help` has name, default and meaning of each."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--algo", algo, "--help"])
    shown = capsys.readouterr().out
    config = algorithm(algo).config
    named = re.findall(r"^  (\w+):(\S+)\n {8}(\S.*)$", shown, re.MULTILINE)
    assert [name for name, _, _ in named] == [name for name, _, _ in settings_help(algo)]
    for name, default, _ in named:  # each is legal as it is shown
        assert cli._pair(f"{name}:{default}")[1] == config.__dataclass_fields__[name].default
    assert len(named) == len(config.__dataclass_fields__) - 3  # these have flags of their own


def test_help_says_how_to_see_the_settings(capsys):
    """`train --help` names the commands that list them."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(f"train --algo {algo} --help" in shown for algo in ALGOS)


def test_any_id_of_gymnasium(tmp_path, monkeypatch, capsys):
    """An agent is trained and evaluated on CartPole-v1, with keywords of that environment."""
    monkeypatch.chdir(tmp_path)
    words = "train --algo dqn --env CartPole-v1 -n 300 --eval-freq 100 --no-progress"
    words += " -params hidden:(8,) learning_starts:100 --env-kwargs sutton_barto_reward:true"
    assert cli.main(words.split()) == 0
    folder = Path("runs/dqn/CartPole-v1_seed0_1")
    assert f"next: bullet-envs evaluate --env CartPole-v1 -i {folder}\n" in capsys.readouterr().out
    agent = load_agent("CartPole-v1", folder)
    assert agent.env.env_kwargs == {"sutton_barto_reward": True}
    # The pole falls before the time limit, which rewards -1 and nothing else.
    assert cli.main(f"evaluate --env CartPole-v1 -i {folder} --eval-episodes 5".split()) == 0
    name, mean, std, worst, length = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, mean, std, worst) == ("dqn", "-1.0", "0.0", "-1.0")
    assert 5 < float(length) < 500


def test_random_actions_on_any_id(capsys):
    """`evaluate --algo random` plays whatever Gymnasium has."""
    for env_id, low, high in [("CartPole-v1", 8, 100), ("Pendulum-v1", -2000, -500)]:
        assert cli.main(f"evaluate --env {env_id} --algo random --eval-episodes 8".split()) == 0
        name, mean, *_ = capsys.readouterr().out.splitlines()[-1].split()
        assert name == "random" and low < float(mean) < high


@pytest.mark.slow
def test_record_of_any_id(tmp_path, monkeypatch, capsys):
    """A video of CartPole-v1."""
    pytest.importorskip("pygame")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["record", "--env", "CartPole-v1", "--algo", "random", "--seed", "1"]) == 0
    video = Path(capsys.readouterr().out.strip())
    assert video == Path("videos/CartPole-v1/random-start1-episode-0.mp4")
    facts = json.loads(video.with_suffix(".json").read_text())
    frames, _ = decode(video)
    assert len(frames) == facts["frames"] == facts["length"] + 1 + facts.get("held_frames", 0)


def test_images_beside_a_video(tmp_path, monkeypatch, capsys):
    """A GIF of every other frame, and a poster that is a frame of the video."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "DRAWING_PROCESSES", 0)
    command = f"record --env {ENV_ID} --algo random --seed 1 --gif --poster"
    assert cli.main(command.split()) == 0
    video, gif, poster = map(Path, capsys.readouterr().out.split())
    frames, _ = decode(video)
    with Image.open(gif) as image:
        # Frames that are the same, as those that are held, may be one that lasts longer.
        assert image.size == (720, 405) and 5 < image.n_frames <= -(-len(frames) // 2)
    with Image.open(poster) as image:
        assert np.array_equal(image, frames[min(100, len(frames) // 2)])


def test_evaluate_records_its_worst_episode(tmp_path, monkeypatch, capsys):
    """From the initial state that it names, with the return that its table has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "DRAWING_PROCESSES", 0)
    command = f"evaluate --env {ENV_ID} --algo lqr --eval-episodes 3 --record"
    assert cli.main([*command.split(), "--env-kwargs", "perturbations:hard"]) == 0
    out = capsys.readouterr().out
    row, video = out.splitlines()[3].split(), Path(out.splitlines()[-1])
    facts = json.loads(video.with_suffix(".json").read_text())
    assert f"seed {facts['seed']}, return {facts['return']:g}:" in out
    assert f"{facts['return']:.1f}" == row[3]
    assert facts["held_frames"] == 25


PACKAGE = """
import gymnasium as gym
import numpy as np

class Countdown(gym.Env):
    observation_space = gym.spaces.Box(0, 9, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, first=5):
        self.first = first

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.first
        return self._observation(), {}

    def step(self, action):
        self.left -= 1
        return self._observation(), 2.0, self.left == 0, False, {}

    def _observation(self):
        return np.array([self.left], np.float32)

gym.register("Countdown-v0", Countdown)
"""


def test_a_package_in_the_present_folder(tmp_path, monkeypatch, capsys):
    """`module:Id` of a file that lies where the command is run, trained and evaluated."""
    (tmp_path / "my_countdown.py").write_text(PACKAGE)
    words = "--env my_countdown:Countdown-v0"
    training = f"train {words} --algo reinforce -n 50 --no-progress --env-kwargs first:4"
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", [path for path in sys.path if path])  # main appends to it
        assert cli.main(training.split()) == 0
    folder = Path("runs/reinforce/Countdown-v0_seed0_1")
    done = run(*f"evaluate {words} -i {folder} --eval-episodes 3".split(), cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].split() == ["reinforce", "8.0", "0.0", "8.0", "4.0"]


def test_keywords_of_the_environment_are_parsed(capsys):
    """`--env-kwargs continuous:true force:5` are a bool and a number."""
    words = f"{EVALUATE} --env-kwargs continuous:true force:5"
    assert cli.main(words.split()) == 0
    assert "lqr             500.0" in capsys.readouterr().out
    config = cli._env_config(cli._build_parser().parse_args(words.split()))
    assert config.env_kwargs == {"continuous": True, "force": 5}


@pytest.mark.parametrize("algo", TRAINED_HERE)
def test_steps_are_as_many_as_asked_for(tmp_path, monkeypatch, capsys, algo):
    """`-n 100` takes 100 steps, rounded up to one step of all sub-environments."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(f"train --algo {algo} --env {ENV_ID} -n 100 --no-progress".split()) == 0
    steps = int(re.match(r"(\d+) steps in", capsys.readouterr().out)[1])
    settings = json.loads(next(Path("runs", algo).rglob("config.json")).read_text())
    together = settings.get("n_envs", settings.get("episodes"))
    if algo == "reinforce":  # sub-environments whose episode has ended take no more steps
        assert 100 <= steps < 100 + together
    else:
        assert steps == -(-100 // together) * together
    last = (next(Path("runs", algo).rglob("progress.csv"))).read_text().splitlines()[-1]
    assert last.split(",")[0] == str(steps)


SIZES = {
    "reinforce": "-n 6000 -params hidden:(8,) episodes:4 solved_evaluations:0",
    "dqn": "-n 1500 -params hidden:(8,) learning_starts:100 solved_evaluations:0",
    "sb3-ppo": "-n 8000 -params hidden:(8,) n_steps:32 solved_evaluations:0",
    "sb3-sac": "-n 1200 -params hidden:(8,) learning_starts:100 solved_evaluations:0",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo",
    [pytest.param(a, marks=[pytest.mark.sweep] if a != "sb3-ppo" else []) for a in SIZES],
)
def test_ctrl_c_right_after_the_start(tmp_path, monkeypatch, capsys, algo):
    """Exit code 130; the message is true; --resume ends with the weights of an unbroken run."""
    words = f"train --algo {algo} --env {ENV_ID} --no-progress --eval-freq 1000000 --save-freq 1000"
    command = [*words.split(), *SIZES[algo].split()]
    folder = Path("runs", algo, f"{ENV_ID}_seed0_1")
    started = [sys.executable, "-m", "bullet_envs", *command]
    child = subprocess.Popen(
        started, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # From the moment on at which there is something to resume.
    while not (tmp_path / folder / "checkpoint.safetensors").exists():
        assert child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGINT)
    printed, complained = child.communicate(timeout=60)
    assert child.returncode == 130, complained
    taken = int(re.match(r"(\d+) steps in \d+ s: ", printed)[1])  # and no "best return -inf"
    message = (
        r"stopped: the same command with --resume goes on from step (\d+)"
        r"(?: and takes (\d+) steps again)?\n"
    )
    told = re.fullmatch(message, complained)
    assert told, complained
    assert int(told[1]) + int(told[2] or 0) == taken < 3000

    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--resume"]) == 0
    assert f": {folder}\n" in capsys.readouterr().out
    assert cli.main([*command, "-f", "unbroken"]) == 0
    cards = [folder, Path("unbroken", algo, folder.name)]
    one, other = (json.loads((card / "best.json").read_text())["sha256"] for card in cards)
    assert one == other


def test_ctrl_c_before_the_training(monkeypatch, capsys):
    """Code 130 and not a word, while torch is loaded, say."""
    monkeypatch.setattr(cli, "_env_config", lambda options: signal.raise_signal(signal.SIGINT))
    assert cli.main(TRAIN.split()) == 130
    assert capsys.readouterr() == ("", "")


def test_nothing_to_resume_names_no_folder_that_never_was(workplace, capsys):
    """A training of another seed is none to go on with."""
    assert cli.main([*TRAIN.split(), "-params", "episodes:1"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main([*TRAIN.split(), "--resume", "--seed", "7"])
    told = capsys.readouterr().err
    assert "runs has no reinforce training of BulletCartPole-v0 with seed 7" in told
    assert "_seed7" not in told


def test_demo_is_offered_where_torch_is():
    """And only there."""
    assert importlib.util.find_spec("torch")
    assert "demo" in cli._build_parser().format_help()
