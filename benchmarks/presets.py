"""``make presets``: what an LQG can control, by which the presets of perturbations are set.

``medium`` is the largest scale of a task's ``perturbation_template``, in steps of 0.05, at which
the LQG keeps a mean return of 490, ``hard`` the largest at which it keeps 250, ``easy`` half of
``medium``. Each is found by bisection with 100 episodes and then with 1,000, whose rows are in the
CSV: at the scale that was found, and at the next one, which is beyond. Then LQG and LQR play every
preset that the tasks have. What the CSV has a row of is not played again::

    python -m benchmarks.presets
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from bullet_envs import Task
from bullet_envs.agents import load_agent
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, evaluate
from bullet_envs.perturbation_scaling import scaled

from .cells import resumable, score
from .tables import read_rows, with_section, write_rows

ENV_IDS = ("BulletCartPole-v0", "BalancingPlate-v0")
KEPT = {"medium": 490.0, "hard": 250.0}  # mean return of the LQG
STEP = 0.05  # between scales
LARGEST = 100  # steps
SEARCH_EPISODES = 100
CONTROLLERS = ("lqg", "lqr")
SCORES = ("mean", "std", "worst", "lost")
KEYS = ("env_id", "perturbations", "algo", "episodes")
COLUMNS = (*KEYS, *SCORES)
CSV_PATH = Path(__file__).parent / "presets.csv"


@resumable()
def main() -> None:
    """Fill the CSV and rewrite the document's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/perturbations.md"))
    parser.add_argument("--envs", nargs="+", choices=ENV_IDS, default=ENV_IDS)
    options = parser.parse_args()
    for env_id in options.envs:
        task = task_of(env_id)
        template, presets = dict(task.perturbation_template), task.perturbation_presets
        template.pop("images")

        def kept_at(scale: float, episodes: int, env_id: str = env_id, of: Any = template) -> float:
            row = play(env_id, f"{scale:.2f}", scaled(of, scale), "lqg", episodes, options.csv)
            return float(row["mean"])

        for name, kept in KEPT.items():
            print(f"{env_id} {name}: scale {largest_scale(kept_at, kept):.2f}")
        for name in presets:
            for algo in CONTROLLERS:
                play(env_id, name, name, algo, len(EVALUATION_SEEDS), options.csv)
    text = options.document.read_text()
    write_atomically(
        options.document, with_section(text, "presets", table(read_rows(options.csv))).encode()
    )


def task_of(env_id: str) -> Task:
    """Return the task of an id."""
    bare: Any = gym.make(env_id).unwrapped
    task: Task = bare.task
    bare.close()
    return task


def largest_scale(kept_at: Callable[[float, int], float], kept: float) -> float:
    """Return the largest scale at which a mean return is kept, if none before it is beyond.

    Args:
        kept_at: returns the mean return at a scale, of so many episodes.
        kept: the least mean return.
    """
    low, high = 0, LARGEST
    while high - low > 1:
        middle = (low + high) // 2
        if kept_at(middle * STEP, SEARCH_EPISODES) >= kept:
            low = middle
        else:
            high = middle
    everything = len(EVALUATION_SEEDS)
    while low and kept_at(low * STEP, everything) < kept:
        low -= 1
    while kept_at((low + 1) * STEP, everything) >= kept:
        low += 1
    return low * STEP


def play(
    env_id: str,
    name: str,
    perturbations: Mapping[str, Any] | str,
    algo: str,
    episodes: int,
    csv: Path,
) -> dict[str, Any]:
    """Return the row of some episodes, from the CSV if it is there.

    Scales at which a parameter is not legal count as beyond what can be controlled.
    """
    key = (env_id, name, algo, str(episodes))
    rows = read_rows(csv)
    for row in rows:
        if tuple(row[column] for column in KEYS) == key:
            return row
    try:
        agent = load_agent(env_id, algo, perturbations=perturbations)
    except ValueError as error:
        print(f"{env_id} {name}: {error}")
        return {"mean": 0.0}
    evaluation = evaluate(agent, EVALUATION_SEEDS[:episodes])
    limit = agent.env.max_episode_steps or 0
    scores = {**score(evaluation), "lost": int((evaluation.lengths < limit).sum())}
    row = {**dict(zip(KEYS, key, strict=True)), **scores}
    print(*(row[column] for column in COLUMNS), flush=True)
    write_rows(csv, COLUMNS, [*rows, row])
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the presets."""
    lines = ["| id | preset | mean return, LQG | lost | LQR | lost |", "|---|---|---|---|---|---|"]
    for env_id in ENV_IDS:
        for name in task_of(env_id).perturbation_presets:
            line = f"| {env_id} | `{name}` |"
            for algo in CONTROLLERS:
                (row,) = (
                    row
                    for row in rows
                    if (row["env_id"], row["perturbations"], row["algo"]) == (env_id, name, algo)
                )
                lost = 100 * int(row["lost"]) / int(row["episodes"])
                line += f" {float(row['mean']):.0f} | {lost:.1f} % |"
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
