"""Scores to probabilities: Platt's logistic regression, with a penalty on its slopes.

Shapes: N rows, D scores of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]

MOST_STEPS = 100
"""Newton steps at most; it takes about six."""

ENOUGH = 1e-12
"""Half of the Newton decrement, in nats, below which nothing is gained by another step."""


class Logistic(NamedTuple):
    """p = σ(a·s + b): slopes a (D,) and intercept b."""

    slopes: Floats
    intercept: float

    def probabilities(self, scores: Floats) -> Floats:
        """Of scores (..., D): (...)."""
        found: Floats = expit(scores @ self.slopes + self.intercept)
        return found


def fit_logistic(scores: Floats, truth: NDArray[np.bool_], towards: ArrayLike = 0.0, strength: float = 1.0) -> Logistic:
    """Slopes a and intercept b that minimise Σ_i -log p(truth_i) + strength/2 ‖a - towards‖² (Platt, 1999).

    The intercept is free, so that the mean probability is the share of the rows with the label. Towards 0 it is
    scikit-learn's ``LogisticRegression(C=1/strength)``.

    Args:
        scores: (N, D), of about unit variance, since the penalty is on their slopes.
        truth: whether a row has the label (N,); some do and some do not.
        towards: slopes (D,) to which the fit shrinks where rows say little.
        strength: of the penalty, above 0.

    Raises:
        ValueError: all rows have the label, or none has, or scores are not finite.
    """
    if truth.all() or not truth.any() or not np.isfinite(scores).all():
        raise ValueError("a calibration needs finite scores of rows with the label and of rows without it")
    rows = np.column_stack([scores, np.ones(len(scores))])
    centre = np.append(np.broadcast_to(np.asarray(towards, dtype=np.float64), scores.shape[1]), 0.0)
    penalty = np.append(np.full(scores.shape[1], strength), 0.0)
    found = np.append(np.zeros(scores.shape[1]), logit(truth.mean()))  # where no probability is near 0 or 1

    def cost(weights: Floats) -> float:
        margins = np.where(truth, 1.0, -1.0) * (rows @ weights)
        return float(np.logaddexp(0, -margins).sum() + (penalty * (weights - centre) ** 2).sum() / 2)

    for _ in range(MOST_STEPS):
        shares = expit(rows @ found)
        slope = rows.T @ (shares - truth) + penalty * (found - centre)
        curvature = (rows * (shares * (1 - shares))[:, None]).T @ rows + np.diag(penalty + 1e-10)
        step = np.linalg.solve(curvature, slope)
        if (gain := float(slope @ step) / 2) < ENOUGH:
            break
        size, now = 1.0, cost(found)
        while cost(found - size * step) > now - 0.1 * size * gain and size > 1e-6:
            size /= 2
        found = found - size * step
    return Logistic(found[:-1], float(found[-1]))
