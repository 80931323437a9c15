"""A batch is its single environments: the same numbers, seeds, ends and errors, row by row."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from conftest import PIXEL_IDS, STATE_IDS
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from bullet_envs import ENV_IDS, world
from bullet_envs.agents.controllers import LQR
from bullet_envs.agents.wrappers import ActionRepeat, VectorActionRepeat, VectorFrameStack
from bullet_envs.sb3 import GymnasiumVecEnv
from bullet_envs.vector import MAX_ROWS

MODES = list(AutoresetMode)
COPY_TOLERANCE = 1e-6  # a copy's engine is placed anew, and Bullet rounds a plate's joints then


@pytest.fixture
def make_batch():
    made = []

    def make(env_id, num_envs, **kwargs):
        made.append(gym.make_vec(env_id, num_envs=num_envs, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def states_of(envs):
    """Return the states of a batch or of singles, a row each."""
    if isinstance(envs, SyncVectorEnv):
        return np.array([list(env.unwrapped.state().values()) for env in envs.envs])
    return np.stack(list(envs.state().values()), axis=1)


def assert_same_step(mine, theirs):
    """Compare what two steps returned, to the bit."""
    for a, b in zip(mine[:4], theirs[:4], strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert mine[4].keys() == theirs[4].keys()
    if "final_obs" in mine[4]:
        assert np.array_equal(mine[4]["_final_obs"], theirs[4]["_final_obs"])
        for row in np.flatnonzero(mine[4]["_final_obs"]):
            assert np.array_equal(mine[4]["final_obs"][row], theirs[4]["final_obs"][row])


def compare(batch, singles, steps, seed=0):
    """Play both with the same actions and compare all that they return."""

    def same(mine, theirs):
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)

    same(batch.reset(seed=seed)[0], singles.reset(seed=seed)[0])
    batch.action_space.seed(seed)
    ends = 0
    for step in range(steps):
        actions = batch.action_space.sample()
        mine, theirs = batch.step(actions), singles.step(actions)
        same(mine[0], theirs[0])
        for a, b in zip(mine[1:4], theirs[1:4], strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)
        if step % 10 == 0 or step == steps - 1:  # the states of singles take longest to gather
            same(states_of(batch), states_of(singles))
        ended = mine[2] | mine[3]
        ends += ended.sum()
        assert mine[4].keys() == theirs[4].keys()
        for key in [key for key in mine[4] if key.startswith("_")]:
            assert np.array_equal(mine[4][key], theirs[4][key])
        assert mine[4].get("final_info") == theirs[4].get("final_info")
        for row in np.flatnonzero(ended) if "final_obs" in mine[4] else []:
            same(mine[4]["final_obs"][row], theirs[4]["final_obs"][row])
        if ended.any() and batch.autoreset_mode is AutoresetMode.DISABLED:
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            same(batch.reset(options=masks[0])[0], singles.reset(options=masks[1])[0])
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_equals_singles(make_batch, env_id, mode, num_envs):
    batch = make_batch(env_id, num_envs, autoreset_mode=mode, max_episode_steps=60)
    singles = SyncVectorEnv(
        [lambda: gym.make(env_id, max_episode_steps=60)] * num_envs, autoreset_mode=mode
    )
    assert compare(batch, singles, 5_000) > 50 * num_envs
    singles.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_equals_singles_in_short(make_batch, env_id, continuous, mode):
    kwargs = {"max_episode_steps": 40, "continuous": continuous}
    batch = make_batch(env_id, 33, autoreset_mode=mode, **kwargs)  # two worlds
    singles = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * 33, autoreset_mode=mode)
    assert batch.single_observation_space == singles.single_observation_space
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    assert compare(batch, singles, 150) > 60
    singles.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_equals_singles_in_long_episodes(make_batch, env_id):
    """An LQR plays whole episodes, in which a difference in the last bit would become large."""
    lqr = LQR(env_id)
    batch = make_batch(env_id, 64, autoreset_mode="SameStep")  # worlds as full as can be
    singles = SyncVectorEnv([lambda: gym.make(env_id)] * 64, autoreset_mode="SameStep")
    mine, theirs = batch.reset(seed=0)[0], singles.reset(seed=0)[0]
    ends = 0
    for _ in range(510):
        assert np.array_equal(mine, theirs)
        actions = lqr.act(mine, deterministic=True)
        (mine, *_, truncated, _), (theirs, *_) = batch.step(actions), singles.step(actions)
        ends += truncated.sum()
    assert ends == 64
    singles.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_partial_resets_equal_those_of_singles(make_batch, env_id, mode):
    """Masks over running rows, new seeds for some of them, and given states."""
    batch = make_batch(env_id, 9, autoreset_mode=mode)
    singles = SyncVectorEnv([lambda: gym.make(env_id)] * 9, autoreset_mode=mode)
    batch.reset(seed=0)
    singles.reset(seed=0)
    name = batch.task.state_names[0]
    rng = np.random.default_rng(0)
    ended = np.zeros(9, bool)
    for round_ in range(90):
        mask = ended | (rng.random(9) < 0.05)
        mask[round_ % 9] = True
        seeds = [int(rng.integers(1000)) if rng.random() < 0.3 else None for _ in range(9)]
        options = {"state": {name: 0.01}} if round_ % 3 == 0 else {}
        mine, theirs = (
            envs.reset(seed=list(seeds), options={**options, "reset_mask": mask.copy()})[0]
            for envs in (batch, singles)
        )
        assert np.array_equal(mine, theirs)
        actions = rng.integers(batch.single_action_space.n, size=9)
        mine, theirs = batch.step(actions), singles.step(actions)
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(a, b)
        ended = mine[2] | mine[3]
    singles.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", PIXEL_IDS)
def test_pictures_equal_those_of_singles(make_batch, env_id, mode):
    kwargs = {"max_episode_steps": 20, "size": 32}
    batch = make_batch(env_id, 3, autoreset_mode=mode, **kwargs)
    singles = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * 3, autoreset_mode=mode)
    assert compare(batch, singles, 60) > 3
    singles.close()


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_no_row_feels_another(make_batch, env_id):
    """Row 3 is pushed as hard as can be; the others must not notice to the bit."""
    seen = []
    for wild in (False, True):
        envs = make_batch(env_id, 16, continuous=True)
        envs.reset(seed=5)
        rng = np.random.default_rng(0)
        mine, own = [], []
        for _ in range(300):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            if wild:
                actions[3] = 1e30
            observations = envs.step(actions)[0]
            everything = np.hstack([observations, states_of(envs)])
            mine.append(np.delete(everything, 3, axis=0))
            own.append(everything[3])
        seen.append((np.array(mine), np.array(own)))
    assert seen[0][0].tobytes() == seen[1][0].tobytes()
    assert not np.array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_partial_reset_leaves_the_others(make_batch, env_id):
    envs, undisturbed = (make_batch(env_id, 7, autoreset_mode="Disabled") for _ in range(2))
    envs.reset(seed=1)
    undisturbed.reset(seed=1)
    actions = np.zeros(7, np.int64)
    mask = np.array([False, True, False, False, True, False, False])
    for count in range(8):
        before = states_of(envs)
        envs.reset(options={"reset_mask": mask.copy()})
        assert np.array_equal(states_of(envs)[~mask], before[~mask])
        assert not np.array_equal(states_of(envs)[mask], before[mask])
        mine, theirs = envs.step(actions), undisturbed.step(actions)
        assert mine[0][~mask].tobytes() == theirs[0][~mask].tobytes(), count


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_ended_rows_wait(make_batch, env_id):
    """Without autoreset a row that ended stays as it is, and the others go on."""
    envs = make_batch(env_id, 6, autoreset_mode="Disabled", max_episode_steps=25)
    alone = make_batch(env_id, 6, autoreset_mode="NextStep", max_episode_steps=25)
    last, _ = envs.reset(seed=0)
    alone.reset(seed=0)
    rng = np.random.default_rng(0)
    waiting = np.zeros(6, bool)
    for _ in range(40):
        actions = rng.integers(envs.single_action_space.n, size=6)
        before = states_of(envs)
        mine, theirs = envs.step(actions), alone.step(actions)
        assert np.array_equal(states_of(envs)[waiting], before[waiting])
        assert (mine[1] == ~waiting).all()
        assert (mine[2] | mine[3])[waiting].all()
        assert np.array_equal(mine[0][waiting], last[waiting])
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(a[~waiting], b[~waiting])
        last = mine[0]
        waiting |= mine[2] | mine[3]
    assert waiting.all()


def test_rows_never_share_a_start(make_batch):
    for env_id in STATE_IDS:
        envs = make_batch(env_id, 64, max_episode_steps=1, autoreset_mode="SameStep")
        starts = [envs.reset(seed=0)[0]]
        starts += [envs.step(np.zeros(64, np.int64))[0] for _ in range(20)]
        everything = np.concatenate(starts)
        assert len(np.unique(everything, axis=0)) == len(everything)


def test_seeds(make_batch):
    envs = make_batch("BalancingPlate-v0", 3)
    by_int, _ = envs.reset(seed=7)
    by_list, _ = envs.reset(seed=[7, 8, 9])
    by_array, _ = envs.reset(seed=np.array([7, 8, 9]))
    assert by_int.tobytes() == by_list.tobytes() == by_array.tobytes()
    assert envs.np_random_seed == (7, 8, 9)
    going_on, _ = envs.reset()
    assert not np.array_equal(going_on, by_int)
    one, _ = envs.reset(seed=[None, 8, None])
    assert np.array_equal(one[1], by_int[1])
    fresh = make_batch("BalancingPlate-v0", 3)
    assert not np.array_equal(fresh.reset()[0], make_batch("BalancingPlate-v0", 3).reset()[0])


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_given_state(make_batch, env_id):
    envs = make_batch(env_id, 4)
    name = envs.task.state_names[0]
    envs.reset(options={"state": {name: 0.01}})
    assert (envs.state()[name] == 0.01).all()
    envs.state()[name][:] = 9.0  # a copy
    assert (envs.state()[name] == 0.01).all()


def test_returned_arrays_are_fresh(make_batch):
    envs = make_batch("BulletCartPole-v0", 4, max_episode_steps=5, autoreset_mode="SameStep")
    held = [envs.reset(seed=0)[0]]
    copies = [held[0].copy()]
    for _ in range(20):
        returned = envs.step(np.zeros(4, np.int64))[:4]
        held += returned
        copies += [array.copy() for array in returned]
    for array, kept in zip(held, copies, strict=True):
        assert np.array_equal(array, kept)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_copy_goes_on(make_batch, env_id, copier):
    envs = make_batch(env_id, 3, max_episode_steps=12, render_mode="rgb_array")
    envs.reset(seed=0)
    envs.render()
    actions = np.ones(3, np.int64)
    for _ in range(5):
        envs.step(actions)
    twin = copier(envs)
    for _ in range(20):
        mine, theirs = envs.step(actions), twin.step(actions)
        assert np.abs(mine[0].astype(float) - theirs[0]).max() <= COPY_TOLERANCE
        assert all(np.array_equal(a, b) for a, b in zip(mine[1:4], theirs[1:4], strict=True))
    envs.close()
    assert len(twin.render()) == 3
    twin.close()


def test_ctrl_c_loses_nothing(make_batch, monkeypatch):
    envs, undisturbed = (make_batch("BulletCartPole-v0", 40) for _ in range(2))
    envs.reset(seed=0)
    undisturbed.reset(seed=0)
    actions = np.ones(40, np.int64)
    envs.step(actions)
    undisturbed.step(actions)
    before = states_of(envs)
    step, calls = world.World.step, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 2:  # between two worlds
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(world.World, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        envs.step(actions)
    monkeypatch.undo()
    assert np.array_equal(states_of(envs), before)
    assert envs.step(actions)[0].tobytes() == undisturbed.step(actions)[0].tobytes()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(("verb", "when"), [("load", 2), ("step", 35), ("place_joints", 2)])
def test_ctrl_c_anywhere_loses_nothing(make_batch, monkeypatch, verb, when, mode):
    """Interrupted while building, stepping or beginning episodes, all is as before."""
    owner = world.Body if verb == "place_joints" else world.World
    original, calls = getattr(owner, verb), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == when:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    kwargs = {"max_episode_steps": 7, "autoreset_mode": mode}
    envs, undisturbed = (make_batch("BulletCartPole-v0", 40, **kwargs) for _ in range(2))
    actions = np.ones(40, np.int64)
    undisturbed.reset(seed=0)
    if verb == "load":
        monkeypatch.setattr(owner, verb, interrupted)
        with pytest.raises(KeyboardInterrupt):
            envs.reset(seed=0)
        monkeypatch.undo()
        with pytest.raises(ResetNeeded):
            envs.step(actions)
        assert np.array_equal(envs.reset(seed=0)[0], states_of(undisturbed).astype(np.float32))
        return
    envs.reset(seed=0)
    for _ in range(6):
        envs.step(actions)
        undisturbed.step(actions)
    done = 0
    monkeypatch.setattr(owner, verb, interrupted)
    with pytest.raises(KeyboardInterrupt):
        while True:
            before = states_of(envs)
            envs.step(actions)
            done += 1
    monkeypatch.undo()
    assert np.array_equal(states_of(envs), before)
    for _ in range(done):
        undisturbed.step(actions)
    for _ in range(20):  # through ends and beginnings
        assert_same_step(envs.step(actions), undisturbed.step(actions))


def test_ctrl_c_in_a_reset_keeps_the_generators(make_batch, monkeypatch):
    """A seed of an interrupted reset decides nothing."""
    envs, undisturbed = (make_batch("BulletCartPole-v0", 4) for _ in range(2))
    for batch in (envs, undisturbed):
        batch.reset(seed=0)

    def interrupted(*_):
        raise KeyboardInterrupt

    for seed in (5, None):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(world.Body, "place_joints", interrupted)
            envs.reset(seed=seed)
    assert envs.np_random_seed == (0, 1, 2, 3)
    assert np.array_equal(envs.reset()[0], undisturbed.reset()[0])


@pytest.mark.parametrize("limit", [-1, None])
def test_no_time_limit(make_batch, limit):
    """A pole that stands still is never cut off."""
    envs = make_batch("BulletCartPole-v0", 1, max_episode_steps=limit, continuous=True)
    envs.reset(options={"state": {}})
    for _ in range(510):
        _, _, terminated, truncated, _ = envs.step(np.zeros((1, 1)))
        assert not terminated and not truncated


def test_ctrl_c_leaves_no_observation_behind(make_batch, monkeypatch):
    """After an interrupted step the rows that a reset leaves alone are seen where they are."""
    envs = make_batch("BulletCartPole-v0", 4, max_episode_steps=3, autoreset_mode="SameStep")
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.ones(4, np.int64))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(envs.unwrapped, "_renew", interrupted)
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.ones(4, np.int64))
    observations, _ = envs.reset(options={"reset_mask": np.array([True, False, False, False])})
    assert np.array_equal(observations, states_of(envs).astype(np.float32))


@pytest.mark.parametrize("env_id", ENV_IDS[:2])
def test_partial_reset_of_a_copy(make_batch, env_id):
    """Its engine is built by that reset, and the other rows are where they were."""
    envs = make_batch(env_id, 3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    actions = np.ones(3, np.int64)
    for _ in range(5):
        envs.step(actions)
    twin = copy.deepcopy(envs)
    for batch in (envs, twin):
        batch.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(3):
        mine, theirs = envs.step(actions), twin.step(actions)
        assert np.abs(mine[0] - theirs[0]).max() <= 10 * COPY_TOLERANCE
    twin.close()


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_render(make_batch, env_id):
    envs = make_batch(env_id, 3, render_mode="rgb_array")
    envs.reset(seed=4)
    pictures = envs.render()
    single = gym.make(env_id, render_mode="rgb_array")
    single.reset(seed=5)
    assert len(pictures) == 3
    assert np.array_equal(pictures[1], single.render())
    single.close()


def test_metadata_and_spec(make_batch):
    envs = make_batch("BulletCartPole-v0", 2, control_hz=25)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.metadata["render_fps"] == 25
    again = gym.make_vec(envs.spec)
    assert again.num_envs == 2 and again.task == envs.task
    again.close()


def test_gymnasium_wrapper(make_batch):
    envs = RecordEpisodeStatistics(make_batch("BulletCartPole-v0", 5, max_episode_steps=30))
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
        ({"render_mode": "human"}, ValueError, "render_mode='human' must be None or 'rgb_array'"),
        ({"speed": 3}, TypeError, "unknown keyword speed; legal: num_envs, .*observer, "),
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
        (None, TypeError),
    ],
)
def test_bad_actions(make_batch, actions, error):
    envs = make_batch("BulletCartPole-v0", 3)
    envs.reset(seed=0)
    before = states_of(envs)
    with pytest.raises(error, match=r"actions.* must be whole numbers from 0 to 1, shape \(3,\)"):
        envs.step(actions)
    assert np.array_equal(states_of(envs), before)


def test_a_bad_action_is_named(make_batch):
    """The error says which row of many, not what all others were to do."""
    envs = make_batch("BulletCartPole-v0", 256)
    envs.reset(seed=0)
    actions = np.zeros(256, np.int64)
    actions[77] = 2
    with pytest.raises(ValueError, match=r"^actions\[77\]=2 must be whole numbers from 0 to 1"):
        envs.step(actions)
    with pytest.raises(TypeError, match=r"^actions of dtype float64 must be"):
        envs.step(actions / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_continuous_actions(make_batch, bad):
    envs = make_batch("BalancingPlate-v0", 2, continuous=True)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        envs.step(np.array([[0.0, 0.0], [0.0, bad]]))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
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
        ({"options": {"state": {"x": 99}}}, ValueError, "ended"),
        ({"seed": -1}, ValueError, "seed=-1 must be a whole number from 0"),
        ({"seed": [50, -1, 2]}, ValueError, r"seed\[1\]=-1 must be a whole number from 0"),
        ({"seed": [50, 1.5, 2]}, TypeError, r"seed\[1\]=1.5 must be a whole number from 0"),
        ({"seed": True}, TypeError, "seed=True must be"),
        ({"seed": 2.0}, TypeError, "seed=2.0 must be"),
        ({"seed": "012"}, TypeError, "seed='012' must be"),
    ],
)
def test_bad_reset(make_batch, reset, error, words):
    envs = make_batch("BulletCartPole-v0", 3)
    envs.reset(seed=0)
    before = states_of(envs)
    with pytest.raises(error, match=words):
        envs.reset(**reset)
    assert np.array_equal(states_of(envs), before)
    assert envs.np_random_seed == (0, 1, 2)
    fresh = make_batch("BulletCartPole-v0", 3)
    with pytest.raises(error, match=words):
        fresh.reset(**reset)
    with pytest.raises(ResetNeeded):
        fresh.step(np.zeros(3, np.int64))


def test_calls_out_of_order(make_batch):
    envs = make_batch("BulletCartPole-v0", 2, max_episode_steps=1, autoreset_mode="Disabled")
    actions = np.zeros(2, np.int64)
    for call in (lambda: envs.step(actions), envs.state, envs.render):
        with pytest.raises(ResetNeeded):
            call()
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.close()
    envs.close()
    for call in (lambda: envs.step(actions), envs.state, envs.render, envs.reset):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1000, MAX_ROWS])
@pytest.mark.parametrize("env_id", STATE_IDS)
def test_many_rows(run_python, env_id, num_envs):
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


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_sb3_adapter_equals_dummy_vec_env(make_batch, env_id):
    kwargs = {"max_episode_steps": 25}
    mine = GymnasiumVecEnv(make_batch(env_id, 6, autoreset_mode="Disabled", **kwargs))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 6)
    mine.seed(3)
    theirs.seed(3)
    assert np.array_equal(mine.reset(), theirs.reset())
    assert mine.observation_space == theirs.observation_space
    mine.action_space.seed(0)
    cut = failed = 0
    for _ in range(200):
        actions = np.array([mine.action_space.sample() for _ in range(6)])
        a, b = mine.step(actions), theirs.step(actions)
        assert all(x.dtype == y.dtype for x, y in zip(a[:3], b[:3], strict=True))
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])
        for info, other in zip(a[3], b[3], strict=True):
            assert info.keys() == other.keys()
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "terminal_observation" in info:
                assert np.array_equal(info["terminal_observation"], other["terminal_observation"])
                cut += info["TimeLimit.truncated"]
                failed += not info["TimeLimit.truncated"]
    assert cut > 5 and (failed > 5 or "Plate" in env_id)
    assert mine.get_attr("render_mode") == [None] * 6
    assert mine.metadata["render_fps"] == theirs.metadata["render_fps"]
    assert mine.env_is_wrapped(gym.Wrapper, [0, 2]) == [False, False]
    assert not mine.has_attr("nothing")
    for refused in (lambda: mine.set_attr("x", 1), lambda: mine.env_method("reset")):
        with pytest.raises(NotImplementedError):
            refused()
    theirs.close()


def test_sb3_options_and_pictures(make_batch):
    envs = GymnasiumVecEnv(
        make_batch("BulletCartPole-v0", 4, autoreset_mode="Disabled", render_mode="rgb_array")
    )
    envs.set_options({"state": {"x": 0.5}})
    assert (envs.reset()[:, 0] == 0.5).all()
    envs.seed(0)
    first = envs.reset()
    assert (np.abs(first[:, 0]) < 0.1).all()
    assert not np.array_equal(envs.reset(), first)
    assert envs.render().shape == (720, 960, 3)
    envs.set_options([{}, {}, {}, {"state": {"x": 0.5}}])
    with pytest.raises(ValueError, match="same for all rows"):
        envs.reset()


def test_sb3_adapter_refuses_other_modes(make_batch):
    with pytest.raises(ValueError, match="'Disabled', not AutoresetMode"):
        GymnasiumVecEnv(make_batch("BulletCartPole-v0", 2))


def test_action_repeat_of_a_batch_equals_that_of_singles(make_batch):
    """The sum of the rewards until an end, and the last observation."""
    batch = VectorActionRepeat(make_batch("BulletCartPole-v0", 4, autoreset_mode="Disabled"), 3)
    singles = [ActionRepeat(gym.make("BulletCartPole-v0"), 3) for _ in range(4)]
    batch.reset(seed=0)
    for row, single in enumerate(singles):
        single.reset(seed=row)
    batch.action_space.seed(0)
    totals = set()
    for _ in range(60):
        actions = batch.action_space.sample()
        mine = batch.step(actions)
        ended = mine[2] | mine[3]
        for row, single in enumerate(singles):
            theirs = single.step(actions[row])
            assert np.array_equal(mine[0][row], theirs[0])
            assert [column[row] for column in mine[1:4]] == list(theirs[1:4])
            totals.add(theirs[1])
            if ended[row]:
                single.reset()
        if ended.any():
            batch.reset(options={"reset_mask": ended})
    for single in singles:
        single.close()
    assert totals == {1.0, 2.0, 3.0}


@pytest.mark.parametrize("wrapper", [VectorActionRepeat, VectorFrameStack])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_wrappers_refuse_other_modes(make_batch, wrapper, mode):
    with pytest.raises(ValueError, match=f"{wrapper.__name__} needs .*'Disabled', not"):
        wrapper(make_batch("BulletCartPole-v0", 2, autoreset_mode=mode), 2)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("BalancingPlate-v0", {"continuous": True}), ("BulletCartPolePixels-v0", {"size": 24})],
)
def test_sb3_adapter_carries_all_spaces(make_batch, env_id, kwargs):
    """Continuous actions and pictures come through as from SB3's own DummyVecEnv."""
    mine = GymnasiumVecEnv(make_batch(env_id, 3, autoreset_mode="Disabled", **kwargs))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 3)
    assert mine.action_space == theirs.action_space
    assert mine.observation_space == theirs.observation_space
    mine.seed(5)
    theirs.seed(5)
    assert np.array_equal(mine.reset(), theirs.reset())
    mine.action_space.seed(0)
    for _ in range(60):
        actions = np.array([mine.action_space.sample() for _ in range(3)])
        a, b = mine.step(actions), theirs.step(actions)
        assert all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    theirs.close()


@pytest.mark.slow
def test_sb3_learns_on_a_batch(make_batch):
    envs = VecMonitor(
        GymnasiumVecEnv(make_batch("BulletCartPole-v0", 16, autoreset_mode="Disabled"))
    )
    model = PPO("MlpPolicy", envs, n_steps=64, n_epochs=10, learning_rate=1e-3, seed=0)
    model.learn(20_000)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=16)
    assert mean > 150  # 20 before
