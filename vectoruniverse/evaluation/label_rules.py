"""Which labels a picture, a text or both have: cosines with the labels' texts, calibrated on validation rows.

Of each label p = σ(a·s + b), a logistic regression (Platt, 1999) on its cosines s. First one is fitted to all labels
together. A label that ``MIN_POSITIVES`` validation rows have then gets its own, whose slopes shrink towards those of
all; the others keep that of all. Scores are scaled to unit variance first, so that one penalty serves every model.

Shapes: N rows, C labels, D scores of a pair of row and label: 1, 2 by picture and text, 3 with their fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from vectoruniverse.metrics.calibration import Logistic, fit_logistic
from vectoruniverse.metrics.multilabel import Bools, Floats, best_threshold
from vectoruniverse.runs.label_records import LabelInput, LabelRules

MIN_POSITIVES = 2
"""Validation rows that must have a label for rules of its own: one alone would be both example and proof."""

STRENGTH = 1.0
"""Penalty on slopes: the weight of a row or so against that of all labels together."""

MOST_PAIRS = 2**17
"""Pairs of row and label at most that the rules of all labels together are fitted on."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Probability of each label of each row (N, C), and the probability from which on each is said (C,)."""

    probabilities: Floats
    thresholds: Floats

    @property
    def said(self) -> Bools:
        """Which labels are said of which row, (N, C)."""
        said: Bools = self.probabilities >= self.thresholds
        return said

    def select(self, rows: NDArray[np.int64]) -> Predicted:
        """Of the rows at these positions."""
        return Predicted(self.probabilities[rows], self.thresholds)


def cosines(sides: Mapping[str, Tensor], label_text: Tensor) -> dict[LabelInput, Floats]:
    """Scores (N, C, D) by each input.

    Args:
        sides: unit rows (N, E) of ``image`` and ``text``, or of one of them; with both, those of ``fused``, if any.
        label_text: unit rows (C, E).
    """
    found = {name: (rows @ label_text.T).double().numpy() for name, rows in sides.items()}
    named: tuple[tuple[LabelInput, tuple[str, ...]], ...] = (
        ("picture", ("image",)),
        ("text", ("text",)),
        ("both", ("image", "text")),
        ("fused", ("image", "text", "fused")),
    )
    return {by: np.stack([found[name] for name in need], axis=2) for by, need in named if found.keys() >= {*need}}


def enough_rows(truth: Bools) -> Bools:
    """Whether rules of its own can be fitted to each label (C,), by rows (N, C) that have any label."""
    counts = truth.sum(axis=0)
    found: Bools = (counts >= MIN_POSITIVES) & (counts < len(truth))
    return found


def fit_rules(scores: Floats, truth: Bools) -> LabelRules:
    """Calibrate scores, and choose the threshold of each label so that its F1 is greatest.

    Args:
        scores: (N, C, D) of rows that have a label.
        truth: which labels they have (N, C); some pair has and some has not.
    """
    mean, spread = scores.mean(axis=(0, 1)), scores.std(axis=(0, 1))
    scaled = (scores - mean) / np.where(spread > 0, spread, 1.0)
    some = slice(None, None, -(-truth.size // MOST_PAIRS))
    pairs, of_pairs = scaled[some].reshape(-1, scores.shape[2]), truth[some].ravel()
    common = fit_logistic(pairs, of_pairs, strength=STRENGTH)
    threshold = best_threshold(of_pairs, common.probabilities(pairs))
    each, thresholds = [common] * truth.shape[1], np.full(truth.shape[1], threshold)
    for c in np.flatnonzero(enough_rows(truth)):
        each[c] = fit_logistic(scaled[:, c], truth[:, c], common.slopes, STRENGTH)
        thresholds[c] = best_threshold(truth[:, c], each[c].probabilities(scaled[:, c]))
    of_scores = [_unscaled(one, mean, spread) for one in (common, *each)]
    return LabelRules(
        slopes=[one.slopes.tolist() for one in of_scores[1:]],
        intercepts=[one.intercept for one in of_scores[1:]],
        thresholds=thresholds.tolist(),
        default=(of_scores[0].slopes.tolist(), of_scores[0].intercept, threshold),
    )


def _unscaled(found: Logistic, mean: Floats, spread: Floats) -> Logistic:
    """The same probabilities by scores as they are."""
    slopes = found.slopes / np.where(spread > 0, spread, 1.0)
    return Logistic(slopes, found.intercept - float(slopes @ mean))


def predict(rules: LabelRules, scores: Floats, places: Sequence[int] | None = None) -> Predicted:
    """Apply rules.

    Args:
        rules: of C' labels.
        scores: (N, C, D).
        places: of each of the C labels among those of the rules, -1 for one that they do not know; None: the same.
    """
    slopes, intercept, threshold = rules.default
    a, b = np.array([*rules.slopes, slopes]), np.array([*rules.intercepts, intercept])
    at = np.arange(len(rules.slopes)) if places is None else np.asarray(places, dtype=np.int64)
    probabilities: Floats = expit(np.einsum("ncd,cd->nc", scores, a[at]) + b[at])
    return Predicted(probabilities, np.array([*rules.thresholds, threshold])[at])
