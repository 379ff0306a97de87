"""Many pictures and texts to unit vectors, batch by batch: what evaluation and the library both use.

Shapes: N inputs, S side of the stored picture, E shared embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vectoruniverse.data.views import to_input
from vectoruniverse.models.dual import DualEncoder

TakeSquares = Callable[[slice], np.ndarray]
"""Square pictures uint8 (B, S, S, 3) of a run of positions."""


def embed_squares(encoder: DualEncoder, take: TakeSquares, count: int, *, batch_size: int) -> Tensor:
    """Unit vectors of ``count`` ≥ 1 square pictures, unaugmented, (N, E) float32 on the CPU; without gradients."""
    _check_batch_size(batch_size)
    picture, device = encoder.picture, encoder.device
    mean, std = (torch.tensor(values, device=device) for values in (picture.mean, picture.std))
    blocks = []
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            squares = torch.from_numpy(take(slice(start, start + batch_size))).to(device)
            blocks.append(encoder.encode_images(to_input(squares, picture.size, mean, std)).cpu())
    return torch.cat(blocks)


def embed_tokens(encoder: DualEncoder, tokens: Sequence[np.ndarray], *, batch_size: int) -> Tensor:
    """Unit vectors of N ≥ 1 tokenized texts, (N, E) float32 on the CPU; without gradients.

    Texts of similar length share a batch, so that little of it is padding.
    """
    _check_batch_size(batch_size)
    order = np.argsort([len(row) for row in tokens], kind="stable")
    blocks = []
    with torch.inference_mode():
        for start in range(0, len(tokens), batch_size):
            ids, mask = encoder.pad([tokens[i] for i in order[start : start + batch_size]])
            blocks.append(encoder.encode_texts(ids.to(encoder.device), mask.to(encoder.device)).cpu())
        embedded = torch.cat(blocks)
        return torch.empty_like(embedded).index_copy_(0, torch.from_numpy(order), embedded)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is below 1")
