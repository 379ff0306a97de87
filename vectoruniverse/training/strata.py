"""Batches that are balanced: rows of one stratum, such as a label, are dealt out to all batches of an epoch.

Shapes: N training rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import number


@dataclass(frozen=True, slots=True)
class Strata:
    """Which rows are of one kind.

    Attributes:
        of_row: (N,) int64; rows with the same number are of one stratum.
        run: how many rows of a stratum stay together.
    """

    of_row: NDArray[np.int64]
    run: int = 1

    def among(self, rows: NDArray[np.int64]) -> Strata:
        """The strata of the rows at these positions (M,), in this order."""
        return replace(self, of_row=self.of_row[rows])

    def deal(self, order: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """An order of all rows (N,), to be cut into ``steps`` parts, over which every stratum is spread evenly.

        The rows of a stratum follow each other in the given order, in runs; run r, counted through all strata, goes to
        part r mod ``steps``. So with runs of one row a stratum of n rows has ⌊n/steps⌋ or ⌈n/steps⌉ of them in each
        part. Longer runs may make parts of other sizes; cut to even ones, a run stands in two of them now and then.
        """
        strata = number(self.of_row[order].tolist())  # by first occurrence, so that their order is drawn, too
        together = np.argsort(strata, kind="stable")
        place = np.arange(len(order)) - np.searchsorted(strata[together], strata[together])  # within the stratum
        run = np.cumsum(place % self.run == 0) - 1
        return order[together[np.argsort(run % steps, kind="stable")]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which rows lie together, in shards that are read from end to end: an epoch shuffles blocks, and rows within some.

    Attributes:
        of_row: (N,) int64; rows with the same number are in one block.
        together: how many blocks are shuffled as one, and so are at hand at a time.
    """

    of_row: NDArray[np.int64]
    together: int

    def among(self, rows: NDArray[np.int64]) -> Blocks:
        """The blocks of the rows at these positions (M,), in this order."""
        return replace(self, of_row=self.of_row[rows])

    def deal(self, order: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """An order of all rows (N,): blocks by the first of their rows in the given order, ``together`` at a time, and
        the rows of these as they are in it; the same for any number of ``steps``.
        """
        del steps
        blocks = number(self.of_row[order].tolist())
        return order[np.argsort(blocks // self.together, kind="stable")]


Miner = Callable[[int], Strata]
"""Finds the strata of an epoch by the model as it is when that begins."""
