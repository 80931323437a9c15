"""The page of ``make benchmark-agents``: its tables, its learning curves and its code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bullet_envs.agents.statistics import (
    Scores,
    iqm,
    probability_of_improvement,
    stratified_bootstrap,
)

from . import comparisons, wall_clock
from .code_blocks import with_code
from .comparisons import Comparison, cell_of
from .tables import with_section

ROOT = Path(__file__).parent.parent
PANELS = 4  # of learning curves, beside each other


def scores_of(rows: Sequence[dict[str, Any]], of: Comparison, column: str) -> Scores:
    """Return the scores of a comparison's seeds that have been trained, shape (runs, 1)."""
    scores = [[float(row[column])] for row in rows if cell_of(row)[:3] == of.names]
    return np.array(scores).reshape(-1, 1)


def beside(of: Comparison) -> Comparison:
    """Return SB3's trainings that a comparison is measured by."""
    names = (of.name, of.env_id, f"sb3-{of.algo}")
    (other,) = (one for one in comparisons.COMPARISONS if (one.name, one.env_id, one.algo) == names)
    return other


def reached(of: Comparison, rows: Sequence[dict[str, Any]]) -> bool | None:
    """Return whether a comparison has what it must reach, None while trainings are missing."""
    scores = scores_of(rows, of, "best_mean")
    if not of.required or len(scores) < len(of.seeds):
        return None
    middle = float(iqm(scores))
    enough = of.every_seed is None or bool(scores.min() >= of.every_seed)
    enough &= of.iqm is None or middle >= of.iqm
    if of.sb3:
        other = beside(of)
        theirs = scores_of(rows, other, "best_mean")
        if len(theirs) < len(other.seeds):
            return None
        best = float(iqm(theirs))
        enough &= middle >= best - comparisons.BELOW_SB3 * (best - comparisons.RANDOM[of.env_id])
    return enough


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of the comparisons that have been trained."""
    lines = [
        "| environment | algorithm | steps | published (source) | required | reached"
        " | IQM [95 % interval] | worst seed | all seeds | last agent, IQM |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for of in comparisons.COMPARISONS:
        scores = scores_of(rows, of, "best_mean")
        if not len(scores):
            continue
        last = float(iqm(scores_of(rows, of, "last_mean")))
        low, high = stratified_bootstrap(iqm, scores)
        each = ", ".join(f"{score:.1f}" for score in scores[:, 0])
        answer = {True: "yes", False: "no", None: ""}[reached(of, rows)]
        lines.append(
            f"| {of.env_id} | {of.algo} | {of.n_timesteps // 1000} k | {of.published} |"
            f" {of.required} | {answer} | {float(iqm(scores)):.1f} [{low:.1f}, {high:.1f}] |"
            f" {scores.min():.1f} | {each} | {last:.1f} |"
        )
    return "\n".join(lines)


def improvement_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of how probably a run of ours is better than one of SB3's."""
    lines = [
        "| environment | algorithm | P(ours > SB3's) [95 % interval] | runs |",
        "|---|---|---|---|",
    ]
    by_algo: dict[str, list[tuple[Scores, Scores]]] = {}
    for of in comparisons.COMPARISONS:
        if not of.sb3:
            continue
        pair = (scores_of(rows, of, "best_mean"), scores_of(rows, beside(of), "best_mean"))
        if not all(map(len, pair)):
            continue
        lines.append(_improvement(of.env_id, of.algo, pair))
        if of.name == comparisons.EQUAL_SETTINGS and len(pair[0]) == len(pair[1]) == len(of.seeds):
            by_algo.setdefault(of.algo, []).append(pair)
    for algo, pairs in by_algo.items():
        if len(pairs) > 1:
            ours, theirs = (np.hstack(side) for side in zip(*pairs, strict=True))
            lines.append(_improvement("both state ids", algo, (ours, theirs)))
    return "\n".join(lines)


def _improvement(env_id: str, algo: str, pair: tuple[Scores, Scores]) -> str:
    low, high = stratified_bootstrap(probability_of_improvement, *pair)
    return (
        f"| {env_id} | {algo} | {float(probability_of_improvement(*pair)):.2f}"
        f" [{low:.2f}, {high:.2f}] | {pair[0].size} and {pair[1].size} |"
    )


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the learning curves: a panel per environment and algorithm, SB3's beside ours.

    Thin lines are seeds, thick ones their interquartile mean, dashed ones what is required.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in curves:
        point = (int(row["steps"]) / 1000, float(row["return"]))
        points.setdefault(cell_of(row), []).append(point)
    places = _places(
        [of for of in comparisons.COMPARISONS if any(key[:3] == of.names for key in points)]
    )
    if not places:
        return
    height = 1 + max(line for _, (line, _) in places)
    figure = Figure(figsize=(10, 2.3 * height + 0.4), layout="constrained")
    panels = figure.subplots(height, PANELS, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for of, place in places:
        panel = panels[place]
        panel.set_axis_on()
        colour = "C1" if of.algo.startswith("sb3-") else "C0"
        mine = [np.array(of_seed) for key, of_seed in points.items() if key[:3] == of.names]
        for curve in mine:
            panel.plot(*curve.T, color=colour, linewidth=0.7, alpha=0.45)
        panel.plot(*middle_curve(mine, of.n_timesteps / 1000), color=colour, linewidth=2.2)
        for least in {of.every_seed, of.iqm} - {None}:
            panel.axhline(least, color="grey", linewidth=0.9, linestyle="--")
        panel.set_title(f"{of.env_id}, {of.algo.removeprefix('sb3-')}", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.set_xlim(0, of.n_timesteps / 1000)
        returns = [y for key, of_seed in points.items() if key[1] == of.env_id for _, y in of_seed]
        low, high = np.quantile(returns, 0.02), max(returns)
        margin = 0.06 * max(high - low, 1)
        panel.set_ylim(low - margin, high + margin)
    figure.supxlabel("environment steps (thousands)", fontsize=9)
    figure.supylabel("return of 20 episodes", fontsize=9)
    lines = {
        "by hand, IQM": Line2D([], [], color="C0", linewidth=2.2),
        "by hand, a seed": Line2D([], [], color="C0", linewidth=0.7, alpha=0.45),
        "SB3, IQM": Line2D([], [], color="C1", linewidth=2.2),
        "SB3, a seed": Line2D([], [], color="C1", linewidth=0.7, alpha=0.45),
        "required": Line2D([], [], color="grey", linewidth=0.9, linestyle="--"),
    }
    figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _places(drawn: Sequence[Comparison]) -> list[tuple[Comparison, tuple[int, int]]]:
    """Return comparisons with line and column of their panels, an environment's in one line."""
    panels: dict[str, list[str]] = {}
    for of in drawn:
        algos = panels.setdefault(of.env_id, [])
        if (algo := of.algo.removeprefix("sb3-")) not in algos:
            algos.append(algo)
    places: dict[tuple[str, str], tuple[int, int]] = {}
    line = column = 0
    for env_id, algos in panels.items():
        if column + len(algos) > PANELS:
            line, column = line + 1, 0
        for algo in algos:
            places[env_id, algo] = (line, column)
            column += 1
    return [(of, places[of.env_id, of.algo.removeprefix("sb3-")]) for of in drawn]


def middle_curve(curves: Sequence[Scores], steps: float) -> tuple[Scores, Scores]:
    """Return the interquartile mean of learning curves.

    Between evaluations, and after an early end, a curve stays as it was.

    Args:
        curves: each of shape (evaluations, 2): steps and return.
        steps: where it ends.

    Returns:
        Steps, from the first of which all curves have begun, and the mean at each.
    """
    grid = np.linspace(max(curve[0, 0] for curve in curves), steps, 100)
    latest = [curve[np.searchsorted(curve[:, 0], grid, "right") - 1, 1] for curve in curves]
    return grid, iqm(np.stack(latest, axis=1)[:, :, None])


def document(
    text: str,
    rows: Sequence[dict[str, Any]],
    timed: dict[str, Any] | None,
    curves: Path | None,
) -> str:
    """Return a document with its tables and its code written anew.

    Args:
        text: the document.
        rows: of the CSV.
        timed: what :mod:`benchmarks.wall_clock` measured, None if it has not.
        curves: picture of the learning curves, beside the document; None if there is none.
    """
    picture = "" if curves is None else f"![Learning curves of every seed]({curves.name})"
    sections = {
        "comparison": table(rows),
        "improvement": improvement_table(rows),
        "curves": picture,
        "wall-clock": "" if timed is None else wall_clock.table(timed),
    }
    for name, content in sections.items():
        text = with_section(text, name, content)
    return with_code(text, ROOT)
