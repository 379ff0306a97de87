"""Which rows of a table of pairs hold the same picture or text, and so which answers are right.

Shapes: N pairs, M distinct second items, P distinct pairs of items, R rows and C columns asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.splits import unite


@dataclass(frozen=True, slots=True)
class PairItems:
    """The item on either side of each of N pairs.

    An answer is right where some pair holds it together with the query: of a picture with five captions all five, of a
    text that two pictures share both. Nothing is carried on from there: with the pairs (a, x), (a, y) and (b, y), x is
    no answer to b.

    Attributes:
        first: (N,) int64; pairs with the same number have the same first item, such as a picture.
        second: (N,) int64; pairs with the same number have the same second item, such as its text.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def select(self, rows: NDArray[np.int64]) -> PairItems:
        """These pairs, in this order."""
        return PairItems(self.first[rows], self.second[rows])

    def turned(self) -> PairItems:
        """The same pairs, seen from the other side."""
        return PairItems(self.second, self.first)

    def gallery(self) -> NDArray[np.int64]:
        """Pairs (M,) at which each distinct second item stands first, ascending: every answer once."""
        return np.sort(np.unique(self.second, return_index=True)[1])

    def answers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First item and place in ``gallery`` of its right answer, both (P,), each combination once."""
        _, where, item = np.unique(self.second, return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(where))[item]
        rows = np.unique(self.first * len(where) + place, return_index=True)[1]
        return self.first[rows], place[rows]

    def right(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the second item of each column's pair is right for the first item of each row's pair, (R, C)."""
        width = int(self.second.max(initial=0)) + 1
        asked = self.first[rows][:, None] * width + self.second[columns][None, :]
        return np.isin(asked, self.first * width + self.second)

    def clusters(self) -> NDArray[np.int64]:
        """Number (N,) of the connected part that each pair belongs to: pairs that share an item are in one."""
        seconds = self.second + int(self.first.max(initial=-1)) + 1
        groups = np.arange(int(seconds.max(initial=-1)) + 1)
        unite(groups, self.first, seconds)
        return number(groups[self.first].tolist())


def same_texts(first: Sequence[str], second: Sequence[str]) -> PairItems:
    """Pairs of texts, where texts that differ only in case, white space or Unicode form are the same."""
    return PairItems(number([caseless(text) for text in first]), number([caseless(text) for text in second]))


def number(values: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number (N,) values in the order of their first occurrence; equal values have equal numbers."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
