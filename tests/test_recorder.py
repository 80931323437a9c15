from __future__ import annotations

import gc
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
from video_tools import NumberedEnv, act, card, decode, names, numbers, total, videos

from bullet_envs import mp4
from bullet_envs import recorder as recorder_module
from bullet_envs.mp4 import Mp4Writer, RecordingError
from bullet_envs.recorder import Recorder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX")


def always(_: int) -> bool:
    return True


@pytest.fixture
def env():
    env = NumberedEnv()
    yield env
    env.close()


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Return the path of a temporary file, whose unique part of the name is x for this test."""
    monkeypatch.setattr(mp4, "_unique", lambda: "x")
    return tmp_path.joinpath


# ---- frames and format


def test_every_step_gives_one_frame_in_order_at_the_control_rate(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    recorder.reset(seed=1)
    act(recorder, 40)
    recorder.close()
    video = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(video) == list(range(41))
    frames, told = decode(video)
    assert frames.shape == (41, 48, 64, 3)
    assert re.match(r"Video: h264 .*, yuv420p\(.* 25 fps", told)


@pytest.mark.parametrize("fps", [1, 7.5, 30000 / 1001, 240])
def test_frame_rates(env, tmp_path, fps):
    recorder = Recorder(env, str(tmp_path), fps=fps)
    recorder.reset()
    act(recorder, 9)
    recorder.close()
    video = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(video) == list(range(10))
    shown = float(re.search(r"([\d.]+) fps", decode(video)[1]).group(1))
    assert shown == pytest.approx(fps, abs=0.01)
    assert card(video)["fps"] == pytest.approx(fps, abs=1e-9)


def test_any_folder_name_is_only_a_name(env, tmp_path):
    folder = tmp_path / "http:" / "ünï  %03d 'quoted' -y"
    recorder = Recorder(env, str(folder))
    recorder.reset()
    recorder.close()
    assert videos(folder) == ["rl-video-episode-0"]


def test_frames_do_not_stay_in_memory(tmp_path):
    env = NumberedEnv(width=320, height=240)  # 138 MB if the frames were kept
    recorder = Recorder(env, str(tmp_path), always)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    recorder.reset(seed=0)
    act(recorder, 50)
    before, most = resident(), 0
    for _ in range(6):
        act(recorder, 100)
        most = max(most, resident())
    recorder.close()
    assert most - before < 40e6
    assert card(tmp_path / "rl-video-episode-0.mp4")["frames"] == 651


# ---- the JSON


def test_the_card_tells_what_was_recorded(tmp_path):
    env = gym.make("Numbered-v0", render_mode="rgb_array", width=66, length=12)
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
        "env_id": "Numbered-v0",
        "kwargs": {"render_mode": "rgb_array", "width": 66, "length": 12},
        "max_episode_steps": 1000,
        "agent_hash": "ab12",
        "seed": 5,
        "options": None,
        "parameters": {},
        "start_state": start,
        "snapshot": None,
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


def test_a_video_repeats_from_its_card(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    env.action_space.seed(0)
    recorder.reset(seed=7)
    act(recorder, 30)
    end = env.state()
    recorder.close()
    told = card(tmp_path / "rl-video-episode-0.mp4")
    again = NumberedEnv()
    for start in ({"seed": told["seed"]}, {"options": {"state": told["start_state"]}}):
        again.reset(**start)
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


def test_environments_without_state_or_spec_can_be_recorded(tmp_path):
    env = NumberedEnv()
    env.state = np.zeros(3)  # CartPole of Gymnasium has an array of this name
    recorder = Recorder(env, str(tmp_path))
    recorder.reset(seed=0)
    recorder.close()
    told = card(tmp_path / "rl-video-episode-0.mp4")
    assert told["start_state"] is told["env_id"] is told["kwargs"] is None


def test_a_video_across_episodes_repeats(tmp_path):
    env = NumberedEnv(length=10)
    recorder = Recorder(env, str(tmp_path), lambda n: n == 0, video_length=25)
    recorder.action_space.seed(3)
    rewards = []
    for episode in range(3):
        recorder.reset(seed=episode if episode else None)
        rewards += act(recorder, 10)
    assert videos(tmp_path) == ["rl-video-episode-0"]  # published when full, without close
    told = card(tmp_path / "rl-video-episode-0.mp4")
    shown = [*range(11), *range(11), *range(4)]
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == shown
    assert told["frames"] == 26 == 1 + told["length"] + len(told["resets"])
    assert told["complete"]
    assert [reset["seed"] for reset in told["resets"]] == [1, 2]
    again, replayed = NumberedEnv(length=10), 0.0
    resets = {reset["before_action"]: reset for reset in told["resets"]}
    again.reset(options={"state": told["start_state"]})
    for index, action in enumerate(told["actions"]):
        if index in resets:
            again.reset(seed=resets[index]["seed"])
        replayed += float(again.step(np.array(action, np.float32))[1])
    assert replayed == told["return"]


def test_a_video_begun_by_a_step_starts_from_the_state_it_shows(env, tmp_path):
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


class DriftingEnv(NumberedEnv):
    """Its engine has a number that `state` leaves out, and changes a state slightly on setting."""

    hidden = 0.0

    def reset(self, *, seed=None, options=None):
        self.hidden, self.calls = 0.0, []
        observation, info = super().reset(seed=seed, options=options)
        self.x *= 1 + 1e-12
        return observation, info

    def step(self, action):
        self.hidden += 1e-3
        returned = super().step(action)
        self.x += self.hidden
        return returned

    def render(self):
        self.calls.append(("render", self.t))
        return super().render()

    def resynchronize(self):
        self.calls.append(("resynchronize", self.t))
        self.x, self.hidden = self.x * (1 + 1e-12), 0.0


@pytest.mark.parametrize("by", ["step_trigger", "start_recording", "video_length"])
def test_a_video_begun_within_an_episode_depends_on_its_start_state_alone(tmp_path, by):
    env = gym.wrappers.TimeLimit(DriftingEnv(length=12), 100)
    trigger = {} if by == "start_recording" else {"step_trigger": lambda n: n == 3}
    length = {"video_length": 6} if by == "video_length" else {}
    recorder = Recorder(env, str(tmp_path), lambda n: False, **trigger, **length)
    recorder.action_space.seed(1)
    recorder.reset(seed=0)
    act(recorder, 3)
    if by == "start_recording":
        recorder.start_recording("rl-video-step-3")
    act(recorder, 9)
    end = env.unwrapped.state()
    assert env.unwrapped.calls[:3] == [("resynchronize", 4), ("render", 4), ("render", 5)]
    assert [name for name, _ in env.unwrapped.calls].count("resynchronize") == 1
    recorder.close()
    told = card(tmp_path / "rl-video-step-3.mp4")
    assert told["length"] == (6 if by == "video_length" else 8)
    again = DriftingEnv()
    again.reset(options={"state": told["start_state"]})
    rewards = [float(again.step(np.array(a, np.float32))[1]) for a in told["actions"]]
    assert total(rewards) == told["return"]
    assert by == "video_length" or again.state() == end


@pytest.mark.parametrize("by", ["episode_trigger", "start_recording", "video_length"])
def test_a_video_begun_by_a_reset_leaves_the_engine_alone(tmp_path, by):
    env = DriftingEnv(length=4)
    length = 0 if by == "episode_trigger" else 6
    trigger = (lambda n: False) if by == "start_recording" else always
    recorder = Recorder(env, str(tmp_path), trigger, video_length=length)
    calls = []
    for episode in range(2):
        if by == "start_recording":
            recorder.start_recording(f"by-hand-{episode}")
        recorder.reset(seed=episode)
        act(recorder, 4)
        calls += [name for name, _ in env.calls]
    recorder.close()
    assert set(calls) == {"render"}


def test_actions_are_copied_and_nested_ones_become_plain(tmp_path):
    env = NumberedEnv()
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
        *(
            pytest.param(more, marks=pytest.mark.sweep)
            for more in (
                {"episode_trigger": lambda n: n > 1, "video_length": 12, "fps": 10},
                {"episode_trigger": lambda n: n == 1, "step_trigger": lambda n: n == 9},
                {"video_length": 20},
            )
        ),
    ],
)
def test_names_and_lengths_are_those_of_record_video(theirs, tmp_path, arguments):
    their_class, written = theirs
    for make in (their_class, Recorder):
        env = make(NumberedEnv(length=6), str(tmp_path / make.__name__), **arguments)
        for _ in range(4 if arguments else 9):
            env.reset(seed=0)
            while not env.step(env.action_space.sample())[2]:
                pass
        env.close()
    ours = [(n, card(tmp_path / "Recorder" / f"{n}.mp4")) for n in videos(tmp_path / "Recorder")]
    assert [(n, told["frames"], told["fps"]) for n, told in ours] == sorted(written)
    assert written


def test_manual_videos_follow_record_video(theirs, tmp_path):
    their_class, written = theirs
    for make in (their_class, Recorder):
        env = make(NumberedEnv(), str(tmp_path / make.__name__), lambda n: False)
        env.reset(seed=0)
        env.start_recording("by-hand")
        assert env.recording
        act(env, 4)
        env.stop_recording()
        assert not env.recording
        act(env, 3)
        env.close()
    told = card(tmp_path / "Recorder" / "by-hand.mp4")
    assert videos(tmp_path / "Recorder") == ["by-hand"]
    assert [("by-hand", told["frames"], told["fps"])] == written
    assert told["length"] == 3


def test_constructor_has_the_arguments_of_record_video(theirs, tmp_path):
    from inspect import signature

    their_class, _ = theirs
    ours, those = (signature(c.__init__).parameters for c in (Recorder, their_class))
    assert list(ours)[: len(those)] == list(those)
    for name in those.keys() - {"gc_trigger"}:
        assert ours[name].default == those[name].default
    Recorder(NumberedEnv(), tmp_path, None, None, 0, "p", 30, False, lambda episode: True)


def test_default_schedule_is_gymnasiums(theirs):
    from gymnasium.utils.save_video import capped_cubic_video_schedule

    assert all(
        recorder_module._capped_cubic_schedule(n) == capped_cubic_video_schedule(n)
        for n in range(5000)
    )


@pytest.mark.parametrize("mode", [None, "ansi", "human", "rgb_array_list"])
def test_other_render_modes_are_refused(tmp_path, mode):
    with pytest.raises(ValueError, match=f"Render mode is {mode}, which is incompatible with"):
        Recorder(NumberedEnv(render_mode=mode), str(tmp_path))


def test_the_spec_carries_the_arguments(tmp_path):
    env = gym.make("Numbered-v0", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), agent_hash="x")
    kwargs = recorder.spec.additional_wrappers[-1].kwargs
    assert kwargs["video_folder"] == str(tmp_path)
    assert kwargs["agent_hash"] == "x"
    recorder.close()


@pytest.mark.parametrize("name", ["", "../a"])
def test_names_are_plain(env, tmp_path, name):
    with pytest.raises(ValueError, match="must be 1 to 100 of A-Z"):
        Recorder(env, str(tmp_path), name_prefix=name)
    recorder = Recorder(env, str(tmp_path))
    with pytest.raises(ValueError, match="must be 1 to 100 of A-Z"):
        recorder.start_recording(name)
    assert not recorder.recording
    assert names(tmp_path) == []


def test_a_prefix_too_long_for_later_episodes_is_refused_at_once(env, tmp_path):
    with pytest.raises(ValueError, match="must be 1 to 100"):
        Recorder(env, str(tmp_path), name_prefix="x" * 95)


# ---- publishing


def test_a_video_appears_only_when_it_is_whole(env, tmp_path):
    old = tmp_path / "rl-video-episode-0.mp4"
    old.write_bytes(b"older video")
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    act(recorder, 20)
    assert old.read_bytes() == b"older video"
    (part,) = set(names(tmp_path)) - {old.name}
    assert re.fullmatch(rf"rl-video-episode-0\.{os.getpid()}-[0-9a-f]+\.part\.mp4", part)
    recorder.close()
    assert numbers(old) == list(range(21))
    assert videos(tmp_path) == ["rl-video-episode-0"]


def test_two_recorders_may_have_one_folder_and_prefix(tmp_path):
    first, second = (Recorder(NumberedEnv(), str(tmp_path)) for _ in range(2))
    for recorder, seed in ((first, 1), (second, 2)):
        recorder.reset(seed=seed)
        act(recorder, 4)
    act(first, 3)
    video = tmp_path / "rl-video-episode-0.mp4"
    first.close()
    assert numbers(video) == list(range(8))
    assert (card(video)["seed"], card(video)["length"]) == (1, 7)
    act(second, 1)
    second.close()
    assert numbers(video) == list(range(6))
    assert (card(video)["seed"], card(video)["length"]) == (2, 5)
    assert videos(tmp_path) == ["rl-video-episode-0"]


def test_reset_in_mid_episode_ends_the_video(env, tmp_path):
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
    assert videos(tmp_path) == ["rl-video-episode-0"]


def test_a_video_that_fails_at_close_does_not_keep_the_environment_open(env, tmp_path, part):
    part("rl-video-episode-0.x.part.mp4").symlink_to("/dev/full")
    recorder = Recorder(env, str(tmp_path))
    recorder.reset()
    with pytest.raises(RecordingError):
        recorder.close()
    assert env.closed


def test_a_recorder_without_close_still_leaves_its_video(tmp_path):
    recorder = Recorder(NumberedEnv(), str(tmp_path))
    recorder.reset()
    act(recorder, 3)
    del recorder
    gc.collect()
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == list(range(4))


def test_a_finished_writer_is_not_kept(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), always)
    recorder.reset()
    video = weakref.ref(recorder._writer)
    recorder.reset()
    gc.collect()
    assert video() is None
    recorder.close()


def test_importing_the_module_loads_no_encoder(run_python):
    done = run_python(
        "import sys, bullet_envs, bullet_envs.recorder as r; r.Recorder, bullet_envs.Recorder; "
        "print([m for m in sys.modules if m.split('.')[0] in ('imageio', 'imageio_ffmpeg')])"
    )
    assert done.stdout == b"[]\n", done.stderr.decode()


def test_it_works_where_fork_and_fcntl_are_missing(run_python, tmp_path):
    """Windows has neither."""
    done = run_python(
        "import os, sys; del os.register_at_fork, os.fork; sys.modules['fcntl'] = None\n"
        "from video_tools import NumberedEnv, act; from bullet_envs import Recorder\n"
        "recorder = Recorder(NumberedEnv(), 'videos'); recorder.reset(seed=0); act(recorder, 3)\n"
        "recorder.close()"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert numbers(tmp_path / "videos" / "rl-video-episode-0.mp4") == [0, 1, 2, 3]
    assert videos(tmp_path / "videos") == ["rl-video-episode-0"]


# ---- exceptions and interrupts


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["before_step", "before_render"])
def test_an_exception_ends_the_video_and_not_the_environment(env, tmp_path, kind, where):
    def broken() -> None:
        raise kind("broken")

    recorder = Recorder(env, str(tmp_path), lambda n: n == 0)
    recorder.reset(seed=0)
    act(recorder, 7)
    setattr(env, where, broken)
    with pytest.raises(kind, match="broken"):
        recorder.step(env.action_space.sample())
    video = tmp_path / "rl-video-episode-0.mp4"
    assert numbers(video) == list(range(8))
    told = card(video)
    assert (told["frames"], told["length"], len(told["actions"])) == (8, 7, 7)
    assert not told["complete"]
    setattr(env, where, lambda: None)
    act(recorder, 2)
    recorder.reset()
    recorder.close()
    assert videos(tmp_path) == ["rl-video-episode-0"]


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
    writer = recorder._writer
    pipe = writer._pipe

    class Interrupted:
        close = pipe.close

        def write(self, data):
            os.write(pipe.fileno(), data[:cut])
            raise KeyboardInterrupt

    writer._pipe = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        act(recorder, 1)
    video = tmp_path / "rl-video-episode-0.mp4"
    shown = list(range(7 if cut == 64 * 48 * 3 else 6))
    assert numbers(video) == shown
    assert card(video)["frames"] == writer.frames == len(shown)
    assert videos(tmp_path) == ["rl-video-episode-0"]
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
    assert videos(tmp_path) == ["rl-video-episode-0"]


PATHS = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from video_tools import NumberedEnv
from bullet_envs.recorder import Recorder

folder, where = sys.argv[1:]
def wait():
    if env.t == 9:
        print("ready", flush=True)
        time.sleep(30)
env = NumberedEnv(length=10**9, noise=where == "write", width=240, height=160)
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
def test_ctrl_c_for_the_whole_process_group_leaves_a_readable_video(tmp_path, where):
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), where],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
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
    assert videos(tmp_path) == ["rl-video-episode-0"]
    video = tmp_path / "rl-video-episode-0.mp4"
    told = card(video)
    assert not told["complete"]
    assert len(decode(video)[0]) == told["frames"]
    # In the middle of a write the interrupt can fall between the last byte and the note of it.
    assert told["length"] == len(told["actions"])
    assert 0 <= told["frames"] - 1 - told["length"] <= (where == "write")
    if where != "write":
        assert told["frames"] == (9 if where in ("render", "with") else 10)


FORK = """
import os, sys, time
from video_tools import NumberedEnv
from bullet_envs.recorder import Recorder
recorder = Recorder(NumberedEnv(), sys.argv[1])
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


def test_a_forked_worker_neither_blocks_nor_breaks_the_video(tmp_path):
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        check=True,
    )
    assert time.monotonic() - start < 15
    assert numbers(tmp_path / "rl-video-episode-0.mp4") == [0, 1, 2]
    assert videos(tmp_path) == ["rl-video-episode-0"]


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
    ("kind", "after"),
    [*((kind, 0) for kind in BAD), ("float", 3), ("none", 3), *((kind, 1) for kind in LATER)],
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


def test_a_video_without_frames_is_an_error(env, tmp_path):
    recorder = Recorder(env, str(tmp_path), lambda n: n == 1)
    recorder.reset()
    recorder.start_recording("empty")
    with pytest.raises(RecordingError, match="there is no frame in it"):
        recorder.stop_recording()
    with pytest.raises(RecordingError, match="without a video"):
        recorder.stop_recording()
    assert names(tmp_path) == []
    recorder.reset()
    recorder.close()
    assert videos(tmp_path) == ["rl-video-episode-1"]


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
    """Record noise until the recorder gives up, and see that nothing is lost but the video."""
    folder.mkdir(exist_ok=True)
    (folder / "rl-video-episode-0.mp4").write_bytes(b"old")
    env = NumberedEnv(noise=True, **kwargs)
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
def test_full_disk_found_late_or_early(tmp_path, part, steps):
    part("rl-video-episode-0.x.part.mp4").symlink_to("/dev/full")
    fails(tmp_path, "; ffmpeg: .*No space left on device", steps)


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


def test_full_disk_for_the_json(tmp_path, part):
    part("rl-video-episode-0.x.part.json").symlink_to("/dev/full")
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
    folder = tmp_path / "videos"
    recorder = Recorder(env, str(folder), lambda n: n == 0)
    folder.rmdir()
    with pytest.raises(RecordingError, match="No such file or directory"):
        recorder.reset()
        recorder.stop_recording()
    act(recorder, 3)
    recorder.close()


@pytest.mark.parametrize("how", ["not a folder", "no permission"])
def test_unwritable_folder_is_told_at_once(env, tmp_path, how):
    folder = tmp_path / "videos"
    if how == "not a folder":
        folder.write_text("")
        folder = folder / "inside"
    else:
        for parent in (*tmp_path.parents[:2], tmp_path):
            parent.chmod(0o755)
        folder.mkdir()
        folder.chmod(0o555)
    mp4.find_ffmpeg()
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
        Recorder(env, str(tmp_path / "videos"))
    with pytest.raises(RecordingError, match=match):
        Mp4Writer(tmp_path / "a.mp4", 25)
    assert not (tmp_path / "videos").exists()
    env.reset()
    act(env, 1)


# ---- the real environment


def test_bullet_cart_pole_repeats_from_its_card(tmp_path):
    env = gym.make("BulletCartPole-v0", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), name_prefix="random-seed3")
    pole = recorder.reset(seed=3)[0]
    for _ in range(30):
        pole = recorder.step(int(pole[2] + pole[3] > 0))[0]
    end = env.unwrapped.state()
    recorder.close()
    video = tmp_path / "random-seed3-episode-0.mp4"
    told = card(video)
    assert len(decode(video)[0]) == told["frames"] == 31
    assert told["fps"] == env.metadata["render_fps"]
    again = gym.make(told["env_id"], **told["kwargs"] | {"render_mode": None})
    for start in ({"seed": told["seed"]}, {"options": {"state": told["start_state"]}}):
        again.reset(**start)
        rewards = [float(again.step(action)[1]) for action in told["actions"]]
        assert total(rewards) == told["return"]
        assert again.unwrapped.state() == end
    again.close()
