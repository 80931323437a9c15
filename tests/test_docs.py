"""The tables of the environments' docstrings, and of the assets, say what the code does."""

import inspect
import math
import re
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
from conftest import STATE_IDS
from gymnasium.spaces import Box, Discrete

from bullet_envs import assets, read_links, registered
from bullet_envs.engine import GRAVITY
from bullet_envs.env import BulletEnv
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import CartPole

TASKS = {"BulletCartPole-v0": CartPole, "BalancingPlate-v0": BalancingPlate}
PLATE = read_links(assets.path("balancing_plate.urdf"))["plate"]
BALL = read_links(assets.path("ball.urdf"))["ball"]
HEIGHT = (
    PLATE.collision_size[2] / 2 + BALL.collision_size[0]
)  # m, a resting ball's centre above the plate's
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def numbers(text):
    return [float(found) for found in re.findall(NUMBER, text)]


def sections(task):
    """Return the sections of a task's docstring by name: a name at the margin begins one."""
    lines = inspect.getdoc(task).split("\n")
    found = {}
    for line in lines[1:]:
        if heading := re.match(r"([A-Z]\w+)  ", line):
            name = heading[1]
            found[name] = []
        if found:
            found[name].append(line[13:])
    return {name: "\n".join(content) for name, content in found.items()}


def prose(text):
    return " ".join(text.split())


def table(text, first):
    """Return the rows of the table whose first column is ``first``, as dicts by column.

    A column begins where its heading begins, so a cell may be empty.
    """
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if re.match(rf"\s*{first}  ", line))
    headings = list(re.finditer(r"\S+(?: \S+)*", lines[start]))
    ends = [heading.start() for heading in headings[1:]] + [None]
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        rows.append(
            {
                heading[0]: line[heading.start() : end].strip()
                for heading, end in zip(headings, ends, strict=True)
            }
        )
    return rows


def space(text):
    """Return the space that a text such as ``Box((4,), float32)`` names."""
    names = {"Box": Box, "Discrete": Discrete, "inf": np.inf}
    names |= {"float32": np.float32, "uint8": np.uint8}
    return eval(text, {"__builtins__": {}}, names)


@pytest.fixture(params=STATE_IDS)
def env_id(request):
    """A docstring is a task's; what it says of the pixel id is the section ``Pixels``."""
    return request.param


@pytest.fixture
def text(env_id):
    return sections(TASKS[env_id])


@pytest.fixture
def env(env_id):
    env = gym.make(env_id)
    yield env
    env.close()


def plate_to_world(pitch, roll):
    """Return the rotation matrix of a plate."""
    c, s = np.cos(pitch), np.sin(pitch)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(roll), np.sin(roll)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return about_x @ about_y


def in_plate_axes(state):
    """Return the ball's position, velocity and spin in the axes of the plate."""
    named = dict(zip(BalancingPlate.state_names, state, strict=True))
    back = plate_to_world(named["pitch"], named["roll"]).T
    return [back @ [named[f"ball_{kind}{axis}"] for axis in "xyz"] for kind in ("", "v", "w")]


def at_plate(u, v, height, pitch=0.0, roll=0.0):
    """Return the state of a resting ball at a place in the axes of the plate."""
    position = plate_to_world(pitch, roll) @ [u, v, height]
    return (pitch, 0.0, roll, 0.0, *position.tolist(), 0.0, 0.0, 0.0, 1.0, *[0.0] * 6)


def test_every_section_is_there(text):
    """The template of an environment's docstring is complete and in order."""
    expected = ["Scene", "Timing", "Action", "Observation", "Pixels", "Reward", "Start", "End"]
    expected += ["Options"]
    assert [name for name in text if name in expected] == expected
    assert list(text)[-1] == "Versions"
    assert text["Versions"].startswith("v0")


def test_scene():
    """Masses, sizes and gravity in the prose are those of the URDF files."""
    links = {
        **read_links(assets.path("cart_pole.urdf")),
        **read_links(assets.path("balancing_plate.urdf")),
    }
    scene = prose(sections(CartPole)["Scene"])
    assert numbers(re.search(r"cart \((.*?)\)", scene)[1]) == [links["cart"].mass]
    pole = numbers(re.search(r"pole \((.*?)\)", scene)[1])
    assert pole == [links["pole"].mass, links["pole"].visual_size[2]]
    assert f"g = {GRAVITY} m/s^2" in scene

    scene = prose(sections(BalancingPlate)["Scene"])
    assert numbers(re.search(r"ring \((.*?)\)", scene)[1]) == [links["ring"].mass]
    plate = numbers(re.search(r"plate \((.*?)\)", scene)[1])
    assert plate == [PLATE.mass, *PLATE.collision_size]
    grams, radius = numbers(re.search(r"ball \((.*?)\)", scene)[1])
    assert grams / 1000 == pytest.approx(BALL.mass)
    assert radius == BALL.collision_size[0]
    assert f"g = {GRAVITY} m/s^2" in scene


def test_scene_signs():
    """Positive roll lowers the +x edge, positive pitch raises the +y edge, +theta falls to +x."""
    scene = prose(sections(BalancingPlate)["Scene"])
    assert "Positive roll lowers the +x edge, positive pitch raises the +y edge" in scene
    assert at_plate(0.1, 0, 0, roll=0.1)[6] < 0 < at_plate(0, 0.1, 0, pitch=0.1)[6]
    assert "theta is 0 upright and grows as the pole falls towards +x" in prose(
        sections(CartPole)["Scene"]
    )
    plate, cart_pole = gym.make("BalancingPlate-v0"), gym.make("BulletCartPole-v0")
    # A ball on a plate that Bullet has turned rolls down: towards +x, and towards -y.
    for tilt, column, sign in (("roll", "ball_vx", 1), ("pitch", "ball_vy", -1)):
        start = at_plate(0, 0, HEIGHT, **{tilt: 0.1})
        plate.reset(options={"state": dict(zip(BalancingPlate.state_names, start, strict=True))})
        for _ in range(5):
            plate.step(0)
        assert plate.unwrapped.state()[column] * sign > 0.01
    # The foot of a leaning pole slips away from under its centre, and the free cart with it.
    cart_pole.reset(options={"state": {"theta": 0.1}})
    cart_pole.step(0)
    cart_pole.step(1)
    assert cart_pole.unwrapped.state()["x"] < 0
    plate.close()
    cart_pole.close()


def test_timing(env_id, text, env):
    """Rates, steps per action and the limit are the defaults and the registered ones."""
    physics, control, inner, limit, seconds = numbers(text["Timing"])
    task = TASKS[env_id]()
    assert (task.physics_hz, task.control_hz) == (physics, control)
    assert inner == physics / control
    assert env.spec.max_episode_steps == limit
    assert seconds == limit / control
    assert env.metadata["render_fps"] == control


def test_action(env_id, text, env):
    """The actions are those of the table: how many, and what each does in N or N m."""
    assert space(text["Action"].split("\n")[0]) == env.action_space
    rows = table(text["Action"], "value")
    assert [int(row["value"]) for row in rows] == list(range(int(env.action_space.n)))
    effort = next(name for name in rows[0] if re.search(r"\(N( m)?\)", name))
    task = env.unwrapped.task
    commands = [
        tuple(share * one.scale for share, one in zip(shares, task.actuators, strict=True))
        for shares in task.discrete_actions
    ]
    assert [tuple(numbers(row[effort])) for row in rows] == commands
    for row in rows:
        signs = re.findall(r"[+-]", row["meaning"])
        assert signs == ["+" if value > 0 else "-" for value in numbers(row[effort])]


def test_continuous_action(env_id, text):
    """With ``continuous=True`` the space is the one that the text names."""
    words = prose(text["Action"])
    named = re.search(r"``continuous=True`` (Box\(.*?float32\))", words)[1]
    assert (
        space(named.replace("Box(-1, 1", "Box(-1.0, 1.0"))
        == TASKS[env_id](continuous=True).action_space
    )
    unit = re.search(r"units of ``(\w+)``", words)[1]
    task = TASKS[env_id]()
    assert {actuator.scale for actuator in task.actuators} == {getattr(task, unit)}


def test_observation(env_id, text, env):
    """The columns are those of the table: order, bounds before the division, and scale."""
    shape = space(re.match(r"Box\((\(\d+,\)), float32\)", text["Observation"])[1])
    assert env.observation_space.shape == shape
    assert env.observation_space.dtype == np.float32
    rows = table(text["Observation"], "i")
    assert [int(row["i"]) for row in rows] == list(range(shape[0]))
    scales = np.array([float(row["scale"]) for row in rows])
    for bound in ("low", "high"):
        stated = [float(row[bound]) for row in rows]
        actual = getattr(env.observation_space, bound) * scales
        # The table shows three digits.
        assert [f"{number:.3g}" for number in actual] == [f"{number:.3g}" for number in stated]


def test_observation_shows_the_state(text, env):
    """Each column is the state column of its symbol, divided by its scale."""
    rows = table(text["Observation"], "i")
    observation, _ = env.reset(seed=3)
    for action in [0, 1, 1]:
        state = env.unwrapped.state()
        expected = [state[row["symbol"]] / float(row["scale"]) for row in rows]
        assert observation.tolist() == np.array(expected, np.float32).tolist()
        observation, *_ = env.step(action)


def test_pixels(env_id, text):
    """The image is of the stated space and as wide as stated where the camera looks."""
    words = prose(text["Pixels"])
    pixel_id = re.search(r"the default of (\w+-v0)", words)[1]
    assert registered(env_id).pixel_id == pixel_id
    with gym.make(pixel_id) as env, gym.make(env_id, observer="pixels") as same:
        assert env.observation_space == space(re.search(r"Box\(.*uint8\)", words)[0])
        assert same.observation_space == env.observation_space
    camera = TASKS[env_id].agent_camera
    span = 2 * math.dist(camera.eye, camera.target) * math.tan(math.radians(camera.fov) / 2)
    stated = re.search(r"(\S+) m across", words)[1]
    digits = len(stated.split(".")[1])
    assert f"{span:.{digits}f}" == stated


def test_mast():
    """The tip is as high as the text says, and nothing collides with it or with the mast."""
    height = re.search(r"tip, (\S+) m above", prose(sections(BalancingPlate)["Pixels"]))[1]
    root = ElementTree.parse(assets.path("balancing_plate.urdf")).getroot()
    (tip,) = (each for each in root.iter("visual") if each.find("material").get("name") == "tip")
    assert float(tip.find("origin").get("xyz").split()[2]) == float(height)
    assert len(root.findall(".//collision")) == 1


def test_reward(text, env):
    """The greatest return is the time limit, at 1 per action."""
    each, greatest = numbers(text["Reward"])
    assert greatest == env.spec.max_episode_steps * each
    env.reset(seed=0)
    assert env.step(0)[1] == each


def parameters(env_id):
    return inspect.signature(TASKS[env_id]).parameters


def test_options(env_id, text):
    """Every keyword is in the table once, with its type and its default."""
    rows = table(text["Options"], "keyword")
    stated = {row["keyword"]: row for row in rows}
    actual = parameters(env_id)
    assert sorted(stated) == sorted(actual)
    assert len(rows) == len(actual)
    for name, row in stated.items():
        kind = actual[name].annotation
        assert row["type"] == getattr(kind, "__name__", kind)
        default = actual[name].default
        if row["type"] == "float":
            assert float(row["default"]) == pytest.approx(default, rel=1e-5), name
        else:
            assert row["default"] == repr(default), name


# A bound that is legal alone may need another keyword to go with it.
COMPANIONS = {
    ("physics_hz", "low"): {"control_hz": 10},
    ("physics_hz", "high"): {"control_hz": 10},
    ("control_hz", "low"): {"physics_hz": 100},
    ("control_hz", "high"): {"physics_hz": 1000},
    ("angle_limit", "low"): {"start_range": 0.0},
    ("ball_limit", "low"): {"start_position": 0.0},
}


@pytest.mark.parametrize("side", ["low", "high"])
def test_legal_ranges(env_id, text, side):
    """The bounds in the table are legal as they are printed, and the next number is not."""
    for row in table(text["Options"], "keyword"):
        name = row["keyword"]
        if row["type"] == "bool":
            assert row["legal"] == ""
            continue
        low, high = numbers(row["legal"])
        bound, outwards = (low, -1) if side == "low" else (high, 1)
        if row["type"] == "int":
            bound, beyond = int(bound), int(bound) + outwards
        else:
            beyond = bound + outwards * max(abs(bound) * 1e-5, 1e-9)
        companions = COMPANIONS.get((name, side), {})
        BulletEnv(TASKS[env_id], **{name: bound}, **companions).close()
        with pytest.raises(ValueError, match=f"{name}="):
            BulletEnv(TASKS[env_id], **{name: beyond}, **companions)


def test_keywords_in_the_prose_work(env_id, text):
    """Each ``keyword=value, ...`` that the docstring suggests makes an environment."""
    suggested = [
        found
        for found in re.findall(r"``([^`]*)``", prose("\n".join(text.values())))
        if "=" in found
    ]
    assert suggested
    for keywords in suggested:
        env = gym.make(env_id, **eval(f"dict({keywords})", {"__builtins__": {"dict": dict}}))
        env.reset(seed=0)
        env.close()


DRAWS = 10_000


def drawn(task):
    rng = np.random.default_rng(0)
    return np.array([task.sample_initial_state(rng) for _ in range(DRAWS)])


def assert_uniform(columns, half_width):
    """Each column must fill U(-half_width, half_width), and no more."""
    assert np.abs(columns).max() <= half_width * (1 + 1e-9)
    for column in columns.T:
        assert column.min() < -0.99 * half_width
        assert column.max() > 0.99 * half_width
        # Four times the standard error of mean and spread.
        assert abs(column.mean()) < 4 * half_width / np.sqrt(3 * DRAWS)
        assert column.std() == pytest.approx(half_width / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize("keywords", [{}, {"start_range": 0.2}], ids=str)
def test_initial_state_of_cart_pole(keywords):
    """The four columns are drawn from the range in the text, or from the keyword's."""
    low, high = numbers(re.search(r"U\((.*?)\)", sections(CartPole)["Start"])[1])
    assert (-low, high) == (CartPole().start_range,) * 2
    task = CartPole(**keywords)
    states = drawn(task)
    assert_uniform(states, task.start_range)
    assert not task.terminated(states.T).any()


@pytest.mark.parametrize(
    "keywords",
    [{}, {"start_position": 0.14, "start_speed": 1, "start_tilt": 0.3, "drop_height": 0.1}],
    ids=["default", "widest"],
)
def test_initial_state_of_plate(keywords):
    """In the plate's axes the ball lies, rolls and drops as the text says, or the keywords."""
    start = prose(sections(BalancingPlate)["Start"])
    stated = [numbers(found) for found in re.findall(r"U\((.*?)\)", start)]
    default = BalancingPlate()
    widths = (default.start_position, default.start_speed, default.start_tilt)
    assert stated == [[-width, width] for width in widths]
    assert default.drop_height == 0

    task = BalancingPlate(**keywords)
    states = drawn(task)
    named = dict(zip(task.state_names, states.T, strict=True))
    position, velocity, spin = np.swapaxes([in_plate_axes(state) for state in states], 0, 1)
    assert_uniform(position[:, :2], task.start_position)
    assert_uniform(velocity[:, :2], task.start_speed)
    assert_uniform(np.array([named["pitch"], named["roll"]]).T, task.start_tilt)
    assert position[:, 2] == pytest.approx(HEIGHT + task.drop_height)
    assert velocity[:, 2] == pytest.approx(0)
    assert not named["pitch_rate"].any() and not named["roll_rate"].any()
    # It rolls without slipping: the point that touches the plate stands still.
    touching = velocity + np.cross(spin, [0, 0, -BALL.collision_size[0]])
    assert np.abs(touching).max() < 1e-12
    assert not task.terminated(states.T).any()


def test_termination_of_cart_pole():
    """The limits in the text are the ones that end an episode, on both sides."""
    end = prose(sections(CartPole)["End"])
    x_limit = numbers(re.search(r"abs\(x\) > (\S+) m", end)[1])[0]
    degrees = numbers(re.search(r"abs\(theta\) > (\S+) deg", end)[1])[0]
    task = CartPole()
    for x, theta in ((x_limit, 0.0), (0.0, np.radians(degrees))):
        for sign in (-1, 1):
            inside, outside = (
                (factor * sign * x, 0.0, factor * sign * theta, 0.0) for factor in (0.9999, 1.0001)
            )
            assert not task.terminated(inside)
            assert task.terminated(outside)
    assert not task.terminated((0.0, 99.0, 0.0, 99.0))
    assert numbers(re.search(r"truncated: after (\d+) actions", end)[1])[0] == 500


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.5, -0.4), (-1.2, 0.0), (0.3, 1.4)], ids=str)
def test_termination_of_plate(tilt):
    """The ball has left past an edge of the plate as it lies, or too high; below counts too."""
    end = prose(sections(BalancingPlate)["End"])
    lift = numbers(re.search(r"or (\S+) m above its resting place", end)[1])[0]
    edge = PLATE.collision_size[0] / 2
    task = BalancingPlate()

    def ended(u, v, height):
        return task.terminated(at_plate(u, v, height, *tilt))

    for sign in (-1, 1):
        assert not ended(sign * edge * 0.9999, 0, HEIGHT)
        assert ended(sign * edge * 1.0001, 0, HEIGHT)
        assert not ended(0, sign * edge * 0.9999, HEIGHT)
        assert ended(0, sign * edge * 1.0001, HEIGHT)
    assert not ended(0, 0, HEIGHT + lift * 0.9999)
    assert ended(0, 0, HEIGHT + lift * 1.0001)
    assert ended(0, 0, -1e-6)


def test_termination_of_plate_past_vertical():
    """A plate past vertical has been lost, whichever axis it turned about."""
    assert "the plate is past vertical" in prose(sections(BalancingPlate)["End"])
    task = BalancingPlate()
    for axis in ("pitch", "roll"):
        for sign in (-1, 1):
            for factor, ended in ((0.9999, False), (1.0001, True)):
                tilt = {axis: sign * factor * np.pi / 2}
                assert bool(task.terminated(at_plate(0, 0, HEIGHT, **tilt))) is ended


def asset_rows():
    """Return the rows of the table in assets/README.md.

    Its columns are file, link, mass (kg), size (m) and inertia (kg m²). A size is the three sides
    of a box, a radius, or words without a digit; an inertia is three moments, in the order x y z.
    Signs and words between the numbers do not matter.
    """
    readme = assets.path("README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["file", "link", "mass (kg)", "size (m)", "inertia (kg m²)"]
    return cells[2:]


def test_asset_table_is_complete():
    """Every link that has a mass is in the table once."""
    files = sorted(path.name for path in assets.path(".").glob("*.urdf"))
    heavy = [(file, name) for file in files for name, link in read_links(assets.path(file)).items()]
    heavy = [(file, name) for file, name in heavy if read_links(assets.path(file))[name].mass]
    assert sorted((file, name) for file, name, *_ in asset_rows()) == sorted(heavy)


def test_asset_table_repeats_the_files():
    """Masses and sizes equal those of the files; moments of inertia to the digits printed."""
    for file, name, mass, size, inertia in asset_rows():
        link = read_links(assets.path(file))[name]
        assert numbers(mass) == [link.mass], name
        if numbers(size):
            assert numbers(size) == list(link.collision_size or link.visual_size), name
        printed = re.findall(NUMBER, inertia)
        digits = [len(re.sub(r"e.*|\.|^0\.0*", "", number)) for number in printed]
        assert len(printed) == 3, name
        for number, places, actual in zip(printed, digits, link.inertia, strict=True):
            assert float(number) == float(f"{actual:.{places}g}"), name
