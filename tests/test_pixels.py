"""Pixel environments: the same physics, and images that tell of the state and of nothing else.

That images repeat in other processes, of every way to start them, and after copies is proved with
all other observations in ``test_determinism.py``; that they are new arrays, in ``test_env.py``.
"""

import dataclasses
import itertools
import math
import re

import gymnasium as gym
import numpy as np
import pytest
from conftest import ALL_PIXEL_IDS, PIXEL_IDS, STATE_IDS, begin, play, sample, state_of

import bullet_envs
from bullet_envs.camera import Camera
from bullet_envs.checks import shorten
from bullet_envs.engine import egl
from bullet_envs.engine.silence import p
from bullet_envs.observers import PixelObserver
from bullet_envs.overlay import MARGIN
from bullet_envs.registration import load_task
from bullet_envs.renderer import Renderer
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import CartPole


@pytest.fixture(params=PIXEL_IDS)
def env_id(request):
    """What holds for every task's images names ``ALL_PIXEL_IDS``."""
    return request.param


every_task = pytest.mark.parametrize("env_id", ALL_PIXEL_IDS)


def task_of(env_id):
    return load_task(bullet_envs.registered(env_id).task)


def clients():
    return {client for client in range(1024) if p.isConnected(client)}


@every_task
def test_physics_is_that_of_the_state_id(make, env_id, continuous):
    """Rewards, flags, infos and states are equal to the bit, over several episodes."""
    pixels = make()
    with gym.make(bullet_envs.registered(env_id).state_id, continuous=continuous) as states:
        for seed in range(3):
            seen, expected = (
                [begin(env, seed=seed), *play(env, sample(env, 120, seed=seed))]
                for env in (pixels, states)
            )
            # All that follows the observation.
            assert [entry[1:] for entry in seen] == [entry[1:] for entry in expected]
            assert sum(len(entry) == 3 for entry in seen) > 1, "too few ends: play longer"


@every_task
def test_observations_are_in_the_space(make):
    """Every observation is uint8 of 64 x 64 x 3, at the ends too."""
    env = make()
    observation, _ = env.reset(seed=0)
    for action in sample(env, 150):
        assert observation.dtype == np.uint8
        assert env.observation_space.contains(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            assert env.observation_space.contains(observation)
            observation, _ = env.reset()


@every_task
def test_an_image_shows_the_state_and_nothing_else(make):
    """Whatever came before, a state looks as it does to a new observer in a new environment."""
    old, new = make(), make()
    for steps in (60, 3):
        old.reset(seed=steps)
        play(old, sample(old, steps, seed=steps))
        observation = old.step(sample(old, 1)[0])[0]
        observer = PixelObserver(old.unwrapped.task)
        assert np.array_equal(observation, observer.observe(state_of(old)))
        observer.close()
        if old.unwrapped.task.terminated(state_of(old)):
            continue
        options = {"state": old.unwrapped.state()}
        again, fresh = (
            env.reset(seed=seed, options=options)[0] for seed, env in ((1, old), (2, new))
        )
        assert np.array_equal(again, fresh)


def test_speeds_are_not_in_the_image(make):
    """States that differ in their speeds look the same."""
    env = make()
    env.reset(seed=0)
    still = env.unwrapped.state()
    moving = {
        name: value + (0.3 if name.endswith(("_dot", "_rate", "vx", "vy", "wx", "wy")) else 0)
        for name, value in still.items()
    }
    assert moving != still
    images = [env.reset(options={"state": state})[0] for state in (still, moving)]
    assert np.array_equal(*images)


@every_task
def test_one_image_per_observation(make, monkeypatch):
    """A reset and a step draw once each: nothing is drawn that nobody asked for."""
    drawn = []
    draw = p.getCameraImage

    def count(*arguments, **keywords):
        drawn.append(1)
        return draw(*arguments, **keywords)

    monkeypatch.setattr(p, "getCameraImage", count)
    env = make(render_mode="rgb_array")
    assert len(drawn) == 0
    env.reset(seed=0)
    assert len(drawn) == 1
    for number, action in enumerate(sample(env, 5), start=2):
        env.step(action)
        assert len(drawn) == number
    env.unwrapped.state()
    assert len(drawn) == 6


def test_skip_observations(make, env_id, monkeypatch):
    """While it is set no image is drawn but the last one of an episode that terminates."""
    drawn = []
    draw = p.getCameraImage
    monkeypatch.setattr(p, "getCameraImage", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    env, plain = make().unwrapped, make().unwrapped
    last, _ = env.reset(seed=0)
    plain.reset(seed=0)
    env.skip_observations = True
    for action in sample(env, 500):
        drawn.clear()
        image, *rest = env.step(action)
        terminated = rest[1]
        assert len(drawn) == terminated
        expected, *others = plain.step(action)
        assert rest == others
        assert np.array_equal(image, expected if terminated else last)
        assert np.array_equal(env.observation(), expected)
        last = expected
        if terminated:
            break
    assert terminated


@pytest.mark.parametrize("size", [16, 33, np.int64(64), 512])
def test_size(env_id, size):
    """Any size from 16 to 512 gives images of that size."""
    with gym.make(env_id, size=size) as env:
        assert env.observation_space == gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize("times", [2, 3, 4])
def test_supersampling_is_the_mean_of_a_larger_image(env_id, times):
    """Each pixel is the mean of a block, rounded half up."""
    with gym.make(env_id, size=48, supersampling=times) as env:
        small, _ = env.reset(seed=4)
    with gym.make(env_id, size=48 * times) as env:
        large, _ = env.reset(seed=4)
    mean = large.astype(float).reshape(48, times, 48, times, 3).mean(axis=(1, 3))
    assert small.dtype == np.uint8
    assert np.array_equal(small, np.floor(mean + 0.5 + 1e-9))
    assert (small != large[::times, ::times]).any()


@pytest.mark.parametrize(
    "lens",
    [
        {"fov": 40},
        {"eye": [1, -2, 1.5]},
        {"target": (0.1, 0, 0)},
        {"eye": (0, 0, 3), "target": [0, 0, 0]},
    ],
    ids=str,
)
def test_camera(env_id, lens):
    """The named fields of the camera change, the image with them, and all others stay."""
    task = task_of(env_id)()
    state = task.sample_initial_state(np.random.default_rng(3))
    floats = {name: np.array(value, float).tolist() for name, value in lens.items()}
    camera = dataclasses.replace(task.agent_camera, width=64, height=64, **floats)
    renderer = Renderer(task)
    own, default = PixelObserver(task, camera=lens), PixelObserver(task)
    image = own.observe(state)
    assert np.array_equal(image, renderer.draw(state, camera, task.camera_target(state)))
    assert (image != default.observe(state)).any(axis=2).mean() > 0.01
    for each in (renderer, own, default):
        each.close()


@pytest.mark.parametrize("task", [CartPole, BalancingPlate])
@pytest.mark.parametrize("axis", range(3))
def test_camera_may_look_along_any_axis(task, axis):
    """A camera that looks along its own "up" still has a rotation, not a division by zero."""
    eye = tuple(3.0 if index == axis else 0.0 for index in range(3))
    camera = dataclasses.replace(task.agent_camera, eye=eye, target=(0.0, 0.0, 0.0))
    rotation = np.array(camera.view()).reshape(4, 4).T[:3, :3]
    assert rotation @ rotation.T == pytest.approx(np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation[2] == pytest.approx(np.array(eye) / 3)


def test_view_is_bullets():
    """View and projection are the matrices that PyBullet computes, moved cameras included."""
    camera = Camera(eye=(1.0, -2.0, 0.5), target=(0.2, 0.1, 0.3), fov=33.0, width=64, height=48)
    shift = np.array([0.7, -0.2, 0.1])
    view = p.computeViewMatrix(camera.eye + shift, camera.target + shift, camera.up)
    assert camera.view(tuple(shift)) == pytest.approx(view, abs=1e-6)
    lens = p.computeProjectionMatrixFOV(33.0, 64 / 48, 0.05, 50.0)
    assert camera.projection == pytest.approx(lens, abs=1e-6)


NAN = float("nan")
BAD = [
    *(("size", value, ValueError, "16 to 512") for value in (15, 513, 0, -1, 10**400)),
    *(("size", value, TypeError, "16 to 512") for value in (64.0, "64", None, True, [64])),
    *(("supersampling", value, ValueError, "1 to 4") for value in (0, 5, -2)),
    *(("supersampling", value, TypeError, "1 to 4") for value in (1.5, "2", None, False)),
    *(("renderer", value, ValueError, "tiny, egl") for value in ("opengl", None, 3, "", ["egl"])),
    *(("observer", value, ValueError, "state, pixels") for value in ("pixel", None, 3, [])),
    *(("camera", value, TypeError, "dict") for value in (5, "x", [], (1, 2, 3), True)),
    ("camera", {"zoom": 1}, ValueError, "eye, target, fov"),
    ("camera", {"fov": 30, "width": 9}, ValueError, "eye, target, fov"),
    *(("camera", {"fov": value}, ValueError, "1 to 120") for value in (0, 120.1, -30, NAN)),
    *(("camera", {"fov": value}, TypeError, "1 to 120") for value in ("30", None, True, [30])),
    *(
        ("camera", {"eye": value}, TypeError, "-40 to 40")
        for value in (1, "abc", None, (0, 0, "1"))
    ),
    *(
        ("camera", {"eye": value}, ValueError, "-40 to 40")
        for value in ((0, 1), (0, 0, 41), (0, 0, NAN))
    ),
    ("camera", {"target": (0, 0, 0, 0)}, ValueError, "-40 to 40"),
    ("camera", {"eye": (1, 1, 1), "target": [1, 1, 1.0]}, ValueError, "elsewhere"),
]


@pytest.mark.parametrize(("name", "value", "kind", "legal"), BAD, ids=lambda part: str(part)[:30])
def test_bad_keyword(env_id, name, value, kind, legal):
    """A value out of its range or of another type is refused: name, value and legal range."""
    before = clients()
    with pytest.raises(kind, match=name) as caught:
        gym.make(env_id, **{name: value})
    message = str(caught.value)
    assert legal in message
    parts = value.items() if isinstance(value, dict) else [(name, value)]
    assert any(f"{key}={shorten(part)}" in message or f"'{key}'" in message for key, part in parts)
    assert clients() == before


@pytest.mark.parametrize("name", ["size", "camera", "supersampling", "renderer", "gravitas"])
def test_unknown_keyword(name):
    """A pixel keyword says nothing to a state id; each id names the keywords that it has."""
    of_pixels = ["size", "camera", "supersampling", "renderer"]
    for ids, known in ((STATE_IDS, []), (PIXEL_IDS, of_pixels)):
        for env_id in ids:
            if name in known:
                continue
            with pytest.raises(
                TypeError, match=f"got an unexpected keyword argument '{name}'; legal"
            ) as caught:
                gym.make(env_id, **{name: 1})
            legal = re.search(r"legal: ([\w, ]+?)( was raised|$)", str(caught.value))[1].split(", ")
            assert [word for word in legal if word in of_pixels] == known
            assert {"observer", "control_hz"} < set(legal)


@pytest.mark.parametrize("env_id", [*PIXEL_IDS, "ShoverPixels-v0"])  # a goal is only drawn
def test_renderer_shows_what_the_physics_world_shows(make):
    """The second client draws what the first one would, in mid-episode."""
    env = make()
    env.reset(seed=5)
    unwrapped = env.unwrapped
    camera = dataclasses.replace(unwrapped.task.agent_camera, width=64, height=64)
    for action in sample(env, 12):
        observation = env.step(action)[0]
        lens = camera.view(unwrapped.task.camera_target(state_of(env))), camera.projection
        in_the_world = unwrapped._simulation.world.draw(64, 64, *lens, camera.light, camera.shadow)
        assert np.array_equal(observation, in_the_world)


@pytest.fixture
def look(env_id):
    """Return a function that draws a state by its columns, all others being at rest."""
    observer = PixelObserver(task_of(env_id)())
    task = observer._task

    def draw(**columns):
        return observer.observe(task.named_state(columns)).astype(int)

    yield draw
    observer.close()


of_plate = pytest.mark.parametrize("env_id", ["BalancingPlatePixels-v0"])


def seen(x, theta, *links):
    """Return the places of the pixels, (row, column), that show these links of the cart-pole."""
    task = CartPole()
    state = (x, 0.0, theta, 0.0)
    observer = PixelObserver(task)
    observer.observe(state)
    *_, numbers = p.getCameraImage(
        *(64, 64, observer.camera.view(task.camera_target(state)), observer.camera.projection),
        flags=p.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
        renderer=p.ER_TINY_RENDERER,
        physicsClientId=next(iter(observer._drawers.values()))._simulation.world.client,
    )
    observer.close()
    # Bullet numbers the links after the base, rail, from 1.
    return np.argwhere(np.isin(np.reshape(numbers, (64, 64)) >> 24, links))


CART, POLE = 1, 2


def test_camera_follows_the_cart():
    """The cart is always at the same place, all of it, and the rail tells where that is."""
    with gym.make("BulletCartPolePixels-v0") as env:
        images = [env.reset(options={"state": {"x": x}})[0].astype(int) for x in (-2, 0, 2)]
    carts = [seen(x, 0.0, CART) for x in (-2.0, 0.0, 2.0)]
    for cart in carts:
        assert len(cart) > 40
        assert cart.min() > 0 and cart.max() < 63
        assert np.abs(cart.mean(axis=0) - carts[1].mean(axis=0)).max() < 0.5
        assert np.abs(cart.mean(axis=0) - 31.5).max() < 14
    for one, other in itertools.combinations(images, 2):
        assert (abs(one - other).max(axis=2) > 40).sum() > 40


def pole_tip(theta):
    """Return the place of the tip: the part of the pole that is farthest from the cart."""
    pole, cart = seen(0.0, theta, POLE), seen(0.0, theta, CART).mean(axis=0)
    distances = np.linalg.norm(pole - cart, axis=1)
    return pole[distances > distances.max() - 1].mean(axis=0)


def test_pole_tip_moves():
    """12 degrees move the tip by 5 pixels or more, to its own side, and it stays in the image."""
    upright, left, right = (pole_tip(math.radians(angle)) for angle in (0, -11.99, 11.99))
    for tip in (upright, left, right):
        assert tip.min() > 0 and tip.max() < 63
    assert np.linalg.norm(left - upright) >= 5
    assert np.linalg.norm(right - upright) >= 5
    assert (left - upright) @ (right - upright) < 0


def red_tip(image):
    """Return the rows and columns that show the mast's tip; the mast itself is darker."""
    rows, columns = np.nonzero(image[..., 0] - image[..., 1] > 130)
    assert len(rows) > 20
    return rows, columns


def tilted(look, pitch, roll):
    """Draw a tilted plate, the ball high enough above it."""
    return look(pitch=pitch, roll=roll, ball_z=0.09)


@of_plate
def test_red_tip_moves_with_the_tilt(look):
    """Its centre moves by 55 pixels per rad or more, always one way, and not at all sideways."""
    angles = np.linspace(-0.25, 0.25, 11)
    centres = np.array([np.mean(red_tip(tilted(look, angle, 0)), axis=1) for angle in angles])
    assert (np.diff(centres[:, 0]) > 0).all()  # a raised +y edge sends the tip down the image
    assert centres[-1, 0] - centres[0, 0] >= 55 * 0.5
    assert np.ptp(centres[:, 1]) < 4
    centres = np.array([np.mean(red_tip(tilted(look, 0, angle)), axis=1) for angle in angles])
    assert (np.diff(centres[:, 1]) > 0).all()
    assert centres[-1, 1] - centres[0, 1] >= 55 * 0.5
    assert np.ptp(centres[:, 0]) < 4


@of_plate
def test_red_tip_stays_in_the_image(look):
    """At any tilt up to 0.25 rad about each axis all of it is seen."""
    for pitch in (-0.25, 0.0, 0.25):
        for roll in (-0.25, 0.0, 0.25):
            places = np.array(red_tip(tilted(look, pitch, roll)))
            assert places.min() > 0 and places.max() < 63, (pitch, roll)


def pixel_of(camera, point):
    """Return the row and column of a point (m)."""
    view, lens = (np.array(m).reshape(4, 4).T for m in (camera.view(), camera.projection))
    x, y, _, w = lens @ view @ [*point, 1.0]
    return int(32 * (1 - y / w)), int(32 * (1 + x / w))


@of_plate
def test_ball_stands_out_from_the_plate(look):
    """Where the ball lies, the image is brighter by 80 of 255 in every channel."""
    camera = dataclasses.replace(BalancingPlate.agent_camera, width=64, height=64)
    for x in (-0.14, -0.05, 0.0, 0.1):
        for y in (-0.14, -0.05, 0.0, 0.1):
            place = pixel_of(camera, (x, y, BalancingPlate().ball_height))
            away = look(ball_x=-x or 0.06, ball_y=-y or 0.06)
            if place in set(zip(*red_tip(away), strict=True)):
                continue  # the tip hides the ball
            assert (look(ball_x=x, ball_y=y)[place] - away[place] >= 80).all(), (x, y)


@pytest.mark.parametrize("size", [64, 300])
def test_render_shows_the_scene_and_the_observation(make, env_id, continuous, size):
    """The state id's frame, and in its corner the observation, enlarged as it is, or smaller."""
    env = make(render_mode="rgb_array", size=size)
    with gym.make(
        bullet_envs.registered(env_id).state_id, render_mode="rgb_array", continuous=continuous
    ) as plain:
        for each in (plain, env):
            each.reset(seed=2)
            shown, *_ = each.step(sample(each, 1)[0])
        assert np.array_equal(env.render()[:, :700], plain.render()[:, :700])
    side = {64: 3 * 64, 300: 208}[size]
    inset = env.render()[-MARGIN - side : -MARGIN, -MARGIN - side : -MARGIN]
    if size == 64:
        assert np.array_equal(inset, shown.repeat(3, axis=0).repeat(3, axis=1))
    else:
        assert abs(inset.mean() - shown.mean()) < 1 and inset.std() > 0.8 * shown.std()


# ---- EGL. A driver may take its process down, so only children draw with it.

EGL = """
import sys
import numpy as np, gymnasium as gym
import bullet_envs
from conftest import PIXEL_IDS, sample

def images(env, seed):
    seen = [env.reset(seed=seed)[0]]
    return seen + [env.step(action)[0] for action in sample(env, 4, seed=seed)]

try:
    envs = [gym.make(env_id, renderer="egl") for env_id in PIXEL_IDS for _ in range(2)]
    first = [images(env, 0) for env in envs]
except RuntimeError as error:
    open("says.txt", "w").write(str(error))
    sys.exit()
for env, mine in zip(envs, first):
    # Again, after its other images and other environments'.
    assert np.array_equal(mine, images(env, 0)), "a state looks otherwise later"
    assert not np.array_equal(mine, images(env, 1))
    assert all(np.ptp(image) > 100 for image in mine), "an empty image"
    tiny = gym.make(env.spec.id)
    assert not np.array_equal(mine, images(tiny, 0)), "drawn by the software renderer"
for one, twin in (first[:2], first[2:]):
    assert np.array_equal(one, twin), "another environment looks otherwise"
for turn in range(3):  # in turns
    for env, mine in zip(envs, first):
        assert np.array_equal(env.reset(seed=0)[0], mine[0]), "another environment interferes"
envs[0].close()
for env, mine in zip(envs[:0:-1], first[:0:-1]):
    assert np.array_equal(env.reset(seed=0)[0], mine[0]), "a closed environment interferes"
open("says.txt", "w").write("works")  # the others are left open
"""


def says_why(text):
    return text.startswith("renderer='egl' cannot be used: ") and "renderer='tiny'" in text


@pytest.mark.sweep
def test_egl_draws_or_says_why(run_python, tmp_path):
    """Images are the state's alone, none is Bullet's software renderer's, all is silent."""
    child = run_python(EGL, PYTHONUNBUFFERED=None)  # with it C's stdout needs no flush
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")
    said = (tmp_path / "says.txt").read_text()
    assert said == "works" or says_why(said), said


VECTOR = """
import functools, sys, warnings
import gymnasium as gym
from conftest import PIXEL_IDS
warnings.simplefilter("ignore")
if __name__ == "__main__":
    makers = [functools.partial(gym.make, f"bullet_envs:{PIXEL_IDS[0]}", renderer="egl")] * 2
    vector = gym.vector.AsyncVectorEnv(makers, context=sys.argv[1])
    gym.logger.min_level = 50
    try:
        seen = vector.reset(seed=[0, 0])[0]
        assert (seen[0] == seen[1]).all() and seen.std() > 10
        sys.stdout.write("works")
        vector.close()
    except RuntimeError as error:
        sys.stdout.write(str(error))
        vector.close(terminate=True)
"""


@pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(one, marks=pytest.mark.sweep) for one in ("spawn", "forkserver"))],
)
def test_egl_in_workers(run_python, method):
    """Workers draw with EGL too, but a forked one refuses and names the ways that work."""
    child = run_python(VECTOR, method)
    said = child.stdout.decode()
    if method == "fork":
        assert says_why(said) and "forkserver or spawn" in said, child.stderr.decode()
    else:
        assert said == "works" or says_why(said), child.stderr.decode()
        assert "fork" not in said


INHERITED = """
import os, sys
import gymnasium as gym
import bullet_envs
env = gym.make("BulletCartPolePixels-v0", renderer="egl" if sys.argv[1] == "used" else "tiny")
try:
    env.reset(seed=0)
except RuntimeError as error:
    sys.exit(sys.stdout.write("no EGL here") and 0)
child = os.fork()
if child == 0:
    try:
        if sys.argv[1] == "unused":
            env.close()
            env = gym.make("BulletCartPolePixels-v0", renderer="egl")
            env.reset(seed=0)
        env.step(0)
    except RuntimeError as error:
        os.write(1, str(error).encode())
        env.close()
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
env.step(0)
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_egl_after_a_fork(run_python, before):
    """A forked child neither makes an EGL environment nor draws with its parent's, which lives."""
    # Python 3.12 warns whenever threads exist.
    child = run_python(INHERITED, before, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (child.returncode, child.stderr) == (0, b"")
    said = child.stdout.decode()
    assert said == "no EGL here" or (says_why(said) and "forkserver or spawn" in said)


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [(None, "without the eglRenderer plugin"), ("/no/such/plugin.so", "cannot be loaded")],
)
def test_egl_without_its_plugin(make, monkeypatch, plugin, reason):
    """Without the plugin Bullet would draw in software and say nothing; we say so."""
    monkeypatch.setattr(egl, "plugin_path", lambda: plugin)
    env = make(renderer="egl")
    before = clients()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=reason) as caught:
            env.reset(seed=0)
        assert says_why(str(caught.value))
    env.close()
    assert clients() == before


def test_egl_plugin_that_fails_late(make, monkeypatch):
    """The same where the plugin worked in the child that tried it, and does not here."""
    monkeypatch.setattr(egl, "plugin_path", lambda: "/no/such/plugin.so")
    monkeypatch.setattr(egl, "_fault", lambda plugin: None)
    env = make(renderer="egl")
    before = clients()
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        env.reset(seed=0)
    env.close()
    assert clients() == before


@pytest.mark.parametrize(
    ("test", "reason"),
    [("import os; os.abort()", "exit status -6"), ("import sys; sys.exit('no card')", "no card")],
)
def test_egl_driver_that_fails(env_id, monkeypatch, test, reason):
    """A driver that would take its process down takes a child's, and the error shows its words."""
    monkeypatch.setattr(egl, "_TEST", test)
    monkeypatch.setattr(egl, "plugin_path", lambda: f"a driver that fails: {reason}")
    with gym.make(env_id, renderer="egl") as env, pytest.raises(RuntimeError, match=reason):
        env.reset(seed=0)
