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
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ..mp4 import Mp4Writer, make_folder, to_json
from ..versions import versions
from .agent import Agent
from .environment import bare_id
from .evaluation import Evaluation, evaluate
from .statistics import Estimate, paired_difference, paired_improvement

MAX_AGENTS = 4
# Keywords that change how an agent sees and acts, but not the task.
INTERFACE = ("continuous", "size", "camera", "supersampling", "renderer")

# Of the video, in pixels.
MAX_WIDTH = 1280
MIN_PANEL_WIDTH = 320  # for the text
STRIP_HEIGHT = 68  # above each panel's frame, for the text
GAP = 4  # between panels
MARGIN = 12
NAME_SIZE, TEXT_SIZE = 30, 24
STRIP, STRIP_OF_LOST = (228, 232, 240), (250, 220, 222)
DARK, RED = (24, 26, 32), (168, 0, 28)


def by_name(agents: Sequence[Agent]) -> dict[str, Agent]:
    """Return the agents of a comparison by their algorithms, the second PPO as ``"ppo-2"``.

    Raises:
        ValueError: they are too few or too many, or their environments are different tasks.
    """
    if not 2 <= len(agents) <= MAX_AGENTS:
        raise ValueError(f"a comparison takes 2 to {MAX_AGENTS} agents, not {len(agents)}")
    named: dict[str, Agent] = {}
    for agent in agents:
        count = 1 + sum(other.algo == agent.algo for other in named.values())
        named[agent.algo if count == 1 else f"{agent.algo}-{count}"] = agent
    first = agents[0]
    for name, agent in named.items():
        if (agent.env_id, _task(agent)) != (first.env_id, _task(first)):
            raise ValueError(
                f"{name} acts in {agent.env_id} with {_task(agent)}, {first.algo} in"
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
    with tqdm(desc="evaluating", unit="episode", total=total, mininterval=0.5) as bar:
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
        frame: of the environment now.
        length: environment steps.
        episode_return: undiscounted sum of rewards.
        terminated: whether the task has ended the episode.
        truncated: whether a time limit has.
        info: of the last reset or step.
    """

    frame: npt.NDArray[np.uint8]
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

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.moments: deque[Moment] = deque()

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._length, self._return = 0, 0.0
        self.moments.clear()
        self._keep(False, False, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._length += 1
        self._return += float(reward)
        self._keep(bool(terminated), bool(truncated), info)
        return observation, reward, terminated, truncated, info

    def _keep(self, terminated: bool, truncated: bool, info: dict[str, Any]) -> None:
        frame: Any = self.env.render()
        self.moments.append(Moment(frame, self._length, self._return, terminated, truncated, info))


def play(
    agent: Agent, env: gym.Env[Any, Any], seed: int, deterministic: bool = True
) -> Iterator[Moment]:
    """Play an episode and return every moment of it, also those within a repeated action.

    Args:
        agent: whose actions to take; a copy of its policy plays, so that those that it takes later
            do not depend on this episode.
        env: the agent's, without its wrappers, with ``render_mode="rgb_array"``.
        seed: of the reset.
        deterministic: take the most likely actions.
    """
    policy = copy.deepcopy(agent.policy)
    # Around what is watched: time is counted in steps of the environment, not in actions.
    watched = _Watched(env)
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
    agents: Mapping[str, Agent], seed: int, folder: Path, deterministic: bool = True
) -> Path:
    """Write a video of the same episode, played by each agent, and a JSON of what it shows.

    An agent whose episode has ended stays at its last frame until all have.

    Args:
        agents: by name, see :func:`by_name`.
        seed: of the episode.
        folder: made if missing; the video is ``<id>/<names>-start<seed>.mp4`` in it.
        deterministic: take the most likely actions.

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
        bar = stack.enter_context(tqdm(desc="recording", unit="step", total=limit, mininterval=0.5))
        episodes = {
            name: play(agent, env, seed, deterministic)
            for (name, agent), env in zip(agents.items(), envs, strict=True)
        }
        moments = {name: next(episode) for name, episode in episodes.items()}
        parameters = next(iter(moments.values())).info.get("parameters")
        writer.append(draw(moments, fps))
        while not all(moment.has_ended for moment in moments.values()):
            moments = {name: next(episodes[name], last) for name, last in moments.items()}
            writer.append(draw(moments, fps))
            bar.update()
        writer.card = {
            "env_id": bare_id(first.env_id),
            "kwargs": _task(first),
            "max_episode_steps": limit,
            "seed": seed,
            "parameters": to_json(parameters),
            "agents": [_facts(name, agents[name], last) for name, last in moments.items()],
            "versions": versions(("bullet_envs", "gymnasium", "pybullet", "numpy")),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        writer.close()
    return path


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
        "return": last.episode_return,
        "length": last.length,
        "terminated": last.terminated,
        "truncated": last.truncated,
    }


def draw(moments: Mapping[str, Moment], fps: float) -> npt.NDArray[np.uint8]:
    """Return a frame with a panel per agent: up to 3 in a row, 4 in two rows.

    Args:
        moments: by the names of the agents.
        fps: environment steps per second.
    """
    columns = 2 if len(moments) == MAX_AGENTS else len(moments)
    rows = -(-len(moments) // columns)
    height, width, _ = next(iter(moments.values())).frame.shape
    widest = (MAX_WIDTH - GAP * (columns - 1)) // columns
    panel_width = _even(min(max(width, MIN_PANEL_WIDTH), widest))
    frame_size = panel_width, _even(height * panel_width / width)
    across, down = panel_width + GAP, STRIP_HEIGHT + frame_size[1] + GAP
    sheet = Image.new("RGB", (columns * across - GAP, rows * down - GAP), DARK)
    for index, (name, moment) in enumerate(moments.items()):
        row, column = divmod(index, columns)
        corner = column * across, row * down
        sheet.paste(_strip(name, moment, panel_width, fps), corner)
        frame = Image.fromarray(moment.frame).resize(frame_size)
        sheet.paste(frame, (corner[0], corner[1] + STRIP_HEIGHT))
    return np.asarray(sheet)


def _strip(name: str, moment: Moment, width: int, fps: float) -> Image.Image:
    """Return the text above a frame: the name, and below it the time and the return."""
    colour = STRIP_OF_LOST if moment.terminated else STRIP
    strip = Image.new("RGB", (width, STRIP_HEIGHT), colour)
    draw = ImageDraw.Draw(strip)
    draw.text((MARGIN, 2), name, DARK, ImageFont.load_default(NAME_SIZE))
    font = ImageFont.load_default(TEXT_SIZE)
    time = f"{moment.length / fps:.1f} s"
    below = MARGIN, STRIP_HEIGHT - TEXT_SIZE - 8
    if moment.terminated:
        draw.text(below, f"lost at {time}", RED, font)
    else:
        draw.text(below, time, DARK, font)
    draw.text((width // 2, below[1]), f"return {moment.episode_return:.1f}", DARK, font)
    return strip


def _even(side: float) -> int:
    """Return a length that MP4 can halve."""
    return round(side / 2) * 2
