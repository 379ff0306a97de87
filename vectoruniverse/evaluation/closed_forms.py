"""Linear algebra of the rivals that cost nothing: ridge regression, canonical correlations, Tip-Adapter's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vectoruniverse.metrics.similarity import STRIPE

LOGIT_SCALE = 100.0
"""Tip-Adapter's factor on the cosines of pictures and label texts, CLIP's own."""


TINY = torch.finfo(torch.float64).tiny


def ridge(x: Tensor, y: Tensor, strengths: Sequence[float]) -> list[Tensor]:
    """W (E, F) that minimises ‖XW - Y‖² + λ‖W‖², for each strength; one decomposition for all.

    Args:
        x: centred rows (N, E) float64.
        y: centred rows (N, F) float64.
        strengths: λ as a multiple of the mean eigenvalue of XᵀX.
    """
    values, vectors = _spectrum(x)
    projected = vectors.T @ (x.T @ y)
    return [vectors @ (projected / _penalised(values, strength)[:, None]) for strength in strengths]


def canonical(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directions of both sides whose coordinates correlate most (Hotelling, 1936), both covariances with a penalty.

    With S_xx = XᵀX + λI and S_yy alike: U diag(ρ) Vᵀ = S_xx^(-1/2) XᵀY S_yy^(-1/2).

    Args:
        x: centred rows (N, E) float64.
        y: centred rows (N, F) float64.
        strength: λ as a multiple of the mean eigenvalue of either side's own Gram matrix.

    Returns:
        Directions S_xx^(-1/2) U (E, K) and S_yy^(-1/2) V (F, K) as columns, and the correlations ρ (K,), descending.
    """
    whitening = []
    for rows in (x, y):
        values, vectors = _spectrum(rows)
        whitening.append(vectors / _penalised(values, strength).sqrt() @ vectors.T)
    left, right = whitening
    u, correlations, v = torch.linalg.svd(left @ (x.T @ y) @ right, full_matrices=False)
    return left @ u, right @ v.T, correlations


def cache_scores(
    image: Tensor, cached: Tensor, labels: Tensor, label_text: Tensor, alpha: float, beta: float
) -> Tensor:
    """Tip-Adapter without training (arXiv:2111.03930): 100 f·Wᵀ + α exp(-β (1 - f·Fᵀ)) L.

    Args:
        image: unit rows f (M, E).
        cached: unit rows F (N, E) of the training pictures.
        labels: their labels L (N, C), 1 or 0.
        label_text: unit rows W (C, E).
        alpha: weight of the cache.
        beta: how fast a training picture counts less as it is farther away.

    Returns:
        Score of each label, (M, C).
    """
    parts = torch.split(image, max(1, STRIPE // len(cached)))
    found = torch.cat([(beta * (part @ cached.T - 1)).exp() @ labels for part in parts])
    return LOGIT_SCALE * image @ label_text.T + alpha * found


def _spectrum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, none below 0, and eigenvectors of the Gram matrix of rows (N, E)."""
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    return values.clamp(min=0), vectors


def _penalised(values: Tensor, strength: float) -> Tensor:
    """Eigenvalues plus the penalty; not 0 even where all rows are equal."""
    return (values + strength * values.mean()).clamp(min=TINY)
