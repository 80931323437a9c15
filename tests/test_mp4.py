from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from browser import seen_by_chromium
from video_tools import NumberedEnv, card, decode, names, numbers, videos

from bullet_envs import mp4
from bullet_envs.mp4 import Mp4Writer, RecordingError, check_name
from bullet_envs.recorder import Recorder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX")


def append(writer: Mp4Writer, *shown: int) -> None:
    """Append the frames that show these numbers."""
    env = NumberedEnv()
    for env.t in shown:
        writer.append(env.render())


def write(path: Path, *shown: int) -> None:
    with contextlib.closing(Mp4Writer(path, 25, {})) as writer:
        append(writer, *shown)


# ---- format


def test_fast_start_puts_the_index_before_the_frames(tmp_path):
    write(tmp_path / "a.mp4", 0)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


PLAY = """<!doctype html><body><video muted autoplay></video><script>
const send = body => fetch("/seen", {method: "POST", body: JSON.stringify(body)});
const video = document.querySelector("video");
const see = what => send({
  what,
  at: video.currentTime,
  duration: video.duration,
  size: [video.videoWidth, video.videoHeight],
  shown: video.getVideoPlaybackQuality().totalVideoFrames,
});
if (video.canPlayType('video/mp4; codecs="avc1.64001f"')) {
  video.onended = () => see("ended");
  video.onerror = () => see(video.error.message);
  video.src = "a-episode-0.mp4";
} else {
  send(null);
}
</script>"""


@pytest.mark.slow
def test_chromium_plays_an_episode_to_its_end(tmp_path):
    env = gym.make("BulletCartPole-v0", render_mode="rgb_array", max_episode_steps=50)
    env = Recorder(env, tmp_path, name_prefix="a")
    observation, _ = env.reset(seed=0)
    truncated = False
    while not truncated:
        observation, _, _, truncated, _ = env.step(int(observation[2] + observation[3] > 0))
    env.close()
    told = card(tmp_path / "a-episode-0.mp4")
    seen = seen_by_chromium(tmp_path, PLAY, tmp_path / "profile", 60)
    if seen is None:
        pytest.skip("Chromium has no H.264 here")
    assert seen["what"] == "ended"
    assert seen["at"] == seen["duration"] == pytest.approx(told["frames"] / told["fps"], abs=1e-3)
    assert seen["size"] == [told["width"], told["height"]] == [960, 540]
    assert seen["shown"] == told["frames"] == 51


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 48), (64, 49), (99, 101), (8, 1)])
def test_sizes_are_kept_and_odd_ones_padded_at_the_right_and_bottom(tmp_path, width, height):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., :] = np.linspace(20, 235, width).astype(np.uint8)[None, :, None]
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(ramp)
        writer.append(ramp)
    video = decode(tmp_path / "a.mp4")[0]
    assert video.shape == (2, height + height % 2, width + width % 2, 3)
    # A rescaled ramp would be off by more than the loss of the codec.
    assert np.abs(video[1, :height, :width].astype(int) - ramp).max() <= 8


@pytest.mark.parametrize("axis", [0, 1])
def test_padding_repeats_the_last_line(tmp_path, axis):
    frame = np.zeros((49, 65, 3), np.uint8)
    np.moveaxis(frame, axis, 0)[-1] = 255
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(frame)
    video = np.moveaxis(decode(tmp_path / "a.mp4")[0][0], axis, 0)
    assert (video[-2:, :40] > 200).all()
    assert (video[:-2, :40] < 55).all()


def test_views_and_column_major_frames_come_out_right(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24] = 255
    with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
        writer.append(np.flipud(frame))
        writer.append(np.asfortranarray(np.flipud(frame)))
    video = decode(tmp_path / "a.mp4")[0]
    assert (video[:, :20] < 10).all()
    assert (video[:, 28:] > 245).all()


@pytest.mark.parametrize(("name", "fps"), [("a.avi", 25), ("a", 25), ("a.mp4", 0), ("a.mp4", -1)])
def test_other_formats_and_rates_are_refused(tmp_path, name, fps):
    with pytest.raises(ValueError, match=r"need a name in \.mp4 and fps > 0"):
        Mp4Writer(tmp_path / name, fps)


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "../a", "a b", "ä", "a\n", "x" * 101])
def test_names_are_plain(name):
    check_name("x" * 100)
    with pytest.raises(ValueError, match="must be 1 to 100 of A-Z"):
        check_name(name)


# ---- several writers of one path


def test_two_writers_of_one_path_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.mp4"
    first, second = (Mp4Writer(path, 25, {"who": n}) for n in (1, 2))
    for number in range(10):
        append(first, number)
        append(second, *[100 + number] * 2)
    first.close()
    assert numbers(path) == list(range(10))
    assert (card(path)["who"], card(path)["frames"]) == (1, 10)
    second.close()
    assert numbers(path) == [100 + n // 2 for n in range(20)]
    assert (card(path)["who"], card(path)["frames"]) == (2, 20)
    assert videos(tmp_path) == ["a"]


def test_a_writer_that_fails_does_not_disturb_another(tmp_path):
    path = tmp_path / "a.mp4"
    first, second = Mp4Writer(path, 25, {}), Mp4Writer(path, 25, {})
    append(first, 1)
    append(second, 2)
    second.abort()
    append(first, 3)
    first.close()
    assert numbers(path) == [1, 3]
    assert videos(tmp_path) == ["a"]


OTHER = """
import sys
from pathlib import Path
from test_mp4 import append
from bullet_envs.mp4 import Mp4Writer
writer = Mp4Writer(Path(sys.argv[1]), 25, {"who": 2})
for number in range(100, 105):
    append(writer, number)
    print(number, flush=True)
    input()
writer.close()
"""


@pytest.mark.parametrize("last", ["this process", "the other"])
def test_two_processes_may_write_one_path(tmp_path, last):
    path = tmp_path / "a.mp4"
    writer = Mp4Writer(path, 25, {"who": 1})
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        for number in range(5):
            append(writer, number)
            assert other.stdout.readline() == f"{100 + number}\n"
            if number < 4:
                print(file=other.stdin, flush=True)
        if last == "the other":
            writer.close()
            assert numbers(path) == [0, 1, 2, 3, 4]
        print(file=other.stdin, flush=True)
        assert other.wait(20) == 0
    assert numbers(path) == [100, 101, 102, 103, 104]
    assert card(path)["who"] == 2
    if last == "this process":
        writer.close()
        assert numbers(path) == [0, 1, 2, 3, 4]
        assert card(path)["who"] == 1
    assert videos(tmp_path) == ["a"]


def test_video_and_json_of_two_writers_are_not_mixed(tmp_path, monkeypatch):
    """The second closes between the two files of the first, if nothing keeps it from that."""
    path = tmp_path / "a.mp4"
    first, second = (Mp4Writer(path, 25, {"who": n}) for n in (1, 2))
    append(first, 1)
    append(second, 2)
    replace, between, closed = os.replace, threading.Event(), threading.Event()

    def slow_replace(source: Path, target: Path) -> None:
        replace(source, target)
        if threading.current_thread() is thread and not between.is_set():
            between.set()
            closed.wait(0.5)

    monkeypatch.setattr(os, "replace", slow_replace)
    thread = threading.Thread(target=first.close)
    thread.start()
    assert between.wait(20)
    second.close()
    closed.set()
    thread.join()
    assert numbers(path) == [card(path)["who"]] == [2]


def test_files_of_a_killed_writer_are_left_alone(tmp_path):
    """They may as well belong to a writer that is at work."""
    left = ["a.12-ab.part.json", "a.12-ab.part.mp4", "a.part.mp4"]
    for name in left:
        (tmp_path / name).write_bytes(b"left")
    write(tmp_path / "a.mp4", 1, 2)
    assert numbers(tmp_path / "a.mp4") == [1, 2]
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    append(writer, 1)
    writer.abort()
    assert [(tmp_path / name).read_bytes() for name in left] == [b"left"] * 3
    assert names(tmp_path) == sorted([*left, "a.json", "a.mp4"])


# ---- errors and interrupts


def test_a_lost_frame_is_noticed(tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    append(writer, 1, 2)
    writer.frames += 1
    with pytest.raises(RecordingError, match="2 frames of 64x48 instead of 3"):
        writer.close()
    assert names(tmp_path) == []


def test_a_rescaled_video_is_noticed(tmp_path, monkeypatch):
    encode = mp4._encode_command
    monkeypatch.setattr(
        mp4, "_encode_command", lambda *a: [*encode(*a)[:-1], "-vf", "scale=80:48", encode(*a)[-1]]
    )
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    append(writer, 1)
    with pytest.raises(RecordingError, match="0 frames of 64x48 instead of 1"):
        writer.close()
    assert names(tmp_path) == []


def test_a_video_without_frames_is_an_error(tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    with pytest.raises(RecordingError, match="there is no frame in it"):
        writer.close()
    writer.close()
    assert names(tmp_path) == []


def test_abort_leaves_nothing(tmp_path):
    writer = Mp4Writer(tmp_path / "a.mp4", 25)
    append(writer, 1)
    writer.abort()
    writer.abort()
    writer.close()
    with pytest.raises(RecordingError, match="takes no more frames"):
        append(writer, 2)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.json"])
def test_a_folder_in_the_place_of_a_file_replaces_neither(tmp_path, name):
    write(tmp_path / "a.mp4", 1)
    before = (tmp_path / "a.mp4").read_bytes(), card(tmp_path / "a.mp4")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(RecordingError, match=f"{name} is a folder"):
        write(tmp_path / "a.mp4", 2, 3)
    if name == "a.json":
        assert (tmp_path / "a.mp4").read_bytes() == before[0]
    else:
        assert card(tmp_path / "a.mp4") == before[1]
    assert names(tmp_path) == ["a.json", "a.mp4"]


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_an_interrupt_while_publishing_can_be_made_good(tmp_path, monkeypatch, replaced):
    write(tmp_path / "a.mp4", 1)
    writer = Mp4Writer(tmp_path / "a.mp4", 25, {"who": 2})
    append(writer, 2, 3)
    replace, count = os.replace, 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal count
        if count == replaced:
            raise KeyboardInterrupt
        replace(source, target)
        count += 1
        if count == replaced == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        writer.close()
    writer.close()
    assert numbers(tmp_path / "a.mp4") == [2, 3]
    assert card(tmp_path / "a.mp4")["who"] == 2
    assert videos(tmp_path) == ["a"]


def test_a_signal_during_a_write_loses_nothing(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 240, 320, 3), dtype=np.uint8)
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with contextlib.closing(Mp4Writer(tmp_path / "a.mp4", 25)) as writer:
            for n in range(12):
                writer.append(frames[n % 4])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    video = decode(tmp_path / "a.mp4")[0].astype(int)
    errors = [np.abs(video[n] - frames[n % 4]).mean() for n in range(12)]
    assert max(errors) < 1.2 * min(errors)


def test_nothing_is_written_to_the_terminal(tmp_path, monkeypatch, capfd):
    write(tmp_path / "a.mp4", 1, 2)
    monkeypatch.setattr(mp4, "_unique", lambda: "x")
    (tmp_path / "b.x.part.mp4").symlink_to("/dev/full")
    with pytest.raises(RecordingError, match="No space left"):
        write(tmp_path / "b.mp4", 1)
    assert capfd.readouterr() == ("", "")
