"""The evidence: every agent on every id over all seeds, as a CSV and as the tables of the README.

Train and evaluate every cell that the CSV lacks, alone on the machine (``make results``)::

    python -m bullet_envs.agents.matrix

A cell's seconds are the wall-clock time of its whole training. The agent of seed 0, whatever its
score, is the one that is bundled.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import ENV_IDS
from . import ALGOS, CONTROLLERS, algorithm, load_agent, pretrained_card
from .checkpoints import write_atomically
from .evaluation import EVALUATION_SEEDS, evaluate
from .run import Run

SEEDS = range(5)
BUNDLED_SEED = 0
COLUMNS = ("env_id", "algo", "seed", "steps", "seconds", "mean", "std", "worst", "sha256")
CSV_PATH = Path(__file__).parent / "results.csv"


def main() -> None:
    """Fill the CSV, bundle the agents and rewrite the table of a README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    rows = read_rows(options.csv)
    done = {(row["env_id"], row["algo"], int(row["seed"] or 0)) for row in rows}
    for env_id in ENV_IDS:
        for algo in (*CONTROLLERS, *ALGOS):
            for seed in options.seeds if algo in ALGOS else [0]:
                if (env_id, algo, seed) in done:
                    continue
                row = (
                    _controller_row(env_id, algo)
                    if algo in CONTROLLERS
                    else _cell(env_id, algo, seed)
                )
                rows.append(row)
                _write_rows(options.csv, rows)
    text = options.readme.read_text()
    write_atomically(options.readme, with_table(text, rows).encode())


def _controller_row(env_id: str, algo: str) -> dict[str, Any]:
    returns = evaluate(load_agent(env_id, algo))
    facts = {"env_id": env_id, "algo": algo, "seed": "", "steps": "", "seconds": "", "sha256": ""}
    return {**facts, **_score(returns)}


def _cell(env_id: str, algo: str, seed: int) -> dict[str, Any]:
    learner = algorithm(algo)
    config = learner.config(env_id=env_id, seed=seed, **learner.presets[env_id])
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        with Run(folder, config) as run:
            learner.train(config, run)
            seconds = run.seconds
        if run.stopped:
            raise KeyboardInterrupt
        agent: Any = load_agent(env_id, folder)
        score = _score(evaluate(agent))
        if seed == BUNDLED_SEED:
            path = pretrained_card(env_id, algo)
            agent.facts["returns"] = {**score, "episodes": len(EVALUATION_SEEDS)}
            agent.save(path)
    return {
        "env_id": env_id,
        "algo": algo,
        "seed": seed,
        "steps": run.steps,
        "seconds": round(seconds, 1),
        **score,
        "sha256": agent.weights_hash,
    }


def _score(returns: npt.NDArray[np.float64]) -> dict[str, float]:
    return {
        "mean": round(float(returns.mean()), 1),
        "std": round(float(returns.std()), 1),
        "worst": float(returns.min()),
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the CSV, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in rows)]
    write_atomically(path, "\n".join([*lines, ""]).encode())


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the rows, a line per id and agent."""
    lines = [
        "| environment | agent | mean return, worst seed | worst of all episodes | seeds"
        " | steps to solve | seconds, slowest seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for env_id in ENV_IDS:
        for algo in (*CONTROLLERS, *ALGOS):
            cells = [row for row in rows if (row["env_id"], row["algo"]) == (env_id, algo)]
            if not cells:
                continue
            mean = min(float(row["mean"]) for row in cells)
            worst = min(float(row["worst"]) for row in cells)
            line = f"| {env_id} | {algo} | {mean:.1f} | {worst:.0f} |"
            if algo in ALGOS:
                steps = [int(row["steps"]) // 1000 for row in cells]
                seconds = max(float(row["seconds"]) for row in cells)
                line += f" {len(cells)} | {min(steps)} k to {max(steps)} k | {seconds:.0f} |"
            else:
                line += " | | |"
            lines.append(line)
    return "\n".join(lines)


def with_table(text: str, rows: list[dict[str, Any]]) -> str:
    """Return a text with the table between its two marks."""
    begin, end = "<!-- results -->", "<!-- /results -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table(rows)}\n{end}{after}" if rest else text


if __name__ == "__main__":
    main()
