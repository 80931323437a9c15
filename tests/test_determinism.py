"""The same seed gives the same episode, whatever happened before and wherever it happens."""

import copy
import functools
import gc
import json
import multiprocessing
import os
import pickle
import threading
import time

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from conftest import (
    ALL_PIXEL_IDS,
    ALL_STATE_IDS,
    KINDS,
    begin,
    bits,
    differs_at,
    digest,
    play,
    prefixed,
    rounding,
    sample,
    state_of,
)
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from bullet_envs.engine.silence import p, silenced
from bullet_envs.simulation import Simulation

# Images have their own tests; here one of ours and one of the tests' must do.
IDS = (*ALL_STATE_IDS, "BalancingPlatePixels-v0", "ElbowArmPixels-v0")


@pytest.fixture(params=IDS)
def env_id(request):
    return request.param


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

    def act_only(simulation, command):
        simulation._worlds[0][1].act(command)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Simulation, "step_one", act_only)
        env.step(sample(env, 1, seed=97)[0])


def interrupted_reset(env):
    """Ctrl-C came in the middle of a reset, so the bodies are nowhere sensible."""
    aborted(env)
    set_state = Simulation.set_state

    def set_and_stop(simulation, states):
        set_state(simulation, states)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Simulation, "set_state", set_and_stop)
        env.reset(seed=97)


def closed(env):
    """It was closed in mid-episode; reset opens it again."""
    aborted(env)
    env.close()


def refused(env):
    """It was asked for what it cannot do."""
    aborted(env)
    with pytest.raises(TypeError):
        env.step(None)
    with pytest.raises(ValueError):
        env.reset(options={"no such option": 1})


sweep = pytest.mark.sweep
PASTS = [unused, finished, aborted, interrupted_step, interrupted_reset, closed, refused]


def episodes(env, seed):
    """Play from a seed: an episode or more, and an initial state that no seed asked for."""
    return [begin(env, seed=seed), *play(env, sample(env, 30, seed=seed)), begin(env)]


@pytest.mark.parametrize("past", PASTS, ids=lambda past: past.__name__)
def test_seed_forgets_the_past(make, past):
    """reset(seed) gives what a new environment gives: observation, reward, flags, info, state."""
    env = make()
    past(env)
    for seed in (0, 1):
        assert differs_at(episodes(env, seed), episodes(make(), seed)) is None


@pytest.mark.parametrize("interrupted", [interrupted_step, interrupted_reset])
def test_an_interrupted_episode_can_go_on(make, interrupted):
    """After Ctrl-C in a step or a reset, the next step goes on from the state last told."""
    env, undisturbed = make(), make()
    interrupted(env)
    undisturbed.reset(options={"state": env.unwrapped.state()})
    undisturbed.unwrapped.np_random = copy.deepcopy(env.unwrapped.np_random)
    (action,) = sample(env, 1, seed=4)
    np.testing.assert_allclose(
        *[play(each, [action])[0][-1] for each in (env, undisturbed)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 150), marks=sweep)], ids=len)
@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_many_seeds(make, seeds):
    """An environment that is always left in mid-episode repeats new ones, seed after seed."""
    old = make()
    for seed in seeds:
        new = make()
        assert differs_at(episodes(old, seed), episodes(new, seed)) is None, f"seed {seed}"
        new.close()


def test_seed_decides_all_later_initial_states(make):
    """reset(seed) and then reset() repeat a sequence of initial states that are all different."""
    initial = [[begin(env, seed=5), *(begin(env) for _ in range(4))] for env in (make(), make())]
    assert differs_at(*initial) is None
    assert len({entry[-1] for entry in initial[0]}) == 5


def test_seeds_differ(make):
    """Each seed begins somewhere else, and no seed is not a seed in disguise."""
    env = make()
    initial = [begin(env, seed=seed) for seed in range(50)]
    initial += [begin(make()) for _ in range(3)]
    assert len({entry[-1] for entry in initial}) == 53


@pytest.mark.parametrize("env_id", ALL_STATE_IDS)
def test_initial_state_close_to_where_the_last_episode_was_left(make):
    """Contact points, motors and limits of the last episode do not help the solver in the next."""
    env, new = make(), make()
    for steps in range(1, 40, 6):
        for nudge in (0.0, 1e-9, 1e-6, 1e-4):
            env.reset(seed=steps)
            play(env, sample(env, steps, seed=steps))
            # A column that may be any: a speed, or where the goal is.
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
    """reset(options={"state": state()}) goes on as the engine does once it was resynchronized."""
    env, copied = make(), make()
    for steps in (1, 5, 9):
        env.reset(seed=steps)
        play(env, sample(env, steps, seed=steps))
        given = env.unwrapped.state()
        seen = begin(copied, seed=4, options={"state": given})
        np.testing.assert_allclose(seen[-1], tuple(given.values()), rtol=0, atol=rounding(env_id))
        env.unwrapped.resynchronize()
        env.unwrapped.np_random = copy.deepcopy(copied.unwrapped.np_random)
        actions = sample(env, 25, seed=6)
        assert differs_at(play(copied, actions), play(env, actions)) is None


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
import gymnasium as gym
from conftest import ALL_IDS, KINDS, digest, sample
from test_determinism import episodes

# Other clients, some closed again, so that Bullet's numbers differ from the parent's.
others = [gym.make(env_id) for env_id in ALL_IDS for _ in range(2)]
for other in others:
    other.reset(seed=12)
    other.step(sample(other, 1)[0])
others[1].close()
digests = []
for env_id, continuous in KINDS:
    env = gym.make(env_id, continuous=continuous)
    digests.append(digest([episodes(env, seed) for seed in range(2)]))
json.dump(digests, sys.stdout)
"""


def test_other_process(run_python):
    """A process with another hash seed and other clients sees the same to the bit."""
    child = run_python(CHILD, PYTHONHASHSEED="4242")
    assert child.returncode == 0, child.stderr.decode()
    for (env_id, continuous), theirs in zip(KINDS, json.loads(child.stdout), strict=True):
        env = gym.make(env_id, continuous=continuous)
        ours = digest([episodes(env, seed) for seed in range(2)])
        env.close()
        assert theirs == ours, (env_id, continuous)


FORK_WARNING = "ignore:.*fork.*:DeprecationWarning"  # Python 3.12 warns whenever threads exist


def test_fork_while_another_thread_makes_a_world():
    """A child can make one too, and prints where its parent does."""
    began = threading.Event()

    def make_slowly():
        with silenced():
            began.set()
            time.sleep(0.3)

    def use(pipe):
        env = gym.make("BulletCartPole-v0")
        env.reset(seed=0)
        pipe.send(os.fstat(1) == parents_output)

    parents_output = os.fstat(1)
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=use, args=(theirs,), daemon=True)
    thread = threading.Thread(target=make_slowly)
    thread.start()
    began.wait()
    child.start()
    thread.join()
    assert mine.poll(20) and mine.recv()
    child.join()


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
played = [play(env, actions) for env, actions in pickle.load(sys.stdin.buffer)]
sys.stdout.buffer.write(pickle.dumps(played))
"""


def test_pickle_to_another_process(run_python):
    """Pickles of running environments go on in a new interpreter, equal to the bit."""
    envs = [gym.make(env_id, continuous=continuous) for env_id, continuous in KINDS]
    for env in envs:
        env.reset(seed=3)
        play(env, sample(env, 12, seed=3))
    running = [(env, sample(env, 60, seed=4)) for env in envs]
    child = run_python(SPAWNED, given=pickle.dumps(running))
    assert child.returncode == 0, child.stderr.decode()
    for (env, actions), theirs in zip(running, pickle.loads(child.stdout), strict=True):
        assert differs_at(theirs, play(env, actions)) is None, env
        env.close()


def record(vector, actions):
    """Play, and return all that a vector environment returns to the bit."""
    seen = [tuple(map(bits, vector.reset(seed=7)))]
    seen += [tuple(map(bits, vector.step(action))) for action in actions]
    return seen


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.skipif(gym.__version__ < "1.1", reason="its two vector environments differ")
@pytest.mark.parametrize(
    ("env_id", "method"),
    [(env_id, "fork") for env_id in IDS]
    + [("BulletCartPole-v0", "forkserver"), ("ElbowArmPixels-v0", "spawn")]
    + [
        pytest.param(env_id, "spawn", marks=sweep)
        for env_id in IDS
        if env_id != "ElbowArmPixels-v0"
    ]
    + [pytest.param("ElbowArmPixels-v0", "forkserver", marks=sweep)],
)
def test_async_vector_env(env_id, method):
    """Gymnasium's AsyncVectorEnv equals SyncVectorEnv with every way to start a process.

    A worker imports the package of ``module:id`` itself, ``tests/robots.py`` included.
    """
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    kwargs = {"continuous": method != "spawn", "max_episode_steps": 40}
    makers = [functools.partial(gym.make, prefixed(env_id), **kwargs)] * 2
    singles, workers = SyncVectorEnv(makers), AsyncVectorEnv(makers, context=method)
    actions = sample(singles, 60)
    seen = [record(vector, actions) for vector in (singles, workers)]
    singles.close()
    workers.close()
    assert any(np.frombuffer(part[0], bool).any() for entry in seen[0][1:] for part in entry[2:4])
    assert differs_at(*seen) is None


@pytest.mark.filterwarnings(FORK_WARNING)
def test_sb3_subproc_vec_env(env_id):
    """Stable-Baselines3's SubprocVecEnv equals DummyVecEnv."""
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    makers = [functools.partial(gym.make, prefixed(env_id), max_episode_steps=40)] * 2
    seen = []
    for vector in (
        vec_env.DummyVecEnv(makers),
        # The other ways to start a process import torch in each worker, which takes seconds.
        vec_env.SubprocVecEnv(makers, start_method="fork"),
    ):
        vector.seed(7)
        entries = [bits(vector.reset())]
        vector.action_space.seed(1)
        for _ in range(60):
            actions = np.array([vector.action_space.sample() for _ in range(2)])
            observations, rewards, ended, infos = vector.step(actions)
            columns = observations, rewards.astype(np.float32), ended  # Dummy's are float32
            entries.append((*map(bits, columns), list(map(bits, infos))))
        vector.close()
        seen.append(entries)
    assert any("terminal_observation" in info for entry in seen[0][1:] for info in entry[3])
    assert differs_at(*seen) is None


COPIERS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


@pytest.fixture(
    params=[
        pytest.param(copier, marks=[] if name == "deepcopy" else [sweep])
        for name, copier in COPIERS.items()
    ],
    ids=COPIERS,
)
def copier(request):
    return request.param


def test_copy_in_mid_episode(make, copier):
    """A copy goes on like its original to the bit, later initial states included.

    Neither feels the other, and the original goes on as if only it had been resynchronized.
    """
    env, undisturbed = make(), make()
    for each in (env, undisturbed):
        each.reset(seed=3)
        play(each, sample(each, 12, seed=3))  # the plate's ball and the puck touch and are touched
    twin = copier(env)
    undisturbed.unwrapped.resynchronize()
    assert state_of(twin) == state_of(env)
    actions = sample(env, 100, seed=4)
    ours, theirs = [], []
    for action in actions:
        theirs += play(twin, [action])
        ours += play(env, [action])
    twin.close()
    assert differs_at(ours + play(env, actions), play(undisturbed, actions * 2)) is None
    assert differs_at(ours, theirs) is None


def test_how_far_a_run_that_was_never_copied_differs():
    """A copy costs a plate the contact forces of before: 1e-14 in the median, 2e-6 at worst."""
    differences = []
    for seed in range(25):
        env, never_copied = (gym.make("BalancingPlate-v0").unwrapped for _ in range(2))
        for each in (env, never_copied):
            each.reset(seed=seed)
            assert not any(each.step(action)[2] for action in sample(each, 12, seed=seed))
        copy.deepcopy(env).close()
        for action in sample(env, 20, seed=seed + 100):
            _, _, terminated, _, _ = env.step(action)
            never_copied.step(action)
            if terminated:
                break
        states = np.array(state_of(env)), np.array(state_of(never_copied))
        differences.append(np.abs(states[0] - states[1]).max())
        env.close()
        never_copied.close()
    assert 0 < max(differences) < 1e-5
    assert np.median(differences) < 1e-12


def test_resynchronize(make):
    """What follows depends on state() alone: it equals a new environment in that state."""
    env, new = make(), make()
    env.reset(seed=3)
    play(env, sample(env, 12, seed=3))
    given = env.unwrapped.state()
    env.unwrapped.resynchronize()
    assert env.unwrapped.state() == given
    new.reset(options={"state": given})
    for action in sample(env, 4, seed=9):
        mine, theirs = env.step(action), new.step(action)
        assert state_of(env) == state_of(new)
        if mine[2] or theirs[2]:
            break


def test_copy_outlives_its_original(make, copier):
    """Closing and forgetting the original leaves the copy alone."""
    env, undisturbed = make(), make()
    for each in (env, undisturbed):
        each.reset(seed=3)
        play(each, sample(each, 5, seed=3))
    twin = copier(env)
    undisturbed.unwrapped.resynchronize()
    env.close()
    gc.collect()
    actions = sample(twin, 60, seed=4)
    assert differs_at(play(twin, actions), play(undisturbed, actions)) is None
    twin.close()


def test_copy_before_the_first_reset(make, copier):
    """A copy of an unused environment is an unused environment."""
    twin = copier(make())
    assert differs_at(episodes(twin, 8), episodes(make(), 8)) is None
    twin.close()


@pytest.mark.parametrize("env_id", [id for id in IDS if not id.startswith("ElbowArm")])
def test_copy_after_an_end(make, copier):
    """A copy of an episode that has terminated has terminated too, and can be reset."""
    env = make().unwrapped
    terminated = False
    for seed in range(20):
        env.reset(seed=seed)
        actions = iter(sample(env, 200, seed=seed))
        while not terminated and (action := next(actions, None)) is not None:
            terminated = env.step(action)[2]
        if terminated:
            break
    twin = copier(env)
    with pytest.warns(UserWarning, match=r"reset\(\)"):
        assert twin.step(sample(env, 1)[0])[1:] == (0.0, True, False, {})
    assert state_of(twin) == state_of(env)
    assert differs_at(episodes(twin, 8), episodes(env, 8)) is None
    twin.close()


def test_copy_after_close(make, copier):
    """A copy of a closed environment is closed, until it is reset."""
    env = make()
    env.reset(seed=3)
    env.close()
    twin = copier(env)
    with pytest.raises(ClosedEnvironmentError):
        twin.step(sample(env, 1)[0])
    assert differs_at(episodes(twin, 8), episodes(make(), 8)) is None
    twin.close()


def clients():
    return [client for client in range(1024) if p.isConnected(client)]


def test_many_at_once():
    """Environments that step in turns see what each would see alone."""
    kinds = KINDS * 2
    envs = [gym.make(env_id, continuous=kind) for env_id, kind in kinds]
    actions = [sample(env, 30, seed=seed) for seed, env in enumerate(envs)]
    together = [[begin(env, seed=seed)] for seed, env in enumerate(envs)]
    for step in range(30):
        for env, seen, mine in zip(envs, together, actions, strict=True):
            seen += play(env, [mine[step]])
    for env in envs:
        env.close()
    for seed, (env_id, kind) in enumerate(kinds):
        env = gym.make(env_id, continuous=kind)
        alone = [begin(env, seed=seed), *play(env, actions[seed])]
        env.close()
        assert differs_at(together[seed], alone) is None, f"{env_id} number {seed}"


def test_close_twice_spares_the_next_environment(make, small_frames):
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
    frame = second.render()
    first.close()
    first.unwrapped.close()
    del first
    gc.collect()
    assert np.array_equal(second.render(), frame)
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
    assert len(clients()) == len(before) + (3 if env_id in ALL_PIXEL_IDS else 2)
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
    twin.step(sample(twin, 1)[0])
    del env, twin
    gc.collect()
    assert clients() == before


# Every kind of scene and of observer.
LEAK_IDS = ("BulletCartPole-v0", "BalancingPlatePixels-v0", "ElbowArmPixels-v0", "Shover-v0")


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.sweep
@pytest.mark.parametrize("env_id", LEAK_IDS)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_make_and_close_do_not_leak(env_id):
    """Memory stays where it is over a hundred environments and hundreds of resets."""

    action = sample(gym.make(env_id), 1)[0]

    def life():
        env = gym.make(env_id)
        for _ in range(5):
            env.reset(seed=0)
            env.step(action)
        env.close()

    for _ in range(40):
        life()
    gc.collect()
    before = resident_bytes()
    for _ in range(100):
        life()
    gc.collect()
    # One forgotten client would be 28 MiB, one forgotten body 2.6 kB.
    growth = resident_bytes() - before
    assert growth < 100 * 2000, f"{growth} bytes"


@pytest.mark.parametrize("env_id", LEAK_IDS)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_resets_do_not_leak(env_id):
    """Memory stays where it is over hundreds of episodes of one environment."""
    env = gym.make(env_id)
    action = sample(env, 1)[0]

    def live(count):
        for seed in range(count):
            env.reset(seed=seed)
            env.step(action)

    live(200)
    gc.collect()
    before = resident_bytes()
    live(800)
    gc.collect()
    growth = resident_bytes() - before
    env.close()
    assert growth < 800 * 200, f"{growth} bytes"
