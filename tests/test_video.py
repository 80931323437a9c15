from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import operator
import os
import re
import resource
import signal
import subprocess
import sys
import time
import types
import weakref
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest

from bullet_envs import video
from bullet_envs.video import Mp4Writer, Recorder, RecordingError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX")

BARS = 8


class FilmEnv(gym.Env):
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
        row = np.repeat(bits, self.width // BARS).astype(np.uint8) * 255
        row = np.pad(row, (0, self.width - len(row)), mode="edge")
        return self.frame_hook(np.tile(row[None, :, None], (self.height, 1, 3)))

    def state(self):
        return {"x": self.x}

    def close(self):
        self.closed = True


gym.register("FilmTest-v0", FilmEnv, max_episode_steps=1000)


def decode(path: Path) -> tuple[np.ndarray, str]:
    """Return the frames (n, height, width, 3) of a film and what ffmpeg tells of its format."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    done = subprocess.run([*command, "-"], capture_output=True, check=True)
    told = re.search(r"Video: .*", done.stderr.decode()).group()
    width, height = map(int, re.search(r", (\d+)x(\d+)", told).groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), told


def numbers(path: Path) -> list[int]:
    """Return the numbers that the frames of a film show."""
    frames, _ = decode(path)
    bar = (frames.shape[2] - frames.shape[2] % BARS) // BARS
    middle = frames[:, frames.shape[1] // 2, bar // 2 : bar * BARS : bar, 0] > 127
    return [int(sum(int(bit) << i for i, bit in enumerate(row))) for row in middle]


def card(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def films(folder: Path) -> list[str]:
    """Return the names of the films, having seen that only they and their JSON are there."""
    found = [name[: -len(".mp4")] for name in names(folder) if name.endswith(".mp4")]
    assert names(folder) == sorted(name + end for name in found for end in (".mp4", ".json"))
    return found


def always(_: int) -> bool:
    return True


def act(env: gym.Env, steps: int) -> list[float]:
    return [float(env.step(env.action_space.sample())[1]) for _ in range(steps)]


def total(rewards: list[float]) -> float:
    """Add up as the recorder does; from Python 3.12 on, sum() rounds differently."""
    return functools.reduce(operator.add, rewards, 0.0)


@pytest.fixture
def env():
    env = FilmEnv()
    yield env
    env.close()


# ---- frames and format


def test_every_step_gives_one_frame_in_order_at_the_control_rate(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    recorder.reset(seed=1)
    act(recorder, 40)
    recorder.close()
    film = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(film) == list(range(41))
    frames, told = decode(film)
    assert frames.shape == (41, 48, 64, 3)
    assert re.match(r"Video: h264 .*, yuv420p\(.* 25 fps", told)


def test_fast_start_puts_the_index_before_the_pictures(env, tmp_path):
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        env.reset()
        writer.append(env.render())
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (65, 48), (64, 49), (65, 49), (84, 84), (99, 101), (8, 1)]
)
def test_sizes_are_kept_and_odd_ones_padded_at_the_right_and_bottom(tmp_path, width, height):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., :] = np.linspace(20, 235, width).astype(np.uint8)[None, :, None]
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(ramp)
        writer.append(ramp)
    film = decode(tmp_path / "a.mp4")[0]
    assert film.shape == (2, height + height % 2, width + width % 2, 3)
    # A rescaled ramp would be off by more than the loss of the codec.
    assert np.abs(film[1, :height, :width].astype(int) - ramp).max() <= 8
    assert np.abs(film[1, :, -1].astype(int) - int(ramp[0, -1, 0])).max() <= 8


@pytest.mark.parametrize("axis", [0, 1])
def test_padding_repeats_the_last_line(tmp_path, axis):
    frame = np.zeros((49, 65, 3), np.uint8)
    np.moveaxis(frame, axis, 0)[-1] = 255
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(frame)
    film = np.moveaxis(decode(tmp_path / "a.mp4")[0][0], axis, 0)
    assert (film[-2:, :40] > 200).all()
    assert (film[:-2, :40] < 55).all()


def test_views_and_column_major_frames_come_out_right(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24] = 255
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(np.flipud(frame))
        writer.append(np.asfortranarray(np.flipud(frame)))
    film = decode(tmp_path / "a.mp4")[0]
    assert (film[:, :20] < 10).all()
    assert (film[:, 28:] > 245).all()


@pytest.mark.parametrize("fps", [1, 7.5, 30000 / 1001, 240])
def test_frame_rates(env, tmp_path, fps):
    recorder = Recorder(env, str(tmp_path), fps=fps)
    recorder.reset()
    act(recorder, 9)
    recorder.close()
    film = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(film) == list(range(10))
    shown = float(re.search(r"([\d.]+) fps", decode(film)[1]).group(1))
    assert shown == pytest.approx(fps, abs=0.01)
    assert card(film)["fps"] == pytest.approx(fps, abs=1e-9)


def test_any_folder_name_is_only_a_name(env, tmp_path):
    folder = tmp_path / "http:" / "ünï  %03d 'quoted' -y"
    recorder = Recorder(env, str(folder))
    recorder.reset()
    recorder.close()
    assert films(folder) == ["rl-video-episode-0"]


def test_five_thousand_frames_do_not_stay_in_memory(tmp_path):
    env = FilmEnv(width=160, height=120, length=10_000)  # 288 MB if the frames were kept
    recorder = Recorder(env, str(tmp_path), always)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    recorder.reset(seed=0)
    act(recorder, 50)
    before, most = resident(), 0
    for _ in range(50):
        act(recorder, 99)
        most = max(most, resident())
    recorder.close()
    assert most - before < 50e6
    assert card(tmp_path / "rl-video-episode-0.mp4")["frames"] == 5001


# ---- the JSON


def test_the_card_tells_what_was_filmed(tmp_path):
    env = gym.make("FilmTest-v0", render_mode="rgb_array", width=66, length=12)
    recorder = Recorder(env, str(tmp_path), always, name_prefix="walk", agent_hash="ab12")
    recorder.reset(seed=5)
    start = env.unwrapped.state()
    rewards = act(recorder, 12)
    recorder.close()
    told = card(tmp_path / "walk-episode-0.mp4")
    assert len(told["actions"]) == 12
    assert len(told["date"]) == len("2025-01-31")
    assert told["versions"]["gymnasium"] == gym.__version__
    assert set(told["versions"]) == {"python", "bullet_envs", "gymnasium", "pybullet", "numpy"}
    del told["actions"], told["date"], told["versions"]
    assert told == {
        "env_id": "FilmTest-v0",
        "kwargs": {"render_mode": "rgb_array", "width": 66, "length": 12},
        "max_episode_steps": 1000,
        "agent_hash": "ab12",
        "seed": 5,
        "options": None,
        "start_state": start,
        "elapsed_steps": 0,
        "resets": [],
        "length": 12,
        "return": total(rewards),
        "terminated": True,
        "truncated": False,
        "complete": True,
        "fps": 25.0,
        "frames": 13,
        "width": 66,
        "height": 48,
    }


@pytest.mark.parametrize("by", ["seed", "start_state"])
def test_a_film_repeats_from_its_card(env, tmp_path, by):
    recorder = Recorder(env, str(tmp_path), always)
    env.action_space.seed(0)
    recorder.reset(seed=7)
    act(recorder, 30)
    end = env.state()
    recorder.close()
    told = card(tmp_path / "rl-video-episode-0.mp4")
    again = FilmEnv()
    again.reset(
        **({"seed": told["seed"]} if by == "seed" else {"options": {"state": told["start_state"]}})
    )
    rewards = [float(again.step(np.array(a, np.float32))[1]) for a in told["actions"]]
    assert total(rewards) == told["return"]
    assert again.state() == end


def test_unseeded_reset_and_options_are_told(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    recorder.reset()
    recorder.reset(options={"state": {"x": np.float64(0.1)}})
    recorder.close()
    first, second = (card(tmp_path / f"rl-video-episode-{n}.mp4") for n in (0, 1))
    assert first["seed"] is None
    assert first["options"] is None
    assert 0 < first["start_state"]["x"] < 1
    assert second["options"] == {"state": {"x": 0.1}}
    assert second["start_state"] == {"x": 0.1}
    assert not second["complete"]


def test_environments_without_state_or_spec_can_be_filmed(tmp_path):
    env = FilmEnv()
    env.state = np.zeros(3)  # CartPole of Gymnasium has an array of this name
    recorder = Recorder(env, str(tmp_path))
    recorder.reset(seed=0)
    recorder.close()
    told = card(tmp_path / "rl-video-episode-0.mp4")
    assert told["start_state"] is told["env_id"] is told["kwargs"] is None


def test_a_film_across_episodes_repeats(tmp_path):
    env = FilmEnv(length=10)
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0, video_length=25)
    recorder.action_space.seed(3)
    rewards = []
    for episode in range(3):
        recorder.reset(seed=episode if episode else None)
        rewards += act(recorder, 10)
    assert films(tmp_path) == ["rl-video-episode-0"]  # published when full, without close
    told = card(tmp_path / "rl-video-episode-0.mp4")
    shown = [*range(11), *range(11), *range(4)]
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == shown
    assert told["frames"] == 26 == 1 + told["length"] + len(told["resets"])
    assert told["complete"]
    assert [reset["seed"] for reset in told["resets"]] == [1, 2]
    again, replayed = FilmEnv(length=10), 0.0
    resets = {reset["before_action"]: reset for reset in told["resets"]}
    again.reset(options={"state": told["start_state"]})
    for index, action in enumerate(told["actions"]):
        if index in resets:
            again.reset(seed=resets[index]["seed"])
        replayed += float(again.step(np.array(action, np.float32))[1])
    assert replayed == told["return"]


def test_a_film_begun_by_a_step_starts_from_the_state_it_shows(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), step_trigger=lambda n: n == 4)
    for steps in (2, 3):
        recorder.reset(seed=0)
        act(recorder, steps)
    start = env.state()
    rewards = act(recorder, 6)
    recorder.close()
    told = card(tmp_path / "rl-video-step-4.mp4")
    assert numbers(tmp_path / "rl-video-step-4.mp4") == list(range(3, 10))
    assert (told["seed"], told["start_state"], told["elapsed_steps"]) == (None, start, 3)
    assert told["length"] == len(told["actions"]) == 6
    assert told["return"] == total(rewards)
    assert not told["complete"]


def test_actions_are_copied_and_nested_ones_become_plain(tmp_path):
    env = FilmEnv()
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    action = np.zeros(2, np.float32)
    for value in (0.1, 0.2):
        action[:] = value
        recorder.step(action)
    recorder.step((np.int64(1), {"a": np.bool_(True), "b": np.ones(1)}))
    recorder.close()
    told = card(tmp_path / "rl-video-episode-0.mp4")
    assert told["actions"][:2] == [[float(np.float32(v))] * 2 for v in (0.1, 0.2)]
    assert told["actions"][2] == [1, {"a": True, "b": [1.0]}]


# ---- in the place of RecordVideo


@pytest.fixture
def theirs(monkeypatch):
    """Gymnasium's RecordVideo with moviepy replaced by a list of what it would have written."""
    written: list[tuple[str, int, float]] = []

    class Clip:
        def __init__(self, frames, fps):
            self.frames, self.fps = len(frames), fps

        def write_videofile(self, path, logger):
            written.append((Path(path).stem, self.frames, self.fps))

    parts = ["moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"]
    for part in parts:
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[parts[-1]].ImageSequenceClip = Clip
    monkeypatch.delitem(sys.modules, "gymnasium.utils.save_video", raising=False)
    return gym.wrappers.RecordVideo, written


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"name_prefix": "a.b_c-1"},
        {"episode_trigger": lambda n: n % 2 == 1},
        {"step_trigger": lambda n: n % 14 == 0},
        {"step_trigger": lambda n: n % 10 == 0, "video_length": 11},
        {"episode_trigger": always, "video_length": 3},
        {"episode_trigger": always, "video_length": 12, "fps": 10},
        {"episode_trigger": lambda n: n == 1, "step_trigger": lambda n: n == 9},
        {"video_length": 20},
    ],
)
def test_names_and_lengths_are_those_of_record_video(theirs, tmp_path, arguments):
    their_class, written = theirs
    for make in (their_class, Recorder):
        env = make(FilmEnv(length=6), str(tmp_path / make.__name__), **arguments)
        for _ in range(4 if arguments else 9):
            env.reset(seed=0)
            while not env.step(env.action_space.sample())[2]:
                pass
        env.close()
    ours = [(n, card(tmp_path / "Recorder" / f"{n}.mp4")) for n in films(tmp_path / "Recorder")]
    assert [(n, told["frames"], told["fps"]) for n, told in ours] == sorted(written)
    assert written
    for name, told in ours:
        assert len(numbers(tmp_path / "Recorder" / f"{name}.mp4")) == told["frames"]


def test_manual_films_follow_record_video(theirs, tmp_path):
    their_class, written = theirs
    for make in (their_class, Recorder):
        env = make(FilmEnv(), str(tmp_path / make.__name__), lambda n: False)
        env.reset(seed=0)
        env.start_recording("by-hand")
        assert env.recording
        act(env, 4)
        env.stop_recording()
        assert not env.recording
        act(env, 3)
        env.close()
    told = card(tmp_path / "Recorder" / "by-hand.mp4")
    assert films(tmp_path / "Recorder") == ["by-hand"]
    assert [("by-hand", told["frames"], told["fps"])] == written
    assert told["length"] == 3


def test_constructor_has_the_arguments_of_record_video(theirs, tmp_path):
    from inspect import signature

    their_class, _ = theirs
    ours, those = (signature(c.__init__).parameters for c in (Recorder, their_class))
    assert list(ours)[: len(those)] == list(those)
    for name in those.keys() - {"gc_trigger"}:
        assert ours[name].default == those[name].default
    Recorder(FilmEnv(), tmp_path, None, None, 0, "p", 30, False, lambda episode: True)


def test_default_schedule_is_gymnasiums(theirs):
    from gymnasium.utils.save_video import capped_cubic_video_schedule

    assert all(video._cubes(n) == capped_cubic_video_schedule(n) for n in range(5000))


@pytest.mark.parametrize("mode", [None, "ansi", "human", "rgb_array_list"])
def test_other_render_modes_are_refused(tmp_path, mode):
    with pytest.raises(ValueError, match=f"Render mode is {mode}, which is incompatible with"):
        Recorder(FilmEnv(render_mode=mode), str(tmp_path))


def test_the_spec_carries_the_arguments(tmp_path):
    env = gym.make("FilmTest-v0", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), agent_hash="x")
    kwargs = recorder.spec.additional_wrappers[-1].kwargs
    assert kwargs["video_folder"] == str(tmp_path)
    assert kwargs["agent_hash"] == "x"
    recorder.close()


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "../a", "a b", "ä", "a\n", "x" * 101])
def test_names_are_plain(env, tmp_path, name):
    with pytest.raises(ValueError, match="must be 1 to 100 of A-Z"):
        Recorder(env, str(tmp_path), name_prefix=name)
    recorder = Recorder(env, str(tmp_path))
    with pytest.raises(ValueError, match="must be 1 to 100 of A-Z"):
        recorder.start_recording(name)
    recorder.reset()
    recorder.close()
    assert films(tmp_path) == ["rl-video-episode-0"]


def test_a_prefix_too_long_for_later_episodes_is_refused_at_once(env, tmp_path):
    with pytest.raises(ValueError, match="must be 1 to 100"):
        Recorder(env, str(tmp_path), name_prefix="x" * 95)


@pytest.mark.parametrize(("name", "fps"), [("a.avi", 25), ("a", 25), ("a.mp4", 0), ("a.mp4", -1)])
def test_writer_refuses_other_formats_and_rates(tmp_path, name, fps):
    with pytest.raises(ValueError, match=r"need a name in \.mp4 and fps > 0"):
        Mp4Writer(tmp_path / name, fps)


# ---- publishing


def test_a_film_appears_only_when_it_is_whole(env, tmp_path):
    old = tmp_path / "rl-video-episode-0.mp4"
    old.write_bytes(b"older film")
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    act(recorder, 20)
    assert old.read_bytes() == b"older film"
    assert names(tmp_path) == ["rl-video-episode-0.mp4", "rl-video-episode-0.part.mp4"]
    recorder.close()
    assert numbers(old) == list(range(21))
    assert films(tmp_path) == ["rl-video-episode-0"]


def test_reset_in_mid_episode_ends_the_film(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    recorder.reset(seed=0)
    act(recorder, 5)
    recorder.reset()
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == list(range(6))
    assert not card(tmp_path / "rl-video-episode-0.mp4")["complete"]
    assert not recorder.recording
    recorder.close()


def test_closing_twice_is_fine(env, tmp_path):
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    recorder.close()
    recorder.close()
    assert env.closed
    assert films(tmp_path) == ["rl-video-episode-0"]


def test_a_film_that_fails_at_close_does_not_keep_the_environment_open(env, tmp_path):
    (tmp_path / "rl-video-episode-0.part.mp4").symlink_to("/dev/full")
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    with pytest.raises(RecordingError):
        recorder.close()
    assert env.closed


def test_a_forgotten_recorder_still_leaves_its_film(tmp_path):
    recorder = Recorder(FilmEnv(), str(tmp_path))
    recorder.reset()
    act(recorder, 3)
    del recorder
    gc.collect()
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == list(range(4))


def test_a_finished_film_is_forgotten(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    recorder.reset()
    film = weakref.ref(recorder._film)
    recorder.reset()
    gc.collect()
    assert film() is None
    recorder.close()


def test_a_lost_frame_is_noticed(env, tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    env.reset()
    writer.append(env.render())
    writer.append(env.render())
    writer.frames += 1
    with pytest.raises(RecordingError, match="2 frames of 64x48 instead of 3"):
        writer.close()
    assert names(tmp_path) == []


def test_a_rescaled_film_is_noticed(env, tmp_path, monkeypatch):
    encode = video._encode
    monkeypatch.setattr(
        video, "_encode", lambda *a: [*encode(*a)[:-1], "-vf", "scale=80:48", encode(*a)[-1]]
    )
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    with pytest.raises(RecordingError, match="0 frames of 64x48 instead of 1"):
        recorder.close()
    assert names(tmp_path) == []


def test_nothing_is_said_on_the_terminal(env, tmp_path, capfd):
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    act(recorder, 3)
    recorder.reset()
    recorder.close()
    (tmp_path / "b.part.mp4").symlink_to("/dev/full")
    writer = Mp4Writer(tmp_path / "b.mp4", 25)
    writer.append(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(RecordingError):
        writer.close()
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_loads_no_encoder():
    code = (
        "import sys, bullet_envs, bullet_envs.video as v; v.Recorder, bullet_envs.Recorder; "
        "print([m for m in sys.modules if m.split('.')[0] in ('imageio', 'imageio_ffmpeg')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


# ---- exceptions and interrupts


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["before_step", "before_render"])
def test_an_exception_ends_the_film_and_not_the_environment(env, tmp_path, kind, where):
    def broken() -> None:
        raise kind("broken")

    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    recorder.reset(seed=0)
    act(recorder, 7)
    setattr(env, where, broken)
    with pytest.raises(kind, match="broken"):
        recorder.step(env.action_space.sample())
    film = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(film) == list(range(8))
    told = card(film)
    assert (told["frames"], told["length"], len(told["actions"])) == (8, 7, 7)
    assert not told["complete"]
    setattr(env, where, lambda: None)
    act(recorder, 2)
    recorder.reset()
    recorder.close()
    assert films(tmp_path) == ["rl-video-episode-0"]


def test_an_exception_at_the_first_frame_leaves_nothing(env, tmp_path):
    def broken() -> None:
        raise OSError("no display")

    env.before_render = broken
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    with pytest.raises(OSError, match="no display"), pytest.warns(UserWarning, match="no frame"):
        recorder.reset()
    assert names(tmp_path) == []
    recorder.reset()
    act(recorder, 1)
    recorder.close()


@pytest.mark.parametrize("cut", [0, 1, 5000, 64 * 48 * 3])
def test_an_interrupt_inside_a_frame_loses_at_most_that_frame(env, tmp_path, cut):
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    recorder.reset(seed=0)
    act(recorder, 5)
    writer = recorder._film
    pipe = writer._pipe

    class Interrupted:
        close = pipe.close

        def write(self, data):
            os.write(pipe.fileno(), data[:cut])
            raise KeyboardInterrupt

    writer._pipe = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        act(recorder, 1)
    film = tmp_path / "rl-video-episode-0.mp4"
    shown = list(range(7 if cut == 64 * 48 * 3 else 6))
    assert numbers(film) == shown
    assert card(film)["frames"] == writer.frames == len(shown)
    assert films(tmp_path) == ["rl-video-episode-0"]
    recorder.close()


def test_an_interrupt_while_closing_can_be_made_good(env, tmp_path, monkeypatch):
    recorder = Recorder(env, str(tmp_path))
    recorder.reset(seed=0)
    act(recorder, 5)
    count = Mp4Writer._count

    def interrupted(*_: object) -> int:
        monkeypatch.setattr(Mp4Writer, "_count", count)
        raise KeyboardInterrupt

    monkeypatch.setattr(Mp4Writer, "_count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorder.stop_recording()
    with pytest.raises(RecordingError, match="takes no more frames"):
        act(recorder, 1)
    recorder.close()
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == list(range(6))
    assert films(tmp_path) == ["rl-video-episode-0"]


def test_other_signals_do_no_harm(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 240, 320, 3), dtype=np.uint8)
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
            for n in range(40):
                writer.append(frames[n % 4])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    film = decode(tmp_path / "a.mp4")[0].astype(int)
    errors = [np.abs(film[n] - frames[n % 4]).mean() for n in range(40)]
    assert max(errors) < 1.2 * min(errors)


SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from test_video import FilmEnv
from bullet_envs.video import Recorder

folder, where = sys.argv[1:]
def wait():
    if env.t == 9:
        print("ready", flush=True)
        time.sleep(30)
env = FilmEnv(length=10**9, noise=where == "write", width=320, height=240)
if where in ("step", "closed in finally"):
    env.before_step = wait
if where in ("render", "with"):
    env.before_render = wait
recorder = Recorder(env, folder)
def play():
    recorder.reset(seed=0)
    while True:
        if where == "between":
            wait()
        if where == "write" and env.t == 9:
            print("ready", flush=True)
        recorder.step([0.0, 0.0])
if where == "with":
    with recorder:
        play()
elif where == "closed in finally":
    try:
        play()
    finally:
        recorder.close()
else:
    play()
"""


@pytest.mark.parametrize(
    "where", ["step", "render", "between", "write", "with", "closed in finally"]
)
def test_ctrl_c_for_the_whole_process_group_leaves_a_readable_film(tmp_path, where):
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), where],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout.readline() == "ready\n", program.communicate()[1]
    time.sleep(0.1)
    os.killpg(program.pid, signal.SIGINT)
    _, said = program.communicate(timeout=20)
    assert program.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1
    assert said.endswith("KeyboardInterrupt\n")
    assert films(tmp_path) == ["rl-video-episode-0"]
    film = tmp_path / "rl-video-episode-0.mp4"
    told = card(film)
    assert not told["complete"]
    assert len(decode(film)[0]) == told["frames"]
    # In the middle of a write the interrupt can fall between the last byte and the note of it.
    assert told["length"] == len(told["actions"])
    assert 0 <= told["frames"] - 1 - told["length"] <= (where == "write")
    if where != "write":
        assert told["frames"] == (9 if where in ("render", "with") else 10)


FORK = """
import os, sys, time
from test_video import FilmEnv
from bullet_envs.video import Recorder
recorder = Recorder(FilmEnv(), sys.argv[1])
recorder.reset(seed=0)
recorder.step([0.0, 0.0])
children = []
for forgets in (False, True):
    children.append(os.fork())
    if children[-1] == 0:
        if forgets:
            del recorder
        time.sleep(20)
        os._exit(0)
time.sleep(0.2)
recorder.step([0.0, 0.0])
recorder.close()
for child in children:
    os.kill(child, 9)
"""


def test_a_forked_worker_neither_blocks_nor_breaks_the_film(tmp_path):
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
    )
    assert time.monotonic() - start < 15
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == [0, 1, 2]
    assert films(tmp_path) == ["rl-video-episode-0"]


# ---- errors


BAD = {
    "float": lambda frame: frame / 255.0,
    "float32": lambda frame: frame.astype(np.float32),
    "grey": lambda frame: frame[..., 0],
    "alpha": lambda frame: np.concatenate([frame, frame[..., :1]], axis=2),
    "list": lambda frame: frame.tolist(),
    "tuple": lambda frame: tuple(frame.ravel()),
    "ragged": lambda frame: (64, 48, tuple(frame.ravel())),
    "none": lambda frame: None,
    "empty": lambda frame: frame[:0],
}
LATER = {
    "wider": lambda frame: np.pad(frame, ((0, 0), (0, 2), (0, 0))),
    "lower": lambda frame: frame[:-1],
    "turned": lambda frame: np.swapaxes(frame, 0, 1),
}


@pytest.mark.parametrize(
    ("kind", "after"), [*itertools.product(BAD, (0, 3)), *itertools.product(LATER, (1, 3))]
)
def test_bad_frames_are_one_clear_error_and_leave_nothing(env, tmp_path, kind, after):
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    if after == 0:
        env.frame_hook = (BAD | LATER)[kind]
        with pytest.raises(RecordingError, match=r"frame 0 is a .*, not an array of uint8"):
            recorder.reset(seed=0)
    else:
        recorder.reset(seed=0)
        act(recorder, after - 1)
        env.frame_hook = (BAD | LATER)[kind]
        with pytest.raises(RecordingError, match=rf"frame {after} is a .*, not an array"):
            act(recorder, 1)
    assert names(tmp_path) == []
    assert not recorder.recording
    act(recorder, 3)
    recorder.reset()
    recorder.close()
    assert names(tmp_path) == []


def test_a_film_without_frames_is_an_error(env, tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    with pytest.raises(RecordingError, match="there is no frame in it"):
        writer.close()
    writer.close()
    recorder = Recorder(env, str(tmp_path), lambda n: n == 1)
    recorder.reset()
    recorder.start_recording("empty")
    with pytest.raises(RecordingError, match="there is no frame in it"):
        recorder.stop_recording()
    with pytest.raises(RecordingError, match="without a film"):
        recorder.stop_recording()
    assert names(tmp_path) == []
    recorder.reset()
    recorder.close()
    assert films(tmp_path) == ["rl-video-episode-1"]


def test_abort_leaves_nothing(env, tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    env.reset()
    writer.append(env.render())
    writer.abort()
    writer.abort()
    writer.close()
    with pytest.raises(RecordingError, match="takes no more frames"):
        writer.append(env.render())
    assert names(tmp_path) == []


@pytest.fixture
def fake_ffmpeg(tmp_path_factory, monkeypatch):
    """A program in the place of ffmpeg that passes the first test and then runs a shell line."""

    def install(line: str) -> None:
        program = tmp_path_factory.mktemp("bin") / "ffmpeg"
        program.write_text(
            '#!/bin/sh\ncase "$*" in *"-f null"*) cat >/dev/null; exit 0;; esac\n' + line + "\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    return install


def fails(folder: Path, match: str, steps: int = 60, **kwargs: Any) -> None:
    """Film noise until the recorder gives up, and see that nothing is lost but the film."""
    folder.mkdir(exist_ok=True)
    (folder / "rl-video-episode-0.mp4").write_bytes(b"old")
    env = FilmEnv(noise=True, **kwargs)
    recorder = Recorder(env, str(folder), lambda n: n == 0)
    with pytest.raises(RecordingError, match=match) as caught:
        recorder.reset(seed=0)
        act(recorder, steps)
        recorder.stop_recording()
    assert str(folder / "rl-video-episode-0.mp4") in str(caught.value)
    assert not recorder.recording
    assert names(folder) == ["rl-video-episode-0.mp4"]
    assert (folder / "rl-video-episode-0.mp4").read_bytes() == b"old"
    act(recorder, 3)
    recorder.reset()
    recorder.close()


@pytest.mark.parametrize("steps", [3, 400])
def test_full_disk_found_late_or_early(tmp_path, steps):
    (tmp_path / "rl-video-episode-0.part.mp4").symlink_to("/dev/full")
    fails(tmp_path, "No space left on device", steps)


def test_full_disk_in_a_small_file_system(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount; /dev/full, a file size limit and a fake ffmpeg stand in")
    try:
        fails(tmp_path, "No space left on device")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_file_size_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        fails(tmp_path, "was not made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_told_by_a_fake_ffmpeg(tmp_path, fake_ffmpeg):
    fake_ffmpeg("head -c 20000 >/dev/null; echo 'No space left on device' >&2; exit 1")
    fails(tmp_path, "; ffmpeg: No space left on device")


def test_full_disk_for_the_json(tmp_path):
    (tmp_path / "rl-video-episode-0.part.json").symlink_to("/dev/full")
    fails(tmp_path, "No space left on device")


def test_an_ffmpeg_that_writes_rubbish_is_noticed(tmp_path, fake_ffmpeg, capfd):
    fake_ffmpeg(
        "cat >/dev/null; for last; do :; done; echo complaint >&2; "
        'case "$last" in *.mp4) echo rubbish > "$last";; esac'
    )
    fails(tmp_path, "0 frames of 64x48 instead of 4; ffmpeg: complaint", steps=3)
    assert capfd.readouterr() == ("", "")


def test_an_ffmpeg_that_fails_at_the_very_end_is_noticed(tmp_path, fake_ffmpeg):
    fake_ffmpeg(f'{imageio_ffmpeg.get_ffmpeg_exe()} "$@"; echo too late >&2; exit 1')
    fails(tmp_path, "ffmpeg failed; ffmpeg: too late", steps=3)


def test_an_ffmpeg_that_writes_nothing_is_noticed(tmp_path, fake_ffmpeg):
    fake_ffmpeg("cat >/dev/null")
    fails(tmp_path, "instead of 4", steps=3)


def test_a_folder_that_vanishes_is_one_error(env, tmp_path):
    folder = tmp_path / "films"
    recorder = Recorder(env, str(folder), lambda n: n == 0)
    folder.rmdir()
    with pytest.raises(RecordingError, match="No such file or directory"):
        recorder.reset()
        recorder.stop_recording()
    act(recorder, 3)
    recorder.close()


@pytest.mark.parametrize("how", ["not a folder", "no permission"])
def test_unwritable_folder_is_told_at_once(env, tmp_path, how):
    folder = tmp_path / "films"
    if how == "not a folder":
        folder.write_text("")
        folder = folder / "inside"
    else:
        for parent in (*tmp_path.parents[:2], tmp_path):
            parent.chmod(0o755)
        folder.mkdir()
        folder.chmod(0o555)
    video.find_ffmpeg()
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # for root every folder is writable
    try:
        with pytest.raises(RecordingError, match="cannot write into"):
            Recorder(env, str(folder))
    finally:
        if root:
            os.seteuid(0)
    env.reset()


@pytest.mark.parametrize("how", ["absent", "no file", "no program", "no h264", "not installed"])
def test_missing_ffmpeg_is_told_at_once(env, tmp_path, monkeypatch, how):
    program = tmp_path / "ffmpeg"
    if how != "no file":
        program.write_text("#!/bin/sh\necho \"Unknown encoder 'libx264'\" >&2; exit 1\n")
        program.chmod(0o644 if how == "no program" else 0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    if how == "absent":
        monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
        monkeypatch.setattr(imageio_ffmpeg._utils, "_get_ffmpeg_exe", lambda: None)
    if how == "not installed":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    match = "Unknown encoder 'libx264'" if how == "no h264" else "no ffmpeg with H.264"
    with pytest.raises(RecordingError, match=match):
        Recorder(env, str(tmp_path / "films"))
    with pytest.raises(RecordingError, match=match):
        Mp4Writer(tmp_path / "a.mp4", 25)
    assert not (tmp_path / "films").exists()
    env.reset()
    act(env, 1)


# ---- the real environment


@pytest.mark.parametrize("by", ["seed", "start_state"])
def test_bullet_cart_pole_repeats_from_its_card(tmp_path, by):
    env = gym.make("BulletCartPole-v0", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), name_prefix="random-seed3")
    pole = recorder.reset(seed=3)[0]
    for _ in range(30):
        pole = recorder.step(int(pole[2] + pole[3] > 0))[0]
    end = env.unwrapped.state()
    recorder.close()
    film = tmp_path / "random-seed3-episode-0.mp4"
    told = card(film)
    assert len(decode(film)[0]) == told["frames"] == 31
    assert told["fps"] == gym.spec("BulletCartPole-v0").make().metadata["render_fps"]
    again = gym.make(told["env_id"], **told["kwargs"] | {"render_mode": None})
    if by == "seed":
        again.reset(seed=told["seed"])
    else:
        again.reset(options={"state": told["start_state"]})
    rewards = [float(again.step(action)[1]) for action in told["actions"]]
    assert total(rewards) == told["return"]
    assert again.unwrapped.state() == end
    again.close()
