"""The certificate finds planted mistakes, each by the check that bears its name, and no others."""

import gymnasium as gym
import numpy as np
import pytest
from broken_tasks import PLANTED, PointMass
from conftest import ALL_PIXEL_IDS, ALL_STATE_IDS
from robots import ElbowArm

from bullet_envs.certificate import CHECKS, Finding, certify, format_findings
from bullet_envs.engine.inverse_dynamics import InverseDynamics
from bullet_envs.engine.world import World
from bullet_envs.template import write_package

GYMNASIUM = ("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1", "CliffWalking-v1")
# What else goes wrong where something is: Gymnasium's own checker sees some of it, and what is kept
# between calls is seen by whoever calls in another order.
COMPANIONS = {
    "seeds": {"checker", "leak", "observation", "snapshot"},
    "leak": {"checker", "seeds", "vector", "snapshot"},
    "reward": {"observation", "memory", "vector", "snapshot"},
    "memory": {"checker", "vector"},
    "types": {"checker"},
    "finite": {"checker"},
    "time_limit": {"vector", "snapshot"},
    "observation": {"vector", "snapshot", "memory"},
    "snapshot": {"vector"},
    "motors": {"model"},
}


def failed(findings):
    return {one.name: one.summary for one in findings if one.passed is False}


# The first mistake that each check finds; the others, and those that take seconds, in the sweeps.
FIRST = {check: env_id for env_id, (check, _) in reversed(PLANTED.items())}.values()
SECONDS = {"IdleParameter-v0", "LastAction-v0", "Bearing-v0"}


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(env_id, marks=[] if env_id in {*FIRST} - SECONDS else [pytest.mark.sweep])
        for env_id in PLANTED
    ],
)
def test_a_planted_mistake_is_found_and_named(env_id):
    check, words = PLANTED[env_id]
    (finding,) = certify(env_id, quick=True, names=(check,))
    assert (finding.name, finding.passed) == (check, False), finding
    assert words in finding.summary


def test_a_step_counter_is_found_that_no_episode_reaches():
    """Of images few are drawn, and random actions let the pole fall."""
    kwargs = {"observer": "pixels"}
    (finding,) = certify("CountedSteps-v0", kwargs, quick=True, names=("time_limit",))
    assert finding.passed is False and "in one and the same state" in finding.summary


@pytest.mark.sweep
@pytest.mark.parametrize("env_id", list(FIRST)[::3])
def test_a_planted_mistake_is_all_that_is_found(env_id):
    check, _ = PLANTED[env_id]
    found = failed(certify(env_id, quick=True))
    assert check in found
    assert found.keys() <= {check} | COMPANIONS.get(check, set()), found


@pytest.mark.parametrize(
    "env_id",
    [
        *("BulletCartPole-v0", "ObservedTime-v0"),
        *(
            pytest.param(env_id, marks=pytest.mark.sweep)
            for env_id in (
                *("robots:ElbowArm-v0", "CartPole-v1", "ObservedCost-v0", "ShortEpisodes-v0"),
            )
        ),
    ],
)
def test_nothing_is_found_in_a_healthy_environment(env_id):
    findings = certify(env_id, quick=True)
    assert not failed(findings)
    assert [one.name for one in findings] == list(CHECKS)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "env_id", [*ALL_STATE_IDS, *ALL_PIXEL_IDS, *GYMNASIUM, "PointMass-v0", "OwnScene-v0"]
)
def test_nothing_is_found_with_all_steps(env_id):
    assert not failed(certify(env_id))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("BulletCartPole-v0", {"continuous": True, "control_hz": 20, "force": 50}),
        ("BulletCartPole-v0", {"perturbations": {"actions": {"delay": 1, "noise": {"slider": 1}}}}),
        ("BalancingPlate-v0", {"continuous": True, "rolling_friction": 0.001}),
    ],
)
def test_nothing_is_found_with_keywords(env_id, kwargs):
    assert not failed(certify(env_id, kwargs))


@pytest.mark.sweep
def test_nothing_is_found_in_what_new_writes(tmp_path, monkeypatch):
    folder = write_package("certified_arm", tmp_path)
    monkeypatch.syspath_prepend(folder / "src")
    assert not failed(certify("certified_arm:CertifiedArm-v0"))
    assert not failed(certify("certified_arm:CertifiedArm-v0", {"goal_observation": True}))


def test_what_applies_to_tasks_only_says_so():
    found = {one.name: one for one in certify("PointMass-v0", quick=True)}
    for name in ("observation", "motors", "randomisation", "snapshot", "model"):
        assert found[name].passed is None and found[name].summary


def test_motors_that_are_declared_are_left_out():
    (finding,) = certify("Shover-v0", names=("motors",))
    assert finding.passed is None and "slide, swing" in finding.summary


def test_an_environment_that_another_process_cannot_make():
    """Its class has no name that could be imported."""

    class Local(PointMass):
        pass

    gym.register("Local-v0", Local, max_episode_steps=50)
    try:
        (finding,) = certify("Local-v0", names=("seeds",))
    finally:
        del gym.registry["Local-v0"]
    assert finding.passed and "another process cannot make the environment" in finding.summary


def test_inverse_dynamics_measure_what_was_commanded():
    """A torque on the joints, as the certificate measures it, is the one that was commanded."""
    world = World(100, 50)
    scene = ElbowArm().build(world, 1)
    dynamics = InverseDynamics(world)
    efforts = dynamics.measure(lambda: scene.act((0.2, -0.1)), np.random.default_rng(1))
    world.close()
    assert [one.joint for one in efforts] == ["shoulder", "elbow"] and not dynamics.left_out
    for one, command in zip(efforts, (0.2, -0.1), strict=True):
        # The friction of a joint that slides is all that is left.
        assert abs(abs(one.effort - command) - one.friction) < 1e-9, one
        assert one.unit == "N·m"


def test_user_mistakes_are_errors_and_no_findings():
    with pytest.raises(gym.error.NameNotFound):
        certify("NoSuchTask-v0")
    with pytest.raises(ModuleNotFoundError):
        certify("no_such_module:Task-v0")
    with pytest.raises(TypeError, match="colour"):
        certify("BulletCartPole-v0", {"colour": "red"})
    with pytest.raises(ValueError, match="force"):
        certify("BulletCartPole-v0", {"force": -1})


def test_progress_and_table():
    begun = []
    findings = certify("PointMass-v0", progress=begun.append, names=("types", "motors"))
    assert begun == ["types", "motors"]
    table = format_findings([*findings, Finding("bounds", False, "observation[0] is 2")])
    words = [line.split(maxsplit=2) for line in table.splitlines()]
    assert [word[:2] for word in words] == [["ok", "types"], ["-", "motors"], ["FAILED", "bounds"]]
    assert words[2][2] == "observation[0] is 2"
