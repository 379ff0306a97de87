"""Intervals of means: against scipy where rows stand alone, against leaving groups out one by one where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from vectoruniverse.metrics.intervals import difference_interval, intervals_at_once, mean_interval, reaches_at_once


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


@pytest.mark.parametrize(("count", "shared"), [(2, 0.0), (4, 0.5), (6, 0.9)])
def test_several_at_once_reach_to_the_box_that_holds_all_of_them(count: int, shared: float) -> None:
    """Of correlated normal errors, integrated by scipy."""
    parts = np.linalg.cholesky(shared + (1 - shared) * np.eye(count)) * np.arange(1, count + 1)[:, None]
    errors = stats.multivariate_normal(cov=shared + (1 - shared) * np.eye(count), seed=0)
    held = brentq(lambda z: errors.cdf(np.full(count, z), lower_limit=np.full(count, -z)) - 0.95, 1, 4, xtol=1e-3)
    reaches = reaches_at_once(parts, np.full(count, 1e6))
    assert reaches == pytest.approx(held * np.arange(1, count + 1), rel=0.015)


def test_several_at_once_that_err_by_themselves_reach_as_far_as_sidak_says() -> None:
    """Of few degrees of freedom, which need not be the same: each has the same share in what is allowed to miss."""
    degrees = np.array([9.0, 9.0, 9.0])
    expected = stats.t.ppf((1 + 0.95 ** (1 / 3)) / 2, degrees)
    assert reaches_at_once(np.eye(3), degrees) == pytest.approx(expected, rel=0.02)
    unequal = reaches_at_once(np.eye(2), np.array([5.0, 50.0]))
    assert unequal / stats.t.ppf(0.975, [5, 50]) == pytest.approx([unequal[0] / stats.t.ppf(0.975, 5)] * 2)
    held = np.prod(2 * stats.t.cdf(unequal, [5, 50]) - 1)
    assert held == pytest.approx(0.95, abs=0.005)


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


def test_what_always_errs_together_is_hardly_paid_for_twice() -> None:
    values = np.random.default_rng(0).normal(size=400)
    alone, together = mean_interval(values), intervals_at_once([values, 2 * values, -values])[0]
    assert 1 <= (together.high - together.low) / (alone.high - alone.low) < 1.05


def test_a_share_has_the_interval_of_its_logit() -> None:
    """By the delta method: the error of log(p / (1 - p)) is that of p over p (1 - p)."""
    random = np.random.default_rng(3)
    hits, groups = (random.random(80) < 0.1).astype(float), np.arange(80) // 4
    plain, share = mean_interval(hits, groups), mean_interval(hits, groups, share=True)
    p = hits.mean()
    wide = (plain.high - p) / (p * (1 - p))
    for end, side in ((share.low, -wide), (share.high, wide)):
        assert np.log(end / (1 - end)) == pytest.approx(np.log(p / (1 - p)) + side)
    assert share.low > 0 and share.high - p > p - share.low
    assert mean_interval(np.zeros(9), share=True) == (0.0, 0.0, 0.0)
    assert mean_interval(1 - hits, groups, share=True).high == pytest.approx(1 - share.low)


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
        interval = mean_interval(rows, np.repeat(np.arange(groups), sizes), share=True)
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
