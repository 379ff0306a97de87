"""Training, validation and test rows: a pure function of the seed and of what the rows hold, not of their order."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.errors import DataError

NO_ROWS = np.array([], dtype=np.int64)

REMEDY = "Use more rows, or group by another column (data.split.group_by)."
"""What makes more groups."""


class Split(NamedTuple):
    """Indices of the rows of each part, int64, each in ascending order of the rows' keys.

    ``train`` is learned from, ``val`` picks epochs and settings, ``test`` is what is reported; where ``test`` is empty,
    ``val`` is reported, too.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64] = NO_ROWS

    @property
    def reported(self) -> str:
        """Name of the part that is reported."""
        return "test" if len(self.test) else "val"

    def fingerprint(self, told: Callable[[str, int], str]) -> str:
        """sha256 over what is ``told`` of each row, by the name of its part and its index."""
        digest = hashlib.sha256()
        for side, part in zip(self._fields, self, strict=True):
            for row in part:
                digest.update(told(side, row).encode())
        return digest.hexdigest()


T = TypeVar("T")


def by_part(split: Split, make: Callable[[NDArray[np.int64]], T]) -> dict[str, T]:
    """What is made of the rows of each part, by its name; of ``test`` only where there are test rows."""
    return {name: make(part) for name, part in split._asdict().items() if name != "test" or len(part)}


class Shares(TypedDict):
    """What ``split_rows`` is told of the parts that rows are drawn for."""

    val_fraction: float
    test_fraction: NotRequired[float]
    seed: int
    folds: NotRequired[int | None]
    fold: NotRequired[int]


def divide(
    keys: Sequence[str],
    marks: Sequence[str | None],
    groups: Sequence[str],
    *,
    file: Path | None = None,
    remedy: str = REMEDY,
    **shares: Unpack[Shares],
) -> Split:
    """Obey a column (``divide_marked``) where ``marks`` are of one, else draw (``split_rows``); arguments as there.

    Raises:
        DataError: a part would be empty.
    """
    if None in marks:
        return split_rows(keys, groups=groups, file=file, remedy=remedy, **shares)

    def draw(rows: list[int]) -> Split:
        of_rows, val_fraction, seed = [groups[i] for i in rows], shares["val_fraction"], shares["seed"]
        names = [keys[i] for i in rows]
        return split_rows(names, groups=of_rows, file=file, remedy=remedy, val_fraction=val_fraction, seed=seed)

    return divide_marked(keys, marks, draw, file=file, **shares)


def divide_marked(
    keys: Sequence[str],
    marks: Sequence[str | None],
    draw: Callable[[list[int]], Split],
    *,
    file: Path | None = None,
    **shares: Unpack[Shares],
) -> Split:
    """Obey a column that says ``train``, ``val`` or ``test`` of each row.

    One that marks test rows and no validation rows has the latter drawn from its training rows. Where no third part is
    wanted (``test_fraction`` 0) its test rows validate, or are in no part if it has validation rows, too.

    Args:
        keys: a unique name of each row; orders the result.
        marks: what the column says.
        draw: divides the training rows, given by their positions, into those that train and those that validate.
        file: for the message.
        **shares: as for ``split_rows``, without folds.

    Raises:
        DataError: no row is marked as training, or none is held out.
    """
    assert shares.get("folds") is None, "a column says which rows are the test"
    held_out = "val" if "val" in marks else "test"
    for name, wanted in (("train", "train"), (held_out, "val or test")):
        if name not in marks:
            raise DataError(
                f"the split column marks no row as {wanted}",
                file=file,
                remedy="Mark some rows so, or name no split column and let them be drawn.",
            )
    if shares.get("test_fraction", 0.0) == 0 or (held_out == "test" and shares["val_fraction"] == 0):
        return parts_by_name(keys, [{"train": "train", held_out: "val"}.get(mark or "") for mark in marks])
    if held_out == "val":
        return parts_by_name(keys, marks)
    train = [i for i, mark in enumerate(marks) if mark == "train"]
    drawn = {train[i] for i in draw(train).val}
    return parts_by_name(keys, ["val" if i in drawn else mark for i, mark in enumerate(marks)])


def split_rows(
    keys: Sequence[str],
    *,
    groups: Sequence[str],
    val_fraction: float,
    test_fraction: float = 0.0,
    seed: int,
    folds: int | None = None,
    fold: int = 0,
    file: Path | None = None,
    remedy: str = REMEDY,
) -> Split:
    """Divide rows so that each group lies wholly in one part.

    Groups are visited in ascending order of sha256("seed|group"); one goes to validation where that brings the
    number of validation rows nearer to ``val_fraction`` of all. A group too large for that is passed over. So the
    same rows in another order give the same sets, and a few rows more or less move few others. Test rows are drawn
    before, in an order of their own (sha256("seed|test|group")); validation rows are drawn from what they leave.

    With ``folds`` the test rows are one of so many parts of about equal size, as ``fold_groups`` makes them, so that
    over all folds each row is a test row once.

    Args:
        keys: a unique name of each row; orders the result.
        groups: the group of each row, such as ``group_rows`` gives.
        val_fraction: share of the rows wanted for validation, between 0 and 1.
        test_fraction: share wanted for the test; 0 divides into two parts.
        seed: another seed, another division.
        folds: number of folds, of which one is the test part, whatever ``test_fraction`` is; None: no folds.
        fold: which of them, from 0.
        file: for the message.
        remedy: what makes more groups.

    Raises:
        DataError: the rows form fewer groups than there are parts, or one group is too large for so many folds.
    """
    assert len(keys) == len(groups)
    assert len(set(keys)) == len(keys), "keys must be unique"
    assert 0.0 < val_fraction < 1.0, val_fraction
    assert 0.0 <= test_fraction < 1.0 - val_fraction, test_fraction
    sizes = Counter(groups)
    if folds is None:
        _refuse_few_groups(sizes, test_fraction > 0, file, remedy)
        test = _choose(sizes, test_fraction * len(keys), f"{seed}|test", leave=2) if test_fraction else set()
    else:
        test = fold_groups(sizes, folds, seed, file=file, remedy=remedy)[fold]
    left = Counter({group: size for group, size in sizes.items() if group not in test})
    val = _choose(left, val_fraction * len(keys), str(seed), leave=1)
    return parts_by_name(keys, ["test" if group in test else "val" if group in val else "train" for group in groups])


def fold_groups(
    sizes: Counter[str], folds: int, seed: int, *, file: Path | None = None, remedy: str | None = None
) -> list[set[str]]:
    """The groups of each fold: largest groups first, each into the fold that has the fewest rows so far.

    Equal sizes are visited in ascending order of sha256("seed|fold|group"). Of folds with equally few rows the first
    is filled.

    Args:
        sizes: number of rows of each group.
        folds: how many.
        seed: another seed, other folds.
        file: for the message.
        remedy: what makes more groups.

    Raises:
        DataError: a fold is less than half as large as it should be, or leaves fewer than two groups beside it, as
            training and validation need.
    """
    in_order = sorted(_shuffled(sizes, f"{seed}|fold"), key=sizes.__getitem__, reverse=True)
    found: list[set[str]] = [set() for _ in range(folds)]
    filled = [(0, number) for number in range(folds)]
    for group in in_order:
        rows, number = filled[0]
        found[number].add(group)
        heapq.heapreplace(filled, (rows + sizes[group], number))
    fault = ""
    if min(map(len, found)) == 0 or max(map(len, found)) > len(sizes) - 2:
        fault = f"{len(sizes)} groups cannot be divided into {folds} folds with training and validation groups beside"
    elif filled[0][0] < 0.5 * sizes.total() / folds:
        fault = f"one group has {sizes[in_order[0]]} of {sizes.total()} rows, so {folds} folds cannot be of one size"
    if fault:
        raise DataError(fault, file=file, key="data.split.folds", remedy=f"Ask for fewer folds. {remedy or ''}".strip())
    return found


def _refuse_few_groups(sizes: Counter[str], three: bool, file: Path | None, remedy: str) -> None:
    count, parts = sizes.total(), "training, validation and test" if three else "training and validation"
    if len(sizes) >= 2 + three:
        return
    whole = "the only row belongs" if count == 1 else f"all {count} rows belong"
    to = "one group" if len(sizes) == 1 else "two groups"
    raise DataError(f"{whole} to {to}, so they cannot be divided into {parts}", file=file, remedy=remedy)


def parts_by_name(keys: Sequence[str], part_of: Sequence[str | None]) -> Split:
    """Positions by the name of each row's part, in ascending order of the keys."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Split(*(np.array([i for i in order if part_of[i] == part], dtype=np.int64) for part in Split._fields))


def _choose(sizes: Counter[str], wanted: float, salt: str, *, leave: int) -> set[str]:
    in_order = _shuffled(sizes, salt)
    chosen: set[str] = set()
    count = 0
    for group in in_order:
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(chosen) + leave < len(sizes):
            chosen.add(group)
            count += sizes[group]
    return chosen or {min(in_order, key=sizes.__getitem__)}


def _shuffled(groups: Iterable[str], salt: str) -> list[str]:
    """Groups in an order that depends on nothing but their names and the salt."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{salt}|{group}".encode()).digest())


def count_shared(items: Sequence[Collection[str]], split: Split) -> int:
    """Number of validation and test rows that have an item in common with a training row; ``items``: of each row."""
    trained = {item for i in split.train for item in items[i]}
    return sum(not trained.isdisjoint(items[i]) for i in (*split.val, *split.test))


def group_rows(pictures: Sequence[str], column: Sequence[str] | None) -> list[str]:
    """Name the group of each row: rows of the same picture or of the same column value belong together.

    Groups are the connected components, so two channels that share one picture are one group. A group is named after
    its smallest member, ``column:<value>`` before ``picture:<digest>``. An empty column value joins nothing.

    Args:
        pictures: digest of each row's picture.
        column: value of each row in the grouping column, or None to group equal pictures only.
    """
    firsts = [f"picture:{picture}" for picture in pictures]
    seconds = [f"column:{value}" for value in column or ()] or firsts
    names = sorted({*firsts, *seconds})
    numbers = {name: number for number, name in enumerate(names)}
    a = np.array([numbers[name] for name in firsts], dtype=np.int64)
    b = np.array([numbers[name] for name in seconds], dtype=np.int64)
    b = np.where(b == numbers.get("column:", -1), a, b)
    groups = np.arange(len(names))
    unite(groups, a, b)
    return [names[group] for group in groups[a]]


def unite(groups: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    """Join the groups of each pair (a, b), in place; every entry points to its group's smallest position again."""
    while ((of_a := groups[a]) != (of_b := groups[b])).any():
        np.minimum.at(groups, np.maximum(of_a, of_b), np.minimum(of_a, of_b))
        while (groups != (shorter := groups[groups])).any():
            groups[:] = shorter
