"""How well labels are told where a row may have several: average precision, F1 at a threshold, calibration.

The numbers are scikit-learn's. Each comes as one value per row whose mean it is, so that ``mean_interval`` gives its
interval and two models are compared row by row: ``m + N dm/dw_i``, the metric m linearised in the weight of row i (the
infinitesimal jackknife; Efron, 1982). A single row's value is no metric of that row.

Shapes: N rows, C labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.metrics.classification import BINS, confidence_bins
from vectoruniverse.metrics.language import rows_of_ratio

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def average_precision_rows(truth: Bools, scores: Floats) -> Floats:
    """Average precision of one label, Σ_t (R_t - R_{t-1}) P_t over the distinct scores t, as values of rows (N,).

    With A_i and B_i the right rows and all rows whose score is not below that of row i, it is the mean of A_i / B_i
    over the rows i that have the label. Rows of equal scores are found together.

    Args:
        truth: whether a row has the label (N,).
        scores: (N,); the higher, the more likely.

    Raises:
        ValueError: no row has the label, or different lengths.
    """
    if truth.shape != scores.shape or not truth.any():
        raise ValueError(f"average precision needs a row with the label, and a score of each of {truth.shape} rows")
    _, place = np.unique(scores, return_inverse=True)
    right, among = np.bincount(place, weights=truth), np.bincount(place)
    above = np.cumsum(among[::-1])[::-1]
    precision = np.cumsum(right[::-1])[::-1] / above
    positives = right.sum()
    found = float((right * precision).sum() / positives)
    # a row more moves the precision of all that stand at its score or below it
    lifted, lowered = np.cumsum(right / above)[place], np.cumsum(right * precision / above)[place]
    moved = truth * (precision[place] - found + lifted) - lowered
    rows: Floats = found + len(truth) / positives * moved
    return rows


def f1_rows(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> Floats:
    """F1 of one label, 2 · right / (rows that have it + rows that are said to), as values of rows (N,).

    Of several labels (N, C) it is their micro F1, which counts pairs of row and label.

    Args:
        truth: which labels a row has, (N,) or (N, C).
        said: which it is said to have, alike; one of both has any.
    """
    both, either = 2.0 * (truth & said), truth + 1.0 * said
    return rows_of_ratio(*(part.reshape(len(part), -1).sum(axis=1) for part in (both, either)))


def calibration_rows(truth: Bools, probabilities: Floats, *, bins: int = BINS) -> Floats:
    """Expected calibration error of pairs of row and label, (N, C), as values of rows (N,).

    With d the truth less the probability of each pair, it is Σ_k |Σ_{pairs in bin k} d| / (N C), so that each pair
    counts with d and the sign of its bin. Where the error is near 0 the sign is chance and the value too high.
    """
    place, apart = confidence_bins(probabilities.ravel(), bins), (truth - probabilities).ravel()
    signs = np.sign(np.bincount(place, weights=apart, minlength=bins))
    rows: Floats = (signs[place] * apart).reshape(truth.shape).mean(axis=1)
    return rows


def best_threshold(truth: Bools, probabilities: Floats) -> float:
    """The probability from which on a label is said, so that F1 on these rows is greatest; of equals the highest.

    It lies halfway between the last probability that is said and the next one below.

    Args:
        truth: whether a row has the label (N,); some row does.
        probabilities: (N,) from 0 to 1.
    """
    values, place = np.unique(probabilities, return_inverse=True)
    right = np.cumsum(np.bincount(place, weights=truth)[::-1])
    said = np.cumsum(np.bincount(place)[::-1])
    best = len(values) - 1 - int(np.argmax(2 * right / (said + right[-1])))
    below = values[best - 1] if best else 0.0
    return float((values[best] + below) / 2)
