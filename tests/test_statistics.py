"""The statistics of training runs agree with examples worked by hand and with SciPy."""

import numpy as np
import pytest
import scipy.stats

from bullet_envs.agents.statistics import (
    Estimate,
    iqm,
    paired_difference,
    paired_improvement,
    probability_of_improvement,
    stratified_bootstrap,
)


def column(*scores):
    """Return the scores of runs on one task."""
    return np.array(scores, float)[:, None]


def mean(scores):
    return scores.mean(axis=(-2, -1))


@pytest.mark.parametrize(
    "scores, expected",
    [
        (column(7), 7),
        (column(1, 2, 9), 4),  # a quarter of three is less than one score
        (column(0, 1, 2, 100), 1.5),  # 0 and 100 are left out
        (column(100, 4, 0, 2, 3), 3),  # of five the middle three: 2, 3, 4
        (column(*range(10)), 4.5),  # of ten the middle six: 2 to 7
        (column(480, *[500] * 8, 20), 500),
        (column(476, 480, *[500] * 7, 20), (480 + 5 * 500) / 6),
        (np.array([[0.0, 3.0], [1.0, 100.0]]), 2),  # both tasks are pooled
    ],
    ids=str,
)
def test_iqm_by_hand(scores, expected):
    assert iqm(scores) == pytest.approx(expected)


def test_iqm_is_scipys():
    """For every number of runs and tasks, alone and as one of several resamples."""
    rng = np.random.default_rng(0)
    for runs in range(1, 14):
        for tasks in (1, 2, 3):
            scores = rng.normal(size=(4, runs, tasks))
            expected = [scipy.stats.trim_mean(one, 0.25, axis=None) for one in scores]
            np.testing.assert_allclose(iqm(scores), expected, rtol=1e-12)
            np.testing.assert_allclose(iqm(scores[0]), expected[0], rtol=1e-12)


def test_iqm_of_nothing():
    with pytest.raises(ValueError, match="no scores"):
        iqm(np.zeros((0, 1)))


@pytest.mark.parametrize(
    "x, y, expected",
    [
        (column(2), column(1), 1),
        (column(1), column(2), 0),
        (column(500, 500), column(500, 500, 500), 0.5),
        # 3 > 1, 3 = 3, 2 > 1, 2 < 3: (1 + 1/2 + 1 + 0) / 4
        (column(3, 2), column(1, 3), 0.625),
        # 5 is above all three, 1 above none, and equal to one of them: (3 + 1/2) / 6
        (column(5, 1), column(1, 2, 3), 3.5 / 6),
        # The mean of the tasks' 1 and 0, though every score of the second task is higher.
        (np.array([[2.0, 10.0]]), np.array([[1.0, 11.0]]), 0.5),
    ],
    ids=str,
)
def test_probability_of_improvement_by_hand(x, y, expected):
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(y, x) == pytest.approx(1 - expected)


def test_probability_of_improvement_is_mann_whitneys():
    """U of SciPy, which counts ties as one half too, over the number of pairs."""
    rng = np.random.default_rng(0)
    for runs, others in ((1, 1), (5, 5), (10, 3)):
        x = rng.integers(0, 6, (4, runs, 2)).astype(float)
        y = rng.integers(0, 6, (4, others, 2)).astype(float)
        expected = [
            scipy.stats.mannwhitneyu(one, other, axis=0).statistic.mean() / (runs * others)
            for one, other in zip(x, y, strict=True)
        ]
        np.testing.assert_allclose(probability_of_improvement(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "confidence, expected",
    [(0.95, (0, 1)), (0.6, (0, 1)), (0.4, (0.5, 0.5))],
)
def test_bootstrap_by_hand(confidence, expected):
    """The mean of two draws from {0, 1} is 0, 1/2 and 1 with probability 1/4, 1/2 and 1/4.

    Its quantiles at 0.025 and 0.2 are therefore 0, at 0.3 and 0.7 1/2, at 0.8 and 0.975 1.
    """
    assert stratified_bootstrap(mean, column(0, 1), confidence=confidence) == expected


def test_runs_are_drawn_within_their_task():
    """Tasks whose runs agree leave nothing to chance, however far apart the tasks are."""
    assert stratified_bootstrap(mean, np.array([[5.0, 100.0], [5.0, 100.0]])) == (52.5, 52.5)


def test_tasks_are_drawn_independently():
    """The two scores of a row are of different runs: drawn together, their mean would be 1/2."""
    assert stratified_bootstrap(mean, np.array([[0.0, 1.0], [1.0, 0.0]])) == (0, 1)


def test_groups_are_drawn_independently():
    """A group is not compared with the same draws of itself, which would always give 0."""
    interval = stratified_bootstrap(lambda x, y: mean(x) - mean(y), column(0, 1), column(0, 1))
    assert interval == (-1, 1)


def test_bootstrap_is_scipys():
    """Percentile intervals of SciPy's bootstrap, one task, but for the random draws."""
    scores = np.random.default_rng(0).gamma(2, 50, (10, 1))
    theirs = scipy.stats.bootstrap(
        (scores[:, 0],),
        lambda sample, axis: scipy.stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    low, high = stratified_bootstrap(iqm, scores)
    assert low < iqm(scores) < high
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.03 * (high - low))


def test_bootstrap_repeats_itself():
    scores = np.random.default_rng(0).normal(size=(10, 1))
    assert stratified_bootstrap(iqm, scores) == stratified_bootstrap(iqm, scores)
    assert stratified_bootstrap(iqm, scores) != stratified_bootstrap(iqm, scores, seed=1)


@pytest.mark.parametrize("runs, low, high", [(50, 0.92, 0.96), (10, 0.9, 0.94), (5, 0.87, 0.91)])
def test_intervals_cover_the_truth(runs, low, high):
    """Of runs from a normal distribution, nearly 95 % of the intervals hold its centre.

    Of 5 and 10 runs it is less, which is why the page shows every run.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        ends = stratified_bootstrap(iqm, rng.normal(3, 2, (runs, 1)), resamples=400)
        covered += ends[0] <= 3 <= ends[1]
    assert low <= covered / 1000 <= high


def test_intervals_of_an_improvement_cover_the_truth():
    """Of two normal distributions a standard deviation apart, x is higher with 76 %."""
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        x, y = rng.normal(1, 1, (30, 1)), rng.normal(0, 1, (30, 1))
        ends = stratified_bootstrap(probability_of_improvement, x, y, resamples=300)
        covered += ends[0] <= truth <= ends[1]
    assert 0.91 <= covered / 500 <= 0.98


@pytest.mark.parametrize(
    "x, y, difference, improvement",
    [
        # Within each pair x is higher, though 9 and 19 lie on both sides of 10.
        ((10, 20), (9, 19), (1, 1, 1), (1, 1, 1)),
        ((3, 3), (3, 3), (0, 0, 0), (0.5, 0.5, 0.5)),
        # Two draws of differences {0, 1} are both 0, or both 1, in a quarter of the resamples.
        ((1, 3), (1, 2), (0.5, 0, 1), (0.75, 0.5, 1)),
        ((0, 9), (2, 1), (3, -2, 8), (0.5, 0, 1)),
    ],
    ids=str,
)
def test_pairs_by_hand(x, y, difference, improvement):
    x, y = np.array(x, float), np.array(y, float)
    assert paired_difference(x, y) == Estimate(*difference)
    assert paired_improvement(x, y) == Estimate(*improvement)


def test_intervals_of_paired_episodes():
    """Percentile intervals of SciPy's bootstrap; narrower than with each agent drawn by itself."""
    rng = np.random.default_rng(0)
    y = rng.normal(0, 10, 60)
    x = y + rng.normal(1, 1, 60)
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda x, y, axis: (x - y).mean(axis=axis),
        n_resamples=10_000,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = paired_difference(x, y)
    width = ours.high - ours.low
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.03 * width)
    low, high = stratified_bootstrap(lambda x, y: mean(x) - mean(y), column(*x), column(*y))
    assert high - low > 5 * width
