"""``make scaling``: what Ray RLlib samples and how long it trains, for ``docs/scaling.md``.

    python -m benchmarks.rllib_scaling --json docs/rllib.json --document docs/scaling.md

The trainings with 0, 1 and 2 env runners take turns, a seed each, and stop at the first evaluation
that solves the environment.
"""

import argparse
import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from bullet_envs import bench
from bullet_envs.agents.rllib_modules import RequireNextStep
from bullet_envs.bench import Ratio

from .tables import with_section
from .time_to_solve import TimeToSolve, summary, training

NUM_ENVS = 64
ACTIONS = 16  # of each sub-environment, in each call of sample
SAMPLED = ("BulletCartPole-v0", "BalancingPlate-v0")
TRAINED = {"BulletCartPole-v0": range(3), "BalancingPlatePixels-v0": range(1)}  # seeds of each
RUNNERS = (0, 1, 2)


def sampling() -> bench.Section:
    """Return what RLlib samples from our batch, and from single environments that it batches."""
    cases, ratios = [], []
    for env_id in SAMPLED:
        for mode, what in (
            (gym.VectorizeMode.VECTOR_ENTRY_POINT, "one batch"),
            (gym.VectorizeMode.SYNC, "single environments"),
        ):
            opener = functools.partial(_open_runner, env_id, mode)
            name = f"RLlib, {NUM_ENVS} {env_id}, {what}"
            cases.append(bench.Case(name, opener, NUM_ENVS * ACTIONS))
        ratios.append(Ratio(cases[-2].name, cases[-1].name))
    return bench.Section("RLlib's env_runner.sample", cases, ratios)


@contextlib.contextmanager
def _open_runner(env_id: str, mode: gym.VectorizeMode) -> Iterator[bench.Loop]:
    config = (
        PPOConfig()
        .environment(f"bullet_envs:{env_id}")
        .env_runners(gym_env_vectorize_mode=mode, num_envs_per_env_runner=NUM_ENVS)
        .callbacks(RequireNextStep)
    )
    runner = SingleAgentEnvRunner(config=config)
    yield (lambda: None), lambda _: runner.sample(num_timesteps=NUM_ENVS * ACTIONS)
    runner.stop()


def trainings(env_id: str, seeds: Sequence[int]) -> TimeToSolve:
    """Return the same training with several numbers of env runners."""
    names = {runners: _name(env_id, runners) for runners in RUNNERS}
    return TimeToSolve(
        f"time to solve {env_id} with RLlib's PPO",
        {
            name: training("rllib-ppo", env_id, num_env_runners=runners)
            for runners, name in names.items()
        },
        [Ratio(names[0], names[runners]) for runners in RUNNERS[1:]],
        seeds,
        in_summary=False,
    )


def _name(env_id: str, runners: int) -> str:
    return f"{runners} env runners, {env_id}"


def seconds_to_solve(results: dict[str, Any]) -> str:
    """Return the Markdown table of the trainings' times."""
    columns = [f"{count} env runner{'s' * (count != 1)}" for count in RUNNERS]
    lines = [
        f"| seconds to solve (median) | {' | '.join(columns)} |",
        "|---" * (1 + len(RUNNERS)) + "|",
    ]
    timed = {section["title"]: section for section in results["sections"]}
    for env_id, seeds in TRAINED.items():
        if (section := timed.get(trainings(env_id, seeds).title)) is None:
            continue
        cells = []
        for runners in RUNNERS:
            name = _name(env_id, runners)
            of, solved = section["seconds"][name], section["seeds_solved"][name]
            cells.append(f"{of['median']:.0f} ({solved} of {section['seeds']} seeds)")
        lines.append(f"| {env_id} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Time everything, or the sections whose title has some words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7, help="rounds of sampling (7)")
    parser.add_argument("--only", default="", help="a section's title, or part of several")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--document", type=Path, help="a text whose section 'rllib' to rewrite")
    options = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    everything: list[Any] = [sampling(), *(trainings(*of) for of in TRAINED.items())]
    results = bench.run(bench.choose(everything, options.only), options.repeats, options.json)
    if options.document is not None:
        text, shown = options.document.read_text(), seconds_to_solve(results)
        options.document.write_text(with_section(text, "rllib", f"{summary(results)}\n\n{shown}"))


if __name__ == "__main__":
    main()
