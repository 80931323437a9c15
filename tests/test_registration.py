"""One declaration makes a task's ids; the package imports where parts of POSIX are missing."""

import importlib
import sys

import gymnasium as gym
import pytest
from conftest import ALL_IDS, TASKS
from gymnasium.envs.registration import EnvSpec

import bullet_envs
from bullet_envs import Task, register_task, registered
from bullet_envs.registration import load_task

MODULE = """
from dataclasses import dataclass
from typing import ClassVar
from bullet_envs import Actuator, Task, register_task
from robots import Shover

@register_task("my_lab/Mine", version=3)
@dataclass(frozen=True, kw_only=True)
class Mine(Shover):
    max_episode_steps: ClassVar = LIMIT
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a user's module with a time limit, and (re)loads it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    registry = dict(gym.registry)
    tasks = dict(bullet_envs.registration._REGISTERED)

    def load(limit):
        (tmp_path / "lab_of_mine.py").write_text(MODULE.replace("LIMIT", str(limit)))
        importlib.invalidate_caches()
        if "lab_of_mine" in sys.modules:
            return importlib.reload(sys.modules["lab_of_mine"])
        return importlib.import_module("lab_of_mine")

    yield load
    sys.modules.pop("lab_of_mine", None)
    for mapping, before in (
        (gym.registry, registry),
        (bullet_envs.registration._REGISTERED, tasks),
    ):
        mapping.clear()
        mapping.update(before)


def test_ids():
    """State ids, then pixel ids, of our tasks and of the tests'; a foreign id is none of them."""
    # Other tests may have registered tasks of their own.
    assert [env_id for env_id in bullet_envs.ENV_IDS if env_id in ALL_IDS] == list(ALL_IDS)
    for task in TASKS:
        assert registered(task.state_id) is registered(f"anything:{task.pixel_id}") is task
        assert load_task(task.task).__name__ == task.task.partition(":")[2]
    assert registered("CartPole-v1") is None


def test_a_users_task(module):
    """Its ids are there at once: single and vector, states and images."""
    kind = module(17).Mine
    ids = ("my_lab/Mine-v3", "my_lab/MinePixels-v3")
    assert set(ids) < set(bullet_envs.ENV_IDS)
    assert registered(ids[0]).task == "lab_of_mine:Mine"
    for env_id in ids:
        env = gym.make(f"lab_of_mine:{env_id}", speed=0.3)
        assert type(env.unwrapped.task) is kind and env.unwrapped.task.speed == 0.3
        assert env.spec.max_episode_steps == 17
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
        assert again.unwrapped.task == env.unwrapped.task
        assert again.reset(seed=0)[0].tobytes() == env.reset(seed=0)[0].tobytes()
        envs = gym.make_vec(env_id, num_envs=2)
        assert envs.observation_space.shape == (2, *env.observation_space.shape)
        for each in (env, again, envs):
            each.close()


def test_a_reloaded_module(module):
    """The same task may be registered again; its present settings count."""
    module(17)
    before = bullet_envs.ENV_IDS
    module(23)
    assert before == bullet_envs.ENV_IDS
    assert gym.spec("my_lab/Mine-v3").max_episode_steps == 23
    registry = dict(gym.registry)
    bullet_envs.register_envs()
    assert gym.registry == registry


def test_forgotten_ids_come_back(module):
    """register_envs() registers what Gymnasium has lost, a user's task included."""
    module(17)
    spec = gym.registry.pop("my_lab/Mine-v3")
    bullet_envs.register_envs()
    assert gym.registry["my_lab/Mine-v3"] == spec


def test_foreign_ids_are_refused(module):
    """Neither Gymnasium's environments nor another task's are replaced."""
    registry, ids = dict(gym.registry), bullet_envs.ENV_IDS
    kind = load_task("robots:Shover")
    for name, version in (("CartPole", 1), ("BulletCartPole", 0), ("ElbowArm", 0)):
        with pytest.raises(ValueError, match=f"{name}-v{version} is registered for another"):
            register_task(name, version)(kind)
    with pytest.raises(gym.error.Error):
        register_task("no legal name!")(kind)
    assert gym.registry == registry
    assert ids == bullet_envs.ENV_IDS


def test_what_is_no_task_is_refused():
    class Nested(Task):
        pass

    for wrong in (int, object(), lambda: None):
        with pytest.raises(TypeError, match="decorates a subclass of Task"):
            register_task("Wrong")(wrong)
    with pytest.raises(ValueError, match="Nested must stand at the top level"):
        register_task("Wrong")(Nested)
    assert "Wrong-v0" not in gym.registry
    for path in ("robots", "robots:Nothing", "no_such_module:Task", "os:path", ":", "robots:HERE"):
        with pytest.raises(ValueError, match="task="):
            load_task(path)


WITHOUT = """
import builtins, ctypes, os, sys
import gymnasium, numpy, stable_baselines3, torch.utils.tensorboard  # they have what they need
del os.register_at_fork
sys.modules["fcntl"] = None  # its import fails
original = ctypes.CDLL

class NoHandleOfTheProcess(original):
    def __init__(self, name, *arguments, **keywords):
        if name is None:
            raise TypeError("no such handle here")
        super().__init__(name, *arguments, **keywords)

ctypes.CDLL = NoHandleOfTheProcess
import bullet_envs, bullet_envs.engine.egl, bullet_envs.engine.world
import bullet_envs.recorder, bullet_envs.cli, bullet_envs.agents, bullet_envs.agents.run
import bullet_envs.agents.dqn, bullet_envs.agents.sb3, bullet_envs.agents.reinforce
for env_id in bullet_envs.ENV_IDS:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.render()
    env.close()
sys.stdout.write("works")
"""


def test_works_without_posix(run_python):
    """Windows has neither register_at_fork nor fcntl nor a handle of the process itself."""
    child = run_python(WITHOUT)
    assert child.stdout == b"works", child.stderr.decode()
