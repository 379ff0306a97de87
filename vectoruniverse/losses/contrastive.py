"""What training minimises: functions of embeddings that return a scalar and its named parts.

Shapes: B rows of a batch (N in the formulas), E width of the shared embedding. A loss takes its embeddings as *views*,
a mapping ``{"I": (B, E), "T": (B, E), "I+": (B, E), "T+": (B, E)}`` of L2-normalised fp32 rows: pictures, texts, and a
second view of each. Row i of every view describes example i. Where nothing was random, two keys may hold the same
tensor object; a pair that is the same twice is then computed once.

On several processes views hold a process's own rows, (b, E), the relations tell of all rows, and a loss is that
process's share: the sum of the shares is the loss of the batch. Own rows meet those of all, so that nobody holds all
of (B, B).

A *pair kind* names two views: ``"IT"``, ``"I+T"``, ``"II+"``, ``"TT"``, ... Which rows of a batch are
negatives and positives of each other, and with which weights w and q, is told by ``losses.negatives.Relations``;
without it all other rows are negatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vectoruniverse.data.transfer import send
from vectoruniverse.losses.blocks import Masked, log_sum_exps, sum_of_parts
from vectoruniverse.losses.negatives import Relations
from vectoruniverse.processes import count, gathered

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
        chance: what it is when all rows look alike, so that nothing tells them apart; a 0-d tensor where a part of it
            is on the device, and then this process's share as the others are; None where that depends on settings and
            not on the rows alone.
    """

    total: Tensor
    parts: dict[str, Tensor]
    chance: Tensor | float | None = None


def summed(losses: Sequence[LossValue]) -> LossValue:
    """Losses that are minimised together, with all their parts; its chance is known where that of each is."""
    chances = [loss.chance for loss in losses]
    parts = count() if any(isinstance(chance, Tensor) for chance in chances) else 1
    known = [chance if isinstance(chance, Tensor) else chance / parts for chance in chances if chance is not None]
    return LossValue(
        torch.stack([loss.total for loss in losses]).sum(),
        {name: part for loss in losses for name, part in loss.parts.items()},
        sum(known) if len(known) == len(chances) else None,
    )


ViewLoss = Callable[[Views, Relations], LossValue]
"""A loss with all its settings made."""


def alignment_anisotropy(
    views: Views,
    relations: Relations | None = None,
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
        anisotropy_i (log_sum_exp) = Σ_pairs log Σ_{j≠i} w_ij exp(a_i·b_j / τ)      (0 for a row without negatives)
        anisotropy_i (linear)      = (1/N) Σ_{j≠i} w_ij Σ_pairs a_i·b_j             (not divided by τ)

    and each part is the mean of its rows. The linear form takes O(N·E) memory, and time where rows are of few kinds
    (``Relations.sum_of_negatives``). It is minimal, too, when the rows sit on two opposite points, at effective rank 1;
    the log-sum-exp form is not. Only the views of one row are drawn together: q is not used.

    Args:
        views: unit rows (B, E) by view; B ≥ 2.
        relations: of the rows.
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
    relations = _checked(views, relations)
    if anisotropy_pairs is None:
        anisotropy_pairs = LINEAR_ANISOTROPY_PAIRS if form == "linear" else LOG_SUM_EXP_ANISOTROPY_PAIRS
    alignment = -_sum_over_pairs(views, alignment_pairs, _cosine) / (relations.rows * temperature)
    chance = None
    if form == "linear":
        anisotropy = _sum_over_pairs(views, anisotropy_pairs, relations.sum_of_negatives) / relations.rows**2
    else:
        everybody = _Everybody(relations)
        anisotropy = _sum_over_pairs(
            views,
            anisotropy_pairs,
            lambda a, b: _log_sum_exp_anisotropy(a, b, everybody, temperature, symmetric=symmetric),
        )
        if alignment_weight * len(alignment_pairs) == anisotropy_weight * len(anisotropy_pairs):
            # with every cosine c, the two parts are -K c/τ and K (c/τ + mean ln Σ_j w_ij)
            mass, _ = relations.masses
            chance = anisotropy_weight * len(anisotropy_pairs) * float(np.log(mass).mean()) if mass.all() else None
    return LossValue(
        total=alignment_weight * alignment + anisotropy_weight * anisotropy,
        parts={"alignment": alignment.detach(), "anisotropy": anisotropy.detach()},
        chance=chance,
    )


def info_nce(
    views: Views,
    relations: Relations | None = None,
    *,
    logit_scale: Tensor | float,
    pairs: Sequence[str] = ("IT",),
) -> LossValue:
    r"""Symmetric cross-entropy of each row against the batch, the loss of CLIP (arXiv:2103.00020).

    With S = logit_scale · a bᵀ for a pair kind (a, b), and the softmax over the rows j that are negatives or positives
    of i (w_ij + q_ij > 0)::

        t_ij = q_ij / Σ_k q_ik                       (1 for j = i, where a row has no other positive)
        loss = -(1/2N) Σ_ij t_ij [ log softmax_j(S_ij) + log softmax_j(S_ji) ],   averaged over the pair kinds

    Rows with several positives are those of UniCL (arXiv:2204.03610) and SupCon (arXiv:2004.11362, its L_out).

    Args:
        views: unit rows (B, E) by view; B ≥ 2.
        relations: of the rows.
        logit_scale: multiplies the cosines (1 / temperature); a tensor may be trained.
        pairs: pair kinds of two different views.

    Returns:
        The mean over the pair kinds, and one part per pair kind, named as the kind.

    Raises:
        ValueError: fewer than two rows, an unknown pair kind, a pair of a view with itself, or a missing view.
    """
    relations = _checked(views, relations)
    if selves := [kind for kind in pairs if len(set(_PAIR_KINDS.get(kind, ()))) == 1]:
        raise ValueError(f"pair kind {selves[0]} contrasts a view with itself: every row is its own best match")

    def masked(logits: Tensor, rows: slice) -> Tensor:
        if relations.all_negatives:
            return logits
        negative, positive = relations.weights(logits, rows)
        return logits.masked_fill(negative + positive == 0.0, -torch.inf)

    everybody, losses = _Everybody(relations), dict[str, Tensor]()
    for kind in pairs:
        a, b = _views_of(views, kind)
        masses = everybody.log_sum_exps(a, b, logit_scale, masked, both_ways=True) / 2
        losses[kind] = (masses - relations.mean_of_positives(logit_scale * a, b)) / relations.rows
    total = torch.stack([losses[kind] for kind in pairs]).mean()
    chance = float(np.log(sum(relations.masses)).mean())  # w_ij + q_ij is 1 for each j of the softmax, else 0
    return LossValue(total, {kind: loss.detach() for kind, loss in losses.items()}, chance)


def siglip(
    views: Views,
    relations: Relations | None = None,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
) -> LossValue:
    r"""Each picture against each text, yes or no: the pairwise sigmoid loss of SigLIP (arXiv:2303.15343).

    With x the pictures "I", y the texts "T", and S_ij = logit_scale · x_i·y_j + logit_bias::

        loss = -(1/N) Σ_ij [ q_ij log sigmoid(S_ij) + w_ij log sigmoid(-S_ij) ]

    which is the paper's, yes for i = j and else no, where all other rows are negatives.

    Args:
        views: unit rows (B, E) with the keys "I" and "T"; B ≥ 2.
        relations: of the rows.
        logit_scale: multiplies the cosines; a tensor may be trained.
        logit_bias: added to the logits; a tensor may be trained.

    Returns:
        The loss and its two summands: ``positive`` (of q) and ``negative`` (of w).

    Raises:
        ValueError: fewer than two rows, or a missing view.
    """
    relations = _checked(views, relations)
    a, b = _views_of(views, "IT")

    def part(logits: Tensor, rows: slice, bias: Tensor) -> Tensor:
        logits = logits + bias
        negative, positive = relations.weights(logits, rows)
        return -torch.stack([(positive * logsigmoid(logits)).sum(), (negative * logsigmoid(-logits)).sum()])

    bias = torch.as_tensor(logit_bias, dtype=a.dtype, device=a.device)
    both = sum_of_parts(part, logit_scale * a, _Everybody(relations).of(b), bias) / relations.rows
    positive, negative = both.detach()
    return LossValue(both.sum(), {"positive": positive, "negative": negative})


class _Everybody:
    """The rows of all processes that own rows meet; each view is gathered once."""

    def __init__(self, relations: Relations) -> None:
        self.relations = relations
        self._held: dict[int, tuple[Tensor, Tensor]] = {}  # with the view itself, whose id nothing else has meanwhile

    def of(self, view: Tensor) -> Tensor:
        """The view of all rows (B, E)."""
        if id(view) not in self._held:
            self._held[id(view)] = view, gathered(view, self.relations.rows)
        return self._held[id(view)][1]

    def log_sum_exps(self, a: Tensor, b: Tensor, scale: Tensor | float, masked: Masked, *, both_ways: bool) -> Tensor:
        """Σ_i log Σ_j exp(scale · s_ij) of own rows i and all rows j of a pair of views; its columns likewise."""
        if count() == 1:
            return log_sum_exps(scale * a, b, masked, both_ways=both_ways)
        rows = log_sum_exps(scale * a, self.of(b), masked, both_ways=False)
        return rows + log_sum_exps(scale * b, self.of(a), masked, both_ways=False) if both_ways else rows


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Σ_i a_i·b_i of unit rows (b, E)."""
    return (a * b).sum(dim=1).sum()


def _log_sum_exp_anisotropy(
    a: Tensor, b: Tensor, everybody: _Everybody, temperature: float, *, symmetric: bool
) -> Tensor:
    """(1/N) Σ_i log Σ_j w_ij exp(a_i·b_j / τ) of unit rows (b, E); of rows and of columns where symmetric."""
    relations = everybody.relations
    first = relations.own.start
    # the log of an empty sum is -∞ and its gradient NaN: a row without negatives stands in itself, and is left out then
    lonely = None if relations.all_negatives else torch.from_numpy(relations.masses[0] == 0.0)
    alone = None if lonely is None else send(lonely[relations.own], a.device)

    def masked(logits: Tensor, rows: slice) -> Tensor:
        if alone is None:
            itself = torch.zeros_like(logits, dtype=torch.bool)
            itself.diagonal(first + rows.start).fill_(True)
            return logits.masked_fill(itself, -torch.inf)
        weights, _ = relations.weights(logits, rows)
        weights.diagonal(first + rows.start).copy_(alone[rows])
        return logits + weights.log()

    total = everybody.log_sum_exps(a, b, 1.0 / temperature, masked, both_ways=symmetric)
    if alone is not None:
        total = total - (1 + symmetric) / temperature * ((a * b).sum(dim=1) * alone).sum()
    return total / (1 + symmetric) / relations.rows


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


def _checked(views: Views, relations: Relations | None) -> Relations:
    """The relations of the rows; refuses views of different shapes, and a batch without other rows."""
    shapes = {tuple(rows.shape) for rows in views.values()}
    if len(shapes) > 1:
        raise ValueError(f"views must have one shape, got {', '.join(map(str, sorted(shapes)))}")
    rows = next(iter(shapes))[0] if shapes else 0
    relations = relations or Relations.strangers(rows)
    if not shapes or relations.rows < 2:
        raise ValueError("a contrastive loss needs at least 2 rows in a batch: the other rows are the negatives")
    if rows != relations.own.stop - relations.own.start:
        raise ValueError(f"views have {rows} rows, and the relations tell of {relations.rows}")
    return relations
