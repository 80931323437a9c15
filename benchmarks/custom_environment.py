"""The proof behind ``docs/custom_environment.md``: an agent that solves the generated arm.

``bullet-envs new`` writes the package, ``bullet-envs train`` trains SB3's PPO on it with each seed,
and 1,000 unseen targets over the whole reachable annulus are played. One is reached if the
fingertip is within 2 cm of it for the last 20 steps. Train and test every seed that the CSV lacks::

    python -m benchmarks.custom_environment
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bullet_envs.agents import Agent, load_agent
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.template import write_package

from .cells import curve_of, resumable
from .tables import read_rows, with_section, write_rows

ENV_ID = "planar_arm:PlanarArm-v0"
SEEDS = range(5)
TARGETS = 1000
AT_ONCE = 25  # each has a Bullet world of its own, 30 MB
FIRST_TARGET = 50_000_000  # a reset seed; training and selection have others
LAST = 20  # steps in which the fingertip must be at the target
TOLERANCE = 0.02  # m
COLUMNS = ("seed", "steps", "seconds", "reached", "median_mm", "percentile_99_mm", "sha256")
CURVE_COLUMNS = ("seed", "steps", "return")
HERE = Path(__file__).parent


def train_command(readme: str) -> list[str]:
    """Return the arguments of the training that the package's README tells to run."""
    line = re.search(r"^bullet-envs train (.*)$", readme, re.MULTILINE)
    assert line is not None
    return line[1].split()


def reached(agent: Agent) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the part of the targets that is reached, and the greatest distance to each (m)."""
    envs = agent.make_vec(AT_ONCE)
    parts = []
    for first in range(0, TARGETS, AT_ONCE):
        observations, _ = envs.reset(seed=FIRST_TARGET + first)
        distances = []
        for _ in range(agent.env.max_episode_steps or 0):
            actions = agent.act(observations, deterministic=True)
            observations, _, _, _, infos = envs.step(actions)
            distances.append(infos["distance"])
        parts.append(np.max(distances[-LAST:], axis=0))
    envs.close()
    greatest: npt.NDArray[np.float64] = np.concatenate(parts)
    return float((greatest < TOLERANCE).mean()), greatest


def train(seed: int, package: Path, runs: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train a seed on the command line; return its row and its learning curve."""
    arguments = train_command((package / "README.md").read_text())
    command = [sys.executable, "-m", "bullet_envs", "train", *arguments, "--seed", str(seed)]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package / "src"), *filter(None, sys.path)]),
    }
    subprocess.run([*command, "-f", str(runs)], check=True, env=environ, cwd=package)
    folder = runs / "sb3-ppo" / f"PlanarArm-v0_seed{seed}_1"
    agent = load_agent(ENV_ID, folder)
    part, greatest = reached(agent)
    progress = read_rows(folder / "progress.csv")
    row = {
        "seed": seed,
        "steps": progress[-1]["time/total_timesteps"],
        "seconds": round(_seconds(progress), 1),
        "reached": part,
        "median_mm": round(float(np.median(greatest)) * 1000, 2),
        "percentile_99_mm": round(float(np.quantile(greatest, 0.99)) * 1000, 2),
        "sha256": agent.weights_hash,
    }
    curve = [{"seed": seed, **point} for point in curve_of(folder)]
    return row, curve


def _seconds(progress: list[dict[str, Any]]) -> float:
    last = progress[-1]
    return float(last["time/total_timesteps"]) / float(last["time/fps"])


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw the learning curve of every seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    panel = figure.subplots()
    for seed in SEEDS:
        mine = [row for row in curves if int(row["seed"]) == seed]
        steps = [int(row["steps"]) / 1000 for row in mine]
        panel.plot(steps, [float(row["return"]) for row in mine], label=f"seed {seed}")
    panel.set(
        title="PlanarArm-v0, sb3-ppo",
        xlabel="environment steps (thousands)",
        ylabel="return of 20 episodes",
    )
    panel.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the seeds."""
    lines = [
        "| seed | steps | seconds | targets reached | median, mm | 99th percentile, mm |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['seed']} | {int(row['steps']) // 1000} k | {float(row['seconds']):.0f} |"
            f" {100 * float(row['reached']):.1f} % | {float(row['median_mm']):.1f} |"
            f" {float(row['percentile_99_mm']):.1f} |"
        )
    return "\n".join(lines)


@resumable()
def main() -> None:
    """Fill the CSV files, draw the curves and rewrite the table of a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=HERE / "custom_environment.csv")
    parser.add_argument("--curves", type=Path, default=HERE / "custom_environment_curves.csv")
    parser.add_argument("--plot", type=Path, default=Path("docs/custom_environment.png"))
    parser.add_argument("--document", type=Path, default=Path("docs/custom_environment.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = write_package("planar_arm", Path(folder))
        sys.path.insert(0, str(package / "src"))
        for seed in SEEDS:
            rows, curves = read_rows(options.csv), read_rows(options.curves)
            if seed in [int(row["seed"]) for row in rows]:
                continue
            row, curve = train(seed, package, Path(folder) / "runs")
            print({name: row[name] for name in COLUMNS[:-1]}, flush=True)
            write_rows(options.csv, COLUMNS, [*rows, row])
            write_rows(options.curves, CURVE_COLUMNS, [*curves, *curve])
    plot(read_rows(options.curves), options.plot)
    text = with_section(
        options.document.read_text(), "custom_environment", table(read_rows(options.csv))
    )
    write_atomically(options.document, text.encode())


if __name__ == "__main__":
    main()
