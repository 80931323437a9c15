"""`make robust`: its cells, and the table of its rows."""

from pathlib import Path

import pytest

from benchmarks import robust
from benchmarks.tables import read_rows
from bullet_envs.agents import algorithm, load_agent, pretrained_card
from bullet_envs.agents.evaluation import evaluate

ROOT = Path(__file__).parent.parent


def test_every_cell_can_be_trained():
    """Its settings are legal with the preset, and the ablation leaves out what it says."""
    cells = robust.cells()
    assert len(set(cells)) == len(cells)
    for env_id, algo, without, seed in cells:
        if without == robust.NOMINAL or algo == "lqg":
            continue  # is played only
        learner = algorithm(algo)
        settings = robust.settings_of(env_id, algo, without)
        config = learner.config(
            env_id=env_id, env_kwargs={"perturbations": "medium"}, seed=int(seed), **settings
        )
        config.env.make().close()
        remembers = without != "memory"
        assert (config.frame_stack > 1) is remembers
        assert config.observe_actions is (remembers and without != "actions")


def test_the_table_has_the_worst_seed():
    """Of the agents that there are rows of."""
    rows = [
        {
            **{"env_id": "BulletCartPole-v0", "algo": "ppo", "without": "", "seed": str(seed)},
            **{"mean": mean, "nominal_mean": 500 - seed, "validation": validation},
        }
        for seed, mean, validation in ((0, 481.25, 480.0), (1, 479.0, 485.0), (2, 490.0, 485.0))
    ]
    *_, line = robust.table(rows).splitlines()
    assert line == ("| BulletCartPole-v0 | `ppo-robust` |  | 479.0 | 481, 479, 490 | 498.0 | 3 |")
    assert robust.bundled_seed(rows, "BulletCartPole-v0", "ppo") == "1"


def test_the_document_shows_the_csv():
    """Once there are rows."""
    rows = read_rows(robust.CSV_PATH)
    text = (ROOT / "docs" / "perturbations.md").read_text()
    assert f"<!-- robust -->\n{robust.table(rows)}\n<!-- /robust -->" in text


@pytest.mark.slow
@pytest.mark.parametrize("env_id, algo", robust.SETTINGS)
def test_a_bundled_agent_is_robust(env_id, algo):
    """On the preset that it was trained on, and without perturbations."""
    if not pretrained_card(env_id, f"{algo}-robust").is_file():
        pytest.skip("not bundled")
    agent = load_agent(env_id, f"{algo}-robust")
    assert agent.env.env_kwargs == {"perturbations": "medium"}
    assert agent.name == f"{algo}-robust"
    perturbed, unperturbed = (10, 5) if "Pixels" in env_id else (40, 20)
    assert evaluate(agent, range(perturbed)).returns.mean() > 440
    nominal = load_agent(env_id, f"{algo}-robust", perturbations=None)
    assert evaluate(nominal, range(unperturbed)).returns.mean() >= 475
