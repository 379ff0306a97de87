"""Strata are spread over the batches of an epoch, every row once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vectoruniverse.training.batches import batches
from vectoruniverse.training.strata import Blocks, Strata


@pytest.mark.parametrize("run", [1, 4])
def test_every_row_comes_once_in_batches_of_even_size_anew_each_epoch(run):
    strata = Strata(np.random.default_rng(0).integers(0, 7, 100), run)
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        parts = batches(100, 13, seed, epoch, strata)
        assert sorted(np.concatenate(parts)) == list(range(100))
        assert {len(part) for part in parts} == {12, 13}
        again = batches(100, 13, seed, epoch, strata)
        assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
        orders.append(np.concatenate(parts).tolist())
    assert len(set(map(tuple, orders))) == 3


def test_each_batch_has_as_many_rows_of_a_stratum_as_every_other_up_to_one():
    for seed in range(20):
        random = np.random.default_rng(seed)
        rows, size = int(random.integers(10, 200)), int(random.integers(2, 40))
        of_row = random.integers(0, random.integers(1, 30), rows)
        parts = batches(rows, size, seed, 0, Strata(of_row))
        for stratum, count in Counter(of_row.tolist()).items():
            found = [int((of_row[part] == stratum).sum()) for part in parts]
            assert set(found) <= {count // len(parts), -(-count // len(parts))}


def test_runs_of_a_stratum_stand_together_and_are_dealt_out_in_turn():
    of_row = np.repeat(np.arange(6), 16)
    parts = batches(96, 24, 0, 3, Strata(of_row, run=4))
    for part in parts:
        assert sorted(Counter(of_row[part].tolist()).values()) == [4] * 6
    of_row = np.repeat(np.arange(5), 3)
    order = Strata(of_row, run=4).deal(np.random.default_rng(1).permutation(15), 4)
    assert [len(set(three)) for three in np.split(of_row[order], 5)] == [1] * 5, "a stratum of three is one run"


def test_the_rows_of_a_stratum_are_drawn_to_other_batches_each_epoch():
    of_row = np.repeat(np.arange(10), 10)
    first = {row for epoch in range(30) for row in batches(100, 20, 0, epoch, Strata(of_row))[0].tolist()}
    assert first == set(range(100))


def test_blocks_come_some_at_a_time_each_once_with_their_rows_shuffled_anew_each_epoch():
    of_row = np.repeat(np.arange(10), 12)
    orders = []
    for epoch in range(3):
        order = np.concatenate(batches(120, 16, 0, epoch, Blocks(of_row, together=2)))
        assert sorted(order) == list(range(120))
        windows = [{*of_row[order[start : start + 24]].tolist()} for start in range(0, 120, 24)]
        assert sorted(block for window in windows for block in window) == list(range(10)), "two whole blocks at a time"
        assert len({*of_row[order[:12]].tolist()}) == 2, "which are mixed"
        orders.append((tuple(map(frozenset, windows)), tuple(order)))
    assert len({windows for windows, _ in orders}) == 3 and len({order for _, order in orders}) == 3


def test_blocks_that_are_all_together_leave_the_order_as_it_is_drawn():
    of_row = np.arange(100) % 7
    one, other = batches(100, 9, 3, 4, Blocks(of_row, together=7)), batches(100, 9, 3, 4)
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
