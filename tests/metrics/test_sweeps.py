from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

from vectoruniverse.metrics.answers import answer
from vectoruniverse.metrics.intervals import Interval, mean_interval
from vectoruniverse.metrics.sweeps import SweepSummary, differences, smallest_not_worse, summarise_sweep

Array = NDArray[np.float64]
RANKS = (1.0, 2.0, 4.0, 8.0, 16.0)


def cells(outcomes: Array, values: tuple[float, ...] = RANKS) -> dict[tuple[float, int], Array]:
    """From outcomes (V, S, N)."""
    return {(values[v], s): outcomes[v, s] for v in range(outcomes.shape[0]) for s in range(outcomes.shape[1])}


def summary_of(outcomes: Array, base: Array | None = None, **settings: object) -> SweepSummary:
    before = np.zeros(outcomes.shape[2]) if base is None else base
    return summarise_sweep(cells(outcomes), before, **{"seed": 0, **settings})


def an_experiment(
    random: np.random.Generator,
    levels: tuple[float, ...],
    *,
    seeds: int = 3,
    queries: int = 200,
    own: float = 0.0,
    common: float = 0.0,
    noise: float = 0.5,
) -> tuple[Array, Array, Array]:
    """Hits (V, S, N), the base's hits (N,), and the true means (V + 1,), which a normal latent gives in closed form."""
    shape, levels = (len(levels), seeds, queries), (*levels, -0.8)
    hard, taste = random.normal(size=queries) * 0.8, random.normal(size=(len(levels), 1, queries)) * 0.3
    latent = np.array(levels)[:, None, None] + hard + taste
    base = latent[-1, 0] > 0
    seed_effect = random.normal(size=(1, seeds, 1)) * common + random.normal(size=(shape[0], seeds, 1)) * own
    hits = latent[:-1] + seed_effect + random.normal(size=shape) * noise > 0
    fixed = 0.8**2 + 0.3**2
    spreads = [math.sqrt(fixed + own**2 + common**2 + noise**2)] * shape[0] + [math.sqrt(fixed)]
    truth = [NormalDist().cdf(level / spread) for level, spread in zip(levels, spreads, strict=True)]
    return hits.astype(float), base.astype(float), np.array(truth)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def width(interval: Interval) -> float:
    return interval.high - interval.low


# --- numbers by another route


def test_with_one_seed_the_intervals_are_those_of_the_queries() -> None:
    random = np.random.default_rng(3)
    low, high, base = (random.random((3, 40)) < np.array([[0.2], [0.8], [0.3]])).astype(float)
    groups = np.repeat(np.arange(16), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6])
    found = summarise_sweep({(2, 7): low, (8, 7): high}, base, seed=11, groups=groups, level=0.9)
    for outcome, ours in (
        (low, found.values[0].mean),
        (base, found.base),
        (high - low, found.values[0].shortfall),
    ):
        assert ours == pytest.approx(mean_interval(outcome, groups, level=0.9), abs=0.03 * width(ours))
    assert found.best.value == 8
    assert found.best.shortfall == Interval(0.0, 0.0, 0.0)
    assert found.best.seed_spread is None


def test_with_seeds_alone_the_intervals_are_student_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    seeds = np.array([[0.50, 0.53, 0.49, 0.55], [0.61, 0.66, 0.58, 0.62]])
    limits = np.tile([0.0, 1.0], 25)  # every query varies alike in each cell, around the seed's mean by nothing
    outcomes = np.repeat(seeds[:, :, None], 50, axis=2)
    single = summarise_sweep(cells(outcomes[:1]), limits, seed=0).values[0]
    theirs = stats.ttest_1samp(seeds[0], 0.0).confidence_interval()
    assert (single.mean.low, single.mean.high) == pytest.approx(tuple(theirs), abs=0.03 * width(single.mean))
    pair = summarise_sweep(cells(outcomes), limits, seed=0)
    theirs = stats.ttest_rel(seeds[1], seeds[0]).confidence_interval()
    shortfall = pair.values[0].shortfall
    assert (shortfall.low, shortfall.high) == pytest.approx(tuple(theirs), abs=0.03 * width(shortfall))
    assert pair.values[0].seed_spread == pytest.approx(np.std(seeds[0], ddof=1))


def test_comparisons_pool_what_all_values_tell_of_the_seeds() -> None:
    """The interval of a difference in the analysis of variance with repeated measures, from its textbook formula."""
    stats = pytest.importorskip("scipy.stats")
    seeds = np.random.default_rng(5).normal(size=(4, 3)) * 0.01 + np.array([[0.3], [0.5], [0.5], [0.7]])
    outcomes = np.repeat(seeds[:, :, None], 10, axis=2)
    found = summarise_sweep(cells(outcomes), np.tile([0.0, 1.0], 5), seed=0)
    residual = seeds - seeds.mean(axis=1, keepdims=True) - seeds.mean(axis=0) + seeds.mean()
    half = stats.t.ppf(0.975, 3 * 2) * math.sqrt(2 * (residual**2).sum() / (3 * 2) / 3)
    behind = seeds[3].mean() - seeds[0].mean()
    shortfall = found.values[0].shortfall
    assert shortfall.high == pytest.approx(behind + half, abs=0.05 * half)
    # below, Dunnett's bound for three comparisons at once is wider, and narrower than Bonferroni's
    bonferroni = stats.t.ppf(1 - 0.025 / 3, 3 * 2) / stats.t.ppf(0.975, 3 * 2) * half
    assert half * 1.05 < behind - shortfall.low < bonferroni


def test_errors_of_queries_and_seeds_add_up_as_satterthwaite_has_it() -> None:
    """One value, three seeds, 40 queries; the variance of chance in single queries from a loop over cells."""
    random = np.random.default_rng(6)
    outcomes = random.normal(size=(1, 40)) + random.normal(size=(3, 1)) / 3 + random.normal(size=(3, 40)) / 2
    found = summary_of(outcomes[None], np.zeros(40)).values[0].mean
    over_seeds, of_seeds = outcomes.mean(axis=0), outcomes.mean(axis=1)
    of_queries = over_seeds.var(ddof=1) / 40
    cells = [(outcomes[s, q] - over_seeds[q] - of_seeds[s] + outcomes.mean()) ** 2 for s in range(3) for q in range(40)]
    chance = sum(cells) / (2 * 39) / 40
    measured = of_seeds.var(ddof=1) / 3
    seeds = measured - chance / 3
    assert seeds > 0
    degrees = (of_queries + seeds) ** 2 / (of_queries**2 / 39 + measured**2 / 2)
    reach = float(stdtrit(degrees, 0.975)) * math.sqrt(of_queries + seeds)
    assert found == pytest.approx((outcomes.mean(), outcomes.mean() - reach, outcomes.mean() + reach))


def test_differences_of_one_seed_hold_at_once_by_the_multivariate_t() -> None:
    """By the distribution of the largest of correlated t, integrated by scipy; a pair by its interval alone."""
    stats = pytest.importorskip("scipy.stats")
    outcomes = np.random.default_rng(7).normal(size=(5, 1, 90)) + np.arange(5)[:, None, None] / 10
    found = differences(cells(outcomes), 4.0, seed=0)
    assert list(found) == [1.0, 2.0, 8.0, 16.0]
    gaps = outcomes[[0, 1, 3, 4], 0] - outcomes[2, 0]
    largest = stats.multivariate_t(shape=np.corrcoef(gaps), df=89, seed=0)
    factor = brentq(lambda t: largest.cdf(np.full(4, t)) - 0.975, 1.5, 4, xtol=1e-3)
    reach = factor * gaps.std(axis=1, ddof=1) / math.sqrt(90)
    for ours, gap, far in zip(found.values(), gaps, reach, strict=True):
        assert ours == pytest.approx((gap.mean(), gap.mean() - far, gap.mean() + far), abs=0.05 * far)
    (pair,) = differences(cells(outcomes[:2]), 1.0, seed=0).values()
    assert pair == pytest.approx(mean_interval(outcomes[1, 0] - outcomes[0, 0]), abs=0.03 * width(pair))


def test_differences_of_seeds_are_those_of_the_repeated_measures() -> None:
    """The slow way: the largest t of each of many sweeps whose values are all alike, one after another."""
    seeds = np.random.default_rng(5).normal(size=(4, 3)) * 0.01 + np.array([[0.3], [0.5], [0.5], [0.7]])
    hard = np.tile([-0.3, 0.3], 25)  # the same for every value, so it cancels out
    found = differences(cells(seeds[:, :, None] + hard), 8.0, seed=0)
    residual = seeds - seeds.mean(axis=1, keepdims=True) - seeds.mean(axis=0) + seeds.mean()
    error = math.sqrt(2 * (residual**2).sum() / (3 * 2) / 3)
    random, largest = np.random.default_rng(1), []
    for _ in range(40_000):
        drawn, spreads = random.normal(size=4), np.sqrt(random.chisquare(6, size=3) / 6)
        largest.append(max(abs(drawn[i] - drawn[3]) / math.sqrt(2) / spreads[i] for i in range(3)))
    reach = float(np.quantile(largest, 0.95)) * error
    for i, value in enumerate((1.0, 2.0, 4.0)):
        gap = seeds[i].mean() - seeds[3].mean()
        assert found[value] == pytest.approx((gap, gap - reach, gap + reach), abs=0.05 * reach)


def test_a_difference_does_not_depend_on_how_values_are_named() -> None:
    outcomes = np.random.default_rng(0).random((3, 2, 60))
    forth = differences(cells(outcomes, (1, 2, 4)), 1, seed=0)
    back = differences(cells(-outcomes, (1, 2, 4)), 1, seed=0)
    for value, gap in forth.items():
        other = back[value]
        assert gap.estimate == pytest.approx(-other.estimate)
        assert (gap.low, gap.high) == pytest.approx((-other.high, -other.low), abs=0.03 * width(gap))
    (alone,) = differences(cells(outcomes, (1, 2, 4)), 1, seed=0, of=[4]).values()
    at_once = differences(cells(outcomes, (1, 2, 4)), 1, seed=0)[4]
    assert alone.estimate == at_once.estimate and at_once.low < alone.low < alone.high < at_once.high
    assert differences(cells(outcomes[:1]), 1.0, seed=0) == {}
    with pytest.raises(ValueError, match="no cell has the value 3; there are 1, 2, 4"):
        differences(cells(outcomes, (1, 2, 4)), 3, seed=0)


def test_chance_in_single_queries_is_counted_once() -> None:
    """Cells that differ by chance in their queries only: the mean is that of S · N independent outcomes."""
    outcomes = np.random.default_rng(2).normal(size=(2, 30, 400))
    found = summary_of(outcomes).values
    expected = 2 * 1.96 / math.sqrt(30 * 400)
    assert [width(value.mean) for value in found] == pytest.approx([expected, expected], rel=0.15)


def test_many_seeds_agree_with_the_pigeonhole_bootstrap() -> None:
    random = np.random.default_rng(4)
    outcomes = 0.5 + 0.3 * random.normal(size=(1, 60, 1)) + random.normal(size=(1, 1, 60)) * 2
    ours = summary_of(outcomes).values[0].mean
    means = []
    for _ in range(2000):
        seeds, queries = random.integers(60, size=60), random.integers(60, size=60)
        means.append(outcomes[0][seeds][:, queries].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_groups_are_drawn_whole() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    by_group = random.normal(size=60) + random.normal(size=(2, 3, 60)) / 10
    outcomes = by_group[:, :, groups]  # rows of a group are copies: 60 observations, not 600
    copies = summary_of(outcomes, groups=groups)
    assert copies == summarise_sweep(cells(outcomes), np.zeros(600), seed=0, groups=groups + 5)
    single = summary_of(by_group)
    for ours, theirs in zip(copies.values, single.values, strict=True):
        assert ours.mean.estimate == pytest.approx(theirs.mean.estimate)
        assert width(ours.mean) == pytest.approx(width(theirs.mean))
        assert width(ours.gain) == pytest.approx(width(theirs.gain))
    alone = summary_of(outcomes)
    assert width(alone.values[0].mean) < 0.8 * width(copies.values[0].mean)


# --- coverage


@pytest.mark.slow
@pytest.mark.parametrize(("own", "common", "seeds"), [(0.0, 0.0, 3), (0.1, 0.1, 3), (0.3, 0.0, 3), (0.0, 0.0, 1)])
def test_of_equal_values_none_is_called_different_too_often(own: float, common: float, seeds: int) -> None:
    random, false, experiments = np.random.default_rng(1), 0, 300
    for trial in range(experiments):
        hits, _, _ = an_experiment(random, (0.2,) * 5, seeds=seeds, own=own, common=common)
        found = differences(cells(hits), 4.0, seed=trial)
        false += any(not holds(gap, 0.0) for gap in found.values())
    assert false / experiments <= 0.07  # 0.05, and 1.6 standard errors of 300 experiments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "common", "seeds"), [(0.0, 0.0, 3), (0.05, 0.05, 3), (0.3, 0.0, 3), (0.05, 0.3, 3), (0.3, 0.0, 2)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(own: float, common: float, seeds: int) -> None:
    random, experiments = np.random.default_rng(1), 200
    mean, gains, shortfall, queries_only = 0, 0, 0, 0
    for trial in range(experiments):
        hits, base, truth = an_experiment(random, (-0.3, 0.3, 0.3), seeds=seeds, own=own, common=common)
        found = summary_of(hits, base, seed=trial)
        mean += holds(found.values[1].mean, truth[1])
        gains += all(holds(v.gain, t - truth[-1]) for v, t in zip(found.values, truth[:-1], strict=True))
        shortfall += holds(found.values[0].shortfall, truth[1] - truth[0])
        queries_only += holds(mean_interval(hits[1].mean(axis=0)), truth[1])
    assert 0.91 <= mean / experiments <= 0.99
    assert gains / experiments >= 0.91
    assert shortfall / experiments >= 0.91
    if max(own, common) >= 0.3:
        assert queries_only / experiments < 0.65


# --- the decision


def test_the_value_from_which_on_more_does_not_help_is_found() -> None:
    random, chosen = np.random.default_rng(0), []
    for trial in range(60):
        hits, base, _ = an_experiment(random, (-0.4, 0.0, 0.5, 0.5, 0.5), queries=400, own=0.03)
        found = summary_of(hits, base, seed=trial)
        value = smallest_not_worse(found)
        assert value is not None
        chosen.append(value.value)
    assert chosen.count(4.0) >= 55  # the level stays the same from there on
    assert sum(value > 4 for value in chosen) / 60 <= 0.05


def test_a_value_as_good_as_the_luckiest_of_many_is_rarely_passed_over() -> None:
    """Seven equal values: the smallest is to stay although the best of the other six was picked by its luck."""
    random, passed = np.random.default_rng(0), 0
    for trial in range(200):
        hits, base, _ = an_experiment(random, (0.2,) * 7, own=0.1, queries=100)
        found = summarise_sweep(cells(hits, (1, 2, 4, 8, 16, 32, 64)), base, seed=trial)
        passed += smallest_not_worse(found) is not found.values[0]
    assert passed / 200 <= 0.05


# --- input


def test_only_seeds_that_every_value_has_are_compared() -> None:
    outcomes = np.random.default_rng(0).random((2, 3, 30))
    grid = cells(outcomes)
    del grid[2.0, 1]
    found = summarise_sweep(grid, np.zeros(30), seed=0)
    assert (found.seeds, found.left_out) == ((0, 2), ((1.0, 1),))
    assert found.values == summarise_sweep(cells(outcomes[:, [0, 2]]), np.zeros(30), seed=0).values
    assert "Cells whose seed not every value has are left out: 1." in answer(found)


def test_values_ascend_and_equal_seeds_give_equal_results() -> None:
    outcomes, base = np.random.default_rng(0).random((3, 2, 50)), np.zeros(50)
    grid = cells(outcomes, (8, 1, 16))
    found = summarise_sweep(grid, base, seed=3)
    assert [v.value for v in found.values] == [1, 8, 16]
    assert found == summarise_sweep(dict(reversed(grid.items())), base, seed=3)
    assert found != summarise_sweep(grid, base, seed=4)


def test_the_best_is_the_one_that_other_queries_have_picked() -> None:
    outcomes = np.random.default_rng(0).random((3, 2, 50)) + np.array([0.0, 0.3, 0.1])[:, None, None]
    own, told = summary_of(outcomes), summary_of(outcomes, best=4.0)
    assert (own.best.value, told.best.value) == (2.0, 4.0)
    assert told.values == own.values
    with pytest.raises(ValueError, match="no cell has the value 8; there are 1, 2, 4"):
        summary_of(outcomes, best=8.0)


def test_means_stay_where_outcomes_lie() -> None:
    hits = (np.arange(20) < np.array([[[19], [12]]])).astype(float)  # two seeds that differ much
    found = summary_of(hits).values[0]
    assert (found.mean.low, found.mean.high) == (0.0, 1.0)
    assert (found.gain.low, found.gain.high) == (-1.0, 1.0)


def test_equal_values_are_not_told_apart() -> None:
    outcomes = np.repeat(np.random.default_rng(0).random((1, 2, 30)), 3, axis=0)
    found = summary_of(outcomes)
    assert {v.shortfall for v in found.values} == {Interval(0.0, 0.0, 0.0)}
    assert found.best is found.values[0]
    assert smallest_not_worse(found) is found.values[0]


@pytest.mark.parametrize(
    ("grid", "base", "settings", "message"),
    [
        ({}, [0.0], {}, "no seed is common"),
        ({(1, 0): [0.0, 1.0], (2, 1): [0.0, 1.0]}, [0.0, 1.0], {}, "no seed is common to all 2 values"),
        ({(1, 0): [0.0, 1.0], (2, 0): [0.0]}, [0.0, 1.0], {}, "same 2 queries"),
        ({(1, 0): [0.0, 1.0]}, [0.0], {}, "same 2 queries"),
        ({(1, 0): [[0.0], [1.0]]}, [0.0, 1.0], {}, "same 2 queries"),
        ({(1, 0): [0.0, math.nan]}, [0.0, 1.0], {}, "finite"),
        ({(1, 0): [0.0]}, [0.0], {}, "at least 2"),
        ({(1, 0): [0.0, 1.0]}, [0.0, 1.0], {"groups": ["a", "a"]}, "at least 2"),
        ({(1, 0): [0.0, 1.0]}, [0.0, 1.0], {"groups": ["a"]}, "one id for each"),
        ({(1, 0): [0.0, 1.0]}, [0.0, 1.0], {"level": 1.0}, "level must be within"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    grid: dict[tuple[float, int], list[float]], base: list[float], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        summarise_sweep(grid, base, **{"seed": 0, **settings})
