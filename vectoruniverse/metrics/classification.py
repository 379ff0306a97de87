"""How often a classifier is right: accuracy, F1, the confusion matrix, log loss, calibration.

The numbers are scikit-learn's. Shapes: N rows, C classes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vectoruniverse.metrics.language import rows_of_ratio

BINS = 15
"""Bins of the calibration error, as in Guo et al."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How each class fares, four vectors (C,).

    Attributes:
        precision: share of the rows predicted as the class that are of it; 0 where none was predicted.
        recall: share of the rows of the class that were predicted as it; 0 where there are none.
        f1: harmonic mean of both; 0 where both are.
        support: rows of the class, int64.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence and accuracy of the rows in each of K equal bins of confidence over [0, 1].

    Attributes:
        count: rows of each bin (K,).
        confidence: mean confidence of the bin's rows (K,); NaN where it has none.
        accuracy: share of them that are right (K,); NaN where it has none.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, Σ_k (n_k / N) |accuracy_k - confidence_k|, 0 to 1 (arXiv:1706.04599)."""
        gaps = np.abs(self.accuracy - self.confidence)[self.count > 0]
        return float((self.count[self.count > 0] * gaps).sum() / self.count.sum())


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count rows by class (row of the matrix) and by predicted class (column).

    Args:
        labels: class of each row (N,), 0 to C - 1.
        predictions: predicted class of each row (N,), 0 to C - 1.
        classes: C.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: no rows, different lengths, or numbers that are no classes.
    """
    truth, guess = class_ids(labels, classes), class_ids(predictions, classes)
    if truth.shape != guess.shape:
        raise ValueError(f"labels and predictions must be of the same rows, got {len(truth)} and {len(guess)}")
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the rows that are right, from a confusion matrix (C, C)."""
    return float(confusion.trace() / confusion.sum())


def class_scores(confusion: NDArray[np.int64]) -> ClassScores:
    """Precision, recall, F1 and support of each class, from a confusion matrix (C, C)."""
    right, predicted, support = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(
        precision=right / np.maximum(predicted, 1),
        recall=right / np.maximum(support, 1),
        f1=2 * right / np.maximum(predicted + support, 1),
        support=support,
    )


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 of the classes that occur among labels or predictions, from a confusion matrix (C, C).

    A class that no row has and none was predicted as says nothing of the classifier and is left out.
    """
    scores, occurs = class_scores(confusion), confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(scores.f1[occurs].mean())


def macro_f1_rows(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.float64]:
    """One value per row whose mean is macro F1, so that ``mean_interval`` gives its interval.

    A class's F1 is the ratio of 2 · (rows that are of it and predicted as it) to (rows of it + rows predicted as it);
    each such ratio is linearised (see ``language.rows_of_ratio``), and the classes that occur are averaged. A single
    row's value is no metric of that row.

    Args:
        labels: class of each row (N,), 0 to C - 1.
        predictions: predicted class of each row (N,), 0 to C - 1.
        classes: C.
    """
    truth, guess = class_ids(labels, classes), class_ids(predictions, classes)
    of_class, said = (np.eye(classes)[ids] for ids in (truth, guess))
    sums, sizes = 2 * of_class * said, of_class + said
    occurs = np.flatnonzero(sizes.sum(axis=0))
    by_class = [rows_of_ratio(sums[:, c], sizes[:, c]) for c in occurs]
    rows: NDArray[np.float64] = np.mean(by_class, axis=0)
    return rows


def cross_entropies(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Log loss of each row, -log softmax(logits)[label], in nats (N,); exact where a probability would underflow.

    Args:
        logits: (N, C).
        labels: class of each row (N,).

    Raises:
        ValueError: no rows, different lengths, numbers that are no classes, or logits that are not finite.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"logits must be a matrix of finite numbers, got shape {scores.shape}")
    truth = class_ids(labels, scores.shape[1])
    if len(truth) != len(scores):
        raise ValueError(f"logits and labels must be of the same rows, got {len(scores)} and {len(truth)}")
    scores = scores - scores.max(axis=1, keepdims=True)
    losses: NDArray[np.float64] = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(truth)), truth]
    return losses


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS) -> Reliability:
    """Whether a classifier is right as often as it is sure.

    Args:
        confidence: probability of each row's predicted class (N,), 0 to 1.
        correct: whether the prediction is right (N,).
        bins: K; bin k holds confidences in (k/K, (k+1)/K], and the first also 0.

    Raises:
        ValueError: no rows, different lengths, or confidences outside [0, 1].
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or not len(sure) or sure.shape != right.shape:
        raise ValueError(f"confidence and correct must be of the same rows, got shapes {sure.shape} and {right.shape}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie within [0, 1]")
    place = confidence_bins(sure, bins)
    count = np.bincount(place, minlength=bins)
    rows = np.where(count > 0, count, np.nan)
    return Reliability(
        count=count,
        confidence=np.bincount(place, weights=sure, minlength=bins) / rows,
        accuracy=np.bincount(place, weights=right, minlength=bins) / rows,
    )


def confidence_bins(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Number of the bin of each confidence (N,); bin k holds (k/K, (k+1)/K], and the first also 0."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def class_ids(values: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Class numbers (N,) as int64.

    Raises:
        ValueError: no rows, or numbers that are no integers from 0 to ``classes`` - 1.
    """
    ids = np.asarray(values)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"classes of rows must be a vector of integers, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= classes:
        raise ValueError(f"classes must be 0 to {classes - 1}, got {ids.min()} to {ids.max()}")
    return ids.astype(np.int64)
