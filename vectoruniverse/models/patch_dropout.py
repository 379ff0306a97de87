"""Patch dropout: an image tower reads a share of each picture's patches while training (FLIP, arXiv:2212.00794).

Shapes: B batch, P patches of a picture, K of them kept, L tokens (P, or one more with a class token), D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vectoruniverse.errors import ConfigError


def count_patches(tower: Any) -> int:
    """P of one of transformers' image towers."""
    return int(tower.embeddings.num_patches)


def count_kept(patches: int, dropout: float) -> int | None:
    """K of P ``patches``: P · (1 - dropout) to the nearest whole number, at least 1; None without dropout.

    Raises:
        ConfigError: that leaves out no patch.
    """
    if not dropout:
        return None
    kept = max(1, round(patches * (1.0 - dropout)))
    if kept == patches:
        raise ConfigError(
            f"{dropout:g} of {patches} patches is none",
            key="views.patch_dropout",
            remedy=f"set it to {1 / patches:.2g} or more, or to 0" if patches > 1 else "set it to 0",
        )
    return kept


@contextlib.contextmanager
def only_patches(tower: Any, kept: Tensor | None) -> Iterator[None]:
    """Within this, a tower's blocks see these patches alone, (B, K) int64; None lets all through.

    Tokens are chosen behind the embeddings, so that each keeps its own position; a class token before them stays.
    SigLIP's pooling head sees what the blocks see.
    """
    if kept is None:
        yield
        return

    def choose(_module: nn.Module, _args: object, tokens: Tensor) -> Tensor:
        """(B, L, D) → (B, K + L - P, D)."""
        before = tokens.shape[1] - count_patches(tower)
        first = torch.arange(before, device=kept.device).expand(len(kept), before)
        chosen = torch.cat([first, kept + before], dim=1)
        return torch.take_along_dim(tokens, chosen.unsqueeze(-1), dim=1)

    handle = tower.embeddings.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()
