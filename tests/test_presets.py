"""Presets of perturbations: scaled from a template, for states and images, and controllable."""

import csv
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import PIXEL_IDS, STATE_IDS

from benchmarks import presets
from bullet_envs.agents import load_agent
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.perturbation_scaling import scaled
from bullet_envs.perturbations import for_observer
from bullet_envs.tasks.cart_pole import CartPole

ROOT = Path(__file__).parent.parent
ONE_OF_EACH = {
    "parameters": {
        "pole_mass": {"uniform": [0.5, 1.5], "operation": "scale", "when": "make"},
        "cart_mass": {"log_uniform": [0.5, 2.0], "operation": "scale"},
        "force": {"normal": [1.0, 2.0, -4.0, 6.0], "operation": "add"},
        "pole_length": {"uniform": [0.8, 1.2]},
        "pole_friction": 0.01,
    },
    "actions": {
        "delay": 3,
        "noise": {"slider": 0.5},
        "dead_zone": {"slider": 1.0},
        "saturation": {"slider": 9.0},
    },
    "observations": {
        "delay": 1,
        "noise": {"theta": 0.01},
        "bias": {"x": {"uniform": [-0.1, 0.1]}, "theta": 0.02},
        "dropped": {"probability": 0.7, "steps": 2},
        "stuck": {"probability": 0.1},
    },
    "images": {"brightness": {"uniform": [0.8, 1.2]}, "noise": 4.0, "camera": 0.01},
    "pushes": [
        {"body": "pole", "impulse": {"uniform": [-0.1, 0.2]}, "rate": 2},
        {"body": "cart", "force": 3.0, "time": 0.2, "duration": 0.1},
    ],
}
TWICE = {
    "parameters": {
        "pole_mass": {"uniform": [0.0, 2.0], "operation": "scale", "when": "make"},
        "cart_mass": {"log_uniform": [0.25, 4.0], "operation": "scale"},
        "force": {"normal": [2.0, 4.0, -8.0, 12.0], "operation": "add"},
        "pole_length": {"uniform": [0.8, 1.2]},
        "pole_friction": 0.01,
    },
    "actions": {
        "delay": 6,
        "noise": {"slider": 1.0},
        "dead_zone": {"slider": 2.0},
        "saturation": {"slider": 9.0},
    },
    "observations": {
        "delay": 2,
        "noise": {"theta": 0.02},
        "bias": {"x": {"uniform": [-0.2, 0.2]}, "theta": 0.04},
        "dropped": {"probability": 1.0, "steps": 2},
        "stuck": {"probability": 0.2},
    },
    "images": {"brightness": {"uniform": [0.6, 1.4]}, "noise": 8.0, "camera": 0.02},
    "pushes": [
        {"body": "pole", "impulse": {"uniform": [-0.2, 0.4]}, "rate": 2},
        {"body": "cart", "force": 6.0, "time": 0.2, "duration": 0.1},
    ],
}


def rounded(data):
    """Return data with its numbers rounded to 12 digits."""
    if isinstance(data, dict):
        return {name: rounded(part) for name, part in data.items()}
    if isinstance(data, list):
        return [rounded(part) for part in data]
    return round(data, 12) if isinstance(data, float) else data


def test_scaled():
    """Each distance from the nominal value is multiplied, and nothing else."""
    assert rounded(scaled(ONE_OF_EACH, 2)) == TWICE
    assert rounded(scaled(ONE_OF_EACH, 1)) == ONE_OF_EACH
    assert scaled(ONE_OF_EACH, 0.6)["actions"]["delay"] == 1  # 1.8


def test_parameters_are_cut_at_what_is_legal():
    """With the task that the parameters are of."""
    task = gym.make("BulletCartPole-v0").unwrapped.task
    parameters = scaled(ONE_OF_EACH, 2, task)["parameters"]
    assert parameters["pole_mass"]["uniform"] == [pytest.approx(0.1), 2.0]
    assert parameters["force"]["normal"] == [2.0, 4.0, -8.0, 12.0]
    far = scaled(ONE_OF_EACH, 3, task)["parameters"]
    assert far["force"]["normal"] == [3.0, 6.0, pytest.approx(-9.9), 18.0]


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_scale_0_perturbs_nothing(env_id):
    """The template at 0 is the nominal robot, to the bit."""
    task = gym.make(env_id).unwrapped.task
    nothing = scaled(task.perturbation_template, 0)
    nothing.pop("images")
    states = []
    for perturbations in (None, nothing):
        env = gym.make(env_id, perturbations=perturbations)
        env.reset(seed=1, options={"state": {}})
        env.action_space.seed(1)
        states += [[env.step(env.action_space.sample())[0] for _ in range(20)]]
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize("env_id", STATE_IDS + PIXEL_IDS)
def test_presets_are_played(env_id):
    """By name, on states and images, each felt in the first steps."""
    task = gym.make(env_id).unwrapped.task
    assert {"easy", "medium", "hard"} <= set(task.perturbation_presets)
    for name in (None, *task.perturbation_presets):
        env = gym.make(env_id, perturbations=name)
        _, info = env.reset(seed=0)
        assert bool(info.get("parameters")) is (name is not None)
        observations = [env.step(env.action_space.sample())[0] for _ in range(3)]
        assert all(observation in env.observation_space for observation in observations)
        env.close()


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_the_scales_are_those_that_were_measured(env_id):
    """The LQG keeps 490 at medium and 250 at hard, at the next scale it does not; easy is half."""
    with (ROOT / "benchmarks" / "presets.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["env_id"] == env_id]
    task = presets.task_of(env_id)
    means = {
        float(row["perturbations"]): float(row["mean"])
        for row in rows
        if row["perturbations"].replace(".", "").isdecimal() and row["episodes"] == "1000"
    }
    found = {}
    for name, kept in presets.KEPT.items():
        found[name] = max(scale for scale, mean in means.items() if mean >= kept)
        beyond = round(found[name] + presets.STEP, 2)
        assert means.get(beyond, 0.0) < kept
        assert task.perturbation_presets[name] == scaled(task.perturbation_template, found[name])
    easy = scaled(task.perturbation_template, found["medium"] / 2)
    assert task.perturbation_presets["easy"] == easy
    named = {(row["perturbations"], row["algo"]) for row in rows}
    assert {(name, algo) for name in task.perturbation_presets for algo in ("lqg", "lqr")} <= named


def test_the_document_shows_the_csv():
    """The table of docs/perturbations.md is that of the CSV."""
    rows = presets.read_rows(presets.CSV_PATH)
    text = (ROOT / "docs" / "perturbations.md").read_text()
    assert f"<!-- presets -->\n{presets.table(rows)}\n<!-- /presets -->" in text


def test_the_largest_scale_is_searched_for():
    """By bisection with few episodes, then step by step with all."""
    played = []

    def kept_at(scale, episodes):
        played.append((round(scale, 2), episodes))
        right = 1.50 if episodes == presets.SEARCH_EPISODES else 1.40
        return 500.0 if scale < right + 1e-9 else 100.0

    assert presets.largest_scale(kept_at, 490) == pytest.approx(1.40)
    assert (1.40, 1000) in played and (1.45, 1000) in played
    assert len(played) < 12


@pytest.mark.parametrize(
    "perturbations",
    [
        {"observations": {"noise": {"ball_x": 0.003, "ball_vx": 0.02, "pitch_rate": 0.05}}},
        {"parameters": {"rolling_friction": {"uniform": [5e-5, 1e-4]}}},
    ],
    ids=["noise", "rolling friction"],
)
def test_the_lqg_holds_the_plate(perturbations):
    """To the last step: its filter stays stable, and its model does not stick."""
    agent = load_agent("BalancingPlate-v0", "lqg", perturbations=perturbations)
    assert evaluate(agent, range(5)).returns.min() == 500


def test_the_lqg_holds_what_an_lqr_loses():
    """Delays and noise of the cart-pole's medium tier, without pushes."""
    preset = dict(gym.make("BulletCartPole-v0").unwrapped.task.perturbation_presets["medium"])
    preset.pop("pushes")
    preset.pop("images")
    returns = {
        algo: evaluate(load_agent("BulletCartPole-v0", algo, perturbations=preset), range(10))
        for algo in ("lqg", "lqr")
    }
    assert returns["lqg"].returns.mean() > 475
    assert returns["lqr"].returns.mean() < 400


@pytest.mark.parametrize(
    "tier, delay, noise, fault, steps, low, high",
    [
        ("easy", 2, 0.1, 0.01, 1, 0.9, 1.1),
        ("medium", 3, 0.3, 0.05, 3, 0.7, 1.7),
        ("hard", 5, 1.0, 0.1, 5, 0.5, 2.3),
    ],
)
def test_tiers_of_realworldrl(tier, delay, noise, fault, steps, low, high):
    """Its numbers, with periods of 0.02 s in place of 0.01 s and a force of 10 N."""
    given = CartPole.perturbation_presets[f"rwrl-{tier}"]
    faults = {"probability": fault, "steps": steps}
    assert given == {
        "parameters": {"pole_length": {"uniform": [low, high], "operation": "scale"}},
        "actions": {"delay": delay, "noise": {"slider": 10 * noise}},
        "observations": {
            "delay": delay,
            "noise": {"x": noise, "x_dot": noise, "theta": noise, "theta_dot": noise},
            "dropped": faults,
            "stuck": faults,
        },
    }


def test_presets_for_images():
    """Without what columns alone have, also where nothing of the sensors is perturbed."""
    whole = {"observations": {"noise": {"x": 1.0}, "delay": 2}, "images": {"noise": 3.0}}
    assert for_observer(whole, True) == {"observations": {"delay": 2}, "images": {"noise": 3.0}}
    assert for_observer(whole, False) == {"observations": whole["observations"]}
    assert for_observer({"actions": {"delay": 1}}, True)["actions"] == {"delay": 1}


def test_scaled_faults_need_no_probability():
    """It is 0, as in what is not scaled."""
    assert scaled({"observations": {"stuck": {"steps": 2}}}, 3.0) == {
        "observations": {"stuck": {"steps": 2, "probability": 0.0}}
    }
