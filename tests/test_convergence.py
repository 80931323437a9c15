"""The errors of the physics over its time step, as committed, are those of the code."""

import inspect
import re
import sys
from pathlib import Path

import pytest

from benchmarks import convergence
from benchmarks.tables import read_rows
from bullet_envs.tasks import BalancingPlate, CartPole

ROOT = Path(__file__).parent.parent
ROWS = read_rows(convergence.CSV_PATH)


def test_a_document_shows_what_was_measured():
    """Every task at every rate, and the document's table is that of the CSV."""
    cells = [(row["task"], int(row["physics_hz"]), int(row["runs"])) for row in ROWS]
    assert cells == [
        (problem.__name__, physics_hz, runs)
        for problem, runs in convergence.RUNS.items()
        for physics_hz in convergence.PHYSICS_HZ
    ]
    text = (ROOT / "docs" / "physics.md").read_text(encoding="utf-8")
    assert f"<!-- convergence -->\n{convergence.table(ROWS)}\n<!-- /convergence -->" in text


@pytest.mark.parametrize("problem", convergence.RUNS)
def test_what_was_measured_is_what_bullet_does(problem):
    """The row of the rate that ships, measured again."""
    rate = problem().physics_hz
    row = next(r for r in ROWS if (r["task"], r["physics_hz"]) == (problem.__name__, str(rate)))
    measured = convergence.measure(problem, rate, int(row["runs"]))
    for name in ("millimetres", "degrees"):
        assert float(measured[name]) == pytest.approx(float(row[name]), abs=2e-4)
    if problem is CartPole:
        assert float(measured["from_euler"]) < 1e-12


@pytest.mark.parametrize("problem", [CartPole, BalancingPlate])
def test_docstrings_say_what_was_measured(problem):
    """Each rate that the section Physics names, with its errors."""
    (text,) = re.findall(r"^Physics  .*?\n\n", inspect.getdoc(problem), re.DOTALL | re.MULTILINE)
    mine = {int(row["physics_hz"]): row for row in ROWS if row["task"] == problem.__name__}
    said = re.findall(r"(\d+) Hz(?: errs)? by (\S+) deg\s+and\s+(\S+)\s+mm", text)
    assert len(said) == {CartPole: 1, BalancingPlate: 4}[problem]
    for rate, degrees, millimetres in said:
        assert f"{float(mine[int(rate)]['degrees']):.2f}" == degrees
        assert f"{float(mine[int(rate)]['millimetres']):.1f}" == millimetres


def test_make_convergence(tmp_path, monkeypatch):
    """CSV, plot and section are written, from few runs."""
    monkeypatch.chdir(tmp_path)
    Path("physics.md").write_text("before\n<!-- convergence -->\n<!-- /convergence -->\nafter\n")
    files = ["--csv", "rows.csv", "--plot", "plot.png", "--document", "physics.md"]
    monkeypatch.setattr(sys, "argv", ["convergence", "--runs", "4", *files])
    convergence.main()
    rows = read_rows(Path("rows.csv"))
    assert len(rows) == len(ROWS) and {row["runs"] for row in rows} == {"4"}
    text = Path("physics.md").read_text()
    assert f"before\n<!-- convergence -->\n{convergence.table(rows)}\n" in text
    assert Path("plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
