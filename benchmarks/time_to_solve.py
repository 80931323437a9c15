"""``make bench``: throughput (``bullet-envs bench``), and the time that agents take to solve.

Write all figures to a JSON file and their ratios into a document::

    python -m benchmarks.time_to_solve --json docs/bench.json --document docs/speed.md

With ``--only`` too, these sections of the file are replaced, and the others stay::

    python -m benchmarks.time_to_solve --json docs/bench.json --document docs/speed.md --only drawn
"""

import argparse
import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env

from bullet_envs import bench, registered
from bullet_envs.agents import BUNDLED_ALGOS, Agent, algorithm
from bullet_envs.agents.run import TORCH_THREADS, Run
from bullet_envs.agents.wrappers import VectorActionRepeat
from bullet_envs.bench import CART_POLE, Ratio, print_ratios, ratio_of, spread
from bullet_envs.progress import progress_bar
from bullet_envs.registration import env_ids

from .tables import with_section

PLATE = "BalancingPlate-v0"
SOLVED = 475.0  # mean return of 20 episodes
SEEDS = range(3)
OURS = {"DQN": "dqn", "PPO": "ppo"}
# https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams, CartPole-v1.
ZOO: dict[str, dict[str, Any]] = {
    "DQN": {
        "n_envs": 1,
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
    "PPO": {
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "learning_rate": lambda left: 1e-3 * left,
        "clip_range": lambda left: 0.2 * left,
    },
}


@dataclass(frozen=True)
class TimeToSolve:
    """Trainings that take turns, a seed each.

    Args:
        title: of the table.
        trainings: by name, what trains from a seed until the environment is solved and returns
            whether it was.
        ratios: of their seconds.
        seeds: of each.
    """

    title: str
    trainings: dict[str, Callable[[int], bool]]
    ratios: list[Ratio]
    seeds: Sequence[int] = SEEDS
    in_summary: bool = True

    def run(self, repeats: int) -> dict[str, Any]:
        """Time the trainings, print them and return their figures."""
        print(f"{self.title}\n")
        seconds: dict[str, list[float]] = {}
        solved: dict[str, int] = {}
        turns = [(seed, name) for seed in self.seeds for name in self.trainings]
        for seed, name in progress_bar(
            iterable=turns, desc=self.title, unit="training", leave=False
        ):
            start = time.perf_counter()
            solved[name] = solved.get(name, 0) + self.trainings[name](seed)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
        print(f"| | seconds to {SOLVED:.0f} | slowest | seeds solved |\n|---|---|---|---|")
        for name, of in seconds.items():
            print(f"| {name} | {median(of):.1f} | {max(of):.1f} | {solved[name]} of {len(of)} |")
        ratios = [ratio_of(ratio, seconds) for ratio in self.ratios]
        print_ratios(ratios)
        return {
            "title": self.title,
            "in_summary": self.in_summary,
            "seconds": {name: spread(of) for name, of in seconds.items()},
            "seeds": len(self.seeds),
            "seeds_solved": solved,
            "ratios": ratios,
        }


class _UntilSolved(Run):
    """A training that stops at the first evaluation that solves the environment."""

    def evaluate(self, agent: Agent) -> None:
        """Evaluate, and stop if that was good enough."""
        super().evaluate(agent)
        self.stopped |= (self.best_return or 0.0) >= SOLVED


def sections() -> list[TimeToSolve]:
    """Return the trainings whose time to solve is compared.

    Those of SB3 are for the cart-pole alone: there are no published settings for the plate.
    """
    cart_pole, plate = CART_POLE, PLATE
    ours = {
        env_id: {f"our {algo} on {env_id}": training(algo, env_id) for algo in BUNDLED_ALGOS}
        for env_id in (cart_pole, plate)
    }
    theirs = {f"SB3 {algo} on {cart_pole}": _sb3(algo, cart_pole) for algo in ZOO}
    ratios = [
        Ratio(f"our {OURS[algo]} on {cart_pole}", f"SB3 {algo} on {cart_pole}") for algo in ZOO
    ]
    return [
        TimeToSolve(f"time to solve {cart_pole}", {**ours[cart_pole], **theirs}, ratios),
        TimeToSolve(f"time to solve {plate}", ours[plate], []),
    ]


def training(algo: str, env_id: str, **settings: Any) -> Callable[[int], bool]:
    """Return what trains from a seed until the environment is solved, and tells whether it was.

    Args:
        algo: of this package.
        env_id: of the environment.
        **settings: that differ from the preset.
    """

    def solve(seed: int) -> bool:
        learner = algorithm(algo)
        merged = learner.preset(env_id) | settings
        config = learner.config(env_id=env_id, seed=seed, **merged)
        with (
            tempfile.TemporaryDirectory() as folder,
            _UntilSolved(Path(folder) / "run", config, progress=False) as run,
        ):
            learner.train(config, run)
            return (run.best_return or 0.0) >= SOLVED

    return solve


def _sb3(algo: str, env_id: str) -> Callable[[int], bool]:
    """Return SB3's own training, with RL Zoo's settings for CartPole-v1 and our number of steps."""

    def solve(seed: int) -> bool:
        torch.set_num_threads(TORCH_THREADS)
        learner = algorithm(OURS[algo])
        ours = learner.config(env_id=env_id, **learner.preset(env_id))
        settings = dict(ZOO[algo])
        envs = make_vec_env(env_id, settings.pop("n_envs"), seed=seed)
        evaluation_envs = make_vec_env(env_id, 20, seed=seed + 1000)
        callback = EvalCallback(
            evaluation_envs,
            StopTrainingOnRewardThreshold(SOLVED, verbose=0),
            n_eval_episodes=20,
            eval_freq=ours.eval_freq // envs.num_envs,
            verbose=0,
        )
        model = getattr(stable_baselines3, algo)(
            "MlpPolicy", envs, seed=seed, device="cpu", **settings
        )
        model.learn(ours.n_timesteps, callback)
        envs.close()
        evaluation_envs.close()
        return bool(callback.best_mean_reward >= SOLVED)

    return solve


def repeated_actions() -> bench.Section:
    """Return what is saved by drawing only the last frame of a repeated action."""
    ids = [env_id for env_id in env_ids() if registered(env_id).pixel_id == env_id]  # type: ignore[union-attr]
    times = 2  # as the presets have
    names = {env_id: f"{env_id}, 8 sub-environments, action repeat {times}" for env_id in ids}
    cases, ratios = [], []
    for env_id, name in names.items():
        for wrapper, what in ((VectorActionRepeat, "last frame"), (_DrawEveryFrame, "every frame")):
            opener = functools.partial(_open_repeated, env_id, wrapper, times)
            cases.append(bench.Case(f"{name}, {what}", opener, 8 * times))
        ratios.append(Ratio(cases[-2].name, cases[-1].name))
    return bench.Section("repeated actions", cases, ratios)


class _DrawEveryFrame(VectorActionRepeat):
    """Repeats actions and lets every frame be drawn."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        for _ in range(self._times):
            result = self.env.step(actions)
        return result


@contextlib.contextmanager
def _open_repeated(env_id: str, wrapper: Any, times: int) -> Iterator[bench.Loop]:
    envs = wrapper(gym.make_vec(env_id, num_envs=8, autoreset_mode="Disabled"), times)
    with contextlib.closing(envs):
        envs.action_space.seed(0)
        actions = [envs.action_space.sample() for _ in range(bench.BURST)]
        yield lambda: envs.reset(seed=0), lambda count: envs.step(actions[count])


def main() -> None:
    """Time everything, or the sections whose title has some words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each section (7)")
    parser.add_argument("--only", default="", help="a section's title, or part of several")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--document", type=Path, help="a text whose section 'bench' to rewrite")
    options = parser.parse_args()
    if options.document is not None:
        if options.only and not (options.json and options.json.exists()):
            parser.error("--only with --document must have the --json of a whole run")
        with_section(options.document.read_text(), "bench", "")  # refuses before the time is spent
    everything = [*bench.sections(), repeated_actions(), *sections()]
    chosen = bench.choose(everything, options.only)
    replaces = options.only and options.document is not None
    results = bench.run(chosen, options.repeats, None if replaces else options.json)
    if replaces:
        results = with_sections(json.loads(options.json.read_text()), results)
        bench.write(results, options.json)
    if options.document is not None:
        text = options.document.read_text()
        options.document.write_text(with_section(text, "bench", summary(results)))


def with_sections(results: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a run with sections of a newer one, which say when and where."""
    measured = f"{newer['date']}, {newer['machine']}, {newer['repeats']} rounds"
    sections = {section["title"]: section for section in results["sections"]}
    for section in newer["sections"]:
        sections[section["title"]] = {**section, "measured": measured}
    return {**results, "sections": list(sections.values())}


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
    rounds = f"{results['repeats']} rounds, trainings one for each seed"
    lines.append(f"{results['date']}, {results['machine']}, {rounds}.")
    for section in results["sections"]:
        if "measured" in section:
            lines.append(f"{section['title']}: {section['measured']}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
