"""How fast the environments are beside bare PyBullet and others: ``bullet-envs bench``."""

import importlib
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AddRenderObservation, ResizeObservation

from . import ENV_IDS, PIXEL_IDS, assets, world
from .camera import Camera, Studio

p = world.p  # type: ignore[attr-defined]  # imported there without its banner

BURST = 25  # actions between resets, which are not timed; fewer than any episode lasts
BURSTS = 200
PICTURES = 8  # bursts where each action draws a picture
REPEATS = 15

# Environments that others look at through Gymnasium's wrappers, and what has to be installed.
PEERS = {"CartPole-v1": "pygame", "InvertedPendulumBulletEnv-v0": "pybullet_envs_gymnasium"}

# Something that can begin again, and something that can act.
Loop = tuple[Callable[[], Any], Callable[[int], Any]]


def main() -> None:
    """Print how our environments compare to bare loops, and our pictures to others'."""
    _print_header("environment", "bare", "gym")
    for env_id in (env_id for env_id in ENV_IDS if env_id not in PIXEL_IDS):
        env = gym.make(env_id)
        engine = world.World(env.unwrapped.task.physics_hz, env.unwrapped.task.control_hz)  # type: ignore[attr-defined]
        env.reset(seed=0)
        start = env.unwrapped.state()  # type: ignore[attr-defined]
        _print_ratio(env_id, _bare_loop(env_id, engine, start), _gym_loop(env), BURSTS)
        env.close()
        engine.close()

    print()
    _print_header("pictures against", "theirs", "ours")
    for env_id in PIXEL_IDS:
        env = gym.make(env_id)
        env.reset(seed=0)
        ours = _gym_loop(env)
        observer, task = env.unwrapped.observer, env.unwrapped.task  # type: ignore[attr-defined]
        studio = Studio(task)
        studio.pose(tuple(env.unwrapped.state().values()))  # type: ignore[attr-defined]
        print(env_id)
        _print_ratio("  bare getCameraImage", _bare_camera(studio, observer.camera), ours, PICTURES)
        for peer, module in PEERS.items():
            if importlib.util.find_spec(module) is None:
                print(f"  {peer:<26} skipped: {module} is not installed")
                continue
            importlib.import_module(module)
            their_env: gym.Env[Any, Any] = gym.make(peer, render_mode="rgb_array")
            size = observer.camera.width
            their_env = ResizeObservation(AddRenderObservation(their_env), (size, size))
            _print_ratio(f"  {peer}", _gym_loop(their_env), ours, PICTURES)
            their_env.close()
        studio.close()
        env.close()


def _print_header(what: str, first: str, second: str) -> None:
    print(f"{what:<28}{first + ' steps/s':>16}{second + ' steps/s':>16}{'ratio':>8}{'spread':>16}")


def _print_ratio(name: str, other: Loop, ours: Loop, bursts: int) -> None:
    """Time two loops in turn and print median rates, and the ratio's median and spread."""
    times = [
        (_seconds_per_step(other, bursts), _seconds_per_step(ours, bursts)) for _ in range(REPEATS)
    ]
    ratios = sorted(theirs / mine for theirs, mine in times)
    first, second = (1 / median(column) for column in zip(*times, strict=True))
    spread = f"{ratios[1]:.2f} to {ratios[-2]:.2f}"
    print(
        f"{name:<28}{first:>16,.0f}{second:>16,.0f}{median(ratios):>8.2f}{spread:>16}", flush=True
    )


def _seconds_per_step(loop: Loop, bursts: int) -> float:
    begin, act = loop
    total = 0.0
    for _ in range(bursts):
        begin()
        start = time.perf_counter()
        for count in range(BURST):
            act(count)
        total += time.perf_counter() - start
    return total / (bursts * BURST)


def _gym_loop(env: gym.Env[Any, Any]) -> Loop:
    space = env.action_space
    actions = list(range(space.n)) if isinstance(space, gym.spaces.Discrete) else [space.sample()]
    return lambda: env.reset(seed=0), lambda count: env.step(actions[count % len(actions)])


def _bare_camera(studio: Studio, camera: Camera) -> Loop:
    """Return the camera call alone, with arguments that are ready."""
    client = studio._world.client
    view, projection = camera.view(), camera.projection

    def act(count: int) -> Any:
        return p.getCameraImage(
            camera.width,
            camera.height,
            viewMatrix=view,
            projectionMatrix=projection,
            lightDirection=camera.light,
            **world.LIGHT,
            shadow=0,
            renderer=p.ER_TINY_RENDERER,
            physicsClientId=client,
        )

    return lambda: None, act


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
