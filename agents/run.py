"""A training as seen from outside its algorithm: settings, log, evaluations, checkpoints, an end.

A run's folder holds ``config.json``, ``progress.csv`` and TensorBoard events,
``checkpoint.safetensors`` to resume from, and the best agent so far as ``best.json`` and its
weights.
"""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from typing_extensions import Self

from ..progress import progress_bar
from ..versions import versions
from .agent import Agent
from .card import are_widths
from .checkpoints import (
    CheckpointError,
    LearnerState,
    read_regular,
    read_tensors,
    refusing,
    write_atomically,
    write_tensors,
)
from .environment import VEC_ENVS, EnvConfig
from .evaluation import SELECTION_SEEDS, evaluate

# What the bits of a training depend on, besides Python and the processor.
DEPENDED_ON = ("bullet-envs", "gymnasium", "numpy", "pybullet", "stable-baselines3", "torch")
# One thread gives the same weights on any number of cores. Networks this small gain from no more.
TORCH_THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every algorithm has; an algorithm adds its own.

    Args:
        env_id: any id of Gymnasium's.
        env_kwargs: keywords of the environment.
        seed: decides every random number of the training, 0 to 2**31 - 1.
        n_timesteps: environment steps to train for, at least 1.
        eval_freq: environment steps between evaluations, at least 1; they do not change the
            training.
        save_freq: environment steps between checkpoints, at least 1.
        n_eval_episodes: episodes of an evaluation, 1 to 1000. The agent with the greatest mean
            return is kept: where episodes differ much, as perturbed ones do, 20 are few.
        solved_evaluations: stop after so many evaluations in a row in which each episode reached
            the reward threshold of the environment, 0 to 1000; 0 never stops early.
        frame_stack: observations that the agent sees at once, 1 to 256. Agents by hand see more
            than 32 vectors through a HistoryEncoder.
        action_repeat: steps of the environment that each action lasts, 1 to 64.
        observe_actions: whether the latest action is appended to each observation: to a vector, or
            as planes to an RGB image.
        hold_dropped: whether columns of an observation that read exactly 0, as dropped ones of
            perturbed environments do, or black images are shown as they were before.
        training_episode_steps: environment steps after which an episode of the training, but not
            one of an evaluation, is truncated, 0 to 10**9; 0 for the environment's own limit. Short
            episodes show more initial states. REINFORCE takes the returns of such episodes as
            whole.
        deterministic_eval: whether evaluations take the most likely actions, not random ones.
        vec_env: how the sub-environments are stepped: "batch" (this package's own together, others
            one after the other), "sync" (one after the other) or "async" (a process each).
        workers: processes that share this package's own sub-environments, 1 to 256 but no more than
            those, or "auto" for as many as there are physical cores. The agent is the same to the
            bit for any number.
        device: where the networks are, as PyTorch names it: "cpu", "cuda", "cuda:1".
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    n_timesteps: int = 100_000
    eval_freq: int = 10_000
    save_freq: int = 10_000
    n_eval_episodes: int = 20
    solved_evaluations: int = 2
    frame_stack: int = 1
    action_repeat: int = 1
    observe_actions: bool = False
    hold_dropped: bool = False
    training_episode_steps: int = 0
    deterministic_eval: bool = True
    vec_env: str = "batch"
    workers: int | str = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TypeError: a setting has the wrong type.
            ValueError: a setting is out of its range, or Gymnasium does not know the id.
        """
        self.require("seed", int, 0, 2**31 - 1)
        self.require("n_timesteps", int, 1, 10**9)
        self.require("eval_freq", int, 1, 10**9)
        self.require("save_freq", int, 1, 10**9)
        self.require("n_eval_episodes", int, 1, 1000)
        self.require("solved_evaluations", int, 0, 1000)
        self.require("frame_stack", int, 1, 256)
        self.require("action_repeat", int, 1, 64)
        self.require_choice("observe_actions", (False, True))
        self.require_choice("hold_dropped", (False, True))
        self.require("training_episode_steps", int, 0, 10**9)
        self.require_choice("deterministic_eval", (False, True))
        self.require_choice("vec_env", VEC_ENVS)
        if self.workers != "auto":
            self.require("workers", int, 1, 256)
        self.env.check_workers(self.workers, self.vec_env)
        try:
            torch.empty(0, device=torch.device(str(self.device)))
        except (RuntimeError, AssertionError):  # the second from a build without CUDA
            raise ValueError(
                f"device={self.device!r} must be a device of this machine that PyTorch can use,"
                " e.g. cpu or cuda"
            ) from None

    @property
    def env(self) -> EnvConfig:
        """The environment of the training."""
        wrappers = self.frame_stack, self.action_repeat, self.observe_actions, self.hold_dropped
        return EnvConfig(self.env_id, self.env_kwargs, *wrappers)

    def make_vec(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Make sub-environments to train in: see :meth:`EnvConfig.make_vec`."""
        limit = self.training_episode_steps
        kwargs = {"max_episode_steps": limit} if limit else {}
        return self.env.make_vec(
            num_envs, training=True, vec_env=self.vec_env, workers=self.workers, **kwargs
        )

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

    def require_choice(self, name: str, legal: tuple[Any, ...]) -> None:
        """Refuse a setting that is not one of a few values."""
        value = getattr(self, name)
        if not any(value is one or (isinstance(value, str) and value == one) for one in legal):
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(str, legal))}")

    def require_module(self, name: str) -> None:
        """Refuse an algorithm whose module is not installed."""
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def require_widths(self, name: str) -> None:
        """Refuse a setting that is not widths of hidden layers."""
        if not are_widths(getattr(self, name)):
            raise ValueError(
                f"{name}={getattr(self, name)!r} must be 0 to 8 whole numbers from 1 to 4096,"
                " e.g. (64, 64)"
            )


def derived_seed(*words: int) -> int:
    """Return a 31-bit seed that depends on all words (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


class _TrainingBar(tqdm):  # type: ignore[misc]
    """Shows return and threshold, and how long the training will last.

    A curve of returns cannot be extrapolated: lines through the last evaluations of
    ``benchmarks/curves.csv`` foretell the end wrongly by a factor of 3 to 100. So the time is that
    to the limit of steps, or, once an evaluation was solved, that to the evaluation with which
    enough in a row would be.

    Attributes:
        solved_at: steps at which the training may be solved, infinite if that is not known.
    """

    FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {left}{postfix}]"
    bar_format: str
    solved_at = math.inf

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the formats show; tqdm's, and ``left``."""
        facts: dict[str, Any] = super().format_dict
        elapsed, n, total = facts["elapsed"], facts["n"], facts["total"]
        rate = facts["rate"] or (elapsed and (n - facts["initial"]) / elapsed)
        may_be_solved = self.solved_at <= total
        # The evaluation that may solve it is due a little after its step, at the end of an update.
        steps = max(0, (self.solved_at if may_be_solved else total) - n)
        time_left = tqdm.format_interval(steps / rate) if rate else "?"
        text = "solved in {} at best" if may_be_solved else "at most {} left"
        return {**facts, "left": text.format(time_left)}

    def finish(self, complete: bool, summary: str) -> None:
        """End the bar with a summary, and fill it if the training has come to its end."""
        if complete:
            self.total = self.n
        self.delay = 0  # a short training has a line in a log file too
        self.bar_format = self.bar_format.replace(", {left}", "")
        self.set_postfix_str(summary, refresh=False)


class Run:
    """A training in progress. Use it as a context: inside, Ctrl-C asks the training to stop.

    Args:
        folder: where everything is written.
        config: the settings of the training.
        resume: go on from the folder's checkpoint.
        progress: show a progress bar.

    Attributes:
        steps: environment steps so far.
        best_return: the greatest mean of an evaluation, None before the first.
        restored: what the checkpoint has for the algorithm, None in a new training.
        stopped: whether a signal has asked to stop.

    Raises:
        FileNotFoundError: there is no checkpoint to resume from.
        CheckpointError: the checkpoint is damaged or of a training with other settings.
        OSError: the folder cannot be created, or there is one already.
    """

    def __init__(
        self, folder: Path, config: Config, resume: bool = False, progress: bool = True
    ) -> None:
        torch.set_num_threads(TORCH_THREADS)
        self.config = config
        self.folder = folder
        self.steps = 0
        self.best_return: float | None = None
        self.solved_in_a_row = 0
        self.stopped = False
        self.restored: LearnerState | None = None
        self._seconds_before = 0.0
        self._next_evaluation = config.eval_freq
        self._next_checkpoint = config.save_freq
        self._checkpoint_steps = 0
        self._settings = json.loads(json.dumps(dataclasses.asdict(config)))
        if resume:
            self._restore()
            for leftover in folder.glob(".*.part"):  # of a writer that was killed
                leftover.unlink()
        else:
            self._create_folder()
        self._log_rows = self._old_log_rows()
        self._writer = SummaryWriter(str(folder), purge_step=self.steps or None)
        self._threshold = config.env.reward_threshold
        if progress:
            solved = "" if self._threshold is None else f", solved at {self._threshold:g}"
            limit = f"up to {config.n_timesteps} steps{solved}"
            tqdm.write(f"training on {config.env_id} in {folder}: {limit}", file=sys.stderr)
        self._bar = progress_bar(
            _TrainingBar,
            total=config.n_timesteps,
            initial=self.steps,
            unit_scale=True,
            disable=not progress,
            desc=f"seed {config.seed}",
            bar_format=_TrainingBar.FORMAT,
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
        if kind is None and not self._bar.disable:
            self._bar.finish(self.complete, ", ".join(filter(None, [self.outcome, self._best])))
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
        return self.stopped or self.complete

    @property
    def complete(self) -> bool:
        """Whether the training has come to its own end: steps used up, or solved for good."""
        return self.solved or self.steps >= self.config.n_timesteps

    @property
    def solved(self) -> bool:
        """Whether ``solved_evaluations`` in a row were solved by every episode."""
        return 0 < self.config.solved_evaluations <= self.solved_in_a_row

    @property
    def outcome(self) -> str:
        """How the training ended, empty where the environment has no reward threshold.

        Solved for good is "solved"; where the mean of an evaluation, but not each episode of
        ``solved_evaluations`` in a row, reached the threshold, that is "threshold reached".
        """
        if self.stopped:
            return "stopped"
        if self.solved:
            return "solved"
        if self._threshold is None:
            return ""
        reached = self.best_return is not None and self.best_return >= self._threshold
        return "threshold reached" if reached else "not solved"

    @property
    def _best(self) -> str:
        return "" if self.best_return is None else f"best {self._of_threshold(self.best_return)}"

    def _of_threshold(self, mean: float) -> str:
        return f"return {mean:.0f}" + (f" of {self._threshold:g}" if self._threshold else "")

    @property
    def evaluation_due(self) -> bool:
        """Whether ``eval_freq`` steps have passed since the last evaluation, or all steps."""
        return self.steps >= min(self._next_evaluation, self.config.n_timesteps)

    @property
    def checkpoint_due(self) -> bool:
        """Whether ``save_freq`` steps have passed since the last checkpoint, or this is the end."""
        at_end = self.complete and self.steps_to_replay > 0
        return at_end or self.steps >= self._next_checkpoint

    @property
    def actions_left(self) -> int:
        """Actions of the agent, in all sub-environments together, until the steps are used up."""
        return math.ceil((self.config.n_timesteps - self.steps) / self.config.action_repeat)

    @property
    def steps_to_replay(self) -> int:
        """Steps since the latest checkpoint, which a resumed training takes again."""
        return self.steps - self._checkpoint_steps

    def advance(self, actions: int) -> None:
        """Count the environment steps that so many actions of the agent took, at most."""
        steps = actions * self.config.action_repeat
        self.steps += steps
        self._bar.update(steps)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Log scalars under SB3's names, to TensorBoard at once and to ``progress.csv`` later."""
        # Training returns are below those of evaluations: they are shown until there are these.
        shown = "eval/mean_reward" if self.best_return is not None else "rollout/ep_rew_mean"
        if shown in scalars:
            self._bar.set_postfix_str(self._of_threshold(scalars[shown]), refresh=False)
        scalars = {**scalars, "time/fps": self.steps / max(self.seconds, 1e-9)}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self.steps)
        self._log_rows.append({"time/total_timesteps": self.steps, **scalars})

    def evaluate(self, agent: Agent) -> None:
        """Play the selection episodes; keep the agent if none was better.

        The training goes on as if there had been no evaluation.
        """
        with _generators_kept():
            # Seeded, since an agent may draw its actions.
            torch.manual_seed(derived_seed(self.config.seed, self.steps))
            evaluation = evaluate(
                agent,
                SELECTION_SEEDS[: self.config.n_eval_episodes],
                self.config.deterministic_eval,
                workers=self.config.workers,
            )
        self._next_evaluation = self.steps + self.config.eval_freq
        mean = float(evaluation.returns.mean())
        threshold = self._threshold
        solved = threshold is not None and bool((evaluation.returns >= threshold).all())
        self.solved_in_a_row = self.solved_in_a_row + 1 if solved else 0
        missing = max(0, self.config.solved_evaluations - self.solved_in_a_row)
        self._bar.solved_at = self.steps + missing * self.config.eval_freq if solved else math.inf
        is_best = self.best_return is None or mean >= self.best_return
        if is_best:
            self.best_return = mean
        self.log(
            {"eval/mean_reward": mean, "eval/mean_ep_length": float(evaluation.lengths.mean())}
        )
        self._write_log()
        if is_best:
            agent.facts = {
                "seed": self.config.seed,
                "steps": self.steps,
                "seconds": round(self.seconds, 1),
                "selection_return": mean,
                "settings": self._settings,
                "torch_threads": TORCH_THREADS,
                "versions": versions(DEPENDED_ON),
            }
            agent.save(self.folder / "best.json")

    def checkpoint(self, learner: LearnerState) -> None:
        """Save all that :meth:`__init__` needs to resume exactly from here."""
        if self.steps >= self._next_checkpoint:
            self._next_checkpoint = self.steps + self.config.save_freq
        info = {
            "settings": self._settings,
            "steps": self.steps,
            "best_return": self.best_return,
            "solved_in_a_row": self.solved_in_a_row,
            "seconds": self.seconds,
            "next_evaluation": self._next_evaluation,
            "next_checkpoint": self._next_checkpoint,
            "learner": learner.values,
        }
        self._write_log()
        write_tensors(self.folder / "checkpoint.safetensors", learner.tensors, info)
        self._checkpoint_steps = self.steps

    @contextlib.contextmanager
    def restoring(self) -> Iterator[LearnerState | None]:
        """Give :attr:`restored` to the algorithm; what is wrong with it is a CheckpointError."""
        with refusing(self.folder / "checkpoint.safetensors"):
            yield self.restored

    def _create_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True)
            settings = json.dumps(self._settings, indent=2)
            write_atomically(self.folder / "config.json", settings.encode())
        except FileExistsError:
            raise FileExistsError(f"{self.folder} exists already: choose another folder") from None
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise type(error)(f"cannot write a training into {self.folder}: {reason}") from None

    def _restore(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            where = f": {self.folder} has no checkpoint" if self.folder.is_dir() else ""
            raise FileNotFoundError(f"there is no training to resume{where}")
        tensors, info, _ = read_tensors(path)
        with refusing(path):
            # These changes leave the past as it was.
            theirs = info["settings"]
            different = [
                name
                for name in {**theirs, **self._settings}
                if name not in ("n_timesteps", "workers")
                and (name not in theirs or self._settings.get(name) != theirs[name])
            ]
            if different:
                raise CheckpointError(f"{path} is of a training with other {', '.join(different)}")
            for name in ("steps", "solved_in_a_row", "next_evaluation", "next_checkpoint"):
                if type(info[name]) is not int or not 0 <= info[name] <= 2 * 10**9:
                    raise ValueError(f"{name} is {info[name]!r}")
            best = info["best_return"]
            self.best_return = None if best is None else float(best)
            self._seconds_before = float(info["seconds"])
            self.restored = LearnerState(tensors, dict(info["learner"]))
            self.steps = self._checkpoint_steps = info["steps"]
            self.solved_in_a_row = info["solved_in_a_row"]
            self._next_evaluation = info["next_evaluation"]
            self._next_checkpoint = info["next_checkpoint"]

    def _old_log_rows(self) -> list[dict[str, Any]]:
        path = self.folder / "progress.csv"
        if not path.exists():
            return []
        with refusing(path):
            lines = read_regular(path).decode().splitlines()
            rows = [
                {name: value for name, value in row.items() if value not in ("", None)}
                for row in csv.DictReader(lines, restkey="")
            ]
            if any("" in row or "time/total_timesteps" not in row for row in rows):
                raise ValueError("each line must have its time/total_timesteps between commas")
            return [row for row in rows if int(row["time/total_timesteps"]) <= self.steps]

    def _write_log(self) -> None:
        names = list(dict.fromkeys(name for row in self._log_rows for name in row))
        lines = [",".join(names)]
        for row in self._log_rows:
            lines.append(",".join(str(row.get(name, "")) for name in names))
        write_atomically(self.folder / "progress.csv", "\n".join([*lines, ""]).encode())


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global random generators as they were before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def finite_numbers(values: Any) -> list[float]:
    """Return numbers of a checkpoint after checking them.

    Raises:
        ValueError: they are no list of finite numbers.
    """
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return numbers
