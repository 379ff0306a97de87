from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from vectoruniverse.data.pair_items import PairItems, number, same_texts


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        (["a", "b", "c"], ["x", "y", "z"], [[0], [1], [2]]),
        (["a", "a", "c"], ["x", "y", "z"], [[0, 1], [2]]),
        (["a", "b", "c"], ["x", "y", "x"], [[0, 2], [1]]),
        (["a", "a", "b", "b", "c"], ["x", "y", "y", "z", "w"], [[0, 1, 2, 3], [4]]),
        (["a", "x"], ["x", "a"], [[0], [1]]),  # sides are not mixed
    ],
)
def test_pairs_that_share_a_text_are_one_cluster(first, second, groups):
    found = same_texts(first, second).clusters()
    assert found.dtype == np.int64
    assert sorted([i for i in range(len(first)) if found[i] == g] for g in set(found.tolist())) == groups


def test_clusters_are_the_connected_parts_that_scipy_finds():
    graphs = pytest.importorskip("scipy.sparse.csgraph")
    random = np.random.default_rng(0)
    first, second = random.integers(0, 60, 80), random.integers(0, 60, 80)
    same = (first[:, None] == first) | (second[:, None] == second)
    _, expected = graphs.connected_components(same)
    found = same_texts([str(f) for f in first], [str(s) for s in second]).clusters()
    assert ((found[:, None] == found) == (expected[:, None] == expected)).all()
    assert 5 < len(set(found.tolist())) < 80


def crossed(seed, rows=60):
    random = np.random.default_rng(seed)
    return PairItems(random.integers(20, size=rows), random.integers(25, size=rows) * 3)


@pytest.mark.parametrize("seed", range(4))
def test_answers_and_gallery_are_those_of_a_slow_search(seed):
    items = crossed(seed)
    gallery, held = items.gallery(), set(zip(items.first.tolist(), items.second.tolist(), strict=True))
    assert [items.second[row] for row in gallery] == list(dict.fromkeys(items.second.tolist()))
    asking, place = items.answers()
    told = list(zip(asking.tolist(), items.second[gallery[place]].tolist(), strict=True))
    assert sorted(told) == sorted(held)
    rows, columns = np.array([3, 3, 59]), np.arange(0, 60, 7)
    slow = [[(items.first[i], items.second[j]) in held for j in columns] for i in rows]
    assert items.right(rows, columns).tolist() == slow
    assert items.turned().right(columns, rows).T.tolist() == slow


def test_nothing_is_carried_on_from_one_pair_to_the_next():
    items = same_texts(["a", "a", "b"], ["x", "y", "y"])
    assert items.right(np.arange(3), np.arange(3)).tolist() == [[1, 1, 1], [1, 1, 1], [0, 1, 1]]
    assert items.clusters().tolist() == [0, 0, 0]


def test_texts_are_the_same_whatever_their_case_space_and_form():
    first = ["Red circle", "red  CIRCLE ", "질문", unicodedata.normalize("NFD", "질문")]
    items = same_texts(first, ["a", "b", "c", "d"])
    assert items.first.tolist() == [0, 0, 1, 1] and items.second.tolist() == [0, 1, 2, 3]


def test_rows_that_share_nothing_are_told_apart():
    items = PairItems(np.arange(5), np.arange(5))
    assert items.gallery().tolist() == items.answers()[1].tolist() == list(range(5))
    assert number(["b", "a", "b"]).tolist() == [0, 1, 0]
