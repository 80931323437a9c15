"""``make benchmark-agents``: the algorithms written by hand, beside what others have published.

Train and evaluate every cell that the CSV lacks, and rewrite the tables of ``docs/agents.md``::

    python -m benchmarks.agents
    python -m benchmarks.agents --only CartPole-v1 dqn  # columns of the CSV, or some of its seeds

A cell is one training. Its best agent on the 20 selection episodes, and the agent at its end, each
play the 100 evaluation episodes, deterministically. Ctrl-C stops, the same command goes on.

Time ours beside Stable-Baselines3's, with nothing else on the machine::

    python -m benchmarks.agents --wall-clock

Rewrite the document, the code that it shows included, from what is there::

    python -m benchmarks.agents --documents
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bullet_envs import bench
from bullet_envs.agents import Agent, algorithm
from bullet_envs.agents.card import read_card, read_weights
from bullet_envs.agents.checkpoints import load_module, write_atomically
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.agents.run import Config, Run
from bullet_envs.progress import progress_bar

from . import comparisons, plain_sb3, wall_clock
from .agents_page import document, plot
from .cells import curve_of, score, train_or_resume
from .comparisons import CELL_COLUMNS, Cell, cell_of, cells, select
from .tables import add_rows, read_rows

ROOT = Path(__file__).parent.parent
SCORES = ("mean", "std", "worst")
COLUMNS = (
    *(*CELL_COLUMNS, "steps", "seconds"),
    *(f"{which}_{name}" for which in ("best", "last") for name in SCORES),
    "sha256",
)
CURVE_COLUMNS = (*CELL_COLUMNS, "steps", "return")
CSV_PATH = ROOT / "benchmarks" / "agents.csv"
CURVES_PATH = ROOT / "benchmarks" / "agents_curves.csv"
WALL_CLOCK_PATH = ROOT / "docs" / "agents_wall_clock.json"
DOCUMENT_PATH = ROOT / "docs" / "agents.md"
PLOT_PATH = ROOT / "docs" / "agents_curves.png"


def training_of(cell: Cell) -> tuple[Config, Callable[[Any, Run], Agent]]:
    """Return the settings of a cell and what trains with them."""
    comparison = cell.comparison
    learner = algorithm(comparison.algo.removeprefix("sb3-"))
    is_sb3 = comparison.algo in plain_sb3.CLASSES
    ours = learner.config(
        env_id=comparison.env_id,
        seed=cell.seed,
        **{
            **learner.preset(comparison.env_id),
            "n_timesteps": comparison.n_timesteps,
            "solved_evaluations": 0,  # all steps: what others have published has them too
            **({} if is_sb3 else comparison.settings),
        },
    )
    if not is_sb3:
        return ours, learner.train
    config = Config(
        env_id=ours.env_id,
        seed=ours.seed,
        n_timesteps=ours.n_timesteps,
        eval_freq=ours.eval_freq,
        solved_evaluations=ours.solved_evaluations,
    )
    settings = comparison.settings or plain_sb3.settings_like(comparison.algo, ours)
    return config, functools.partial(plain_sb3.train, algo=comparison.algo, settings=settings)


def train_cell(
    cell: Cell,
    options: argparse.Namespace,
    keys: Sequence[tuple[str, ...]],
    count: Callable[[int], None],
) -> None:
    """Train or go on, evaluate, and add to the CSV files.

    Args:
        cell: which training.
        options: of the command line.
        keys: of all cells, in the order of the CSV.
        count: is called with the environment steps that were done.
    """
    config, train = training_of(cell)
    folder = options.runs / "-".join(cell.key)
    open_run = functools.partial(_CountingRun, count=count)
    run, agent, seconds = train_or_resume(folder, config, train, open_run)
    last = score(evaluate(agent), digits=2)
    policy: Any = agent.policy
    card = read_card(folder / "best.json", [agent.algo])
    load_module(policy.network, read_weights(folder / "best.json", card))
    best = score(evaluate(agent), digits=2)
    facts = dict(zip(CELL_COLUMNS, cell.key, strict=True))
    curve = [{**facts, **point} for point in curve_of(folder)]
    add_rows(options.curves, CURVE_COLUMNS, curve, cell_of, keys)
    row = {
        **facts,
        "steps": run.steps,
        "seconds": round(seconds, 1),
        **{f"best_{name}": value for name, value in best.items()},
        **{f"last_{name}": value for name, value in last.items()},
        "sha256": card["sha256"],
    }
    add_rows(options.csv, COLUMNS, [row], cell_of, keys)
    shutil.rmtree(folder)
    count(config.n_timesteps - run.steps)  # those that an early end has saved


class _CountingRun(Run):
    """A training that passes on how many steps it has done."""

    def __init__(
        self, folder: Path, config: Config, resume: bool, count: Callable[[int], None]
    ) -> None:
        super().__init__(folder, config, resume, progress=False)
        self._count = count
        count(self.steps)

    def advance(self, actions: int) -> None:
        """Count the steps."""
        before = self.steps
        super().advance(actions)
        self._count(self.steps - before)


def train_all(chosen: Sequence[Cell], options: argparse.Namespace) -> str | None:
    """Train cells in worker processes that take one after the other.

    Returns:
        Why not all were trained, None if they were.
    """
    context = multiprocessing.get_context("spawn")
    taken, steps, failed = (context.Value("q", 0) for _ in range(3))
    keys = [cell.key for cell in cells()]
    arguments = (chosen, options, keys, taken, steps, failed)
    workers = [
        context.Process(target=_work, args=arguments, daemon=True)
        for _ in range(min(options.processes, len(chosen)))
    ]
    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        for worker in workers:
            if worker.is_alive():
                worker.terminate()  # a Run takes it as it takes Ctrl-C

    numbers = (signal.SIGINT, signal.SIGTERM)
    for worker in workers:
        worker.start()
    handlers = {number: signal.signal(number, stop) for number in numbers}
    total = sum(cell.comparison.n_timesteps for cell in chosen)
    with progress_bar(total=total, unit="step", unit_scale=True, smoothing=0.05) as progress:
        while any(worker.is_alive() for worker in workers):
            wait([worker.sentinel for worker in workers if worker.is_alive()], 0.5)
            done = max(0, taken.value - len(workers))
            progress.set_description(f"{done} of {len(chosen)} trainings", refresh=False)
            progress.update(steps.value - progress.n)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if stopped:
        return "stopped: the same command goes on"
    if failed.value or any(worker.exitcode for worker in workers):
        return "not all cells could be trained: see above"
    return None


def _work(
    chosen: Sequence[Cell],
    options: argparse.Namespace,
    keys: Sequence[tuple[str, ...]],
    taken: Any,
    steps: Any,
    failed: Any,
) -> None:
    os.setpgrp()  # Ctrl-C reaches the parent alone, which tells each worker once
    parent = multiprocessing.parent_process()

    def count(done: int) -> None:
        with steps.get_lock():
            steps.value += done

    while parent is not None and parent.is_alive():
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(chosen):
            return
        try:
            train_cell(chosen[index], options, keys, count)
        except KeyboardInterrupt:
            return
        except Exception:
            traceback.print_exc()
            with failed.get_lock():
                failed.value += 1


def write_documents(options: argparse.Namespace) -> None:
    """Draw the learning curves and rewrite the document."""
    plot(read_rows(options.curves), options.plot)
    text = document(
        options.document.read_text(),
        read_rows(options.csv),
        json.loads(options.json.read_text()) if options.json.exists() else None,
        options.plot if options.plot.exists() else None,
    )
    write_atomically(options.document, text.encode())


def main() -> None:
    """Fill the CSV files, or time, and rewrite the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--curves", type=Path, default=CURVES_PATH)
    parser.add_argument("--plot", type=Path, default=PLOT_PATH)
    parser.add_argument("--json", type=Path, default=WALL_CLOCK_PATH)
    parser.add_argument("--document", type=Path, default=DOCUMENT_PATH)
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "build" / "agents", help="trainings that go on"
    )
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="at once (2)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="a comparison, id, algorithm or seed"
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--documents", action="store_true", help="train nothing")
    modes.add_argument("--wall-clock", action="store_true", help="time ours beside SB3's instead")
    parser.add_argument("--rounds", type=int, default=7, help="of --wall-clock (7)")
    parser.add_argument("--steps", type=int, default=wall_clock.STEPS, help="of --wall-clock")
    options = parser.parse_args()
    document(options.document.read_text(), [], None, None)  # refuses before the time is spent
    try:
        chosen = select(cells(), options.only)
    except ValueError as error:
        parser.error(f"--only: {error}")
    problem = None
    if options.wall_clock:
        timed = [
            wall_clock.WallClock(of.env_id, of.algo, options.steps)
            for of in comparisons.COMPARISONS
            if of.name == comparisons.EQUAL_SETTINGS
            and of.sb3
            and any(cell.comparison == of for cell in chosen)
        ]
        bench.run(timed, options.rounds, options.json)
    elif not options.documents:
        done = {cell_of(row) for row in read_rows(options.csv)}
        if missing := [cell for cell in chosen if cell.key not in done]:
            problem = train_all(missing, options)
    write_documents(options)
    sys.exit(problem)


if __name__ == "__main__":
    main()
