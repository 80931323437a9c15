"""Atari games: preprocessed as is usual, and trained, resumed, evaluated and recorded as others."""

import json
import sys
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from test_agents import outcome, resume, stop_at, train

from benchmarks import atari
from benchmarks.tables import read_rows
from bullet_envs.agents import EnvConfig, algorithm, load_agent
from bullet_envs.cli import main

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

# Games that are cut short, after 20 to 50 actions.
SHORT_GAMES = {"max_num_frames_per_episode": 200}
TINY = {
    **{"env_kwargs": SHORT_GAMES, "n_timesteps": 96, "eval_freq": 96, "save_freq": 48},
    **{"n_envs": 2, "hidden": (8,)},
}
SETTINGS = {
    "ppo": {"n_steps": 12, "batch_size": 12, "n_epochs": 1},
    "a2c": {"n_steps": 6},
    "dqn": {"learning_starts": 24, "buffer_size": 1000, "batch_size": 8},
}


def tiny(algo, env_id):
    """Return the settings of a training of a few seconds, the preset of Atari games otherwise."""
    return {**algorithm(algo).preset(env_id), **TINY, **SETTINGS[algo]}


def test_games_are_preprocessed():
    """Four grey frames of 84 x 84; four frames an action, and no action is repeated at random."""
    env_config = EnvConfig("ALE/Breakout-v5", frame_stack=4)
    with env_config.make() as env:
        assert env.observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        first, _ = env.reset(seed=3)
        frames = env.unwrapped.ale.getEpisodeFrameNumber()
        observation, _, _, _, _ = env.step(1)
        assert env.unwrapped.ale.getEpisodeFrameNumber() == frames + 4
        np.testing.assert_array_equal(observation[:3], first[1:])
        assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    with closing(env_config.make_vec(2)) as envs:
        np.testing.assert_array_equal(envs.reset(seed=[3, 4])[0][0], first)


@pytest.mark.parametrize("training", [True, False])
def test_a_lost_life_ends_only_episodes_of_a_training(training):
    """Breakout has five lives: a training sees one of them, an evaluation the whole game."""
    with closing(EnvConfig("ALE/Breakout-v5").make_vec(1, training=training)) as envs:
        envs.reset(seed=0)
        lives = []
        while True:
            _, _, terminated, truncated, info = envs.step(np.array([1]))  # always fire
            lives.append(int(info["lives"][0]))
            if (terminated | truncated).any():
                break
    assert lives[0] == 5
    assert lives[-1] == (4 if training else 0)


def test_rewards_of_a_training_are_cut():
    """A bird of Phoenix pays 20 points or more in a game, 1 in a training."""
    seen = {}
    for training in (True, False):
        with closing(EnvConfig("ALE/Phoenix-v5").make_vec(1, training=training)) as envs:
            envs.reset(seed=0)
            envs.action_space.seed(0)
            rewards = [float(envs.step(envs.action_space.sample())[1][0]) for _ in range(60)]
        seen[training] = set(rewards)
    assert seen[True] == {0.0, 1.0}
    assert max(seen[False]) >= 20


@pytest.mark.sweep
def test_a_training_on_a_game_resumes_exactly(tmp_path, monkeypatch):
    """Stopped and resumed, it ends as an unbroken one does."""
    algo, env_id = "dqn", "ALE/Pong-v5"
    settings = tiny(algo, env_id)
    with monkeypatch.context() as patch:
        stop_at(patch, 60)
        run, _ = train(algo, tmp_path / "broken", env_id, **settings)
    assert not run.complete
    resume(algo, tmp_path / "broken", run.config)
    train(algo, tmp_path / "unbroken", env_id, **settings)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")


@pytest.mark.sweep
def test_the_same_commands_play_games(tmp_path, capsys):
    """train, evaluate and record, by the id alone; a game's name is not a folder of files."""
    game = ["--env", "ALE/Breakout-v5", "--env-kwargs", "max_num_frames_per_episode:200"]
    settings = [f"{name}:{value}" for name, value in {**SETTINGS["ppo"], "n_envs": 2}.items()]
    runs, videos = tmp_path / "runs", tmp_path / "videos"
    training = ["train", *game, "--algo", "ppo", "-n", "24", "-f", str(runs), "--no-progress"]
    assert main([*training, "-params", *settings]) == 0
    folder = next((runs / "ppo").iterdir())
    assert json.loads((folder / "best.json").read_text())["env_id"] == "ALE/Breakout-v5"
    assert load_agent("ALE/Breakout-v5", folder).env.frame_stack == 4
    agent = ["-i", str(folder), "--stochastic"]
    assert main(["evaluate", *game, *agent, "--eval-episodes", "2"]) == 0
    assert main(["record", *game, *agent, "-o", str(videos)]) == 0
    assert [path.suffix for path in sorted(videos.rglob("*.*"))] == [".json", ".mp4"]
    assert "Arcade Learning Environment" not in capsys.readouterr().err


def test_the_benchmark_trains_what_is_missing(tmp_path, monkeypatch):
    """It writes row, curve, figure and table, and does not train again what has a row."""
    monkeypatch.setattr(atari, "GAMES", {"CartPole-v1": {"n_timesteps": 1024}})
    monkeypatch.setattr(atari, "EVALUATION_GAMES", 3)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- atari -->\n<!-- /atari -->\nafter\n")
    files = {"csv": "rows.csv", "curves": "curves.csv", "document": "page.md", "plot": "plot.png"}
    words = [part for key, name in files.items() for part in (f"--{key}", str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["atari", *words, "--runs", str(tmp_path / "runs")])
    atari.main()
    [row] = read_rows(tmp_path / "rows.csv")
    points = read_rows(tmp_path / "curves.csv")
    assert (row["env_id"], row["steps"], row["best_steps"]) == ("CartPole-v1", "1024", "1024")
    assert [point["steps"] for point in points] == ["1024"]
    assert f"| {row['mean']} | {row['worst']} |\n<!-- /atari -->\nafter" in page.read_text()
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert load_agent("CartPole-v1", tmp_path / "runs" / "CartPole-v1").algo == "ppo"
    monkeypatch.setattr(atari, "train_or_resume", None)
    atari.main()


def test_the_page_has_the_committed_results():
    """A line per game that was trained, whose curve is that of the same training."""
    rows, curves = read_rows(atari.CSV_PATH), read_rows(atari.CURVES_PATH)
    root = atari.CSV_PATH.parent.parent
    assert atari.table(rows) in (root / "docs" / "agents.md").read_text()
    for row in rows:
        steps = [point["steps"] for point in curves if point["env_id"] == row["env_id"]]
        assert row["best_steps"] in steps and steps[-1] == row["steps"]
