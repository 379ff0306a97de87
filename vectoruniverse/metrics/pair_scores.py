"""How alike the two rows of a pair are, and how much of a row's whole similarity its own partner holds.

Shapes: N pairs, D width of unit rows. W = max(0, first · secondᵀ) is the clipped cosine matrix (N, N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.metrics.similarity import STRIPE, check_unit_rows, similarity_stripes


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of each pair, all (N,) float64.

    Attributes:
        cosine: cos(first_i, second_i), -1 to 1, as it is.
        row: W_ii / Σ_j W_ij, 0 to 1: the share of the first row's similarity that its partner holds.
        column: W_ii / Σ_j W_ji, 0 to 1: the same for the second row.
        empty_rows: how many rows have no positive cosine at all; Σ_j W_ij is 0 and their score is set to 0.
        empty_columns: how many columns have none.
    """

    cosine: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    empty_rows: int
    empty_columns: int

    @property
    def chance(self) -> float:
        """Mean row and column score where every cosine is the same positive number: 1/N."""
        return 1.0 / len(self.cosine)

    def per_pair(self) -> dict[str, NDArray[np.float64]]:
        """What the means of `metrics` are means of."""
        return {
            "pair_cosine": self.cosine,
            "pair_cosine_clipped": self.cosine.clip(min=0.0),
            "row_uniformity": self.row,
            "column_uniformity": self.column,
        }

    def metrics(self) -> dict[str, float]:
        """The means over pairs, the chance level of both uniformities, and how many sums were empty."""
        return {
            **{name: float(values.mean()) for name, values in self.per_pair().items()},
            "uniformity_chance": self.chance,
            "empty_rows": float(self.empty_rows),
            "empty_columns": float(self.empty_columns),
        }


def pair_scores(first: Tensor, second: Tensor, *, stripe: int = STRIPE) -> PairScores:
    """Score each pair by itself and against all other pairs.

    ``row`` and ``column`` are a plain ratio of cosines and not a softmax, so they are small even for good encoders:
    with unrelated texts at a cosine of 0.3 and partners at 0.9, a pair of a thousand gets about 3/1000. They fall when
    everything lies in one narrow cone, which the pair's own cosine does not show. They are not the uniformity of Wang &
    Isola, which is ``vectoruniverse.metrics.geometry.uniformity``.

    Args:
        first: unit rows (N, D).
        second: unit rows (N, D); row i is the partner of row i of the first.
        stripe: similarities held at once; W is never held as a whole. O(N²·D) time.

    Raises:
        DivergedError: rows that are not finite.
        ValueError: rows that are not of norm 1, or different shapes.
    """
    check_unit_rows(first=first, second=second)
    if first.shape != second.shape:
        raise ValueError(f"first and second must hold the same pairs, got {len(first)} and {len(second)} rows")
    cosine, row_sum = torch.empty(len(first), dtype=torch.float64), torch.empty(len(first), dtype=torch.float64)
    column_sum = torch.zeros(len(first), dtype=torch.float64)
    for rows, similarity in similarity_stripes(first, second, stripe=stripe):
        cosine[rows] = similarity.diagonal(rows.start).cpu().double()
        similarity.clamp_(min=0)
        row_sum[rows] = similarity.sum(dim=1).cpu().double()
        column_sum += similarity.sum(dim=0).cpu()
    own = cosine.clamp(min=0)
    return PairScores(
        cosine.numpy(),
        _share(own, row_sum),
        _share(own, column_sum),
        empty_rows=int((row_sum == 0).sum()),
        empty_columns=int((column_sum == 0).sum()),
    )


def _share(own: Tensor, total: Tensor) -> NDArray[np.float64]:
    """Own / total (N,), and 0 where the total is 0: a row that is like nothing is not like its partner."""
    shares: NDArray[np.float64] = torch.where(total > 0, own / total, 0.0).numpy()
    return shares
