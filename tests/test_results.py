"""The committed results are those of the bundled agents, and `make results` makes them."""

import json
import math
import sys
from pathlib import Path

import pytest
from conftest import BUNDLED, PIXEL_IDS, STATE_IDS
from test_agents import tiny

from benchmarks import results
from benchmarks.tables import read_rows, with_section
from bullet_envs.agents import (
    BUNDLED_ALGOS,
    algorithm,
    controllers_of,
    load_agent,
    pretrained_card,
)


def seeds_of(env_id, algo):
    """Return how many seeds a cell has."""
    if env_id in STATE_IDS:
        return 10
    return 1 if algo == "a2c" else 3


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agents_are_those_of_the_results(env_id, algo):
    """Every seed has its row; the one with the best validation is bundled, and loses nothing."""
    rows = [row for row in read_rows(results.CSV_PATH) if row["env_id"] == env_id]
    cells = {int(row["seed"]): row for row in rows if row["algo"] == algo}
    assert sorted(cells) == list(range(seeds_of(env_id, algo)))
    assert min(float(row["mean"]) for row in cells.values()) >= 475
    card = json.loads(pretrained_card(env_id, algo).read_text())
    seed = results.bundled_seed(rows, env_id, algo)
    assert (card["seed"], card["sha256"]) == (seed, cells[seed]["sha256"])
    assert card["returns"]["mean"] == float(cells[seed]["mean"])
    assert card["returns"]["episodes"] == (1000 if env_id in STATE_IDS else 300)
    if env_id in STATE_IDS:
        assert int(cells[seed]["lost"]) == 0


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_every_seed_has_a_curve(env_id, algo):
    """Learning curves are kept for every seed, and begin before the training of the row ends."""
    curves = read_rows(results.CURVES_PATH)
    for row in read_rows(results.CSV_PATH):
        if (row["env_id"], row["algo"]) == (env_id, algo):
            mine = [point for point in curves if results.cell_of(point) == results.cell_of(row)]
            steps = [int(point["steps"]) for point in mine]
            assert steps and steps == sorted(set(steps)) and steps[-1] == int(row["steps"])
            assert all(1 <= float(point["return"]) <= 500 for point in mine)


def test_bundled_results_are_those_of_the_document():
    """The table of the document is what `make results` writes, to the letter."""
    text = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    rows = read_rows(results.CSV_PATH)
    assert [results.cell_of(row) for row in rows] == results.cells()
    shown = results.table(rows, read_rows(results.CURVES_PATH))
    assert with_section(text, "results", shown) == text


def test_cells_of_the_results():
    """States: ten seeds of each algorithm and both controllers. Images: three, of A2C one."""
    cells = results.cells()
    assert len(cells) == len(set(cells))
    for env_id in STATE_IDS + PIXEL_IDS:
        mine = {cell[1:] for cell in cells if cell[0] == env_id}
        algos = [algo for name, algo in BUNDLED if name == env_id]
        learned = {(algo, seed) for algo in algos for seed in range(seeds_of(env_id, algo))}
        assert mine == {*learned, *((name, 0) for name in controllers_of(env_id))}


@pytest.mark.parametrize(
    "validations, seed",
    [
        ({0: 480, 1: 500}, 1),
        ({0: 474.9, 1: 500, 2: 500}, 1),
        ({2: 500, 0: 100, 1: 500}, 1),
        ({1: 30}, 1),
    ],
    ids=str,
)
def test_the_seed_with_the_best_validation_is_bundled(validations, seed):
    """The first of equal ones; what is reported has no say, nor have other ids and agents."""
    rows = [
        {
            **{"env_id": "BulletCartPolePixels-v0", "algo": "dqn", "seed": str(seed)},
            **{"validation": str(validation), "mean": str(600 - validation)},
        }
        for seed, validation in validations.items()
    ]
    for other in ({"env_id": "BulletCartPole-v0"}, {"algo": "sb3-ppo"}):
        rows += [{**rows[0], **other, "seed": str(n), "validation": "500.0"} for n in range(3)]
    rows.append({**rows[0], "algo": "random", "seed": "", "validation": ""})
    assert results.bundled_seed(rows, "BulletCartPolePixels-v0", "dqn") == seed


def test_learning_curves_are_drawn(tmp_path):
    """A line per seed, a panel per id and algorithm, as a PNG; of nothing there is no picture."""
    from matplotlib.axes import Axes

    curves = [
        {"env_id": env_id, "algo": algo, "seed": str(seed), "steps": str(steps), "return": "9.5"}
        for env_id, algo, seed in results.cells()
        for steps in (1000, 2000)
        if algo in BUNDLED_ALGOS and "CartPole" in env_id
    ]
    drawn = []
    draw = Axes.plot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", lambda *args, **kw: drawn.append(args[1:]) or draw(*args, **kw))
        results.plot(curves, tmp_path / "docs" / "curves.png")
    assert drawn == [([1.0, 2.0], [9.5, 9.5])] * len(curves[::2])
    content = (tmp_path / "docs" / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 10_000
    results.plot([], tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_section_of_a_document():
    """What stands between the two marks is replaced, whatever it was, and nothing else."""
    text = "before\n<!-- a -->\nold\n<!-- b -->\n<!-- /a -->\nafter\n"
    expected = "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    assert with_section(text, "a", "new") == expected
    assert with_section(expected, "a", "new") == expected


@pytest.mark.parametrize(
    "text", ["", "text", "<!-- b -->x<!-- /b -->", "<!-- a -->", "<!-- a -->\ntext", "<!-- /a -->"]
)
def test_a_document_without_the_section_is_refused(text):
    """One that lacks the marks, or one of them."""
    with pytest.raises(ValueError, match="a part from <!-- a --> to <!-- /a -->"):
        with_section(text, "a", "new")


@pytest.mark.slow
def test_results_of_a_tiny_matrix(tmp_path, monkeypatch):
    """`make results`: rows, curves, the bundled agent, the table and the plot of some cells.

    Cells that are there already are not trained again.
    """
    monkeypatch.chdir(tmp_path)
    env_id = "BulletCartPole-v0"
    monkeypatch.setitem(algorithm("dqn").presets, env_id, tiny("dqn", env_id))
    monkeypatch.setattr(results, "SEEDS", range(3))
    monkeypatch.setattr(results, "EPISODES", 4)
    card = tmp_path / "bundled" / "card.json"
    monkeypatch.setattr(results, "pretrained_card", lambda *names: card)
    Path("docs").mkdir()
    Path("docs/results.md").write_text("# Title\n<!-- results -->\n<!-- /results -->\n")
    places = ["--csv", "results.csv", "--curves", "curves.csv"]
    command = ["results", *places, "--envs", env_id, "--algos", "random", "dqn"]
    monkeypatch.setattr(sys, "argv", command)
    results.main()
    rows = read_rows(Path("results.csv"))
    assert [results.cell_of(row) for row in rows] == [
        (env_id, "random", 0),
        *((env_id, "dqn", seed) for seed in range(3)),
    ]
    steps = [(row["seed"], row["steps"]) for row in read_rows(Path("curves.csv"))]
    assert steps == [(str(seed), step) for seed in range(3) for step in ("600", "1200")]
    agent = load_agent(env_id, card)
    assert agent.weights_hash == rows[1]["sha256"] and agent.facts["seed"] == 0
    assert agent.facts["returns"] == {
        **{name: float(rows[1][name]) for name in results.SCORES},
        "episodes": 4,
    }
    shown = results.table(rows, read_rows(Path("curves.csv")))
    assert shown in Path("docs/results.md").read_text()
    assert Path("docs/curves.png").is_file()
    assert not list(Path("runs/results").iterdir())

    before = Path("results.csv").read_text()
    monkeypatch.setattr(results, "_train_cell", lambda *cell: pytest.fail("trained again"))
    results.main()
    assert Path("results.csv").read_text() == before


def test_a_stop_is_one_line(monkeypatch):
    """Ctrl-C ends the command with one line and no traceback."""

    def stopped(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "read_rows", stopped)
    monkeypatch.setattr(sys, "argv", ["results"])
    with pytest.raises(SystemExit, match=r"^stopped: the same command goes on$"):
        results.main()


def test_table_shows_the_worst_seed():
    """A line has the lowest mean, the lowest return and the slowest training of its seeds.

    What is lost is of the bundled seed alone. A training is solved at its first evaluation that
    reaches the threshold.
    """
    names = ("env_id", "algo", "seed", "steps", "seconds", "mean", "worst", "lost", "validation")
    cells = [
        ("BulletCartPole-v0", "random", "", "", "", "20.25", "8.0", "1000", ""),
        ("BulletCartPole-v0", "dqn", "0", "20000", "10.6", "500.0", "500.0", "0", "499"),
        ("BulletCartPole-v0", "dqn", "1", "101999", "57.1", "490.3", "317.0", "40", "491"),
        ("BulletCartPole-v0", "dqn", "2", "5000", "9.0", "495.0", "316.0", "7", "500"),
    ]
    rows = [dict(zip(names, cell, strict=True)) for cell in cells]
    curves = [
        {"env_id": "BulletCartPole-v0", "algo": "dqn", "seed": seed, "steps": steps, "return": mean}
        for seed, steps, mean in (
            *(("0", "10000", "474.9"), ("0", "20000", "475.0"), ("1", "50000", "480.0")),
            *(("1", "101999", "490.0"), ("2", "5000", "500.0")),
        )
    ]
    *_, random, dqn = results.table(rows, curves).splitlines()
    assert random == "| BulletCartPole-v0 | random | 20.2 | 8 | 1000 of 1000 | | | | |"
    assert (
        dqn == "| BulletCartPole-v0 | dqn | 490.3 | 316 | 7 of 1000 | 3 | 5 k to 101 k | 28 | 57 |"
    )
    assert results.seconds_to_solve(rows[1], curves) == pytest.approx(10.6)
    assert results.seconds_to_solve(rows[3], curves[:4]) == math.inf
