from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.report.figures import space, style


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _embedded(seed: int, count: int = 40, clusters: int = 4, width: int = 16, noise: float = 0.05) -> space.Embedded:
    random = np.random.default_rng(seed)
    centres = np.eye(width)[:clusters]
    own = centres[np.arange(count) % clusters]
    return space.Embedded(*(_unit(own + noise * random.normal(size=(count, width))) for _ in range(2)))


def test_spectrum_marks_where_the_shares_add_up() -> None:
    shares = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
    for part in (0.5, 0.9, 0.99):
        total, k = 0.0, 0
        while total < part - 1e-12:
            total, k = total + shares[k], k + 1
        assert space.directions_for(shares, part) == k
    axes = space.spectra({"base": np.full(6, 1 / 6), "adapted": shares}, parts=(0.5, 0.9, 0.99)).axes[0]
    assert [line.get_color() for line in axes.lines[::2]] == [style.BASE, style.ADAPTED]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "base: 50% in 3, 90% in 6, 99% in 6 directions",
        "adapted: 50% in 2, 90% in 4, 99% in 5 directions",
    ]
    assert axes.get_yscale() == "log"


def test_a_collapsed_spectrum_can_be_drawn() -> None:
    assert style.png(space.spectra({"base": np.array([1.0, 0.0, 0.0]), "adapted": np.array([1.0, 1e-12, 0.0])}))


def test_order_puts_each_cluster_together() -> None:
    model = _embedded(0)
    order = space.order_by_similarity((model.image + model.text).astype(np.float64))
    assert sorted(order) == list(range(40))
    cluster = order % 4
    assert (cluster[1:] != cluster[:-1]).sum() == 3


def test_order_is_that_of_average_linkage_in_scipy() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rows = np.random.default_rng(1).normal(size=(30, 5))
    tree = hierarchy.linkage(rows, method="average", metric="cosine")
    place = np.argsort(space.order_by_similarity(rows))
    members = {i: [i] for i in range(30)}
    for i, (a, b, _, _) in enumerate(tree):  # every cluster of theirs is an unbroken stretch of ours
        members[30 + i] = members[int(a)] + members[int(b)]
        stretch = place[members[30 + i]]
        assert stretch.max() - stretch.min() == len(stretch) - 1


def test_matrix_shows_the_same_rows_in_one_order_and_one_scale() -> None:
    base, adapted = _embedded(1, count=300, noise=1.0), _embedded(2, count=300)
    figure = space.similarity_matrix(base, adapted)
    left, right = (axes.images[0] for axes in figure.axes[:2])
    shown = space.evenly(300, space.MATRIX_ROWS)
    shown = shown[space.order_by_similarity((adapted.image[shown] + adapted.text[shown]).astype(np.float64))]
    assert np.asarray(left.get_array()).shape == (128, 128)
    assert np.allclose(np.diag(np.asarray(left.get_array())), [base.image[i] @ base.text[i] for i in shown], atol=1e-6)
    assert np.allclose(
        np.diag(np.asarray(right.get_array())), [adapted.image[i] @ adapted.text[i] for i in shown], atol=1e-6
    )
    assert left.get_clim() == right.get_clim()
    assert "128 of 300" in figure.axes[0].get_ylabel()


def test_rows_are_chosen_evenly() -> None:
    assert list(space.evenly(5, 8)) == [0, 1, 2, 3, 4]
    assert list(space.evenly(10, 5)) == [0, 2, 4, 6, 8]
    assert len(set(space.evenly(1000, 128))) == 128


def test_cosines_of_rows_with_the_same_text_are_right_pairs() -> None:
    model, groups = _embedded(3, count=6), np.array([0, 1, 0, 2, 3, 1])
    right, wrong = space.cosines(model, PairItems(np.arange(6), groups))
    slow: dict[bool, list[float]] = {True: [], False: []}
    for i in range(6):
        for j in range(6):
            slow[bool(groups[i] == groups[j])].append(float(model.image[i] @ model.text[j]))
    assert sorted(right) == pytest.approx(sorted(slow[True]), abs=1e-6)
    assert sorted(wrong) == pytest.approx(sorted(slow[False]), abs=1e-6)


def test_histograms_are_shares_of_their_own_pairs() -> None:
    figure = space.cosine_histograms(_embedded(4, noise=1.0), _embedded(5), PairItems(np.arange(40), np.arange(40)))
    for axes in figure.axes:
        for patch in axes.patches:
            assert isinstance(patch, StepPatch)
            assert patch.get_data().values.sum() == pytest.approx(1.0)


def test_rows_that_are_all_equal_or_all_right_can_be_drawn() -> None:
    same = space.Embedded(*[np.tile(_unit(np.ones((1, 4))), (3, 1))] * 2)
    assert style.png(space.cosine_histograms(same, same, PairItems(np.zeros(3, np.int64), np.zeros(3, np.int64))))
    assert style.png(space.similarity_matrix(same, same))


def test_path_of_training_runs_through_the_logged_points() -> None:
    history = [
        {"step": 0, "val/alignment": 1.5, "val/image/uniformity": -1.0, "val/text/uniformity": -1.2},
        {"step": 5, "val/alignment": "NaN", "val/image/uniformity": -1.5},
        {"step": 9, "val/alignment": 0.5, "val/image/uniformity": -2.0, "val/text/uniformity": -2.5},
    ]
    axes = space.alignment_uniformity(history).axes[0]
    paths = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}
    assert paths["pictures"] == [[-1.0, 1.5], [-2.0, 0.5]]
    assert paths["texts"] == [[-1.2, 1.5], [-2.5, 0.5]]
    with pytest.raises(ValueError, match="uniformity"):
        space.alignment_uniformity(history[:0])
