"""Sub-environments in several processes equal those in one, and no process outlives its use."""

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import (
    ALL_IDS,
    ALL_PIXEL_IDS,
    STATE_IDS,
    assert_same,
    compare,
    prefixed,
    states_of,
)
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from robots import Shover

from bullet_envs import workers as workers_module
from bullet_envs.simulation import Simulation
from bullet_envs.workers import count_workers

MODES = list(AutoresetMode)
# How often each end of a process is tried, and the ids and modes that bear the quick tests.
TIMES = [1, pytest.param(10, marks=pytest.mark.sweep)]
QUICK = [
    *((STATE_IDS[0], mode) for mode in MODES),
    *((env_id, AutoresetMode.SAME_STEP) for env_id in ALL_IDS if env_id != STATE_IDS[0]),
]


def children():
    return [one for one in multiprocessing.active_children() if "bullet_envs" in one.name]


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    gc.collect()
    assert not children()


def play(envs, steps, seed=0):
    """Return what random actions are answered with."""
    envs.action_space.seed(seed)
    return [envs.step(envs.action_space.sample()) for _ in range(steps)]


@pytest.mark.parametrize("num_envs, workers", [(7, 2), pytest.param(5, 3, marks=pytest.mark.sweep)])
@pytest.mark.parametrize(
    "env_id, mode",
    [
        pytest.param(*(env_id, mode), marks=[] if (env_id, mode) in QUICK else [pytest.mark.sweep])
        for env_id in ALL_IDS
        for mode in MODES
    ],
)
def test_equals_one_process(make_vec, env_id, mode, num_envs, workers):
    """Whatever is returned is equal to the bit, through staggered ends and partial resets."""
    kwargs = {"autoreset_mode": mode, "max_episode_steps": 12}
    if env_id in ALL_PIXEL_IDS:
        kwargs["size"] = 20
    several = make_vec(env_id, num_envs, workers=workers, **kwargs)
    one = make_vec(env_id, num_envs, **kwargs)
    assert compare(several, one, 45, kept=2) > num_envs
    assert several.np_random_seed == one.np_random_seed
    assert [g.random() for g in several.np_random] == [g.random() for g in one.np_random]


@pytest.mark.parametrize(
    "mode", [MODES[0], *(pytest.param(mode, marks=pytest.mark.sweep) for mode in MODES[1:])]
)
def test_equals_singles(make_vec, mode):
    """As a ``SyncVectorEnv``, with worlds of several plates in each process."""
    kwargs = {"max_episode_steps": 30, "continuous": True}
    several = make_vec("BalancingPlate-v0", 40, workers=2, autoreset_mode=mode, **kwargs)
    singles = SyncVectorEnv(
        [lambda: gym.make("BalancingPlate-v0", **kwargs)] * 40, autoreset_mode=mode
    )
    assert compare(several, singles, 70, kept=5) > 40
    singles.close()


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("env_id", ["BulletCartPole-v0", "ShoverPixels-v0"])
def test_start_methods(make_vec, env_id, start_method):
    kwargs = {"autoreset_mode": "SameStep", "max_episode_steps": 6}
    several = make_vec(prefixed(env_id), 3, workers=2, start_method=start_method, **kwargs)
    assert compare(several, make_vec(env_id, 3, **kwargs), 15) > 3
    assert len(children()) == 1  # this process is the other


def test_seeds_states_and_masks(make_vec):
    several, one = (make_vec("BulletCartPole-v0", 5, workers=n) for n in (2, 1))
    mask = np.array([False, False, True, True, False])
    for reset in (
        {"seed": 3},
        {"seed": [9, None, 7, None, 1]},
        {"options": {"reset_mask": mask, "state": {"x": 0.5}}},
        {"seed": [None, None, 8, None, None], "options": {"reset_mask": mask}},
        {},
    ):
        assert_same(*(envs.reset(**copy.deepcopy(reset)) for envs in (several, one)))
        assert_same(states_of(several), states_of(one))
        assert_same(*(play(envs, 3) for envs in (several, one)))


@pytest.mark.parametrize("mode", MODES)
def test_frames(make_vec, small_frames, mode):
    """The frames of ``render``, single ones and lists."""
    for render_mode in ("rgb_array", "rgb_array_list"):
        kwargs = {"render_mode": render_mode, "max_episode_steps": 3, "autoreset_mode": mode}
        several, one = (make_vec("BulletCartPolePixels-v0", 2, workers=n, **kwargs) for n in (2, 1))
        frames = []
        for envs in (several, one):
            envs.reset(seed=0)
            play(envs, 5)
            frames.append(envs.render())
        assert_same(*frames)


@pytest.mark.parametrize("mode", MODES)
def test_skip_observations(make_vec, mode):
    kwargs = {"autoreset_mode": mode, "max_episode_steps": 7, "size": 20}
    several, one = (make_vec("BalancingPlatePixels-v0", 3, workers=n, **kwargs) for n in (2, 1))
    for envs in (several, one):
        envs.reset(seed=0)
        envs.skip_observations = True
    for step in range(20):
        assert_same(play(several, 1, step), play(one, 1, step))
        assert_same(several.observation(), one.observation())


COPIERS = [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))]
COPIER_IDS = ["deepcopy", "pickle"]


@pytest.mark.parametrize(
    "copier", [COPIERS[0], pytest.param(COPIERS[1], marks=pytest.mark.sweep)], ids=COPIER_IDS
)
@pytest.mark.parametrize("env_id", ["BalancingPlate-v0", "ElbowArmPixels-v0"])
def test_copy_goes_on(make_vec, env_id, copier):
    """Also one of a copy that has not been used, or of an environment that has been closed."""
    kwargs = {"max_episode_steps": 25, **({"size": 20} if env_id in ALL_PIXEL_IDS else {})}
    several, one = (make_vec(env_id, 5, workers=n, **kwargs) for n in (2, 1))
    fresh = copier(several)
    for envs in (several, one, fresh):
        envs.reset(seed=0)
        play(envs, 12)
    twin = copier(several)
    one.resynchronize()
    third = copier(twin)
    for envs in (twin, third):
        assert_same(states_of(envs), states_of(one))
    expected = play(one, 30)
    for envs in (several, twin, third):
        assert_same(play(envs, 30), expected)
    several.close()
    again = copier(several)
    assert_same(again.reset(), one.reset())
    for envs in (fresh, twin, third, again):
        envs.close()


def test_reset_after_close(make_vec):
    """It begins new processes, which go on with the generators of the old ones."""
    several, one = (make_vec("BulletCartPole-v0", 4, workers=n) for n in (2, 1))
    for envs in (several, one):
        envs.reset(seed=0)
        envs.close()
        assert not children()
        with pytest.raises(ClosedEnvironmentError):
            envs.step(np.zeros(4, np.int64))
    assert_same(several.reset(), one.reset())
    assert len(children()) == 1


def test_in_threads(make_vec):
    """Made in one thread, stepped in others, beside an environment of one of these."""
    several, one = (make_vec("BulletCartPole-v0", 4, workers=n) for n in (2, 1))
    one.reset(seed=0)
    expected = play(one, 50)
    found = {}

    def work(name, envs):
        envs.reset(seed=0)
        found[name] = play(envs, 50)

    def make_and_work():
        work("own", make_vec("BulletCartPole-v0", 4, workers=2))

    threads = [threading.Thread(target=work, args=("given", several))]
    threads += [threading.Thread(target=make_and_work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found["given"], expected)
    assert_same(found["own"], expected)


def test_a_bad_action_is_named(make_vec):
    """As in one process, and nothing has moved."""
    envs = make_vec("BulletCartPole-v0", 8, workers=2)
    envs.reset(seed=0)
    before = states_of(envs)
    with pytest.raises(ValueError, match=r"^actions\[6\]=2 must be a whole number from 0 to 1"):
        envs.step([0, 0, 0, 0, 0, 0, 2, 0])
    with pytest.raises(ValueError, match=r"seed\[1\]=-1 must be"):
        envs.reset(seed=[0, -1, *range(6)])
    assert_same(states_of(envs), before)


class Fragile(Shover):
    """Breaks when the box has been pushed."""

    def reward(self, state, action, next_state):
        if np.any(next_state[0] > 0.02):
            raise ZeroDivisionError("the box has been pushed")
        return 1.0


@pytest.mark.parametrize("pushed", [0, 2], ids=["here", "in a worker"])
def test_an_error_in_a_part(make_vec, pushed):
    """It is raised as it was, with a worker's traceback, and the next reset begins anew."""
    envs, one = (gym.make_vec("Shover-v0", num_envs=3, task=Fragile, workers=n) for n in (2, 1))
    actions = np.zeros(3, np.int64)
    actions[pushed] = 1
    for each in (envs, one):
        each.reset(seed=0)
        with pytest.raises(ZeroDivisionError, match="the box has been pushed") as caught:
            for _ in range(100):
                each.step(actions)
        if each is envs and pushed:
            assert "in reward" in str(caught.value.__cause__)
        with pytest.raises(ResetNeeded):
            each.step(actions)
    assert_same(envs.reset(), one.reset())
    assert len(children()) == 1
    for each in (envs, one):
        each.close()


def test_ctrl_c_in_a_step(make_vec, monkeypatch):
    """The parent gets it in the middle of a step, and asks for a reset."""
    step = Simulation.step

    def slow(self, *arguments):
        time.sleep(5)
        return step(self, *arguments)

    envs, one = make_vec("BulletCartPole-v0", 4, workers=2), make_vec("BulletCartPole-v0", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "step", slow)
        envs.reset(seed=0)
        begun = time.monotonic()
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            envs.step(np.zeros(4, np.int64))
        assert time.monotonic() - begun < 3
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros(4, np.int64))
    assert not children()
    assert_same(envs.reset(seed=1), one.reset(seed=1))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("moment", ["between steps", "in a step"])
def test_a_killed_worker_is_one_clear_error(make_vec, monkeypatch, moment, times):
    """Within a second; all other processes end, and a reset begins new ones."""
    one = make_vec("BulletCartPole-v0", 6)
    first = one.reset(seed=5)
    step, here = Simulation.step, os.getpid()

    def slow(*arguments):
        if os.getpid() != here:
            time.sleep(5)
        return step(*arguments)

    for number in range(times):
        with monkeypatch.context() as patch:
            if moment == "in a step":
                patch.setattr(Simulation, "step", slow)
            envs = make_vec("BulletCartPole-v0", 6, workers=3)
            envs.reset(seed=0)
            victim = children()[number % 2].pid
            delay = 0.2 if moment == "in a step" else 0.0
            timer = threading.Timer(delay, os.kill, (victim, signal.SIGKILL))
            timer.start()
            if not delay:
                timer.join()
            begun = time.monotonic()
            with pytest.raises(
                RuntimeError, match=r"sub-environments (2 to 3|4 to 5) has died \(SIGKILL\)"
            ):
                envs.step(np.zeros(6, np.int64))
            assert time.monotonic() - begun < 1 + delay
        with pytest.raises(ResetNeeded):
            envs.step(np.zeros(6, np.int64))
        assert not children()
        assert_same(envs.reset(seed=5), first)
        os.kill(children()[0].pid, signal.SIGKILL)
        envs.close()


PROGRAM = """
import gc, os, signal, sys, time
import gymnasium as gym, numpy as np, bullet_envs, multiprocessing
if __name__ == "__main__":
    how, start_method = sys.argv[1:]
    envs = gym.make_vec("BulletCartPole-v0", num_envs=4, workers=3, start_method=start_method)
    envs.reset(seed=0)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    actions = np.zeros(4, np.int64)
    if how == "close":
        envs.close()
    elif how == "collect":
        del envs
        gc.collect()
    elif how == "exit":
        sys.exit()
    elif how == "error":
        1 / 0
    elif how != "end":
        while True:  # Ctrl-C or a kill ends it
            envs.step(actions)
    if how != "end":
        print("alive", *[child.pid for child in multiprocessing.active_children()], flush=True)
        sys.stdin.read()
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def memory_files():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("pym-", "sem.", "psm_"))}


WAYS = ("close", "collect", "end", "exit", "error", "ctrl-c", "kill")


@pytest.mark.parametrize(
    "how, start_method, times",
    [
        *((how, "fork", 1) for how in ("close", "ctrl-c", "kill")),
        *[("kill", "forkserver", 1), ("end", "spawn", 1)],
        *(
            pytest.param(how, start_method, times, marks=pytest.mark.sweep)
            for how in WAYS
            for start_method, times in (("fork", 10), ("forkserver", 1), ("spawn", 1))
        ),
    ],
)
def test_no_process_and_no_memory_stays(tmp_path, how, start_method, times):
    """However the parent ends."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    before = memory_files()
    for _ in range(times):
        parent = subprocess.Popen(
            [sys.executable, str(program), how, start_method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        workers = list(map(int, parent.stdout.readline().split()))
        assert len(workers) == 2
        if how in ("close", "collect"):
            assert parent.stdout.readline().split() == ["alive"]
            assert not any(map(is_alive, workers))
        elif how == "ctrl-c":
            time.sleep(0.05)
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does, to all of them
        elif how == "kill":
            time.sleep(0.05)
            parent.kill()
        _, errors = parent.communicate(timeout=20)
        last = errors.strip().splitlines()[-1:]
        if how == "ctrl-c":
            assert last == ["KeyboardInterrupt"] and errors.count("Traceback") == 1
        elif how == "error":
            assert last == ["ZeroDivisionError: division by zero"]
        elif how != "kill":
            assert not errors
        deadline = time.monotonic() + 3
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_alive, workers))
    while memory_files() - before and time.monotonic() < deadline + 3:
        time.sleep(0.05)
    assert not memory_files() - before


def test_a_fork_has_no_workers(make_vec):
    """A forked process cannot use those of its parent, and leaves them alone at its end."""
    envs = make_vec("BulletCartPole-v0", 4, workers=2)
    envs.reset(seed=0)

    def use(pipe):
        try:
            envs.step(np.zeros(4, np.int64))
        except RuntimeError as error:
            pipe.send(str(error))

    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=use, args=(theirs,))
    process.start()
    process.join()
    assert "belong to the process" in mine.recv()
    envs.step(np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("workers", "error", "words"),
    [
        (0, ValueError, "workers=0 must be a whole number from 1 to 4 processes"),
        (5, ValueError, "workers=5 must be a whole number from 1 to 4 processes"),
        (2.0, TypeError, "workers=2.0 must be"),
        (True, TypeError, "workers=True must be"),
        ("all", ValueError, "workers='all' must be a whole number or 'auto'"),
    ],
)
def test_bad_workers(workers, error, words):
    with pytest.raises(error, match=words):
        gym.make_vec("BulletCartPole-v0", num_envs=4, workers=workers)
    with pytest.raises(ValueError, match="start_method='thread' must be None or one of fork"):
        gym.make_vec("BulletCartPole-v0", num_envs=4, workers=2, start_method="thread")


def test_auto_keeps_to_the_affinity(make_vec):
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert count_workers("auto", 64) == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert 1 <= count_workers("auto", 64) <= len(cores)
    assert count_workers("auto", 1) == 1
    assert make_vec("BulletCartPole-v0", 2, workers="auto").workers <= 2


def test_waiting_ends_with_who_is_waited_for():
    """A semaphore that is released at the last moment is not missed."""
    semaphore = multiprocessing.Semaphore(0)
    assert not workers_module._acquire(semaphore, 0.0, lambda: False)
    assert workers_module._acquire(semaphore, 0.0, lambda: bool(semaphore.release()))
    semaphore.release()
    assert workers_module._acquire(semaphore, 0.01, lambda: False)
