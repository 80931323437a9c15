"""``make atari``: PPO by hand on two Atari games, for ``docs/agents.md``.

It takes about three hours of one core, and can be stopped and started again. What the CSV has a row
of is not trained again::

    python -m benchmarks.atari
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bullet_envs.agents import algorithm, load_agent
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, evaluate

from .cells import curve_of, resumable, score, train_or_resume
from .tables import add_rows, read_rows, with_section

# Pong for its return, Breakout for the curve of half an hour of one core. With 1.2 million of them,
# in which the learning rate falls to 0 too early, Pong ends at -16.
GAMES: dict[str, dict[str, Any]] = {
    "ALE/Pong-v5": {"n_timesteps": 2_000_000},
    "ALE/Breakout-v5": {"n_timesteps": 500_000, "eval_freq": 50_000},
}
EVALUATION_GAMES = 20
CSV_PATH = Path(__file__).parent / "atari.csv"
COLUMNS = ("env_id", "steps", "seconds", "best_steps", "mean", "std", "worst")
CURVES_PATH = Path(__file__).parent / "atari_curves.csv"
CURVE_COLUMNS = ("env_id", "steps", "return")


@resumable()
def main() -> None:
    """Fill the CSVs and rewrite the document's section and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--curves", type=Path, default=CURVES_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/agents.md"))
    parser.add_argument("--plot", type=Path, default=Path("docs/atari.png"))
    parser.add_argument("--runs", type=Path, default=Path("runs/atari"))
    parser.add_argument("--envs", nargs="+", choices=GAMES, default=list(GAMES))
    options = parser.parse_args()
    for env_id in options.envs:
        if env_id not in {row["env_id"] for row in read_rows(options.csv)}:
            train_game(env_id, options.csv, options.curves, options.runs)
    plot(read_rows(options.curves), options.plot)
    text = options.document.read_text()
    section = table(read_rows(options.csv))
    write_atomically(options.document, with_section(text, "atari", section).encode())


def train_game(env_id: str, csv: Path, curves: Path, runs: Path) -> None:
    """Train on a game and add its rows to the CSVs; its run stays, with the agent, to be recorded.

    Args:
        env_id: of the game.
        csv: for the result.
        curves: for the learning curve.
        runs: where the training is kept.
    """
    learner = algorithm("ppo")
    settings = {**learner.preset(env_id), **GAMES[env_id]}
    folder = runs / env_id.replace("/", "-")
    config = learner.config(env_id=env_id, seed=0, **settings)
    run, _, seconds = train_or_resume(folder, config, learner.train)
    best = load_agent(env_id, folder)
    torch.manual_seed(0)
    played = evaluate(best, EVALUATION_SEEDS[:EVALUATION_GAMES], deterministic=False)
    row = {
        **{"env_id": env_id, "steps": run.steps, "seconds": round(seconds)},
        **{"best_steps": best.facts["steps"], **score(played)},
    }
    points = [{"env_id": env_id, **point} for point in curve_of(folder)]
    add_rows(curves, CURVE_COLUMNS, points, _game, list(GAMES))
    add_rows(csv, COLUMNS, [row], _game, list(GAMES))


def _game(row: dict[str, Any]) -> Any:
    return row["env_id"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of the games that have been trained."""
    lines = [
        "| game | decisions | minutes | best agent, after decisions | mean of 20 other games"
        " | worst |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['env_id']} | {int(row['steps']) // 1000} k | {float(row['seconds']) / 60:.0f} |"
        f" {int(row['best_steps']) // 1000} k | {row['mean']} | {row['worst']} |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the mean score of the 20 selection games, a panel per game."""
    from matplotlib.figure import Figure

    games = [game for game in GAMES if any(row["env_id"] == game for row in curves)]
    if not games:
        return
    figure = Figure(figsize=(4.5 * len(games), 2.8), layout="constrained")
    for panel, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        mine = [row for row in curves if row["env_id"] == game]
        decisions = [int(row["steps"]) / 1000 for row in mine]
        panel.plot(decisions, [float(row["return"]) for row in mine], marker="o", markersize=3)
        if min(float(row["return"]) for row in mine) < 0:
            panel.axhline(0, color="grey", linewidth=0.8, linestyle="--")
        panel.set_title(f"{game}, PPO by hand, seed 0", fontsize=9)
        panel.set_xlabel("decisions (thousands)", fontsize=9)
        panel.tick_params(labelsize=8)
    figure.supylabel("mean score of 20 games", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
