"""Progress bars show what a training is at, and are lines in a log file."""

import re
import types

import gymnasium as gym
import numpy as np
import pytest
from conftest import STATE_IDS

from bullet_envs import progress
from bullet_envs.agents import algorithm, new_agent
from bullet_envs.agents.evaluation import Evaluation
from bullet_envs.agents.run import Run
from bullet_envs.progress import progress_bar

ENV_ID = STATE_IDS[0]


@pytest.fixture
def terminal(monkeypatch):
    """Let the standard error be a terminal."""
    stderr = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stderr))


class Clock:
    """Goes on by a second for each look at it."""

    def __init__(self, monkeypatch, seconds=1.0):
        self.now, self.seconds = 1e6, seconds
        monkeypatch.setattr("tqdm.std.time", self)

    def __call__(self):
        self.now += self.seconds
        return self.now


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Return a function that begins a training, whose evaluations have the returns it is given."""
    dqn = algorithm("dqn")

    def begin(**settings):
        config = dqn.config(env_id=ENV_ID, n_timesteps=1000, eval_freq=100, hidden=(8,), **settings)
        agent = new_agent(dqn.policy, config.env, config.hidden)
        run = Run(tmp_path / "run", config)

        def evaluate(*returns):
            played = Evaluation(np.array(returns, float), np.full(len(returns), 9), None)
            monkeypatch.setattr("bullet_envs.agents.run.evaluate", lambda *arguments, **kw: played)
            run.evaluate(agent)

        run.evaluated = evaluate
        return run

    return begin


def states(text):
    """Return what a bar or a log showed, one state after the other."""
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]


def test_a_bar_shows_return_and_threshold(training, terminal, capsys, monkeypatch):
    """Beside the greatest time that is left; once an evaluation was solved, the least."""
    Clock(monkeypatch)
    with training() as run:
        run.advance(200)
        run.log({"rollout/ep_rew_mean": 123.4})
        run._bar.refresh()
        run.evaluated(500, 480)
        run.log({"rollout/ep_rew_mean": 234.5})
        run._bar.refresh()
        run.advance(50)
        run.evaluated(500, 470)
        run._bar.refresh()
    head, *shown = states(capsys.readouterr().err)
    assert head == (f"training on {ENV_ID} in {run.folder}: up to 1000 steps, solved at 475")
    assert all(state.startswith("seed 0: ") for state in shown)
    [first] = [state for state in shown if "return 123 of 475]" in state]
    assert re.search(r"20%\|.*\| 200/1.00k \[00:\d\d, at most 00:\d\d left, return", first)
    solved = [state for state in shown if ", return 490 of 475]" in state]
    assert solved and all(re.search(", solved in 00:.. at best, ", state) for state in solved)
    [unsolved] = [state for state in shown if "return 485 of 475]" in state]
    assert "at most" in unsolved
    assert not [state for state in shown if "return 234" in state]  # less than it is evaluated at


def test_time_left(training, terminal, capsys, monkeypatch):
    """100 steps take ten seconds: 90 to the limit, ten to the next evaluation of the two.

    An update may end a little after the step of the evaluation.
    """
    clock = Clock(monkeypatch, 0.0)
    with training() as run:
        clock.now += 10
        run.advance(100)
        run._bar.refresh()
        run.evaluated(500)
        run._bar.refresh()
        run.advance(110)
        run._bar.refresh()
    shown = states(capsys.readouterr().err)
    assert any("at most 01:30 left" in state for state in shown)
    assert any("solved in 00:10 at best" in state for state in shown)
    assert any("solved in 00:00 at best" in state for state in shown)


def test_what_is_solved_before_the_limit_fills_the_bar(training, terminal, capsys):
    with training() as run:
        for _ in range(2):
            run.advance(100)
            run.evaluated(500, 500)
    assert run.finished and run.outcome == "solved"
    last = states(capsys.readouterr().err)[-1]
    assert re.fullmatch(
        r"seed 0: 100%\|█+\| 200/200 \[00:0\d, solved, best return 500 of 475\]", last
    )


@pytest.mark.parametrize(
    "returns, solved_evaluations, outcome",
    [
        ((100, 200), 2, "not solved"),
        ((400, 600), 2, "threshold reached"),
        ((500, 500), 0, "threshold reached"),
        ((), 2, "not solved"),
    ],
)
def test_outcomes_at_the_limit(training, terminal, capsys, returns, solved_evaluations, outcome):
    with training(solved_evaluations=solved_evaluations) as run:
        run.advance(1008)  # more than asked for
        if returns:
            run.evaluated(*returns)
    assert run.outcome == outcome
    last = states(capsys.readouterr().err)[-1]
    assert re.match(r"seed 0: 100%\|█+\| 1.01k/1.01k \[", last) and outcome in last


def test_an_environment_without_threshold(training, terminal, capsys, monkeypatch):
    """Is never solved, and has no outcome."""
    monkeypatch.setattr(gym.spec(ENV_ID), "reward_threshold", None)
    with training() as run:
        run.advance(1000)
        run.evaluated(500, 500)
    assert run.outcome == "" and run.solved_in_a_row == 0
    head, *_, last = states(capsys.readouterr().err)
    assert head.endswith("up to 1000 steps") and last.endswith("[00:00, best return 500]")


def test_a_training_that_is_stopped_keeps_its_place(training, terminal, capsys):
    with training() as run:
        run.advance(300)
        run.stopped = True
    last = states(capsys.readouterr().err)[-1]
    assert re.match(r"seed 0:  30%\|", last) and last.endswith(", stopped]")


def test_a_log_file_has_occasional_lines(training, capsys, monkeypatch):
    """No more than one each ten seconds, none with a carriage return, the last with the end."""
    clock = Clock(monkeypatch, 0.0)
    with training() as run:
        for _ in range(90):
            clock.now += 1
            run.advance(10)
            run.log({"rollout/ep_rew_mean": 20.0})
        run.evaluated(100)
        run.advance(100)
    text = capsys.readouterr().err
    assert "\r" not in text
    head, *lines = text.splitlines()
    assert "up to 1000 steps, solved at 475" in head
    assert 5 <= len(lines) <= 10
    assert re.fullmatch(
        r"seed 0:  \d\d%, \d+/1.00k \[00:\d\d, at most 0\d:\d\d left, return 20 of 475\]", lines[2]
    )
    assert lines[-1].startswith("seed 0: 100%, 1.00k/1.00k [01:30, not solved, best return 100 of")


def test_a_short_training_in_a_log_file(training, capsys):
    """Where it lies, and how it ended."""
    with training() as run:
        run.advance(1000)
    head, last = capsys.readouterr().err.splitlines()
    assert str(run.folder) in head and last.endswith(", not solved]")


def test_other_bars_in_a_log_file(capsys, monkeypatch):
    """None for what takes less than ten seconds."""
    clock = Clock(monkeypatch, 0.0)
    for seconds, lines in ((0.5, 0), (progress.LINES_APART, 4)):
        with progress_bar(desc="recording", unit="action", total=4) as bar:
            for _ in range(4):
                clock.now += seconds
                bar.update()
        text = capsys.readouterr().err
        assert "\r" not in text and abs(text.count("\n") - lines) <= 1
    assert "recording: 100% 4/4 [00:40<00:00" in text


def test_no_progress_is_silent(tmp_path, capsys):
    config = algorithm("dqn").config(env_id=ENV_ID)
    with Run(tmp_path / "run", config, progress=False) as run:
        run.advance(10)
    assert capsys.readouterr() == ("", "")
