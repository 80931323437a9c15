"""What the tests of videos share: an environment whose frames are numbered, and a decoder."""

from __future__ import annotations

import functools
import json
import operator
import re
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np

BARS = 8


class NumberedEnv(gym.Env):
    """A walk whose frames show the number of steps in the episode as eight black and white bars."""

    metadata = {"render_modes": ["rgb_array", "rgb_array_list", "ansi"], "render_fps": 25}  # noqa: RUF012
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, render_mode="rgb_array", width=64, height=48, length=1000, noise=False):
        self.render_mode = render_mode
        self.width, self.height, self.length, self.noise = width, height, length, noise
        self.x, self.t = 0.0, 0
        self.before_step = self.before_render = lambda: None
        self.frame_hook = lambda frame: frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.x = float(self.np_random.uniform())
        if options:
            self.x = options["state"]["x"]
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.before_step()
        self.t += 1
        self.x = 0.9 * self.x + float(action[0])
        return np.array([self.x], np.float32), np.float64(self.x), self.t == self.length, False, {}

    def render(self):
        self.before_render()
        if self.noise:
            size = (self.height, self.width, 3)
            return np.random.default_rng(self.t).integers(0, 256, size, dtype=np.uint8)
        bits = [(self.t >> bit) & 1 for bit in range(BARS)]
        line = np.repeat(bits, self.width // BARS).astype(np.uint8) * 255
        line = np.pad(line, (0, self.width - len(line)), mode="edge")
        return self.frame_hook(np.tile(line[None, :, None], (self.height, 1, 3)))

    def state(self):
        return {"x": self.x}

    def close(self):
        self.closed = True


gym.register("Numbered-v0", NumberedEnv, max_episode_steps=1000)


def decode(path: Path) -> tuple[np.ndarray, str]:
    """Return the frames (n, height, width, 3) of a video and ffmpeg's line about its format."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    done = subprocess.run([*command, "-"], capture_output=True, check=True)
    described = re.search(r"Video: .*", done.stderr.decode()).group()
    width, height = map(int, re.search(r", (\d+)x(\d+)", described).groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), described


def numbers(path: Path) -> list[int]:
    """Return the numbers that the frames of a video show."""
    frames, _ = decode(path)
    bar = (frames.shape[2] - frames.shape[2] % BARS) // BARS
    middle = frames[:, frames.shape[1] // 2, bar // 2 : bar * BARS : bar, 0] > 127
    return [int(sum(int(bit) << i for i, bit in enumerate(line))) for line in middle]


def card(path: Path) -> dict[str, Any]:
    """Return the JSON of a video."""
    return json.loads(path.with_suffix(".json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def videos(folder: Path) -> list[str]:
    """Return the names of the videos; fail if there are other files than they and their JSON."""
    found = [name[: -len(".mp4")] for name in names(folder) if name.endswith(".mp4")]
    assert names(folder) == sorted(name + end for name in found for end in (".mp4", ".json"))
    return found


def act(env: gym.Env, steps: int) -> list[float]:
    """Take random actions and return the rewards."""
    return [float(env.step(env.action_space.sample())[1]) for _ in range(steps)]


def total(rewards: list[float]) -> float:
    """Add up as the recorder does; from Python 3.12 on, sum() rounds differently."""
    return functools.reduce(operator.add, rewards, 0.0)
