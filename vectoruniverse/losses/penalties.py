"""L1 and L2 penalties on trained weights.

They are part of the loss, so their gradient passes through Adam's scaling. Decoupled weight decay (AdamW) is not here:
it is the optimizer's business and shrinks weights beside the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

SPARED_LAYERS = (nn.LayerNorm, nn.Embedding, nn.GroupNorm)
"""Layers whose parameters neither decay nor a penalty would serve."""


def penalised(named: Mapping[str, nn.Parameter], modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that a penalty is meant for, the very ones that weight decay is meant for.

    Spared are vectors and scalars (biases, gains) and everything that belongs to a normalisation or embedding layer.

    Args:
        named: the trained parameters.
        modules: the layers that own them.
    """
    spared = {id(p) for m in modules if isinstance(m, SPARED_LAYERS) for p in m.parameters(recurse=False)}
    return {name: p for name, p in named.items() if p.ndim >= 2 and id(p) not in spared}


def l1_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Σ |w|, the lasso's: its gradient sign(w) pushes all weights alike, so small ones end at zero.

    At w = 0 the gradient is 0, one of the subgradients [-1, 1].

    Args:
        weights: of any shapes; see `penalised`.

    Returns:
        0-d float32 with gradient; 0 where there are no weights.
    """
    return _total(weight.float().abs().sum() for weight in weights)


def l2_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Σ w², ridge regression's: its gradient 2w pulls large weights most and makes none exactly zero.

    There is no factor ½: what torch's SGD calls ``weight_decay=λ`` is this penalty times λ/2.

    Args:
        weights: of any shapes; see `penalised`.

    Returns:
        0-d float32 with gradient; 0 where there are no weights.
    """
    return _total(weight.float().square().sum() for weight in weights)


def _total(terms: Iterable[Tensor]) -> Tensor:
    found = list(terms)
    return torch.stack(found).sum() if found else torch.zeros(())
