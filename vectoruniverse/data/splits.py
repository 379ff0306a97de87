"""Training and validation rows: a pure function of the seed and of what the rows hold, not of their order in a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vectoruniverse.errors import DataError


class Split(NamedTuple):
    """Indices of the rows on either side, each in ascending order of the rows' keys.

    Attributes:
        train: indices of the training rows, int64.
        val: indices of the validation rows, int64.
    """

    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]


def split_rows(
    keys: Sequence[str],
    *,
    groups: Sequence[str],
    val_fraction: float,
    seed: int,
    file: Path | None = None,
    remedy: str = "Use more rows, or group by another column (data.split.group_by).",
) -> Split:
    """Divide rows so that each group lies wholly on one side.

    Groups are visited in ascending order of sha256("seed|group"); one goes to validation where that brings the
    number of validation rows nearer to ``val_fraction`` of all. A group too large for that is passed over. So the
    same rows in another order give the same two sets, and a few rows more or less move few others.

    Args:
        keys: a unique name of each row; orders the result.
        groups: the group of each row, such as ``group_rows`` gives.
        val_fraction: share of the rows wanted for validation, between 0 and 1.
        seed: another seed, another division.
        file: for the message.
        remedy: what makes more groups.

    Raises:
        DataError: the rows form fewer than two groups.
    """
    assert len(keys) == len(groups)
    assert len(set(keys)) == len(keys), "keys must be unique"
    assert 0.0 < val_fraction < 1.0, val_fraction
    sizes = Counter(groups)
    if len(sizes) < 2:
        whole = "the only row belongs" if len(keys) == 1 else f"all {len(keys)} rows belong"
        raise DataError(
            f"{whole} to one group, so they cannot be divided into training and validation",
            file=file,
            remedy=remedy,
        )
    held_out = _choose(sizes, val_fraction * len(keys), seed)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Split(
        train=np.array([i for i in order if groups[i] not in held_out], dtype=np.int64),
        val=np.array([i for i in order if groups[i] in held_out], dtype=np.int64),
    )


def _choose(sizes: Counter[str], wanted: float, seed: int) -> set[str]:
    in_order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}|{group}".encode()).digest())
    chosen: set[str] = set()
    count = 0
    for group in in_order:
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(chosen) + 1 < len(sizes):
            chosen.add(group)
            count += sizes[group]
    return chosen or {min(in_order, key=sizes.__getitem__)}


def group_rows(pictures: Sequence[str], column: Sequence[str] | None) -> list[str]:
    """Name the group of each row: rows of the same picture or of the same column value belong together.

    Groups are the connected components, so two channels that share one picture are one group. A group is named after
    its smallest member, ``column:<value>`` before ``picture:<digest>``. An empty column value joins nothing.

    Args:
        pictures: digest of each row's picture.
        column: value of each row in the grouping column, or None to group equal pictures only.
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    for picture, value in zip(pictures, column or [""] * len(pictures), strict=True):
        a = find(f"picture:{picture}")
        b = find(f"column:{value}") if value else a
        parents[max(a, b)] = min(a, b)  # the smallest member is the root
    return [find(f"picture:{picture}") for picture in pictures]
