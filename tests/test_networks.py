"""Networks for every space, the replay buffer, and the wrappers around an environment."""

import contextlib
import copy
import dataclasses
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import PIXEL_IDS, STATE_IDS, TRAINED_HERE
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeLimit
from stable_baselines3 import PPO
from torch import nn

from bullet_envs.agents import ALGOS, algorithm, load_agent, new_agent
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents.networks import (
    COLOR_GAIN,
    HOP,
    LATEST,
    MAPS,
    POSITION_GAIN,
    SPEED_GAIN,
    WINDOW,
    HistoryEncoder,
    Keypoints,
    NatureCNN,
    build_network,
    parameter_groups,
)
from bullet_envs.agents.replay_buffer import Batch, ReplayBuffer
from bullet_envs.agents.return_buffer import ReturnBuffer
from bullet_envs.agents.sb3 import EncoderExtractor
from bullet_envs.agents.wrappers import (
    REPEATS,
    ActionRepeat,
    ObserveActions,
    VectorActionRepeat,
    VectorFlattenObservation,
)
from bullet_envs.sb3 import GymnasiumVecEnv

DISCRETE = [algo for algo in TRAINED_HERE if algo != "sb3-sac"]


def keypoints(shape=(1, 64, 64, 3), seed=0):
    torch.manual_seed(seed)
    return Keypoints(shape)


def blob(x, y, size=64):
    """Return a black image with a white square."""
    image = np.zeros((size, size, 3), np.uint8)
    image[y : y + 6, x : x + 6] = 255
    return image


def some_stacks(count=5, frames=3, size=24):
    pixels = np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), np.uint8)
    return torch.from_numpy(pixels)


def points_of(network, images):
    """Return the keypoints of images, shape (images, MAPS, 2)."""
    with torch.no_grad():
        features = network(torch.from_numpy(np.array(images))[:, None])
    return features[:, : 2 * MAPS].view(len(images), MAPS, 2)


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_follow_a_blob(seed):
    """Each map's keypoint moves in step with a blob, as far along x as along y, in its direction.

    Maps differ in how far: what is left is the pull of the ground, which has no place.
    """
    network = keypoints(seed=seed)
    stride = network.convolutions[0].stride[0]  # a blob that moves so far moves a map by a pixel
    ways = [14 + stride * step for step in range(8)]
    along_x = points_of(network, [blob(way, ways[2]) for way in ways]).diff(dim=0)
    along_y = points_of(network, [blob(ways[2], way) for way in ways]).diff(dim=0)
    one_column = POSITION_GAIN * 2 / (len(network.grid) ** 0.5 - 1)
    share = along_x[0, :, 0] / one_column
    for step in range(len(ways) - 1):
        torch.testing.assert_close(along_x[step, :, 0] / one_column, share, atol=1e-4, rtol=0)
        torch.testing.assert_close(along_y[step, :, 1] / one_column, share, atol=1e-4, rtol=0)
    assert along_x[..., 1].abs().max() < 1e-4 > along_y[..., 0].abs().max()
    # Without any training the better half of the maps is drawn to the blob already.
    assert share.median() > 0.4 and share.max() > 0.85 and share.max() < 1.001


def test_a_keypoint_is_where_its_map_is():
    """x grows to the right and y downwards, from -POSITION_GAIN to POSITION_GAIN at the edges."""
    network = keypoints()
    with torch.no_grad():
        network.norm.weight.fill_(100.0)  # each map is its one brightest place
    points = points_of(network, [blob(0, 0), blob(58, 0), blob(0, 58), blob(58, 58)])
    assert points.abs().max() <= POSITION_GAIN * 1.0001
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]) * POSITION_GAIN
    off = (points - corners[:, None]).abs().amax(2)  # (corners, maps)
    # Maps that are drawn to the dark instead go elsewhere.
    assert (off < POSITION_GAIN / 4).all(0).float().mean() > 0.25


def test_a_random_network_tells_where_the_ball_is():
    """Its readout by least squares tells the ball's place on unseen images, as its text says."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.08, 0.08, (300, 2))
    images = []
    with gym.make("BalancingPlatePixels-v0") as env:
        env.reset(seed=0)
        height = env.unwrapped.state()["ball_z"]
        for x, y in places:
            start = {"ball_x": float(x), "ball_y": float(y), "ball_z": height}
            images.append(env.reset(options={"state": start})[0])
    features = points_of(keypoints(), images).flatten(1).numpy()
    features = np.column_stack([features, np.ones(len(features))])
    weights, *_ = np.linalg.lstsq(features[:200], places[:200], rcond=None)
    error = features[200:] @ weights - places[200:]
    assert (1 - (error**2).mean(0) / places[200:].var(0)).min() > 0.95


def test_features_are_of_the_latest_frame_and_of_changes():
    """Positions in the latest frame, changes from each frame to the next, and the latest colors."""
    network, single = keypoints((3, 24, 24, 3)), keypoints((1, 24, 24, 3), seed=1)
    # The weights do not depend on the length of the stack: all frames share them.
    single.load_state_dict(network.state_dict())
    stacks = some_stacks()
    with torch.no_grad():
        features = network(stacks)
        first, middle, latest = (single(stacks[:, frame : frame + 1]) for frame in range(3))
    assert features.shape == (5, network.outputs) == (5, 3 * 2 * MAPS + 3 * MAPS)
    (first, _), (middle, _), (latest, colors) = (
        single_features.split([2 * MAPS, 3 * MAPS], dim=1)
        for single_features in (first, middle, latest)
    )
    speeds = [SPEED_GAIN * (middle - first), SPEED_GAIN * (latest - middle)]
    expected = [latest, *speeds, colors]
    torch.testing.assert_close(features, torch.cat(expected, 1), atol=1e-4, rtol=1e-4)


def test_a_still_stack_has_no_speed():
    """An image and its repetitions: positions, and zeros to the bit."""
    network = keypoints((4, 24, 24, 3))
    stacks = some_stacks(frames=1).repeat(1, 4, 1, 1, 1)
    with torch.no_grad():
        features = network(stacks)
    positions, speeds, colors = features.split([2 * MAPS, 3 * 2 * MAPS, 3 * MAPS], dim=1)
    assert (speeds == 0).all()
    assert (positions != 0).all() and (colors != 0).all()


@pytest.mark.parametrize("size", [20, 23, 64, 84])
def test_colors_are_those_at_the_keypoints(size):
    """Of a map with one place, the color there, as the frame's mean and deviation have it."""
    network = keypoints((2, size, size, 3))
    with torch.no_grad():
        rows, columns = network.norm(network.convolutions(torch.zeros(1, 3, size, size))).shape[2:]
    places = torch.zeros(2, MAPS, rows * columns)
    wanted = torch.randint(rows * columns, (MAPS,))
    places[1, torch.arange(MAPS), wanted] = 1e4  # of the latest frame; 1e4 in a softmax is all
    network.norm = nn.Identity()
    network.convolutions.forward = lambda images: places.view(2, MAPS, rows, columns)
    stack = some_stacks(1, 2, size)
    colors = network(stack)[0, 4 * MAPS :].view(MAPS, 3)
    # The middle of a cell is 5 pixels from the edge of the image, and cells are 4 pixels apart.
    frame = stack[0, 1].numpy() / 255
    cells = np.array(
        [
            frame[4 + 4 * row : 8 + 4 * row, 4 + 4 * column : 8 + 4 * column].mean((0, 1))
            for row in range(rows)
            for column in range(columns)
        ]
    )
    cells -= cells.mean(0)
    expected = COLOR_GAIN * cells[wanted.numpy()] / (cells.std(ddof=1) + 1e-3)
    np.testing.assert_allclose(colors.detach().numpy(), expected, atol=1e-4)


def test_uint8_and_float_are_the_same_pixels():
    """SB3 gives floats from 0 to 255, the replay buffer bytes: the features are equal."""
    network = keypoints((3, 24, 24, 3))
    stacks = some_stacks()
    with torch.no_grad():
        assert torch.equal(network(stacks), network(stacks.float()))
        assert not torch.equal(network(stacks), network(stacks.float() / 255))
        # The convolutions get numbers from -0.5 to 0.5.
        seen = []
        network.convolutions.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        network(stacks)
        assert (stacks.min(), stacks.max()) == (0, 255)
        assert (seen[0].min(), seen[0].max()) == (-0.5, 0.5)


def test_a_frame_of_one_color():
    """Nothing in it differs from its mean: zeros, and no division by zero."""
    network = keypoints((2, 24, 24, 3))
    with torch.no_grad():
        features = network(torch.full((1, 2, 24, 24, 3), 90, dtype=torch.uint8))
    assert features.isfinite().all() and features[0, 4 * MAPS :].abs().max() < 0.01


@pytest.mark.parametrize("size", [20, 23, 64, 84])
@pytest.mark.parametrize("frames", [1, 3])
def test_every_weight_of_the_keypoints_learns(size, frames):
    """Whatever the size, features are finite and each weight but one kind has a gradient.

    The last two biases shift a map as a whole, which normalisation or softmax takes away.
    """
    network = keypoints((frames, size, size, 3))
    features = network(some_stacks(4, frames, size))
    assert torch.isfinite(features).all()
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all()
        if name not in ("convolutions.2.bias", "norm.bias"):
            assert parameter.grad.abs().max() > 1e-5, name


def test_images_that_are_too_small_are_refused():
    """The error says how large they must be, before anything is trained."""
    for shape in ((3, 19, 64, 3), (3, 64, 16, 3)):
        with pytest.raises(
            ValueError, match=f"20 x 20 pixels or more, not {shape[1]} x {shape[2]}"
        ):
            Keypoints(shape)
    with pytest.raises(ValueError, match="20 x 20"):
        untrained(PIXEL_IDS[0], frame_stack=2, size=16)


@pytest.mark.parametrize(
    "shape, dtype",
    [((4,), np.float32), ((3, 4), np.float32), ((1, 20, 20, 3), np.uint8)],
    ids=["state", "states", "images"],
)
def test_a_network_for_every_observation(shape, dtype):
    """The same call builds a network for a state, a stack of states and a stack of images."""
    network = build_network(Box(0, 255, shape, dtype), (8, 5), 4)
    batch = torch.from_numpy(np.ones((7, *shape), dtype))
    assert network(batch).shape == (7, 4)
    assert isinstance(network[0], Keypoints) == (len(shape) == 4)


# Space of an observation, with its stack, and the length of that.
STATE = (Box(-np.inf, np.inf, (2,), np.float32), 1)
STATES = (Box(-np.inf, np.inf, (3, 2), np.float32), 3)
IMAGE = (Box(0, 255, (4, 4, 3), np.uint8), 1)
IMAGES = (Box(0, 255, (3, 4, 4, 3), np.uint8), 3)
KINDS = pytest.mark.parametrize(
    "kind", [STATE, STATES, IMAGE, IMAGES], ids=["state", "states", "image", "images"]
)


class World:
    """Random episodes of several environments, each observation another, and all they showed.

    ``past[env][time]`` is a transition with its whole stacks before and after the action.
    """

    def __init__(self, kind, n_envs, seed=0):
        space, self.frames = kind
        self.stacked = self.frames > 1
        self.single = space.shape[self.stacked :]
        self.dtype = space.dtype
        self.rng = np.random.default_rng(seed)
        self.past = [[] for _ in range(n_envs)]
        self.begin()

    def frame(self):
        if self.dtype == np.uint8:
            return self.rng.integers(0, 256, self.single, np.uint8)
        return self.rng.normal(size=self.single).astype(np.float32)

    def seen(self, env):
        """Return what the environment shows: its stack begins with copies of the first frame."""
        episode = self.episodes[env]
        padded = [episode[0]] * self.frames + episode
        return np.array(padded[-self.frames :]) if self.stacked else episode[-1]

    def begin(self):
        self.episodes = [[self.frame()] for _ in self.past]
        return self.observations()

    def observations(self):
        return np.array([self.seen(env) for env in range(len(self.past))])

    def step(self, buffer):
        """Take a random step everywhere, ended at random, and tell the buffer."""
        n_envs = len(self.past)
        actions, rewards = self.rng.integers(0, 4, n_envs), self.rng.normal(size=n_envs)
        terminated, truncated = self.rng.random((2, n_envs)) < 0.1
        final_obs = np.full(n_envs, None, object)
        for env, past in enumerate(self.past):
            before = self.seen(env)
            self.episodes[env].append(self.frame())
            past.append(
                {
                    "observation": before,
                    "next": self.seen(env),
                    "action": actions[env],
                    "reward": np.float32(rewards[env]),
                    "terminated": terminated[env],
                    "ended": terminated[env] or truncated[env],
                }
            )
            if past[-1]["ended"]:
                final_obs[env] = self.seen(env)
                self.episodes[env] = [self.frame()]
        given = final_obs if (terminated | truncated).any() else None
        buffer.add(actions, rewards, terminated, truncated, self.observations(), given)

    def truncate(self, buffer):
        """Break all episodes off, as an evaluation does."""
        buffer.truncate()
        for past in self.past:
            past[-1]["ended"] = True
        buffer.begin(self.begin())


def remembered(kind, length, n_envs, added, cuts=(), seed=0):
    """Fill a buffer from a world; return both."""
    world = World(kind, n_envs, seed)
    # A size that the number of environments does not divide is rounded down.
    buffer = ReplayBuffer(length * n_envs + seed % n_envs, n_envs, *kind)
    buffer.begin(world.observations())
    for time in range(added):
        world.step(buffer)
        if time in cuts:
            world.truncate(buffer)
    return buffer, world


def brute_force(past, start, n_steps, gamma):
    """Return return, last transition and bootstrap factor of a window, the slow way."""
    total = 0.0
    for step in range(n_steps):
        transition = past[start + step]
        total += gamma**step * transition["reward"]
        if transition["ended"]:
            break
    return total, transition, 0.0 if transition["terminated"] else gamma ** (step + 1)


@KINDS
@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize(
    "length, added",
    [
        *[(50, 20), (50, 130), (8, 100)],
        *(pytest.param(50, added, marks=pytest.mark.sweep) for added in (50, 51)),
    ],
    ids=str,
)
def test_windows_against_brute_force(kind, n_steps, length, added):
    """Each of 3,000 windows of a ring, new, full or wrapped, is as if whole stacks had been kept.

    None begins before the oldest transition with a whole stack, none is incomplete at the newest,
    and all others are drawn.
    """
    cuts = (10, 33, added - 9, added - 1)
    buffer, world = remembered(kind, length, 3, added, cuts, seed=length + added)
    batch = buffer.sample(3000, n_steps, 0.9, np.random.default_rng(1))
    places = {
        transition["observation"].tobytes(): (env, time)
        for env, past in enumerate(world.past)
        for time, transition in enumerate(past)
    }
    assert len(places) == 3 * added
    assert batch.observations.numpy().dtype == world.dtype
    begun, ends = set(), set()
    for row in range(3000):
        env, start = places[batch.observations[row].numpy().tobytes()]
        begun.add((env, start))
        total, last, bootstrap = brute_force(world.past[env], start, n_steps, 0.9)
        assert batch.actions[row] == world.past[env][start]["action"]
        assert batch.returns[row].item() == pytest.approx(total, abs=1e-5)
        assert batch.bootstrap[row].item() == pytest.approx(bootstrap, abs=1e-6)
        if not last["terminated"]:  # nobody looks at what follows a termination
            np.testing.assert_array_equal(batch.next_obs[row], last["next"])
        ends.add((last["terminated"], last["ended"]))
    starts = range(max(0, added - length + world.frames - 1), added - n_steps + 1)
    assert begun == set(itertools.product(range(3), starts))
    if length == 50:
        assert ends == {(False, False), (False, True), (True, True)}


@KINDS
@pytest.mark.parametrize("added", [30, 175])
def test_restored_buffer_goes_on_as_the_original(kind, added):
    """A buffer from a checkpoint gives the same samples, now and after more is added."""
    buffer, world = remembered(kind, 50, 3, added, cuts=(added - 20, added - 1))
    copy = ReplayBuffer(150, 3, *kind)
    copy.restore({name: tensor.clone() for name, tensor in buffer.tensors().items()}, 4)
    assert buffer.final_obs and copy.final_obs.keys() == buffer.final_obs.keys()
    for round_ in range(60):
        one, other = (m.sample(64, 4, 0.9, np.random.default_rng(round_)) for m in (buffer, copy))
        for field in dataclasses.fields(Batch):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name))
        state = world.rng.bit_generator.state, [list(frames) for frames in world.episodes]
        world.step(buffer)
        world.rng.bit_generator.state, world.episodes = state
        world.step(copy)
    assert copy.final_obs.keys() == buffer.final_obs.keys()


def test_a_buffer_without_final_obs_is_restored():
    """A checkpoint before the first time limit holds no last images."""
    buffer = ReplayBuffer(30, 3, *IMAGES)
    copy = ReplayBuffer(30, 3, *IMAGES)
    copy.restore(buffer.tensors(), 4)
    assert copy.final_obs == {} and copy.added == 0


def test_every_image_is_kept_once():
    """100,000 transitions of stacks of 64 x 64 pixels take little more than their images."""
    buffer = ReplayBuffer(4_000, 8, Box(0, 255, (3, 64, 64, 3), np.uint8), 3)
    kept = sum(column.nbytes for column in buffer.columns.values())
    assert kept * 100_000 / 4_000 < 1.02 * 100_000 * 64 * 64 * 3 < 3e9


@pytest.mark.parametrize("shape", [(2, 24, 20, 3), (24, 20, 3), (4, 24, 20)], ids=str)
def test_images_are_shifted(shape):
    """Every stack as a whole, by up to 2 pixels each way, with its edge repeated; nothing else."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 300, *shape), np.uint8)
    rest = [torch.rand(300) for _ in range(3)]
    batch = Batch(torch.from_numpy(pixels[0]), *rest[:2], torch.from_numpy(pixels[1]), rest[2])
    shifted = batch.shifted(2, np.random.default_rng(1))
    axis = shape.index(24)
    edges = [(2, 2) if index in (axis, axis + 1) else (0, 0) for index in range(len(shape))]
    ways = []
    for before, after in zip(
        pixels.reshape(-1, *shape), torch.cat([shifted.observations, shifted.next_obs]), strict=True
    ):
        padded = np.pad(before, edges, "edge")
        found = [
            (down, right)
            for down, right in itertools.product(range(5), repeat=2)
            if np.array_equal(
                padded.take(range(down, down + 24), axis).take(range(right, right + 20), axis + 1),
                after,
            )
        ]
        assert len(found) == 1
        ways.append(found[0])
    assert set(ways) == set(itertools.product(range(5), repeat=2))
    assert ways[:300] != ways[300:]
    for name in ("actions", "returns", "bootstrap"):
        assert getattr(shifted, name) is getattr(batch, name)


def test_last_images_go_with_their_transitions():
    """However long a training is, it keeps no more last images than it has room for."""
    buffer, _ = remembered(IMAGES, 20, 3, 600, cuts=range(0, 600, 7))
    assert 0 < len(buffer.final_obs) <= 20 * 3 // 2
    times = {(buffer.added - 1 - age) % buffer.length for age in range(buffer.length)}
    assert {time for time, _ in buffer.final_obs} <= times


@pytest.mark.parametrize("space", [Box(0, 1, (3,), np.float32), IMAGES[0]], ids=str)
def test_return_buffer_keeps_the_latest_steps(space):
    """Also when more are added at once than there is room for, and after a checkpoint."""
    buffer = ReturnBuffer(20, space)
    rng = np.random.default_rng(0)
    added = []
    for count in (7, 7, 7, 1, 45, 3):
        observations = rng.uniform(0, 1, (count, *space.shape)).astype(np.float32)
        if space.dtype == np.uint8:
            observations = (255 * observations).astype(np.uint8)
        returns = rng.normal(size=count).astype(np.float32)
        buffer.add(torch.as_tensor(observations), torch.as_tensor(returns))
        added += zip((row.tobytes() for row in observations), returns.tolist(), strict=True)
        restored = ReturnBuffer(20, space)
        restored.restore({name: one.clone() for name, one in buffer.tensors().items()})
        for one in (buffer, restored):
            kept_observations, kept_returns = one.content()
            rows = [row.tobytes() for row in kept_observations.numpy()]
            kept = list(zip(rows, kept_returns.tolist(), strict=True))
            assert sorted(kept) == sorted(added[-20:])
        assert restored.added == buffer.added


class Counting(gym.Env):
    """Pays the number of the step, and terminates at one."""

    action_space = gym.spaces.Discrete(2)
    observation_space = Box(0, np.inf, (1,), np.float32)

    def __init__(self, end=10**9):
        self.end = end
        self.actions = []

    def reset(self, *, seed=None, options=None):
        self.actions = []
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.actions.append(action)
        count = len(self.actions)
        return np.full(1, count, np.float32), float(count), count == self.end, False, {"n": count}


def test_action_repeat_sums_rewards():
    """An action is taken so many times; the last observation and info, and all rewards, return."""
    env = ActionRepeat(Counting(), 3)
    env.reset()
    assert env.step(1) == (np.full(1, 3), 1 + 2 + 3, False, False, {"n": 3, REPEATS: 3})
    assert env.step(0) == (np.full(1, 6), 4 + 5 + 6, False, False, {"n": 6, REPEATS: 3})
    assert env.unwrapped.actions == [1, 1, 1, 0, 0, 0]


def test_action_repeat_stops_at_an_end():
    """Neither a termination nor a truncation is stepped over."""
    env = ActionRepeat(Counting(end=5), 3)
    env.reset()
    env.step(0)
    assert env.step(0) == (np.full(1, 5), 4 + 5, True, False, {"n": 5, REPEATS: 2})
    assert len(env.unwrapped.actions) == 5

    env = ActionRepeat(TimeLimit(Counting(), 4), 3)
    env.reset()
    env.step(0)
    assert env.step(0) == (np.full(1, 4), 4, False, True, {"n": 4, REPEATS: 1})
    assert len(env.unwrapped.actions) == 4


@pytest.mark.parametrize("env_id", STATE_IDS)
@pytest.mark.parametrize("times, actions", [(1, 500), (2, 250), (3, 167)])
def test_time_limit_counts_steps_of_the_environment(env_id, times, actions):
    """An episode to the time limit returns 500 whatever the repeat; the actions are fewer."""
    agent = load_agent(env_id, "lqr")
    agent.env = dataclasses.replace(agent.env, action_repeat=times)
    with agent.make_env() as env:
        observation, _ = env.reset(seed=0)
        total, count, ended = 0.0, 0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(agent.predict(observation)[0])
            total, count, ended = total + reward, count + 1, terminated or truncated
        assert (total, count, terminated) == (500.0, actions, False)


class Skipping(gym.Env):
    """Counts its steps, and draws an observation only if it is told to or has terminated."""

    action_space = gym.spaces.Discrete(2)
    observation_space = Box(0, np.inf, (1,), np.float32)
    skip_observations = False

    def __init__(self, end=10**9):
        self.end = end

    def observation(self):
        self.drawn.append(self.count)
        self.latest = np.full(1, self.count, np.float32)
        return self.latest

    def reset(self, *, seed=None, options=None):
        self.count, self.drawn = 0, []
        return self.observation(), {}

    def step(self, action):
        if action == 1:
            raise RuntimeError("refused")
        self.count += 1
        terminated = self.count == self.end
        if not self.skip_observations or terminated:
            self.observation()
        return self.latest, 1.0, terminated, False, {}


@pytest.mark.parametrize(
    "end, limit, drawn",
    [
        (10**9, 10**9, [0, 3, 6, 9]),
        (3, 10**9, [0, 3]),  # terminated in the last repeat
        (5, 10**9, [0, 3, 5]),  # terminated where the observation is not drawn otherwise
        (10**9, 6, [0, 3, 6]),  # truncated in the last repeat
        (10**9, 5, [0, 3, 5]),  # truncated in a repeat whose observation was skipped
        (5, 5, [0, 3, 5]),  # both at once
    ],
)
def test_action_repeat_draws_what_is_seen_only(end, limit, drawn):
    """Of three repeats only the last is drawn, and whatever an episode ends with, once."""
    env = ActionRepeat(TimeLimit(Skipping(end), limit), 3)
    seen = [env.reset()[0].item()]
    ended = False
    while not ended and len(seen) < 4:
        observation, _, terminated, truncated, _ = env.step(0)
        seen.append(observation.item())
        ended = terminated or truncated
        assert env.unwrapped.skip_observations is False
    assert seen == env.unwrapped.drawn == drawn
    assert ended == (min(end, limit) < 9)


def test_an_interrupted_repeat_draws_again():
    """Whatever a step raises, the environment is left as it draws by itself."""
    env = ActionRepeat(Skipping(), 3)
    env.reset()
    with pytest.raises(RuntimeError, match="refused"):
        env.step(1)
    assert env.unwrapped.skip_observations is False


class SkippingVector(gym.vector.VectorEnv):
    """As BulletVectorEnv: ended sub-environments wait, and draw nothing that is skipped."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED, "ended_wait": True}  # noqa: RUF012
    skip_observations = False

    def __init__(self, ends):
        self.num_envs, self.ends = len(ends), np.array(ends)
        self.single_observation_space = Box(0, np.inf, (1,), np.float32)
        self.observation_space = Box(0, np.inf, (self.num_envs, 1), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.action_space = gym.spaces.MultiDiscrete([2] * self.num_envs)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if mask.all():
            self.counts = np.zeros(self.num_envs, np.int64)
            self.latest = np.zeros((self.num_envs, 1), np.float32)
        self.counts[mask] = 0
        self.drawn = []
        return self.latest.copy(), {}

    def step(self, actions):
        if actions[0] == 1:
            raise RuntimeError("refused")
        waiting = self.counts == self.ends
        self.counts[~waiting] += 1
        ended = self.counts == self.ends
        for index in range(self.num_envs):
            if not waiting[index] and (ended[index] or not self.skip_observations):
                self.latest[index] = self.counts[index]
                self.drawn.append((index, int(self.counts[index])))
        ends = ended.copy()
        return self.latest.copy(), (~waiting).astype(float), ends, np.zeros_like(ends), {}


def test_vector_action_repeat_draws_what_is_seen_only():
    """Each sub-environment draws its last repeat or its end; repeats are counted for each."""
    envs = VectorActionRepeat(SkippingVector([2, 3, 100]), 3)
    envs.reset()
    observations, rewards, terminated, _, info = envs.step(np.zeros(3, int))
    assert observations.ravel().tolist() == [2, 3, 3]
    assert rewards.tolist() == info[REPEATS].tolist() == [2, 3, 3]
    assert terminated.tolist() == [True, True, False]
    assert envs.unwrapped.drawn == [(0, 2), (1, 3), (2, 3)]
    assert envs.unwrapped.skip_observations is False
    # Those that wait take no steps until their reset.
    assert envs.step(np.zeros(3, int))[-1][REPEATS].tolist() == [0, 0, 3]
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert envs.step(np.zeros(3, int))[-1][REPEATS].tolist() == [2, 0, 3]
    with pytest.raises(RuntimeError, match="refused"):
        envs.step(np.ones(3, int))
    assert envs.unwrapped.skip_observations is False


GOAL = gym.spaces.Dict(
    {
        "observation": Box(-1, 1, (3,), np.float32),
        "achieved_goal": Box(-2, 2, (2,), np.float32),
        "desired_goal": Box(-2, 2, (2,), np.float32),
    }
)


class Reaching(gym.Env):
    """Shows random vectors in a Dict."""

    observation_space = GOAL
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class ReachingVector(gym.vector.SyncVectorEnv):
    """What a task of this package with a Dict gives: a dict of arrays."""

    def __init__(self, space, num_envs=3):
        super().__init__([lambda: Spaced(space)] * num_envs, autoreset_mode="Disabled")


class Spaced(Reaching):
    def __init__(self, space):
        self.observation_space = copy.deepcopy(space)


@pytest.mark.parametrize(
    "space",
    [
        GOAL,
        gym.spaces.Dict({"place": gym.spaces.Discrete(4), "speed": Box(-1, 1, (2,), np.float32)}),
        gym.spaces.Dict({"in": GOAL, "a": Box(-1, 1, (), np.float32)}),
        gym.spaces.Discrete(5),
    ],
    ids=["goal", "with a Discrete", "nested", "Discrete"],
)
def test_vectors_are_flattened_as_gymnasium_does(space):
    """Flat observations of a vector environment are those of FlattenObservation, to the bit."""
    envs = VectorFlattenObservation(ReachingVector(space))
    singles = [FlattenObservation(Spaced(space)) for _ in range(3)]
    assert envs.single_observation_space == singles[0].observation_space
    seen = envs.reset(seed=5)[0]
    alone = [env.reset(seed=5 + index)[0] for index, env in enumerate(singles)]
    for _ in range(3):
        assert seen.dtype == envs.observation_space.dtype and seen in envs.observation_space
        np.testing.assert_array_equal(seen, alone)
        seen = envs.step(np.zeros(3, int))[0]
        alone = [env.step(0)[0] for env in singles]


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_an_agent_sees_a_dict_of_vectors_flat(frame_stack):
    """Goal environments work with every algorithm, alone and several at once."""
    with registered_here("Reaching-v0", Reaching):
        env = EnvConfig("Reaching-v0", {}, frame_stack, 2)
        shape = (7,) if frame_stack == 1 else (frame_stack, 7)
        for algo in DISCRETE:
            agent = new_agent(algorithm(algo).policy, env, (8,))
            assert agent.observation_space.shape == shape
            with agent.make_env() as one, contextlib.closing(agent.make_vec(2)) as envs:
                assert agent.predict(one.reset(seed=0)[0])[0] in agent.action_space
                assert agent.predict(envs.reset(seed=0)[0])[0] in envs.action_space


@pytest.mark.parametrize("env_id", [*STATE_IDS, "CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_an_agent_observes_its_actions(env_id, frame_stack):
    """The latest action behind each observation, none at the beginning, single as in a vector."""
    plain = EnvConfig(env_id)
    env = EnvConfig(env_id, {}, frame_stack, 1, True)
    with plain.make() as bare, env.make() as one, contextlib.closing(env.make_vec(2)) as envs:
        one.action_space.seed(0)
        bare_seen, seen = bare.reset(seed=1)[0], one.reset(seed=1)[0]
        many = envs.reset(seed=[0, 1])[0]
        columns = len(bare_seen)
        flat = np.zeros(one.observation_space.shape[-1] - columns)
        for _ in range(5):
            latest = seen if frame_stack == 1 else seen[-1]
            np.testing.assert_array_equal(latest, [*bare_seen, *flat])
            np.testing.assert_array_equal(many[1], seen)
            assert seen in one.observation_space and many in envs.observation_space
            action = one.action_space.sample()
            if isinstance(action, np.ndarray):
                flat = action
            else:
                flat = np.eye(int(one.action_space.n))[action]
            if frame_stack > 1:
                before = latest
            bare_seen, seen = bare.step(action)[0], one.step(action)[0]
            many = envs.step(np.array([action, action]))[0]
            if frame_stack > 1:
                np.testing.assert_array_equal(seen[0], before)
        many = envs.reset(seed=[5, 6], options={"reset_mask": np.array([True, False])})[0]
        kept = many if frame_stack == 1 else many[:, -1]
        assert not kept[0, columns:].any() and kept[1, columns:].any()


@pytest.mark.parametrize("env_id", [STATE_IDS[0], PIXEL_IDS[0]])
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_what_was_dropped_is_held(env_id, frame_stack):
    """A column that reads 0, or a black image, is shown as it was, single as in a vector."""
    kwargs = {"perturbations": {"observations": {"dropped": {"probability": 0.4}}}}
    plain, env = EnvConfig(env_id, kwargs), EnvConfig(env_id, kwargs, frame_stack, 1, False, True)
    with plain.make() as bare, env.make() as one, contextlib.closing(env.make_vec(2)) as envs:
        held, seen = bare.reset(seed=1)[0], one.reset(seed=1)[0]
        many = envs.reset(seed=[0, 1])[0]
        dropped = 0
        for step in range(12):
            latest = seen if frame_stack == 1 else seen[-1]
            np.testing.assert_array_equal(latest, held)
            np.testing.assert_array_equal(many[1], seen)
            read, seen = bare.step(step % 2)[0], one.step(step % 2)[0]
            many = envs.step(np.array([step % 2] * 2))[0]
            lost = ~read.any() if read.dtype == np.uint8 else read == 0
            dropped += np.sum(lost)
            held = np.where(lost, held, read)
        assert dropped > 2
        begun = envs.reset(seed=[5, 6], options={"reset_mask": np.array([True, False])})[0]
        np.testing.assert_array_equal(begun[0], one.reset(seed=5)[0])
        np.testing.assert_array_equal(begun[1], many[1])


def test_a_long_stack_is_seen_by_how_the_robot_responds():
    """Mean products of windows, the last of which ends with the stack, scale linear features."""
    torch.manual_seed(0)
    encoder = HistoryEncoder((43, 3))
    stacks = torch.randn(5, 43, 3)
    products = []
    for end in range(43, WINDOW - 1, -HOP):
        window = stacks[:, end - WINDOW : end].transpose(1, 2).flatten(1)
        left, right = (window @ encoder.factors.weight.T + encoder.factors.bias).chunk(2, 1)
        products.append(left * right)
    assert len(products) == 4
    scale = encoder.scale(torch.tanh(encoder.response(torch.stack(products).mean(0))))
    latest = encoder.latest(stacks[:, -LATEST:].flatten(1))
    features = encoder(stacks)
    assert features.shape == (5, encoder.outputs)
    torch.testing.assert_close(features, latest * (1 + scale))
    for frame, is_seen in ((2, False), (3, True)):  # before the first window, and in it
        changed = stacks.clone()
        changed[:, frame] += 1
        assert torch.equal(encoder(changed), features) is not is_seen


@pytest.mark.parametrize("algo", DISCRETE)
def test_stacks_are_long_from_one_frame_more(algo):
    """Shorter ones are one long vector; SB3's networks take all of them so."""
    for frames in (LATEST, LATEST + 1):
        agent = new_agent(algorithm(algo).policy, EnvConfig(STATE_IDS[0], {}, frames), (8,))
        found = [part for part in agent.policy.network.modules() if type(part) is HistoryEncoder]
        assert len(found) == (frames > LATEST and not algo.startswith("sb3"))
        with agent.make_env() as env:
            assert agent.predict(env.reset(seed=0)[0])[0] in agent.action_space


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_actions_behind_images_are_planes(frame_stack):
    """One for each choice, 255 for the latest action, none at the beginning, as in a vector."""
    env_id = "BalancingPlatePixels-v0"
    plain, env = EnvConfig(env_id), EnvConfig(env_id, {}, frame_stack, 1, True)
    with plain.make() as bare, env.make() as one, contextlib.closing(env.make_vec(2)) as envs:
        image, seen = bare.reset(seed=1)[0], one.reset(seed=1)[0]
        many = envs.reset(seed=[0, 1])[0]
        planes = np.zeros(4)
        for action in (2, 0, 3):
            assert seen in one.observation_space and many in envs.observation_space
            latest = seen if frame_stack == 1 else seen[-1]
            np.testing.assert_array_equal(latest[..., :3], image)
            np.testing.assert_array_equal(latest[..., 3:], np.broadcast_to(planes, (64, 64, 4)))
            np.testing.assert_array_equal(many[1], seen)
            planes = 255 * np.eye(4)[action]
            image, seen = bare.step(action)[0], one.step(action)[0]
            many = envs.step(np.array([0, action]))[0]
        many = envs.reset(seed=[5, 6], options={"reset_mask": np.array([True, False])})[0]
        kept = many if frame_stack == 1 else many[:, -1]
        assert not kept[0, ..., 3:].any() and kept[1, ..., 3:].any()


def test_planes_go_round_the_convolutions():
    """Keypoints are of the colors alone; each frame's numbers are features of their own."""
    torch.manual_seed(0)
    plain, encoder = Keypoints((2, 64, 64, 3)), Keypoints((2, 64, 64, 5))
    encoder.load_state_dict(plain.state_dict())
    images = torch.randint(256, (3, 2, 64, 64, 3), dtype=torch.uint8)
    numbers = torch.randint(2, (3, 2, 2), dtype=torch.uint8)
    planes = (255 * numbers)[:, :, None, None].expand(3, 2, 64, 64, 2)
    features = encoder(torch.cat([images, planes], dim=4))
    assert features.shape == (3, encoder.outputs) and encoder.outputs == plain.outputs + 4
    assert torch.equal(features[:, :-4], plain(images))
    assert torch.equal(features[:, -4:], numbers.flatten(1).float())


@pytest.mark.parametrize("kwargs", [{"continuous": True}, None])
def test_actions_behind_other_images_are_refused(kwargs):
    """Those of a Box, and images that are not RGB."""
    with pytest.raises(ValueError, match="vectors, or RGB images and Discrete actions, not Box"):
        if kwargs:
            EnvConfig(PIXEL_IDS[0], kwargs, 2, 1, True).make()
        ObserveActions(Spaced(gym.spaces.Box(0, 255, (40, 40, 1), np.uint8)))


@contextlib.contextmanager
def registered_here(env_id, entry_point, **spec):
    gym.register(env_id, entry_point, **spec)
    try:
        yield
    finally:
        del gym.registry[env_id]


def test_a_dict_with_an_image_is_refused():
    """The error names the space, in one line."""
    space = gym.spaces.Dict({"image": Box(0, 255, (64, 64, 3), np.uint8)})
    with registered_here("Looking-v0", lambda: Spaced(space)):
        with pytest.raises(ValueError, match="made of vectors, not Dict") as caught:
            untrained("Looking-v0")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shape, channels_axis", [((84, 84, 3), 3), ((4, 84, 84), 1), ((40, 60, 1), 3)], ids=str
)
def test_nature_cnn_for_one_image_or_grey_frames(shape, channels_axis):
    """Channels are found at the shorter end; every weight learns, and bytes count as 0 to 1."""
    torch.manual_seed(0)
    network = build_network(Box(0, 255, shape, np.uint8), (8,), 5)
    encoder = network[0]
    assert isinstance(encoder, NatureCNN)
    assert encoder.convolutions[0].in_channels == (1, *shape)[channels_axis]
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    seen = []
    encoder.convolutions.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    outputs = network(torch.from_numpy(pixels))
    assert outputs.shape == (3, 5)
    np.testing.assert_allclose(seen[0].numpy(), np.moveaxis(pixels, channels_axis, 1) / 255, 1e-6)
    outputs.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())
    groups = parameter_groups(network, 0.1, 0.2)
    assert [group["lr"] for group in groups] == [0.1, 0.2]
    assert list(map(id, groups[1]["params"])) == list(map(id, encoder.parameters()))


@pytest.mark.parametrize("algo", DISCRETE)
@pytest.mark.parametrize("shape", [(36, 40, 3), (4, 36, 40)], ids=str)
def test_agents_of_foreign_images(algo, shape):
    """Every algorithm takes one NHWC image or a stack of grey frames, and SB3 trains on it."""
    space = Box(0, 255, shape, np.uint8)
    with registered_here("Frames-v0", lambda: Spaced(space), max_episode_steps=5):
        agent = untrained("Frames-v0", algo)
        assert agent.renderer is None
        with agent.make_env() as env:
            assert agent.predict(env.reset(seed=0)[0])[0] in env.action_space
            if algo == "sb3-ppo":
                kwargs = agent.policy.policy_kwargs
                model = PPO("MlpPolicy", env, policy_kwargs=kwargs, n_steps=8, batch_size=8)
                model.learn(8)
                agent.policy.network.load_state_dict(model.policy.state_dict())
                observation, _ = env.reset(seed=0)
                expected, _ = model.predict(observation, deterministic=True)
                assert agent.predict(observation, deterministic=True)[0] == expected


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize(
    "space",
    [Box(0, 1, (40, 40, 3), np.float32), Box(0, 255, (2, 3, 40, 40, 3), np.uint8)],
    ids=["floats", "five axes"],
)
def test_no_network_for_other_spaces(algo, space):
    """The error names the space, in one line."""
    with registered_here("Odd-v0", lambda: Spaced(space)):
        with pytest.raises(ValueError, match="no network for observations Box") as caught:
            untrained("Odd-v0", algo)
        assert "\n" not in str(caught.value)


def untrained(env_id, algo="dqn", frame_stack=1, action_repeat=1, **env_kwargs):
    torch.manual_seed(0)
    env = EnvConfig(env_id, env_kwargs, frame_stack, action_repeat)
    return new_agent(algorithm(algo).policy, env, (8,))


@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS])
def test_a_stack_is_of_what_an_agent_saw(env_id):
    """Frames of a stack lie a whole repeated action apart: the repeat is inside, the stack outside.

    Before the first action the stack repeats what the reset showed.
    """
    kwargs = {"size": 20} if env_id in PIXEL_IDS else {}
    agent = untrained(env_id, frame_stack=3, action_repeat=2, **kwargs)
    with agent.make_env() as env, gym.make(env_id, **kwargs) as bare:
        assert isinstance(env, FrameStackObservation) and isinstance(env.env, ActionRepeat)
        assert agent.observation_space == env.observation_space
        frames = [bare.reset(seed=3)[0]] * 3
        stack, _ = env.reset(seed=3)
        np.testing.assert_array_equal(stack, frames)
        for action in (0, 1, 1, 0):
            stack, reward, *_ = env.step(action)
            bare.step(action)
            frames = [*frames[1:], bare.step(action)[0]]
            np.testing.assert_array_equal(stack, frames)
            assert reward == 2


@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS])
def test_a_stack_of_one_is_no_stack(env_id):
    """With frame_stack=1 an agent sees what the environment shows, image or state."""
    with gym.make(env_id) as env:
        space = env.observation_space
    for agent in (untrained(env_id), load_agent(env_id, "random")):
        assert agent.observation_space == space
        with agent.make_env() as env, contextlib.closing(agent.make_vec(2)) as envs:
            assert env.observation_space == envs.single_observation_space == space


@pytest.mark.parametrize("env_id", PIXEL_IDS)
@pytest.mark.parametrize("algo", ALGOS)
def test_what_a_network_is_shown(env_id, algo):
    """Images stay bytes up to the network, whose first part are the keypoints."""
    kwargs = {"continuous": algo == "sb3-sac"}
    agent = untrained(env_id, algo, frame_stack=2, size=20, **kwargs)
    assert agent.renderer == "tiny"
    assert agent.policy.tensor(np.zeros((1, 2, 20, 20, 3), np.uint8)).dtype == torch.uint8
    assert sum(isinstance(part, Keypoints) for part in agent.policy.network.modules()) == 1
    assert untrained(env_id.replace("Pixels", ""), algo, **kwargs).renderer is None


@pytest.mark.parametrize("env_id", PIXEL_IDS)
def test_the_encoder_is_for_sb3_itself(env_id):
    """SB3's PPO learns to see with it, as the docs show."""
    envs = GymnasiumVecEnv(EnvConfig(env_id, {"size": 20}, 3, 2).make_vec(4))
    policy_kwargs = {
        "features_extractor_class": EncoderExtractor,
        "net_arch": [64, 64],
        "normalize_images": False,
    }
    model = PPO("MlpPolicy", envs, n_steps=64, n_epochs=1, policy_kwargs=policy_kwargs)
    encoder = model.policy.features_extractor.encoder
    assert isinstance(encoder, Keypoints)
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    model.learn(256)
    envs.close()
    pairs = zip(before, encoder.parameters(), strict=True)
    assert not all(torch.equal(old, new) for old, new in pairs)


@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS])
def test_policy_kwargs_are_for_sb3_itself(env_id):
    """SB3's PPO, given the policy's own policy_kwargs, builds the same network."""
    kwargs = {"size": 20} if env_id in PIXEL_IDS else {}
    agent = untrained(env_id, "sb3-ppo", frame_stack=2, action_repeat=2, **kwargs)
    with agent.make_env() as env:
        model = PPO(
            *("MlpPolicy", env),
            policy_kwargs=agent.policy.policy_kwargs,
            n_steps=32,
            batch_size=16,
            n_epochs=1,
            device="cpu",
        )
        before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        model.learn(32)
        after = model.policy.state_dict()
        still = {name for name in before if torch.equal(before[name], after[name])}
        assert not [name for name in still if "bias" not in name], still
        # The policy trained by SB3 alone is one that the agent can take over and act with.
        agent.policy.network.load_state_dict(after)
        observation, _ = env.reset(seed=0)
        expected, _ = model.predict(observation, deterministic=True)
        assert agent.predict(observation, deterministic=True)[0] == expected
