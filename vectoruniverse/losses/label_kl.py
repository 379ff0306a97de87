"""How far rows are from their labels: KL divergence between what a kernel makes of the labels and what the rows have.

Shapes: V views, B rows of a batch, C labels, E width of the shared embedding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from vectoruniverse.data.transfer import send
from vectoruniverse.losses.blocks import cosines
from vectoruniverse.losses.contrastive import LossValue
from vectoruniverse.processes import own


def label_kl(
    fused: Tensor,
    labels: Tensor,
    has: Tensor,
    *,
    weight: float,
    kernel: Literal["dot", "rbf"],
    bandwidth: float | None,
    temperature: float,
    direction: Literal["forward", "reverse"],
    smoothing: float,
) -> LossValue:
    r"""KL divergence between a row's own labels and those that its fused vector is like.

    With x_i = X_i / ‖X_i‖ of the fused vector X_i, y_c the vector of a label's text, L_i the labels of row i, and
    τ, ε, σ temperature, smoothing and bandwidth::

        k_ic = ψ(X_i)ᵀφ(y_c) = x_i·y_c (dot)   or   exp(-‖x_i - y_c‖² / 2σ²) (rbf)
        p_ic = softmax_c(k_ic / τ)
        q_ic = (1 - ε) [c ∈ L_i] / |L_i| + ε / C
        loss = mean over views and rows with labels of KL(q_i‖p_i) = Σ_c q_ic log(q_ic / p_ic), or of KL(p_i‖q_i)

    The softmax is of the rbf kernel and not of its logarithm, -‖x - y‖² / 2σ², which for unit vectors differs from the
    dot product by a factor and a constant and would be the same loss.

    Args:
        fused: X, (V, B, E); on several processes its own rows, and the value is its share.
        labels: y, unit rows (C, E), C ≥ 1.
        has: which row of all has which label, (B, C) bool on the CPU; rows without any contribute nothing.
        weight: factor on the divergence in the total.
        kernel: k.
        bandwidth: σ; None is 1.
        temperature: τ.
        direction: ``forward`` is KL(q‖p), ``reverse`` KL(p‖q).
        smoothing: ε, in (0, 1) for ``reverse``, in [0, 1) otherwise.

    Returns:
        The total, and the part ``label_kl`` before its weight; chance is what a uniform p has.
    """
    likeness = cosines(normalize(fused, dim=-1), labels)
    if kernel == "rbf":
        likeness = ((likeness - 1.0) / (bandwidth or 1.0) ** 2).exp()  # ‖x - y‖² = 2 - 2 x·y
    theirs, mine = has.to(likeness.dtype), own(len(has))
    q = (1.0 - smoothing) * theirs / theirs.sum(dim=1, keepdim=True).clamp(min=1.0) + smoothing / has.shape[1]
    labelled = has.any(dim=1)
    rows = max(1, int(labelled.sum()))
    found = _divergence(log_softmax(likeness / temperature, dim=-1), q[mine], labelled[mine], direction) / rows
    uniform = torch.full((1, *q.shape), -math.log(has.shape[1]), dtype=q.dtype)
    chance = float(_divergence(uniform, q, labelled, direction)) / rows
    return LossValue(weight * found, {"label_kl": found.detach()}, weight * chance)


def _divergence(log_p: Tensor, q: Tensor, labelled: Tensor, direction: Literal["forward", "reverse"]) -> Tensor:
    """Mean over views, sum over labelled rows (B,) of KL(q‖p) or KL(p‖q); log p (V, B, C), and q (B, C) on the CPU."""
    q, unlabelled = send(q, log_p.device), send(~labelled, log_p.device)
    each = torch.xlogy(q, q) - q * log_p if direction == "forward" else log_p.exp() * (log_p - q.log())
    return each.sum(dim=-1).masked_fill(unlabelled, 0.0).sum() / len(log_p)
