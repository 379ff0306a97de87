"""Which rates are tried for each value, how many epochs that costs, and which one is chosen."""

from __future__ import annotations

import itertools
import math

import pytest

from vectoruniverse.errors import ConfigError
from vectoruniverse.sweep.rates import (
    COST,
    WIDEN,
    Budget,
    Ladder,
    first_rungs,
    in_order,
    make_budget,
    parse_rates,
    scaling_exponent,
    search_rate,
)


def test_a_ladder_goes_on_at_both_ends_by_the_ratio_there():
    assert [Ladder((2e-3,)).rate(rung) for rung in (-3, -1, 0, 2)] == [2.5e-4, 1e-3, 2e-3, 8e-3]
    named = Ladder((1e-4, 1e-3, 3e-3))
    assert [named.rate(rung) for rung in range(-1, 5)] == [1e-5, 1e-4, 1e-3, 3e-3, 9e-3, 2.7e-2]
    assert named.rung_of(1e-3) == 1 and named.rung_of(2e-3) is None


@pytest.mark.parametrize("text", ["", "fast", "1e-3,", "0,1e-3", "1e-3,1e-3", "nan", "-1e-3", "inf"])
def test_what_is_no_list_of_rates_is_refused(text):
    with pytest.raises(ConfigError, match="no list of learning rates"):
        parse_rates(text)


def test_rates_are_read_ascending_and_auto_names_none():
    assert parse_rates("auto") is None
    assert parse_rates("2e-3,5e-4") == (5e-4, 2e-3)


@pytest.mark.parametrize(("epochs", "seeds", "rates"), [*itertools.product((6, 8, 10, 30, 100), (1, 2, 3, 5), (3, 6))])
def test_the_search_never_costs_more_than_its_budget(epochs, seeds, rates):
    budget = make_budget(epochs, seeds, rates)
    worst = (rates + WIDEN) * budget.short + 2 * budget.long * (budget.long > budget.short)
    assert 1 <= budget.short <= budget.long <= max(1, epochs // 2)
    assert worst + epochs * seeds <= COST * epochs * seeds


def test_the_budget_of_a_usual_sweep():
    assert make_budget(10, 1, 6) == Budget(1, 3)
    assert make_budget(10, 3, 6) == Budget(2, 5)
    assert make_budget(2, 1, 6) == Budget(1, 1), "too short to be halved: one round"


@pytest.mark.parametrize(("alpha", "shift"), [("proportional", -2), ("rank-stabilized", -1), ("fixed", 0)])
def test_a_rank_begins_where_the_scaling_rule_puts_the_nearest_rank_s_rate(alpha, shift):
    """Four times the rank: the first update's size, scale · rank · rate, is the same again."""
    exponent = scaling_exponent(alpha, "kaiming")
    scale = {"proportional": lambda r: 1.0, "rank-stabilized": lambda r: 1 / math.sqrt(r), "fixed": lambda r: 1 / r}
    assert scale[alpha](8) * 8 * 2.0**3 == pytest.approx(scale[alpha](32) * 32 * 2.0 ** (3 + shift))
    assert first_rungs(32, 8, {8: 3, 1: 9}, 0, exponent) == sorted({0, *(3 + shift + near for near in (-1, 0, 1))})
    assert first_rungs(8, 8, {}, 0, exponent) == [-2, -1, 0, 1, 2]
    assert scaling_exponent(alpha, "pissa") == 0


def test_ranks_go_outwards_from_the_experiment_s_own():
    assert in_order([1, 2, 4, 8, 16, 32], 8) == [8, 4, 16, 2, 32, 1]


def one_by_one(trial):
    return lambda rungs, epochs: [trial(rung, epochs) for rung in rungs]


def test_the_better_two_are_tried_for_longer_and_the_best_of_those_is_chosen():
    asked = []

    def trial(rung, epochs):
        asked.append((rung, epochs))
        return -abs(rung - 1.2) if epochs == 1 else -abs(rung - 2)  # the longer training prefers another

    found = search_rate(one_by_one(trial), [-1, 0, 1, 2, 3], Budget(1, 3))
    assert asked == [(-1, 1), (0, 1), (1, 1), (2, 1), (3, 1), (1, 3), (2, 3)]
    assert (found.rung, found.at_edge) == (2, False)


def test_a_best_rate_at_the_edge_widens_the_grid_and_says_where_it_still_is_at_one():
    asked = []

    def rising(rung, epochs):
        asked.append(rung)
        return float(rung)

    found = search_rate(one_by_one(rising), [-1, 0, 1], Budget(1, 1))
    assert asked == [-1, 0, 1, 2, 3] and (found.rung, found.at_edge) == (3, True)
    asked.clear()
    peaked = search_rate(
        one_by_one(lambda rung, epochs: asked.append(rung) or -abs(rung - 2.0)), [-1, 0, 1], Budget(1, 1)
    )
    assert asked == [-1, 0, 1, 2, 3] and (peaked.rung, peaked.at_edge) == (2, False)
    alone = []
    search_rate(one_by_one(lambda rung, epochs: alone.append(rung) or float(rung == 0)), [0, 4, 5], Budget(1, 1))
    assert alone == [0, 4, 5, -1, 1], "the experiment's own rate stands apart from the others, and its sides are tried"


def test_trainings_that_fail_are_passed_over():
    def trial(rung, epochs):
        return None if rung > 0 else float(rung)

    assert search_rate(one_by_one(trial), [-1, 0, 1], Budget(1, 2)).rung == 0
    assert search_rate(one_by_one(lambda rung, epochs: None), [-1, 0, 1], Budget(1, 2)) is None
