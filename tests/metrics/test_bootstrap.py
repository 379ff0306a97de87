from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.metrics import bootstrap
from vectoruniverse.metrics.bootstrap import bootstrap_mean, paired_bootstrap


def test_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).exponential(size=200)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = bootstrap_mean(values, samples=20_000, seed=2)
    assert ours.estimate == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_pairing_removes_what_both_share() -> None:
    random = np.random.default_rng(0)
    difficulty = random.normal(scale=10.0, size=300)
    base, adapted = difficulty, difficulty + 0.5 + random.normal(scale=0.1, size=300)
    interval = paired_bootstrap(base, adapted, seed=0)
    assert 0.45 < interval.low < interval.estimate < interval.high < 0.55


@pytest.mark.slow
def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        interval = bootstrap_mean(random.random(100) < 0.3, seed=trial, samples=300, level=0.9)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.85 <= hits / 400 <= 0.95


def test_groups_are_drawn_whole() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 20)
    values = random.normal(size=50)[groups]  # rows of a group are copies: 50 observations, not 1,000
    alone, together = bootstrap_mean(values, seed=0), bootstrap_mean(values, seed=0, groups=groups)
    assert together.estimate == alone.estimate
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.15)


def test_groups_of_unequal_size_keep_each_query_s_weight() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0])
    interval = paired_bootstrap(np.zeros(4), values, groups=np.array(["a", "a", "a", "b"]), seed=0)
    assert (interval.estimate, interval.low, interval.high) == (0.25, 0.0, 1.0)


def test_equal_seeds_give_equal_intervals_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=64)
    whole = bootstrap_mean(values, seed=5, samples=100)
    assert bootstrap_mean(values, seed=5, samples=100) == whole
    assert bootstrap_mean(values, seed=6, samples=100) != whole
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * 64)
    assert bootstrap_mean(values, seed=5, samples=100) == whole


def test_a_constant_has_no_spread() -> None:
    interval = bootstrap_mean(np.ones(10), seed=0)
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_values_without_an_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, np.nan], seed=0)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_mean([1.0], seed=0)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_mean([1.0, 2.0], groups=[3, 3], seed=0)
    with pytest.raises(ValueError, match="same queries"):
        paired_bootstrap([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ValueError, match="one id for each"):
        bootstrap_mean([1.0, 2.0], groups=[3], seed=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0, 2.0], seed=0, level=95)
