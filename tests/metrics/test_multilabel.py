"""Numbers of labels: scikit-learn's, and as values of rows the derivative that scikit-learn's own weights give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vectoruniverse.metrics.classification import reliability
from vectoruniverse.metrics.intervals import mean_interval
from vectoruniverse.metrics.multilabel import average_precision_rows, best_threshold, calibration_rows, f1_rows

sklearn = pytest.importorskip("sklearn.metrics")


def some(seed: int, rows: int = 60, labels: int = 4, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities of labels that are told middling well; with ``ties`` of few distinct values."""
    random = np.random.default_rng(seed)
    truth = random.random((rows, labels)) < [0.5, 0.2, 0.1, 0.05]
    truth[0] = True
    probabilities = 1 / (1 + np.exp(-(random.normal(size=(rows, labels)) + 2.0 * truth - 1)))
    return truth, probabilities.round(1) if ties else probabilities


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    for seed in range(5):
        truth, scores = some(seed, ties=ties)
        found = [average_precision_rows(truth[:, c], scores[:, c]).mean() for c in range(4)]
        assert found == pytest.approx(sklearn.average_precision_score(truth, scores, average=None), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_a_rows_value_is_the_derivative_by_its_weight(ties: bool) -> None:
    truth, scores = (part[:, 1] for part in some(3, rows=30, ties=ties))
    rows, step = average_precision_rows(truth, scores), 1e-6

    def weighed(row: int, change: float) -> float:
        weights = np.ones(30)
        weights[row] += change
        return float(sklearn.average_precision_score(truth, scores, sample_weight=weights))

    slopes = [(weighed(i, step) - weighed(i, -step)) / (2 * step) for i in range(30)]
    assert rows == pytest.approx(weighed(0, 0.0) + 30 * np.array(slopes), abs=1e-6)


def test_its_interval_is_near_that_of_leaving_each_group_out() -> None:
    truth, scores = (part[:, 0] for part in some(1, rows=400))
    groups, rows = np.arange(400) // 4, average_precision_rows(truth, scores)
    without = [sklearn.average_precision_score(truth[groups != g], scores[groups != g]) for g in range(100)]
    error = np.sqrt(99 / 100 * np.square(np.array(without) - rows.mean()).sum())
    found = mean_interval(rows, groups)
    assert (found.high - found.low) / 2 == pytest.approx(1.984 * error, rel=0.05)


def test_f1_is_scikit_learns_of_a_label_and_of_all_pairs() -> None:
    for seed in range(5):
        truth, probabilities = some(seed)
        said = probabilities > 0.6
        each = [f1_rows(truth[:, c], said[:, c]).mean() for c in range(4)]
        assert each == pytest.approx(sklearn.f1_score(truth, said, average=None))
        assert f1_rows(truth, said).mean() == pytest.approx(sklearn.f1_score(truth, said, average="micro"))


def test_the_threshold_is_the_best_of_all() -> None:
    for seed in range(8):
        truth, probabilities = (part[:, 1] for part in some(seed, ties=seed % 2 == 0))
        threshold = best_threshold(truth, probabilities)
        reached = [sklearn.f1_score(truth, probabilities >= tried) for tried in probabilities]
        assert sklearn.f1_score(truth, probabilities >= threshold) == pytest.approx(max(reached))
        assert threshold not in probabilities, "it lies between two of them"


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    assert best_threshold(np.array([True, False, False, True]), np.array([0.9, 0.8, 0.7, 0.6])) == pytest.approx(0.85)
    assert best_threshold(np.array([True, True]), np.array([0.9, 0.4])) == pytest.approx(0.2)


@pytest.mark.filterwarnings("ignore")
def test_calibration_error_is_that_of_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    truth, probabilities = some(2, rows=300)
    rows = calibration_rows(truth, probabilities)
    expected = theirs.binary_calibration_error(*map(torch.from_numpy, (probabilities.ravel(), 1 * truth.ravel())), 15)
    assert rows.mean() == pytest.approx(float(expected), abs=1e-6)
    assert rows.mean() == pytest.approx(reliability(probabilities.ravel(), truth.ravel()).error, abs=1e-12)


def test_labels_of_all_rows_and_scores_that_are_all_equal_are_as_scikit_learn_has_them() -> None:
    every, some_have, tied = np.ones(6, bool), np.array([True, False, False, True, False, False]), np.full(6, 0.4)
    for truth, scores in ((every, np.arange(6.0)), (every, tied), (some_have, tied)):
        rows = average_precision_rows(truth, scores)
        assert rows.mean() == pytest.approx(sklearn.average_precision_score(truth, scores), abs=1e-12)
        assert np.isfinite(rows).all()
    none = np.zeros(6, bool)
    assert f1_rows(every, every).mean() == 1.0 and f1_rows(every, none).mean() == f1_rows(none, every).mean() == 0.0


def test_average_precision_needs_a_row_with_the_label() -> None:
    with pytest.raises(ValueError, match="needs a row with the label"):
        average_precision_rows(np.zeros(3, bool), np.zeros(3))
