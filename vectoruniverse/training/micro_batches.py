"""Batches larger than memory: encoded some rows at a time, with the loss and the gradient of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vectoruniverse.processes import longest, own
from vectoruniverse.training.allocator import give_back_freed

Encode = Callable[[NDArray[np.int64]], list[Tensor]]
"""Rows (B,) → their vectors in each of V views, V times (B, E)."""


def in_micro_batches(encode: Encode, rows: NDArray[np.int64], size: int | None) -> list[Tensor]:
    """The vectors of this process's rows of a batch, of which at most ``size`` at a time keep what the way back needs.

    That is gradient caching (GradCache, arXiv:2101.06983): vectors first, then the loss of all of them, then each
    micro-batch once more with gradients. Dropout is replayed, so that both passes are one and the same; PyTorch's
    activation checkpointing does both. It costs a forward pass more. Dropout draws other numbers than in one pass over
    all rows; without it the gradient is that of one pass, up to rounding. All processes make as many passes.

    Args:
        encode: a pure function of rows, parameters and torch's random state.
        rows: of a batch, those of all processes (B,).
        size: None: all at once.
    """
    mine, most = rows[own(len(rows))], longest(len(rows))
    if size is None or most <= size:
        return encode(mine)

    def one(some: NDArray[np.int64]) -> list[Tensor]:
        give_back_freed()  # what the micro-batch before, forth or back, left in pieces
        return [view[: len(some)] for view in encode(some if len(some) else mine[:1])]

    parts = [checkpoint(one, part, use_reentrant=False) for part in np.array_split(mine, -(-most // size))]
    return [torch.cat(view) for view in zip(*parts, strict=True)]
