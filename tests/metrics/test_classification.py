from __future__ import annotations

import numpy as np
import pytest
import torch

from vectoruniverse.metrics.classification import (
    accuracy,
    class_scores,
    confusion_matrix,
    cross_entropies,
    macro_f1,
    macro_f1_rows,
    reliability,
)
from vectoruniverse.metrics.intervals import mean_interval


def rows(seed: int, count: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions and logits of a middling classifier; class 3 is never a label, class 4 never predicted."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 0, 0, 1, 2, 4], size=count)
    logits = random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    logits[:, 4] -= 100
    return labels, logits.argmax(axis=1), logits


def test_scores_are_those_of_scikit_learn_with_classes_that_lack() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        labels, predictions, _ = rows(seed)
        matrix = confusion_matrix(labels, predictions, 5)
        assert np.array_equal(matrix, sklearn.confusion_matrix(labels, predictions, labels=range(5)))
        assert accuracy(matrix) == pytest.approx(sklearn.accuracy_score(labels, predictions))
        assert macro_f1(matrix) == pytest.approx(sklearn.f1_score(labels, predictions, average="macro"))
        theirs = sklearn.precision_recall_fscore_support(labels, predictions, labels=range(5), zero_division=0)
        ours = class_scores(matrix)
        for mine, other in zip((ours.precision, ours.recall, ours.f1, ours.support), theirs, strict=True):
            assert np.allclose(mine, other)


def test_a_class_that_neither_side_holds_is_left_out_of_macro_f1() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, predictions = [0, 0, 1, 1], [0, 0, 1, 0]
    assert macro_f1(confusion_matrix(labels, predictions, 2)) == macro_f1(confusion_matrix(labels, predictions, 9))
    only_one = confusion_matrix([1, 1], [1, 1], 3)
    assert macro_f1(only_one) == sklearn.f1_score([1, 1], [1, 1], average="macro") == 1.0


def test_log_loss_is_scikit_learn_s_and_torch_s() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, _, logits = rows(0)
    losses = cross_entropies(logits, labels)
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    assert np.allclose(losses, theirs.numpy())
    logits[:, 4] += 100  # scikit-learn clips probabilities of almost nothing
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert cross_entropies(logits, labels).mean() == pytest.approx(
        sklearn.log_loss(labels, probabilities, labels=range(5))
    )


def test_log_loss_of_a_hopeless_row_is_finite() -> None:
    assert cross_entropies([[0.0, 5000.0]], [0]).tolist() == [5000.0]


@pytest.mark.filterwarnings("ignore")
def test_calibration_error_is_that_of_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    labels, predictions, logits = rows(1, count=500)
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    confidence = probabilities.max(dim=1).values.numpy()
    expected = theirs.multiclass_calibration_error(probabilities, torch.from_numpy(labels), num_classes=5, n_bins=15)
    assert reliability(confidence, labels == predictions).error == pytest.approx(float(expected), abs=1e-6)


def test_bins_hold_what_lies_in_them() -> None:
    bins = reliability([0.0, 0.2, 0.5, 0.51, 1.0], [False, True, True, False, True], bins=2)
    assert bins.count.tolist() == [3, 2]
    assert bins.confidence.tolist() == pytest.approx([0.7 / 3, 0.755])
    assert bins.accuracy.tolist() == pytest.approx([2 / 3, 0.5])
    assert bins.error == pytest.approx(0.6 * (2 / 3 - 0.7 / 3) + 0.4 * 0.255)
    assert np.isnan(reliability([0.9], [True], bins=2).accuracy[0])


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 1, got 0 to 2"):
        confusion_matrix([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="vector of integers"):
        confusion_matrix([0.0, 1.0], [0, 1], 2)
    with pytest.raises(ValueError, match="vector of integers"):
        confusion_matrix([], [], 2)
    with pytest.raises(ValueError, match="same rows"):
        confusion_matrix([0, 1], [0], 2)
    with pytest.raises(ValueError, match="finite"):
        cross_entropies([[0.0, np.nan]], [0])
    with pytest.raises(ValueError, match="same rows"):
        cross_entropies([[0.0, 1.0]], [0, 1])
    with pytest.raises(ValueError, match="within"):
        reliability([1.5], [True])
    with pytest.raises(ValueError, match="same rows"):
        reliability([0.5], [True, False])


def test_rows_of_macro_f1_have_it_as_their_mean_and_its_interval() -> None:
    """Against resampling rows and recomputing scikit-learn's macro F1 each time."""
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(3)
    labels = random.choice(4, size=400, p=[0.5, 0.3, 0.15, 0.05])
    predictions = np.where(random.random(400) < 0.7, labels, random.integers(0, 4, 400))
    rows = macro_f1_rows(labels, predictions, 5)
    expected = sklearn.f1_score(labels, predictions, average="macro", labels=np.arange(4), zero_division=0)
    assert rows.mean() == pytest.approx(expected)
    interval = mean_interval(rows)
    drawn = random.integers(0, 400, (1000, 400))
    slow = [
        sklearn.f1_score(labels[i], predictions[i], average="macro", labels=np.arange(4), zero_division=0)
        for i in drawn
    ]
    low, high = np.quantile(slow, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.012)
    assert interval.high == pytest.approx(high, abs=0.012)
