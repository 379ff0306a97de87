from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vectoruniverse.metrics.answers import answer
from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.metrics.sweeps import SweepSummary, ValueSummary, smallest_not_worse


def value(number: float, mean: float, *, behind: tuple[float, float], gain: float = 0.1) -> ValueSummary:
    shortfall = Interval(sum(behind) / 2, *behind)
    return ValueSummary(
        number, Interval(mean, mean - 0.04, mean + 0.04), Interval(gain, gain - 0.05, gain + 0.05), shortfall, 0.01
    )


def summary(*values: ValueSummary, seeds: tuple[int, ...] = (0, 1, 2), groups: int = 440) -> SweepSummary:
    return SweepSummary(values, Interval(0.5, 0.46, 0.54), seeds, (), 440, 0.95, groups)


SATURATING = summary(
    value(1, 0.61, behind=(0.09, 0.19)),
    value(4, 0.74, behind=(0.0, 0.03)),
    value(16, 0.75, behind=(0.0, 0.02)),
    value(64, 0.70, behind=(0.01, 0.09)),
)


def test_a_margin_asks_for_proof_and_none_for_its_absence() -> None:
    def chosen(margin: float | None) -> float | None:
        found = smallest_not_worse(SATURATING, margin=margin)
        return found and found.value

    assert [chosen(margin) for margin in (None, 0.5, 0.03, 0.02, 0.01)] == [4, 1, 4, 16, None]
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="margin must be above 0"):
            smallest_not_worse(SATURATING, margin=margin)


def test_the_answer_names_the_smallest_value_and_what_stands_above_it() -> None:
    assert answer(SATURATING) == (
        "rank 4 is the smallest that is not credibly worse than the best (rank 16): recall@5 0.740 [0.700, 0.780] "
        "against 0.750 [0.710, 0.790], 0.015 [0.000, 0.030] behind the best. From rank 4 on more does not credibly "
        "help. Above it, rank 64 is credibly worse than the best. (95 % intervals over 440 queries and 3 seeds.)"
    )


def test_the_answer_to_a_margin_says_what_was_asked() -> None:
    assert "rank 4 is the smallest that is credibly within 0.03 of the best (rank 16)" in answer(
        SATURATING, margin=0.03
    )
    none = answer(SATURATING, margin=0.01, name="temperature", metric="mrr")
    assert none.startswith("No temperature is credibly within 0.01 of the best: temperature 16 comes first with mrr")
    assert "others may be up to 0.020 better. More seeds or queries, or a wider margin, are needed." in none


def test_a_curve_that_still_rises_is_told_so() -> None:
    rising = summary(value(1, 0.6, behind=(0.05, 0.15)), value(2, 0.7, behind=(0.0, 0.0)))
    assert answer(rising).startswith(
        "rank 2 is the best, and every smaller rank is credibly worse: recall@5 0.700 [0.660, 0.740]. "
        "It is still rising at the largest rank tried; try larger."
    )
    unproven = summary(value(1, 0.69, behind=(0.0, 0.1)), value(2, 0.7, behind=(0.0, 0.01)))
    said = answer(unproven, margin=0.02)
    assert "no smaller rank is credibly within 0.02 of the best" in said
    assert "No smaller rank is credibly that near" in said
    assert "rising" not in said


def test_the_answer_where_the_smallest_is_the_best() -> None:
    best = summary(value(1, 0.7, behind=(0.0, 0.01)), value(2, 0.69, behind=(0.0, 0.03)))
    assert answer(best).startswith("rank 1 is the best, and the smallest tried: recall@5 0.700")
    assert "From rank 1 on more does not credibly help." in answer(best)


def test_the_answer_where_nothing_beats_the_base() -> None:
    unsure = summary(value(1, 0.5, behind=(0.0, 0.1), gain=0.0), value(2, 0.51, behind=(0.0, 0.02), gain=0.01))
    assert answer(unsure).startswith(
        "No rank tried is credibly better than the base model: rank 2 comes first with recall@5 0.510 [0.470, 0.550] "
        "against 0.500 [0.460, 0.540], a difference of 0.010 [-0.040, 0.060]."
    )
    worse = summary(value(1, 0.3, behind=(0.0, 0.1), gain=-0.2))
    assert answer(worse).startswith("Every rank tried is credibly worse than the base model")


def test_a_chosen_value_that_may_be_no_better_than_the_base_is_told_so() -> None:
    little = summary(value(1, 0.53, behind=(0.0, 0.15), gain=0.03), value(2, 0.6, behind=(0.0, 0.0)))
    assert "rank 1 itself is not credibly better than the base." in answer(little)


def test_one_value_and_one_seed_answer_what_they_can() -> None:
    said = answer(summary(value(8, 0.7, behind=(0.0, 0.0), gain=0.2), seeds=(0,)))
    assert said.startswith("Only rank 8 was tried: recall@5 0.700 [0.660, 0.740] against the base's 0.500")
    assert "Where more stops helping takes several values." in said
    assert "(95 % intervals over 440 queries; with one seed they do not say what another would give.)" in said


def test_the_answer_says_where_queries_were_drawn_in_groups() -> None:
    one = value(8, 0.7, behind=(0.0, 0.0), gain=0.2)
    assert "(95 % intervals over 440 queries in 37 groups drawn together and 3 seeds.)" in answer(
        summary(one, groups=37)
    )
    assert "groups" not in answer(summary(one))


def test_the_answer_says_where_other_rows_chose_the_best_and_where_these_contradict_them() -> None:
    two = value(1, 0.5, behind=(0.1, 0.2)), value(2, 0.69, behind=(0.0, 0.02))
    chosen = replace(summary(*two, value(4, 0.7, behind=(0.0, 0.01))), chosen=2.0)
    said = answer(chosen)
    assert said.startswith("rank 2 is the best, and every smaller rank is credibly worse")
    assert "; other rows chose the best.)" in said
    contradicted = replace(chosen, chosen=1.0)
    assert answer(contradicted).startswith(
        "rank 2 is the smallest that is not credibly worse than any other: recall@5 0.690 [0.650, 0.730]. rank 1, "
        "which the validation rows chose, is: 0.500 [0.460, 0.540], 0.150 [0.100, 0.200] behind."
    )
