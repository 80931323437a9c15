"""What ``make benchmark-agents`` trains, what others have published, and what ours must reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CELL_COLUMNS = ("comparison", "env_id", "algo", "seed")

# https://github.com/DLR-RM/rl-baselines3-zoo, benchmark.md: one run each.
ZOO = "RL Zoo"
# https://github.com/vwxyzjn/cleanrl, docs/benchmark: three seeds each.
CLEANRL = "CleanRL"
# https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml; what it does not name is SB3's.
ZOO_PENDULUM: dict[str, Any] = {
    "n_envs": 4,
    "n_steps": 1024,
    "gae_lambda": 0.95,
    "gamma": 0.9,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "use_sde": True,
    "sde_sample_freq": 4,
}
# Mean return of random actions in the evaluation episodes: where the range of returns begins.
RANDOM = {"Pendulum-v1": -1227.0, "BulletCartPole-v0": 19.0, "BalancingPlate-v0": 49.0}
BELOW_SB3 = 0.02  # of the range from random actions to SB3's IQM


@dataclass(frozen=True)
class Comparison:
    """The trainings of an algorithm on an environment, a seed each.

    Args:
        name: what it is compared with.
        env_id: of the environment.
        algo: ours, or SB3's with the prefix ``sb3-``.
        n_timesteps: environment steps of each training.
        seeds: one training each.
        settings: that differ from the preset; of SB3's, all that differ from SB3's defaults, none
            to make them equal to ours.
        published: mean returns of others.
        every_seed: the least mean return that each seed must have, None for any.
        iqm: the least interquartile mean, None for any.
        sb3: whether the interquartile mean must reach that of SB3's in the same comparison, less
            ``BELOW_SB3`` of the range of returns.
    """

    name: str
    env_id: str
    algo: str
    n_timesteps: int
    seeds: range
    settings: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    every_seed: float | None = None
    iqm: float | None = None
    sb3: bool = False

    @property
    def names(self) -> tuple[str, str, str]:
        """The columns of the CSV that name it."""
        return self.name, self.env_id, self.algo

    @property
    def required(self) -> str:
        """What it must reach, in words."""
        parts = []
        if self.every_seed is not None:
            parts.append(f"every seed ≥ {self.every_seed:g}")
        if self.iqm is not None:
            parts.append(f"IQM ≥ {self.iqm:g}")
        if self.sb3:
            parts.append(f"IQM at most {100 * BELOW_SB3:g} % of the range below SB3's")
        return ", ".join(parts)


@dataclass(frozen=True)
class Cell:
    """One training of a comparison."""

    comparison: Comparison
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the CSV that name it, see :data:`CELL_COLUMNS`."""
        return *self.comparison.names, str(self.seed)


PUBLISHED, ZOO_SETTINGS, EQUAL_SETTINGS = "published", "zoo-settings", "equal-settings"
# Environment steps of the presets.
_EQUAL_STEPS = {
    ("BulletCartPole-v0", "ppo"): 200_000,
    ("BulletCartPole-v0", "a2c"): 500_000,
    ("BulletCartPole-v0", "dqn"): 100_000,
    ("BalancingPlate-v0", "ppo"): 300_000,
    ("BalancingPlate-v0", "a2c"): 500_000,
    ("BalancingPlate-v0", "dqn"): 200_000,
}
COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        *(PUBLISHED, "CartPole-v1", "ppo", 100_000, range(10)),
        published=f"500 ± 0 at 100 k ({ZOO}), 490 ± 6 at 500 k ({CLEANRL})",
        every_seed=500,
    ),
    Comparison(
        *(PUBLISHED, "CartPole-v1", "a2c", 500_000, range(10)),
        published=f"500 ± 0 at 500 k ({ZOO})",
        every_seed=475,
        iqm=500,
    ),
    Comparison(
        *(PUBLISHED, "CartPole-v1", "dqn", 50_000, range(10)),
        published=f"500 ± 0 at 50 k ({ZOO}), 489 ± 16 at 500 k ({CLEANRL})",
        iqm=495,
    ),
    Comparison(
        *(PUBLISHED, "CartPole-v1", "reinforce", 167_000, range(10)),
        published="497 ± 17 at 167 k (the best that was found)",
        iqm=497,
    ),
    Comparison(
        *(PUBLISHED, "LunarLander-v3", "ppo", 1_000_000, range(5)),
        published=f"242 ± 32 at 1 M (v2, {ZOO})",
        iqm=242,
    ),
    Comparison(
        *(PUBLISHED, "LunarLander-v3", "a2c", 200_000, range(5)),
        published=f"156 ± 80 at 200 k (v2, {ZOO})",
        iqm=156,
    ),
    Comparison(
        *(PUBLISHED, "LunarLander-v3", "dqn", 100_000, range(5)),
        published=f"154 ± 79 at 100 k (v2, {ZOO})",
        iqm=154,
    ),
    Comparison(
        *(ZOO_SETTINGS, "Pendulum-v1", "ppo", 100_000, range(5)),
        published=f"-172 ± 104 at 100 k ({ZOO})",
        sb3=True,
    ),
    Comparison(
        *(ZOO_SETTINGS, "Pendulum-v1", "sb3-ppo", 100_000, range(5)),
        settings=ZOO_PENDULUM,
    ),
    *(
        Comparison(EQUAL_SETTINGS, env_id, name, steps, range(5), sb3=name == algo)
        for (env_id, algo), steps in _EQUAL_STEPS.items()
        for name in (algo, f"sb3-{algo}")
    ),
)


def cells() -> list[Cell]:
    """Return all trainings, in the order of the CSV."""
    return [Cell(comparison, seed) for comparison in COMPARISONS for seed in comparison.seeds]


def cell_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what :attr:`Cell.key` is for the cell of a row."""
    return tuple(str(row[name]) for name in CELL_COLUMNS)


def select(everything: Sequence[Cell], words: Sequence[str]) -> list[Cell]:
    """Return the cells that some words name: comparisons, ids, algorithms and seeds.

    Of words for the same column one must fit, of those for different columns all.

    Raises:
        ValueError: no cell has the word in any column.
    """
    columns = [{cell.key[index] for cell in everything} for index in range(len(CELL_COLUMNS))]
    if unknown := sorted(set(words).difference(*columns)):
        known = ", ".join(sorted(set[str]().union(*columns)))
        raise ValueError(f"{', '.join(unknown)} must be of {known}")
    wanted = [column.intersection(words) or column for column in columns]
    return [
        cell
        for cell in everything
        if all(name in names for name, names in zip(cell.key, wanted, strict=True))
    ]
