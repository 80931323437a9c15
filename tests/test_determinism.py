"""The same seed gives the same episode, whatever happened before and wherever it happens."""

import copy
import functools
import gc
import json
import multiprocessing
import os
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from conftest import (
    PIXEL_IDS,
    STATE_IDS,
    begin,
    differs_at,
    digest,
    play,
    rounding,
    sample,
    state_of,
    worst,
)
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import bullet_envs
from bullet_envs.world import Body, World, p


def unused(env):
    """It was just made."""


def finished(env):
    """It has played some episodes to their ends."""
    env.reset(seed=99)
    play(env, sample(env, 120, seed=99))


def aborted(env):
    """It was left in mid-episode."""
    env.reset(seed=98)
    play(env, sample(env, 7, seed=98))


def interrupted_step(env):
    """Ctrl-C came after the action and before its step, so a force is pending in Bullet."""
    aborted(env)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(World, "step", ctrl_c)
        env.step(sample(env, 1, seed=97)[0])


def interrupted_reset(env):
    """Ctrl-C came in the middle of a reset, so the bodies are nowhere sensible."""
    aborted(env)
    place_joints = Body.place_joints
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Body, "place_joints", lambda *args: ctrl_c(place_joints(*args)))
        env.reset(seed=97)


def refused(env):
    """It was asked for what it cannot do."""
    aborted(env)
    with pytest.raises(TypeError):
        env.step(None)
    with pytest.raises(ValueError):
        env.reset(options={"no such option": 1})


def ctrl_c(_):
    raise KeyboardInterrupt


PASTS = [unused, finished, aborted, interrupted_step, interrupted_reset, refused]


def episodes(env, seed):
    """Play from a seed to the bit: one episode or more, and a start that no seed asked for."""
    return [begin(env, seed=seed), *play(env, sample(env, 30, seed=seed)), begin(env)]


@pytest.mark.parametrize("past", PASTS, ids=lambda past: past.__name__)
def test_seed_forgets_the_past(make, past):
    """reset(seed) gives what a new environment gives: observation, reward, flags, info, state."""
    env = make()
    past(env)
    for seed in (0, 1):
        assert differs_at(episodes(env, seed), episodes(make(), seed)) is None


@pytest.mark.parametrize("interrupted", [interrupted_step, interrupted_reset])
def test_an_interrupted_episode_can_go_on(make, env_id, interrupted):
    """After Ctrl-C in a step or a reset, the next step goes on from the state last told."""
    env, undisturbed = make(), make()
    interrupted(env)
    undisturbed.reset(options={"state": env.unwrapped.state()})
    undisturbed.unwrapped.np_random = copy.deepcopy(env.unwrapped.np_random)
    actions = sample(env, 60, seed=4)
    assert worst(play(env, actions), play(undisturbed, actions)) <= rounding(env_id)


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_two_hundred_seeds(make):
    """An environment that is always left in mid-episode repeats new ones, seed after seed."""
    old = make()
    for seed in range(200):
        new = make()
        assert differs_at(episodes(old, seed), episodes(new, seed)) is None, f"seed {seed}"
        new.close()


def test_seed_decides_all_later_starts(make):
    """reset(seed) and then reset() repeat a sequence of starts that are all different."""
    starts = [[begin(env, seed=5), *(begin(env) for _ in range(4))] for env in (make(), make())]
    assert differs_at(*starts) is None
    assert len({start[-1] for start in starts[0]}) == 5


def test_seeds_differ(make):
    """Each seed starts somewhere else, and no seed is not a seed in disguise."""
    env = make()
    starts = [begin(env, seed=seed) for seed in range(50)]
    starts += [begin(make()) for _ in range(3)]
    assert len({start[-1] for start in starts}) == 53


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_start_close_to_where_the_last_episode_was_left(make):
    """Contact points of the last episode do not help the solver in the next one."""
    env, new = make(), make()
    for steps in range(1, 40, 6):
        for nudge in (0.0, 1e-9, 1e-6, 1e-4):
            env.reset(seed=steps)
            play(env, sample(env, steps, seed=steps))
            # The last column is a speed in both problems.
            *names, last = env.unwrapped.state().items()
            options = {"state": {**dict(names), last[0]: last[1] + nudge}}
            new.close()
            new = make()
            old_seen, new_seen = (
                [begin(each, seed=3, options=options), *play(each, sample(each, 30, seed=3))]
                for each in (env, new)
            )
            assert differs_at(old_seen, new_seen) is None, f"{steps} steps, nudge {nudge}"


def test_state_restarts_exactly(make, env_id):
    """reset(options={"state": state()}) goes on as if nothing had happened."""
    env, copied = make(), make()
    for steps in (1, 5, 9):
        env.reset(seed=steps)
        play(env, sample(env, steps, seed=steps))
        given = env.unwrapped.state()
        seen = begin(copied, seed=4, options={"state": given})
        np.testing.assert_allclose(seen[-1], tuple(given.values()), rtol=0, atol=rounding(env_id))
        env.unwrapped.np_random = copy.deepcopy(copied.unwrapped.np_random)
        actions = sample(env, 60, seed=6)
        assert worst(play(copied, actions), play(env, actions)) <= rounding(env_id)


def test_state_columns_left_out_are_at_rest(make):
    """A state of no columns is the unstable equilibrium, and one column changes only itself."""
    env = make()
    rest = dict(zip(env.unwrapped.task.state_names, env.unwrapped.task.rest(), strict=True))
    env.reset(options={"state": {}})
    assert env.unwrapped.state() == rest
    last = list(rest)[-1]
    env.reset(options={"state": {last: 0.25}})
    assert env.unwrapped.state() == {**rest, last: 0.25}


CHILD = """
import json, sys
import bullet_envs, gymnasium as gym
from conftest import digest
from test_determinism import episodes

# Other clients, some closed again, so that Bullet's numbers differ from the parent's.
others = [gym.make(env_id) for env_id in bullet_envs.ENV_IDS for _ in range(3)]
for other in others:
    other.reset(seed=12)
    other.step(0)
others[1].close()
digests = {}
for env_id in bullet_envs.ENV_IDS:
    for continuous in (False, True):
        env = gym.make(env_id, continuous=continuous)
        digests[env_id + str(continuous)] = digest([episodes(env, seed) for seed in range(5)])
json.dump(digests, sys.stdout)
"""


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_other_process(run_python, hash_seed):
    """A process with another hash seed and other clients sees the same to the bit."""
    child = run_python(CHILD, PYTHONHASHSEED=hash_seed)
    assert child.returncode == 0, child.stderr.decode()
    theirs = json.loads(child.stdout)
    for env_id in bullet_envs.ENV_IDS:
        for continuous in (False, True):
            env = gym.make(env_id, continuous=continuous)
            ours = digest([episodes(env, seed) for seed in range(5)])
            env.close()
            assert theirs[env_id + str(continuous)] == ours


FORK_WARNING = "ignore:.*fork.*:DeprecationWarning"  # Python 3.12 warns whenever threads exist


@pytest.mark.filterwarnings(FORK_WARNING)
def test_fork_in_mid_episode(make):
    """A forked child goes on as the parent would, and the parent does not notice."""
    env, undisturbed = make(), make()
    for each in (env, undisturbed):
        each.reset(seed=3)
        play(each, sample(each, 5, seed=3))
    actions = sample(env, 60, seed=4)
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of pytest's may run in the child, whatever happens.
        try:
            os.write(sender, digest(play(env, actions)).encode())
            env.close()
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    ours = play(env, actions)
    assert differs_at(ours, play(undisturbed, actions)) is None
    assert theirs == digest(ours)


SPAWNED = """
import pickle, sys
from conftest import play
env, actions = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(play(env, actions)))
"""


def test_pickle_to_another_process(make, env_id, run_python):
    """A pickle of a running environment goes on in a new interpreter."""
    env = make()
    env.reset(seed=3)
    play(env, sample(env, 5, seed=3))
    actions = sample(env, 60, seed=4)
    child = run_python(SPAWNED, given=pickle.dumps((env, actions)))
    assert child.returncode == 0, child.stderr.decode()
    assert worst(pickle.loads(child.stdout), play(env, actions)) <= rounding(env_id)


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_async_vector_env(env_id, continuous, method):
    """Gymnasium's AsyncVectorEnv equals SyncVectorEnv with every way to start a process."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    makers = [functools.partial(gym.make, f"bullet_envs:{env_id}", continuous=continuous)] * 2
    seen = []
    for vector in (SyncVectorEnv(makers), AsyncVectorEnv(makers, context=method)):
        vector.action_space.seed(1)
        record = [vector.reset(seed=7)[0].tolist()]
        for _ in range(60):
            observations, rewards, ended, cut, _ = vector.step(vector.action_space.sample())
            columns = (observations, rewards, ended, cut)
            record.append([column.tolist() for column in columns])
        vector.close()
        seen.append(record)
    assert any(any(entry[2]) for entry in seen[0][1:]), "no episode ended: play longer"
    assert differs_at(*seen) is None


@pytest.mark.filterwarnings(FORK_WARNING)
def test_sb3_subproc_vec_env(env_id):
    """Stable-Baselines3's SubprocVecEnv equals DummyVecEnv."""
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    makers = [functools.partial(gym.make, f"bullet_envs:{env_id}")] * 2
    seen = []
    for vector in (
        vec_env.DummyVecEnv(makers),
        # The other ways to start a process import torch in each worker, which takes seconds.
        vec_env.SubprocVecEnv(makers, start_method="fork"),
    ):
        vector.seed(7)
        record = [vector.reset().tolist()]
        rng = np.random.default_rng(1)
        for _ in range(60):
            actions = rng.integers(vector.action_space.n, size=2)
            observations, rewards, ended, infos = vector.step(actions)
            columns = (observations, rewards, ended)
            record.append([*(column.tolist() for column in columns), repr(list(infos))])
        vector.close()
        seen.append(record)
    assert any("terminal_observation" in entry[3] for entry in seen[0][1:])
    assert differs_at(*seen) is None


COPIERS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


@pytest.fixture(params=COPIERS.values(), ids=COPIERS)
def copier(request):
    return request.param


def test_copy_in_mid_episode(make, env_id, copier):
    """A copy goes on like its original, later starts included, and neither feels the other."""
    env, undisturbed = make(), make()
    for each in (env, undisturbed):
        each.reset(seed=3)
        play(each, sample(each, 5, seed=3))
    twin = copier(env)
    assert state_of(twin) == state_of(env)
    actions = sample(env, 100, seed=4)
    ours, theirs = [], []
    for action in actions:
        theirs += play(twin, [action])
        ours += play(env, [action])
    twin.close()
    assert differs_at(ours + play(env, actions), play(undisturbed, actions * 2)) is None
    assert worst(ours, theirs) <= rounding(env_id)


def test_copy_outlives_its_original(make, env_id, copier):
    """Closing and forgetting the original leaves the copy alone."""
    env, undisturbed = make(), make()
    for each in (env, undisturbed):
        each.reset(seed=3)
        play(each, sample(each, 5, seed=3))
    twin = copier(env)
    env.close()
    gc.collect()
    actions = sample(twin, 60, seed=4)
    assert worst(play(twin, actions), play(undisturbed, actions)) <= rounding(env_id)
    twin.close()


def test_copy_before_the_first_reset(make, copier):
    """A copy of an unused environment is an unused environment."""
    twin = copier(make())
    assert differs_at(episodes(twin, 8), episodes(make(), 8)) is None
    twin.close()


def test_copy_after_an_end(make, copier):
    """A copy of an ended episode has ended, and can be reset."""
    env = make().unwrapped
    env.reset(seed=3)
    for action in sample(env, 500, seed=3):
        if env.step(action)[2]:
            break
    twin = copier(env)
    with pytest.warns(UserWarning, match=r"reset\(\)"):
        assert twin.step(sample(env, 1)[0])[1:] == (0.0, True, False, {})
    assert state_of(twin) == state_of(env)
    assert differs_at(episodes(twin, 8), episodes(env, 8)) is None
    twin.close()


def test_copy_after_close(make, copier):
    """A copy of a closed environment is closed."""
    env = make()
    env.reset(seed=3)
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        copier(env).reset()


def clients():
    return [client for client in range(1024) if p.isConnected(client)]


def test_fifty_at_once():
    """Environments that step in turns see what each would see alone."""
    kinds = [(env_id, kind) for env_id in bullet_envs.ENV_IDS for kind in (False, True)] * 13
    envs = [gym.make(env_id, continuous=kind) for env_id, kind in kinds[:50]]
    actions = [sample(env, 40, seed=seed) for seed, env in enumerate(envs)]
    together = [[begin(env, seed=seed)] for seed, env in enumerate(envs)]
    for step in range(40):
        for env, record, mine in zip(envs, together, actions, strict=True):
            record += play(env, [mine[step]])
    for env in envs:
        env.close()
    for seed, (env_id, kind) in enumerate(kinds[:50]):
        env = gym.make(env_id, continuous=kind)
        alone = [begin(env, seed=seed), *play(env, actions[seed])]
        env.close()
        assert differs_at(together[seed], alone) is None, f"{env_id} number {seed}"


def test_close_twice_spares_the_next_environment(make):
    """Bullet gives a closed client's number to the next one, which a second close must spare."""
    first, lone = make(render_mode="rgb_array"), make()
    lone.reset(seed=2)
    expected = play(lone, sample(lone, 60, seed=2))
    lone.close()
    first.reset(seed=1)
    first.render()
    first.close()
    second = make(render_mode="rgb_array")
    second.reset(seed=2)
    picture = second.render()
    first.close()
    first.unwrapped.close()
    del first
    gc.collect()
    assert np.array_equal(second.render(), picture)
    assert differs_at(play(second, sample(second, 60, seed=2)), expected) is None


def test_close_before_reset(make):
    """An environment that was never used closes, twice."""
    env = make(render_mode="rgb_array")
    env.close()
    env.close()


def test_close_frees_every_client(make, env_id):
    """After close no engine is left, those that draw included."""
    gc.collect()
    before = clients()
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    assert len(clients()) == len(before) + (3 if env_id in PIXEL_IDS else 2)
    env.close()
    assert clients() == before


def test_forgotten_environments_free_their_clients(env_id):
    """An environment that nobody closed goes with its last reference."""
    gc.collect()
    before = clients()
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    twin = copy.deepcopy(env)
    twin.step(0)
    del env, twin
    gc.collect()
    assert clients() == before


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_make_and_close_do_not_leak(env_id):
    """Memory stays where it is over a hundred environments and hundreds of resets."""

    def life():
        env = gym.make(env_id)
        for _ in range(5):
            env.reset(seed=0)
            env.step(0)
        env.close()

    for _ in range(50):
        life()
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        life()
    gc.collect()
    # One forgotten client would be 28 MiB, one forgotten body 2.6 kB.
    growth = resident_bytes() - before
    assert growth < 100 * 2000, f"{growth} bytes"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_resets_do_not_leak(env_id):
    """Memory stays where it is over hundreds of episodes of one environment."""
    env = gym.make(env_id)

    def live(count):
        for seed in range(count):
            env.reset(seed=seed)
            env.step(0)

    live(200)
    gc.collect()
    before = resident_bytes()
    live(800)
    gc.collect()
    growth = resident_bytes() - before
    env.close()
    assert growth < 800 * 200, f"{growth} bytes"
