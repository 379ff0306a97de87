"""What training minimises: functions of embeddings that return a scalar and its named parts.

Shapes: B rows of a batch (N in the formulas), E width of the shared embedding. A loss takes its embeddings as *views*,
a mapping ``{"I": (B, E), "T": (B, E), "I+": (B, E), "T+": (B, E)}`` of L2-normalised fp32 rows: pictures, texts, and a
second view of each. Row i of every view describes example i. Where nothing was random, two keys may hold the same
tensor object; a pair that is the same twice is then computed once.

A *pair kind* names two views: ``"IT"``, ``"I+T"``, ``"II+"``, ``"TT"``, ...
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

Views = Mapping[str, Tensor]

ALIGNMENT_PAIRS = ("II+", "IT", "I+T+", "TT+")
LINEAR_ANISOTROPY_PAIRS = ("II", "T+T+", "IT", "I+T+")
LOG_SUM_EXP_ANISOTROPY_PAIRS = ("IT", "I+T+", "II+", "TT+")

_PAIR_KINDS = {a + b: (a, b) for a in ("I", "I+", "T", "T+") for b in ("I", "I+", "T", "T+")}


@dataclass(frozen=True)
class LossValue:
    """A loss and what it is made of.

    Attributes:
        total: the scalar to minimise.
        parts: its named scalars, detached, for people.
        chance: what it is when all rows look alike, so that nothing tells them apart; None where that depends on
            settings and not on the number of rows alone.
    """

    total: Tensor
    parts: dict[str, Tensor]
    chance: float | None = None


ViewLoss = Callable[[Views], LossValue]
"""A loss with all its settings made."""


def alignment_anisotropy(
    views: Views,
    *,
    form: Literal["linear", "log_sum_exp"],
    temperature: float,
    alignment_pairs: Sequence[str] = ALIGNMENT_PAIRS,
    anisotropy_pairs: Sequence[str] | None = None,
    alignment_weight: float = 1.0,
    anisotropy_weight: float = 1.0,
    symmetric: bool = False,
) -> LossValue:
    r"""Pull the views of a row together and push different rows apart, after SimCSE (arXiv:2104.08821).

    With a, b the two views of a pair kind and τ the temperature, row i contributes::

        alignment_i                = -(1/τ) Σ_pairs a_i·b_i
        anisotropy_i (log_sum_exp) = Σ_pairs log Σ_{j≠i} exp(a_i·b_j / τ)
        anisotropy_i (linear)      = (1/N) Σ_{j≠i} Σ_pairs a_i·b_j        (not divided by τ)

    and each part is the mean of its rows. The linear form takes O(N·E) time and memory. It is minimal, too, when the
    rows sit on two opposite points, at effective rank 1; the log-sum-exp form is not.

    Args:
        views: unit rows (B, E) by view; B ≥ 2.
        form: which anisotropy.
        temperature: τ > 0.
        alignment_pairs: pair kinds of the alignment.
        anisotropy_pairs: pair kinds of the anisotropy; None takes the form's own
            (`LINEAR_ANISOTROPY_PAIRS`, `LOG_SUM_EXP_ANISOTROPY_PAIRS`).
        alignment_weight: factor on the alignment in the total.
        anisotropy_weight: factor on the anisotropy in the total.
        symmetric: log_sum_exp: average the sum over j of a_i·b_j and of a_j·b_i. The linear form is the same both ways.

    Returns:
        The total and the parts ``alignment`` and ``anisotropy``, before their weights.

    Raises:
        ValueError: fewer than two rows, an unknown pair kind, or a view that a pair needs and nobody gave.
    """
    _check_rows(views)
    if anisotropy_pairs is None:
        anisotropy_pairs = LINEAR_ANISOTROPY_PAIRS if form == "linear" else LOG_SUM_EXP_ANISOTROPY_PAIRS
    alignment = -_sum_over_pairs(views, alignment_pairs, _mean_cosine) / temperature
    if form == "linear":
        anisotropy = _sum_over_pairs(views, anisotropy_pairs, _linear_anisotropy)
    else:
        anisotropy = _sum_over_pairs(
            views, anisotropy_pairs, lambda a, b: _log_sum_exp_anisotropy(a, b, temperature, symmetric=symmetric)
        )
    chance = None
    if form == "log_sum_exp" and alignment_weight * len(alignment_pairs) == anisotropy_weight * len(anisotropy_pairs):
        # with every cosine c, the two parts are -K c/τ and K (c/τ + ln(B - 1))
        chance = anisotropy_weight * len(anisotropy_pairs) * math.log(_rows(views) - 1)
    return LossValue(
        total=alignment_weight * alignment + anisotropy_weight * anisotropy,
        parts={"alignment": alignment.detach(), "anisotropy": anisotropy.detach()},
        chance=chance,
    )


def info_nce(views: Views, *, logit_scale: Tensor | float, pairs: Sequence[str] = ("IT",)) -> LossValue:
    r"""Symmetric cross-entropy of each row against the batch, the loss of CLIP (arXiv:2103.00020).

    With S = logit_scale · a bᵀ for a pair kind (a, b)::

        loss = -(1/2N) Σ_i [ log softmax_j(S_ij)_{j=i} + log softmax_j(S_ji)_{j=i} ],   averaged over the pair kinds

    Args:
        views: unit rows (B, E) by view; B ≥ 2.
        logit_scale: multiplies the cosines (1 / temperature); a tensor may be trained.
        pairs: pair kinds of two different views.

    Returns:
        The mean over the pair kinds, and one part per pair kind, named as the kind.

    Raises:
        ValueError: fewer than two rows, an unknown pair kind, a pair of a view with itself, or a missing view.
    """
    _check_rows(views)
    if selves := [kind for kind in pairs if len(set(_PAIR_KINDS.get(kind, ()))) == 1]:
        raise ValueError(f"pair kind {selves[0]} contrasts a view with itself: every row is its own best match")
    losses: dict[str, Tensor] = {}
    for kind in pairs:
        a, b = _views_of(views, kind)
        logits = logit_scale * _cosines(a, b)  # (B, B)
        diagonal = torch.arange(len(logits), device=logits.device)
        losses[kind] = (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
    total = torch.stack([losses[kind] for kind in pairs]).mean()
    return LossValue(total, {kind: loss.detach() for kind, loss in losses.items()}, chance=math.log(_rows(views)))


def siglip(views: Views, *, logit_scale: Tensor | float, logit_bias: Tensor | float) -> LossValue:
    r"""Each picture against each text, yes or no: the pairwise sigmoid loss of SigLIP (arXiv:2303.15343).

    With x the pictures "I", y the texts "T", and z_ij = 1 for i = j, else -1::

        loss = -(1/N) Σ_ij log sigmoid(z_ij (logit_scale · x_i·y_j + logit_bias))

    Args:
        views: unit rows (B, E) with the keys "I" and "T"; B ≥ 2.
        logit_scale: multiplies the cosines; a tensor may be trained.
        logit_bias: added to the logits; a tensor may be trained.

    Returns:
        The loss and its two summands: ``positive`` (i = j) and ``negative`` (i ≠ j).

    Raises:
        ValueError: fewer than two rows, or a missing view.
    """
    _check_rows(views)
    logits = logit_scale * _cosines(*_views_of(views, "IT")) + logit_bias  # (B, B)
    positive = -logsigmoid(logits.diagonal()).mean()
    negative = -logsigmoid(-logits.masked_fill(_diagonal(logits), -torch.inf)).sum() / len(logits)
    return LossValue(total=positive + negative, parts={"positive": positive.detach(), "negative": negative.detach()})


def _mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """(1/N) Σ_i a_i·b_i of unit rows (B, E)."""
    return (a * b).sum(dim=1).mean()


def _linear_anisotropy(a: Tensor, b: Tensor) -> Tensor:
    """(1/N²) Σ_i Σ_{j≠i} a_i·b_j of rows (B, E), as ((Σa)·(Σb) - Σ a_i·b_i) / N²: no (B, B) matrix is made."""
    return ((a.sum(dim=0) * b.sum(dim=0)).sum() - (a * b).sum()) / len(a) ** 2


def _log_sum_exp_anisotropy(a: Tensor, b: Tensor, temperature: float, *, symmetric: bool) -> Tensor:
    """(1/N) Σ_i log Σ_{j≠i} exp(a_i·b_j / τ) of unit rows (B, E)."""
    logits = _cosines(a, b) / temperature  # (B, B)
    logits = logits.masked_fill(_diagonal(logits), -torch.inf)
    rows = logits.logsumexp(dim=1).mean()
    return (rows + logits.logsumexp(dim=0).mean()) / 2 if symmetric else rows


def _sum_over_pairs(views: Views, kinds: Sequence[str], part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Σ of ``part(a, b)`` over the pair kinds; kinds that name the same two tensors are computed once."""
    pairs = [_views_of(views, kind) for kind in kinds]
    times = Counter((id(a), id(b)) for a, b in pairs)
    distinct = {(id(a), id(b)): (a, b) for a, b in pairs}
    return torch.stack([times[key] * part(a, b) for key, (a, b) in distinct.items()]).sum()


def _views_of(views: Views, kind: str) -> tuple[Tensor, Tensor]:
    """The two views that a pair kind names."""
    if kind not in _PAIR_KINDS:
        raise ValueError(f"unknown pair kind {kind!r}: name two of I, I+, T, T+, such as 'I+T'")
    for view in _PAIR_KINDS[kind]:
        if view not in views:
            raise ValueError(f"pair kind {kind!r} needs the view {view!r}, but only {', '.join(views)} are given")
    first, second = _PAIR_KINDS[kind]
    return views[first], views[second]


def _rows(views: Views) -> int:
    return len(next(iter(views.values())))


def _check_rows(views: Views) -> None:
    """Refuse views of different shapes, and a batch without negatives."""
    shapes = {tuple(rows.shape) for rows in views.values()}
    if len(shapes) > 1:
        raise ValueError(f"views must have one shape, got {', '.join(map(str, sorted(shapes)))}")
    if not shapes or next(iter(shapes))[0] < 2:
        raise ValueError("a contrastive loss needs at least 2 rows in a batch: the other rows are the negatives")


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """All cosines (B, B) of unit rows, in the rows' own precision: under autocast they would lose all but 8 bits."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def _diagonal(matrix: Tensor) -> Tensor:
    """Mask (B, B) of the diagonal."""
    return torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
