from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.evaluation.comparison import compare_rows, means
from vectoruniverse.metrics.intervals import difference_interval, mean_interval


def compared(base, adapted, groups=None):
    """A base and an adapted model in the metric ``m``."""
    found = compare_rows({"base": {"m": base}, "adapted": {"m": adapted}}, "base", groups=groups)
    return found.reached["base"]["m"], found.reached["adapted"]["m"], found.differences["adapted"]["m"]


def test_means_pass_over_rows_that_a_metric_does_not_apply_to():
    found = means({"a": np.array([1.0, np.nan, 0.0]), "b": np.array([np.nan, np.nan])})
    assert found == {"a": 0.5}


def test_the_difference_is_drawn_on_the_same_rows():
    """Rows differ a lot, the change is the same for each: its interval has no width, those of the models have."""
    rows = np.linspace(0, 1, 50)
    base, _, difference = compared(rows, rows + 0.1)
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
    assert base.high - base.low > 0.1


def test_rows_that_resemble_each_other_widen_the_interval():
    generator = np.random.default_rng(0)
    channel = np.repeat(np.arange(10), 20)
    change = generator.normal(size=10)[channel]
    base = np.zeros(200)
    alone = compared(base, change)[2]
    together = compared(base, change, groups=[str(c) for c in channel])[2]
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_single_channel_gives_no_interval_instead_of_a_false_one():
    found = compare_rows({"a": {"m": np.zeros(5)}, "b": {"m": np.ones(5)}}, "a", groups=["a"] * 5)
    assert (found.reached, found.differences) == ({"a": {}, "b": {}}, {"b": {}})


def test_missing_values_drop_their_row_for_both_models():
    base, adapted = np.array([0.0, np.nan, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    _, after, difference = compared(base, adapted)
    assert after.estimate == pytest.approx(2 / 3)
    assert difference.estimate == pytest.approx(1 / 3)


def test_any_number_of_models_is_the_pairs_of_them():
    """Against the bootstraps themselves, with groups whose names do not stand in the order of their numbers."""
    generator = np.random.default_rng(1)
    models = {name: {"m": generator.random(40), "n": generator.random(40)} for name in "abc"}
    models["c"] = {"m": models["c"]["m"]}
    groups = [str(i // 3) for i in range(40)]
    found, ahead = (compare_rows(models, "b", groups=groups, ahead=ahead) for ahead in (False, True))
    assert {name: list(gaps) for name, gaps in found.differences.items()} == {"a": ["m", "n"], "c": ["m"]}
    for name, gaps in found.differences.items():
        for metric, gap in gaps.items():
            first, other = models["b"][metric], models[name][metric]
            assert gap == difference_interval(first, other, groups=groups)
            assert ahead.differences[name][metric] == difference_interval(other, first, groups=groups)
            assert found.reached[name][metric] == mean_interval(other, groups=groups)


def test_a_metric_that_the_reference_lacks_has_no_difference():
    found = compare_rows({"a": {}, "b": {"m": np.arange(4.0)}}, "a")
    assert found.differences == {"b": {}} and found.reached["b"]["m"].estimate == 1.5
