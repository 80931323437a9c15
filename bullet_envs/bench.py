"""How fast environments are beside bare PyBullet and other suites: ``bullet-envs bench``.

The cases of a section take turns, again and again, so that whatever else the machine does falls on
all of them alike. A ratio is the median of the ratios of single rounds.
"""

import contextlib
import cProfile
import functools
import importlib
import importlib.util
import json
import pstats
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import AddRenderObservation, ResizeObservation

from . import assets
from .camera import Camera
from .cores import count_cores
from .engine import world
from .engine.silence import p
from .progress import progress_bar
from .registration import env_ids, load_task, registered
from .renderer import Renderer
from .versions import processor, versions

CART_POLE = "BulletCartPole-v0"  # what other suites have too
BURST = 25  # actions of a single environment between resets; by turns, they end no episode
ROUND = 0.15  # seconds of a case in each round
NUM_ENVS = (1, 16, 64, 256)
WORKERS = 2
WORKER_NUM_ENVS = (64, 256, 1024)  # 1,024 plates take 4 GB
MOST_CLIENTS = 64  # processes, Bullet worlds, or environments that draw: 256 take 7 to 15 GB


# Begins again, outside the time; acts once, in every sub-environment.
Loop = tuple[Callable[[], Any], Callable[[int], Any]]


@dataclass(frozen=True)
class Case:
    """Something that steps.

    Args:
        name: in the table.
        open: a context in which the loop can run.
        num_envs: environments that a step steps.
        needs: the modules without which it is skipped.
    """

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Loop]]
    num_envs: int = 1
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """What is compared within a section: the rate of one case over that of another."""

    name: str
    over: str


@dataclass(frozen=True)
class Section:
    """Cases that take turns; those of the summary have ``in_summary``."""

    title: str
    cases: list[Case]
    ratios: list[Ratio]
    in_summary: bool = True

    def run(self, repeats: int) -> dict[str, Any]:
        """Time a section, print it and return its figures."""
        print(f"{self.title}\n")
        rates: dict[str, list[float]] = {}
        skipped: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            loops = {}
            for case in self.cases:
                missing = [name for name in case.needs if not importlib.util.find_spec(name)]
                if missing:
                    skipped[case.name] = f"{', '.join(missing)} not installed"
                    continue
                loops[case.name] = (case.num_envs, stack.enter_context(case.open()))
            acts = {name: _acts(loop) for name, (_, loop) in loops.items()}
            rounds = range(repeats)
            for _ in progress_bar(iterable=rounds, desc=self.title, unit="round", leave=False):
                for name, (num_envs, loop) in loops.items():
                    rate = num_envs / _seconds_per_act(loop, acts[name])
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


def main(repeats: int, only: str = "", json_path: Path | None = None) -> None:
    """Time sections and print their tables.

    Args:
        repeats: rounds of each section.
        only: the title of the section to time, or part of the titles of several.
        json_path: where all figures go, for programs, after each section.

    Raises:
        ValueError: no title contains ``only``, or ``repeats`` is below 1.
    """
    run(choose(sections(), only), repeats, json_path)


def run(chosen: Sequence[Any], repeats: int, json_path: Path | None = None) -> dict[str, Any]:
    """Time some sections, print their tables and return all figures.

    Raises:
        ValueError: ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be 1 or more")
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "repeats": repeats,
        "sections": [],
    }
    print(f"{results['date']}, {results['machine']}, median of {repeats} rounds\n")
    write(results, json_path)
    for section in chosen:
        results["sections"].append(section.run(repeats))
        write(results, json_path)
    return results


def choose(sections: Sequence[Any], only: str) -> list[Any]:
    """Return the sections whose title is, or else contains, some words.

    Raises:
        ValueError: there is none.
    """
    chosen = [section for section in sections if section.title == only] or [
        section for section in sections if only.lower() in section.title.lower()
    ]
    if not chosen:
        titles = ", ".join(repr(section.title) for section in sections)
        raise ValueError(f"no section has {only!r} in its title; they are {titles}")
    return chosen


def write(results: dict[str, Any], path: Path | None) -> None:
    """Write figures as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def profile(only: str | None = None) -> None:
    """Print where the time of a step goes, single and vector, for one id or for each.

    PyBullet's ``stepSimulation`` is counted in the function that calls it, ``step`` of
    ``simulation.py``.
    """
    for env_id in env_ids() if only is None else [only.rpartition(":")[2]]:
        for name, opener in (
            (env_id, _gym(env_id)),
            (_vector_name(env_id, 64), _vector(env_id, 64)),
        ):
            with opener() as loop:
                acts = _acts(loop)
                profiler = cProfile.Profile()
                profiler.runcall(_seconds_per_act, loop, acts)
            print(f"{name}, {acts} steps")
            pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(12)


def machine() -> str:
    """Return what the figures hold for."""
    names = ("gymnasium", "numpy", "pybullet")
    of_python, *rest = versions(names).items()
    libraries = ", ".join(f"{name} {version}" for name, version in rest)
    return f"{count_cores()} cores of {processor()}, Python {of_python[1]}, {libraries}"


def sections() -> list[Section]:
    """Return what is compared."""
    ids = env_ids()
    state_ids = [env_id for env_id in ids if not _observes_images(env_id)]
    pixel_ids = [env_id for env_id in ids if _observes_images(env_id)]
    single = [
        Case("CartPole-v1", _gym("CartPole-v1")),
        Case("MuJoCo InvertedPendulum-v5", _gym("InvertedPendulum-v5"), needs=("mujoco",)),
        Case(
            "InvertedPendulumBulletEnv-v0",
            _gym("InvertedPendulumBulletEnv-v0"),
            needs=("pybullet_envs_gymnasium",),
        ),
        Case("panda-gym PandaReach-v3", _gym("PandaReach-v3"), needs=("panda_gym",)),
    ]
    cameras = [
        Case(
            "CartPole-v1 + AddRenderObservation", _rendered("CartPole-v1"), needs=("pygame", "cv2")
        ),
        Case(
            "InvertedPendulumBulletEnv-v0 + AddRenderObservation",
            _rendered("InvertedPendulumBulletEnv-v0"),
            needs=("pybullet_envs_gymnasium", "cv2"),
        ),
    ]
    many = [
        Case("CartPole-v1 vector entry point", _vector_entry("CartPole-v1", 64), 64),
        Case(
            "SyncVectorEnv InvertedPendulum-v5", _sync("InvertedPendulum-v5", 64), 64, ("mujoco",)
        ),
        Case(
            "EnvPool InvertedPendulum-v4, 2 threads",
            functools.partial(_envpool, 64),
            64,
            ("envpool",),
        ),
    ]
    bare = [env_id for env_id in state_ids if env_id in _BARE_LOOPS]
    return [
        Section(
            "one environment",
            [
                *(Case(_bare(env_id), functools.partial(_open_bare, env_id)) for env_id in bare),
                *(Case(env_id, _gym(env_id)) for env_id in state_ids),
                *single,
            ],
            [
                *(Ratio(env_id, _bare(env_id)) for env_id in bare),
                *(Ratio(CART_POLE, other.name) for other in single),
            ],
        ),
        Section(
            "one environment, images",
            [
                *(Case(_bare(e), functools.partial(_open_camera, e)) for e in pixel_ids),
                *(Case(env_id, _gym(env_id)) for env_id in pixel_ids),
                *cameras,
            ],
            [
                *(Ratio(env_id, _bare(env_id)) for env_id in pixel_ids),
                *(Ratio(env_id, other.name) for env_id in pixel_ids for other in cameras),
            ],
        ),
        *(
            _vector_section(env_id, num_envs)
            for env_id in ids
            for num_envs in NUM_ENVS
            if num_envs <= MOST_CLIENTS or _shares_worlds(env_id)
        ),
        *(_workers_section(env_id) for env_id in ids),
        *(_parameters_section(env_id) for env_id in state_ids if _drawn_parameters(env_id)),
        Section(
            "vector environments",
            [
                *(
                    Case(_vector_name(env_id, num_envs), _vector(env_id, num_envs), num_envs)
                    for env_id in state_ids
                    for num_envs in NUM_ENVS
                    if num_envs <= MOST_CLIENTS or _shares_worlds(env_id)
                ),
                *many,
            ],
            [
                *(
                    Ratio(_vector_name(e, 256), _vector_name(e, 64))
                    for e in state_ids
                    if _shares_worlds(e)
                ),
                *(Ratio(_vector_name(CART_POLE, 64), other.name) for other in many),
            ],
        ),
    ]


def _observes_images(env_id: str) -> bool:
    task = registered(env_id)
    return task is not None and env_id == task.pixel_id


def _shares_worlds(env_id: str) -> bool:
    task = registered(env_id)
    return task is not None and load_task(task.task).envs_per_world > 1


def _vector_section(env_id: str, num_envs: int) -> Section:
    ways = [Case(_vector_name(env_id, num_envs), _vector(env_id, num_envs), num_envs)]
    if num_envs <= MOST_CLIENTS or env_id in _BARE_LOOPS:
        ways.append(Case(f"SyncVectorEnv of {num_envs}", _sync(env_id, num_envs), num_envs))
    if num_envs <= MOST_CLIENTS:
        several = _vector_name(env_id, num_envs, WORKERS)
        if num_envs >= WORKERS:
            ways.append(Case(several, _vector(env_id, num_envs, WORKERS), num_envs))
        ways += [
            Case(f"AsyncVectorEnv of {num_envs}", _async(env_id, num_envs), num_envs),
            Case(
                f"SB3 SubprocVecEnv of {num_envs}",
                functools.partial(_subproc, env_id, num_envs),
                num_envs,
                ("stable_baselines3",),
            ),
        ]
    ratios = [Ratio(ways[0].name, way.name) for way in ways[1:]]
    if WORKERS <= num_envs <= MOST_CLIENTS:
        others = [way.name for way in ways[1:] if way.name != several]
        ratios += [Ratio(several, name) for name in others]
    title = f"{env_id} with num_envs={num_envs}"
    return Section(title, ways, ratios, in_summary=num_envs == 64)


def _workers_section(env_id: str) -> Section:
    """Return one process beside several, with the numbers of sub-environments that fit an id."""
    most = WORKER_NUM_ENVS[-1] if env_id == CART_POLE else NUM_ENVS[-1]
    if _observes_images(env_id) or not _shares_worlds(env_id):
        most = MOST_CLIENTS
    cases: list[Case] = []
    ratios: list[Ratio] = []
    for num_envs in WORKER_NUM_ENVS:
        if num_envs <= most:
            one, several = (_vector_name(env_id, num_envs, workers) for workers in (1, WORKERS))
            cases += [
                Case(one, _vector(env_id, num_envs), num_envs),
                Case(several, _vector(env_id, num_envs, WORKERS), num_envs),
            ]
            ratios.append(Ratio(several, one))
    least, *larger = (case.name for case in cases[1::2])
    ratios += [Ratio(name, least) for name in larger]
    others = [Case("SyncVectorEnv of 64", _sync(env_id, 64), 64)]
    ratios.append(Ratio(least, others[0].name))
    if env_id == CART_POLE:
        name = "EnvPool InvertedPendulum-v4, num_envs=256, 2 threads"
        pool = functools.partial(_envpool, 256)
        others.append(Case(name, pool, 256, ("envpool",)))
        ratios.append(Ratio(_vector_name(env_id, 256, WORKERS), name))
    return Section(f"{env_id} with {WORKERS} workers", [*cases, *others], ratios)


def _drawn_parameters(env_id: str) -> dict[str, Any]:
    """Return the distributions of an id's preset ``medium``, none without that preset."""
    task = registered(env_id)
    presets = {} if task is None else load_task(task.task).perturbation_presets
    parameters: dict[str, Any] = presets.get("medium", {}).get("parameters", {})
    return parameters


def _parameters_section(env_id: str) -> Section:
    """Return 64 nominal sub-environments beside 64 whose parameters are drawn.

    Random actions end an episode of the cart-pole after 20 steps, so that each step of the 64
    begins three. Held poles are those of an agent that has learned: most episodes have 500 steps.
    """
    drawn = _drawn_parameters(env_id)
    chosen = {"all": drawn, **{name: {name: drawn[name]} for name in drawn}}
    nominal = Case(_vector_name(env_id, 64), _vector(env_id, 64), 64)
    cases = [
        Case(f"{env_id}, num_envs=64, drawn: {name}", _perturbed(env_id, 64, parameters), 64)
        for name, parameters in chosen.items()
    ]
    ratios = [Ratio(case.name, nominal.name) for case in cases]
    if env_id == CART_POLE:
        held, drawn_held = (
            Case(f"{name}, poles held", _held(env_id, 64, parameters), 64)
            for name, parameters in ((nominal.name, {}), (cases[0].name, drawn))
        )
        cases += [held, drawn_held]
        ratios.append(Ratio(drawn_held.name, held.name))
    title = f"{env_id} with parameters drawn at every reset"
    return Section(title, [nominal, *cases], ratios)


def _vector_name(env_id: str, num_envs: int, workers: int = 1) -> str:
    name = f"{env_id}, num_envs={num_envs}"
    return name if workers == 1 else f"{name}, workers={workers}"


def _bare(env_id: str) -> str:
    return f"bare {'getCameraImage' if _observes_images(env_id) else 'loop'} of {env_id}"


def _acts(loop: Loop) -> int:
    """Return how many acts fill a round, in whole bursts."""
    begin, act = loop
    begin()
    act(0)
    start = time.perf_counter()
    for count in range(BURST):
        act(count)
    seconds = time.perf_counter() - start
    return BURST * max(1, round(ROUND / seconds))


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
    """Return a ratio's names, and the spread of the ratios of single rounds."""
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


def _rendered(env_id: str) -> Opener:
    """Return what makes an environment's images with Gymnasium's wrappers, as large as ours."""

    def make() -> gym.Env[Any, Any]:
        env = AddRenderObservation(_make(env_id, render_mode="rgb_array"))
        return ResizeObservation(env, (64, 64))

    return functools.partial(_open_env, make)


def _make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    for module in ("pybullet_envs_gymnasium", "panda_gym"):
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    return gym.make(env_id, **kwargs)


def _action(space: gym.Space[Any], count: int) -> Any:
    """Return an action; Discrete ones go by turns, so that no episode ends."""
    return count % int(space.n) if isinstance(space, gym.spaces.Discrete) else space.sample()


@contextlib.contextmanager
def _open_env(make: Callable[[], gym.Env[Any, Any]]) -> Iterator[Loop]:
    with make() as env:
        env.action_space.seed(0)
        actions = [_action(env.action_space, count) for count in range(BURST)]
        yield lambda: env.reset(seed=0), lambda count: env.step(actions[count])


def _vector(env_id: str, num_envs: int, workers: int = 1) -> Opener:
    return functools.partial(
        _open_vector, lambda: gym.make_vec(env_id, num_envs=num_envs, workers=workers)
    )


def _perturbed(env_id: str, num_envs: int, parameters: dict[str, Any]) -> Opener:
    made = functools.partial(gym.make_vec, env_id, num_envs=num_envs)
    return functools.partial(
        _open_vector, functools.partial(made, perturbations={"parameters": parameters})
    )


@contextlib.contextmanager
def _open_held(make: Callable[[], Any]) -> Iterator[Loop]:
    """Open cart-poles that are pushed to where their poles fall."""
    with contextlib.closing(make()) as envs:
        latest = [envs.reset(seed=0)[0]]

        def act(_: int) -> None:
            latest[0] = envs.step((latest[0] @ (0.05, 0.1, 1.0, 0.3) > 0).astype(np.int64))[0]

        yield lambda: None, act


def _held(env_id: str, num_envs: int, parameters: dict[str, Any]) -> Opener:
    perturbations = {"parameters": parameters} if parameters else None
    made = functools.partial(gym.make_vec, env_id, num_envs=num_envs)
    return functools.partial(_open_held, functools.partial(made, perturbations=perturbations))


def _vector_entry(env_id: str, num_envs: int) -> Opener:
    return functools.partial(
        _open_vector,
        lambda: gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point"),
    )


def _sync(env_id: str, num_envs: int) -> Opener:
    return functools.partial(
        _open_vector, lambda: SyncVectorEnv([lambda: _make(env_id)] * num_envs)
    )


def _async(env_id: str, num_envs: int) -> Opener:
    return functools.partial(
        _open_vector, lambda: AsyncVectorEnv([lambda: _make(env_id)] * num_envs)
    )


@contextlib.contextmanager
def _open_vector(make: Callable[[], Any]) -> Iterator[Loop]:
    with contextlib.closing(make()) as envs:
        envs.action_space.seed(0)
        actions = [envs.action_space.sample() for _ in range(BURST)]
        envs.reset(seed=0)
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _subproc(env_id: str, num_envs: int) -> Iterator[Loop]:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    processes = SubprocVecEnv([lambda: _make(env_id)] * num_envs, start_method="fork")
    with contextlib.closing(processes) as envs:
        space = envs.action_space
        actions = [np.array([space.sample() for _ in range(num_envs)]) for _ in range(BURST)]
        envs.reset()
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _envpool(num_envs: int) -> Iterator[Loop]:
    import envpool

    pool = envpool.make_gymnasium("InvertedPendulum-v4", num_envs=num_envs, num_threads=2)
    with contextlib.closing(pool) as envs:
        rng = np.random.default_rng(0)
        actions = rng.uniform(-3, 3, (BURST, num_envs, 1))
        envs.reset()
        yield lambda: None, lambda count: envs.step(actions[count])


@contextlib.contextmanager
def _open_bare(env_id: str) -> Iterator[Loop]:
    with gym.make(env_id) as env:
        env.reset(seed=0)
        task, start = env.unwrapped.task, env.unwrapped.state()  # type: ignore[attr-defined]
        engine = world.World(
            task.physics_hz, task.control_hz, task.gravity, bullet_substeps=task.bullet_substeps
        )
        with contextlib.closing(engine):
            yield _BARE_LOOPS[env_id](engine, start)


@contextlib.contextmanager
def _open_camera(env_id: str) -> Iterator[Loop]:
    """Yield the camera call alone, of every fifth image that the environment will draw."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(gym.make(env_id))
        env.reset(seed=0)
        bare: Any = env.unwrapped
        task, camera = bare.task, bare.observer.camera
        calls = []
        for count in range(BURST):
            if count % 5 == 0:
                renderer = stack.enter_context(contextlib.closing(Renderer(task)))
                state = tuple(bare.state().values())
                renderer.set_state(state)
                calls.append(_camera_call(renderer, camera, task.camera_target(state)))
            env.step(_action(env.action_space, count))
        yield lambda: None, lambda count: calls[count // 5]()


def _camera_call(
    renderer: Renderer, camera: Camera, shift: tuple[float, float, float]
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
        physicsClientId=renderer._simulation.world.client,
    )


def _bare_cart_pole(engine: world.World, start: dict[str, float]) -> Loop:
    """Return the cart-pole's scene with nothing but motor call, step and state read.

    Arguments go by keyword, as PyBullet's examples have them.
    """
    client = engine.client
    body = engine.load_contact_free(assets.path("cart_pole.urdf"), copies=1)
    robot, joints = _last_body(engine), body.joints("slider", "hinge")
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


def _bare_plate(engine: world.World, start: dict[str, float]) -> Loop:
    """Return the plate's scene with nothing but motor call, step and state read."""
    client = engine.client
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
    return _last_body(engine), body.joints(*joints)


def _last_body(engine: world.World) -> int:
    return int(p.getBodyUniqueId(p.getNumBodies(engine.client) - 1, engine.client))


_BARE_LOOPS = {CART_POLE: _bare_cart_pole, "BalancingPlate-v0": _bare_plate}
