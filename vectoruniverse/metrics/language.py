"""Numbers about predicted tokens: perplexity, and what mere counting would reach.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def perplexity(loss: float) -> float:
    """Among how many equally likely tokens a model hesitates: exp of its mean cross-entropy in nats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def unigram_log_probabilities(tokens: NDArray[np.integer], possible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Logarithm of each token's share of a corpus, (V,), with one added to every count (Laplace).

    log p(v) = log((count(v) + 1) / Σ_w (count(w) + 1)) over the possible tokens v, w; −inf for the others.

    Args:
        tokens: the corpus.
        possible: (V,) whether a token can be a target; others are not counted.
    """
    counts = np.where(possible, np.bincount(tokens, minlength=len(possible)) + 1.0, 0.0)
    with np.errstate(divide="ignore"):
        logarithms: NDArray[np.float64] = np.log(counts / counts.sum())
    return logarithms


def rows_of_ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value per row whose mean is Σ sums / Σ sizes, so that ``mean_interval`` gives the interval of that ratio.

    With m = Σ s / Σ n, row i gives ``m + (s_i − m·n_i) / mean(n)``: the linearised ratio estimator (Cochran, Sampling
    Techniques, 6.3). Rows of different sizes then weigh as they do in the metric, which the mean of their own ratios
    would not; a single row's value is no metric of that row.

    Args:
        sums: what each row adds to the numerator (N,), such as the losses of its tokens.
        sizes: what it adds to the denominator (N,), such as their number; not all 0.
    """
    ratio = sums.sum() / sizes.sum()
    rows: NDArray[np.float64] = ratio + (sums - ratio * sizes) / sizes.mean()
    return rows
