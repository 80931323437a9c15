"""``make robust``: agents for perturbed robots, trained on the preset ``medium``.

Train and evaluate every cell that the CSV lacks; the same command goes on after Ctrl-C::

    python -m benchmarks.robust

An agent plays 1,000 unseen episodes (300 on images) with the perturbations of ``medium`` and as
many without. ``load_agent(env_id, "ppo-robust")`` is that of the seed with the greatest mean return
from as many others. The ablation trains the cart-pole's PPO without its memory of observations, and
without that of actions. Beside them play the LQG, also one that does not know the parameters of the
episodes, and the bundled agents that were trained without perturbations.
"""

import argparse
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bullet_envs import registered
from bullet_envs.agents import algorithm, load_agent, pretrained_card
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import evaluate
from bullet_envs.perturbations import for_observer
from bullet_envs.registration import load_task

from .cells import curve_of, resumable, score, train_or_resume
from .results import VALIDATION_SEEDS, evaluation_seeds
from .tables import add_rows, read_rows, with_section

PRESET = "medium"
SEEDS = range(3)
_STATE = {
    **{"eval_freq": 100_000, "save_freq": 100_000, "n_eval_episodes": 200, "solved_evaluations": 0},
    **{"frame_stack": 16, "observe_actions": True},
}
_HORIZON = {"gamma": 0.99, "gae_lambda": 0.95}
# PPO's or A2C's own gradient makes the imitation worse, and is next to nothing here.
_TEACHER = {
    **{"teacher_coef": 1000.0, "max_grad_norm": 500.0, "training_episode_steps": 200},
    **{"hold_dropped": True, "frame_stack": 128, "hidden": (), "n_envs": 256},
    **{"reward_scale": 0.05, "eval_freq": 1_000_000, "save_freq": 200_000},
    "n_eval_episodes": 400,
}
_A2C = {
    **{**_STATE, **_HORIZON, "eval_freq": 250_000, "save_freq": 250_000, "n_timesteps": 5_000_000},
    **{"n_envs": 64, "n_steps": 16, "normalize_advantage": True, "reward_scale": 0.05},
}
# What differs from the preset of the id.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("BulletCartPole-v0", "ppo"): {
        **_STATE,
        **_HORIZON,
        **{"n_timesteps": 1_500_000, "n_envs": 32, "n_steps": 256, "batch_size": 512},
        "learning_rate": 5e-4,
    },
    ("BulletCartPole-v0", "a2c"): _A2C,
    ("BalancingPlate-v0", "ppo"): {
        **{**_STATE, **_HORIZON, **_TEACHER, "n_timesteps": 4_000_000},
        **{"n_steps": 32, "batch_size": 512, "n_epochs": 1},
    },
    ("BalancingPlate-v0", "a2c"): {**_A2C, **_TEACHER, "n_steps": 4, "n_timesteps": 4_000_000},
    ("BulletCartPolePixels-v0", "ppo"): {
        **_HORIZON,
        **{"n_timesteps": 300_000, "solved_evaluations": 0, "n_eval_episodes": 40},
        **{"n_envs": 32, "n_steps": 64, "batch_size": 256, "n_epochs": 3},
        **{"frame_stack": 4, "action_repeat": 1, "observe_actions": True, "hold_dropped": True},
        **{"teacher_coef": 5.0, "eval_freq": 40_960, "save_freq": 20_480},
    },
}
# Drawn in training in place of the preset's. What an agent loses of the preset's episodes are those
# with weak motors, and a heavy ball or, with a light one, a heavy plate and ring.
HARDER: dict[str, dict[str, Any]] = {
    "BalancingPlate-v0": {
        "torque": {"normal": [0.55, 0.35, 0.55, 1.72], "operation": "scale"},
        "ball_mass": {"uniform": [0.43, 2.4], "operation": "scale"},
        "plate_mass": {"uniform": [0.58, 1.72], "operation": "scale"},
        "ring_mass": {"uniform": [0.58, 1.72], "operation": "scale"},
    },
}
WITHOUT: dict[str, dict[str, Any]] = {
    "": {},
    "actions": {"observe_actions": False},
    "memory": {"frame_stack": 1, "observe_actions": False},
}
ABLATED = ("BulletCartPole-v0", "ppo")
NOMINAL = "perturbations in training"  # of the bundled agents
KEYS = ("env_id", "algo", "without", "seed")
SCORES = ("mean", "std", "worst", "lost")
COLUMNS = (
    *(*KEYS, "steps", "seconds", *SCORES),
    *(*(f"nominal_{name}" for name in SCORES), "validation", "sha256"),
)
CURVE_COLUMNS = (*KEYS, "steps", "return")
CSV_PATH = Path(__file__).parent / "robust.csv"
CURVES_PATH = Path(__file__).parent / "robust_curves.csv"


@resumable()
def main() -> None:
    """Fill the CSVs, bundle the agents and rewrite the document's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--curves", type=Path, default=CURVES_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/perturbations.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/robust"))
    envs, algos = (sorted({cell[place] for cell in cells()}) for place in (0, 1))
    parser.add_argument("--envs", nargs="+", choices=envs, default=envs)
    parser.add_argument("--algos", nargs="+", choices=algos, default=algos)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    options = parser.parse_args()
    for cell in cells():
        env_id, algo, without, seed = cell
        selected = env_id in options.envs and algo in options.algos and int(seed) in options.seeds
        if selected and cell not in map(cell_of, read_rows(options.csv)):
            if without == NOMINAL or algo == "lqg":
                _play_cell(cell, options)
            else:
                _train_cell(cell, options)
    text = options.document.read_text()
    section = table(read_rows(options.csv))
    write_atomically(options.document, with_section(text, "robust", section).encode())


def cells() -> list[tuple[str, str, str, str]]:
    """Return the columns ``KEYS`` of every row, in their order."""
    trained = [
        (*cell, without, str(seed))
        for cell in SETTINGS
        for without in (WITHOUT if cell == ABLATED else [""])
        for seed in SEEDS
    ]
    bundled = [(*cell, NOMINAL, "0") for cell in SETTINGS]
    controllers = [
        (env_id, "lqg", without, "0")
        for env_id in ("BulletCartPole-v0", "BalancingPlate-v0")
        for without in ("", "parameters")
    ]
    return trained + bundled + controllers


def cell_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns ``KEYS`` of a row."""
    return tuple(str(row[name]) for name in KEYS)


def settings_of(env_id: str, algo: str, without: str) -> dict[str, Any]:
    """Return the settings of a cell that differ from the defaults."""
    preset = algorithm(algo).preset(env_id)
    return {**preset, **SETTINGS[env_id, algo], **WITHOUT[without]}


def trained_on(env_id: str) -> Any:
    """Return the perturbations of the training."""
    if env_id not in HARDER:
        return PRESET
    task = load_task(registered(env_id).task)  # type: ignore[union-attr]
    preset = for_observer(task.perturbation_presets[PRESET], False)
    return {**preset, "parameters": {**preset["parameters"], **HARDER[env_id]}}


def _train_cell(cell: tuple[str, str, str, str], options: argparse.Namespace) -> None:
    env_id, algo, without, seed = cell
    learner = algorithm(algo)
    settings = settings_of(env_id, algo, without)
    kwargs = {"perturbations": trained_on(env_id)}
    config = learner.config(env_id=env_id, env_kwargs=kwargs, seed=int(seed), **settings)
    folder = options.runs / "-".join(cell)
    run, _, seconds = train_or_resume(folder, config, learner.train)
    agent: Any = load_agent(env_id, folder, perturbations=PRESET)
    perturbed, nominal = _scores(agent), _scores(load_agent(env_id, folder, perturbations=None))
    validation = evaluate(agent, VALIDATION_SEEDS[: len(evaluation_seeds(env_id))])
    facts = dict(zip(KEYS, cell, strict=True))
    curve = [{**facts, **point} for point in curve_of(folder)]
    add_rows(options.curves, CURVE_COLUMNS, curve, cell_of, cells())
    row = {
        **facts,
        "steps": run.steps,
        "seconds": round(seconds, 1),
        **perturbed,
        **{f"nominal_{name}": value for name, value in nominal.items()},
        "validation": round(float(validation.returns.mean()), 2),
        "sha256": agent.weights_hash,
    }
    add_rows(options.csv, COLUMNS, [row], cell_of, cells())
    if not without and bundled_seed(read_rows(options.csv), env_id, algo) == seed:
        agent.facts["returns"] = {**perturbed, "episodes": len(evaluation_seeds(env_id))}
        # A card is of one environment. That of the training is a fact beside it.
        agent.facts["trained_on"] = kwargs
        agent.facts["settings"] = {**agent.facts["settings"], "env_kwargs": agent.env.env_kwargs}
        agent.save(pretrained_card(env_id, f"{algo}-robust"))
    shutil.rmtree(folder)


def _play_cell(cell: tuple[str, str, str, str], options: argparse.Namespace) -> None:
    env_id, algo, without, _ = cell
    agent: Any = load_agent(env_id, algo, perturbations=PRESET)
    if without == "parameters":
        # It is not told those of the episode, and takes the nominal ones.
        agent.policy.begin = functools.partial(_begin_without, agent.policy)
    perturbed = _scores(agent)
    nominal = {
        f"nominal_{name}": value for name, value in _scores(load_agent(env_id, algo)).items()
    }
    facts = dict.fromkeys(("steps", "seconds", "validation", "sha256"), "")
    row = {**dict(zip(KEYS, cell, strict=True)), **facts, **perturbed, **nominal}
    add_rows(options.csv, COLUMNS, [row], cell_of, cells())


def _begin_without(policy: Any, infos: Mapping[str, Any], count: int) -> None:
    type(policy).begin(policy, {}, count)


def _scores(agent: Any) -> dict[str, float]:
    evaluation = evaluate(agent, evaluation_seeds(agent.env_id))
    return {**score(evaluation, digits=2), "lost": int(evaluation.terminated.sum())}


def bundled_seed(rows: list[dict[str, Any]], env_id: str, algo: str) -> str:
    """Return the seed with the greatest return of the validation, the first of equal ones."""
    mine = [row for row in rows if cell_of(row)[:3] == (env_id, algo, "")]
    return str(max(mine, key=lambda row: (float(row["validation"]), -int(row["seed"])))["seed"])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the agents, the worst seed of each."""
    lines = [
        "| id | agent | without | mean return on `medium`, worst seed | all seeds"
        " | mean return unperturbed, worst seed | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for env_id, algo, without in dict.fromkeys(cell[:3] for cell in cells()):
        mine = [row for row in rows if cell_of(row)[:3] == (env_id, algo, without)]
        if mine:
            means = [float(row["mean"]) for row in mine]
            nominal = min(float(row["nominal_mean"]) for row in mine)
            every = ", ".join(f"{mean:.0f}" for mean in means)
            name = algo if without == NOMINAL or algo == "lqg" else f"{algo}-robust"
            line = f"| {env_id} | `{name}` | {without} | {min(means):.1f} | {every} |"
            lines.append(f"{line} {nominal:.1f} | {len(mine)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
