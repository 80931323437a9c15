"""One training of a benchmark: run, or resumed, and its scores."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bullet_envs.agents import Agent
from bullet_envs.agents.evaluation import Evaluation
from bullet_envs.agents.run import Config, Run

from .tables import read_rows


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Decorate a command that, when it is stopped, ends with one line and is gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")


def train_or_resume(
    folder: Path,
    config: Config,
    train: Callable[[Any, Run], Agent],
    open_run: Callable[..., Run] = Run,
) -> tuple[Run, Agent, float]:
    """Train to the end, going on from the checkpoint in a folder if there is one.

    Args:
        folder: of the run.
        config: the settings.
        train: ``train(config, run)`` returns the agent as it is at the end.
        open_run: makes the run from folder, config and ``resume``.

    Returns:
        The run, the agent at its end, and the wall-clock seconds of the whole training.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the folder has what to go on from.
    """
    begun = (folder / "checkpoint.safetensors").is_file()
    if folder.exists() and not begun:
        shutil.rmtree(folder)
    with open_run(folder, config, resume=begun) as run:
        agent = train(config, run)
        seconds = run.seconds
    if run.stopped:
        raise KeyboardInterrupt
    return run, agent, seconds


def curve_of(folder: Path) -> list[dict[str, Any]]:
    """Return steps and mean return of each evaluation of a run."""
    return [
        {"steps": row["time/total_timesteps"], "return": row["eval/mean_reward"]}
        for row in read_rows(folder / "progress.csv")
        if row["eval/mean_reward"]
    ]


def score(evaluation: Evaluation, digits: int = 1) -> dict[str, float]:
    """Return mean, standard deviation and least return, rounded."""
    returns = evaluation.returns
    return {
        "mean": round(float(returns.mean()), digits),
        "std": round(float(returns.std()), digits),
        "worst": round(float(returns.min()), digits),
    }
