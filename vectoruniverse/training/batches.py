"""Which rows meet in a batch: a function of seed and epoch alone."""

from __future__ import annotations

import numpy as np

from vectoruniverse.training.strata import Blocks, Strata


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Number of batches: as few as batch_size allows, but never so many that one has a single row."""
    return max(1, min(-(-rows // batch_size), rows // 2))


def batches(
    rows: int, batch_size: int, seed: int, epoch: int, strata: Strata | Blocks | None = None
) -> list[np.ndarray]:
    """Positions of the rows of each batch: a new order every epoch, every row once, sizes that differ by one at most.

    Even sizes matter to contrastive losses: a small last batch would be a much easier task. ``strata`` are spread over
    the batches.
    """
    order, steps = np.random.default_rng((seed, epoch)).permutation(rows), steps_per_epoch(rows, batch_size)
    return np.array_split(order if strata is None else strata.deal(order, steps), steps)
