"""The evidence: every agent on every id over all seeds, as CSV files and a table.

Train and evaluate every cell that the CSV lacks, alone on the machine (``make results``), and
rewrite the table of ``docs/results.md``::

    python -m benchmarks.results

A cell's seconds are the wall-clock time of its whole training; those until an evaluation reached
the threshold are in proportion to the steps until then. Its agent plays from 1,000 unseen
initial states (300 on images); an episode that terminates is lost. The agent that is bundled is
that of the seed with the greatest mean return from as many others.

Ctrl-C stops, the same command goes on. Two such commands may run at once on different cells, e.g.
with ``--seeds 0 1`` and ``--seeds 2``.
"""

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym

from bullet_envs import registered
from bullet_envs.agents import (
    BUNDLED_ALGOS,
    CONTROLLERS,
    Agent,
    algorithm,
    controllers_of,
    load_agent,
    pretrained_card,
)
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, evaluate
from bullet_envs.registration import env_ids as registered_ids

from .cells import curve_of, resumable, score, train_or_resume
from .tables import add_rows, read_rows, with_section

SEEDS = range(10)
PIXEL_SEEDS = range(3)
A2C_PIXEL_SEEDS = range(1)  # reported, and nothing is expected of it
EPISODES, PIXEL_EPISODES = 1000, 300
# Initial states that choose the seed to bundle, and are not reported on.
VALIDATION_SEEDS = range(30_000_000, 30_000_000 + EPISODES)
SCORES = ("mean", "std", "worst", "lost")
COLUMNS = ("env_id", "algo", "seed", "steps", "seconds", *SCORES, "validation", "sha256")
CSV_PATH = Path(__file__).parent / "results.csv"
CURVE_COLUMNS = ("env_id", "algo", "seed", "steps", "return")
CURVES_PATH = Path(__file__).parent / "curves.csv"


def env_ids() -> list[str]:
    """Return the ids of this package, those that an algorithm has a preset for."""
    presets = {env_id for algo in BUNDLED_ALGOS for env_id in algorithm(algo).presets}
    return [env_id for env_id in registered_ids() if env_id in presets]


def evaluation_seeds(env_id: str) -> range:
    """Return the seeds of the initial states that are reported on."""
    return EVALUATION_SEEDS[: PIXEL_EPISODES if _is_pixel(env_id) else EPISODES]


@resumable()
def main() -> None:
    """Fill the CSV, bundle the agents and rewrite the table of a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--curves", type=Path, default=CURVES_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--plot", type=Path, default=Path("docs/curves.png"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--envs", nargs="+", choices=env_ids(), default=list(env_ids()))
    names = (*CONTROLLERS, *BUNDLED_ALGOS)
    parser.add_argument("--algos", nargs="+", choices=names, default=list(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    for env_id, algo, seed in cells():
        done = {cell_of(row) for row in read_rows(options.csv)}
        selected = env_id in options.envs and algo in options.algos and seed in options.seeds
        if selected and (env_id, algo, seed) not in done:
            if algo in CONTROLLERS:
                row = _controller_row(env_id, algo)
                add_rows(options.csv, COLUMNS, [row], cell_of, cells())
            else:
                _train_cell(env_id, algo, seed, options)
    rows, curves = read_rows(options.csv), read_rows(options.curves)
    plot(curves, options.plot)
    text = options.document.read_text()
    write_atomically(options.document, with_section(text, "results", table(rows, curves)).encode())


def cells() -> list[tuple[str, str, int]]:
    """Return id, agent and seed of every row, in the order of the table."""
    return [
        (env_id, algo, seed)
        for env_id in env_ids()
        for algo in (*controllers_of(env_id), *BUNDLED_ALGOS)
        for seed in (_seeds(env_id, algo) if algo in BUNDLED_ALGOS else [0])
    ]


def _is_pixel(env_id: str) -> bool:
    task = registered(env_id)
    return task is not None and env_id == task.pixel_id


def _seeds(env_id: str, algo: str) -> range:
    if not _is_pixel(env_id):
        return SEEDS
    return A2C_PIXEL_SEEDS if algo == "a2c" else PIXEL_SEEDS


def cell_of(row: dict[str, Any]) -> tuple[str, str, int]:
    """Return id, agent and seed of a row."""
    return row["env_id"], row["algo"], int(row["seed"] or 0)


def _controller_row(env_id: str, algo: str) -> dict[str, Any]:
    names = ("seed", "steps", "seconds", "validation", "sha256")
    return {
        "env_id": env_id,
        "algo": algo,
        **dict.fromkeys(names, ""),
        **scores(load_agent(env_id, algo)),
    }


def scores(agent: Agent) -> dict[str, float]:
    """Return the columns ``SCORES`` of an agent."""
    evaluation = evaluate(agent, evaluation_seeds(agent.env_id))
    limit = agent.env.max_episode_steps or 0
    return {**score(evaluation, digits=2), "lost": int((evaluation.lengths < limit).sum())}


def _train_cell(env_id: str, algo: str, seed: int, options: argparse.Namespace) -> None:
    learner = algorithm(algo)
    config = learner.config(env_id=env_id, seed=seed, **learner.preset(env_id))
    folder = options.runs / f"{env_id}-{algo}-{seed}"
    run, _, seconds = train_or_resume(folder, config, learner.train)
    agent: Any = load_agent(env_id, folder)
    results = scores(agent)
    validation = evaluate(agent, VALIDATION_SEEDS[: len(evaluation_seeds(env_id))])
    facts = {"env_id": env_id, "algo": algo, "seed": seed}
    curve = [{**facts, **point} for point in curve_of(folder)]
    add_rows(options.curves, CURVE_COLUMNS, curve, cell_of, cells())
    row = {
        **facts,
        "steps": run.steps,
        "seconds": round(seconds, 1),
        **results,
        "validation": round(float(validation.returns.mean()), 2),
        "sha256": agent.weights_hash,
    }
    add_rows(options.csv, COLUMNS, [row], cell_of, cells())
    if bundled_seed(read_rows(options.csv), env_id, algo) == seed:
        agent.facts["returns"] = {**results, "episodes": len(evaluation_seeds(env_id))}
        agent.save(pretrained_card(env_id, algo))
    shutil.rmtree(folder)


def bundled_seed(rows: list[dict[str, Any]], env_id: str, algo: str) -> int:
    """Return the seed with the greatest return of the validation, the first of equal ones."""
    mine = [row for row in rows if (row["env_id"], row["algo"]) == (env_id, algo)]
    return int(max(mine, key=lambda row: (float(row["validation"]), -int(row["seed"])))["seed"])


def seconds_to_solve(row: dict[str, Any], curves: list[dict[str, Any]]) -> float:
    """Return the seconds of a training until an evaluation reached the threshold, or infinity."""
    threshold = gym.spec(row["env_id"]).reward_threshold or 0
    solved = [
        int(point["steps"])
        for point in curves
        if cell_of(point) == cell_of(row) and float(point["return"]) >= threshold
    ]
    return min(solved, default=math.inf) / int(row["steps"]) * float(row["seconds"])


def table(rows: list[dict[str, Any]], curves: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the rows and their curves, a line per id and agent."""
    lines = [
        "| environment | agent | mean return, worst seed | worst of all episodes"
        " | lost by the bundled agent | seeds | steps"
        " | seconds until solved, slowest seed | seconds to the end, slowest seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env_id in env_ids():
        episodes = len(evaluation_seeds(env_id))
        for algo in (*CONTROLLERS, *BUNDLED_ALGOS):
            mine = [row for row in rows if (row["env_id"], row["algo"]) == (env_id, algo)]
            if not mine:
                continue
            mean = min(float(row["mean"]) for row in mine)
            worst = min(float(row["worst"]) for row in mine)
            line = f"| {env_id} | {algo} | {mean:.1f} | {worst:.0f} |"
            if algo in CONTROLLERS:
                lines.append(f"{line} {mine[0]['lost']} of {episodes} | | | | |")
                continue
            seed = bundled_seed(rows, env_id, algo)
            lost = next(row["lost"] for row in mine if int(row["seed"]) == seed)
            steps = [int(row["steps"]) // 1000 for row in mine]
            until_solved = max(seconds_to_solve(row, curves) for row in mine)
            seconds = max(float(row["seconds"]) for row in mine)
            line += f" {lost} of {episodes} | {len(mine)} | {min(steps)} k to {max(steps)} k |"
            lines.append(f"{line} {until_solved:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw the learning curve of every seed, a panel per id and algorithm."""
    from matplotlib.figure import Figure

    plotted = [env_id for env_id in env_ids() if any(row["env_id"] == env_id for row in curves)]
    if not plotted:
        return
    figure = Figure(figsize=(14, 2.4 * len(plotted)), layout="constrained")
    panels = figure.subplots(len(plotted), len(BUNDLED_ALGOS), squeeze=False, sharey=True)
    for line, env_id in zip(panels, plotted, strict=True):
        for panel, algo in zip(line, BUNDLED_ALGOS, strict=True):
            for seed in _seeds(env_id, algo):
                mine = [row for row in curves if cell_of(row) == (env_id, algo, seed)]
                if mine:
                    steps = [int(row["steps"]) / 1000 for row in mine]
                    panel.plot(steps, [float(row["return"]) for row in mine], label=f"seed {seed}")
            solved = gym.spec(env_id).reward_threshold or 0
            panel.axhline(solved, color="grey", linewidth=0.8, linestyle="--")
            panel.set(title=f"{env_id}, {algo}", xlabel="environment steps (thousands)")
            panel.title.set_fontsize(9)
        line[0].set_ylabel("return of 20 episodes")
    # A seed has the same colour in all panels.
    labelled = [panel.get_legend_handles_labels() for panel in panels.flat]
    handles, labels = max(labelled, key=lambda of: len(of[1]))
    figure.legend(handles, labels, ncols=len(labels), loc="outside lower center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
