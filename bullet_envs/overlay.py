"""What is written into the frames of a video: who acts where, for how long, what it commands."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .frames import Command

MARGIN = 18
TITLE, TEXT, NOTE = 34, 24, 15  # heights of letters
COLUMN = 36  # letters in a line of a note
INK, FAINT, RED, ACCENT = (28, 33, 44), (92, 100, 114), (190, 32, 32), (20, 90, 170)
GAUGE = 80  # pixels of a command of the actuator's scale
INSET = 208  # largest side of an observation

WIDTH = 960  # of a frame with letters of these heights

Frame = npt.NDArray[np.uint8]
Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Overlay:
    """What is written into a frame.

    Args:
        title: id of the environment.
        agent: who acts, empty if nobody is known.
        clock: time or steps since the episode began.
        episode_return: undiscounted sum of rewards.
        commands: of all actuators.
        notes: what is perturbed.
        failure: which limit has been passed, and when; empty while none has.
    """

    title: str
    agent: str = ""
    clock: str = ""
    episode_return: float = 0.0
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""

    def drawn_into(self, frame: Frame) -> Frame:
        """Return a copy of a frame with the text in it."""
        image = Image.fromarray(frame)
        pen = _Pen(image)
        wide, first, second = pen.width - MARGIN, MARGIN + 26, MARGIN + 60
        pen.write((MARGIN, first), self.title, INK, TITLE, "ls")
        pen.write((MARGIN, second), self.agent, FAINT, TEXT, "ls")
        pen.write((wide, first), self.clock, INK, TITLE, "rs")
        pen.write((wide, second), f"return {self.episode_return:.1f}", FAINT, TEXT, "rs")
        # In a narrow column, so that many do not cover the robot.
        lines = [line for note in self.notes for line in textwrap.wrap(note, COLUMN)]
        for number, line in enumerate(lines):
            pen.write((MARGIN, second + 24 + number * 18), line, FAINT, NOTE, "ls")
        for number, command in enumerate(reversed(self.commands)):
            _gauge(pen, pen.height - MARGIN - 16 - number * 48, command)
        if self.failure:
            pen.draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=RED, width=5)
            pen.write((pen.width / 2, second + 2), self.failure, RED, TEXT + 2, "ms")
        return np.asarray(image)


def overlay_of(
    env: gym.Env[Any, Any],
    agent: str,
    elapsed: int,
    episode_return: float,
    action: Any,
    terminated: bool,
    parameters: Mapping[str, float],
) -> Overlay:
    """Return what there is to say of an environment.

    Args:
        env: with what it was made of, of this package or another.
        agent: who acts.
        elapsed: steps since the reset.
        episode_return: sum of rewards since then.
        action: the last one, None after a reset.
        terminated: whether the episode has.
        parameters: of the episode.
    """
    bare: Any = env.unwrapped
    title = env.spec.id if env.spec else type(bare).__name__
    fps = env.metadata.get("render_fps")
    clock = f"{elapsed / fps:.2f} s" if fps else f"step {elapsed}"
    task = getattr(bare, "task", None)
    if task is None:
        told = () if action is None else (f"action {np.round(action, 3)}",)
        failure = f"terminated at {clock}" if terminated else ""
        return Overlay(title, agent, clock, episode_return, (), told, failure)
    units = {one.name: one.unit for one in task.parameters}
    notes = tuple(f"{name} {value:.3g} {units[name]}" for name, value in parameters.items())
    notes += bare.perturbations.notes
    failure = f"{task.failure(list(bare.state().values()))} at {clock}" if terminated else ""
    return Overlay(title, agent, clock, episode_return, bare.commands(), notes, failure)


@functools.lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    """Return a font that remembers what it drew: most lines stay from frame to frame."""
    font: Any = ImageFont.load_default(size)
    font.getmask2 = functools.lru_cache(font.getmask2)
    return font  # type: ignore[no-any-return]


class _Pen:
    """Draws in the pixels of a frame that is ``WIDTH`` wide, smaller into a smaller one.

    Args:
        image: to draw into.
    """

    def __init__(self, image: Image.Image) -> None:
        self.draw = ImageDraw.Draw(image)
        self.draw.fontmode = "L"
        self._scale = min(1.0, image.width / WIDTH)
        self.width, self.height = (side / self._scale for side in image.size)

    def write(self, place: Point, text: str, colour: Colour, size: float, anchor: str) -> None:
        """Write text of a size."""
        font = _font(self._scale * size)
        self.draw.text(self._scaled([place])[0], text, colour, font, anchor=anchor)

    def line(self, start: Point, end: Point, colour: Colour, width: int) -> None:
        """Draw a line."""
        self.draw.line(self._scaled([start, end]), colour, max(1, round(self._scale * width)))

    def polygon(self, corners: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon(self._scaled(corners), colour)

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(self._scale * x, self._scale * y) for x, y in points]


def _gauge(pen: _Pen, y: float, command: Command) -> None:
    """Draw the arrow of a command, whose full length is the actuator's scale."""
    middle = MARGIN + GAUGE
    pen.line((middle - GAUGE, y), (middle + GAUGE, y), FAINT, 1)
    for end in (-GAUGE, 0, GAUGE):
        pen.line((middle + end, y - 5), (middle + end, y + 5), FAINT, 1)
    share = max(-1.0, min(1.0, command.value / command.scale)) * GAUGE
    if abs(share) >= 1:
        head = min(10.0, abs(share)) * (1 if share > 0 else -1)
        tip = middle + share
        pen.line((middle, y), (tip - head, y), ACCENT, 6)
        pen.polygon([(tip, y), (tip - head, y - 8), (tip - head, y + 8)], ACCENT)
    text = f"{command.name} {command.value:+.3g} {command.unit}"
    scale = f"full length {command.scale:g} {command.unit}"
    right = middle + GAUGE + 14
    pen.write((right, y + 1), text, INK, TEXT, "lb")
    pen.write((right, y + 4), scale, FAINT, NOTE, "lt")


def with_inset(frame: Frame, observation: Frame) -> Frame:
    """Return a copy of a frame with the image that an agent observes in its corner, enlarged.

    Args:
        frame: of shape (height, width, 3).
        observation: of shape (size, size, 3).
    """
    image = Image.fromarray(frame)
    size = len(observation)
    side = inset_side(size)
    kind = Image.Resampling.NEAREST if side >= size else Image.Resampling.BOX
    left, top = image.width - MARGIN - side, image.height - MARGIN - side
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 3, top - 24, left + side + 2, top + side + 2), (255, 255, 255))
    image.paste(Image.fromarray(observation).resize((side, side), kind), (left, top))
    label = f"observation, {size} x {size} pixels"
    place = left + side / 2, top - 7
    draw.text(place, label, INK, _font(NOTE), anchor="ms")
    return np.asarray(image)


def inset_side(size: int) -> int:
    """Return how many pixels of a frame an image of so many is wide: a multiple, if it fits."""
    return size * (INSET // size) or INSET
