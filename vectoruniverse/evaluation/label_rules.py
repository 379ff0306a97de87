"""Which labels a picture, a text or both have: cosines and linear probes, calibrated on validation rows.

The scores of a row and a label are the cosines of the label's text with the row's picture, text, and what a fusion
makes of both, and behind them the values of linear probes of picture and text, fitted on training rows.

Of each label p = σ(a·s + b), a logistic regression (Platt, 1999) on its scores s. First one is fitted to all labels
together. A label that ``MIN_POSITIVES`` validation rows have then gets its own, whose slopes shrink towards those of
all; the others keep that of all. Scores are scaled to unit variance first, so that one penalty serves every model.

Shapes: N rows, C labels, E width of the shared space, D scores of a pair of row and label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from vectoruniverse.metrics.calibration import Logistic, fit_logistic
from vectoruniverse.metrics.multilabel import Bools, Floats, best_threshold
from vectoruniverse.runs.label_records import COSINES, PROBED, LabelInput, LabelRules

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


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier of vectors: weights (E, C) and bias (C,)."""

    weights: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Values (N, C) float64 of rows (N, E); about 1 where a row has the label, about 0 where it has not."""
        return rows.double() @ self.weights.double() + self.bias.double()

    @property
    def known(self) -> Bools:
        """Which labels told the rows apart that it was fitted on (C,); the others have the same value everywhere."""
        found: Bools = (self.weights != 0).any(dim=0).numpy()
        return found

    def select(self, places: Sequence[int]) -> Probe:
        """The labels at these places; one at -1, which it does not know, has the value 0."""
        at = torch.tensor(places, dtype=torch.int64)
        there = (at >= 0).to(self.weights.dtype)
        return Probe(self.weights[:, at] * there, self.bias[at] * there)


Probes = Mapping[str, Probe]
"""``image`` and ``text`` → the probe of these vectors; empty: none was fitted."""


def label_values(sides: Mapping[str, Tensor], label_text: Tensor, probes: Probes) -> dict[LabelInput, Floats]:
    """Scores (N, C, D) by each input: as ``cosines`` has them, and behind them what the probes of its sides say."""
    found = cosines(sides, label_text)
    if not probes:
        return found
    said = {name: probe(sides[name]).numpy()[:, :, None] for name, probe in probes.items() if name in sides}
    return {
        by: np.concatenate([part, *(said[name] for name in PROBED[by])], axis=2)
        for by, part in found.items()
        if said.keys() >= {*PROBED[by]}
    }


def cosines(sides: Mapping[str, Tensor], label_text: Tensor) -> dict[LabelInput, Floats]:
    """Scores (N, C, D) by each input.

    Args:
        sides: unit rows (N, E) of ``image`` and ``text``, or of one of them; with both, those of ``fused``, if any.
        label_text: unit rows (C, E).
    """
    found = {name: (rows @ label_text.T).double().numpy() for name, rows in sides.items()}
    return {
        by: np.stack([found[name] for name in need], axis=2) for by, need in COSINES.items() if found.keys() >= {*need}
    }


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


def fit_probed_rules(scores: Floats, truth: Bools, known: Bools, cosines: int) -> LabelRules:
    """``fit_rules`` by cosines and probes together; of labels that the probes do not know, by the cosines alone.

    Args:
        scores: (N, C, D) of rows that have a label.
        truth: which labels they have (N, C); some pair has and some has not.
        known: which labels the probes know (C,).
        cosines: how many of the D scores are cosines; they come first.
    """
    plain, nothing = fit_rules(scores[:, :, :cosines], truth), [0.0] * (scores.shape[2] - cosines)
    slopes = [[*row, *nothing] for row in plain.slopes]
    intercepts, thresholds = [*plain.intercepts], [*plain.thresholds]
    some = truth[:, known]
    if some.any() and not some.all():
        full = fit_rules(scores[:, known], some)
        for i, place in enumerate(np.flatnonzero(known).tolist()):
            slopes[place], intercepts[place], thresholds[place] = full.slopes[i], full.intercepts[i], full.thresholds[i]
    default = ([*plain.default[0], *nothing], *plain.default[1:])
    return LabelRules(slopes=slopes, intercepts=intercepts, thresholds=thresholds, default=default)


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
