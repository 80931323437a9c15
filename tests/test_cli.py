"""The command does what it says, and says in one line what it cannot do."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import BUNDLED, PIXEL_IDS
from video_tools import decode

import bullet_envs
from bullet_envs import cli
from bullet_envs.agents import ALGOS, CONTROLLERS, algorithm, controllers_of, load_agent
from bullet_envs.agents.controllers import LQR
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, evaluate
from bullet_envs.agents.run import Run

ENV_ID = "BulletCartPole-v0"
PIXEL_ID = "BulletCartPolePixels-v0"
TRAIN = f"train --algo reinforce --env {ENV_ID} --no-progress -n 400"
EVALUATE = f"evaluate --env {ENV_ID} --algo lqr --eval-episodes 1"
RECORD = f"record --env {ENV_ID} --algo lqr -o films"
SETTINGS = (
    "n_timesteps, eval_freq, solved_evaluations, frame_stack, action_repeat, episodes, gamma,"
    " learning_rate"
)
KEYWORDS = "continuous, force, x_limit, angle_limit, start_range"
AGENTS = "reinforce, dqn, ppo, lqr, random"
TRAIN_ON_PIXELS = f"train --algo ppo --env {PIXEL_ID} --no-progress -n 400"
OBSERVABILITY = f"observability --env {PIXEL_ID}"

# A wrong command and what its one line must say; the legal values, where one can list them.
WRONG = {
    "": "COMMAND",
    "foo": "'list', 'train', 'evaluate', 'enjoy', 'record', 'observability', 'demo', 'bench'",
    "train": "--env, --algo",
    "train --algo reinforce": "--env",
    "train --algo reinforce --env CartPole-v1": ", ".join(map(repr, bullet_envs.ENV_IDS)),
    f"train --algo sac --env {ENV_ID}": "'reinforce', 'dqn', 'ppo'",
    f"train --algo lqr --env {ENV_ID}": "'reinforce', 'dqn', 'ppo'",
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
    f"{TRAIN} -f file": "file",
    f"{TRAIN} -f file/below": "file",
    f"{TRAIN} --resume": "no checkpoint",
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
    f"train --algo dqn --env {ENV_ID} -params learning_starts:1": "learning_starts=1",
    f"train --algo ppo --env {ENV_ID} -params batch_size:100": "batch_size=100",
    "evaluate --algo lqr": "--env",
    f"evaluate --env {ENV_ID}": "--algo -i/--trained-agent",
    f"evaluate --env {ENV_ID} --algo sac": "'reinforce', 'dqn', 'ppo', 'lqr', 'random'",
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
    f"{EVALUATE} --env-kwargs forze:1": f"{KEYWORDS}",
    f"{EVALUATE} --env-kwargs force:0": "force=0 must be a number from 0.1 to 1000 N",
    f"{EVALUATE} --env-kwargs max_episode_steps:0": "max_episode_steps",
    f"{EVALUATE} --env-kwargs render_mode:human": "render_mode",
    f"{TRAIN} -params frame_stack:0": "frame_stack=0 must lie from 1 to 64",
    f"{TRAIN} -params action_repeat:65": "action_repeat=65 must lie from 1 to 64",
    f"{TRAIN} --env-kwargs size:64": "unknown keyword size; legal: render_mode, observer, ",
    f"{TRAIN_ON_PIXELS} --env-kwargs size:15": "size=15 must be a whole number from 16 to 512",
    f"{TRAIN_ON_PIXELS} --env-kwargs size:16": "20 x 20 pixels or more, not 16 x 16",
    f"{TRAIN_ON_PIXELS} --env-kwargs renderer:x": "renderer='x' must be one of tiny, egl",
    f"{TRAIN_ON_PIXELS} --env-kwargs observer:x": "observer='x' must be one of state, pixels",
    f"evaluate --env {PIXEL_ID} --algo lqr": f"'lqr' acts on the state and cannot see: use it on"
    f" {ENV_ID}, or one of reinforce, dqn, ppo here",
    f"record --env {PIXEL_ID} --algo lqr -o films": "cannot see",
    f"evaluate --env {PIXEL_ID} -i good": f"{ENV_ID}, not for {PIXEL_ID}",
    "observability": "--env",
    f"observability --env {ENV_ID}": ", ".join(map(repr, PIXEL_IDS)),
    f"{OBSERVABILITY} --size 15": "size=15 must be a whole number from 16 to 512",
    f"{OBSERVABILITY} --size x": "'x'",
    f"{OBSERVABILITY} --stride 0": "stride=0 must lie from 1 to 16",
    f"{OBSERVABILITY} --stride 17": "stride=17 must lie from 1 to 16",
    f"{OBSERVABILITY} --supersampling 5": "supersampling=5 must be a whole number from 1 to 4",
    f"{OBSERVABILITY} --eval-episodes 0": "episodes=0 must lie from 1 to 100",
    f"{OBSERVABILITY} --eval-episodes 101": "episodes=101 must lie from 1 to 100",
    f"{RECORD} --seed -1": "--seed -1",
    f"{RECORD} --seed x": "'x'",
    f"{RECORD} --env-kwargs force:x": "force='x' must be a number from 0.1 to 1000 N",
    f"record --env {ENV_ID} -i nowhere -o films": f"must be one of {AGENTS}",
    f"record --env {ENV_ID} -i damaged -o films": "SHA-256",
    f"record --env {ENV_ID} --algo lqr -o file": "file",
}


def everything_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Work in a folder with a file, an empty folder, an agent and a damaged one."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("rubbish.json").write_text("rubbish")
    for name in ("good", "damaged"):
        agent = algorithm("reinforce").agent(ENV_ID, {}, (8,))
        agent.save(tmp_path / name / "best.json")
    [weights] = Path("damaged").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_gets_one_line(workplace, capsys, command):
    """Exit code 2, one line that says what is legal, nothing on stdout, nothing on disk."""
    before = everything_in(workplace)
    with pytest.raises(SystemExit) as end:
        cli.main(command.split())
    printed, complained = capsys.readouterr()
    assert end.value.code == 2
    assert printed == ""
    assert complained.startswith("bullet-envs")
    assert complained.count("\n") == 1 and complained.endswith("\n")
    assert WRONG[command] in complained
    assert everything_in(workplace) == before


def run(*arguments, cwd):
    """Run the command as a user does."""
    code = "from bullet_envs.cli import main; raise SystemExit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    [f"{TRAIN} --env-kwargs render_mode:foo", f"evaluate --env {ENV_ID} -i damaged"],
)
def test_wrong_input_in_a_process_of_its_own(workplace, command):
    """A shell sees the same: code 2, one line on stderr, no traceback and no warning before it."""
    done = run(*command.split(), cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"bullet-envs.*\n", done.stderr), done.stderr


def test_installed_command():
    """The installed script is this module's main."""
    script = Path(sys.executable).with_name("bullet-envs")
    done = subprocess.run([script, "list"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(env_id in done.stdout for env_id in bullet_envs.ENV_IDS)


def test_list_loads_nothing_heavy(run_python):
    """`bullet-envs list` loads neither PyBullet nor torch nor the agents."""
    code = """
import sys
from bullet_envs.cli import main
assert main(["list"]) == 0
heavy = {"pybullet", "torch", "stable_baselines3", "bullet_envs.agents", "imageio"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def test_list_says_what_there_is(capsys):
    """Every id with its limit and threshold, and every agent."""
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for env_id in bullet_envs.ENV_IDS:
        agents = ", ".join((*ALGOS, *controllers_of(env_id)))
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
    assert cli.PIXEL_IDS == PIXEL_IDS
    assert cli.ALGOS == ALGOS
    assert (*ALGOS, *CONTROLLERS) == cli.AGENTS


@pytest.mark.parametrize(
    "flag", ["--algo", "--env", "-n", "--seed", "-params", "-f", "--eval-freq", "--env-kwargs"]
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
    assert cli._pair("name:a:b") == ("name", "a:b")
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
    "ppo": SCALARS | {"train/policy_gradient_loss", "train/value_loss", "train/approx_kl"},
}
TINY = {
    "reinforce": "episodes:2",
    "dqn": "learning_starts:100",
    "ppo": "n_steps:32",
}


@pytest.mark.parametrize("env_id", [ENV_ID, PIXEL_ID])
@pytest.mark.parametrize("algo", ALGOS)
def test_train_evaluate_record(tmp_path, monkeypatch, capsys, algo, env_id):
    """A small training is logged under SB3's names; its agent is evaluated and filmed."""
    monkeypatch.chdir(tmp_path)
    repeat = 2 if env_id == PIXEL_ID else 1
    length = 512 * repeat
    command = ["train", "--algo", algo, "--env", env_id, "-n", f"{length}"]
    command += ["--eval-freq", f"{length // 2}"]
    command += ["--seed", "3", "-params", TINY[algo], "hidden:(8,)"]
    if env_id == PIXEL_ID:
        command += ["frame_stack:2", "action_repeat:2", "--env-kwargs", "size:20"]
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
    assert agent.action_repeat == repeat
    expected = evaluate(agent, EVALUATION_SEEDS[:7])
    for verb in ("evaluate", "enjoy"):
        command = [verb, "--env", env_id, "-i", str(folder), "--eval-episodes", "7"]
        assert cli.main(command) == 0
        name, *numbers = capsys.readouterr().out.splitlines()[-1].split()
        assert name == algo
        assert [float(number) for number in numbers] == [
            pytest.approx(value, abs=0.06)
            for value in (expected.mean(), expected.std(), expected.min())
        ]

    best = folder / "best.json"
    command = ["record", "--env", env_id, "-i", str(best), "--seed", "11", "-o", "films"]
    assert cli.main(command) == 0
    film = Path(capsys.readouterr().out.strip())
    assert film.is_relative_to("films") and film.read_bytes()[4:8] == b"ftyp"
    facts = json.loads(film.with_suffix(".json").read_text())
    assert facts["agent_hash"] == json.loads(best.read_text())["sha256"] == agent.weights_hash
    assert (facts["seed"], facts["env_id"], facts["complete"]) == (11, env_id, True)
    # The agent with that hash plays the very episode of the film again.
    assert replay(agent, facts) == (facts["actions"], facts["return"])


def replay(agent, facts):
    """Return the actions of the environment and the return of an agent from a film's start."""
    actions = []
    with Remembering(gym.make(facts["env_id"], **{**facts["kwargs"], "render_mode": None})) as bare:
        env = agent.wrap(bare)
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
def test_film_of_repeated_actions_has_every_frame(tmp_path, monkeypatch, capsys):
    """250 actions of two steps each: 501 frames at 50 a second, and the actions of 500 steps."""

    class HalfRate(LQR):
        """An LQR that decides at every other step."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.action_repeat = 2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bullet_envs.agents.controllers.LQR", HalfRate)
    assert cli.main(f"record --env {ENV_ID} --algo lqr --seed 3 -o films".split()) == 0
    film = Path(capsys.readouterr().out.strip())
    facts = json.loads(film.with_suffix(".json").read_text())
    assert (facts["length"], facts["frames"], facts["fps"]) == (500, 501, 50.0)
    frames, told = decode(film)
    assert len(frames) == 501 and " 50 fps" in told
    assert facts["actions"][::2] == facts["actions"][1::2]
    agent = load_agent(ENV_ID, "lqr")
    assert isinstance(agent, HalfRate)
    assert replay(agent, facts) == (facts["actions"], 500.0)


def test_film_of_a_pixel_agent_shows_what_it_sees(tmp_path, monkeypatch, capsys):
    """The film of an id of pictures has the observation to the right of the scene."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    algorithm("dqn").agent(PIXEL_ID, {}, (8,), 3, 2).save(tmp_path / "card.json")
    assert cli.main(f"record --env {PIXEL_ID} -i card.json -o films".split()) == 0
    film = Path(capsys.readouterr().out.strip())
    facts = json.loads(film.with_suffix(".json").read_text())
    frames, _ = decode(film)
    assert len(frames) == facts["frames"] == facts["length"] + 1
    assert frames[0].shape == (360, 848, 3)
    with gym.make(PIXEL_ID) as env:
        seen, _ = env.reset(seed=0)
    shown = frames[0][2:-2:6, 490:846:6].astype(int)
    places = np.arange(360)[2:-2:6] * 64 // 360
    ways = (np.arange(490, 846, 6) - 488) * 64 // 360
    assert np.abs(shown - seen[places][:, ways]).mean() < 12  # lossy, and colours are halved


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
    assert agent.env_kwargs == {"force": 5, "control_hz": 25}
    with agent.make_env() as env:
        assert (env.unwrapped.task.force, env.unwrapped.task.control_hz) == (5, 25)


@pytest.mark.parametrize("algo", ["reinforce", "ppo"])
def test_stochastic_draws_actions(tmp_path, monkeypatch, capsys, algo):
    """--stochastic plays another game than the likeliest actions do."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    algorithm(algo).agent(ENV_ID, {}, (8,)).save(tmp_path / "card.json")
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
        f"{ENV_ID}, return over 3 unseen starts",
        "agent           mean     std   worst",
        "lqr            500.0     0.0     500",
    ]
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named(run_python):
    """Without torch the one line says what to install, and `list` still works."""
    code = """
import sys
sys.modules["torch"] = None
from bullet_envs.cli import main
main(["list"])
main(sys.argv[1:])
"""
    done = run_python(code, *TRAIN.split())
    assert done.returncode == 2
    assert b"BalancingPlate-v0" in done.stdout
    assert re.fullmatch(
        r"bullet-envs: .*pip install 'bullet-envs\[agents\]'\n", done.stderr.decode()
    )


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agent_plays_from_the_command(capsys, env_id, algo):
    """`bullet-envs evaluate --algo …` prints what the agent returns from the first starts.

    An agent of pictures may lose one of them; that it solves its id over all 100 is for
    test_bundled_agent_solves_its_task.
    """
    episodes = 3 if env_id in PIXEL_IDS else 10
    command = ["evaluate", "--env", env_id, "--algo", algo, "--eval-episodes", str(episodes)]
    assert cli.main(command) == 0
    name, mean, _, _ = capsys.readouterr().out.splitlines()[-1].split()
    assert name == algo
    returns = evaluate(load_agent(env_id, algo), EVALUATION_SEEDS[:episodes])
    assert float(mean) == pytest.approx(returns.mean(), abs=0.05)
    if env_id not in PIXEL_IDS:
        assert float(mean) >= 475


def test_bundled_agents_need_no_network_and_no_folder(tmp_path, monkeypatch):
    """They are found from wherever one stands."""
    monkeypatch.chdir(tmp_path)
    agents = [load_agent(env_id, algo) for env_id, algo in BUNDLED]
    assert len({agent.weights_hash for agent in agents}) == len(agents)


def test_observability_of_tiny_pictures(monkeypatch, capsys):
    """The command prints the table of one row, its setting, R² of each column and the returns."""
    from bullet_envs.agents import observability

    for name, value in {"PICTURES": 256, "UNSEEN": 64, "ROUNDS": 1, "EPOCHS": 1}.items():
        monkeypatch.setattr(observability, name, value)
    command = f"{OBSERVABILITY} --size 20 --stride 3 --supersampling 2 --eval-episodes 2"
    assert cli.main(command.split()) == 0
    title, line, row = capsys.readouterr().out.strip().splitlines()
    assert title.startswith(f"| {PIXEL_ID}: px | stride | supersampling | x | x_dot |")
    assert title.count("|") == line.count("|") == row.count("|")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["20", "3", "2"]
    assert all(-20 < float(cell) < 1 for cell in cells[3:7])
    assert 1 <= int(cells[8]) <= float(cells[7]) <= 500


@pytest.fixture
def short_demo(tmp_path, monkeypatch):
    """Let the demonstration train for a second only, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    settings = {"n_timesteps": 500, "episodes": 4, "hidden": (8,)}
    monkeypatch.setitem(algorithm("reinforce").presets, "BalancingPlate-v0", settings)


def test_demo(short_demo, capsys):
    """The demo trains, sets the agent between random play and the LQR, and films it."""
    assert cli.main(["demo"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if re.search(r"\d +\d+$", line)]
    assert [row[0] for row in rows] == ["random", "lqr", "reinforce"]
    agent = load_agent("BalancingPlate-v0", re.search(r"agent: (.*)", printed)[1])
    facts = json.loads(Path(re.search(r"facts: (.*)", printed)[1]).read_text())
    assert facts["agent_hash"] == agent.weights_hash
    assert facts["complete"]
    assert Path(re.search(r"film: (.*)", printed)[1]).stat().st_size > 0


def test_demo_stops_on_ctrl_c(short_demo, monkeypatch, capsys):
    """Stopped in its training the demo ends with code 130 and without a film."""
    monkeypatch.setattr(Run, "advance", lambda run, steps: signal.raise_signal(signal.SIGINT))
    assert cli.main(["demo"]) == 130
    assert "film:" not in capsys.readouterr().out
