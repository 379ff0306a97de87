from __future__ import annotations

import numpy as np
import pytest

from vectoruniverse.evaluation.comparison import compare_rows, means
from vectoruniverse.metrics import intervals
from vectoruniverse.metrics.intervals import difference_interval, intervals_at_once, mean_interval


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
    """Against the intervals themselves, with groups whose names do not stand in the order of their numbers."""
    generator = np.random.default_rng(1)
    models = {name: {"m": generator.random(40), "n": generator.random(40)} for name in "abc"}
    models["c"] = {"m": models["c"]["m"]}
    groups = [str(i // 3) for i in range(40)]
    found, ahead = (compare_rows(models, "b", groups=groups, ahead=ahead, family="each") for ahead in (False, True))
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


def test_differences_from_one_model_hold_at_once_and_metrics_are_not_adjusted():
    generator = np.random.default_rng(1)
    models = {name: {"m": generator.random(60), "n": generator.random(60)} for name in "abcd"}
    groups = np.arange(60) // 3
    found = compare_rows(models, "b", groups=groups)
    for metric in "mn":
        gaps = [models[name][metric] - models["b"][metric] for name in "acd"]
        assert [found.differences[name][metric] for name in "acd"] == intervals_at_once(gaps, groups)
    alone = compare_rows(models, "b", groups=groups, family="each")
    assert found.reached == alone.reached
    two = {name: models[name] for name in "ab"}
    assert compare_rows(two, "b", groups=groups) == compare_rows(two, "b", groups=groups, family="each")


ONE_IN_TWENTY = 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5
"""And what chance adds to it in 200 experiments (two standard errors); ``scripts/check_coverage`` simulates more."""


def false_claims(families: tuple[str, ...], *, picked: bool) -> dict[str, float]:
    """Share of experiments with five equal models, 25 unequal groups of rows, in which some difference is claimed."""
    random, claimed = np.random.default_rng(0), dict.fromkeys(families, 0)
    for _ in range(200):
        groups = np.repeat(np.arange(25), random.integers(1, 9, 25))
        hard = random.normal(size=25)[groups] + random.normal(size=len(groups))
        hits = hard + random.normal(size=(5, 25))[:, groups] / 2 + random.normal(size=(5, len(groups))) > 0
        models = {str(i): {"m": one.astype(float)} for i, one in enumerate(hits)}
        reference = str(int(hits.mean(axis=1).argmax())) if picked else "0"
        for family in claimed:
            gaps = compare_rows(models, reference, groups=groups, family=family).differences.values()
            claimed[family] += any(gap["m"].low > 0 or gap["m"].high < 0 for gap in gaps)
    return {family: count / 200 for family, count in claimed.items()}


def test_of_equal_models_at_most_one_experiment_in_twenty_claims_a_difference(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 1000)
    found = false_claims(("each", "reference"), picked=False)
    assert found["reference"] <= ONE_IN_TWENTY < 0.1 < found["each"]


def test_a_reference_that_the_rows_picked_claims_too_much_unless_all_pairs_hold(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 1000)
    found = false_claims(("each", "pairs"), picked=True)
    assert found["pairs"] <= ONE_IN_TWENTY < 0.2 < found["each"]
