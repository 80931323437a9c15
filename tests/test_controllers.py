"""The controllers are the floor and the ceiling of every table, and oracles of the simulator."""

import re

import gymnasium as gym
import numpy as np
import pytest
from analytic_lqr import cart_pole_model, links, lqr_gain, plate_model
from conftest import STATE_IDS

from bullet_envs import assets
from bullet_envs.agents import BUNDLED_ALGOS, EnvConfig, load_agent
from bullet_envs.agents.evaluation import evaluate

# The hand-made original, with a start from which its feeble torque can right the plate.
ORIGINAL_PLATE = {
    "control_hz": 100,
    "torque": 0.0003,
    "ball_mass": 0.0007,
    "drop_height": 0.02,
    "start_position": 0.01,
    "start_tilt": 0.01,
}
TWINS = {"CartPole-v1": "BulletCartPole-v0", "BulletCartPole-v0": "CartPole-v1"}


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_lqr_solves_every_start(env_id, continuous):
    """The LQR lasts all 500 actions from 100 starts of 100, bang-bang and continuous."""
    returns = evaluate(load_agent(env_id, "lqr", continuous=continuous)).returns
    assert returns.shape == (100,)
    assert set(returns) == {500.0}


@pytest.mark.parametrize("control_hz", [50, 25])
def test_lqr_holds_the_ball_in_the_middle(control_hz, continuous):
    """From action 250 on the ball stays within about 1 cm, also at half the control rate."""
    agent = load_agent("BalancingPlate-v0", "lqr", control_hz=control_hz, continuous=continuous)
    with agent.make_env() as env:
        for seed in range(6):
            observation, _ = env.reset(seed=seed)
            for action in range(500):
                observation, _, terminated, _, _ = env.step(agent.predict(observation)[0])
                assert not terminated
                state = env.unwrapped.state()
                if action >= 250:
                    assert np.hypot(state["ball_x"], state["ball_y"]) < 0.011, (seed, action)


def test_lqr_solves_the_original_plate():
    """The hand-made original, ball dropped from 2 cm, is held for 500 actions from 100 of 100."""
    assert set(evaluate(load_agent("BalancingPlate-v0", "lqr", **ORIGINAL_PLATE)).returns) == {
        500.0
    }


def test_the_original_cart_pole_runs():
    """The hand-made original's 50 N at 20 Hz are too coarse to balance with; continuous they do."""
    original = {"control_hz": 20, "force": 50, "x_limit": 10}
    coarse = load_agent("BulletCartPole-v0", "lqr", **original)
    fine = load_agent("BulletCartPole-v0", "lqr", continuous=True, **original)
    assert evaluate(coarse, range(20)).returns.mean() < 500
    assert set(evaluate(fine, range(20)).returns) == {500.0}


@pytest.mark.parametrize(
    "env_id, low, high", [("BalancingPlate-v0", 30, 100), ("BulletCartPole-v0", 15, 30)]
)
def test_random_is_the_floor(env_id, low, high):
    """A random policy loses the ball in about 50 actions and the pole in about 22."""
    assert low < evaluate(load_agent(env_id, "random")).returns.mean() < high


def cart_pole_cost(physics_hz, start):
    """Return the cost that the LQR pays in the simulator, and the one that Riccati predicts."""
    tolerance, force = np.array([0.5, 0.1, 1.0, 0.5]), 10.0
    model = cart_pole_model(links("cart_pole.urdf"), 9.8)
    gain, prediction = lqr_gain(*model, 1 / 50, tolerance, force)
    start = np.array(start)
    paid = 0.0
    with gym.make("BulletCartPole-v0", continuous=True, physics_hz=physics_hz) as env:
        names = ("x", "theta", "x_dot", "theta_dot")
        env.reset(options={"state": dict(zip(names, start.tolist(), strict=True))})
        for _ in range(499):
            state = env.unwrapped.state()
            x = np.array([state[name] for name in names])
            u = float(-gain @ x)
            paid += np.sum((x / tolerance) ** 2) + (u / force) ** 2
            env.step(np.array([u / force]))
    return paid, start @ prediction @ start


def plate_cost(axis, physics_hz, start):
    """Return the same two for one axis of the plate."""
    tolerance, effort = np.array([0.02, 0.05, 0.2, 0.4]), 0.001
    parts = links("balancing_plate.urdf")
    ball = links("ball.urdf")["ball"]
    height = parts["plate"].collision_size[2] / 2 + ball.collision_size[0]
    if axis == "roll":
        sign, place, index, inertia = 1, "ball_x", 1, parts["plate"].inertia[1]
    else:
        inertia = parts["plate"].inertia[0] + parts["ring"].inertia[0]
        sign, place, index = -1, "ball_y", 0
    model = plate_model(inertia, ball.mass, ball.collision_size[0], height, 9.8)
    gain, prediction = lqr_gain(*model, 1 / 50, tolerance, effort)

    with gym.make("BalancingPlate-v0", continuous=True, physics_hz=physics_hz) as env:
        s, tilt, s_dot = start
        # The ball's bottom is on the plate, so a tilt about the plate's centre carries it along.
        turned = sign * (s * np.cos(tilt) + height * np.sin(tilt))
        lifted = height * np.cos(tilt) - s * np.sin(tilt)
        spin = {"ball_wy" if axis == "roll" else "ball_wx": s_dot / ball.collision_size[0]}
        speed = {place.replace("_", "_v"): sign * s_dot}
        env.reset(options={"state": {axis: tilt, place: turned, "ball_z": lifted, **speed, **spin}})
        paid, x = 0.0, None
        for _ in range(499):
            state = env.unwrapped.state()
            tilt, rate = state[axis], state[f"{axis}_rate"]
            s = sign * state[place] - height * tilt
            s_dot = sign * state[place.replace("_", "_v")] - height * rate
            if x is None:
                first = np.array([s, tilt, s_dot, rate])
            x = np.array([s, tilt, s_dot, rate])
            u = float(-gain @ x)
            paid += np.sum((x / tolerance) ** 2) + (u / effort) ** 2
            action = np.zeros(2)
            action[index] = u / 0.005
            env.step(action)
    return paid, first @ prediction @ first


def check_cost(cost, start):
    """Compare at 100 Hz, at 1000 Hz, and extrapolated to physics steps of length zero."""
    errors = []
    for physics_hz in (100, 1000):
        paid, predicted = cost(physics_hz, start)
        errors.append(paid / predicted - 1)
    coarse, fine = errors
    assert abs(coarse) < 0.04
    assert abs(fine) < 0.004
    assert abs(10 * fine - coarse) / 9 < 2e-4  # the error is proportional to the step


@pytest.mark.parametrize(
    "start", [(0.01, 0, 0, 0), (0, 0.01, 0, 0), (0, 0, 0.02, 0), (0, 0, 0, 0.02)], ids=str
)
def test_cart_pole_costs_what_riccati_predicts(start):
    """The cost summed in Bullet equals x'Px of the textbook model: to 4 %, 0.4 % and 0.02 %."""
    check_cost(cart_pole_cost, start)


@pytest.mark.parametrize("axis", ["pitch", "roll"])
@pytest.mark.parametrize("start", [(0.005, 0, 0), (0, 0.01, 0), (0, 0, 0.01)], ids=str)
def test_plate_costs_what_riccati_predicts(axis, start):
    """So does the cost of either axis of the plate, with a ball that rolls."""
    check_cost(lambda hz, start: plate_cost(axis, hz, start), start)


def test_riccati_predicts_less_than_any_other_gain_costs():
    """Half as much or twice as much of any of the gains costs more in the textbook model."""
    tolerance, effort, dt = np.array([0.5, 0.1, 1.0, 0.5]), 10.0, 1 / 50
    mass, stiffness, push = cart_pole_model(links("cart_pole.urdf"), 9.8)
    best, prediction = lqr_gain(mass, stiffness, push, dt, tolerance, effort)

    # The same system sampled by 2000 small steps, not by lqr_gain's series.
    def advance(x, u):
        for _ in range(2000):
            acceleration = np.linalg.solve(mass, stiffness @ x[:2] + push * u)
            middle = x[2:] + acceleration * dt / 4000
            x = np.concatenate([x[:2] + middle * dt / 2000, x[2:] + acceleration * dt / 2000])
        return x

    transition = np.array([advance(row, 0.0) for row in np.eye(4)]).T
    push_once = advance(np.zeros(4), 1.0)

    def cost(gain, x):
        total = 0.0
        for _ in range(1000):
            u = -gain @ x
            total += np.sum((x / tolerance) ** 2) + (u / effort) ** 2
            x = transition @ x + push_once * u
        return total

    start = np.array([0.1, 0.05, -0.1, 0.1])
    least = cost(best, start)
    assert least == pytest.approx(start @ prediction @ start, rel=1e-4)
    for column in range(4):
        for factor in (0.9, 1.1):
            other = best.copy()
            other[column] *= factor
            assert cost(other, start) > least


@pytest.mark.parametrize(
    "env_id, name, link",
    [
        ("BulletCartPole-v0", "cart_pole.urdf", "pole"),
        ("BulletCartPole-v0", "cart_pole.urdf", "cart"),
        ("BalancingPlate-v0", "balancing_plate.urdf", "plate"),
        ("BalancingPlate-v0", "balancing_plate.urdf", "ring"),
    ],
)
def test_gains_come_from_the_urdf(tmp_path, monkeypatch, env_id, name, link):
    """A body of twice the mass and inertia in the URDF changes the gains."""
    before = load_agent(env_id, "lqr").policy.gain
    original = assets.path
    head, body = original(name).read_text().split(f'<link name="{link}">')

    def doubled(found):
        return f'{found[1]}="{2 * float(found[2])}"'

    inertial, rest = body.split("</inertial>", 1)
    heavier = re.sub(r'(value|i[xyz]{2})="([^"]*)"', doubled, inertial)
    (tmp_path / name).write_text(f'{head}<link name="{link}">{heavier}</inertial>{rest}')
    monkeypatch.setattr(assets, "path", lambda n: tmp_path / n if n == name else original(n))
    after = load_agent(env_id, "lqr").policy.gain
    used = np.abs(before) > 0.01 * np.abs(before).max()
    assert np.abs(after[used] / before[used] - 1).max() > 0.01


def lengths(env_id, weights, seeds):
    """Return how long each row of linear policies lasts, from a start each."""
    envs = [gym.make(env_id) for _ in seeds]
    latest = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    counts = np.zeros(len(seeds))
    live = list(range(len(seeds)))
    while live:
        going_on = []
        for row in live:
            push_right = int(latest[row] @ weights[row] > 0)
            latest[row], _, terminated, truncated, _ = envs[row].step(push_right)
            counts[row] += 1
            if not (terminated or truncated):
                going_on.append(row)
        live = going_on
    for env in envs:
        env.close()
    return counts


def train_linear_policy(env_id):
    """Search for four weights by the cross-entropy method; it knows nothing of physics."""
    rng = np.random.default_rng(0)
    mean, spread = np.zeros(4), np.ones(4)
    for _ in range(12):
        weights = mean + spread * rng.normal(size=(40, 4))
        scores = lengths(env_id, weights, rng.integers(2**31, size=40).tolist())
        best = weights[np.argsort(scores)[-8:]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.05
        if scores.mean() > 400:
            break
    return mean


@pytest.mark.sweep
@pytest.mark.parametrize("home, abroad", TWINS.items(), ids=TWINS)
def test_a_policy_moves_to_the_twin(home, abroad):
    """A policy trained in one of the twins solves the other, as it is: >= 475 over 100 starts."""
    policy = train_linear_policy(home)
    assert lengths(home, np.tile(policy, (100, 1)), range(100)).mean() >= 475
    assert lengths(abroad, np.tile(policy, (100, 1)), range(100)).mean() >= 475


@pytest.mark.slow
@pytest.mark.parametrize("algo", BUNDLED_ALGOS)
def test_bundled_agent_moves_to_the_twin(algo):
    """The bundled networks solve Gymnasium's CartPole-v1, which they never saw: >= 475 over 100."""
    agent = load_agent("BulletCartPole-v0", algo)
    agent.env = EnvConfig("CartPole-v1")
    assert evaluate(agent).returns.mean() >= 475
