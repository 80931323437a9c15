"""Environments are played with keys, every episode can be replayed, and agents are watched."""

import os
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pygame
import pytest
from conftest import ALL_STATE_IDS, prefixed
from PIL import ImageGrab
from video_tools import decode

from bullet_envs import cli, play, replay

ENV_ID = "BulletCartPole-v0"


@pytest.fixture(autouse=True)
def unseen(monkeypatch, small_frames):
    """No window is seen, and time passes as fast as it can."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("bullet_envs.window.time.sleep", lambda seconds: None)


class Fingers:
    """Presses keys at their steps; from ``+key`` to ``-key`` it holds them."""

    def __init__(self, monkeypatch, at):
        self.at, self.step, self.held = at, 0, set()
        monkeypatch.setattr(pygame.key, "get_pressed", lambda: self)
        original = play.Session._commands

        def commands(session):
            for key in self.at.get(self.step, ()):
                code = pygame.key.key_code(key.lstrip("+-") or key)
                if len(key) > 1 and key[0] in "+-":
                    (self.held.add if key[0] == "+" else self.held.discard)(code)
                else:
                    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=code))
            self.step += 1
            return original(session)

        monkeypatch.setattr(play.Session, "_commands", commands)

    def __getitem__(self, code):
        return code in self.held


def played(folder, monkeypatch, at, *words, env_id=ENV_ID):
    """Play and return the logs."""
    Fingers(monkeypatch, at)
    assert cli.main(["play", "--env", env_id, "-o", str(folder), *words]) == 0
    logs = sorted(folder.rglob("*.json"))
    return [replay.read(log) for log in logs], logs


@pytest.mark.parametrize("env_id", [one for one in ALL_STATE_IDS if "Arm" not in one])
def test_held_keys_command_actuators(env_id):
    """The first of a pair commands the least, the second the most, both or none nothing."""
    with gym.make(env_id, continuous=True) as env:
        keys, pairs = play.Keys(env), env.unwrapped.task.keys
        for index in range(env.action_space.shape[0]):
            for held, value in (((0,), -1), ((1,), 1), ((), 0)):
                action = keys.action(frozenset(pairs[index][one] for one in held))
                expected = np.zeros(env.action_space.shape, np.float32)
                expected[index] = value
                assert np.array_equal(action, expected) and env.action_space.contains(action)


@pytest.mark.parametrize(
    "env_id, held, action",
    [
        ("CartPole-v1", {"right"}, 1),
        ("CartPole-v1", set(), 0),
        ("MountainCar-v0", {"left"}, 0),
        ("MountainCar-v0", set(), 1),
        ("MountainCar-v0", {"right"}, 2),
        ("Pendulum-v1", {"left"}, [-2.0]),
    ],
)
def test_keys_of_other_environments(env_id, held, action):
    with gym.make(env_id) as env:
        assert np.array_equal(play.Keys(env).action(frozenset(held)), action)


def test_keys_of_games():
    """Arrows for the stick, and the space bar for the button."""
    pytest.importorskip("ale_py")
    with gym.make("ALE/Pong-v5") as env:
        keys = play.Keys(env)
        held = [set(), {"right"}, {"left"}, {"space"}, {"right", "space"}]
        assert [keys.action(frozenset(one)) for one in held] == [0, 2, 3, 1, 4]


def test_with_two_actions_the_last_goes_on():
    with gym.make("CartPole-v1") as env:
        keys = play.Keys(env)
        held = [{"right"}, set(), {"left"}, set()]
        assert [keys.action(frozenset(one)) for one in held] == [1, 1, 0, 0]


def test_other_actions_are_refused():
    class Switches(gym.Env):
        action_space = gym.spaces.MultiBinary(3)

    with pytest.raises(ValueError, match="keys cannot command MultiBinary"):
        play.Keys(Switches())


def test_an_episode_is_as_the_keys_were_held(tmp_path, monkeypatch, capsys):
    """Its log has every action, and replays to the bit."""
    at = {0: ["+right"], 3: ["-right", "+left"], 5: ["-left"], 8: ["q"]}
    (card,), (log,) = played(tmp_path, monkeypatch, at, "--seed", "4")
    assert card["seed"] == 4 and card["length"] == 8 and card["return"] == 8.0
    assert card["actions"] == [[1.0]] * 3 + [[-1.0]] * 2 + [[0.0]] * 3
    assert "Tab " in capsys.readouterr().out
    assert cli.main(["replay", str(log)]) == 0
    assert "equal to the recorded one" in capsys.readouterr().out


def test_pause_step_and_new_episode(tmp_path, monkeypatch):
    """Paused no action is taken, but one for each step that is asked for."""
    at = {2: ["space"], 10: ["."], 14: ["."], 20: ["space"], 23: ["r"], 26: ["escape"]}
    first, second = played(tmp_path, monkeypatch, at)[0]
    assert (first["seed"], first["length"]) == (0, 2 + 2 + 3)
    assert (second["seed"], second["length"]) == (1, 2)


def test_an_episode_that_ends_is_held_and_the_next_begins(tmp_path, monkeypatch):
    at = {0: ["+right"], 120: ["q"]}
    logs, _ = played(tmp_path, monkeypatch, at)
    assert len(logs) >= 2
    assert logs[0]["terminated"] and not logs[0]["truncated"]
    assert [log["seed"] for log in logs] == list(range(len(logs)))


def test_slow_motion(tmp_path, monkeypatch):
    seen = []
    show = play.Window.show
    monkeypatch.setattr(
        play.Window, "show", lambda self, draw: seen.append(self.speed) or show(self, draw)
    )
    played(tmp_path, monkeypatch, {1: ["-"], 2: ["-"], 3: ["="], 4: ["="], 5: ["="], 6: ["q"]})
    assert seen == [1, 0.5, 0.25, 0.5, 1, 1]


@pytest.mark.parametrize("words, steps", [((), 150), (("--algo", "dqn"), 60)])
def test_an_agent_takes_over(tmp_path, monkeypatch, words, steps):
    """The LQR, or one that numbers its actions, in the continuous environment; and gives back."""
    pytest.importorskip("torch")
    at = {0: ["tab"], steps: ["tab"], steps + 5: ["q"]}
    (card,), _ = played(tmp_path, monkeypatch, at, *words)
    assert card["length"] == steps + 5 and not card["terminated"]
    taken = np.array(card["actions"])[:, 0]
    assert np.all(taken[-5:] == 0) and np.count_nonzero(taken[:steps]) > 0.9 * steps
    if words:
        assert set(taken[:steps]) == {-1.0, 1.0}


def test_agents_of_stacks_are_refused(tmp_path, capsys):
    pytest.importorskip("torch")
    command = f"play --env BulletCartPolePixels-v0 --algo ppo -o {tmp_path}"
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.split())
    assert "ppo sees 2 observations at once" in capsys.readouterr().err


@pytest.mark.parametrize("env_id", ["BulletCartPolePixels-v0", "CartPole-v1", "ElbowArm-v0"])
def test_other_environments(tmp_path, monkeypatch, env_id):
    """Of images, of other packages, and without an equilibrium: nobody takes over."""
    (card,), _ = played(tmp_path, monkeypatch, {0: ["tab"], 4: ["q"]}, env_id=prefixed(env_id))
    assert card["length"] == 4


def test_episodes_are_recorded_afterwards(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "DRAWING_PROCESSES", 0)
    at = {0: ["+right"], 6: ["q"]}
    Fingers(monkeypatch, at)
    assert cli.main(["play", "--env", ENV_ID, "-o", str(tmp_path), "--record"]) == 0
    (video,) = tmp_path.rglob("*.mp4")
    assert str(video) in capsys.readouterr().out
    assert len(decode(video)[0]) == 7


def test_the_cross_keeps_the_log(tmp_path, monkeypatch):
    """As `q` does."""
    show = play.Window.show
    count = iter(range(100))

    def closed(self, draw):
        if next(count) == 4:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        show(self, draw)

    monkeypatch.setattr(play.Window, "show", closed)
    (card,), _ = played(tmp_path, monkeypatch, {})
    assert card["length"] == 5


def test_no_display_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SDL_VIDEODRIVER")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["play", "--env", ENV_ID, "-o", str(tmp_path)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot open a window" in error and "DISPLAY=None" in error
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture
def display():
    """Lend a display that nobody looks at."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("Xvfb or xdotool is not installed")
    receiver, sender = os.pipe()
    command = ["Xvfb", "-displayfd", str(sender), "-nolisten", "tcp", "-noreset"]
    command += ["-screen", "0", "1024x768x24"]
    server = subprocess.Popen(command, pass_fds=[sender], stderr=subprocess.DEVNULL)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def in_a_real_window(display, arguments, act):
    """Run a command, act when its window is there, and return what it printed at its end.

    Args:
        display: name of one.
        arguments: of the command, which must end well and complain about nothing.
        act: is given a function that has xdotool do something.
    """
    environ = {**os.environ, "DISPLAY": display}
    environ.pop("SDL_VIDEODRIVER", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "bullet_envs", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def press(*words):
        found = subprocess.run(["xdotool", *words], env=environ, capture_output=True, timeout=60)
        return found.stdout.decode().strip()

    try:
        for _ in range(600):
            if press("getwindowfocus") not in ("", "0", "1"):  # nobody has it, or the root
                break
            press("sleep", "0.1")  # time.sleep does not, see above
        press("sleep", "1")
        act(press)
        out, error = child.communicate(timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert (child.returncode, error) == (0, ""), error
    return out


def test_real_keys_in_a_real_window(display, tmp_path):
    """xdotool presses the keys of a keyboard: the cart moves while one is held, then `q` leaves."""

    def act(press):
        press("key", "r")
        press("keydown", "Right", "sleep", "1", "keyup", "Right", "sleep", "0.2")
        press("key", "q")

    out = in_a_real_window(
        display, ["play", "--env", "BalancingPlate-v0", "-o", str(tmp_path)], act
    )
    logs = [replay.read(log) for log in sorted(tmp_path.rglob("*.json"))]
    actions = np.concatenate([np.reshape(log["actions"], (-1, 2)) for log in logs])
    pressed = actions[:, 1] == 1.0
    assert 5 < pressed.sum() < 100 and not actions[:, 0].any() and not actions[~pressed].any()
    assert not pressed.all()
    assert len(logs) >= 2 and "Tab " in out


@pytest.mark.slow
def test_an_agent_in_a_real_window(display):
    """`evaluate --watch` shows an episode as it goes on, until `q` is pressed."""
    frames = []

    def act(press):
        for _ in range(2):
            press("sleep", "0.5")
            frames.append(np.asarray(ImageGrab.grab(xdisplay=display)))
        press("key", "q")

    command = "evaluate --env BulletCartPole-v0 --algo lqr --watch"
    assert in_a_real_window(display, command.split(), act).count("seed") < 10
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) > 100 for frame in frames)
    assert not np.array_equal(*frames)


class Shown:
    """Counts the frames of windows, and presses a key or the cross after some of them."""

    def __init__(self, monkeypatch, after=None, event=None):
        self.count = 0
        show = play.Window.show

        def counting(window, draw):
            show(window, draw)
            self.count += 1
            if self.count == after:
                pygame.event.post(event)

        monkeypatch.setattr(play.Window, "show", counting)


@pytest.mark.parametrize(
    "env_id, algo", [(ENV_ID, "lqr"), ("BulletCartPolePixels-v0", "ppo"), ("CartPole-v1", "random")]
)
def test_watched_episodes_are_those_of_evaluate(monkeypatch, capsys, env_id, algo):
    """The same table, each state shown once, and the last one held for half a second."""
    monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 6)
    shown = Shown(monkeypatch)
    command = ["evaluate", "--env", env_id, "--algo", algo, "--eval-episodes", "2"]
    assert cli.main([*command, "--watch"]) == 0
    first, second, *table = capsys.readouterr().out.splitlines()
    assert (first, second) == ("seed 10000000: return 6", "seed 10000001: return 6")
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines() == table
    assert shown.count == 2 * (1 + 6 + 25)


@pytest.mark.parametrize(
    "event",
    [
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE),
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_q),
        pygame.event.Event(pygame.QUIT),
    ],
    ids=str,
)
def test_a_watched_agent_can_be_left(monkeypatch, capsys, event):
    """What was played to its end is in the table, and there is none without."""
    monkeypatch.setattr(gym.spec(ENV_ID), "max_episode_steps", 6)
    command = ["evaluate", "--env", ENV_ID, "--algo", "lqr", "--watch"]
    for after, episodes in ((2 * (1 + 6 + 25) + 3, 2), (3, 0)):
        with monkeypatch.context() as patch:
            Shown(patch, after, event)
            assert cli.main(command) == 0
        printed = capsys.readouterr().out
        assert printed.count("seed") == episodes
        assert (f"return of {episodes} episodes" in printed) == bool(episodes)


def test_watching_needs_a_display(monkeypatch, capsys):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "--env", ENV_ID, "--algo", "lqr", "--watch"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot open a window" in error and "bullet-envs record" in error
