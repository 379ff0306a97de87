"""Training, validation and test rows: a pure function of the seed and of what the rows hold, not of their order."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.text_table import TextRow, TextTable
from vectoruniverse.errors import DataError

NO_ROWS = np.array([], dtype=np.int64)


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


@dataclass(frozen=True, slots=True)
class TextSplit:
    """The division of a text table, and where it came from.

    Attributes:
        split: positions of the rows of each part, each in ascending order of the rows' ids.
        held_out: ``val`` or ``test``, as the file calls the rows that validate; ``drawn`` where the seed chose them.
        left_out: number of rows in no part: ``test`` rows of a file that has validation rows too, and no third part
            is wanted.
        shared: number of validation and test rows with a text that also occurs in a training row.
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
    test_fraction: float = 0.0,
    seed: int,
    file: Path | None = None,
    remedy: str = "Use more rows, or group by another column (data.split.group_by).",
) -> Split:
    """Divide rows so that each group lies wholly in one part.

    Groups are visited in ascending order of sha256("seed|group"); one goes to validation where that brings the
    number of validation rows nearer to ``val_fraction`` of all. A group too large for that is passed over. So the
    same rows in another order give the same sets, and a few rows more or less move few others. Test rows are drawn
    before, in an order of their own (sha256("seed|test|group")); validation rows are drawn from what they leave.

    Args:
        keys: a unique name of each row; orders the result.
        groups: the group of each row, such as ``group_rows`` gives.
        val_fraction: share of the rows wanted for validation, between 0 and 1.
        test_fraction: share wanted for the test; 0 divides into two parts.
        seed: another seed, another division.
        file: for the message.
        remedy: what makes more groups.

    Raises:
        DataError: the rows form fewer groups than there are parts.
    """
    assert len(keys) == len(groups)
    assert len(set(keys)) == len(keys), "keys must be unique"
    assert 0.0 < val_fraction < 1.0, val_fraction
    assert 0.0 <= test_fraction < 1.0 - val_fraction, test_fraction
    sizes = Counter(groups)
    _refuse_few_groups(sizes, test_fraction > 0, file, remedy)
    test = _choose(sizes, test_fraction * len(keys), f"{seed}|test", leave=2) if test_fraction else set()
    left = Counter({group: size for group, size in sizes.items() if group not in test})
    val = _choose(left, val_fraction * len(keys), str(seed), leave=1)
    return _parts(keys, ["test" if group in test else "val" if group in val else "train" for group in groups])


def _refuse_few_groups(sizes: Counter[str], three: bool, file: Path | None, remedy: str) -> None:
    count, parts = sizes.total(), "training, validation and test" if three else "training and validation"
    if len(sizes) >= 2 + three:
        return
    whole = "the only row belongs" if count == 1 else f"all {count} rows belong"
    to = "one group" if len(sizes) == 1 else "two groups"
    raise DataError(f"{whole} to {to}, so they cannot be divided into {parts}", file=file, remedy=remedy)


def _parts(keys: Sequence[str], part_of: Sequence[str | None]) -> Split:
    """Positions by the name of each row's part, in ascending order of the keys."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Split(*(np.array([i for i in order if part_of[i] == part], dtype=np.int64) for part in Split._fields))


def _choose(sizes: Counter[str], wanted: float, salt: str, *, leave: int) -> set[str]:
    in_order = sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}|{group}".encode()).digest())
    chosen: set[str] = set()
    count = 0
    for group in in_order:
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(chosen) + leave < len(sizes):
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
    table: TextTable,
    *,
    val_fraction: float,
    test_fraction: float = 0.0,
    seed: int,
    together: Sequence[str] | None = None,
) -> TextSplit:
    """Obey the split column where the table was read with one, else draw so that no text is in two parts.

    A column that marks ``test`` rows and no validation rows has the latter drawn from its training rows; without a
    third part, its test rows validate.

    Drawn, rows that share a text form a group, whichever of their columns it stands in, and groups that share a row
    are one: the pairs (a, b), (c, b) and (c, d) stay together. Texts that differ in case, spacing or Unicode form only
    count as the same. Where a stock answer ties most pairs into one group, leave its role out of ``together``.

    Args:
        table: what was read.
        val_fraction: share of the rows wanted for validation, between 0 and 1.
        test_fraction: share wanted for the test; with a column, whether its ``test`` rows are a third part; 0: two
            parts.
        seed: another seed, another division.
        together: roles whose equal texts hold rows together; None: all.

    Raises:
        DataError: a part would be empty, or shared texts tie so many rows together that too few can be held out.
    """
    rows = table.rows
    if rows[0].split is None:
        split, groups = _draw(table, val_fraction, test_fraction, seed, together)
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
    three = test_fraction > 0 and (held_out == "val" or val_fraction > 0)
    part_of = _marked(table, held_out, val_fraction, seed, together) if three else _in_two(rows, held_out)
    split = _parts([row.id for row in rows], part_of)
    return TextSplit(split, held_out, sum(part is None for part in part_of), _count_shared(rows, split))


def _in_two(rows: Sequence[TextRow], held_out: str) -> list[str | None]:
    """Part of each row where the rows that the column calls ``held_out`` validate and there is no third part."""
    return [{"train": "train", held_out: "val"}.get(row.split or "") for row in rows]


def _marked(
    table: TextTable, held_out: str, val_fraction: float, seed: int, together: Sequence[str] | None
) -> list[str | None]:
    """Part of each row as the column says, validation rows being drawn where it names none."""
    part_of = [row.split for row in table.rows]
    if held_out == "test":
        train = replace(table, rows=[row for row in table.rows if row.split == "train"])
        split, _ = _draw(train, val_fraction, 0.0, seed, together)
        drawn = {train.rows[i].id for i in split.val}
        part_of = ["val" if row.id in drawn else row.split for row in table.rows]
    return part_of


def fingerprint_table(table: TextTable, split: Split) -> str:
    """sha256 over every row's id, texts and label and over the split: equal data, equal number."""

    def told(side: str, i: int) -> str:
        row = table.rows[i]
        return json.dumps([side, row.id, sorted(row.texts.items()), row.label]) + "\n"

    return split.fingerprint(told)


def _draw(
    table: TextTable, val_fraction: float, test_fraction: float, seed: int, together: Sequence[str] | None
) -> tuple[Split, list[str]]:
    rows, groups = table.rows, group_texts(table.rows, together)
    split = split_rows(
        [row.id for row in rows],
        groups=groups,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        file=table.file,
        remedy="Use more rows, or name the texts that hold rows together in data.split.together.",
    )
    for part, share in ((split.val, val_fraction), (split.test, test_fraction)):
        if len(part) < 0.5 * share * len(rows):
            raise DataError(
                f"{max(Counter(groups).values())} of {len(rows)} rows hang together by the texts that they share, "
                f"so only {len(part)} can be held out, not {share:.0%}",
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
    return sum(not trained.isdisjoint(texts[i]) for i in (*split.val, *split.test))
