"""The shape of the embedding space: alignment, uniformity, anisotropy, the modality gap, and the directions in use.

Shapes: N rows, E width, K = min(N, E) eigenvalues.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vectoruniverse.errors import DivergedError
from vectoruniverse.metrics.similarity import STRIPE, check_unit_rows


def geometry(image: Tensor, text: Tensor, names: tuple[str, str] = ("image", "text")) -> dict[str, float]:
    """Describe the embeddings of pictures and their texts, or of whatever else belongs together in pairs.

    Args:
        image: unit rows (N, E), N ≥ 2.
        text: unit rows (N, E); row i belongs to picture i.
        names: of the two.

    Returns:
        - ``alignment``: mean ||x_i - y_i||² of pairs, 0 to 4, lower is closer (Wang & Isola, arXiv:2005.10242, α = 2);
        - ``modality_gap``: ||mean of images - mean of texts||, 0 to 2 (Liang et al., arXiv:2203.02053);
        - ``effective_rank``, ``largest_eigenvalue_share``: of both modalities stacked;
        - of each modality, as ``image/...`` and ``text/...``: ``uniformity``; ``mean_cosine`` of different rows,
          -1/(N-1) to 1, high is anisotropic; ``mean_norm``, length of the mean row, 0 to 1; ``effective_rank`` and
          ``largest_eigenvalue_share``.

        Uniformity takes a matrix product of N² / 2 cosines for each modality, everything else O(N·E²).

    Raises:
        ValueError: rows that are not finite or not of norm 1, different shapes, or fewer than two rows.
    """
    check_unit_rows(image=image, text=text)
    if image.shape != text.shape or len(image) < 2:
        raise ValueError(f"image and text need the same 2 rows or more, got {len(image)} and {len(text)}")
    metrics = {
        "alignment": float((image.double() - text.double()).square().sum(dim=1).mean()),
        "modality_gap": float((_mean(image) - _mean(text)).norm()),
        **_spectrum_summary(torch.cat([image, text])),
    }
    for modality, rows in zip(names, (image, text), strict=True):
        part = {
            "uniformity": uniformity(rows),
            "mean_cosine": mean_cosine(rows),
            "mean_norm": float(_mean(rows).norm()),
            **_spectrum_summary(rows),
        }
        metrics |= {f"{modality}/{name}": value for name, value in part.items()}
    return metrics


def uniformity(rows: Tensor, *, stripe: int = STRIPE) -> float:
    """Log of the mean of exp(-2 ||x - y||²) over all pairs of different rows: -8 to 0, lower is more uniform.

    Wang & Isola, arXiv:2005.10242, t = 2. Exact, on stripes of the upper triangle; O(N²·E) time.

    Args:
        rows: unit rows (N, E), N ≥ 2.
        stripe: similarities held at once.
    """
    height = max(1, stripe // len(rows))
    total = 0.0
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        for start in range(0, len(rows), height):
            cosine = rows[start : start + height].float() @ rows[start:].float().T
            # ||x - y||² = 2 - 2 x·y for unit rows
            potential = cosine.sub_(1).mul_(4).exp_().triu_(diagonal=1)
            total += float(potential.sum(dim=1).double().sum())
    return math.log(total / (len(rows) * (len(rows) - 1) / 2))


def mean_cosine(rows: Tensor) -> float:
    """Mean cosine of different rows, (||Σx||² - Σ||x||²) / (N (N-1)): O(N·E) time.

    Args:
        rows: unit rows (N, E), N ≥ 2.
    """
    wide = rows.detach().double()
    return float((wide.sum(dim=0).square().sum() - wide.square().sum()) / (len(rows) * (len(rows) - 1)))


def spectrum(rows: Tensor) -> Tensor:
    """Eigenvalues of the uncentred second moment XᵀX / N, as shares of their sum (float64, on the CPU).

    They are the squared singular values of X, and the eigenvalues of the Gram matrix XXᵀ; the smaller matrix is used.

    Args:
        rows: (N, E).

    Returns:
        (K,), descending, sum 1.

    Raises:
        DivergedError: rows that are not finite.
        ValueError: rows that are all zero.
    """
    matrix = rows if rows.shape[0] > rows.shape[1] else rows.T
    width = matrix.shape[1]
    moment = torch.zeros(width, width, dtype=torch.float64)
    for block in torch.split(matrix.detach(), 8192):  # a copy of all rows in float64 would take twice their memory
        wide = block.to("cpu", torch.float64)
        moment.addmm_(wide.T, wide)
    trace = float(moment.trace())
    if not math.isfinite(trace):
        raise DivergedError("embeddings are not finite numbers", remedy="lower the learning rate, or train in fp32")
    if trace == 0:
        raise ValueError("all embeddings are zero, so they have no spectrum")
    eigenvalues: Tensor = torch.linalg.eigvalsh(moment)  # ascending
    return eigenvalues.flip(0).clamp(min=0) / trace


def effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the spectrum: the number of directions in use, from 1 to min(N, E).

    Rows that are all zero use none: 0.

    Roy & Vetterli (2007) take the singular values; here their squares are taken, the shares of the variance.

    Args:
        rows: (N, E).

    Raises:
        DivergedError: rows that are not finite.
    """
    if not bool(rows.any()):
        return 0.0
    return _effective_rank(spectrum(rows))


def _effective_rank(shares: Tensor) -> float:
    return float(torch.special.entr(shares).sum().exp())


def _spectrum_summary(rows: Tensor) -> dict[str, float]:
    shares = spectrum(rows)
    return {"effective_rank": _effective_rank(shares), "largest_eigenvalue_share": float(shares[0])}


def _mean(rows: Tensor) -> Tensor:
    return rows.detach().double().mean(dim=0)
