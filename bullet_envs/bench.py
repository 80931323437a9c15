"""How fast environments and agents are beside bare PyBullet and peers: ``bullet-envs bench``.

The contenders of a section take turns, again and again, so that whatever else the machine does
falls on all of them alike. A ratio is the median of the ratios of single turns.
"""

import contextlib
import cProfile
import functools
import importlib
import importlib.util
import json
import os
import platform
import pstats
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import AddRenderObservation, ResizeObservation
from tqdm import tqdm

from . import ENV_IDS, PIXEL_IDS, assets, world
from .camera import Camera, Studio

p = world.p  # type: ignore[attr-defined]  # imported there without its banner

CART_POLE, PLATE, CART_POLE_PIXELS, PLATE_PIXELS = ENV_IDS
STATE_IDS = (CART_POLE, PLATE)
BURST = 25  # actions of a single robot between resets; by turns, they end no episode
TURN = 0.15  # seconds of a contender's turn
ROWS = (1, 16, 64, 256)
MOST_CLIENTS = 64  # processes, or environments with a picture each: 256 of these take 15 GB


# Begins again, outside the time; acts once, in every row.
Loop = tuple[Callable[[], Any], Callable[[int], Any]]


@dataclass(frozen=True)
class Contender:
    """Something that steps.

    Args:
        name: in the table.
        open: a context in which the loop can run.
        rows: environments that a step steps.
        needs: the modules without which it is skipped.
    """

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Loop]]
    rows: int = 1
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """What is compared within a section: the rate of one contender over that of another."""

    name: str
    over: str


@dataclass(frozen=True)
class Section:
    """Contenders that take turns; those of the summary have ``in_summary``."""

    title: str
    contenders: list[Contender]
    ratios: list[Ratio]
    in_summary: bool = True

    def run(self, repeats: int) -> dict[str, Any]:
        """Time a section, print it and return its figures."""
        print(f"{self.title}\n")
        rates: dict[str, list[float]] = {}
        skipped: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            loops = {}
            for contender in self.contenders:
                missing = [name for name in contender.needs if not importlib.util.find_spec(name)]
                if missing:
                    skipped[contender.name] = f"{', '.join(missing)} not installed"
                    continue
                loops[contender.name] = (contender.rows, stack.enter_context(contender.open()))
            acts = {name: _acts(loop) for name, (_, loop) in loops.items()}
            for _ in tqdm(range(repeats), desc=self.title, unit="turn", leave=False):
                for name, (rows, loop) in loops.items():
                    rate = rows / _seconds_per_act(loop, acts[name])
                    rates.setdefault(name, []).append(rate)
        ratios = [ratio_of(ratio, rates) for ratio in self.ratios if ratio.over in rates]
        _print_section(rates, skipped, ratios)
        return {
            "title": self.title,
            "in_summary": self.in_summary,
            "rates": {name: spread(of) for name, of in rates.items()},
            "ratios": ratios,
            "skipped": skipped,
        }


def main(
    repeats: int, only: str = "", json_path: Path | None = None, readme: Path | None = None
) -> None:
    """Time sections and print their tables.

    Args:
        repeats: turns of each contender.
        only: the title of the section to time, or part of the titles of several.
        json_path: where all figures go, for programs, after each section.
        readme: a text whose section "bench" becomes the table of ratios.

    Raises:
        ValueError: no title contains ``only``, ``repeats`` is below 1, or the readme has no such
            section or would get a part of the table only.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be 1 or more")
    everything: list[Any] = sections()
    if importlib.util.find_spec("stable_baselines3"):
        from .agents.races import races

        everything += races()
    chosen = [section for section in everything if section.title == only] or [
        section for section in everything if only.lower() in section.title.lower()
    ]
    if not chosen:
        titles = ", ".join(repr(section.title) for section in everything)
        raise ValueError(f"no section has {only!r} in its title; they are {titles}")
    if readme is not None:
        from .agents.tables import with_section

        if only:
            raise ValueError(f"--only {only!r} and --readme must not be combined")
        with_section(readme.read_text(), "bench", "")  # refused before the time is spent
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "repeats": repeats,
        "sections": [],
    }
    print(f"{results['date']}, {results['machine']}, median of {repeats} turns\n")
    _write(results, json_path)
    for section in chosen:
        results["sections"].append(section.run(repeats))
        _write(results, json_path)
    if readme is not None:
        readme.write_text(with_section(readme.read_text(), "bench", summary(results)))


def _write(results: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def summary(results: dict[str, Any]) -> str:
    """Return the ratios of a run as Markdown, with its date and machine."""
    rates: list[str] = []
    times: list[str] = []
    for section in results["sections"]:
        for ratio in section["ratios"] if section["in_summary"] else []:
            names = [ratio["name"], ratio["over"]]
            if (solved := section.get("seeds_solved")) is not None:
                names = [f"{name} ({solved[name]} of {section['seeds']} seeds)" for name in names]
            spread_of = f"{ratio['median']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f}"
            line = f"| {' | '.join(names)} | {spread_of} |"
            (rates if solved is None else times).append(line)
    lines = []
    for title, rows in (
        ("steps per second (more is better)", rates),
        ("seconds to solve (less is better)", times),
    ):
        if rows:
            head = f"| {title}: ours | theirs | ours / theirs | quartiles |"
            lines += [head, "|---|---|---|---|", *rows, ""]
    turns = f"{results['repeats']} turns each, trainings a turn for each seed"
    lines.append(f"{results['date']}, {results['machine']}, {turns}.")
    return "\n".join(lines)


def profile() -> None:
    """Print where the time of a step goes, for a single environment and for a batch of each id."""
    for env_id in ENV_IDS:
        for name, opener in ((env_id, _gym(env_id)), (f"64 rows of {env_id}", _batch(env_id, 64))):
            with opener() as loop:
                acts = _acts(loop)
                profiler = cProfile.Profile()
                profiler.runcall(_seconds_per_act, loop, acts)
            print(f"{name}, {acts} steps")
            pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(12)


def machine() -> str:
    """Return what the figures hold for."""
    names = ("gymnasium", "numpy", "pybullet")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{_cores()} cores of {_processor()}, Python {platform.python_version()}, {versions}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def sections() -> list[Section]:
    """Return what is compared."""
    single = [
        Contender("CartPole-v1", _gym("CartPole-v1")),
        Contender("MuJoCo InvertedPendulum-v5", _gym("InvertedPendulum-v5"), needs=("mujoco",)),
        Contender(
            "InvertedPendulumBulletEnv-v0",
            _gym("InvertedPendulumBulletEnv-v0"),
            needs=("pybullet_envs_gymnasium",),
        ),
        Contender("panda-gym PandaReach-v3", _gym("PandaReach-v3"), needs=("panda_gym",)),
    ]
    cameras = [
        Contender(
            "CartPole-v1 + AddRenderObservation", _seen("CartPole-v1"), needs=("pygame", "cv2")
        ),
        Contender(
            "InvertedPendulumBulletEnv-v0 + AddRenderObservation",
            _seen("InvertedPendulumBulletEnv-v0"),
            needs=("pybullet_envs_gymnasium", "cv2"),
        ),
    ]
    many = [
        Contender("CartPole-v1 vector entry point", _vector_entry("CartPole-v1", 64), 64),
        Contender(
            "SyncVectorEnv InvertedPendulum-v5", _sync("InvertedPendulum-v5", 64), 64, ("mujoco",)
        ),
        Contender("EnvPool InvertedPendulum-v4, 2 threads", _envpool, 64, ("envpool",)),
    ]
    return [
        Section(
            "one environment",
            [
                *(
                    Contender(_bare(env_id), functools.partial(_open_bare, env_id))
                    for env_id in STATE_IDS
                ),
                *(Contender(env_id, _gym(env_id)) for env_id in STATE_IDS),
                *single,
            ],
            [
                *(Ratio(env_id, _bare(env_id)) for env_id in STATE_IDS),
                *(Ratio(CART_POLE, peer.name) for peer in single),
            ],
        ),
        Section(
            "one environment, pictures",
            [
                *(
                    Contender(_bare(env_id), functools.partial(_open_camera, env_id))
                    for env_id in PIXEL_IDS
                ),
                *(Contender(env_id, _gym(env_id)) for env_id in PIXEL_IDS),
                *cameras,
            ],
            [
                *(Ratio(env_id, _bare(env_id)) for env_id in PIXEL_IDS),
                *(Ratio(env_id, peer.name) for env_id in PIXEL_IDS for peer in cameras),
            ],
        ),
        *(_rows_section(env_id, rows) for env_id in ENV_IDS for rows in ROWS),
        Section(
            "batches",
            [
                *(
                    Contender(f"batch of {rows} {env_id}", _batch(env_id, rows), rows)
                    for env_id in STATE_IDS
                    for rows in ROWS
                ),
                *many,
            ],
            [
                *(Ratio(f"batch of 256 {env_id}", f"batch of 64 {env_id}") for env_id in STATE_IDS),
                *(Ratio(f"batch of 64 {CART_POLE}", peer.name) for peer in many),
            ],
        ),
    ]


def _rows_section(env_id: str, rows: int) -> Section:
    ways = [Contender(f"batch of {rows} {env_id}", _batch(env_id, rows), rows)]
    if rows <= MOST_CLIENTS or env_id not in PIXEL_IDS:
        ways.append(Contender(f"SyncVectorEnv of {rows}", _sync(env_id, rows), rows))
    if rows <= MOST_CLIENTS:
        ways += [
            Contender(f"AsyncVectorEnv of {rows}", _async(env_id, rows), rows),
            Contender(
                f"SB3 SubprocVecEnv of {rows}",
                functools.partial(_subproc, env_id, rows),
                rows,
                ("stable_baselines3",),
            ),
        ]
    ratios = [Ratio(ways[0].name, way.name) for way in ways[1:]]
    return Section(f"{env_id} with num_envs={rows}", ways, ratios, in_summary=rows == 64)


def _bare(env_id: str) -> str:
    return f"bare {'getCameraImage' if env_id in PIXEL_IDS else 'loop'} of {env_id}"


def _acts(loop: Loop) -> int:
    """Return how many acts fill a turn, in whole bursts."""
    begin, act = loop
    begin()
    act(0)
    start = time.perf_counter()
    for count in range(BURST):
        act(count)
    seconds = time.perf_counter() - start
    return BURST * max(1, round(TURN / seconds))


def _seconds_per_act(loop: Loop, acts: int) -> float:
    begin, act = loop
    total = 0.0
    for _ in range(acts // BURST):
        begin()
        start = time.perf_counter()
        for count in range(BURST):
            act(count)
        total += time.perf_counter() - start
    return total / acts


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"low": low, "median": middle, "high": high}


def ratio_of(ratio: Ratio, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return a ratio's names, and the spread of the ratios of single turns."""
    turns = zip(rates[ratio.name], rates[ratio.over], strict=True)
    return {**asdict(ratio), **spread([mine / theirs for mine, theirs in turns])}


def _print_section(
    rates: dict[str, list[float]], skipped: dict[str, str], ratios: list[dict[str, Any]]
) -> None:
    print("| | steps/s | quartiles |\n|---|---|---|")
    for name, of in rates.items():
        rate = spread(of)
        print(f"| {name} | {rate['median']:,.0f} | {rate['low']:,.0f} to {rate['high']:,.0f} |")
    for name, reason in skipped.items():
        print(f"| {name} | skipped: {reason} | |")
    print_ratios(ratios)


def print_ratios(ratios: list[dict[str, Any]]) -> None:
    """Print what :func:`ratio_of` returned as a table."""
    if ratios:
        print("\n| ratio | median | quartiles |\n|---|---|---|")
    for ratio in ratios:
        print(
            f"| {ratio['name']} / {ratio['over']} | {ratio['median']:.2f} |"
            f" {ratio['low']:.2f} to {ratio['high']:.2f} |"
        )
    print(flush=True)


Opener = Callable[[], contextlib.AbstractContextManager[Loop]]


def _gym(env_id: str) -> Opener:
    return functools.partial(_open_env, lambda: _make(env_id))


def _seen(env_id: str) -> Opener:
    """Return what makes an environment seen through Gymnasium's wrappers, as large as ours."""

    def make() -> gym.Env[Any, Any]:
        env = AddRenderObservation(_make(env_id, render_mode="rgb_array"))
        return ResizeObservation(env, (64, 64))

    return functools.partial(_open_env, make)


def _make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    for module in ("pybullet_envs_gymnasium", "panda_gym"):
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    return gym.make(env_id, **kwargs)


@contextlib.contextmanager
def _open_env(make: Callable[[], gym.Env[Any, Any]]) -> Iterator[Loop]:
    with make() as env:
        space = env.action_space
        space.seed(0)
        if isinstance(space, gym.spaces.Discrete):  # by turns, so that nothing ends
            actions: list[Any] = [count % int(space.n) for count in range(BURST)]
        else:
            actions = [space.sample() for _ in range(BURST)]
        yield lambda: env.reset(seed=0), lambda count: env.step(actions[count])


def _batch(env_id: str, rows: int) -> Opener:
    return functools.partial(_open_vector, lambda: gym.make_vec(env_id, num_envs=rows))


def _vector_entry(env_id: str, rows: int) -> Opener:
    return functools.partial(
        _open_vector,
        lambda: gym.make_vec(env_id, num_envs=rows, vectorization_mode="vector_entry_point"),
    )


def _sync(env_id: str, rows: int) -> Opener:
    return functools.partial(_open_vector, lambda: SyncVectorEnv([lambda: _make(env_id)] * rows))


def _async(env_id: str, rows: int) -> Opener:
    return functools.partial(_open_vector, lambda: AsyncVectorEnv([lambda: _make(env_id)] * rows))


@contextlib.contextmanager
def _open_vector(make: Callable[[], Any]) -> Iterator[Loop]:
    with contextlib.closing(make()) as envs:
        envs.action_space.seed(0)
        actions = [envs.action_space.sample() for _ in range(BURST)]
        envs.reset(seed=0)
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _subproc(env_id: str, rows: int) -> Iterator[Loop]:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    processes = SubprocVecEnv([lambda: _make(env_id)] * rows, start_method="fork")
    with contextlib.closing(processes) as envs:
        space = envs.action_space
        actions = [np.array([space.sample() for _ in range(rows)]) for _ in range(BURST)]
        envs.reset()
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _envpool() -> Iterator[Loop]:
    import envpool

    pool = envpool.make_gymnasium("InvertedPendulum-v4", num_envs=64, num_threads=2)
    with contextlib.closing(pool) as envs:
        rng = np.random.default_rng(0)
        actions = rng.uniform(-3, 3, (BURST, 64, 1))
        envs.reset()
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _open_bare(env_id: str) -> Iterator[Loop]:
    with gym.make(env_id) as env:
        env.reset(seed=0)
        task, start = env.unwrapped.task, env.unwrapped.state()  # type: ignore[attr-defined]
        with contextlib.closing(world.World(task.physics_hz, task.control_hz)) as engine:
            yield _bare_loop(env_id, engine, start)


@contextlib.contextmanager
def _open_camera(env_id: str) -> Iterator[Loop]:
    """Yield the camera call alone, of every fifth picture that the environment will show."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(gym.make(env_id))
        env.reset(seed=0)
        bare: Any = env.unwrapped
        task, camera = bare.task, bare.observer.camera
        calls = []
        for count in range(BURST):
            if count % 5 == 0:
                studio = stack.enter_context(contextlib.closing(Studio(task)))
                state = tuple(bare.state().values())
                studio.pose(state)
                calls.append(_camera_call(studio, camera, task.followed(state)))
            env.step(count % env.action_space.n)  # type: ignore[attr-defined]
        yield lambda: None, lambda count: calls[count // 5]()


def _camera_call(
    studio: Studio, camera: Camera, shift: tuple[float, float, float]
) -> Callable[[], Any]:
    """Return a call whose arguments are ready."""
    return functools.partial(
        p.getCameraImage,
        camera.width,
        camera.height,
        viewMatrix=camera.view(shift),
        projectionMatrix=camera.projection,
        lightDirection=camera.light,
        **world.LIGHT,
        shadow=0,
        renderer=p.ER_TINY_RENDERER,
        physicsClientId=studio._world.client,
    )


def _bare_loop(env_id: str, engine: world.World, start: dict[str, float]) -> Loop:
    """Return the same scene with nothing but motor call, step and state read.

    Arguments go by keyword, as PyBullet's examples have them.
    """
    client = engine.client
    if env_id == "BulletCartPole-v0":
        robot, joints = _load(engine, "cart_pole.urdf", "slider", "hinge")
        slider, hinge = joints

        def begin() -> None:
            p.resetJointState(robot, slider, start["x"], start["x_dot"], client)
            p.resetJointState(robot, hinge, start["theta"], start["theta_dot"], client)

        def act(count: int) -> Any:
            force = 10.0 if count % 2 else -10.0
            p.setJointMotorControl2(
                robot, slider, p.TORQUE_CONTROL, force=force, physicsClientId=client
            )
            p.stepSimulation(client)
            return p.getJointStates(robot, joints, client)

        return begin, act

    robot, joints = _load(engine, "balancing_plate.urdf", "pitch", "roll")
    pitch, roll = joints
    ball, _ = _load(engine, "ball.urdf")

    def begin_plate() -> None:
        p.resetJointState(robot, pitch, start["pitch"], 0.0, client)
        p.resetJointState(robot, roll, start["roll"], 0.0, client)
        position = [start[f"ball_{axis}"] for axis in "xyz"]
        velocity = [start[f"ball_v{axis}"] for axis in "xyz"]
        spin = [start[f"ball_w{axis}"] for axis in "xyz"]
        p.resetBasePositionAndOrientation(ball, position, (0.0, 0.0, 0.0, 1.0), client)
        p.resetBaseVelocity(ball, velocity, spin, physicsClientId=client)

    def act_plate(count: int) -> Any:
        torque = 0.005 if count % 2 else -0.005
        p.setJointMotorControlArray(
            robot, joints, p.TORQUE_CONTROL, forces=(torque, -torque), physicsClientId=client
        )
        p.stepSimulation(client)
        return (
            p.getJointStates(robot, joints, client),
            p.getBasePositionAndOrientation(ball, client),
            p.getBaseVelocity(ball, client),
        )

    return begin_plate, act_plate


def _load(engine: world.World, name: str, *joints: str) -> tuple[int, tuple[int, ...]]:
    """Return Bullet's numbers of a body and of its joints."""
    body = engine.load(assets.path(name), fixed=name != "ball.urdf")
    number = p.getBodyUniqueId(p.getNumBodies(engine.client) - 1, engine.client)
    return int(number), body.joints(*joints)
