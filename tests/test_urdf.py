"""A URDF moves as its file says: limits, damping, friction, motors, meshes, gravity.

The bodies are small enough that a line of Python gives the motion: speeds first, then places.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from robots import ElbowArm

from bullet_envs import Actuator, BodyScene, ContactFreeScene, Task
from bullet_envs.engine.silence import p
from bullet_envs.engine.world import World
from bullet_envs.env import BulletEnv
from bullet_envs.simulation import Simulation

HZ = 200
INERTIA = 0.02  # kg m^2 of the arm about its joint
MASS = 1.0  # kg


@pytest.fixture
def urdf(tmp_path):
    """Return a function that writes a robot of one arm, the joint's contents being given."""

    def write(joint="", kind="continuous", axis="0 0 1", shape=""):
        path = tmp_path / "arm.urdf"
        path.write_text(
            f"""<robot name="arm">
              <link name="base"/>
              <link name="arm">
                <inertial>
                  <origin xyz="0.1 0 0"/>
                  <mass value="{MASS}"/>
                  <inertia ixx="0.01" iyy="0.01" izz="0.01" ixy="0" ixz="0" iyz="0"/>
                </inertial>
                {shape}
              </link>
              <joint name="turn" type="{kind}">
                <parent link="base"/><child link="arm"/><axis xyz="{axis}"/>{joint}
              </joint>
            </robot>"""
        )
        return path

    return write


def turn(path, torque, speed=0.0, steps=HZ):
    """Return angles and speeds (steps, 2) of the arm under a torque."""
    world = World(HZ, HZ)
    body = world.load(path, fixed=True)
    joints = body.joints("turn")
    body.place_joints(joints, [0.0], [speed])
    states = []
    for _ in range(steps):
        body.apply(joints, [torque])
        world.step()
        states.append(body.joint_states(joints))
    world.close()
    return np.array(states)


@pytest.mark.parametrize("torque", [2.0, -2.0])
def test_a_limit_holds(urdf, torque):
    """It is passed by no more than the way of one step, and the arm comes to rest at it."""
    states = turn(urdf('<limit lower="-1" upper="1" effort="9" velocity="9"/>', "revolute"), torque)
    free = np.sqrt(2 * abs(torque) / INERTIA)  # rad/s after one rad
    assert 1 < np.abs(states[:, 0]).max() < 1 + free / HZ
    assert states[-1] == pytest.approx((np.sign(torque), 0), abs=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.05, 0.5])
def test_joint_damping_is_the_files(urdf, damping):
    """It equals a semi-implicit Euler integrator, and nothing else damps."""
    states = turn(urdf(f'<dynamics damping="{damping}"/>'), 0.1, speed=2.0)
    angle, speed = 0.0, 2.0
    for state in states:
        speed += (0.1 - damping * speed) / INERTIA / HZ
        angle += speed / HZ
        assert state == pytest.approx((angle, speed), abs=1e-12)


def test_joint_friction_sticks_and_slides(urdf):
    """Below it nothing moves, above it takes its torque, and it stops what moves without more."""
    path = urdf('<dynamics damping="0" friction="0.05"/>')
    assert np.abs(turn(path, 0.049)).max() == 0
    assert turn(path, 0.06)[-1, 1] == pytest.approx(0.01 / INERTIA, rel=1e-9)
    speeds = turn(path, 0.0, speed=1.0)[:, 1]
    expected = np.maximum(0, 1 - 0.05 / INERTIA / HZ * np.arange(1, HZ + 1))
    assert speeds == pytest.approx(expected, abs=1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm(Task):
    """An arm of one joint; fields that no user has tell the tests' variants apart."""

    path: str
    actuator: Actuator
    physics_hz: int = HZ

    state_names: ClassVar = ("angle", "rate")

    @property
    def actuators(self):
        return (self.actuator,)

    def build(self, world, num_envs):
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(self.path, ("turn",))
        return scene

    def rest(self):
        return 0.0, 0.0

    def sample_initial_state(self, rng):
        return 0.0, 0.0

    def observe(self, state):
        return state

    def observation_bounds(self):
        return 1e3, 1e3

    def terminated(self, state):
        return False


class Moon(Arm):
    """The same where things fall more slowly."""

    gravity: ClassVar = 1.62


class Substeps(Arm):
    """The same with a control period divided by Bullet."""

    bullet_substeps: ClassVar = True


class Shared(Arm):
    """The same with several arms in a world."""

    envs_per_world: ClassVar = 4


@pytest.mark.parametrize("kind", [Arm, Moon])
def test_gravity_is_the_tasks(urdf, kind):
    """A level arm begins to fall with m g l / I."""
    task = kind(path=str(urdf(axis="0 1 0")), actuator=Actuator(joint="turn", scale=1))
    env = BulletEnv(task)
    env.reset(seed=0)
    env.step(np.zeros(1))
    fallen = MASS * kind.gravity * 0.1 / INERTIA / task.control_hz
    assert env.state()["rate"] == pytest.approx(fallen, rel=1e-2)
    env.close()


def drive(task, command, periods):
    """Return the states (periods, 2) of an arm at rest that is given a command."""
    simulation = Simulation(task)
    simulation.set_state({0: task.rest()})
    states = np.array([simulation.step([command]) for _ in range(periods)])
    simulation.close()
    return states


@pytest.mark.parametrize("kind", [Arm, Substeps])
@pytest.mark.parametrize("max_force", [0.4, None])
def test_velocity_motor(urdf, kind, max_force):
    """It reaches its target with its greatest torque, which may be the file's effort, and holds."""
    path = urdf('<limit lower="-9" upper="9" effort="0.4" velocity="9"/>', "revolute")
    actuator = Actuator(joint="turn", scale=1, kind="velocity", max_force=max_force)
    states = drive(kind(path=str(path), actuator=actuator), 1.5, 30)
    expected = np.minimum(1.5, 0.4 / INERTIA * np.arange(1, 31) / 50)
    assert states[:, 1] == pytest.approx(expected, abs=1e-9)
    assert (expected < 1.5).sum() > 2


@pytest.mark.parametrize("kind", [Arm, Substeps])
def test_position_motor(urdf, kind):
    """In each physics step it means to go a share of the rest of its way, within a speed."""
    actuator = Actuator(
        joint="turn",
        scale=0.5,
        kind="position",
        centre=0.2,
        max_force=1e3,
        max_velocity=3,
        gain=0.2,
    )
    task = kind(path=str(urdf()), actuator=actuator)
    states = drive(task, 0.7, 12)
    angle, expected = 0.0, []
    for _ in range(12 * HZ // 50):
        angle += min(3.0, 0.2 * (0.7 - angle) * HZ) / HZ
        expected.append(angle)
    assert states[:, 0] == pytest.approx(expected[HZ // 50 - 1 :: HZ // 50], abs=1e-9)
    # The action in between commands the centre and a share of the scale.
    env = BulletEnv(task)
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.array([1.0]))
    assert env.state()["angle"] == pytest.approx(0.7, abs=1e-6)
    env.close()


def test_motors_are_forgotten(urdf):
    """A reset in mid-motion is a reset of a new environment, whatever the motor held."""
    actuator = Actuator(joint="turn", scale=2, kind="velocity", max_force=0.1)
    task = Arm(path=str(urdf()), actuator=actuator)
    env, new = BulletEnv(task), BulletEnv(task)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.ones(1))
    seen = []
    for each in (env, new):
        each.reset(seed=1)
        each.step(-np.ones(1))
        seen.append(each.state())
        each.close()
    assert seen[0] == seen[1]


TETRAHEDRON = """
v 0 0 0
v 0.2 0 0
v 0 0.2 0
v 0 0 0.2
f 1 3 2
f 1 2 4
f 2 3 4
f 3 1 4
"""


def test_a_mesh_with_a_relative_path(urdf, tmp_path):
    """It is found beside the file and collides; a mesh that is missing is named by the error."""
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "shape.obj").write_text(TETRAHEDRON)
    geometry = '<geometry><mesh filename="meshes/shape.obj"/></geometry>'
    path = urdf(shape=f"<visual>{geometry}</visual><collision>{geometry}</collision>")
    world = World(HZ, HZ)
    body = world.load(path, fixed=True)
    assert p.getCollisionShapeData(body._id, 0, world.client)[0][2] == p.GEOM_MESH
    assert p.getVisualShapeData(body._id, physicsClientId=world.client)[0][2] == p.GEOM_MESH
    world.close()
    (tmp_path / "meshes" / "shape.obj").unlink()
    world = World(HZ, HZ)
    with pytest.raises(ValueError, match=r"arm\.urdf: .*mesh"):
        world.load(path, fixed=True)
    with pytest.raises(FileNotFoundError, match=r"no URDF at .*none"):
        world.load(tmp_path / "none.urdf")
    (tmp_path / "none.urdf").write_text("nonsense")
    with pytest.raises(ValueError, match=r"none\.urdf"):
        world.load(tmp_path / "none.urdf")
    world.close()


def test_substeps_refuse_damping(urdf):
    """Bullet would apply it once a control period."""
    task = Substeps(
        path=str(urdf('<dynamics damping="0.1"/>')), actuator=Actuator(joint="turn", scale=1)
    )
    with pytest.raises(ValueError, match=r"arm\.urdf has joint damping, which bullet_substeps"):
        Simulation(task)


def test_unknown_joint(urdf):
    """An error lists the joints that there are."""
    path = str(urdf())
    world = World(HZ, HZ)
    scene = BodyScene(world, 1, ())
    with pytest.raises(ValueError, match=r"no joint 'elbow'; its joints are turn"):
        scene.add_robot(path, ("elbow",))
    with pytest.raises(ValueError, match="no joint 'elbow'"):
        Simulation(Arm(path=path, actuator=Actuator(joint="elbow", scale=1)))
    with pytest.raises(ValueError, match=r"'turn' needs max_force: its URDF has no effort"):
        Simulation(Arm(path=path, actuator=Actuator(joint="turn", scale=1, kind="velocity")))
    world.close()


BOX = "<geometry><box size='0.1 0.1 0.1'/></geometry>"


@pytest.mark.parametrize(
    ("written", "kind", "words"),
    [
        ({"shape": f"<collision>{BOX}</collision>"}, "torque", "link 'arm' has a collision shape"),
        (
            {"joint": '<dynamics damping="0.1"/>'},
            "torque",
            "joint 'turn' has limits, damping or friction",
        ),
        (
            {"joint": '<dynamics friction="0.1"/>'},
            "torque",
            "joint 'turn' has limits, damping or friction",
        ),
        ({}, "velocity", "no motors, as on turn"),
        ({}, "position", "no motors, as on turn"),
    ],
)
def test_what_a_contact_free_scene_refuses(urdf, written, kind, words):
    world = World(HZ, HZ)
    actuator = Actuator(joint="turn", scale=1, kind=kind, max_force=1)
    with pytest.raises(ValueError, match=words):
        ContactFreeScene(world, 3, [actuator], urdf(**written), ("turn",))
    world.close()


def test_contact_free_robots_move_as_one_would_alone(urdf):
    """Three of them in one body, driven by torques of their own."""
    path = urdf(axis="0 1 0")
    world, alone = World(HZ, HZ), World(HZ, HZ)
    actuators = [Actuator(joint="turn", scale=1)]
    scene = ContactFreeScene(world, 3, actuators, path, ("turn",))
    scene.set_state({0: (0.1, 1.0), 1: (0.2, 0.0), 2: (-0.3, 0.5)})
    single = BodyScene(alone, 1, actuators)
    single.add_robot(path, ("turn",))
    single.set_state({0: (0.2, 0.0)})
    for _ in range(50):
        scene.act([0.3, -0.4, 0.5])
        world.step()
        single.act([-0.4])
        alone.step()
    assert scene.state()[2:4] == single.state()
    world.close()
    alone.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kind": "pneumatic"}, ValueError),
        ({"scale": 0}, ValueError),
        ({"scale": "1"}, TypeError),
        ({"max_force": -1}, ValueError),
        ({"max_force": True}, TypeError),
        ({"max_velocity": 101}, ValueError),
        ({"gain": 1.5}, ValueError),
        ({"centre": float("nan")}, ValueError),
    ],
    ids=str,
)
def test_bad_actuator(arguments, error):
    (name,) = arguments
    with pytest.raises(error, match=f"{name}="):
        Actuator(**{"joint": "turn", "scale": 1, **arguments})


def test_other_clients_do_not_change_ours():
    """PyBullet keeps the contact breaking threshold for all clients; each reset sets ours."""
    import gymnasium as gym
    from conftest import begin, differs_at, play, sample

    env = gym.make("bullet_envs:BalancingPlate-v0", drop_height=0.01)
    actions = sample(env, 60)
    expected = [begin(env, seed=3), *play(env, actions)]
    foreign = p.connect(p.DIRECT)
    p.setPhysicsEngineParameter(contactBreakingThreshold=0.0001, physicsClientId=foreign)
    seen = [begin(env, seed=3), *play(env, actions)]
    p.setPhysicsEngineParameter(contactBreakingThreshold=0.02, physicsClientId=foreign)
    p.disconnect(foreign)
    env.close()
    assert differs_at(seen, expected) is None


@pytest.mark.parametrize("order", [("shoulder", "elbow"), ("elbow", "shoulder")])
def test_torques_and_motors_of_one_robot(order):
    """Each actuator is given its own command, whatever their order."""
    kinds = {
        "shoulder": Actuator(joint="shoulder", scale=1.0, kind="velocity", max_force=10.0),
        "elbow": Actuator(joint="elbow", scale=0.1),
    }

    class Mixed(ElbowArm):
        actuators = tuple(kinds[joint] for joint in order)

    commands = {"shoulder": 0.5, "elbow": 0.02}
    simulation = Simulation(Mixed())
    simulation.set_state({0: Mixed().rest()})
    state = simulation.step([commands[joint] for joint in order])
    simulation.close()
    rates = dict(zip(Mixed.state_names, state, strict=True))
    assert rates["shoulder_rate"] == pytest.approx(0.5, abs=1e-6)
    assert abs(rates["elbow_rate"]) > 0.1
