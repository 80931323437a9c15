"""How long our algorithms train, beside those of Stable-Baselines3 with equal settings.

Both take the same number of environment steps in the same vector environment, on one thread,
without evaluations and checkpoints, and take turns.
"""

import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bullet_envs.agents import Agent, EnvConfig, algorithm
from bullet_envs.agents.checkpoints import LearnerState
from bullet_envs.agents.run import TORCH_THREADS, Run
from bullet_envs.bench import spread

from . import plain_sb3

STEPS = 30_720  # a multiple of every rollout, so that SB3 takes no more
WARM_UP_STEPS = 2_048
REQUIRED = 0.8  # seconds of ours over SB3's


@dataclass(frozen=True)
class WallClock:
    """Trainings of ours and of SB3's that take turns.

    Args:
        env_id: of the environment.
        algo: ours.
        steps: environment steps of each training.
    """

    env_id: str
    algo: str
    steps: int = STEPS

    @property
    def title(self) -> str:
        """What is timed."""
        return f"{self.env_id}, {self.algo}, {self.steps} steps"

    def run(self, repeats: int) -> dict[str, Any]:
        """Time the trainings, print their ratio and return the figures."""
        trainings = {"ours": self.train_ours, "sb3": self.train_sb3}
        seconds: dict[str, list[float]] = {name: [] for name in trainings}
        for train in trainings.values():
            train(0, min(self.steps, WARM_UP_STEPS))
        for turn in range(repeats):
            for name, train in list(trainings.items())[:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                train(turn, self.steps)
                seconds[name].append(time.perf_counter() - start)
        ratios = [mine / theirs for mine, theirs in zip(*seconds.values(), strict=True)]
        ratio = spread(ratios)
        result = {
            "title": self.title,
            "env_id": self.env_id,
            "algo": self.algo,
            "steps": self.steps,
            "versions": [f"{name} {version(name)}" for name in ("torch", "stable-baselines3")],
            "seconds": {name: spread(of) for name, of in seconds.items()},
            "ratio": ratio,
        }
        print(f"{self.title}: {ratio['median']:.2f} of SB3's seconds")
        return result

    def train_ours(self, seed: int, steps: int) -> None:
        """Train ours."""
        config = self._config(seed, steps)
        with (
            tempfile.TemporaryDirectory() as folder,
            _Undisturbed(Path(folder) / "run", config, progress=False) as run,
        ):
            algorithm(self.algo).train(config, run)
        if run.steps != steps:
            raise ValueError(f"{self.title}: ours took {run.steps} steps")

    def train_sb3(self, seed: int, steps: int) -> None:
        """Train SB3's.

        Raises:
            ValueError: the steps are not a multiple of its rollouts.
        """
        torch.set_num_threads(TORCH_THREADS)
        algo = f"sb3-{self.algo}"
        settings = plain_sb3.settings_like(algo, self._config(seed, steps))
        model = plain_sb3.new_model(algo, EnvConfig(self.env_id), seed, settings)
        model.learn(steps)
        model.env.close()
        if model.num_timesteps != steps:
            raise ValueError(f"{self.title}: SB3 took {model.num_timesteps} steps")

    def _config(self, seed: int, steps: int) -> Any:
        learner = algorithm(self.algo)
        never = {"eval_freq": 10**9, "save_freq": 10**9, "solved_evaluations": 0}
        settings = {**learner.preset(self.env_id), **never, "n_timesteps": steps}
        return learner.config(env_id=self.env_id, seed=seed, **settings)


class _Undisturbed(Run):
    """A training without the evaluation and the checkpoint at its end."""

    def evaluate(self, agent: Agent) -> None:
        """Do nothing."""

    def checkpoint(self, learner: LearnerState) -> None:
        """Do nothing."""


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table of what was measured, with its date and machine."""
    lines = [
        "| environment | algorithm | ours, seconds | SB3's, seconds | ours / SB3's (quartiles)"
        f" | at most {REQUIRED} |",
        "|---|---|---|---|---|---|",
    ]
    for one in results["sections"]:
        ours, sb3, ratio = one["seconds"]["ours"], one["seconds"]["sb3"], one["ratio"]
        lines.append(
            f"| {one['env_id']} | {one['algo']} | {ours['median']:.1f} | {sb3['median']:.1f} |"
            f" {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) |"
            f" {'yes' if ratio['median'] <= REQUIRED else 'no'} |"
        )
    one = results["sections"][0]
    lines += [
        "",
        f"Medians of {results['repeats']} rounds of {one['steps']:,} steps each, {results['date']},"
        f" {', '.join([results['machine'], *one['versions']])}.",
    ]
    return "\n".join(lines)
