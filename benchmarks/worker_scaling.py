"""``make scaling``: what workers cost beside the physics, and what is to be expected of 16 cores.

    python -m benchmarks.worker_scaling --json docs/worker_scaling.json --document docs/scaling.md

A step of a vector environment takes ``serial + hand_over + part``: what this process does for all
sub-environments (actions, copies of the results, infos), what it takes to let the other processes
go and to wait for them, and what a process does for its own sub-environments. All three are
measured; the hand-over with parts that do nothing, right after the step before, when the other
processes still spin, and after a pause such as that of a policy, when they have blocked.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np

from bullet_envs import bench
from bullet_envs.cores import count_cores
from bullet_envs.progress import progress_bar
from bullet_envs.registration import env_ids
from bullet_envs.sub_environments import SubEnvironments

from .tables import with_section

ROOT = Path(__file__).parent.parent
NUM_ENVS = (16, 64, 256, 1024)
MOST_IMAGES = 64  # sub-environments of a pixel id: more take seconds for a step
WORKERS = range(2, max(2, count_cores()) + 1)
PAUSE = 1e-3  # s
PREDICTED = (2, 4, 8, 16)
EFFICIENCY = 0.8  # of linear scaling
STEPS = 50


@contextlib.contextmanager
def timed_parts(seconds: list[float]) -> Iterator[None]:
    """Add up what parts in this process take to step."""
    step = SubEnvironments.step

    def timed(part: SubEnvironments, skip_observations: bool) -> None:
        start = time.perf_counter()
        step(part, skip_observations)
        seconds[0] += time.perf_counter() - start

    with mock.patch.object(SubEnvironments, "step", timed):
        yield


def seconds_per_step(envs: gym.vector.VectorEnv[Any, Any, Any], pause: float = 0.0) -> float:
    """Return what a step with random actions takes, without the pause between steps."""
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(bench.BURST)]
    envs.reset(seed=0)
    envs.step(actions[0])
    seconds = 0.0
    for number in range(STEPS):
        start = time.perf_counter()
        envs.step(actions[number % bench.BURST])
        end = time.perf_counter()
        seconds += end - start
        while time.perf_counter() < end + pause:
            pass
    return seconds / STEPS


def measure(env_id: str, num_envs: int) -> dict[str, float]:
    """Return the serial time and that of the part of a step in one process (s)."""
    envs = gym.make_vec(env_id, num_envs=num_envs)
    inside = [0.0]
    seconds_per_step(envs)
    with timed_parts(inside):
        step = seconds_per_step(envs)
    envs.close()
    part = inside[0] / (STEPS + 1)
    return {"step": step, "part": part, "serial": step - part}


def measure_hand_over(pause: float) -> dict[int, float]:
    """Return what it takes to let so many processes do nothing and to wait for them (s)."""
    with mock.patch.object(SubEnvironments, "step", lambda part, skip_observations: None):
        seconds = {}
        for workers in (1, *WORKERS):
            envs = gym.make_vec(bench.CART_POLE, num_envs=64, workers=workers)
            seconds[workers] = seconds_per_step(envs, pause)
            envs.close()
    return {workers: seconds[workers] - seconds[1] for workers in WORKERS}


def run(repeats: int) -> dict[str, Any]:
    """Measure everything so many times and return the medians."""
    sizes = [
        (env_id, num_envs)
        for env_id in env_ids()
        for num_envs in NUM_ENVS
        if num_envs <= MOST_IMAGES or "Pixels" not in env_id
    ]
    costs: dict[tuple[str, int], list[dict[str, float]]] = {size: [] for size in sizes}
    hand_overs: dict[str, list[dict[int, float]]] = {"at_once": [], "after_pause": []}
    for _ in progress_bar(iterable=range(repeats), unit="round"):
        for size in sizes:
            costs[size].append(measure(*size))
        hand_overs["at_once"].append(measure_hand_over(0.0))
        hand_overs["after_pause"].append(measure_hand_over(PAUSE))
    return {
        "date": date.today().isoformat(),
        "machine": bench.machine(),
        "repeats": repeats,
        "hand_over": {
            name: {str(w): median(one[w] for one in of) for w in WORKERS}
            for name, of in hand_overs.items()
        },
        "costs": [
            {
                "env_id": env_id,
                "num_envs": num_envs,
                **{name: median(one[name] for one in of) for name in of[0]},
            }
            for (env_id, num_envs), of in costs.items()
        ],
    }


class Prediction:
    """Steps of a vector environment with any number of sub-environments and workers.

    The hand-over, after a pause, is taken to grow in proportion to the other processes.

    Args:
        results: what :func:`run` returns.
        env_id: of the environment.
    """

    def __init__(self, results: dict[str, Any], env_id: str) -> None:
        rows = [row for row in results["costs"] if row["env_id"] == env_id]
        self._num_envs = [row["num_envs"] for row in rows]
        self._part = [row["part"] for row in rows]
        self._serial = [row["serial"] for row in rows]
        workers, seconds = zip(*results["hand_over"]["after_pause"].items(), strict=True)
        others = np.array([int(count) - 1 for count in workers])
        self._each = float(others @ seconds / (others @ others))

    def seconds(self, num_envs: int, workers: int) -> float:
        """Return what a step takes."""
        part = self._at(self._part, num_envs / workers)
        return self._at(self._serial, num_envs) + self._each * (workers - 1) + part

    def speedup(self, num_envs: int, workers: int) -> float:
        """Return how many times as fast so many workers are."""
        return self.seconds(num_envs, 1) / self.seconds(num_envs, workers)

    def enough(self, workers: int) -> int | None:
        """Return how many sub-environments each worker needs for 0.8 of linear scaling."""
        each = 1
        while each * workers <= 4096:
            if self.speedup(each * workers, workers) >= EFFICIENCY * workers:
                return each
            each *= 2
        return None

    def _at(self, seconds: Sequence[float], num_envs: float) -> float:
        """Interpolate; beyond the ends go on along the line through the two nearest."""
        index = int(np.clip(np.searchsorted(self._num_envs, num_envs), 1, len(seconds) - 1))
        (first, last), (low, high) = self._num_envs[index - 1 :][:2], seconds[index - 1 :][:2]
        return float(max(0.0, low + (high - low) * (num_envs - first) / (last - first)))


def table(results: dict[str, Any]) -> str:
    """Return what was measured, and what it predicts, as Markdown."""
    at_once, after_pause = (
        ", ".join(f"{1e6 * s:.0f} µs for {w} processes" for w, s in of.items())
        for of in results["hand_over"].values()
    )
    lines = [
        "| id | sub-environments | µs per step, one process | of these serial |",
        "|---|---|---|---|",
        *(
            f"| {row['env_id']} | {row['num_envs']} | {1e6 * row['step']:.0f} |"
            f" {1e6 * row['serial']:.0f} ({row['serial'] / row['step']:.0%}) |"
            for row in results["costs"]
        ),
        "",
        f"Hand-over of a step right after the last: {at_once}; {1e3 * PAUSE:.0f} ms after it:"
        f" {after_pause}.",
        "",
        "| id | sub-environments | "
        + " | ".join(f"{w} processes" for w in PREDICTED)
        + " | sub-environments for each of 16 processes that keep 80 % |",
        "|---|---|" + "---|" * (len(PREDICTED) + 1),
    ]
    for row in results["costs"]:
        prediction = Prediction(results, row["env_id"])
        if row["num_envs"] < 64:
            continue
        speedups = [prediction.speedup(row["num_envs"], w) for w in PREDICTED]
        enough = prediction.enough(16)
        lines.append(
            f"| {row['env_id']} | {row['num_envs']} | "
            + " | ".join(f"{s:.1f}" for s in speedups)
            + f" | {'more than 256' if enough is None else enough} |"
        )
    lines += [
        "",
        f"{results['date']}, {results['machine']}, medians of {results['repeats']} rounds.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and rewrite the document's section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7, help="rounds (7)")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--document", type=Path, help="a text whose section 'workers' to rewrite")
    options = parser.parse_args()
    results = run(options.repeats)
    print(table(results))
    bench.write(results, options.json)
    if options.document is not None:
        text = options.document.read_text()
        options.document.write_text(with_section(text, "workers", table(results)))


if __name__ == "__main__":
    main()
