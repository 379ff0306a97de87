"""Training and validation rows: a pure function of the seed and of what the rows hold, not of their order in a file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.text_table import TextRow, TextTable
from vectoruniverse.errors import DataError


class Split(NamedTuple):
    """Indices of the rows on either side, int64, each in ascending order of the rows' keys."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]

    def fingerprint(self, told: Callable[[str, int], str]) -> str:
        """sha256 over what is ``told`` of each row, by the name of its side and its index."""
        digest = hashlib.sha256()
        for side, part in zip(self._fields, self, strict=True):
            for row in part:
                digest.update(told(side, row).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TextSplit:
    """The division of a text table, and where it came from.

    Attributes:
        split: positions of the rows on either side, each in ascending order of the rows' ids.
        held_out: ``val`` or ``test``, as the file calls the rows that validate; ``drawn`` where the seed chose them.
        left_out: number of rows on neither side: ``test`` rows of a file that has validation rows too.
        shared: number of validation rows with a text that also occurs in a training row.
        groups: of each row of the table, where the seed chose: rows of one group stay on one side.
    """

    split: Split
    held_out: str
    left_out: int = 0
    shared: int = 0
    groups: list[str] | None = None


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
        message = f"{whole} to one group, so they cannot be divided into training and validation"
        raise DataError(message, file=file, remedy=remedy)
    held_out = _choose(sizes, val_fraction * len(keys), seed)
    return _sides(keys, [group not in held_out for group in groups], [group in held_out for group in groups])


def _sides(keys: Sequence[str], train: Sequence[bool], val: Sequence[bool]) -> Split:
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return Split(order[np.array(train)[order]], order[np.array(val)[order]])


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


def divide_table(
    table: TextTable, *, val_fraction: float, seed: int, together: Sequence[str] | None = None
) -> TextSplit:
    """Obey the split column where the table was read with one, else draw so that no text is on both sides.

    Drawn, rows that share a text form a group, whichever of their columns it stands in, and groups that share a row
    are one: the pairs (a, b), (c, b) and (c, d) stay together. Texts that differ in case, spacing or Unicode form only
    count as the same. Where a stock answer ties most pairs into one group, leave its role out of ``together``.

    Args:
        table: what was read.
        val_fraction: share of the rows wanted for validation, between 0 and 1.
        seed: another seed, another division.
        together: roles whose equal texts hold rows together; None: all.

    Raises:
        DataError: a side would be empty, or shared texts tie so many rows together that too few can be held out.
    """
    rows = table.rows
    if rows[0].split is None:
        split, groups = _draw(table, val_fraction, seed, together)
        return TextSplit(split, "drawn", shared=_count_shared(rows, split), groups=groups)
    counts = Counter(row.split for row in rows)
    held_out = "val" if counts["val"] else "test"
    for name, wanted in (("train", "train"), (held_out, "val or test")):
        if not counts[name]:
            raise DataError(
                f"the split column marks no row as {wanted}",
                file=table.file,
                remedy="Mark some rows so, or name no split column and let them be drawn.",
            )
    split = _sides([row.id for row in rows], *([row.split == side for row in rows] for side in ("train", held_out)))
    left_out = counts["test"] if held_out == "val" else 0
    return TextSplit(split, held_out, left_out, _count_shared(rows, split))


def fingerprint_table(table: TextTable, split: Split) -> str:
    """sha256 over every row's id, texts and label and over the split: equal data, equal number."""

    def told(side: str, i: int) -> str:
        row = table.rows[i]
        return json.dumps([side, row.id, sorted(row.texts.items()), row.label]) + "\n"

    return split.fingerprint(told)


def _draw(table: TextTable, val_fraction: float, seed: int, together: Sequence[str] | None) -> tuple[Split, list[str]]:
    rows, groups = table.rows, group_texts(table.rows, together)
    split = split_rows(
        [row.id for row in rows],
        groups=groups,
        val_fraction=val_fraction,
        seed=seed,
        file=table.file,
        remedy="Use more rows, or name the texts that hold rows together in data.split.together.",
    )
    if len(split.val) < 0.5 * val_fraction * len(rows):
        raise DataError(
            f"{max(Counter(groups).values())} of {len(rows)} rows hang together by the texts that they share, "
            f"so only {len(split.val)} can be held out, not {val_fraction:.0%}",
            file=table.file,
            remedy="Group by one text only, or mark training and validation rows in a column.",
        )
    return split, groups


def group_texts(rows: Sequence[TextRow], together: Sequence[str] | None) -> list[str]:
    """Name the group of each row: what hangs together by texts that rows share; ``together`` as in ``divide_table``."""
    # Each occurrence of a text ties its row to that text.
    roles = rows[0].texts if together is None else together
    occurrences = [(i, caseless(row.texts[role])) for i, row in enumerate(rows) for role in roles]
    names = group_rows([rows[i].id for i, _ in occurrences], [text for _, text in occurrences])
    groups = {i: name for (i, _), name in zip(occurrences, names, strict=True)}
    return [groups[i] for i in range(len(rows))]


def _count_shared(rows: Sequence[TextRow], split: Split) -> int:
    texts = [{caseless(text) for text in row.texts.values()} for row in rows]
    trained = {text for i in split.train for text in texts[i]}
    return sum(not trained.isdisjoint(texts[i]) for i in split.val)
