"""Intervals of means: against scipy where rows stand alone, against leaving groups out one by one where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from vectoruniverse.metrics.intervals import difference_interval, intervals_at_once, largest_t, mean_interval


def test_of_single_rows_it_is_student_s_t() -> None:
    values = np.random.default_rng(0).normal(size=40)
    low, high = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((values.mean(), low, high))


def test_of_groups_of_one_size_it_is_student_s_t_of_their_means() -> None:
    random = np.random.default_rng(0)
    means = random.normal(size=12)
    values, groups = np.repeat(means, 5), np.repeat(np.arange(12), 5)
    low, high = stats.t.interval(0.9, 11, loc=means.mean(), scale=stats.sem(means))
    assert mean_interval(values, groups, level=0.9) == pytest.approx((means.mean(), low, high))


def test_of_unequal_groups_it_is_the_slow_jackknife_over_them() -> None:
    random = np.random.default_rng(1)
    sizes = np.array([1, 2, 3, 5, 8, 13])
    groups = random.permutation(np.repeat([f"group {i}" for i in range(6)], sizes))
    values = random.normal(size=32)
    without = [values[groups != name].mean() for name in np.unique(groups)]
    error = np.sqrt(5 / 6 * sum((one - values.mean()) ** 2 for one in without))
    effective = 32**2 / sum(size**2 for size in sizes)
    reach = stats.t.ppf(0.975, effective - 1) * error
    expected = (values.mean(), values.mean() - reach, values.mean() + reach)
    assert mean_interval(values, groups) == pytest.approx(expected)


@pytest.mark.parametrize(("count", "shared", "degrees"), [(2, 0.0, 9.0), (4, 0.5, 17.4), (6, 0.9, 90.0)])
def test_several_at_once_reach_as_far_as_the_multivariate_t(count: int, shared: float, degrees: float) -> None:
    """Integrated by scipy: the box that holds all of so many equally correlated t."""
    correlation = shared + (1 - shared) * np.eye(count)
    parts = np.linalg.cholesky(correlation) * np.arange(1, count + 1)[:, None]  # of unequal errors
    largest = stats.multivariate_t(shape=correlation, df=degrees, seed=0)
    held = brentq(lambda t: largest.cdf(np.full(count, t), lower_limit=np.full(count, -t)) - 0.95, 1, 9, xtol=1e-3)
    assert largest_t(parts, degrees, 0.95) == pytest.approx(held, rel=0.015)


def test_several_at_once_are_those_alone_widened_by_one_factor() -> None:
    random = np.random.default_rng(0)
    shared, groups = random.normal(size=60), np.arange(60) // 4
    values = [shared + scale * random.normal(size=60) for scale in (0.3, 1.0, 3.0)]
    found = intervals_at_once([*values, np.full(60, 0.5)], groups)
    assert found[3] == (0.5, 0.5, 0.5), "what does not vary has no share in it"
    alone = [mean_interval(one, groups) for one in values]
    factors = [(one.high - one.low) / (own.high - own.low) for one, own in zip(found[:3], alone, strict=True)]
    assert factors == pytest.approx([factors[0]] * 3)
    bonferroni = stats.t.ppf(1 - 0.025 / 3, 14) / stats.t.ppf(0.975, 14)
    assert 1.05 < factors[0] < bonferroni
    assert intervals_at_once([values[0]], groups) == [alone[0]]
    twice = intervals_at_once([values[0], 2 * values[0], -values[0]], groups)[0]
    assert twice == pytest.approx(alone[0], abs=0.02), "what always errs together is one comparison"


def test_pairing_removes_what_both_share() -> None:
    random = np.random.default_rng(0)
    difficulty = random.normal(scale=10.0, size=300)
    base, adapted = difficulty, difficulty + 0.5 + random.normal(scale=0.1, size=300)
    interval = difference_interval(base, adapted)
    assert 0.45 < interval.low < interval.estimate < interval.high < 0.55


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "correlation"), [(10, 0.3), (18, 0.1), (91, 0.3)])
def test_interval_covers_the_truth_as_often_as_it_says(groups: int, correlation: float) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        sizes = random.integers(5, 30, size=groups)
        chances = random.beta(0.7 * (1 / correlation - 1), 0.3 * (1 / correlation - 1), size=groups)
        rows = random.random(sizes.sum()) < np.repeat(chances, sizes)
        interval = mean_interval(rows, np.repeat(np.arange(groups), sizes))
        held += interval.low <= 0.7 <= interval.high
    assert 0.93 <= held / 1000 <= 0.97


def test_groups_of_copies_count_once() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 20)
    values = random.normal(size=50)[groups]  # rows of a group are copies: 50 observations, not 1,000
    alone, together = mean_interval(values), mean_interval(values, groups)
    assert together.estimate == alone.estimate
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.05)


def test_it_stays_where_the_values_lie() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0])
    interval = difference_interval(np.zeros(4), values, np.array(["a", "a", "a", "b"]))
    assert (interval.estimate, interval.low, interval.high) == (0.25, 0.0, 1.0)


def test_a_constant_has_no_spread() -> None:
    interval = mean_interval(np.ones(10))
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_values_without_an_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, np.nan])
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0, 2.0], [3, 3])
    with pytest.raises(ValueError, match="same rows"):
        difference_interval([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="one id for each"):
        mean_interval([1.0, 2.0], [3])
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], level=95)
