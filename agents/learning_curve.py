"""The learning curve of one training, as an image."""

import csv
from pathlib import Path


def draw(folder: Path, threshold: float | None) -> Path:
    """Draw the returns in the ``progress.csv`` of a run's folder into ``learning_curve.png`` there.

    Args:
        folder: of a run.
        threshold: the return from which an episode counts as solved.

    Returns:
        The path of the image.
    """
    from matplotlib.figure import Figure  # late, since it takes a second

    with (folder / "progress.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (
        ("rollout/ep_rew_mean", "training episodes", "-"),
        ("eval/mean_reward", "evaluations", "o-"),
    ):
        points = [
            (int(row["time/total_timesteps"]), float(row[name])) for row in rows if row.get(name)
        ]
        axes.plot([steps for steps, _ in points], [mean for _, mean in points], style, label=label)
    if threshold is not None:
        axes.axhline(threshold, color="grey", linestyle="--", label=f"solved at {threshold:g}")
    axes.set(title=folder.name, xlabel="environment steps", ylabel="mean return")
    axes.legend()
    path = folder / "learning_curve.png"
    figure.savefig(path, dpi=110)
    return path
