"""The costs of workers are those of the clock, and the prediction is what follows from them."""

import json

import pytest

from benchmarks import rllib_presets, worker_scaling
from benchmarks.results import cell_of
from benchmarks.tables import read_rows, with_section
from benchmarks.worker_scaling import Prediction, measure, measure_hand_over, table

RESULTS = {
    "date": "2026-01-01",
    "machine": "a machine",
    "repeats": 3,
    "hand_over": {"at_once": {"2": 1e-6}, "after_pause": {"2": 5e-6}},
    "costs": [
        {
            "env_id": "BulletCartPole-v0",
            "num_envs": n,
            "part": n * 10e-6,
            "serial": 20e-6,
            "step": n * 10e-6 + 20e-6,
        }
        for n in (16, 64, 256)
    ],
}


@pytest.mark.parametrize("num_envs, workers", [(64, 2), (100, 4), (4, 2), (1024, 16)])
def test_prediction(num_envs, workers):
    """Parts of 10 µs for each sub-environment, 20 µs of this process, 5 µs for each other one."""
    seconds = 20e-6 + 5e-6 * (workers - 1) + 10e-6 * num_envs / workers
    prediction = Prediction(RESULTS, "BulletCartPole-v0")
    assert prediction.seconds(num_envs, workers) == pytest.approx(seconds)
    speedup = (20e-6 + 10e-6 * num_envs) / seconds
    assert prediction.speedup(num_envs, workers) == pytest.approx(speedup)


def test_how_many_sub_environments_keep_the_workers_busy():
    prediction = Prediction(RESULTS, "BulletCartPole-v0")
    enough = prediction.enough(4)
    assert prediction.speedup(4 * enough, 4) >= 0.8 * 4 > prediction.speedup(2 * enough, 4)


def test_costs_add_up(monkeypatch):
    monkeypatch.setattr(worker_scaling, "STEPS", 20)
    costs = measure("BulletCartPole-v0", 8)
    assert costs["part"] > 0
    assert costs["step"] == pytest.approx(costs["part"] + costs["serial"])
    assert set(measure_hand_over(0.0)) == set(worker_scaling.WORKERS)


def test_the_document_shows_what_was_measured():
    text = (worker_scaling.ROOT / "docs" / "scaling.md").read_text()
    path = worker_scaling.ROOT / "docs" / "worker_scaling.json"
    assert with_section(text, "workers", table(json.loads(path.read_text()))) == text


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worker_scaling, "run", lambda repeats: RESULTS)
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- workers -->\nold\n<!-- /workers -->\nafter\n")
    words = ["worker_scaling", "--json", str(tmp_path / "all.json"), "--document", str(document)]
    monkeypatch.setattr("sys.argv", words)
    worker_scaling.main()
    assert json.loads((tmp_path / "all.json").read_text()) == RESULTS
    shown = document.read_text()
    assert "old" not in shown and table(RESULTS) in shown and shown.endswith("after\n")
    assert "| BulletCartPole-v0 | 64 | 660 | 20 (3%) |" in shown


def test_rllib_agents_over_all_seeds():
    """The worst seed and all of them, what they lost together, a line for each agent."""
    rows = [
        {
            **{"env_id": "BalancingPlate-v0", "algo": "rllib-ppo", "seed": str(seed)},
            **{"steps": steps, "seconds": 10.0 + seed, "mean": mean, "worst": worst, "lost": lost},
        }
        for seed, steps, mean, worst, lost in (
            (0, "102400", "500.0", "500.0", "0"),
            (1, "300000", "497.25", "61.0", "9"),
        )
    ]
    *_, line = rllib_presets.table(rows).splitlines()
    assert line == (
        "| BalancingPlate-v0 | rllib-ppo | 497.2 | 500.0, 497.2 | 61 | 9 of 2000"
        " | 102 k to 300 k | 11 |"
    )


def test_the_document_shows_the_rllib_agents():
    rows = read_rows(rllib_presets.CSV_PATH)
    assert [cell_of(row) for row in rows] == rllib_presets.CELLS
    text = (worker_scaling.ROOT / "docs" / "scaling.md").read_text()
    assert with_section(text, "rllib-presets", rllib_presets.table(rows)) == text
