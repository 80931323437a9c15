"""A vector environment equals its single environments: numbers, seeds, infos, resets, errors."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from conftest import (
    ALL_IDS,
    ALL_PIXEL_IDS,
    ALL_STATE_IDS,
    STATE_IDS,
    assert_same,
    compare,
    states_of,
)
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from bullet_envs.engine.silence import p
from bullet_envs.simulation import Simulation
from bullet_envs.vector import MAX_ENVS, BulletVectorEnv

MODES = list(AutoresetMode)
sweep = pytest.mark.sweep
ONE_MODE = [MODES[0], *(pytest.param(mode, marks=sweep) for mode in MODES[1:])]


def sync(env_id, num_envs, mode, **kwargs):
    return SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * num_envs, autoreset_mode=mode)


LENGTHS = [
    *[(7, 300), (64, 80)],
    *[pytest.param(*length, marks=sweep) for length in [(1, 5000), (7, 2000), (64, 500)]],
]


@pytest.mark.parametrize(("num_envs", "steps"), LENGTHS)
@pytest.mark.parametrize("mode", ONE_MODE)
@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_equals_singles(make_vec, env_id, mode, num_envs, steps):
    """Observations, rewards, flags, infos and states are equal to the bit in all three modes."""
    if env_id not in STATE_IDS:  # with a world for each, 30 MB
        num_envs = min(num_envs, 16)
        steps = min(steps, 1_000)
    vector = make_vec(env_id, num_envs, autoreset_mode=mode, max_episode_steps=60)
    singles = sync(env_id, num_envs, mode, max_episode_steps=60)
    assert vector.single_observation_space == singles.single_observation_space
    assert vector.observation_space == singles.observation_space
    assert vector.action_space == singles.action_space
    ends = compare(vector, singles, steps, kept=num_envs // 7)
    assert ends >= max(1, num_envs * (steps // 150))
    singles.close()


@pytest.mark.parametrize("mode", ONE_MODE)
@pytest.mark.parametrize("env_id", [*STATE_IDS, "Shover-v0"])
def test_equals_singles_with_continuous_actions(make_vec, env_id, mode):
    kwargs = {"max_episode_steps": 40, "continuous": True}
    n = 33 if env_id in STATE_IDS else 6  # two worlds or more
    vector = make_vec(env_id, n, autoreset_mode=mode, **kwargs)
    singles = sync(env_id, n, mode, **kwargs)
    assert compare(vector, singles, 100) > 1.8 * n
    singles.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ALL_PIXEL_IDS)
def test_images_equal_those_of_singles(make_vec, env_id, mode):
    kwargs = {"max_episode_steps": 20, "size": 32}
    vector = make_vec(env_id, 3, autoreset_mode=mode, **kwargs)
    singles = sync(env_id, 3, mode, **kwargs)
    assert compare(vector, singles, 45, kept=1) > 3
    singles.close()


def balance(env_id, observations):
    """Return continuous actions that keep the pole up, or the ball on the plate."""
    if env_id == "BulletCartPole-v0":
        return np.clip(observations @ [[0.2], [0.3], [3.0], [0.6]], -1, 1)
    x, y, _, vx, vy, _, pitch, roll, pitch_rate, roll_rate = observations.T
    # A tilt that leads the ball to the middle, and a torque that leads the plate to the tilt.
    pitch_wanted, roll_wanted = (y + 2 * vy) / 3, -(x + 2 * vx) / 3
    torques = (pitch_wanted - pitch - pitch_rate / 2, roll_wanted - roll - roll_rate / 2)
    return np.clip(2 * np.stack(torques, 1), -1, 1)


@pytest.mark.parametrize("steps", [120, pytest.param(510, marks=sweep)])
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_equals_singles_in_long_episodes(make_vec, env_id, steps):
    """A controller plays long episodes, in which a difference in the last bit becomes large."""
    vector = make_vec(env_id, 64, autoreset_mode="SameStep", continuous=True)  # full worlds
    singles = sync(env_id, 64, AutoresetMode.SAME_STEP, continuous=True)
    mine, theirs = vector.reset(seed=0)[0], singles.reset(seed=0)[0]
    ends = 0
    for _ in range(steps):
        assert_same(mine, theirs)
        actions = balance(env_id, mine)
        (mine, _, terminated, truncated, _), (theirs, *_) = (
            vector.step(actions),
            singles.step(actions),
        )
        ends += truncated.sum()
        assert not terminated.any()
    assert ends == (64 if steps > 500 else 0)
    singles.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_partial_resets_equal_those_of_singles(make_vec, env_id, mode):
    """Masks over running sub-environments, new seeds for some of them, and given states."""
    vector, singles = make_vec(env_id, 9, autoreset_mode=mode), sync(env_id, 9, mode)
    assert_same(vector.reset(seed=0), singles.reset(seed=0))
    name = vector.unwrapped.task.state_names[0]
    vector.action_space.seed(0)
    rng = np.random.default_rng(0)
    ended = np.zeros(9, bool)
    for turn in range(60):
        mask = ended | (rng.random(9) < 0.05)
        mask[turn % 9] = True
        seeds = [int(rng.integers(1000)) if rng.random() < 0.3 else None for _ in range(9)]
        options = {"state": {name: 0.01}} if turn % 3 == 0 else {}
        mine, theirs = (
            envs.reset(seed=list(seeds), options={**options, "reset_mask": mask.copy()})
            for envs in (vector, singles)
        )
        assert_same(mine, theirs)
        actions = vector.action_space.sample()
        mine, theirs = vector.step(actions), singles.step(actions)
        assert_same(mine, theirs)
        ended = mine[2] | mine[3]
    singles.close()


@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_no_sub_environment_feels_another(make_vec, env_id):
    """One is pushed as hard as can be; the others do not notice, to the bit."""
    seen = []
    for wild in (False, True):
        envs = make_vec(env_id, 16, continuous=True)
        envs.reset(seed=5)
        rng = np.random.default_rng(0)
        others, own = [], []
        for _ in range(150):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            if wild:
                actions[3] = 1e30
            envs.step(actions)
            states = states_of(envs)
            others.append(np.delete(states, 3, axis=0))
            own.append(states[3])
        seen.append((np.array(others), np.array(own)))
    assert seen[0][0].tobytes() == seen[1][0].tobytes()
    assert not np.array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_partial_reset_leaves_the_others(make_vec, env_id):
    envs, undisturbed = (make_vec(env_id, 7, autoreset_mode="Disabled") for _ in range(2))
    envs.reset(seed=1)
    undisturbed.reset(seed=1)
    envs.action_space.seed(0)
    mask = np.array([False, True, False, False, True, False, False])
    for count in range(8):
        before = states_of(envs)
        envs.reset(options={"reset_mask": mask.copy()})
        assert np.array_equal(states_of(envs)[~mask], before[~mask])
        assert not np.array_equal(states_of(envs)[mask], before[mask])
        actions = envs.action_space.sample()
        envs.step(actions)
        undisturbed.step(actions)
        assert states_of(envs)[~mask].tobytes() == states_of(undisturbed)[~mask].tobytes(), count


def select(value, mask):
    """Return the elements of some sub-environments of arrays, also in dicts and tuples."""
    if isinstance(value, dict):
        return {name: select(part, mask) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(select(part, mask) for part in value)
    return value[mask]


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_ended_sub_environments_wait(make_vec, env_id):
    """Without autoreset an ended sub-environment stays as it is, and the others go on."""
    envs = make_vec(env_id, 6, autoreset_mode="Disabled", max_episode_steps=25)
    alone = make_vec(env_id, 6, autoreset_mode="NextStep", max_episode_steps=25)
    last = envs.reset(seed=0)[0]
    alone.reset(seed=0)
    assert envs.metadata["ended_wait"] and not alone.metadata["ended_wait"]
    envs.action_space.seed(0)
    waiting = np.zeros(6, bool)
    for _ in range(40):
        actions = envs.action_space.sample()
        before = states_of(envs)
        mine, theirs = envs.step(actions), alone.step(actions)
        assert np.array_equal(states_of(envs)[waiting], before[waiting])
        assert (mine[1][waiting] == 0).all()
        assert (mine[2] | mine[3])[waiting].all()
        assert_same(select(mine[0], waiting), select(last, waiting))
        assert_same(select(mine[:4], ~waiting), select(theirs[:4], ~waiting))
        last = mine[0]
        waiting |= mine[2] | mine[3]
    assert waiting.all()


def test_no_two_episodes_share_an_initial_state(make_vec):
    for env_id in STATE_IDS:
        envs = make_vec(env_id, 64, max_episode_steps=1, autoreset_mode="SameStep")
        initial = [envs.reset(seed=0)[0]]
        initial += [envs.step(np.zeros(64, np.int64))[0] for _ in range(20)]
        everything = np.concatenate(initial)
        assert len(np.unique(everything, axis=0)) == len(everything)


def test_seeds(make_vec):
    envs = make_vec("BalancingPlate-v0", 3)
    by_int, _ = envs.reset(seed=7)
    by_list, _ = envs.reset(seed=[7, 8, 9])
    by_array, _ = envs.reset(seed=np.array([7, 8, 9]))
    assert by_int.tobytes() == by_list.tobytes() == by_array.tobytes()
    assert envs.np_random_seed == (7, 8, 9)
    going_on, _ = envs.reset()
    assert not np.array_equal(going_on, by_int)
    one, _ = envs.reset(seed=[None, 8, None])
    assert np.array_equal(one[1], by_int[1])
    fresh = make_vec("BalancingPlate-v0", 3)
    assert not np.array_equal(fresh.reset()[0], make_vec("BalancingPlate-v0", 3).reset()[0])


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_given_state(make_vec, env_id):
    envs = make_vec(env_id, 4)
    name = envs.unwrapped.task.state_names[0]
    envs.reset(options={"state": {name: 0.01}})
    assert (envs.unwrapped.state()[name] == 0.01).all()
    envs.unwrapped.state()[name][:] = 9.0  # a copy
    assert (envs.unwrapped.state()[name] == 0.01).all()


def test_returned_arrays_are_fresh(make_vec):
    envs = make_vec("BulletCartPole-v0", 4, max_episode_steps=5, autoreset_mode="SameStep")
    held = [envs.reset(seed=0)[0]]
    copies = [held[0].copy()]
    for _ in range(20):
        returned = envs.step(np.zeros(4, np.int64))[:4]
        held += returned
        copies += [array.copy() for array in returned]
    for array, kept in zip(held, copies, strict=True):
        assert np.array_equal(array, kept)


COPIERS = [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))]


@pytest.mark.parametrize("copier", COPIERS, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_copy_goes_on(make_vec, env_id, mode, copier):
    """In mid-contact, through ends and partial resets: copy and original are equal to the bit."""
    envs = make_vec(env_id, 5, max_episode_steps=25, autoreset_mode=mode)
    undisturbed = make_vec(env_id, 5, max_episode_steps=25, autoreset_mode=mode)
    envs.action_space.seed(0)
    for each in (envs, undisturbed):
        each.reset(seed=0)
    for _ in range(12):
        actions = envs.action_space.sample()
        envs.step(actions)
        undisturbed.step(actions)
    twin = copier(envs)
    undisturbed.unwrapped.resynchronize()
    mask = np.array([False, True, False, False, True])
    for step in range(40):
        if step % 10 == 5:
            options = [{"reset_mask": mask.copy()} for _ in range(3)]
            mine, theirs, others = (
                each.reset(options=option)
                for each, option in zip((envs, twin, undisturbed), options, strict=True)
            )
        else:
            actions = envs.action_space.sample()
            mine, theirs, others = (each.step(actions) for each in (envs, twin, undisturbed))
        assert_same(mine, theirs)
        assert_same(mine, others)
        assert_same(states_of(envs), states_of(twin))
    envs.close()
    twin.close()


def test_partial_reset_of_a_copy(make_vec):
    """Its engine is built by that reset, and the other sub-environments are where they were."""
    envs = make_vec("Shover-v0", 3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    actions = np.ones(3, np.int64)
    for _ in range(5):
        envs.step(actions)
    twin = copy.deepcopy(envs)
    for each in (envs, twin):
        each.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(3):
        assert_same(envs.step(actions), twin.step(actions))
    twin.close()


def test_copy_draws(make_vec):
    envs = make_vec("BalancingPlatePixels-v0", 2, render_mode="rgb_array")
    envs.reset(seed=0)
    envs.render()
    twin = copy.deepcopy(envs)
    actions = np.ones(2, np.int64)
    assert_same(envs.step(actions), twin.step(actions))
    envs.close()
    assert len(twin.render()) == 2
    twin.close()


def interrupt(patch, verb):
    """Let the next calls of a method of ``Simulation`` end half-way in a Ctrl-C."""
    original = getattr(Simulation, verb)

    def interrupted(self, *args):
        if verb == "step":  # one world has been stepped and the others have not
            self._worlds[0][0].step()
        else:
            original(self, *args)
        raise KeyboardInterrupt

    patch.setattr(Simulation, verb, interrupted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("verb", ["step", "set_state"])
@pytest.mark.parametrize("env_id", ["BulletCartPole-v0", "Shover-v0"])
def test_ctrl_c(make_vec, monkeypatch, env_id, verb, mode):
    """After Ctrl-C in a step or a reset the environment asks for a reset, and is then as new."""
    n = 40 if env_id in STATE_IDS else 6  # two worlds or more
    envs, new = (make_vec(env_id, n, autoreset_mode=mode, max_episode_steps=5) for _ in range(2))
    envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(3):
        envs.step(envs.action_space.sample())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, verb)
        envs.step(envs.action_space.sample()) if verb == "step" else envs.reset(seed=9)
    with pytest.raises(ResetNeeded):
        envs.step(envs.action_space.sample())
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.arange(n) < n // 2})
    assert_same(envs.reset(seed=2), new.reset(seed=2))
    for _ in range(5 if mode is AutoresetMode.DISABLED else 12):
        actions = envs.action_space.sample()
        assert_same(envs.step(actions), new.step(actions))


@pytest.mark.parametrize("limit", [-1, None])
def test_no_time_limit(make_vec, limit):
    """A pole that stands still is never truncated."""
    envs = make_vec("BulletCartPole-v0", 1, max_episode_steps=limit, continuous=True)
    envs.reset(options={"state": {}})
    for _ in range(510):
        _, _, terminated, truncated, _ = envs.step(np.zeros((1, 1)))
        assert not terminated and not truncated


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_render(make_vec, small_frames, env_id):
    envs = make_vec(env_id, 3, render_mode="rgb_array")
    envs.reset(seed=4)
    frames = envs.render()
    single = gym.make(env_id, render_mode="rgb_array")
    single.reset(seed=5)
    assert len(frames) == 3
    assert np.array_equal(frames[1], single.render())
    single.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ["BulletCartPole-v0", "ShoverPixels-v0"])
def test_lists_of_frames_equal_those_of_singles(make_vec, small_frames, env_id, mode):
    """With rgb_array_list a vector environment collects what RenderCollection collects."""
    kwargs = {"render_mode": "rgb_array_list", "max_episode_steps": 6}
    vector = make_vec(env_id, 2, autoreset_mode=mode, **kwargs)
    singles = sync(env_id, 2, mode, **kwargs)
    for envs in (vector, singles):
        envs.reset(seed=0)
    vector.action_space.seed(0)
    for step in range(16):
        actions = vector.action_space.sample()
        flags = [np.logical_or(*envs.step(actions)[2:4]) for envs in (vector, singles)]
        if mode is AutoresetMode.DISABLED and flags[0].any():
            for envs in (vector, singles):
                envs.reset(options={"reset_mask": flags[0].copy()})
        if step in (2, 3, 9, 15):
            mine, theirs = vector.render(), singles.render()
            assert [len(frames) for frames in mine] == [len(frames) for frames in theirs]
            assert all(map(np.array_equal, mine, theirs))
    singles.close()


@pytest.fixture
def draws(monkeypatch):
    """Return a list with an entry for each image that Bullet draws."""
    drawn = []
    draw = p.getCameraImage

    def count(*arguments, **keywords):
        drawn.append(1)
        return draw(*arguments, **keywords)

    monkeypatch.setattr(p, "getCameraImage", count)
    return drawn


@pytest.mark.parametrize("mode", MODES)
def test_skip_observations(make_vec, draws, mode):
    """Only images of episodes that end or begin are drawn; all else is as without it."""
    kwargs = {"max_episode_steps": 12, "size": 16, "autoreset_mode": mode}
    envs, plain = (make_vec("BulletCartPolePixels-v0", 4, **kwargs) for _ in range(2))
    last, _ = envs.reset(seed=0)
    plain.reset(seed=0)
    envs.unwrapped.skip_observations = True
    envs.action_space.seed(0)
    waiting = np.zeros(4, bool)
    ends = 0
    for _ in range(30):
        actions = envs.action_space.sample()
        draws.clear()
        mine = envs.step(actions)
        drawn = len(draws)
        began = waiting & (mode is AutoresetMode.NEXT_STEP)
        theirs = plain.step(actions)
        assert_same(mine[1:4], theirs[1:4])
        ended = (mine[2] | mine[3]) & ~waiting
        ends += ended.sum()
        if mode is AutoresetMode.SAME_STEP and ended.any():  # the last image and the first
            assert drawn == 2 * ended.sum()
            assert_same(mine[4], theirs[4])
        else:
            assert drawn == ended.sum() + began.sum()
        shown = ended | began
        assert_same(mine[0][shown], theirs[0][shown])
        assert_same(mine[0][~shown], last[~shown])
        last = envs.unwrapped.observation()
        assert_same(last, plain.unwrapped.observation())
        if mode is AutoresetMode.DISABLED:
            waiting |= ended
        if mode is AutoresetMode.NEXT_STEP:
            waiting = ended
    assert ends >= 4


def test_metadata_and_spec(make_vec):
    envs = make_vec("BulletCartPole-v0", 2, control_hz=25)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.metadata["render_fps"] == 25
    again = gym.make_vec(envs.spec)
    assert again.num_envs == 2 and again.unwrapped.task == envs.unwrapped.task
    again.close()


def test_gymnasium_wrapper(make_vec):
    envs = RecordEpisodeStatistics(make_vec("BulletCartPole-v0", 5, max_episode_steps=30))
    envs.reset(seed=0)
    lengths = []
    for _ in range(200):
        infos = envs.step(envs.action_space.sample())[4]
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert len(lengths) > 20 and 5 < np.mean(lengths) <= 30


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"num_envs": 0}, ValueError, "num_envs=0 must be a whole number from 1 to 4096"),
        ({"num_envs": 4097}, ValueError, "num_envs=4097 must be a whole number from 1 to 4096"),
        ({"num_envs": 2.0}, TypeError, "num_envs=2.0 must be"),
        ({"num_envs": True}, TypeError, "num_envs=True must be"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps=0 must be"),
        ({"autoreset_mode": "next"}, ValueError, "autoreset_mode='next' must be one of"),
        ({"render_mode": "human"}, ValueError, "render_mode='human' must be None or one of"),
        (
            {"speed": 3},
            TypeError,
            "got an unexpected keyword argument 'speed'; legal: num_envs, .*observer, ",
        ),
        ({"force": -1}, ValueError, "force=-1 must be"),
    ],
)
def test_bad_keywords(kwargs, error, words):
    with pytest.raises(error, match=words):
        gym.make_vec("BulletCartPole-v0", **{"num_envs": 2, **kwargs})


@pytest.mark.parametrize(
    ("actions", "error"),
    [
        ([0, 1], ValueError),
        (0, ValueError),
        ([[0], [1], [0]], ValueError),
        ([0, 1, 2], ValueError),
        ([0, 1, -1], ValueError),
        ([0.0, 1.0, 1.0], TypeError),
        (["0", "1", "1"], TypeError),
        ([[0], [1, 2], [0]], ValueError),
        ([True, True, False], TypeError),
        (np.ones(3, bool), TypeError),
        (None, TypeError),
    ],
)
def test_bad_actions(make_vec, actions, error):
    envs = make_vec("BulletCartPole-v0", 3)
    envs.reset(seed=0)
    before = states_of(envs)
    with pytest.raises(error, match=r"actions.* must be (3 of: )?a whole number from 0 to 1"):
        envs.step(actions)
    assert np.array_equal(states_of(envs), before)


@pytest.mark.parametrize("wrong", [True, np.True_, 2, -1, 1.0, "1", None], ids=repr)
def test_one_decoder(make_vec, wrong):
    """What is no action alone is none in a vector environment, and is refused in the same words."""
    env, envs = gym.make("BulletCartPole-v0").unwrapped, make_vec("BulletCartPole-v0", 2)
    env.reset()
    envs.reset()
    with pytest.raises((TypeError, ValueError)) as alone:
        env.step(wrong)
    with pytest.raises((TypeError, ValueError)) as together:
        envs.step([wrong, wrong])
    assert alone.type is together.type
    for caught in (alone, together):
        assert "a whole number from 0 to 1" in str(caught.value)
    env.close()


@pytest.mark.parametrize("continuous", [False, True])
def test_errors_are_short(make_vec, continuous):
    """An error is one line of less than 250 characters, whatever it was given."""
    envs = make_vec("BulletCartPole-v0", 600, continuous=continuous)
    envs.reset(seed=0)
    huge = np.zeros((600, 50)) if continuous else np.full(600, 7)
    for call in (
        lambda: envs.step(huge),
        lambda: envs.step(huge.astype(object)),
        lambda: envs.step(np.full((600, 1), np.nan)),
        lambda: envs.step([[0.0]] * 599 + [[0.0, 1.0]]),
        lambda: envs.reset(seed=[-1] * 600),
        lambda: envs.reset(seed=[0] * 500),
        lambda: envs.reset(seed="0" * 600),
        lambda: envs.reset(options={"reset_mask": np.zeros(599, bool)}),
        lambda: envs.reset(options={"reset_mask": [True] * 600}),
        lambda: envs.reset(options=np.zeros(600)),
        lambda: envs.reset(options={"x" * 600: 1}),
        lambda: make_vec("BulletCartPole-v0", np.zeros((99, 99))),
        lambda: make_vec("BulletCartPole-v0", 1, autoreset_mode=np.zeros((99, 99)).tolist()),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        message = str(caught.value).partition(" was raised from")[0]
        assert "\n" not in message and len(message) < 250, message


def test_a_bad_action_is_named(make_vec):
    """The error says whose action of many, not what all others were to do."""
    envs = make_vec("BulletCartPole-v0", 256)
    envs.reset(seed=0)
    actions = np.zeros(256, np.int64)
    actions[77] = 2
    with pytest.raises(ValueError, match=r"^actions\[77\]=2 must be a whole number from 0 to 1"):
        envs.step(actions)
    with pytest.raises(TypeError, match=r"^actions of dtype float64 must be"):
        envs.step(actions / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_continuous_actions(make_vec, bad):
    envs = make_vec("BalancingPlate-v0", 2, continuous=True)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        envs.step(np.array([[0.0, 0.0], [0.0, bad]]))
    with pytest.raises(ValueError, match="2 of: 2 finite numbers"):
        envs.step(np.zeros(2))


@pytest.mark.parametrize(
    ("reset", "error", "words"),
    [
        ({"seed": [1, 2]}, ValueError, "seed has 2 entries and must have 3"),
        ({"options": {"mask": 1}}, ValueError, "options has no"),
        ({"options": 3}, TypeError, "must be None or a dict"),
        ({"options": {"reset_mask": [True] * 3}}, TypeError, "reset_mask="),
        ({"options": {"reset_mask": np.ones(3)}}, TypeError, "reset_mask="),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, ValueError, "at least one"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, ValueError, "3 bools"),
        ({"options": {"state": {"y": 1}}}, ValueError, "state has no"),
        ({"options": {"state": {"x": 99}}}, ValueError, "terminated"),
        ({"seed": -1}, ValueError, "seed=-1 must be a whole number from 0"),
        ({"seed": [50, -1, 2]}, ValueError, r"seed\[1\]=-1 must be a whole number from 0"),
        ({"seed": [50, 1.5, 2]}, TypeError, r"seed\[1\]=1.5 must be a whole number from 0"),
        ({"seed": True}, TypeError, "seed=True must be"),
        ({"seed": 2.0}, TypeError, "seed=2.0 must be"),
        ({"seed": "012"}, TypeError, "seed='012' must be"),
    ],
)
def test_bad_reset(make_vec, reset, error, words):
    envs = make_vec("BulletCartPole-v0", 3)
    envs.reset(seed=0)
    before = states_of(envs)
    with pytest.raises(error, match=words):
        envs.reset(**reset)
    assert np.array_equal(states_of(envs), before)
    assert envs.np_random_seed == (0, 1, 2)
    fresh = make_vec("BulletCartPole-v0", 3)
    with pytest.raises(error, match=words):
        fresh.reset(**reset)
    with pytest.raises(ResetNeeded):
        fresh.step(np.zeros(3, np.int64))


def test_calls_out_of_order(make_vec):
    envs = make_vec("BulletCartPole-v0", 2, max_episode_steps=1, autoreset_mode="Disabled")
    actions = np.zeros(2, np.int64)
    for call in (lambda: envs.step(actions), envs.state, envs.render):
        with pytest.raises(ResetNeeded):
            call()
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.close()
    envs.close()
    for call in (lambda: envs.step(actions), envs.state, envs.render):
        with pytest.raises(ClosedEnvironmentError):
            call()
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize("env_id", ["BulletCartPole-v0", "ShoverPixels-v0"])
def test_reset_after_close(make_vec, env_id):
    """close() frees the engine, and reset() begins anew."""
    envs, new = (make_vec(env_id, 3, render_mode="rgb_array") for _ in range(2))
    envs.reset(seed=0)
    envs.render()
    envs.close()
    assert_same(envs.reset(seed=3), new.reset(seed=3))
    actions = envs.action_space.sample()
    assert_same(envs.step(actions), new.step(actions))
    assert all(map(np.array_equal, envs.render(), new.render()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_id, num_envs",
    [
        ("BulletCartPole-v0", 1000),
        ("BalancingPlate-v0", 1000),
        pytest.param("BulletCartPole-v0", MAX_ENVS, marks=pytest.mark.sweep),
    ],
)
def test_many_sub_environments(run_python, env_id, num_envs):
    """A world takes about 30 MB: a megabyte for each of 32 cart-poles, 4 for each of 8 plates."""
    code = f"""
import resource, gymnasium as gym, numpy as np, bullet_envs
envs = gym.make_vec({env_id!r}, num_envs=1)
envs.reset(seed=0)
small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
envs = gym.make_vec({env_id!r}, num_envs={num_envs})
envs.reset(seed=0)
observations, rewards, *_ = envs.step(np.zeros({num_envs}, np.int64))
assert rewards.sum() == {num_envs} and np.isfinite(observations).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - small) / {num_envs} / 1024)
"""
    child = run_python(code)
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < (1.5 if "Cart" in env_id else 5)


def test_skrl_accepts_it():
    """skrl tells a vector environment by its direct base."""
    assert VectorEnv in BulletVectorEnv.__bases__
