"""`make ablations`: each removes what it says, resumes, and the page has its results."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablations
from benchmarks.ablations import ABLATIONS, NOTHING, Ablation, Cell, cell_of, cells
from benchmarks.tables import read_rows
from bullet_envs.agents import actor_critic

ROOT = ablations.ROOT
NAMES = [of.name for of in ABLATIONS]


@pytest.mark.parametrize("of", ABLATIONS, ids=NAMES)
def test_a_setting_or_a_patch_removes_the_part(of):
    """The settings exist and differ, or the patch changes the advantages, inside it only."""
    complete, without = (Cell(of, is_complete, 0).config() for is_complete in (True, False))
    assert all(getattr(complete, name) != value for name, value in of.settings.items())
    assert all(getattr(without, name) == value for name, value in of.settings.items())
    rewards, values, next_values = np.ones((3, 4, 1))
    terminated = np.zeros((4, 1), bool)
    truncated = np.array([[False], [True], [False], [False]])
    arguments = (rewards, values, next_values, terminated, truncated, 0.9, 1.0)
    expected = actor_critic.gae(*arguments)
    with of.patch():
        other = actor_critic.gae(*arguments)
    if of.settings:
        np.testing.assert_array_equal(other, expected)
    else:  # the value that follows the truncation is lost
        np.testing.assert_allclose((expected - other)[:, 0], [0.81, 0.9, 0, 0])
    np.testing.assert_array_equal(actor_critic.gae(*arguments), expected)


def test_cells_that_ablations_share_are_the_same_training():
    """A complete algorithm is trained once for all ablations that it stands beside."""
    for of in ABLATIONS:
        for is_complete in (True, False):
            cell = Cell(of, is_complete, 1)
            assert cells()[cell.key].config() == cell.config()
    assert len(cells()) < 6 * len(ABLATIONS)


TINY = (
    Ablation("a", "the bootstrap", "ppo", "BulletCartPole-v0", 2048, 1024, {}, time_limit=9),
    Ablation("b", "the baseline", "reinforce", "CartPole-v1", 1000, 500, {"baseline_epochs": 0}),
)


@pytest.mark.slow
def test_the_command_trains_what_is_missing(tmp_path, monkeypatch):
    """It writes rows, curves, figure and tables, and goes on where it was stopped."""
    monkeypatch.setattr(ablations, "ABLATIONS", TINY)
    monkeypatch.setattr(ablations, "cells", lambda of=TINY: cells(of))
    monkeypatch.setattr(ablations, "SEEDS", range(1))
    page = tmp_path / "page.md"
    page.write_text(
        "\n".join(f"<!-- ablation {n} -->\n<!-- /ablation {n} -->" for n in ("curves", *"ab"))
    )
    files = {"csv": "a.csv", "curves": "c.csv", "plot": "p.png", "runs": "r", "document": "page.md"}
    arguments = [part for name, file in files.items() for part in (f"--{name}", tmp_path / file)]
    monkeypatch.setattr(sys, "argv", ["ablations", *map(str, arguments)])
    train = Cell.train

    def stop(cell, config, run):
        if cell.ablation.name == "b":
            raise KeyboardInterrupt
        return train(cell, config, run)

    monkeypatch.setattr(Cell, "train", stop)
    with pytest.raises(SystemExit, match="the same command goes on"):
        ablations.main()
    assert len(read_rows(tmp_path / "a.csv")) == 2
    monkeypatch.setattr(Cell, "train", train)
    ablations.main()
    rows, curves = read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "c.csv")
    assert [cell_of(row) for row in rows] == list(cells(TINY))
    assert [row["removed"] for row in rows] == [NOTHING, "the bootstrap", NOTHING, "the baseline"]
    assert {cell_of(row) for row in rows} == {cell_of(point) for point in curves}
    assert all(ablations.table(rows, of) in page.read_text() for of in TINY)
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_a_training_with_a_time_limit_has_short_episodes(tmp_path):
    """They are truncated after so many actions; evaluations have the environment's own limit."""
    folder = tmp_path / "run"
    cell = Cell(TINY[0], True, 0)
    with ablations.Run(folder, cell.config(), progress=False) as run:
        cell.train(cell.config(), run)
    rows = read_rows(folder / "progress.csv")
    lengths = [float(row["rollout/ep_len_mean"]) for row in rows if row["rollout/ep_len_mean"]]
    assert max(lengths) <= 9
    assert float(rows[-1]["eval/mean_ep_length"]) > 9


@pytest.mark.parametrize(
    "complete, without, verdict",
    [
        ((90, 80, 70), (69, 60, 20), "80 with it, 50 without it. Below every seed with it: 3 of 3"),
        (
            (90, 80, 70),
            (71, 70, 20),
            "54 without it. Below every seed with it: 1 of 3 curves, 1 of",
        ),
        ((90, 80, 70), (91, 81, 70), "0 of 3 returns at the end. Removing it does no harm here."),
    ],
)
def test_the_verdict_is_that_of_the_seeds(complete, without, verdict):
    """Three seeds of each must be there."""
    of = ABLATIONS[0]
    scores = [
        (complete if cell.is_complete else without)[cell.seed] for cell in cells([of]).values()
    ]
    rows = [
        dict(zip(ablations.CELL_COLUMNS, key, strict=True)) | {"curve_mean": score, "mean": score}
        for key, score in zip(cells([of]), scores, strict=True)
    ]
    assert verdict in ablations.table(rows, of)
    assert ("does no harm" in ablations.table(rows, of)) == ("no harm" in verdict)
    assert ablations.table(rows[1:], of) == ""


def test_the_page_is_up_to_date():
    """Its tables are those of the CSV, whose rows have a curve each."""
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    rows = read_rows(ROOT / "benchmarks" / "ablations.csv")
    curves = read_rows(ROOT / "benchmarks" / "ablations_curves.csv")
    picture = Path("ablations.png") if curves else None
    assert ablations.document(text, rows, picture) == text
    assert {cell_of(row) for row in rows} == {cell_of(point) for point in curves}
    with pytest.raises(ValueError, match="ablation curves"):
        ablations.document("", rows, picture)
