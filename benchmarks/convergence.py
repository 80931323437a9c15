"""Bullet's error against the exact solution, over its time step: the proof in ``docs/physics.md``.

Both tasks are played at random for half a second at each physics rate. The exact solution, and the
semi-implicit Euler that Bullet's cart-pole must equal, come from equations of motion that do not
come from the engine. Measure again, in some seconds (``make convergence``)::

    python -m benchmarks.convergence
"""

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from bullet_envs import Task
from bullet_envs.engine.silence import p
from bullet_envs.equations_of_motion import (
    PITCH,
    POSITION,
    ROLL,
    Array,
    cart_pole_rates,
    in_play,
    plate_rates,
    rk4,
)
from bullet_envs.simulation import Simulation
from bullet_envs.tasks.balancing_plate import BalancingPlate
from bullet_envs.tasks.cart_pole import CartPole

CART_POLE = CartPole()
RUNS: dict[type[Task], int] = {CartPole: 2000, BalancingPlate: 500}
PHYSICS_HZ = (50, 100, 200, 250, 500, 1000)
SECONDS = 0.5
ASYMPTOTIC_HZ = 100  # from here on the error of both is proportional to the time step
COLUMNS = ("task", "physics_hz", "runs", "millimetres", "degrees", "from_euler", "microseconds")
CSV_PATH = Path(__file__).parent / "convergence.csv"


def random_play(task: Task, runs: int, actions: int, seed: int = 0) -> tuple[Array, Array]:
    """Return usual initial states (runs, columns) and random efforts (actions, runs, axes)."""
    rng = np.random.default_rng(seed)
    initial = np.array([task.sample_initial_state(rng) for _ in range(runs)])
    scales = np.array([actuator.scale for actuator in task.actuators])
    return initial, scales * rng.choice([-1.0, 1.0], (actions, runs, len(scales)))


def simulate(task: Task, initial: Array, efforts: Array, **settings: float) -> Array:
    """Return what Bullet does: (actions + 1, runs, columns), given other engine settings."""
    simulation = Simulation(task)
    p.setPhysicsEngineParameter(**settings, physicsClientId=simulation.world.client)
    states = np.empty((len(efforts) + 1, *initial.shape))
    for run, state in enumerate(initial.tolist()):
        states[0, run] = simulation.set_state({0: state})[0]
        for step, effort in enumerate(efforts[:, run].tolist()):
            states[step + 1, run] = simulation.step(effort)
    simulation.close()
    return states


def exact(task: Task, initial: Array, efforts: Array) -> Array:
    """Return the exact solution: (actions + 1, runs, columns)."""
    if isinstance(task, CartPole):
        rates = functools.partial(cart_pole_rates, task=task)
        return rk4(rates, initial, efforts, task.control_hz)
    assert isinstance(task, BalancingPlate)
    return rk4(functools.partial(plate_rates, task=task), initial, efforts, task.control_hz)


def euler_cart_pole(
    state: Array, force: Array, physics_hz: int, steps: int, task: CartPole = CART_POLE
) -> Array:
    """Return the state after semi-implicit Euler steps: speeds first, then places with them."""
    for _ in range(steps):
        speeds = state[..., 1::2] + cart_pole_rates(state, force, task)[..., 1::2] / physics_hz
        places = state[..., ::2] + speeds / physics_hz
        state = np.stack([places, speeds], -1).reshape(state.shape)
    return state


def state_errors(task: Task, truth: Array, states: Array) -> tuple[Array, Array]:
    """Return the errors of place (mm) and angle (deg), 0 once terminated."""
    places, angles = ([0], [2]) if isinstance(task, CartPole) else (POSITION, [PITCH, ROLL])
    error = np.where(in_play(task, truth)[..., None], states - truth, 0)
    millimetres = np.linalg.norm(error[..., places], axis=-1) * 1e3
    return millimetres, np.degrees(np.abs(error[..., angles]).max(-1))


def order(physics_hz: Any, error: Any) -> float:
    """Return the power of the time step with which an error grows."""
    return float(-np.polyfit(np.log(physics_hz), np.log(error), 1)[0])


def measure(problem: type[Task], physics_hz: int, runs: int) -> dict[str, Any]:
    """Return the row of a task and rate."""
    task: Task = problem(physics_hz=physics_hz)
    initial, efforts = random_play(task, runs, int(SECONDS * task.control_hz))
    began = time.perf_counter()
    states = simulate(task, initial, efforts)
    microseconds = (time.perf_counter() - began) / efforts[..., 0].size * 1e6
    millimetres, degrees = state_errors(task, exact(task, initial, efforts), states)
    from_euler = ""
    if isinstance(task, CartPole):
        state, greatest = initial, 0.0
        for effort, theirs in zip(efforts, states[1:], strict=True):
            state = euler_cart_pole(state, effort, physics_hz, physics_hz // task.control_hz, task)
            greatest = max(greatest, np.abs(state - theirs).max())
        from_euler = f"{greatest:.1e}"
    return {
        "task": problem.__name__,
        "physics_hz": physics_hz,
        "runs": runs,
        "millimetres": f"{millimetres.max():.4f}",
        "degrees": f"{degrees.max():.4f}",
        "from_euler": from_euler,
        "microseconds": f"{microseconds:.1f}",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown of the rows, and with which power of the time step the errors grow."""
    lines = [
        "| task | physics rate, Hz | time step, ms | place, mm | angle, deg"
        " | from semi-implicit Euler | µs per action |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['task']} | {row['physics_hz']} | {1000 / int(row['physics_hz']):g} |"
            f" {float(row['millimetres']):.2f} | {float(row['degrees']):.3f} |"
            f" {row['from_euler']} | {float(row['microseconds']):.0f} |"
        )
    lines.append("")
    for problem, runs in RUNS.items():
        mine = [row for row in _of(rows, problem) if int(row["physics_hz"]) >= ASYMPTOTIC_HZ]
        rates = [int(row["physics_hz"]) for row in mine]
        place, angle = (
            order(rates, [float(row[name]) for row in mine]) for name in ("millimetres", "degrees")
        )
        lines.append(
            f"- {problem.__name__}, worst of {runs} runs: from {ASYMPTOTIC_HZ} Hz on, the error of"
            f" place grows with the power {place:.2f} of the time step, that of the angle with"
            f" {angle:.2f}."
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the errors over the time step, a panel for each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(RUNS), sharex=True)
    for panel, problem in zip(panels, RUNS, strict=True):
        mine = _of(rows, problem)
        steps = np.array([1000 / int(row["physics_hz"]) for row in mine])
        for name, label in (("millimetres", "place (mm)"), ("degrees", "angle (deg)")):
            error = np.array([float(row[name]) for row in mine])
            (line,) = panel.loglog(steps, error, "o-", label=label)
            proportional = error[-1] * steps / steps[-1]
            panel.loglog(steps, proportional, ":", color=line.get_color(), linewidth=1)
        shipped = 1000 / problem().physics_hz
        panel.axvline(shipped, color="grey", linewidth=0.8, linestyle="--")
        panel.set(title=f"{problem.__name__}, {SECONDS} s of random play", xlabel="time step (ms)")
        panel.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
        panel.minorticks_off()
        panel.legend(fontsize=8, loc="upper left")
    panels[0].set_ylabel("worst error against the exact solution")
    figure.savefig(path, dpi=110)


def _of(rows: list[dict[str, Any]], problem: type[Task]) -> list[dict[str, Any]]:
    return [row for row in rows if row["task"] == problem.__name__]


def main() -> None:
    """Measure, and rewrite CSV, plot and the section of a document."""
    # Not above: the tests of physics import this module, and run without torch.
    from bullet_envs.agents.checkpoints import write_atomically

    from .tables import read_rows, with_section, write_rows

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--plot", type=Path, default=Path("docs/convergence.png"))
    parser.add_argument("--document", type=Path, default=Path("docs/physics.md"))
    parser.add_argument("--runs", type=int, help="of each task; default: 2000 and 500")
    parser.add_argument("--documents", action="store_true", help="draw and write only")
    options = parser.parse_args()
    if not options.documents:
        rows = [
            measure(problem, physics_hz, options.runs or runs)
            for problem, runs in RUNS.items()
            for physics_hz in PHYSICS_HZ
        ]
        write_rows(options.csv, COLUMNS, rows)
    rows = read_rows(options.csv)
    plot(rows, options.plot)
    text = with_section(options.document.read_text(), "convergence", table(rows))
    write_atomically(options.document, text.encode())


if __name__ == "__main__":
    main()
