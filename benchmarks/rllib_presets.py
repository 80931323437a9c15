"""Ray RLlib's agents with the presets, over several seeds, for ``docs/scaling.md``.

Train and evaluate every cell that the CSV lacks; the same command goes on after Ctrl-C::

    python -m benchmarks.rllib_presets

An agent plays from the same unseen initial states as those of ``make results``: 1,000, or 300 on
images.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from bullet_envs.agents import algorithm, load_agent
from bullet_envs.agents.checkpoints import write_atomically

from .cells import resumable, train_or_resume
from .results import SCORES, cell_of, evaluation_seeds, scores
from .tables import add_rows, read_rows, with_section

TRAINED = (
    ("BulletCartPole-v0", "rllib-ppo"),
    ("BulletCartPole-v0", "rllib-dqn"),
    ("BalancingPlate-v0", "rllib-ppo"),
    ("BalancingPlate-v0", "rllib-dqn"),
    ("BulletCartPolePixels-v0", "rllib-ppo"),
)
SEEDS = range(3)
CELLS = [(*trained, seed) for trained in TRAINED for seed in SEEDS]
COLUMNS = ("env_id", "algo", "seed", "steps", "seconds", *SCORES)
CSV_PATH = Path(__file__).parent / "rllib_presets.csv"


@resumable()
def main() -> None:
    """Fill the CSV and rewrite the document's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/scaling.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/rllib-presets"))
    envs, algos = (list(dict.fromkeys(trained[place] for trained in TRAINED)) for place in (0, 1))
    parser.add_argument("--envs", nargs="+", choices=envs, default=envs)
    parser.add_argument("--algos", nargs="+", choices=algos, default=algos)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    options = parser.parse_args()
    for cell in CELLS:
        env_id, algo, seed = cell
        selected = env_id in options.envs and algo in options.algos and seed in options.seeds
        if selected and cell not in map(cell_of, read_rows(options.csv)):
            row = _trained(env_id, algo, seed, options.runs / f"{env_id}-{algo}-{seed}")
            add_rows(options.csv, COLUMNS, [row], cell_of, CELLS)
    text = options.document.read_text()
    section = table(read_rows(options.csv))
    write_atomically(options.document, with_section(text, "rllib-presets", section).encode())


def _trained(env_id: str, algo: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the row of a cell, trained in a folder that is removed."""
    learner = algorithm(algo)
    config = learner.config(env_id=env_id, seed=seed, **learner.preset(env_id))
    run, _, seconds = train_or_resume(folder, config, learner.train)
    row = {
        **{"env_id": env_id, "algo": algo, "seed": seed},
        **{"steps": run.steps, "seconds": round(seconds, 1)},
        **scores(load_agent(env_id, folder)),
    }
    shutil.rmtree(folder)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the agents, a line for each id and algorithm."""
    lines = [
        "| environment | agent | mean return, worst seed | all seeds | worst of all episodes"
        " | lost | steps | seconds, slowest seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env_id, algo in TRAINED:
        mine = [row for row in rows if cell_of(row)[:2] == (env_id, algo)]
        if not mine:
            continue
        means = [float(row["mean"]) for row in mine]
        every = ", ".join(f"{mean:.1f}" for mean in means)
        worst = min(float(row["worst"]) for row in mine)
        lost = sum(int(row["lost"]) for row in mine)
        played = len(mine) * len(evaluation_seeds(env_id))
        steps = [int(row["steps"]) // 1000 for row in mine]
        seconds = max(float(row["seconds"]) for row in mine)
        line = f"| {env_id} | {algo} | {min(means):.1f} | {every} | {worst:.0f} |"
        lines.append(
            f"{line} {lost} of {played} | {min(steps)} k to {max(steps)} k | {seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
