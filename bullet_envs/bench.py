"""How much of a bare PyBullet loop's speed is left through ``gym.make``: ``bullet-envs bench``."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym

from . import ENV_IDS, assets, world

p = world.p  # type: ignore[attr-defined]  # imported there without its banner

BURST = 25  # actions between resets, which are not timed; fewer than any episode lasts
BURSTS = 200
REPEATS = 15

# Something that can begin again, and something that can act.
Loop = tuple[Callable[[], Any], Callable[[int], Any]]


def main() -> None:
    """Time both loops in turn and print median rates, and the ratio's median and spread."""
    print(f"{'environment':<20}{'bare steps/s':>14}{'gym steps/s':>14}{'ratio':>8}{'spread':>16}")
    for env_id in ENV_IDS:
        env = gym.make(env_id)
        engine = world.World(env.unwrapped.task.physics_hz, env.unwrapped.task.control_hz)  # type: ignore[attr-defined]
        env.reset(seed=0)
        start = env.unwrapped.state()  # type: ignore[attr-defined]
        loops = _bare_loop(env_id, engine, start), _gym_loop(env)
        times = [tuple(_seconds_per_step(loop) for loop in loops) for _ in range(REPEATS)]
        ratios = sorted(bare / through_gym for bare, through_gym in times)
        bare, through_gym = (1 / median(column) for column in zip(*times, strict=True))
        spread = f"{ratios[1]:.2f} to {ratios[-2]:.2f}"
        print(f"{env_id:<20}{bare:>14,.0f}{through_gym:>14,.0f}{median(ratios):>8.2f}{spread:>16}")
        env.close()
        engine.close()


def _seconds_per_step(loop: Loop) -> float:
    begin, act = loop
    total = 0.0
    for _ in range(BURSTS):
        begin()
        start = time.perf_counter()
        for count in range(BURST):
            act(count)
        total += time.perf_counter() - start
    return total / (BURSTS * BURST)


def _gym_loop(env: gym.Env[Any, Any]) -> Loop:
    actions = int(env.action_space.n)  # type: ignore[attr-defined]
    return lambda: env.reset(seed=0), lambda count: env.step(count % actions)


def _bare_loop(env_id: str, engine: world.World, start: dict[str, float]) -> Loop:
    """Return the same scene with nothing but motor call, step and state read."""
    client, two_joints = engine.client, (0, 1)
    if env_id == "BulletCartPole-v0":
        robot = _load(engine, "cart_pole.urdf")

        def begin() -> None:
            p.resetJointState(robot, 0, start["x"], start["x_dot"], client)
            p.resetJointState(robot, 1, start["theta"], start["theta_dot"], client)

        def act(count: int) -> Any:
            force = 10.0 if count % 2 else -10.0
            p.setJointMotorControl2(robot, 0, p.TORQUE_CONTROL, force=force, physicsClientId=client)
            p.stepSimulation(client)
            return p.getJointStates(robot, two_joints, client)

        return begin, act

    robot = _load(engine, "balancing_plate.urdf")
    ball = _load(engine, "ball.urdf")

    def begin_plate() -> None:
        p.resetJointState(robot, 0, start["pitch"], 0.0, client)
        p.resetJointState(robot, 1, start["roll"], 0.0, client)
        position = [start[f"ball_{axis}"] for axis in "xyz"]
        velocity = [start[f"ball_v{axis}"] for axis in "xyz"]
        spin = [start[f"ball_w{axis}"] for axis in "xyz"]
        p.resetBasePositionAndOrientation(ball, position, (0.0, 0.0, 0.0, 1.0), client)
        p.resetBaseVelocity(ball, velocity, spin, physicsClientId=client)

    def act_plate(count: int) -> Any:
        torque = 0.005 if count % 2 else -0.005
        p.setJointMotorControlArray(
            robot, two_joints, p.TORQUE_CONTROL, forces=(torque, -torque), physicsClientId=client
        )
        p.stepSimulation(client)
        return (
            p.getJointStates(robot, two_joints, client),
            p.getBasePositionAndOrientation(ball, client),
            p.getBaseVelocity(ball, client),
        )

    return begin_plate, act_plate


def _load(engine: world.World, name: str) -> int:
    engine.load(assets.path(name), fixed=name != "ball.urdf")
    return int(p.getBodyUniqueId(p.getNumBodies(engine.client) - 1, engine.client))
