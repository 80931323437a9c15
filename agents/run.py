"""A training as seen from outside its algorithm: settings, log, evaluations, checkpoints, an end.

A run's folder holds ``config.json``, ``progress.csv`` and TensorBoard events,
``checkpoint.safetensors`` to resume from, and the best agent so far as ``best.json`` and its
weights.
"""

import csv
import dataclasses
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from typing_extensions import Self

from .. import ENV_IDS
from .checkpoints import CheckpointError, read_tensors, write_atomically, write_tensors
from .evaluation import SELECTION_SEEDS, evaluate
from .learned import LearnedAgent, are_widths, versions

# One thread gives the same weights on any number of cores. Networks this small gain from no more.
TORCH_THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every algorithm has; an algorithm adds its own.

    Args:
        env_id: one of ``bullet_envs.ENV_IDS``.
        env_kwargs: keywords of the environment.
        seed: decides every random number of the training, 0 to 2**31 - 1.
        n_timesteps: environment steps to train for, at least 1.
        eval_freq: environment steps between evaluations; each is followed by a checkpoint.
        solved_evaluations: stop after so many evaluations in a row in which all 20 episodes
            lasted to the time limit; 0 never stops early.
        frame_stack: observations that the agent sees at once, 1 to 64.
        action_repeat: steps of the environment that each action lasts, 1 to 64.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    n_timesteps: int = 100_000
    eval_freq: int = 10_000
    solved_evaluations: int = 2
    frame_stack: int = 1
    action_repeat: int = 1

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TypeError: a setting has the wrong type.
            ValueError: a setting is out of its range.
        """
        if self.env_id not in ENV_IDS:
            raise ValueError(f"env_id={self.env_id!r} must be one of {', '.join(ENV_IDS)}")
        self.require("seed", int, 0, 2**31 - 1)
        self.require("n_timesteps", int, 1, 10**9)
        self.require("eval_freq", int, 1, 10**9)
        self.require("solved_evaluations", int, 0, 1000)
        self.require("frame_stack", int, 1, 64)
        self.require("action_repeat", int, 1, 64)

    @property
    def of_agent(self) -> tuple[Any, ...]:
        """What a :class:`LearnedAgent` is made of, in the order of its arguments."""
        hidden = self.hidden  # type: ignore[attr-defined]
        return self.env_id, self.env_kwargs, hidden, self.frame_stack, self.action_repeat

    def require(self, name: str, kind: type, low: float, high: float) -> None:
        """Refuse a setting that is not a number of a kind within ``low`` and ``high``."""
        value = getattr(self, name)
        kinds = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(
                f"{name}={value!r} must be {'a' if kind is float else 'a whole'} number"
            )
        if not low <= value <= high:
            raise ValueError(f"{name}={value!r} must lie from {low:g} to {high:g}")

    def require_widths(self, name: str) -> None:
        """Refuse a setting that is not widths of hidden layers."""
        if not are_widths(getattr(self, name)):
            raise ValueError(
                f"{name}={getattr(self, name)!r} must be 1 to 8 whole numbers from 1 to 4096,"
                " e.g. (64, 64)"
            )


def derived_seed(*words: int) -> int:
    """Return a 31-bit seed that depends on all words (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


class Run:
    """A training in progress. Use it as a context: inside, Ctrl-C asks the training to stop.

    Args:
        folder: where everything is written.
        config: the settings of the training.
        resume: go on from the folder's checkpoint.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: there is no checkpoint to resume from.
        CheckpointError: the checkpoint is damaged or of a training with other settings.
    """

    def __init__(
        self, folder: Path, config: Config, resume: bool = False, progress: bool = True
    ) -> None:
        torch.set_num_threads(TORCH_THREADS)
        self.config = config
        self.folder = folder
        self.steps = 0
        self.best_return = -np.inf
        self.solved_in_a_row = 0
        self.stopped = False
        self.restored: dict[str, Tensor] | None = None
        self._seconds_before = 0.0
        self._next_evaluation = config.eval_freq
        self._settings = json.loads(json.dumps(dataclasses.asdict(config)))
        if resume:
            self._restore()
            for leftover in folder.glob(".*.part"):  # of a writer that was killed
                leftover.unlink()
        else:
            folder.mkdir(parents=True)
            write_atomically(folder / "config.json", json.dumps(self._settings, indent=2).encode())
        self._log_rows = self._old_log_rows()
        self._writer = SummaryWriter(str(folder), purge_step=self.steps or None)
        self._bar = tqdm(
            total=config.n_timesteps,
            initial=self.steps,
            unit="step",
            unit_scale=True,
            disable=not progress,
            dynamic_ncols=True,
            mininterval=0.5,
            desc=f"{config.env_id} seed {config.seed}",
        )

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._handlers = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._bar.close()
        self._writer.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # A second signal does not wait for the end of the step.
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, earlier sessions included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def finished(self) -> bool:
        """Whether to stop: steps used up, solved for good, or asked to."""
        return self.stopped or self.solved or self.steps >= self.config.n_timesteps

    @property
    def solved(self) -> bool:
        """Whether ``solved_evaluations`` in a row were perfect."""
        return 0 < self.config.solved_evaluations <= self.solved_in_a_row

    @property
    def evaluation_due(self) -> bool:
        """Whether ``eval_freq`` steps have passed since the last evaluation."""
        return self.steps >= min(self._next_evaluation, self.config.n_timesteps)

    def advance(self, actions: int) -> None:
        """Count the environment steps that so many actions of the agent took, at most."""
        steps = actions * self.config.action_repeat
        self.steps += steps
        self._bar.update(steps)

    def log(self, scalars: dict[str, float]) -> None:
        """Write scalars, under SB3's names, to TensorBoard and ``progress.csv``."""
        if "rollout/ep_rew_mean" in scalars:
            self._bar.set_postfix_str(f"return {scalars['rollout/ep_rew_mean']:.0f}", refresh=False)
        scalars = {**scalars, "time/fps": self.steps / max(self.seconds, 1e-9)}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self.steps)
        self._log_rows.append({"time/total_timesteps": self.steps, **scalars})

    def evaluate(self, agent: LearnedAgent) -> None:
        """Play the selection episodes; keep the agent if none was better."""
        returns = evaluate(agent, SELECTION_SEEDS, **self.config.env_kwargs)
        self._next_evaluation = self.steps + self.config.eval_freq
        mean = float(returns.mean())
        solved = bool(returns.min() >= agent.time_limit)
        self.solved_in_a_row = self.solved_in_a_row + 1 if solved else 0
        self.log({"eval/mean_reward": mean, "eval/mean_ep_length": mean})
        if mean >= self.best_return:
            self.best_return = mean
            agent.facts = {
                "seed": self.config.seed,
                "steps": self.steps,
                "seconds": round(self.seconds, 1),
                "selection_return": mean,
                "settings": self._settings,
                "torch_threads": TORCH_THREADS,
                "versions": versions(),
            }
            agent.save(self.folder / "best.json")

    def checkpoint(self, tensors: dict[str, Tensor]) -> None:
        """Save all that :meth:`__init__` needs to resume exactly from here."""
        info = {
            "settings": self._settings,
            "steps": self.steps,
            "best_return": self.best_return,
            "solved_in_a_row": self.solved_in_a_row,
            "seconds": self.seconds,
        }
        self._write_log()
        write_tensors(self.folder / "checkpoint.safetensors", tensors, info)

    def _restore(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        self.restored, info, _ = read_tensors(path)
        # A longer training is the one change that leaves the past as it was.
        different = [
            name
            for name, value in info["settings"].items()
            if name != "n_timesteps" and self._settings.get(name) != value
        ]
        if different:
            raise CheckpointError(f"{path} is of a training with other {', '.join(different)}")
        self.steps = info["steps"]
        self.best_return = info["best_return"]
        self.solved_in_a_row = info["solved_in_a_row"]
        self._seconds_before = info["seconds"]
        self._next_evaluation = self.steps + self.config.eval_freq

    def _old_log_rows(self) -> list[dict[str, Any]]:
        path = self.folder / "progress.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
        return [row for row in rows if int(row["time/total_timesteps"]) <= self.steps]

    def _write_log(self) -> None:
        names = list(dict.fromkeys(name for row in self._log_rows for name in row))
        lines = [",".join(names)]
        for row in self._log_rows:
            lines.append(",".join(str(row.get(name, "")) for name in names))
        write_atomically(self.folder / "progress.csv", "\n".join([*lines, ""]).encode())
