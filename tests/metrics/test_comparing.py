from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.metrics.comparing import intervals, means


def test_means_pass_over_rows_that_a_metric_does_not_apply_to():
    found = means({"a": np.array([1.0, np.nan, 0.0]), "b": np.array([np.nan, np.nan])})
    assert found == {"a": 0.5}


def test_the_difference_is_drawn_on_the_same_rows():
    """Rows differ a lot, the change is the same for each: its interval has no width, those of the models have."""
    base = np.linspace(0, 1, 50)
    found = intervals({"m": base}, {"m": base + 0.1}, groups=None)["m"]
    assert found["difference"].low == pytest.approx(0.1) and found["difference"].high == pytest.approx(0.1)
    assert found["base"].high - found["base"].low > 0.1


def test_rows_that_resemble_each_other_widen_the_interval():
    generator = np.random.default_rng(0)
    channel = np.repeat(np.arange(10), 20)
    change = generator.normal(size=10)[channel]
    base = np.zeros(200)
    alone = intervals({"m": base}, {"m": change}, groups=None)["m"]["difference"]
    together = intervals({"m": base}, {"m": change}, groups=[str(c) for c in channel])["m"]["difference"]
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_single_channel_gives_no_interval_instead_of_a_false_one():
    assert intervals({"m": np.zeros(5)}, {"m": np.ones(5)}, groups=["a"] * 5) == {}


def test_missing_values_drop_their_row_for_both_models():
    base, adapted = np.array([0.0, np.nan, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    found = intervals({"m": base}, {"m": adapted}, groups=None)["m"]
    assert found["adapted"].estimate == pytest.approx(2 / 3)
    assert found["difference"].estimate == pytest.approx(1 / 3)
