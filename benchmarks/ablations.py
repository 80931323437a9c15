"""``make ablations``: the algorithms by hand with one part removed, beside the complete ones.

Train every cell that the CSV lacks, draw the curves and rewrite the tables of ``docs/agents.md``::

    python -m benchmarks.ablations
    python -m benchmarks.ablations --only dqn-target-network  # some ablations
    python -m benchmarks.ablations --documents  # train nothing

A cell is one training, without an early end. The agent at its end plays the 100 evaluation
episodes. One process, about 12 minutes; Ctrl-C stops, the same command goes on.
"""

import argparse
import contextlib
import functools
import shutil
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bullet_envs.agents import Agent, actor_critic, algorithm
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.agents.run import Config, Run

from .cells import curve_of, resumable, score, train_or_resume
from .tables import add_rows, read_rows, with_section

ROOT = Path(__file__).parent.parent
SEEDS = range(3)
NOTHING = "nothing"  # is removed from the complete algorithm
CELL_COLUMNS = ("algo", "env_id", "time_limit", "removed", "seed")
COLUMNS = (*CELL_COLUMNS, "steps", "seconds", "curve_mean", "mean", "std", "worst")
CURVE_COLUMNS = (*CELL_COLUMNS, "steps", "return")


def without_bootstrap() -> contextlib.AbstractContextManager[Any]:
    """Let advantages take a truncated episode for a terminated one."""
    complete = actor_critic.gae
    return mock.patch.object(
        actor_critic,
        "gae",
        lambda rewards, values, next_values, terminated, ended, *rest: complete(
            rewards, values, next_values, ended, ended, *rest
        ),
    )


@dataclass(frozen=True)
class Ablation:
    """An algorithm with one part removed.

    Args:
        name: of its section of the document.
        part: what is removed, in words.
        algo: the algorithm.
        env_id: of the environment.
        n_timesteps: environment steps of each training.
        eval_freq: environment steps between evaluations.
        settings: those that remove the part, if settings do.
        patch: makes the context in which a training lacks the part, if no setting does.
        time_limit: actions after which the episodes of both trainings are truncated, 0 for the
            environment's own. Evaluations have the environment's own.
    """

    name: str
    part: str
    algo: str
    env_id: str
    n_timesteps: int
    eval_freq: int
    settings: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    time_limit: int = 0

    def rows(self, rows: Sequence[dict[str, Any]], removed: str) -> list[dict[str, Any]]:
        """Return the rows of the complete or of the other trainings."""
        names = (self.algo, self.env_id, str(self.time_limit), removed)
        return [row for row in rows if cell_of(row)[:-1] == names]


ABLATIONS = (
    Ablation(
        "reinforce-baseline",
        "the baseline",
        *("reinforce", "BalancingPlate-v0", 100_000, 5_000),
        settings={"baseline_epochs": 0},
    ),
    Ablation(
        "dqn-target-network",
        "the target network",
        *("dqn", "BalancingPlate-v0", 30_000, 1_500),
        settings={"tau": 1.0},
    ),
    Ablation(
        "dqn-n-step-returns",
        "n-step returns",
        *("dqn", "BalancingPlate-v0", 30_000, 1_500),
        settings={"n_steps": 1},
    ),
    Ablation(
        "ppo-truncation-bootstrap-short",
        "the truncation bootstrap",
        *("ppo", "BalancingPlate-v0", 60_000, 3_000),
        patch=without_bootstrap,
        time_limit=50,
    ),
    Ablation(
        "ppo-truncation-bootstrap",
        "the truncation bootstrap",
        *("ppo", "BulletCartPole-v0", 60_000, 3_000),
        patch=without_bootstrap,
    ),
    Ablation(
        "ppo-normalised-advantages",
        "normalised advantages",
        *("ppo", "BulletCartPole-v0", 60_000, 3_000),
        settings={"normalize_advantage": False},
    ),
)


@dataclass(frozen=True)
class Cell:
    """One training: of an ablation, or of the complete algorithm beside it."""

    ablation: Ablation
    is_complete: bool
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the CSV that name it, see :data:`CELL_COLUMNS`."""
        of = self.ablation
        removed = NOTHING if self.is_complete else of.part
        return of.algo, of.env_id, str(of.time_limit), removed, str(self.seed)

    def config(self) -> Config:
        """Return the settings of the training."""
        of = self.ablation
        learner = algorithm(of.algo)
        settings = {
            **learner.preset(of.env_id),
            "n_timesteps": of.n_timesteps,
            "eval_freq": of.eval_freq,
            "solved_evaluations": 0,
            **({} if self.is_complete else of.settings),
        }
        config: Config = learner.config(env_id=of.env_id, seed=self.seed, **settings)
        return config

    def train(self, config: Any, run: Run) -> Agent:
        """Train, with the part or without it."""
        of = self.ablation
        train = algorithm(of.algo).train
        if of.time_limit:
            envs = config.env.make_vec(
                config.n_envs, training=True, max_episode_steps=of.time_limit
            )
            train = functools.partial(train, envs=envs)
        with contextlib.nullcontext() if self.is_complete else of.patch():
            return train(config, run)


def cell_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what :attr:`Cell.key` is for the cell of a row."""
    return tuple(str(row[name]) for name in CELL_COLUMNS)


def cells(ablations: Sequence[Ablation] = ABLATIONS) -> dict[tuple[str, ...], Cell]:
    """Return trainings by their keys; ablations share those of the complete algorithm."""
    everything = [
        Cell(ablation, is_complete, seed)
        for ablation in ablations
        for is_complete in (True, False)
        for seed in SEEDS
    ]
    return {cell.key: cell for cell in everything}


def train_cell(cell: Cell, options: argparse.Namespace) -> None:
    """Train or go on, evaluate, and add to the CSV files."""
    folder = options.runs / "-".join(cell.key).replace(" ", "-")
    run, agent, seconds = train_or_resume(
        folder, cell.config(), cell.train, functools.partial(Run, progress=False)
    )
    facts = dict(zip(CELL_COLUMNS, cell.key, strict=True))
    curve = [{**facts, **point} for point in curve_of(folder)]
    row = {
        **facts,
        "steps": run.steps,
        "seconds": round(seconds, 1),
        "curve_mean": round(float(np.mean([float(point["return"]) for point in curve])), 1),
        **score(evaluate(agent)),
    }
    print(row, flush=True)
    keys = list(cells())
    add_rows(options.curves, CURVE_COLUMNS, curve, cell_of, keys)
    add_rows(options.csv, COLUMNS, [row], cell_of, keys)
    shutil.rmtree(folder)


def table(rows: Sequence[dict[str, Any]], of: Ablation) -> str:
    """Return the Markdown table of an ablation and what it shows, nothing before it is trained."""
    complete, without = of.rows(rows, NOTHING), of.rows(rows, of.part)
    if min(len(complete), len(without)) < len(SEEDS):
        return ""
    lines = [
        f"| {of.algo} on {of.env_id}, {of.n_timesteps // 1000} k steps"
        " | mean of the curve, each seed | return at the end, each seed |",
        "|---|---|---|",
    ]
    for name, mine in (("complete", complete), (f"without {of.part}", without)):
        curve, end = (
            ", ".join(f"{float(row[column]):.0f}" for row in mine)
            for column in ("curve_mean", "mean")
        )
        lines.append(f"| {name} | {curve} | {end} |")
    curves, ends = (
        [np.array([float(row[column]) for row in mine]) for mine in (complete, without)]
        for column in ("curve_mean", "mean")
    )
    below = [int((removed < kept.min()).sum()) for kept, removed in (curves, ends)]
    lines += [
        "",
        f"Mean of all curves: {curves[0].mean():.0f} with it, {curves[1].mean():.0f} without it."
        f" Below every seed with it: {below[0]} of {len(SEEDS)} curves, {below[1]} of {len(SEEDS)}"
        f" returns at the end.{'' if any(below) else ' Removing it does no harm here.'}",
    ]
    return "\n".join(lines)


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel per ablation: thin lines are seeds, thick ones their mean."""
    from matplotlib.figure import Figure

    height = -(-len(ABLATIONS) // 3)
    figure = Figure(figsize=(10, 2.8 * height + 0.3), layout="constrained")
    panels = figure.subplots(height, 3).flat
    for panel, letter, of in zip(panels, string.ascii_lowercase, ABLATIONS, strict=False):
        grid = np.linspace(0, of.n_timesteps, 200)
        for removed, colour, label in ((NOTHING, "C0", "complete"), (of.part, "C3", "without")):
            seeds: dict[str, list[tuple[int, float]]] = {}
            for row in of.rows(curves, removed):
                point = (int(row["steps"]), float(row["return"]))
                seeds.setdefault(row["seed"], []).append(point)
            lines = [np.array(points).T for points in seeds.values()]
            for steps, returns in lines:
                panel.plot(steps / 1000, returns, color=colour, linewidth=0.8, alpha=0.5)
            if lines:
                begun = grid[grid >= max(steps[0] for steps, _ in lines)]
                mean = np.mean([np.interp(begun, *line) for line in lines], axis=0)
                panel.plot(begun / 1000, mean, color=colour, linewidth=2.4, label=label)
        limit = f", training episodes of {of.time_limit}" if of.time_limit else ""
        title = f"({letter}) {of.algo.upper()} without {of.part}\n{of.env_id}{limit}"
        panel.set_title(title, fontsize=9)
        panel.set_xlim(0, of.n_timesteps / 1000)
        panel.set_ylim(0, 515)
        panel.tick_params(labelsize=8)
    handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)
    figure.supxlabel("environment steps (thousands)", fontsize=9)
    figure.supylabel("return of 20 episodes", fontsize=9)
    figure.savefig(path, dpi=110)


def document(text: str, rows: Sequence[dict[str, Any]], curves: Path | None) -> str:
    """Return a document with the tables of the ablations written anew.

    Args:
        text: the document.
        rows: of the CSV.
        curves: picture of the learning curves, beside the document; None if there is none.
    """
    picture = "" if curves is None else f"![Curves with each part and without it]({curves.name})"
    text = with_section(text, "ablation curves", picture)
    for of in ABLATIONS:
        text = with_section(text, f"ablation {of.name}", table(rows, of))
    return text


@resumable()
def main() -> None:
    """Fill the CSV files, draw the curves and rewrite the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "ablations.csv")
    parser.add_argument("--curves", type=Path, default=ROOT / "benchmarks" / "ablations_curves.csv")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "ablations.png")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "agents.md")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "build" / "ablations", help="trainings that go on"
    )
    parser.add_argument("--only", nargs="+", choices=[of.name for of in ABLATIONS])
    parser.add_argument("--documents", action="store_true", help="train nothing")
    options = parser.parse_args()
    document(options.document.read_text(), [], None)  # refuses before the time is spent
    chosen = cells([of for of in ABLATIONS if not options.only or of.name in options.only])
    done = {cell_of(row) for row in read_rows(options.csv)}
    missing = [] if options.documents else [cell for key, cell in chosen.items() if key not in done]
    for cell in missing:
        train_cell(cell, options)
    if curves := read_rows(options.curves):
        plot(curves, options.plot)
    picture = options.plot if curves else None
    text = document(options.document.read_text(), read_rows(options.csv), picture)
    write_atomically(options.document, text.encode())


if __name__ == "__main__":
    main()
