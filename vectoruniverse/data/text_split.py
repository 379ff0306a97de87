"""Training and validation rows of a text table: as the file says, or drawn so that no text is on both sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.splits import Split, group_rows, split_rows
from vectoruniverse.data.text_table import TextRow, TextTable
from vectoruniverse.errors import DataError


@dataclass(frozen=True, slots=True)
class TextSplit:
    """Training and validation rows, and where the division came from.

    Attributes:
        split: positions of the rows on either side, each in ascending order of the rows' ids.
        held_out: ``val`` or ``test``, as the file calls the rows that validate; ``drawn`` where the seed chose them.
        left_out: number of rows on neither side: ``test`` rows of a file that has validation rows too.
        shared: number of validation rows with a text that also occurs in a training row.
        groups: of each row of the table, where the seed chose: rows of one group stay on one side.
    """

    split: Split
    held_out: str
    left_out: int
    shared: int
    groups: list[str] | None


def divide_table(
    table: TextTable, *, val_fraction: float, seed: int, together: Sequence[str] | None = None
) -> TextSplit:
    """Obey the split column where the table was read with one, else draw.

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
        return TextSplit(split, "drawn", 0, _count_shared(rows, split), groups)
    counts = Counter(row.split for row in rows)
    held_out = "val" if counts["val"] else "test"
    for name, wanted in (("train", "train"), (held_out, "val or test")):
        if not counts[name]:
            raise DataError(
                f"the split column marks no row as {wanted}",
                file=table.file,
                remedy="Mark some rows so, or name no split column and let them be drawn.",
            )
    order = sorted(range(len(rows)), key=lambda i: rows[i].id)
    train, val = (np.array([i for i in order if rows[i].split == side], dtype=np.int64) for side in ("train", held_out))
    left_out = counts["test"] if held_out == "val" else 0
    return TextSplit(Split(train, val), held_out, left_out, _count_shared(rows, Split(train, val)), None)


def fingerprint_table(table: TextTable, split: Split) -> str:
    """sha256 over every row's id, texts and label and over the split: equal data, equal number."""
    digest = hashlib.sha256()
    for name, part in (("train", split.train), ("val", split.val)):
        for i in part:
            row = table.rows[i]
            digest.update(json.dumps([name, row.id, sorted(row.texts.items()), row.label]).encode() + b"\n")
    return digest.hexdigest()


def _draw(table: TextTable, val_fraction: float, seed: int, together: Sequence[str] | None) -> tuple[Split, list[str]]:
    rows, in_order = table.rows, group_texts(table.rows, together)
    split = split_rows(
        [row.id for row in rows],
        groups=in_order,
        val_fraction=val_fraction,
        seed=seed,
        file=table.file,
        remedy="Use more rows, or name the texts that hold rows together in data.split.together.",
    )
    if len(split.val) < 0.5 * val_fraction * len(rows):
        raise DataError(
            f"{max(Counter(in_order).values())} of {len(rows)} rows hang together by the texts that they share, "
            f"so only {len(split.val)} can be held out, not {val_fraction:.0%}",
            file=table.file,
            remedy="Group by one text only, or mark training and validation rows in a column.",
        )
    return split, in_order


def group_texts(rows: Sequence[TextRow], together: Sequence[str] | None) -> list[str]:
    """Name the group of each row: what hangs together by texts that rows share; ``together`` as in ``divide_table``."""
    # Each occurrence of a text ties its row to that text.
    roles = rows[0].texts if together is None else together
    occurrences = [(i, caseless(row.texts[role])) for i, row in enumerate(rows) for role in roles]
    names = group_rows([rows[i].id for i, _ in occurrences], [text for _, text in occurrences])
    groups = {i: name for (i, _), name in zip(occurrences, names, strict=True)}
    return [groups[i] for i in range(len(rows))]


def _count_shared(rows: Sequence[TextRow], split: Split) -> int:
    def told(i: int) -> Iterator[str]:
        return map(caseless, rows[i].texts.values())

    trained = {text for i in split.train for text in told(i)}
    return sum(any(text in trained for text in told(i)) for i in split.val)
