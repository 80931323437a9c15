"""Agents beside each other in the same episodes: a table of paired returns, and one video.

Run ``bullet-envs compare --env BulletCartPole-v0 --algo lqr dqn random``.

An episode is the same for all agents in what its seed decides. In environments of this package that
is the initial state, everything that perturbations draw at the reset (parameters, bias, times of
pushes) and everything that they draw later: each step takes the same numbers from the generator,
whatever the agent does, so that noise, faults and pushes of the n-th environment step are the same
too (noise of images only where they are of one size). They differ in effect: a push at 2 s meets
the poles where the agents have brought them. Of other environments, only what is drawn at the reset
is sure to be the same.
"""

import contextlib
import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from PIL import Image

from ..frames import DrawingProcesses, Picture
from ..mp4 import Mp4Writer, make_folder, to_json
from ..overlay import Overlay, overlay_of
from ..progress import progress_bar
from ..recorder import HELD
from ..versions import versions
from .agent import Agent
from .environment import bare_id
from .evaluation import Evaluation, evaluate
from .statistics import Estimate, paired_difference, paired_improvement

MAX_AGENTS = 4
# Keywords that change how an agent sees and acts, but not the task.
INTERFACE = ("continuous", "size", "camera", "supersampling", "renderer")

# Of the video, in pixels.
PANEL_WIDTH = 640
GAP = 4  # between panels
DARK = (24, 26, 32)

MOST_WAITING = 4  # frames of the video that are still drawn

Frame = npt.NDArray[np.uint8]


def by_name(agents: Sequence[Agent]) -> dict[str, Agent]:
    """Return the agents of a comparison by their names, the second PPO as ``"ppo-2"``.

    Raises:
        ValueError: they are too few or too many, or their environments are different tasks.
    """
    if not 2 <= len(agents) <= MAX_AGENTS:
        raise ValueError(f"a comparison takes 2 to {MAX_AGENTS} agents, not {len(agents)}")
    named: dict[str, Agent] = {}
    for agent in agents:
        count = 1 + sum(other.name == agent.name for other in named.values())
        named[agent.name if count == 1 else f"{agent.name}-{count}"] = agent
    first = agents[0]
    for name, agent in named.items():
        if (agent.env_id, _task(agent)) != (first.env_id, _task(first)):
            raise ValueError(
                f"{name} acts in {agent.env_id} with {_task(agent)}, {first.name} in"
                f" {first.env_id} with {_task(first)}: a comparison takes agents of one id and the"
                f" same keywords but for {', '.join(INTERFACE)}"
            )
    return named


def _task(agent: Agent) -> dict[str, Any]:
    """Return the keywords that all agents of a comparison must have."""
    return {key: value for key, value in agent.env.env_kwargs.items() if key not in INTERFACE}


def evaluate_all(
    agents: Mapping[str, Agent],
    seeds: Sequence[int],
    deterministic: bool = True,
    workers: int | str = 1,
) -> dict[str, Evaluation]:
    """Return the results of an episode from each seed, for each agent: see :func:`evaluate`."""
    total = len(agents) * len(seeds)
    with progress_bar(desc="evaluating", unit="episode", total=total) as bar:
        return {
            name: evaluate(agent, seeds, deterministic, workers, bar.update)
            for name, agent in agents.items()
        }


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the results of each agent, and the first one compared with each other, as text.

    Args:
        evaluations: by the names of the agents, from the same seeds. An episode is lost where it
            terminated.
    """
    lines = [f"{'agent':<12} {'mean':>8} {'std':>8} {'worst':>8} {'lost':>8}"]
    for name, of in evaluations.items():
        lines.append(
            f"{name:<12} {of.returns.mean():>8.1f} {of.returns.std():>8.1f}"
            f" {of.returns.min():>8.1f} {100 * of.terminated.mean():>6.1f} %"
        )
    (first, x), *others = evaluations.items()
    lines += [
        "",
        f"{first} minus each other agent in the same episodes, and the probability that {first}",
        "improves on it, with 95 % bootstrap intervals",
        f"{'agent':<12} {'mean difference':<26} probability of improvement",
    ]
    for name, y in others:
        difference = _text(paired_difference(x.returns, y.returns), 1)
        improvement = _text(paired_improvement(x.returns, y.returns), 3)
        lines.append(f"{name:<12} {difference:<26} {improvement}")
    return "\n".join(lines)


def _text(of: Estimate, digits: int) -> str:
    return f"{of.value:.{digits}f} [{of.low:.{digits}f}, {of.high:.{digits}f}]"


@dataclass(frozen=True)
class Moment:
    """An episode so far.

    Args:
        picture: of the environment now, or the frame of one that is not of this package.
        overlay: what to write into it.
        length: environment steps.
        episode_return: undiscounted sum of rewards.
        terminated: whether the task has ended the episode.
        truncated: whether a time limit has.
        info: of the last reset or step.
    """

    picture: Picture | Frame
    overlay: Overlay
    length: int
    episode_return: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def has_ended(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every moment of an environment until it is taken from ``moments``."""

    def __init__(self, env: gym.Env[Any, Any], agent: str) -> None:
        super().__init__(env)
        self._agent = agent
        self.moments: deque[Moment] = deque()

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._length, self._return = 0, 0.0
        self._parameters = info.get("parameters", {})
        self.moments.clear()
        self._keep(None, False, False, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._length += 1
        self._return += float(reward)
        self._keep(action, bool(terminated), bool(truncated), info)
        return observation, reward, terminated, truncated, info

    def _keep(self, action: Any, terminated: bool, truncated: bool, info: dict[str, Any]) -> None:
        bare: Any = self.unwrapped
        facts = self._length, self._return
        overlay = overlay_of(self.env, self._agent, *facts, action, terminated, self._parameters)
        # In a comparison the name of the agent tells panels apart.
        overlay = replace(overlay, title=overlay.agent, agent=overlay.title)
        picture: Any = bare.picture() if hasattr(bare, "picture") else self.env.render()
        self.moments.append(Moment(picture, overlay, *facts, terminated, truncated, info))


def play(
    name: str, agent: Agent, env: gym.Env[Any, Any], seed: int, deterministic: bool = True
) -> Iterator[Moment]:
    """Play an episode and return every moment of it, also those within a repeated action.

    Args:
        name: of the agent, for the overlay.
        agent: whose actions to take; a copy of its policy plays, so that those that it takes later
            do not depend on this episode.
        env: the agent's, without its wrappers, with ``render_mode="rgb_array"``.
        seed: of the reset.
        deterministic: take the most likely actions.
    """
    policy = copy.deepcopy(agent.policy)
    # Around what is watched: time is counted in steps of the environment, not in actions.
    watched = _Watched(env, name)
    wrapped = agent.env.wrap(watched)
    observation, info = wrapped.reset(seed=seed)
    policy.begin(info, 1)
    while True:
        while watched.moments:
            moment = watched.moments.popleft()
            yield moment
        if moment.has_ended:
            return
        action, _ = policy.predict(observation, deterministic=deterministic)
        observation, *_ = wrapped.step(action)


def record(
    agents: Mapping[str, Agent],
    seed: int,
    folder: Path,
    deterministic: bool = True,
    overlay: bool = True,
    drawing_processes: int = 0,
) -> Path:
    """Write a video of the same episode, played by each agent, and a JSON of what it shows.

    An agent whose episode has ended stays at its last frame until all have, and half a second more.

    Args:
        agents: by name, see :func:`by_name`.
        seed: of the episode.
        folder: made if missing; the video is ``<id>/<names>-start<seed>.mp4`` in it.
        deterministic: take the most likely actions.
        overlay: write into each panel who acts, time, return, commands and perturbations.
        drawing_processes: draw in so many other processes; 0 draws here.

    Returns:
        The path of the video.

    Raises:
        RecordingError: the video could not be made; nothing is left of it.
    """
    first = next(iter(agents.values()))
    folder = folder / bare_id(first.env_id).replace("/", "-")
    path = folder / f"{'-vs-'.join(agents)}-start{seed}.mp4"
    limit = first.env.max_episode_steps
    with contextlib.ExitStack() as stack:
        envs = [
            stack.enter_context(agent.env.make_bare(render_mode="rgb_array"))
            for agent in agents.values()
        ]
        fps = envs[0].metadata.get("render_fps", 30)
        make_folder(folder)
        writer = Mp4Writer(path, fps)
        stack.callback(writer.abort)  # without effect on one that is closed
        drawing = stack.enter_context(contextlib.closing(DrawingProcesses(drawing_processes)))
        bar = stack.enter_context(progress_bar(desc="recording", unit="step", total=limit))
        episodes = {
            name: play(name, agent, env, seed, deterministic)
            for (name, agent), env in zip(agents.items(), envs, strict=True)
        }
        moments = {name: next(episode) for name, episode in episodes.items()}
        parameters = next(iter(moments.values())).info.get("parameters")
        panels = {name: _panel(moment, drawing, overlay) for name, moment in moments.items()}
        sheets = deque([list(panels.values())])  # whose panels are still drawn
        while not all(moment.has_ended for moment in moments.values()):
            for name, episode in episodes.items():
                if not moments[name].has_ended:
                    moments[name] = next(episode)
                    panels[name] = _panel(moments[name], drawing, overlay)
            sheets.append(list(panels.values()))
            bar.update()
            if len(sheets) > MOST_WAITING:
                writer.append(sheet([panel.result() for panel in sheets.popleft()]))
        for waiting in sheets:
            writer.append(last := sheet([panel.result() for panel in waiting]))
        held = round(HELD * fps) if overlay else 0
        for _ in range(held):
            writer.append(last)
        writer.card = {
            "env_id": bare_id(first.env_id),
            "kwargs": _task(first),
            "max_episode_steps": limit,
            "seed": seed,
            "parameters": to_json(parameters),
            "held_frames": held,
            "agents": [_facts(name, agents[name], last) for name, last in moments.items()],
            "versions": versions(("bullet_envs", "gymnasium", "pybullet", "numpy")),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        writer.close()
    return path


def _panel(moment: Moment, drawing: DrawingProcesses, overlay: bool) -> Future[Frame]:
    """Have the panel of a moment drawn."""
    written = moment.overlay if overlay else None
    if isinstance(moment.picture, Picture):
        return drawing.submit(replace(moment.picture, width=PANEL_WIDTH), written)
    height, width, _ = moment.picture.shape
    size = PANEL_WIDTH, 2 * round(height * PANEL_WIDTH / width / 2)  # even, for MP4
    frame = np.asarray(Image.fromarray(moment.picture).resize(size))
    panel: Future[Frame] = Future()
    panel.set_result(frame if written is None else written.drawn_into(frame))
    return panel


def _facts(name: str, agent: Agent, last: Moment) -> dict[str, Any]:
    kwargs = agent.env.env_kwargs
    return {
        "name": name,
        "algo": agent.algo,
        "agent_hash": agent.weights_hash,
        "kwargs": {key: kwargs[key] for key in INTERFACE if key in kwargs},
        "frame_stack": agent.env.frame_stack,
        "action_repeat": agent.env.action_repeat,
        "observe_actions": agent.env.observe_actions,
        "hold_dropped": agent.env.hold_dropped,
        "return": last.episode_return,
        "length": last.length,
        "terminated": last.terminated,
        "truncated": last.truncated,
    }


def sheet(panels: Sequence[Frame]) -> Frame:
    """Return a frame with panels of one size, two in a row."""
    height, width, _ = panels[0].shape
    rows = -(-len(panels) // 2)
    image = np.full((rows * (height + GAP) - GAP, 2 * width + GAP, 3), DARK, np.uint8)
    for index, panel in enumerate(panels):
        top, left = index // 2 * (height + GAP), index % 2 * (width + GAP)
        image[top : top + height, left : left + width] = panel
    return image
