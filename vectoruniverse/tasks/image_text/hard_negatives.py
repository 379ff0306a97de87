"""``train.hard_negatives``: rows whose vectors are near each other share a batch, but for those that are too near.

With S_ij = x_i·y_j of pictures x and texts y, rows i ≠ j are as near as s_ij = max(S_ij, S_ji). Where that is no less
than a share of min(S_ii, S_jj), the scores of their own pictures and texts, they may say the same and are left out
(TopK-PercPos, arXiv:2407.15831).

Shapes: N training rows, R rows of a block, E shared embedding, K neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.losses.negatives import Relations
from vectoruniverse.tasks.image_text.settings import HardNegativesConfig
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.training.strata import Strata

NEIGHBOURS = 16
"""How many near rows of a row are remembered, nearest first; it is paired with the first that is still free."""

BLOCK = 1024
"""Rows that are compared with all others at a time."""


def hard_strata(task: ImageTextTask, config: HardNegativesConfig, seed: int, epoch: int) -> Strata:
    """Pairs of near rows, as the model is now, and the other rows alone."""
    found, rows = task.embed(task.train), np.arange(task.train_rows)
    near = nearest(found.image, found.text, task.negatives.among(rows), config.ceiling)
    order = np.random.default_rng((seed, epoch, 1)).permutation(len(rows))
    return Strata(pairs(near, order, config.share), run=2)


def nearest(image: Tensor, text: Tensor, relations: Relations, ceiling: float) -> NDArray[np.int64]:
    """The nearest rows of each that are negatives and below the ceiling, (N, K), nearest first; -1: there are no more.

    Args:
        image: unit vectors of pictures (N, E).
        text: of their texts (N, E).
        relations: of all rows; only those of weight 1 are negatives here.
        ceiling: share of the score of a row's own picture and text.
    """
    own, rows, found = (image * text).sum(dim=1), torch.arange(len(image)), []
    for first in range(0, len(rows), BLOCK):
        some = rows[first : first + BLOCK]
        scores = torch.maximum(image[some] @ text.T, text[some] @ image.T)  # (R, N)
        left_out = scores >= ceiling * torch.minimum(own[some][:, None], own)
        left_out |= (relations.negative_weights(some, scores) < 1.0) | (some[:, None] == rows)
        best = scores.masked_fill(left_out, -torch.inf).topk(min(NEIGHBOURS, len(image)), dim=1)
        found.append(best.indices.masked_fill(best.values.isneginf(), -1))
    return torch.cat(found).numpy()


def pairs(near: NDArray[np.int64], order: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Number of each row's pair (N,), or of the row alone.

    In the given order, each row takes the nearest one that is still free, until the share of all rows is reached.
    """
    of_row, taken = np.arange(len(order)), 0
    free = np.ones(len(order), dtype=np.bool_)
    for row in order:
        if taken + 2 > share * len(order):
            break
        partner = next((other for other in near[row] if other >= 0 and free[other]), None) if free[row] else None
        if partner is not None:
            of_row[partner] = of_row[row]
            free[[row, partner]], taken = False, taken + 2
    return of_row
