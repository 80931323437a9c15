"""Statistics of few training runs, and of paired episodes.

After Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021:
the interquartile mean, stratified bootstrap intervals, and the probability of improvement.

Scores have shape (..., runs, tasks), a score per training run. Functions of scores reduce the last
two axes and keep those before them, which the bootstrap uses for its resamples. Where one agent's
episodes are compared with another's, episodes take the place of runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % bootstrap interval.

    Args:
        value: of all episodes.
        low: the lower end of the interval.
        high: the upper end.
    """

    value: float
    low: float
    high: float


def iqm(scores: Scores) -> Scores:
    """Return the interquartile mean: that of the scores without their lowest and highest quarter.

    As in ``scipy.stats.trim_mean(scores, 0.25, axis=None)``, a quarter is rounded down: of 5 scores
    the middle 3 remain, of 10 the middle 6.

    Args:
        scores: shape (..., runs, tasks); those of all runs and tasks are pooled.

    Returns:
        Shape (...,).

    Raises:
        ValueError: there are no scores.
    """
    if 0 in scores.shape[-2:]:
        raise ValueError("there are no scores")
    pooled = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = pooled.shape[-1] // 4
    middle: Scores = pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)
    return middle


def probability_of_improvement(x: Scores, y: Scores) -> Scores:
    """Return how probably a run of x has a higher score than a run of y on the same task.

    It is the mean over tasks of the Mann-Whitney U statistic divided by its greatest value: the
    share of all pairs of a run of x and a run of y in which x is higher, ties counted one half.

    Args:
        x: shape (..., runs, tasks).
        y: shape (..., other runs, tasks).

    Returns:
        Shape (...,), each 0 to 1.
    """
    difference = x[..., :, None, :] - y[..., None, :, :]
    wins: Scores = ((np.sign(difference) + 1) / 2).mean(axis=(-3, -2, -1))
    return wins


def stratified_bootstrap(
    statistic: Callable[..., Scores],
    *groups: Scores,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over training runs.

    The strata are the tasks: in each resample, each task of each group gets as many runs as it has,
    drawn from its own with replacement. Of few runs the interval is too narrow: 95 % intervals of
    the IQM hold the truth in 89 % of cases with 5 normally distributed scores, in 92 % with 10.

    Args:
        statistic: of the groups, e.g. :func:`iqm` or :func:`probability_of_improvement`.
        *groups: scores of shape (runs, tasks), drawn independently of each other.
        confidence: probability mass of the interval, 0 to 1.
        resamples: how often the runs are drawn.
        seed: decides what is drawn.

    Returns:
        The lower and the upper end.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for scores in groups:
        runs, tasks = scores.shape
        chosen = rng.integers(0, runs, (resamples, runs, tasks))
        drawn.append(scores[chosen, np.arange(tasks)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(*drawn), (tail, 1 - tail)).tolist()
    return low, high


def paired_difference(x: Scores, y: Scores) -> Estimate:
    """Return the mean difference x - y of the returns of two agents in the same episodes.

    Args:
        x: shape (episodes,).
        y: shape (episodes,), each from the same seed as the one of x.
    """
    return mean_interval(x - y)


def paired_improvement(x: Scores, y: Scores) -> Estimate:
    """Return how probably x has a higher return than y in the same episode.

    :func:`probability_of_improvement` within each pair of episodes, P(X > Y) + P(X = Y) / 2. Where
    all pairs agree the interval is a single number, for want of anything else to draw: of n pairs
    without a loss, up to 3 / n of all may still be lost (Hanley and Lippman-Hand, "If nothing goes
    wrong, is everything all right?", 1983).

    Args:
        x: shape (episodes,).
        y: shape (episodes,), each from the same seed as the one of x.
    """
    return mean_interval(probability_of_improvement(x[:, None, None], y[:, None, None]))


def mean_interval(x: Scores, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of numbers of shape (n,) and its bootstrap interval."""
    low, high = stratified_bootstrap(
        lambda scores: scores.mean(axis=(-2, -1)), x[:, None], resamples=resamples
    )
    return Estimate(float(x.mean()), low, high)
