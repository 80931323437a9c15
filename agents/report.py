"""The pages of an agent's report card: Markdown, the same as one HTML file, and JSON.

All numbers are those of :func:`bullet_envs.agents.validation.measure`.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from ..mp4 import find_ffmpeg
from . import validation
from .checkpoints import write_atomically

COLOURS = ("#1769aa", "#d1761a", "#777777")  # the agent, the LQR, random
KEPT, LOST = "#9dbfd9", "#c0182b"
COLUMNS = 4  # of panels
SHOWN_STEPS = 150  # of the end of a failure
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #8886; text-align: left; }
img, video { max-width: 100%; background: #fff; }
pre { overflow-x: auto; padding: 0.6rem; background: #8882; }
"""


def write(
    subject: validation.Subject,
    measured: Mapping[str, Any],
    findings: Sequence[Any],
    folder: Path,
    command: str,
    pool: Executor | None = None,
) -> Path:
    """Write ``report.json``, ``report.md``, ``report.html`` and figures into a folder.

    Args:
        subject: the agent.
        measured: what :func:`bullet_envs.agents.validation.measure` returned.
        findings: of :func:`bullet_envs.certificate.certify`.
        folder: which exists.
        command: that makes the card again.
        pool: of processes that draw the figures, None to draw them here.

    Returns:
        The path of the HTML file.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    threshold = subject.reward_threshold
    tables = {name: validation.nominal_figures(of) for name, of in measured["nominal"].items()}
    data = {
        "command": command,
        "identity": measured["identity"],
        "environment": [
            {"name": one.name, "passed": one.passed, "summary": one.summary} for one in findings
        ],
        "nominal": tables,
        **{name: measured[name] for name in ("robustness", "heat_map", "search", "failures")},
    }
    write_atomically(folder / "report.json", json.dumps(data, indent=1).encode())
    traces = [validation.Trace(**trace) for trace in measured["traces"]]
    drawings: list[tuple[Any, ...]] = [
        (_plot_robustness, measured["robustness"], threshold, figures / "robustness.png"),
        *((_draw_failure, trace, folder, index) for index, trace in enumerate(traces, 1)),
        (_plot_initial_states, measured, figures / "initial_states.png"),
    ]
    if measured["heat_map"] is not None:
        drawings.append((_plot_heat_map, measured["heat_map"], figures / "heat_map.png"))
    if pool is None:
        for draw, *arguments in drawings:
            draw(*arguments)
    else:
        for drawn in [pool.submit(*drawing) for drawing in drawings]:
            drawn.result()
    failures = [
        _failure(failure, trace, folder, index)
        for index, (failure, trace) in enumerate(zip(measured["failures"], traces, strict=True), 1)
    ]
    text = "\n\n".join(
        [
            *_head(measured["identity"], command),
            *_nominal(tables, measured, threshold),
            *_robustness(measured["robustness"], threshold),
            *(["## Two parameters at once", "![](figures/heat_map.png)"] * bool(data["heat_map"])),
            *_search(measured["search"]),
            *failures,
            *_environment(findings),
        ]
    )
    write_atomically(folder / "report.md", f"{text}\n".encode())
    title = f"{measured['identity']['agent']} on {subject.env_id}"
    write_atomically(folder / "report.html", _html(text, title, folder).encode())
    return folder / "report.html"


def _head(identity: Mapping[str, Any], command: str) -> list[str]:
    kwargs = identity["env_kwargs"]
    training = identity["training"]
    rows = [
        (
            "environment",
            f"`{identity['env_id']}`" + (f" with `{json.dumps(kwargs)}`" if kwargs else ""),
        ),
        ("agent", f"`{identity['agent']}`"),
        ("SHA-256 of its weights", f"`{identity['weights']}`" if identity["weights"] else "none"),
    ]
    if training:
        rows.append(
            ("training", f"seed {training.get('seed')}, {training.get('steps')} environment steps")
        )
    rows += [
        ("versions", ", ".join(f"{name} {of}" for name, of in identity["versions"].items() if of)),
        ("machine", identity["machine"]),
        ("made by", f"`{command}`"),
    ]
    return [f"# Report card: {identity['agent']} on {identity['env_id']}", _table(("", ""), rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _interval(value: float, low: float, high: float, digits: int = 1) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _nominal(
    tables: Mapping[str, Any], measured: Mapping[str, Any], threshold: float | None
) -> list[str]:
    rows = [
        (
            *(name, of["episodes"], _interval(of["mean"], of["low"], of["high"])),
            _interval(of["iqm"], *of["iqm_interval"]),
            f"{of['worst']:.1f}",
            _interval(100 * of["lost"], *(100 * end for end in of["lost_interval"])) + " %",
        )
        for name, of in tables.items()
    ]
    names = _telling_coordinates(measured)
    solved = "" if threshold is None else f" The id counts as solved from {threshold:g}."
    return [
        "## Without further perturbation",
        _table(("agent", "episodes", "mean return", "IQM", "worst", "lost"), rows),
        "Episodes begin at unseen initial states and are lost where the task terminates them;"
        f" intervals are 95 % bootstrap intervals.{solved}",
        f"![](figures/initial_states.png)\n\nInitial states by {names[0]} and {names[1]}, the two"
        " coordinates that tell most of the return."
        if len(names) == 2
        else "",
    ]


def _robustness(fields: Sequence[Mapping[str, Any]], threshold: float | None) -> list[str]:
    if not fields:
        return []
    agents = list(fields[0]["agents"])
    rows = []
    for one in fields:
        row = [one["name"], one["unit"] or "1", f"{one['nominal']:.3g}"]
        for name in agents:
            margins = one["agents"][name]["margins"]
            values = [point["value"] for point in one["agents"][name]["points"]]
            below, above = margins.get("below"), margins.get("above")
            parts = []
            if min(values) < one["nominal"]:
                parts.append(
                    f"{below:.3g}" if below is not None else f"none down to {min(values):.3g}"
                )
            parts.append(f"{above:.3g}" if above is not None else f"none up to {max(values):.3g}")
            row.append("; ".join(parts))
        rows.append(row)
    head = ("perturbed", "unit", "nominal", *(f"margin of {name}" for name in agents))
    return [
        "## Robustness",
        "![](figures/robustness.png)",
        "Mean return with one perturbation at a time, with 95 % bootstrap intervals. The margin is"
        " the perturbation nearest to the nominal value at which the mean falls below"
        f" {threshold:g}, found by bisection."
        if threshold is not None
        else "Mean return with one perturbation at a time, with 95 % bootstrap intervals.",
        *([_table(head, rows)] if threshold is not None else []),
    ]


def _search(search: Mapping[str, Any]) -> list[str]:
    rows = [(name, search["episodes"][name], search["lost"][name]) for name in search["episodes"]]
    ranges = ", ".join(
        f"{name} {low:.3g} to {high:.3g}"
        for name, low, high in zip(search["names"], search["low"], search["high"], strict=True)
    )
    return [
        "## Failures",
        "A search by the cross-entropy method over initial states and parameters, beside random"
        f" sampling in the same ranges: {ranges} (SI units).",
        _table(("", "episodes", "lost"), rows),
    ]


def _failure(failure: Mapping[str, Any], trace: validation.Trace, folder: Path, index: int) -> str:
    name, video = f"failure-{index}", validation.video_of(folder, index)
    end = f"lost after {trace.times[-1]:.2f} s" if trace.terminated else "not lost"
    lines = [
        f"### {index}. Return {trace.episode_return:.1f}, {end}",
        f"Found by {failure['source']}.",
        f"[![](figures/{name}-strip.png)]({video.name})",
        f"![](figures/{name}.png)",
    ]
    if failure["options"]:
        lines.append(f"```json\n{json.dumps(failure['options'])}\n```")
    lines.append(f"```console\nbullet-envs replay {video.with_suffix('.json')}\n```")
    return "\n\n".join(lines)


def _environment(findings: Sequence[Any]) -> list[str]:
    marks = {True: "passed", False: "**FAILED**", None: "does not apply"}
    rows = [(one.name, marks[one.passed], one.summary) for one in findings]
    return ["## The environment", _table(("check", "", ""), rows)]


def _telling_coordinates(measured: Mapping[str, Any]) -> list[str]:
    """Return the two coordinates of the initial state with which the return changes most.

    By the correlation of the return with each coordinate and with its square.
    """
    names = measured["initial_states"]["names"]
    coordinates = np.array(measured["initial_states"]["coordinates"])
    first = next(iter(measured["nominal"].values()))
    returns = np.array(first["returns"])
    told = []
    for column in coordinates.T:
        of_both = [0.0]
        for values in (column, np.square(column)):
            if values.std() > 0 and returns.std() > 0:
                of_both.append(abs(float(np.corrcoef(values, returns)[0, 1])))
        told.append(max(of_both) if column.std() > 0 else -1.0)
    order = sorted(range(len(names)), key=lambda index: -told[index])
    return [names[index] for index in sorted(order[:2])]


def _plot_initial_states(measured: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    names = measured["initial_states"]["names"]
    chosen = _telling_coordinates(measured)
    if len(chosen) < 2:
        return
    coordinates = np.array(measured["initial_states"]["coordinates"])
    lost = np.array(next(iter(measured["nominal"].values()))["terminated"])
    x, y = (coordinates[:, names.index(name)] for name in chosen)
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.scatter(x[~lost], y[~lost], s=12, color=KEPT, label=f"kept ({int((~lost).sum())})")
    panel.scatter(x[lost], y[lost], s=26, color=LOST, marker="x", label=f"lost ({int(lost.sum())})")
    panel.set(xlabel=f"{chosen[0]} (SI units)", ylabel=f"{chosen[1]} (SI units)")
    panel.legend(fontsize=9, loc="upper right")
    figure.savefig(path, dpi=110)


def _panels(
    count: int, height: float, gaps: tuple[float, float], **shared: Any
) -> tuple[Any, list[Any]]:
    """Return a figure with at least so many panels, and these; those that are left over are hidden.

    Its margins are given: to find them, as constrained layout does, takes twice as long as all
    else.

    Args:
        count: of the panels.
        height: of a line of them (inches).
        gaps: between columns and between lines (inches).
        **shared: of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    lines = -(-count // COLUMNS)
    size = 3.2 * COLUMNS, height * lines
    figure = Figure(figsize=size)
    left, right, top, bottom = 0.7, 0.15, 0.35, 0.65
    panel_width = (size[0] - left - right - (COLUMNS - 1) * gaps[0]) / COLUMNS
    panel_height = (size[1] - top - bottom - (lines - 1) * gaps[1]) / lines
    figure.subplots_adjust(
        left=left / size[0],
        right=1 - right / size[0],
        top=1 - top / size[1],
        bottom=bottom / size[1],
        wspace=gaps[0] / panel_width,
        hspace=gaps[1] / panel_height,
    )
    panels = list(figure.subplots(lines, COLUMNS, squeeze=False, **shared).flat)
    for panel in panels[count:]:
        panel.axis("off")
    return figure, panels[:count]


def _plot_robustness(
    fields: Sequence[Mapping[str, Any]], threshold: float | None, path: Path
) -> None:
    if not fields:
        return
    figure, panels = _panels(len(fields), 2.5, (0.25, 0.75), sharey=True)
    for panel, one in zip(panels, fields, strict=True):
        for colour, (name, of) in zip(COLOURS, one["agents"].items(), strict=False):
            points = of["points"]
            values = [point["value"] for point in points]
            panel.plot(
                values, [point["mean"] for point in points], "o-", color=colour, ms=3, label=name
            )
            ends = [[point[end] for point in points] for end in ("low", "high")]
            panel.fill_between(values, *ends, color=colour, alpha=0.2, linewidth=0)
        if threshold is not None:
            panel.axhline(threshold, color="grey", linewidth=0.8, linestyle="--")
        panel.axvline(one["nominal"], color="grey", linewidth=0.8, linestyle=":")
        least = min(abs(value) for value in values if value) if any(values) else 1.0
        if one["nominal"] and min(values) > 0:
            panel.set_xscale("log")
        elif max(values) > 10 * least:
            panel.set_xscale("symlog", linthresh=least)
            panel.set_xlim(min(values), max(values))
        ticks = sorted({min(values), one["nominal"], max(values)})
        panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_title(one["name"], fontsize=9)
        panel.set_xlabel(one["unit"], fontsize=8)
        panel.tick_params(labelsize=7)
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, loc="lower left", ncols=len(COLOURS), fontsize=9, frameon=False)
    figure.supylabel("mean return", fontsize=9)
    figure.savefig(path, dpi=100)


def _plot_heat_map(heat: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    means = np.array([[np.nan if x is None else x for x in row] for row in heat["means"]])
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel = figure.subplots()
    shown = panel.imshow(means, origin="lower", cmap="viridis", aspect="auto")
    for axis, values, name in (
        (panel.xaxis, heat["values"][0], heat["parameters"][0]),
        (panel.yaxis, heat["values"][1], heat["parameters"][1]),
    ):
        axis.set_ticks(range(len(values)), [f"{value:.3g}" for value in values])
        axis.set_label_text(name)
    middle = np.nanmean([np.nanmin(means), np.nanmax(means)])
    for (row, column), mean in np.ndenumerate(means):
        text = "not legal" if np.isnan(mean) else f"{mean:.0f}"
        colour = "black" if np.isnan(mean) or mean > middle else "white"
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(shown, label="mean return")
    figure.savefig(path, dpi=110)


def _draw_failure(trace: validation.Trace, folder: Path, index: int) -> None:
    name, video = f"failure-{index}", validation.video_of(folder, index)
    _plot_trace(trace, folder / "figures" / f"{name}.png")
    _draw_strip(video, len(trace.times), folder / "figures" / f"{name}-strip.png")


def _plot_trace(trace: validation.Trace, path: Path) -> None:
    times = trace.times[-SHOWN_STEPS:]
    states = {name: of[-SHOWN_STEPS:] for name, of in trace.states.items()}
    moving = {name: of for name, of in states.items() if max(of) - min(of) > 0}
    figure, panels = _panels(len(moving) + 1, 1.9, (0.55, 0.35), sharex=True)
    for panel, (name, values) in zip(panels, moving.items(), strict=False):
        panel.plot(times, values, color=COLOURS[0], linewidth=1.2)
        panel.set_title(name, fontsize=9)
    actions = np.array(trace.actions)[1 - SHOWN_STEPS :]
    for column in actions.T:
        panels[-1].step(times[:-1], column, where="post", linewidth=1)
    panels[-1].set_title("action", fontsize=9)
    for panel in panels:
        panel.tick_params(labelsize=7)
    figure.supxlabel("time (s)", fontsize=9)
    figure.savefig(path, dpi=90)


def _draw_strip(video: Path, frames: int, path: Path) -> None:
    """Draw some of a video's frames beside each other, from the first to the last."""
    chosen = np.unique(np.linspace(0, frames - 1, validation.STRIP_FRAMES).round().astype(int))
    selected = "+".join(f"eq(n\\,{index})" for index in chosen)
    tiles = f"tile={len(chosen)}x1:padding=2:color=gray"
    filters = f"select={selected},scale={validation.STRIP_WIDTH}:-2,{tiles}"
    output = ["-vf", filters, "-frames:v", "1", "-y", str(path)]
    subprocess.run([find_ffmpeg(), "-i", str(video), *output], check=True, capture_output=True)


def _html(text: str, title: str, folder: Path) -> str:
    """Return the page as one file: images and videos are within it."""
    import markdown

    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    body = re.sub(
        r'<a href="([^"]+\.mp4)">(.*?)</a>',
        r'\2<br><video controls loop muted src="\1"></video>',
        body,
    )
    body = re.sub(r'src="([^"]+)"', lambda found: f'src="{_data_uri(folder / found[1])}"', body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _data_uri(path: Path) -> str:
    kind, _ = mimetypes.guess_type(path.name)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
