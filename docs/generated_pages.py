"""Pages that Sphinx writes from live objects: one per registered environment, and the command line.

They are written beside the documents before Sphinx reads these, and git ignores them.
"""

import argparse
import dataclasses
import inspect
import json
import pprint
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces
from sphinx.application import Sphinx

import bullet_envs
from benchmarks.results import CURVES_PATH, plot
from benchmarks.tables import read_rows
from bullet_envs import Parameter, Task, cli
from bullet_envs.agents import ALGOS, algorithm, settings_help, settings_ranges

FOLDER = "environments"
VIDEOS = "_videos"
EXTERNAL_LINKS = "external_links.txt"
UNITS = {"torque": "N or N·m", "velocity": "m/s or rad/s", "position": "m or rad"}
SOLUTION = """\
from pathlib import Path

from bullet_envs.agents import algorithm
from bullet_envs.agents.run import Run

ppo = algorithm("ppo")
config = ppo.config(env_id="{env_id}", **ppo.preset("{env_id}"))
with Run(Path("runs/{name}"), config) as run:
    agent = ppo.train(config, run)
env = agent.make_env(render_mode="human")
observation, info = env.reset(seed=0)
action, _ = agent.predict(observation, deterministic=True)
"""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("build-finished", copy_videos)
    app.connect("build-finished", list_external_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write all pages. Those of tasks that are no longer registered go."""
    source = Path(app.srcdir)
    folder = source / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    curves = read_rows(CURVES_PATH)
    for env_id in bullet_envs.ENV_IDS:
        mine = [row for row in curves if row["env_id"] == env_id]
        if mine:
            plot(mine, folder / f"{_file_name(env_id)}.png")
        page = environment_page(env_id, _video(source, env_id), bool(mine))
        (folder / f"{_file_name(env_id)}.rst").write_text(page, encoding="utf-8")
    names = [f"   {_file_name(env_id)}" for env_id in bullet_envs.ENV_IDS]
    index = [_heading("Environments", "="), "", _overview(), ""]
    index += [".. toctree::", "   :hidden:", "", *names, ""]
    (folder / "index.rst").write_text("\n".join(index), encoding="utf-8")
    (source / "command_line.rst").write_text(command_line_page(), encoding="utf-8")


def copy_videos(app: Sphinx, exception: Exception | None) -> None:
    """Put the videos that the pages show into the site."""
    for env_id in bullet_envs.ENV_IDS:
        video = _video(Path(app.srcdir), env_id)
        if exception is None and video is not None:
            target = Path(app.outdir) / VIDEOS / _file_name(env_id) / video.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, target)


def list_external_links(app: Sphinx, exception: Exception | None) -> None:
    """Write a line for each link out of the site, to look through by hand: none is fetched."""
    lines = set()
    if exception is None:
        for page in Path(app.outdir).rglob("*.html"):
            for link in re.findall(r'(?:href|src)="(https?:[^"]+)"', page.read_text("utf-8")):
                lines.add(f"{link} {page.relative_to(app.outdir).as_posix()}\n")
        (Path(app.outdir) / EXTERNAL_LINKS).write_text("".join(sorted(lines)), encoding="utf-8")


def _overview() -> str:
    """Return a table of all ids."""
    rows = []
    for env_id in bullet_envs.ENV_IDS:
        with gym.make(env_id) as env:
            summary = (inspect.getdoc(type(env.unwrapped.task)) or "").split("\n")[0]
            spaces_of = [f"``{_space(one)}``" for one in (env.action_space, env.observation_space)]
        rows.append([f":doc:`{env_id} <{_file_name(env_id)}>`", summary, *spaces_of])
    return _table(["id", "task", "action", "observation"], rows)


def environment_page(env_id: str, video: Path | None, has_curves: bool) -> str:
    """Return the page of an id as reStructuredText, the language of docstrings."""
    with gym.make(env_id) as env:
        task: Task = env.unwrapped.task
        summary, texts = _sections(type(task))
        name = _file_name(env_id)
        # The search takes an id for one word.
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", type(task).__name__)
        parts = [f".. meta::\n   :keywords: {', '.join(words)}", _heading(env_id, "="), summary]
        if video is not None:
            agent = video.name.partition("-start")[0]
            parts += [
                f'.. raw:: html\n\n   <video controls muted width="100%"'
                f' src="../{VIDEOS}/{name}/{video.name}"></video>',
                f"The bundled agent ``{agent}``.",
            ]
        if "Scene" in texts:
            parts += [_heading("Scene"), _text(texts, "Scene")]
        parts += [_heading("Timing"), _timing(env)]
        parts += [_heading("Action"), f"``{_space(env.action_space)}``", _actions(env, texts)]
        parts += [_heading("Observation"), f"``{_space(env.observation_space)}``"]
        parts += [_observations(env, texts), _heading("State"), _states(task)]
    for title in ("Reward", "Start", "End"):
        if title in texts:
            parts += [_heading(title), _text(texts, title)]
    parts += [_heading("Keywords"), _keywords(task, texts)]
    parts += [_heading("Perturbations"), _perturbations(task)]
    parts += [_heading("Solve it"), _code("python", SOLUTION.format(env_id=env_id, name=name))]
    if has_curves:
        parts += [
            "How each algorithm learned, with each seed:",
            f".. image:: {name}.png\n   :alt: Learning curves of {env_id}",
        ]
    parts.append(_report_cards(env_id))
    for title in ("Physics", "Versions"):
        if title in texts:
            parts += [_heading(title), _text(texts, title)]
    parts += [_heading("Citation"), _citation(env_id)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _timing(env: gym.Env[Any, Any]) -> str:
    task = env.unwrapped.task
    rows = [
        ["physics", f"{task.physics_hz} Hz"],
        ["control", f"{task.control_hz} Hz, {task.physics_hz // task.control_hz} steps per action"],
    ]
    if task.max_episode_steps:
        seconds = task.max_episode_steps / task.control_hz
        rows.append(["time limit", f"{task.max_episode_steps} actions = {seconds:g} s"])
    if task.reward_threshold is not None:
        rows.append(["solved at a mean return of", f"{task.reward_threshold:g}"])
    return _table([], rows)


def _actions(env: gym.Env[Any, Any], texts: dict[str, str]) -> str:
    """Return what the actuators do, and what each discrete action commands."""
    task, known = env.unwrapped.task, _rows(texts, "Action")
    unit = re.search(r"\((.*)\)", " ".join(known[0] if known else ""))
    units = [unit[1] if unit else UNITS[one.kind] for one in task.actuators]
    rows = [
        [one.joint, one.kind, f"{one.scale:g}", unit]
        for one, unit in zip(task.actuators, units, strict=True)
    ]
    parts = [_table(["joint", "kind", "command of an action of size 1", "unit"], rows)]
    if isinstance(env.action_space, spaces.Discrete):
        meanings = {row["value"]: row["meaning"] for row in known}
        rows = [
            [str(value), meanings.get(str(value), "")]
            + [
                f"{one.centre + share * one.scale:+g}"
                for share, one in zip(shares, task.actuators, strict=True)
            ]
            for value, shares in enumerate(task.discrete_actions)
        ]
        joints = [f"{one.joint} ({unit})" for one, unit in zip(task.actuators, units, strict=True)]
        parts.append(_table(["value", "meaning", *joints], rows))
    return "\n\n".join([*parts, _text(texts, "Action")])


def _observations(env: gym.Env[Any, Any], texts: dict[str, str]) -> str:
    """Return a table for each array that is observed. An image has none."""
    space, task = env.observation_space, env.unwrapped.task
    if env.spec.id == bullet_envs.registered(env.spec.id).pixel_id:
        return _text(texts, "Pixels")
    known = {row["symbol"]: row for row in _rows(texts, "Observation")}
    names, scales = task.observed_names, task.observation_scale
    if isinstance(space, spaces.Dict):
        named = names if isinstance(names, dict) else {}
        arrays = [(key, space[key], named.get(key), (scales or {}).get(key)) for key in space]
    else:
        arrays = [("", space, names, scales)]
    parts = []
    for key, box, names, scale in arrays:
        if names is None or len(names) != len(box.low):  # a task need not name them
            names = [""] * len(box.low)
        divisors = np.ones(len(names)) if scale is None else scale
        rows = [
            [
                str(index),
                name,
                known.get(name, {}).get("meaning", ""),
                known.get(name, {}).get("unit", ""),
                f"{low * divisor:.4g}",
                f"{high * divisor:.4g}",
                f"{divisor:g}",
            ]
            for index, (name, low, high, divisor) in enumerate(
                zip(names, box.low, box.high, divisors, strict=True)
            )
        ]
        parts += [f"Entry ``{key}``:"] if key else []
        columns = ["i", "name", "meaning", "unit", "low", "high"]
        if scale is None:
            rows = [row[:-1] for row in rows]
        else:
            columns[4:] = ["low, undivided", "high, undivided", "divided by"]
        parts.append(_table(columns, rows))
    return "\n\n".join([*parts, _text(texts, "Observation")])


def _space(space: spaces.Space[Any]) -> str:
    """Name a space in one line, without the bounds that the tables have."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{key}: {_space(part)}' for key, part in space.items())})"
    if isinstance(space, spaces.Box) and np.unique(space.high).size > 1:
        return f"Box({space.shape}, {space.dtype})"
    return str(space)


def _states(task: Task) -> str:
    rows = [
        [name, f"{value + 0.0:g}"]  # 0 in place of -0
        for name, value in zip(task.state_names, task.rest(), strict=True)
    ]
    text = "Columns that ``reset(options={'state': ...})`` takes, in SI units."
    return f"{text}\n\n{_table(['name', 'at rest'], rows)}"


def _keywords(task: Task, texts: dict[str, str]) -> str:
    known = {row["keyword"]: row for row in _rows(texts, "Options")}
    parameters = {parameter.name: parameter for parameter in task.parameters}
    rows = []
    for field in dataclasses.fields(task):
        row = known.get(field.name, {})
        parameter = parameters.get(field.name)
        default = getattr(task, field.name)
        rows.append(
            [
                f"``{field.name}``",
                f"{default:g}" if isinstance(default, float) else str(default),
                f"{parameter.low:g} to {parameter.high:g}" if parameter else row.get("legal", ""),
                parameter.unit if parameter else "",
                _without_unit(row.get("meaning", ""), parameter),
                ("by a new world" if parameter.rebuilds else "in place") if parameter else "",
            ]
        )
    columns = ["keyword", "default", "legal", "unit", "meaning", "perturbed"]
    return "\n\n".join([_table(columns, rows), _text(texts, "Options")])


def _without_unit(meaning: str, parameter: Parameter | None) -> str:
    """Leave out the unit that a meaning begins with, where it has a column of its own."""
    first, _, rest = meaning.partition(", ")
    return rest if parameter and first == parameter.unit.replace("·", " ") else meaning


def _perturbations(task: Task) -> str:
    parts = [
        "Keywords that have an entry under *perturbed* can differ from episode to episode:"
        " :doc:`/perturbations`."
    ]
    if task.perturbation_presets:
        parts.append("Presets, for ``perturbations=``, numbers to four digits:")
    for name, preset in task.perturbation_presets.items():
        rounded = json.loads(json.dumps(preset), parse_float=_rounded)
        shown = pprint.pformat(rounded, width=88, sort_dicts=False)
        parts += [f"``{name!r}``", _code("python", shown)]
    return "\n\n".join(parts)


def _report_cards(env_id: str) -> str:
    """Return links to the report cards that there are, and what perturbations PPO bears."""
    found = sorted((Path(__file__).parent / "report_cards").glob(f"{env_id}-*.md"))
    if not found:
        return ""
    parts = [_heading("Report cards"), "What ``bullet-envs validate`` says of bundled agents:"]
    parts.append(".. toctree::\n\n" + "\n".join(f"   /report_cards/{one.stem}" for one in found))
    figure = f"{found[0].stem}/robustness.png"
    parts.append(f".. image:: /report_cards/{figure}\n   :alt: Robustness on {env_id}")
    return "\n\n".join(parts)


def _citation(env_id: str) -> str:
    """Return what CITATION.cff says as BibTeX, with the id."""
    path = Path(__file__).parent.parent / "CITATION.cff"
    facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    authors = " and ".join(
        one.get("name") or f"{one['family-names']}, {one['given-names']}"
        for one in facts["authors"]
    )
    fields = {
        **{"title": facts["title"], "author": authors, "version": facts["version"]},
        "note": f"Environment {env_id}",
    }
    lines = [f"  {name} = {{{text}}}," for name, text in fields.items()]
    return _code("bibtex", "\n".join(["@software{bullet_envs,", *lines, "}"]))


def _rounded(text: str) -> float:
    return float(f"{float(text):.4g}")


def command_line_page() -> str:
    """Return the page of the command line, from its parser."""
    parser = cli._build_parser()
    [commands] = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    parts = [_heading("Command line", "="), parser.description or ""]
    for choice in commands._choices_actions:
        command = commands.choices[choice.dest.partition(" ")[0]]
        formatter = argparse.HelpFormatter(command.prog, width=88)
        formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups)
        rows = [
            [
                f"``{formatter._format_action_invocation(action)}``",
                _escaped(formatter._expand_help(action) if action.help else ""),
            ]
            for action in command._actions
        ]
        text = choice.help or ""
        about = _escaped(f"{text[:1].upper()}{text[1:]}.")
        if command.description:
            text = command.description
            about = _code("none", text) if "\n" in text else _escaped(text)
        parts += [_heading(command.prog), about]
        parts += [_code("none", formatter.format_help()), _table(["argument", "meaning"], rows)]
        parts.append(_code("none", command.epilog))
    parts += [
        _heading("Settings of the algorithms"),
        "``bullet-envs train --hyperparams`` takes what the tables of each algorithm have, e.g."
        " ``--hyperparams gamma:0.98 hidden:(64,64)``. Settings that are not given are those of the"
        " preset of the id, and the defaults where this has none.",
    ]
    for algo in ALGOS:
        ranges = settings_ranges(algo)
        rows = [
            [f"``{name}``", f"``{default!r}``", ranges.get(name, ""), _escaped(meaning)]
            for name, default, meaning in settings_help(algo)
        ]
        parts += [_heading(algo, "~"), _table(["setting", "default", "range", "meaning"], rows)]
        presets = [
            [env_id, " ".join(f"``{name}:{value}``" for name, value in settings.items())]
            for env_id, settings in algorithm(algo).presets.items()
        ]
        parts.append(_table(["id", "preset"], presets))
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections(task: type[Task]) -> tuple[str, dict[str, str]]:
    """Return what a docstring begins with, and its sections by name, see ``tests/test_docs.py``."""
    begin, found, name = [], {}, ""
    for line in (inspect.getdoc(task) or "").split("\n"):
        if heading := re.match(r"([A-Z]\w+)  +", line):
            name = heading[1]
            indent = heading.end()
            found[name] = [line[indent:]]
        elif name:
            found[name].append(line[indent:])
        else:
            begin.append(line)
    return "\n".join(begin), {name: "\n".join(lines) for name, lines in found.items()}


def _is_table(block: str) -> bool:
    return len(re.split(r"  +", block.split("\n")[0].strip())) > 2


def _text(texts: dict[str, str], name: str) -> str:
    """Return the prose of a section, without its tables and the space that it may begin with."""
    blocks = re.split(r"\n\s*\n", texts.get(name, ""))
    kept = [inspect.cleandoc(block) for block in blocks if block and not _is_table(block)]
    return "\n\n".join(block for block in kept if not re.match(r"(Box|Discrete)\(", block))


def _rows(texts: dict[str, str], name: str) -> list[dict[str, str]]:
    """Return the rows of a section's table. A column begins where its heading begins."""
    for block in re.split(r"\n\s*\n", texts.get(name, "")):
        if _is_table(block):
            heading, *lines = block.split("\n")
            columns = list(re.finditer(r"\S+(?: \S+)*", heading))
            ends = [column.start() for column in columns[1:]] + [None]
            return [
                {
                    column[0]: line[column.start() : end].strip()
                    for column, end in zip(columns, ends, strict=True)
                }
                for line in lines
            ]
    return []


def _file_name(env_id: str) -> str:
    return env_id.replace("/", "-")


def _video(source: Path, env_id: str) -> Path | None:
    """Return the first video of an id, if there is any."""
    return min((source.parent / "videos" / env_id).glob("*.mp4"), default=None)


def _heading(text: str, line: str = "-") -> str:
    return f"{text}\n{line * len(text)}"


def _code(language: str, text: str) -> str:
    lines = [f"   {line}" for line in text.splitlines()]
    return "\n".join([f".. code-block:: {language}", "", *lines])


def _escaped(text: str) -> str:
    return re.sub(r"([*_`|\\])", r"\\\1", text)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table, without a heading where there are no columns."""
    lines = [".. list-table::", f"   :header-rows: {1 if columns else 0}", ""]
    for row in filter(None, [columns, *rows]):
        lines += [f"   {'* -' if not i else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines)
