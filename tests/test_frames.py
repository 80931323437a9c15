"""Frames for people: floor, shadow, overlay, and the processes that draw them.

Run as a program it writes ``tests/frames`` anew, which are to be looked at.
"""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import ALL_STATE_IDS, PIXEL_IDS, STATE_IDS
from PIL import Image
from video_tools import decode

from bullet_envs import Camera, Recorder, renderer
from bullet_envs.backdrop import FLOOR, HORIZON, floor_image, grid_pitch, shadow_view
from bullet_envs.frames import Command, DrawingProcesses, Painter, Picture
from bullet_envs.overlay import ACCENT, GAUGE, MARGIN, RED, Overlay
from bullet_envs.renderer import VideoRenderer
from bullet_envs.tasks import BalancingPlate, CartPole

CAMERA = Camera(eye=(0.5, -3.0, 1.0), target=(0.0, 0.0, 0.2), fov=35.0, light=(-0.4, -0.5, 1.2))


def pixel_of(camera, view, point):
    """Return the column and row of a point (m)."""
    view, lens = (np.array(m).reshape(4, 4).T for m in (view, camera.projection))
    x, y, _, w = lens @ view @ [*point, 1.0]
    return camera.width * (1 + x / w) / 2, camera.height * (1 - y / w) / 2


def test_a_shadow_falls_where_the_light_throws_it():
    """The image of a point in the shadow's view is that of where its ray meets the floor."""
    floor = -0.3
    for point in ((0.0, 0.0, 0.5), (0.3, -0.2, 0.1), (-0.5, 0.4, floor)):
        reach = (point[2] - floor) / CAMERA.light[2]
        x, y, _ = (a - reach * b for a, b in zip(point, CAMERA.light, strict=True))
        assert pixel_of(CAMERA, shadow_view(CAMERA, floor), point) == pytest.approx(
            pixel_of(CAMERA, CAMERA.view(), (x, y, floor))
        )


def test_the_floor_ends_at_the_horizon():
    """Floor below, sky above, and between them the haze in which the grid ends."""
    image = np.asarray(floor_image(CAMERA, -0.3)).astype(int)
    assert image.shape == (540, 960, 3)
    far = (CAMERA.eye[0] * 0, 1e5, CAMERA.eye[2])
    horizon = round(pixel_of(CAMERA, CAMERA.view(), far)[1])
    assert np.abs(image[horizon - 2 : horizon + 2, 480] - HORIZON).max() <= 3
    assert np.abs(np.median(image[-60:], axis=(0, 1)) - FLOOR).max() <= 2
    assert (image[0, 480] < image[horizon - 2, 480]).all()


@pytest.mark.parametrize(
    ("length", "pitch"), [(0.48, 0.5), (0.11, 0.1), (0.2, 0.2), (31, 20), (8, 10)]
)
def test_grid_lines_have_round_distances(length, pitch):
    assert grid_pitch(length) == pytest.approx(pitch)


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_a_part_of_an_image_is_that_part(env_id):
    """Drawn alone, a part of the image is what it is in the whole."""
    with gym.make(env_id) as env:
        env.reset(seed=0)
        task, state = env.unwrapped.task, list(env.unwrapped.state().values())
    of = VideoRenderer(task, task.video_camera)
    of.set_state(state)
    camera = task.video_camera
    draw = of._simulation.world.draw_bodies
    whole = draw(960, 540, camera.view(), camera.projection, camera.light)
    part = draw(400, 300, camera.view(), camera.part(300, 100, 400, 300), camera.light)
    differing = (whole[100:400, 300:700] != part).any(axis=2).mean()
    assert (whole[100:400, 300:700, 3] > 0).mean() > 0.02
    assert differing < 0.004  # of an edge here and there
    of.close()


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_bands_miss_nothing(env_id, monkeypatch):
    """A frame drawn in bands is the same as one that is drawn whole, also of a tilted robot."""
    with gym.make(env_id) as env:
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(15):
            env.step(env.action_space.sample())
        task, state = env.unwrapped.task, list(env.unwrapped.state().values())
    of = VideoRenderer(task, task.video_camera)
    frame = of.draw_frame(state).astype(int)
    monkeypatch.setattr(renderer, "_occupied", lambda bodies: [(0, 0, 960, 540)])
    assert (abs(frame - of.draw_frame(state)).max(axis=2) > 8).mean() < 1e-4
    of.close()


@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_robots_stand_on_the_floor_in_the_light(env_id):
    """The frame has the robot, darker floor in its shadow, and the floor elsewhere."""
    with gym.make(env_id, render_mode="rgb_array") as env:
        env.reset(seed=0)
        frame = env.render().astype(int)
        task = env.unwrapped.task
    floor = np.asarray(floor_image(task.video_camera, task.floor_height)).astype(int)
    changed = np.abs(frame - floor).max(axis=2) > 8
    assert 0.005 < changed.mean() < 0.6
    assert np.array_equal(frame[:4, :4], floor[:4, :4])


FRAMES = {
    CartPole: {"x": 0.4, "theta": 0.1},
    BalancingPlate: {"pitch": 0.1, "roll": -0.1},
}


def small_frame(task, state):
    """Return a frame of 80 x 60 pixels, each the mean of 12 x 9."""
    painter = Painter()
    frame = painter.draw(Picture(task, task.named_state(state), None))
    painter.close()
    return frame.reshape(60, 9, 80, 12, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def path_of(kind):
    return Path(__file__).parent / "frames" / f"{kind.__name__}.png"


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_look_as_they_did(kind):
    """Bodies, marks, colors, camera and light: each pixel is near that of ``tests/frames``."""
    known = np.asarray(Image.open(path_of(kind))).astype(int)
    assert np.abs(small_frame(kind(), FRAMES[kind]) - known).max() <= 4


def test_marks_are_for_people():
    """The cart's limits are marked in frames, and not in what agents see."""
    task = CartPole()
    with gym.make(PIXEL_IDS[0]) as env:
        plain = env.reset(seed=0)[0]
    frames = []
    for decorate in (CartPole.decorate, lambda *of: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CartPole, "decorate", decorate)
            of = VideoRenderer(task, task.video_camera)
            frames.append(of.draw_frame(task.rest()).astype(int))
            of.close()
            with gym.make(PIXEL_IDS[0]) as env:
                assert np.array_equal(env.reset(seed=0)[0], plain)
    redder = (frames[0] - frames[1]) @ [1, -1, 0] > 40
    assert redder[:, :200].any() and redder[:, -200:].any()


def test_processes_draw_what_is_drawn_here_and_in_order():
    """To the bit, whichever process drew them."""
    env = gym.make("BulletCartPolePixels-v0", render_mode="rgb_array")
    env.reset(seed=0)
    pictures, overlays = [], []
    for step in range(11):
        env.step(step % 2)
        pictures.append(env.unwrapped.picture())
        overlays.append(Overlay("id", clock=f"{step}"))
    painter, processes = Painter(), DrawingProcesses(2)
    expected = [
        overlay.drawn_into(painter.draw(picture))
        for picture, overlay in zip(pictures, overlays, strict=True)
    ]
    drawn = []
    for picture, overlay in zip(pictures, overlays, strict=True):
        drawn += processes.add(picture, overlay)
    assert 0 < len(drawn) < 11
    drawn += processes.rest()
    processes.close()
    painter.close()
    assert len(drawn) == 11
    for mine, theirs in zip(drawn, expected, strict=True):
        assert np.array_equal(mine, theirs)


def of_colour(frame, colour):
    return (frame == colour).all(axis=2)


@pytest.mark.parametrize("value", [-7.5, 0.0, 10.0, 50.0])
def test_the_arrow_of_a_command(value):
    """As long as the command is large, to its side, and no longer than the scale."""
    frame = np.full((540, 960, 3), 255, np.uint8)
    drawn = Overlay("id", commands=(Command("slider", value, 10.0, "N"),)).drawn_into(frame)
    assert (frame == 255).all()
    columns = np.flatnonzero(of_colour(drawn, ACCENT).any(axis=0)) - (MARGIN + GAUGE)
    length = max(-1.0, min(1.0, value / 10)) * GAUGE
    if value:
        assert columns[-1 if value > 0 else 0] == pytest.approx(length, abs=2)
        assert columns[0 if value > 0 else -1] == pytest.approx(0, abs=2)
    else:
        assert not len(columns)


def test_a_failure_is_marked_and_held(tmp_path):
    """The limit and the time are written, and the frame stays for half a second."""
    env = gym.make("BulletCartPole-v0", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), overlay=True, agent="nobody", drawing_processes=1)
    recorder.reset(seed=0)
    ended = False
    while not ended:
        *_, ended, _, _ = recorder.step(1)
    recorder.close()
    card = json.loads((tmp_path / "rl-video-episode-0.json").read_text())
    assert card["held_frames"] == 25
    assert card["frames"] == card["length"] + 1 + 25
    frames, _ = decode(tmp_path / "rl-video-episode-0.mp4")
    red = [np.abs(frame[1, 1].astype(int) - RED).max() < 60 for frame in frames]
    assert red == [False] * card["length"] + [True] * 26


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_what_a_failure_says(env_id):
    with gym.make(env_id) as env:
        task = env.unwrapped.task
    name, value, words = {
        "BulletCartPole-v0": ("x", 2.5, "cart beyond 2.4 m"),
        "BalancingPlate-v0": ("ball_x", 0.2, "ball off the plate"),
    }[env_id]
    state = list(task.rest())
    state[task.state_names.index(name)] = value
    assert task.terminated(state) and task.failure(state) == words
    tilted = "theta" if "theta" in task.state_names else "pitch"
    state = list(task.rest())
    state[task.state_names.index(tilted)] = 1.6
    assert task.terminated(state) and "rad" in task.failure(state)


def test_an_overlay_of_any_environment(tmp_path):
    """CartPole-v1 has no task: its action is written as it is."""
    pytest.importorskip("pygame")
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    recorder = Recorder(env, str(tmp_path), overlay=True, drawing_processes=1)
    recorder.reset(seed=0)
    recorder.step(0)
    recorder.close()
    frames, _ = decode(tmp_path / "rl-video-episode-0.mp4")
    assert len(frames) == 2


def test_perturbations_are_named():
    """Parameters with their unit, and what else is perturbed."""
    perturbations = {
        "parameters": {"force": {"uniform": [8.0, 8.0]}},
        "actions": {"delay": 2},
        "observations": {"noise": {"x": 0.1}},
    }
    with gym.make("BulletCartPole-v0", perturbations=perturbations) as env:
        of = env.unwrapped.perturbations
        assert of.notes == ("action 2 control periods late", "observation noise")
        assert dataclasses.replace(of, action_delay=0, noise=()).notes == ()


def test_smaller_frames(tmp_path, small_frames):
    """Of the same shape, with even sides."""
    env = gym.make("BulletCartPole-v0", render_mode="rgb_array", max_episode_steps=3)
    with Recorder(env, str(tmp_path), width=90) as recorder:
        recorder.reset(seed=0)
        for _ in range(3):
            recorder.step(0)
    frames, _ = decode(tmp_path / "rl-video-episode-0.mp4")
    assert frames.shape == (4, 52, 90, 3)


KILLED = """
import os, signal, time
from bullet_envs.frames import DrawingProcesses

if __name__ == "__main__":
    drawing = DrawingProcesses(2)
    print(*[drawing._executor.submit(os.getpid).result() for _ in range(2)], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_records(tmp_path):
    """Also where it is killed, and cannot end them."""
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    child = subprocess.run([sys.executable, str(program)], capture_output=True, timeout=60)
    assert child.returncode == -signal.SIGKILL
    numbers = {int(number) for number in child.stdout.split()}
    assert numbers
    for _ in range(100):
        if not any(Path(f"/proc/{number}").exists() for number in numbers):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process that draws is left")


if __name__ == "__main__":
    for one, begun in FRAMES.items():
        Image.fromarray(small_frame(one(), begun)).save(path_of(one))
