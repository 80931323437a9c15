"""`make benchmark-agents`: cells that resume, tables of their rows, a page that is up to date."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks import agents, agents_page, comparisons, plain_sb3, wall_clock
from benchmarks.code_blocks import with_code
from benchmarks.comparisons import Cell, Comparison, cell_of, cells, select
from benchmarks.tables import read_rows
from bullet_envs.agents import algorithm, load_agent
from bullet_envs.agents.checkpoints import read_tensors
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.agents.run import Config, Run

ROOT = Path(__file__).parent.parent
DQN = {"eval_freq": 300, "save_freq": 300, "learning_starts": 100, "hidden": (16,)}
TINY = (
    Comparison("published", "CartPole-v1", "dqn", 600, range(2), DQN, "500 (here)", 9, 10),
    Comparison("published", "CartPole-v1", "reinforce", 500, range(1), {"episodes": 4}),
    Comparison("equal-settings", "BulletCartPole-v0", "dqn", 600, range(1), DQN, sb3=True),
    Comparison("equal-settings", "BulletCartPole-v0", "sb3-dqn", 600, range(1)),
)


def options(folder, *words):
    """Return arguments of the command that writes into a folder alone."""
    files = {"csv": "a.csv", "curves": "c.csv", "plot": "p.png", "json": "w.json", "runs": "runs"}
    arguments = [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]
    document = folder / "page.md"
    if not document.exists():
        names = ("comparison", "improvement", "curves", "wall-clock")
        document.write_text("\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names))
    return [*arguments, "--document", str(document), *words]


def paths(folder):
    """Return those options as the command reads them."""
    arguments = options(folder)
    named = zip(arguments[::2], arguments[1::2], strict=True)
    return argparse.Namespace(**{name[2:]: Path(path) for name, path in named})


def run_command(monkeypatch, *arguments):
    """Run the command in this process, its workers in others; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["agents", *arguments])
    with pytest.raises(SystemExit) as ended:
        agents.main()
    return ended.value.code


@pytest.mark.slow
def test_the_command_trains_what_is_missing(tmp_path, monkeypatch):
    """Two workers write rows and curves in the table's order, the page and its picture.

    What the CSV has is not trained again.
    """
    monkeypatch.setattr(comparisons, "COMPARISONS", TINY)
    assert run_command(monkeypatch, *options(tmp_path)) is None
    rows, curves = read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "c.csv")
    assert [cell_of(row) for row in rows] == [cell.key for cell in cells()]
    assert [row["steps"] for row in rows] == ["600", "600", rows[2]["steps"], "600", "600"]
    for row in rows:
        mine = [point for point in curves if cell_of(point) == cell_of(row)]
        assert mine[-1]["steps"] == row["steps"]
        assert all(1 <= float(row[f"{which}_mean"]) <= 500 for which in ("best", "last"))
        assert len(row["sha256"]) == 64 and float(row["seconds"]) > 0
    assert not list((tmp_path / "runs").iterdir())
    page = (tmp_path / "page.md").read_text()
    assert agents_page.table(rows) in page and agents_page.improvement_table(rows) in page
    assert "](p.png)" in page and (tmp_path / "p.png").stat().st_size > 10_000
    assert "old" not in page

    monkeypatch.setattr(agents, "train_all", lambda *_: pytest.fail("trained again"))
    assert run_command(monkeypatch, *options(tmp_path)) is None
    assert (tmp_path / "page.md").read_text() == page


COMMAND = """
from benchmarks import agents, comparisons
from benchmarks.comparisons import Comparison

settings = {"eval_freq": 500, "save_freq": 500, "gradient_steps": 1, "hidden": (16,)}
comparisons.COMPARISONS = (
    Comparison("published", "CartPole-v1", "dqn", 2000, range(2), settings),
)
if __name__ == "__main__":
    agents.main()
"""


@pytest.mark.slow
@pytest.mark.sweep
def test_stopped_and_resumed_as_unbroken(tmp_path, monkeypatch):
    """Ctrl-C in the middle of two trainings leaves checkpoints; the rows are those without it."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

    def start(*words):
        command = [sys.executable, script, *options(tmp_path, *words)]
        return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)

    process = start()
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if list(tmp_path.glob("runs/*/best.json")):  # so has been the first evaluation
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=100)
    assert process.returncode == 1 and "the same command goes on" in complaint
    assert "Traceback" not in complaint
    checkpoints = list(tmp_path.glob("runs/*/checkpoint.safetensors"))
    steps = [read_tensors(checkpoint)[1]["steps"] for checkpoint in checkpoints]
    assert 0 < max(steps) < 2000
    assert not (tmp_path / "a.csv").exists()

    process = start("--processes", "1")
    process.communicate(timeout=100)
    assert process.returncode == 0
    rows = read_rows(tmp_path / "a.csv")

    namespace = {"__name__": "command"}
    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "COMPARISONS", comparisons.COMPARISONS)
        exec(COMMAND, namespace)
        chosen = cells()
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    for cell in chosen:
        agents.train_cell(cell, paths(unbroken), [one.key for one in chosen], lambda steps: None)
    others = read_rows(unbroken / "a.csv")
    for row in (*rows, *others):
        del row["seconds"]
    assert len(rows) == 2 and rows == others
    assert (tmp_path / "c.csv").read_text() == (unbroken / "c.csv").read_text()


@pytest.mark.slow
@pytest.mark.sweep
def test_a_cell_that_fails_leaves_the_others(tmp_path, monkeypatch, capfd):
    """Its error is shown, the next one is trained, and the command says that it is not done."""
    wrong = replace(TINY[1], settings={"episodes": 0})
    monkeypatch.setattr(comparisons, "COMPARISONS", (wrong, replace(TINY[0], seeds=range(1))))
    status = run_command(monkeypatch, *options(tmp_path, "--processes", "1"))
    assert status == "not all cells could be trained: see above"
    assert "episodes=0 must lie from 1" in capfd.readouterr().err
    assert [row["algo"] for row in read_rows(tmp_path / "a.csv")] == ["dqn"]


def trained(tmp_path, monkeypatch, comparison):
    """Train a cell in this process; return its row and the agents that were evaluated."""
    played = []
    evaluate_ = agents.evaluate

    def noting(agent):
        evaluation = evaluate_(agent)
        weights = {k: v.clone() for k, v in agent.policy.network.state_dict().items()}
        played.append((weights, evaluation.returns))
        return evaluation

    monkeypatch.setattr(agents, "evaluate", noting)
    cell = Cell(comparison, 3)
    counted = []
    agents.train_cell(cell, paths(tmp_path), [cell.key], counted.append)
    (row,) = read_rows(tmp_path / "a.csv")
    assert sum(counted) == comparison.n_timesteps
    return row, played


@pytest.mark.parametrize("algo, begins", [("dqn", 304), ("sb3-dqn", 0)])
def test_an_interrupted_cell_goes_on(tmp_path, monkeypatch, algo, begins):
    """One of ours goes on from its checkpoint, one of SB3's begins anew."""
    settings = DQN if algo == "dqn" else SB3_DQN
    cell = Cell(Comparison("published", "CartPole-v1", algo, 600, range(1), settings), 0)
    monkeypatch.setitem(algorithm("dqn").presets, "CartPole-v1", {"eval_freq": 300})
    evaluate_ = Run.evaluate

    def stopping(run, agent):
        evaluate_(run, agent)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "evaluate", stopping)
        agents.train_cell(cell, paths(tmp_path), [cell.key], lambda steps: None)
    assert not (tmp_path / "a.csv").exists()
    counted = []
    agents.train_cell(cell, paths(tmp_path), [cell.key], counted.append)
    assert counted[0] == begins and sum(counted) == 600
    assert [row["steps"] for row in read_rows(tmp_path / "c.csv")][-1] == "600"
    assert len(read_rows(tmp_path / "c.csv")) == 2


@pytest.mark.parametrize("algo", ["dqn", "sb3-dqn"])
def test_best_and_last_are_two_agents(tmp_path, monkeypatch, algo):
    """The last is that of the whole training, the best that of the best evaluation."""
    saved = []
    evaluate_ = Run.evaluate

    def declining(run, agent):
        """Let the first evaluation be the best."""
        evaluate_(run, agent)
        run.best_return = np.inf
        saved.append({k: v.clone() for k, v in agent.policy.network.state_dict().items()})

    monkeypatch.setattr(Run, "evaluate", declining)
    settings = DQN if algo == "dqn" else {**SB3_DQN, "learning_starts": 100}
    comparison = Comparison("published", "CartPole-v1", algo, 600, range(5), settings)
    monkeypatch.setitem(algorithm("dqn").presets, "CartPole-v1", {"eval_freq": 300})
    row, played = trained(tmp_path, monkeypatch, comparison)
    assert len(saved) == 2
    for name in saved[0]:
        assert np.array_equal(played[0][0][name], saved[1][name])
        assert np.array_equal(played[1][0][name], saved[0][name])
    assert any(not np.array_equal(saved[0][name], saved[1][name]) for name in saved[0])
    for which, (_, returns) in zip(("last", "best"), played, strict=True):
        assert float(row[f"{which}_mean"]) == round(returns.mean(), 2)
        assert float(row[f"{which}_worst"]) == returns.min()


SB3_DQN = {"n_envs": 4, "train_freq": 1, "policy_kwargs": {"net_arch": [16]}}


def test_sb3_stops_when_it_is_solved(tmp_path, monkeypatch):
    """A training of SB3's ends early by the rule that ends one of ours."""
    monkeypatch.setattr(gym.spec("CartPole-v1"), "reward_threshold", 5.0)
    config = Config(env_id="CartPole-v1", n_timesteps=4000, eval_freq=100, solved_evaluations=2)
    with Run(tmp_path / "run", config, progress=False) as run:
        plain_sb3.train(config, run, "sb3-dqn", SB3_DQN)
    assert run.solved and run.steps == 200
    assert len(read_rows(tmp_path / "run" / "progress.csv")) == 2


def test_settings_of_sb3_equal_ours():
    """SB3 takes them all; learning rate and clip range fall as ours do, the target is as fresh."""
    base = {
        **{"n_envs": 4, "n_steps": 8, "gamma": 0.9, "learning_rate": 0.01, "hidden": (8, 4)},
        **{"reward_scale": 1.0, "action_repeat": 1, "frame_stack": 1},
        **{"observe_actions": False, "hold_dropped": False},
    }
    actor_critic = {
        **{"gae_lambda": 0.8, "normalize_advantage": True, "ent_coef": 0.1, "vf_coef": 0.2},
        **base,
        "max_grad_norm": 0.3,
    }
    ppo = {
        **{"batch_size": 16, "n_epochs": 3, "clip_range": 0.3, "clip_range_vf": 0.0},
        **actor_critic,
        "target_kl": 0.0,
    }
    env = EnvConfig("BulletCartPole-v0")
    for algo, ours in (("sb3-a2c", actor_critic), ("sb3-ppo", ppo)):
        settings = plain_sb3.settings_like(algo, types.SimpleNamespace(**ours))
        model = plain_sb3.new_model(algo, env, 0, settings)
        names = ours.keys() - {"hidden", "reward_scale", "action_repeat", "frame_stack"}
        names -= {"observe_actions", "hold_dropped"}
        for name in names - {"learning_rate", "clip_range", "clip_range_vf", "target_kl"}:
            assert getattr(model, name) == ours[name], name
        assert model.policy.net_arch == [8, 4]
        assert [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == [0.01, 0.005, 0.0]
        model.env.close()
    assert [model.clip_range(left) for left in (1.0, 0.5, 0.0)] == [0.3, 0.15, 0.0]
    assert model.clip_range_vf is None and model.target_kl is None
    settings = plain_sb3.settings_like(
        "sb3-ppo", types.SimpleNamespace(**{**ppo, "clip_range_vf": 0.5, "target_kl": 0.1})
    )
    assert settings["clip_range_vf"](0.5) == 0.25 and settings["target_kl"] == 0.1

    ours = algorithm("dqn").config(
        env_id="BulletCartPole-v0", n_envs=4, gradient_steps=2, tau=0.1, gamma=0.9
    )
    model = plain_sb3.new_model("sb3-dqn", env, 0, plain_sb3.settings_like("sb3-dqn", ours))
    for name in ("n_steps", "batch_size", "learning_starts", "gamma", "exploration_fraction"):
        assert getattr(model, name) == getattr(ours, name), name
    assert model.gradient_steps == 2 and model.train_freq.frequency == 1
    assert model.exploration_final_eps == ours.exploration_final
    # Two gradient steps of ours leave 0.9 ** 2 of the old target network.
    assert model.target_update_interval == 4 and model.tau == pytest.approx(0.19)
    model.env.close()

    with pytest.raises(ValueError, match="no equal"):
        plain_sb3.settings_like("sb3-dqn", replace(ours, reward_scale=0.1))


def test_sb3s_default_network_is_on_its_card():
    """SB3 has it as a dict of policy and value network; a card has the widths of one."""
    model = plain_sb3.new_model("sb3-ppo", EnvConfig("Pendulum-v1"), 0, {"n_envs": 1})
    assert plain_sb3._ModelPolicy(model).hidden == (64, 64)
    model.env.close()


def test_cells_of_the_benchmark():
    """Ten seeds of four algorithms on CartPole-v1, five of all others, SB3's beside ours."""
    everything = [cell.key for cell in cells()]
    assert len(everything) == len(set(everything)) == 40 + 15 + 10 + 60
    assert {key[2] for key in everything if key[1] == "CartPole-v1"} == {
        *("ppo", "a2c", "dqn", "reinforce")
    }
    for of in comparisons.COMPARISONS:
        assert not of.sb3 or agents_page.beside(of).seeds == of.seeds
        assert of.required or of.algo.startswith("sb3-")


@pytest.mark.parametrize(
    "words, count",
    [
        ([], 125),
        (["CartPole-v1"], 40),
        (["CartPole-v1", "dqn"], 10),
        (["CartPole-v1", "LunarLander-v3", "dqn", "0", "9"], 3),
        (["sb3-ppo", "0"], 3),
        (["zoo-settings"], 10),
    ],
    ids=str,
)
def test_words_choose_cells(words, count):
    """Of words for one column any may fit; a prefix of a name is no name."""
    assert len(select(cells(), words)) == count


def test_a_word_that_names_nothing(tmp_path, monkeypatch, capsys):
    """It is refused before anything is trained, and the words that there are are named."""
    assert run_command(monkeypatch, *options(tmp_path, "--only", "CartPole")) == 2
    complaint = capsys.readouterr().err
    assert "--only: CartPole must be of" in complaint and "CartPole-v1, " in complaint


def rows_of(comparison, best, last=None):
    """Return rows of a comparison's seeds with some mean returns."""
    names = dict(zip(comparisons.CELL_COLUMNS, comparison.names, strict=False))
    return [
        {**names, "seed": str(seed), "best_mean": str(mean), "last_mean": str(ending)}
        for seed, (mean, ending) in enumerate(zip(best, last or best, strict=True))
    ]


def test_table_of_some_rows():
    """IQM and interval of the best, every seed, the worst, and the IQM of the last agents.

    Of 500, 490, 480, 470 and 100 the middle three have the mean 480, of the last 10 to 50 it is 30.
    """
    of = next(of for of in comparisons.COMPARISONS if of.algo == "dqn" and of.iqm == 154)
    rows = rows_of(of, [480, 500, 100, 490, 470], [10, 20, 30, 40, 50])
    line = agents_page.table(rows).splitlines()[2]
    start = "| LunarLander-v3 | dqn | 100 k | 154 ± 79 at 100 k (v2, RL Zoo) | IQM ≥ 154 | yes |"
    assert line.startswith(f"{start} 480.0 [")
    assert line.endswith("] | 100.0 | 480.0, 500.0, 100.0, 490.0, 470.0 | 30.0 |")
    assert len(agents_page.table(rows).splitlines()) == 3


BOTH = Comparison("published", "CartPole-v1", "ppo", 100, range(5), every_seed=475, iqm=500)


@pytest.mark.parametrize(
    "best, expected",
    [
        ([500, 500, 500, 500, 475], True),
        ([500, 500, 500, 500, 474.99], False),
        ([500, 500, 499.99, 475, 500], False),
        ([500, 500, 500, 500], None),
    ],
    ids=str,
)
def test_what_is_required(best, expected):
    assert agents_page.reached(BOTH, rows_of(BOTH, best)) is expected


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        ([-200] * 5, [-200] * 5, True),
        # 2 % of the range from -1227 to -200 is 20.54.
        ([-220.5] * 5, [-200] * 5, True),
        ([-220.6] * 5, [-200] * 5, False),
        ([-220.6] * 5, [-200] * 4, None),
        ([-100] * 5, [], None),
    ],
    ids=str,
)
def test_what_is_required_beside_sb3(ours, theirs, expected):
    of = next(of for of in comparisons.COMPARISONS if of.env_id == "Pendulum-v1" and of.sb3)
    rows = rows_of(of, ours) + rows_of(agents_page.beside(of), theirs)
    assert agents_page.reached(of, rows) is expected


def test_improvement_over_sb3():
    """Of each environment, and of both together once both are complete."""
    first, second = (
        next(of for of in comparisons.COMPARISONS if of.names == ("equal-settings", env_id, "dqn"))
        for env_id in ("BulletCartPole-v0", "BalancingPlate-v0")
    )
    rows = rows_of(first, [5] * 5) + rows_of(agents_page.beside(first), [4] * 5)
    lines = agents_page.improvement_table(rows).splitlines()[2:]
    assert lines == ["| BulletCartPole-v0 | dqn | 1.00 [1.00, 1.00] | 5 and 5 |"]
    rows += rows_of(second, [5] * 5) + rows_of(agents_page.beside(second), [5] * 5)
    lines = agents_page.improvement_table(rows).splitlines()[2:]
    assert lines[1:] == [
        "| BalancingPlate-v0 | dqn | 0.50 [0.50, 0.50] | 5 and 5 |",
        "| both state ids | dqn | 0.75 [0.75, 0.75] | 10 and 10 |",
    ]


def test_iqm_of_learning_curves():
    """It begins where all have begun, and goes on with the last return of one that has ended."""
    curves = [
        np.array([[10.0, 1.0], [20.0, 3.0]]),
        np.array([[5.0, 2.0], [10.0, 5.0], [30.0, 7.0], [40.0, 9.0]]),
    ]
    steps, middle = agents_page.middle_curve(curves, 40.0)
    assert steps[0] == 10 and steps[-1] == 40
    assert middle[0] == 3 and middle[-1] == 6
    assert np.allclose(middle[(steps > 20) & (steps < 30)], 4)


def test_learning_curves_are_drawn(tmp_path):
    """A thin line per seed and a thick one per comparison; of nothing there is no picture."""
    from matplotlib.axes import Axes

    curves = [
        {**dict(zip(comparisons.CELL_COLUMNS, cell.key, strict=True)), "steps": s, "return": "9.5"}
        for cell in cells()
        for s in ("1000", "2000")
    ]
    drawn = []
    draw = Axes.plot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Axes, "plot", lambda self, *a, **kw: drawn.append((self, kw)) or draw(self, *a, **kw)
        )
        agents_page.plot(curves, tmp_path / "docs" / "curves.png")
    widths = [kw["linewidth"] for _, kw in drawn]
    assert widths.count(0.7) == len(cells()) and widths.count(2.2) == len(comparisons.COMPARISONS)
    # SB3's are in the panels of ours.
    assert len({panel for panel, _ in drawn}) == 14
    assert (tmp_path / "docs" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    agents_page.plot([], tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


@pytest.mark.parametrize("env_id", comparisons.RANDOM)
def test_range_of_returns_begins_with_random_actions(env_id):
    """The figures of the file are those of the bundled random controller."""
    mean = evaluate(load_agent(env_id, "random")).returns.mean()
    assert mean == pytest.approx(comparisons.RANDOM[env_id], abs=0.5)


def test_wall_clock_takes_turns(monkeypatch, capsys):
    """After a warm-up, ours and SB3's alternate; the ratio is the median of single rounds."""
    now, turns = 0.0, []

    def training(name, seconds):
        def train(self, seed, steps):
            nonlocal now
            turns.append((name, steps))
            now += seconds[seed]

        return train

    clock = types.SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(wall_clock, "time", clock)
    monkeypatch.setattr(wall_clock.WallClock, "train_ours", training("ours", [1, 2, 3]))
    monkeypatch.setattr(wall_clock.WallClock, "train_sb3", training("sb3", [4, 4, 4]))
    result = wall_clock.WallClock("BulletCartPole-v0", "dqn").run(3)
    assert turns[:2] == [("ours", 2048), ("sb3", 2048)]
    names = [name for name, _ in turns[2:]]
    assert names == ["sb3", "ours", "ours", "sb3", "sb3", "ours"]
    assert {steps for _, steps in turns[2:]} == {wall_clock.STEPS}
    assert result["ratio"]["median"] == 0.5 and result["seconds"]["ours"]["median"] == 2
    assert "0.50 of SB3's seconds" in capsys.readouterr().out
    timed = {"date": "2020-01-01", "machine": "abacus", "repeats": 3, "sections": [result]}
    assert "| BulletCartPole-v0 | dqn | 2.0 | 4.0 | 0.50 (0.38 to 0.62) | yes |" in (
        wall_clock.table(timed)
    )


def test_wall_clock_of_a_real_training(tmp_path, monkeypatch):
    """The command times both without any evaluation or checkpoint, and writes JSON and page."""
    monkeypatch.setattr(Run, "evaluate", lambda *_: pytest.fail("evaluated"))
    monkeypatch.setattr(Run, "checkpoint", lambda *_: pytest.fail("saved"))
    arguments = options(tmp_path, "--wall-clock", "--rounds", "1", "--steps", "1024")
    only = ("--only", "BalancingPlate-v0", "dqn")
    assert run_command(monkeypatch, *arguments, *only) is None
    timed = json.loads((tmp_path / "w.json").read_text())
    (section,) = timed["sections"]
    assert section["env_id"] == "BalancingPlate-v0" and section["ratio"]["median"] > 0
    assert wall_clock.table(timed) in (tmp_path / "page.md").read_text()


def test_wall_clock_refuses_other_steps():
    """SB3 takes whole steps of its 8 sub-environments, so that it could not stop at 1,001."""
    with pytest.raises(ValueError, match="SB3 took 1008 steps"):
        wall_clock.WallClock("BulletCartPole-v0", "dqn").train_sb3(0, 1001)


def test_the_page_is_up_to_date():
    """Its tables are those of the CSV, its code that of the files, to the letter."""
    text = agents.DOCUMENT_PATH.read_text(encoding="utf-8")
    rows = read_rows(agents.CSV_PATH)
    timed = None
    if agents.WALL_CLOCK_PATH.exists():
        timed = json.loads(agents.WALL_CLOCK_PATH.read_text())
    picture = agents.PLOT_PATH if agents.PLOT_PATH.exists() else None
    assert agents_page.document(text, rows, timed, picture) == text


def test_every_row_has_a_curve():
    """Rows and curves are of cells that there are, in their order."""
    order = {cell.key: place for place, cell in enumerate(cells())}
    rows, curves = read_rows(agents.CSV_PATH), read_rows(agents.CURVES_PATH)
    for file in (rows, curves):
        places = [order[cell_of(row)] for row in file]
        assert places == sorted(places)
    assert {cell_of(row) for row in rows} == {cell_of(point) for point in curves}


SOURCE = '''"""Some module."""

import math


def area(radius):
    """Return an area.

    With several lines.
    """
    # A circle's.
    square = radius**2

    return math.pi * square


@property
class Shape:
    """It has no area."""

    def area(self):
        return 0
'''


@pytest.mark.parametrize(
    "mark, code",
    [
        (
            "code m.py area",
            "def area(radius):\n    # A circle's.\n    square = radius**2\n\n"
            "    return math.pi * square",
        ),
        ("code m.py Shape.area", "def area(self):\n    return 0"),
        ("code m.py Shape", "@property\nclass Shape:\n    def area(self):\n        return 0"),
        ('code m.py area "A circle" "square ="', "# A circle's.\nsquare = radius**2"),
        ('code m.py area "square =" "square ="', "square = radius**2"),
    ],
)
def test_code_is_included(tmp_path, mark, code):
    """A function, a method or a class without docstring, or some lines, whatever stood there."""
    (tmp_path / "m.py").write_text(SOURCE)
    expected = f"a\n<!-- {mark} -->\n```python\n{code}\n```\n<!-- /code -->\nz\n<!-- /code -->"
    text = f"a\n<!-- {mark} -->\nold\n<!-- /code -->\nz\n<!-- /code -->"
    assert with_code(text, tmp_path) == expected
    assert with_code(expected, tmp_path) == expected
    with_more = expected.replace("z\n", f"z\n<!-- {mark} -->\n")
    assert with_code(with_more, tmp_path).count(code) == 2


@pytest.mark.parametrize(
    "mark, message",
    [
        ("<!-- code m.py volume -->\n<!-- /code -->", "m.py has no function or class volume"),
        ("<!-- code m.py Shape.volume -->\n<!-- /code -->", "no function or class Shape.volume"),
        ('<!-- code m.py area "sphere" "x" -->\n<!-- /code -->', "area has no line with 'sphere'"),
        ('<!-- code m.py area "return" "square =" -->\n<!-- /code -->', "no line with 'square ='"),
        ("<!-- code m.py area -->\n", "must be closed"),
        ("<!-- code m.py -->\n<!-- /code -->", "must be closed"),
        ("<!-- code m.py area -->\n<!-- code m.py area -->\n<!-- /code -->", "must be closed"),
    ],
)
def test_code_that_is_not_there(tmp_path, mark, message):
    """A mark that names nothing, or has no end, is refused."""
    (tmp_path / "m.py").write_text(SOURCE)
    with pytest.raises(ValueError, match=message):
        with_code(mark, tmp_path)
