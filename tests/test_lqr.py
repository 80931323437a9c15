"""The regulator of any task: its gains, what it costs in the engine, and what it refuses."""

import dataclasses
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from analytic_lqr import analytic_gain
from conftest import STATE_IDS

from bullet_envs import Actuator, BodyScene, Task, cli, register_task
from bullet_envs.agents import load_agent
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.agents.lqr import linearise, regulate
from bullet_envs.simulation import Simulation
from bullet_envs.tasks import BalancingPlate, CartPole

KINDS = [CartPole, BalancingPlate]


def gain_of(env_id, **keywords):
    """Return the gain on the observation."""
    return load_agent(env_id, "lqr", **keywords).policy.gain


def difference(gain, reference):
    """Return the greatest relative difference of the gains that are not 0 by symmetry.

    Those that are must be below 5e-4 of the greatest; the ball's contact is not symmetric.
    """
    used = reference != 0
    assert np.abs(gain[~used]).max(initial=0) < 5e-4 * np.abs(reference).max()
    return np.abs(gain[used] / reference[used] - 1).max()


@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_those_of_the_textbook(kind):
    """The engine's gains become the analytic ones as the physics step becomes 0.

    The engine steps speeds first and positions by the new speeds, so at 100 Hz the gains of the
    rates are 2.02 % (cart-pole) and 2.16 % (plate) lower, at 1000 Hz 0.2 %.
    """
    reference = analytic_gain(kind())
    gains = {hz: gain_of(f"{kind_id(kind)}", physics_hz=hz) for hz in (100, 500, 1000)}
    assert difference(2 * gains[1000] - gains[500], reference) < 1e-3
    assert 0.0195 < difference(gains[100], reference) < 0.0225
    assert difference(gains[1000], reference) < 0.0025


def kind_id(kind):
    return {CartPole: "BulletCartPole-v0", BalancingPlate: "BalancingPlate-v0"}[kind]


@pytest.mark.parametrize("keywords", [{}, {"control_hz": 25}, {"physics_hz": 50}], ids=str)
@pytest.mark.parametrize("kind, limit", [(CartPole, 1e-9), (BalancingPlate, 2e-3)])
def test_gains_are_those_of_the_textbook_in_steps(kind, limit, keywords):
    """The textbook's model in the engine's own steps has the same gains (2e-11 and 0.12 %)."""
    task = kind(**keywords)
    reference = analytic_gain(task, physics_hz=task.physics_hz)
    assert difference(gain_of(kind_id(kind), **keywords), reference) < limit


def cost_ratio(task, regulator, x, gain, periods=600):
    """Return what ``u = -gain @ x`` costs in the engine from x, over what Riccati predicts."""
    predicted = x @ regulator.cost_to_go @ x
    simulation = Simulation(task)
    simulation.set_state({0: task.from_coordinates(x.tolist())})
    paid = 0.0
    for _ in range(periods):
        u = -gain @ x
        paid += x @ regulator.state_cost @ x + u @ regulator.command_cost @ u
        x = np.array(task.coordinates(simulation.step(u.tolist())), np.float64)
    simulation.close()
    assert np.abs(x / task.tolerances).max() < 1e-5
    return paid / predicted


@pytest.mark.parametrize("kind", KINDS)
def test_cost_in_the_engine_is_what_riccati_predicts(kind):
    """From states of a thirtieth of the tolerances, x'Px is paid within 1e-3.

    As dm_control's ``lqr_test`` asks. The cart-pole's differs by what it is not linear (1e-5 here,
    less with the square of the state), the plate's by the memory of the ball's contact (8e-4).
    """
    task = kind(continuous=True)
    regulator = regulate(linearise(task), task)
    rng = np.random.default_rng(0)
    columns = len(task.tolerances)
    directions = [*np.eye(columns), *rng.normal(size=(4, columns))]
    for direction in directions:
        x = 0.03 * np.array(task.tolerances) * direction / np.linalg.norm(direction)
        assert cost_ratio(task, regulator, x, regulator.gain) == pytest.approx(1, abs=1e-3)


def test_cost_of_the_cart_pole_converges():
    """A tenth of the state differs by a hundredth: no more than the pole's sine does."""
    task = CartPole(continuous=True)
    regulator = regulate(linearise(task), task)
    x = np.array(task.tolerances) / 2
    errors = [abs(cost_ratio(task, regulator, s * x, regulator.gain) - 1) for s in (0.1, 0.01)]
    assert errors[0] < 1e-3 and errors[1] < errors[0] / 50


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_gain_costs_more(factor):
    """In the engine no neighbour of the regulator is better."""
    task = CartPole(continuous=True)
    regulator = regulate(linearise(task), task)
    x = 0.001 * np.array(task.tolerances)
    best = cost_ratio(task, regulator, x, regulator.gain)
    for column in range(4):
        gain = regulator.gain.copy()
        gain[:, column] *= factor
        assert cost_ratio(task, regulator, x, gain) > best + 1e-5


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_gains_are_for_the_keywords_given(env_id):
    """Another control rate, another force or torque get other gains."""
    strength = {"force": 20} if env_id == "BulletCartPole-v0" else {"torque": 0.01}
    gains = [gain_of(env_id, **keywords) for keywords in ({}, {"control_hz": 25}, strength)]
    for one in range(3):
        for other in range(one):
            assert not np.allclose(gains[one], gains[other], rtol=1e-3)


URDF = """<robot name="carts">
  <link name="base"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0"
   iyz="0"/></inertial></link>
  <joint name="driven" type="prismatic"><parent link="base"/><child link="cart"/>
    <axis xyz="1 0 0"/><limit lower="-5" upper="5" effort="9" velocity="9"/></joint>
  <link name="cart"><inertial><mass value="2"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0"
   iyz="0"/></inertial></link>
  <joint name="idle" type="continuous"><parent link="base"/><child link="pendulum"/>
    <axis xyz="0 1 0"/><dynamics damping="DAMPING"/></joint>
  <link name="pendulum"><inertial><origin xyz="0 0 HEIGHT"/><mass value="0.5"/>
    <inertia ixx="0.01" iyy="0.01" izz="0.01" ixy="0" ixz="0" iyz="0"/></inertial></link>
</robot>"""


@register_task("CartAndPendulum")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CartAndPendulum(Task):
    """A driven cart, and beside it a pendulum that nothing drives."""

    folder: str = ""
    damping: float = 0.0
    height: float = -0.5
    tilt: float = 0.0
    observed: str = "everything"

    has_equilibrium = True
    state_names = ("place", "speed", "swing", "swing_rate")

    @property
    def actuators(self):
        return (Actuator(joint="driven", scale=3.0),)

    def build(self, world, num_envs):
        path = Path(self.folder, "carts.urdf")
        text = URDF.replace("DAMPING", str(self.damping)).replace("HEIGHT", str(self.height))
        path.write_text(text)
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(path, joints=("driven", "idle"))
        return scene

    def rest(self):
        return 0.0, 0.0, self.tilt, 0.0

    def sample_initial_state(self, rng):
        return [float(number) for number in rng.uniform(-0.1, 0.1, 4)]

    def observe(self, state):
        if self.observed == "dict":
            return {"pendulum": state[2:], "cart": state[:2]}
        return state if self.observed == "everything" else (state[0], *state[2:])

    def observation_bounds(self):
        if self.observed == "dict":
            return {"pendulum": (100.0,) * 2, "cart": (100.0,) * 2}
        return (100.0,) * (4 if self.observed == "everything" else 3)

    def terminated(self, state):
        return abs(state[0]) > 1.0


ENV_ID = "CartAndPendulum-v0"


@pytest.mark.parametrize("height", [-0.5, 0.5], ids=["hanging", "upright"])
def test_what_no_actuator_controls_is_named(tmp_path, height):
    """A pendulum without damping, and one that falls, cannot be brought to rest by a cart."""
    message = "LQR: no actuator controls 'swing(_rate)?', which does not decay by itself"
    with pytest.raises(ValueError, match=message):
        load_agent(ENV_ID, "lqr", folder=str(tmp_path), height=height)


def test_the_command_names_it_too(tmp_path, capsys):
    """In one line, with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(f"evaluate --env {ENV_ID} --algo lqr --env-kwargs folder:{tmp_path}".split())
    assert "no actuator controls 'swing" in capsys.readouterr().err


@pytest.mark.parametrize("observed", ["everything", "dict"])
def test_what_decays_by_itself_need_not_be_controlled(tmp_path, observed):
    """With damping the regulator holds the cart and lets the pendulum swing out."""
    keywords = {"folder": str(tmp_path), "damping": 0.2, "observed": observed}
    agent = load_agent(ENV_ID, "lqr", **keywords)
    place, speed = (0, 1)  # "cart" comes before "pendulum"
    assert agent.policy.gain[0, place] > 0.1 and agent.policy.gain[0, speed] > 0.1
    assert np.abs(agent.policy.gain[0, 2:]).max() < 1e-9
    assert set(evaluate(agent, range(5)).returns) == {500.0}


def test_a_rest_that_moves_is_refused(tmp_path):
    """A tilted pendulum swings."""
    with pytest.raises(ValueError, match=r"rest\(\) is no equilibrium: swing_rate moves by"):
        load_agent(ENV_ID, "lqr", folder=str(tmp_path), tilt=0.5, damping=0.2)


def test_a_coordinate_that_is_not_observed_is_named(tmp_path):
    """The regulator needs the speed of the cart."""
    with pytest.raises(ValueError, match="LQR: the observation does not show 'speed'"):
        load_agent(ENV_ID, "lqr", folder=str(tmp_path), damping=0.2, observed="no speed")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "BalancingPlatePixels-v0"])
def test_what_is_no_task_with_states_is_refused(env_id):
    """The regulator is for tasks whose state is observed."""
    with pytest.raises(ValueError, match="needs to observe the state of a"):
        load_agent(env_id, "lqr")


def test_an_observation_wrapped_by_the_agent_is_what_the_gain_is_for():
    """The observation at rest is subtracted, in its own units."""
    agent = load_agent("BalancingPlate-v0", "lqr", continuous=True)
    with gym.make("bullet_envs:BalancingPlate-v0", continuous=True) as env:
        resting, _ = env.reset(options={"state": {}})
    assert np.abs(agent.act(resting[None], deterministic=True)).max() < 1e-6
