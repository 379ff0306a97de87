"""Division of a table of texts: as its own column says, or drawn so that no text is in two parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.splits import Shares, Split, group_rows, parts_by_name, split_rows
from vectoruniverse.data.text_table import TextRow, TextTable
from vectoruniverse.errors import DataError


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


def divide_table(table: TextTable, *, together: Sequence[str] | None = None, **shares: Unpack[Shares]) -> TextSplit:
    """Obey the split column where the table was read with one, else draw so that no text is in two parts.

    A column that marks ``test`` rows and no validation rows has the latter drawn from its training rows; without a
    third part, its test rows validate.

    Drawn, rows that share a text form a group, whichever of their columns it stands in, and groups that share a row
    are one: the pairs (a, b), (c, b) and (c, d) stay together. Texts that differ in case, spacing or Unicode form only
    count as the same. Where a stock answer ties most pairs into one group, leave its role out of ``together``.

    Args:
        table: what was read.
        together: roles whose equal texts hold rows together; None: all.
        **shares: as for ``split_rows``. With a column there are no folds, and a ``test_fraction`` above 0 says that its
            ``test`` rows are a third part.

    Raises:
        DataError: a part would be empty, or shared texts tie so many rows together that too few can be held out.
    """
    rows = table.rows
    if rows[0].split is None:
        split, groups = _draw(table, together, **shares)
        return TextSplit(split, "drawn", shared=_count_shared(rows, split), groups=groups)
    assert shares.get("folds") is None, "a column says which rows are the test"
    counts = Counter(row.split for row in rows)
    held_out = "val" if counts["val"] else "test"
    for name, wanted in (("train", "train"), (held_out, "val or test")):
        if not counts[name]:
            raise DataError(
                f"the split column marks no row as {wanted}",
                file=table.file,
                remedy="Mark some rows so, or name no split column and let them be drawn.",
            )
    three = shares.get("test_fraction", 0.0) > 0 and (held_out == "val" or shares["val_fraction"] > 0)
    part_of = _marked(table, held_out, together, shares) if three else _in_two(rows, held_out)
    split = parts_by_name([row.id for row in rows], part_of)
    return TextSplit(split, held_out, sum(part is None for part in part_of), _count_shared(rows, split))


def _in_two(rows: Sequence[TextRow], held_out: str) -> list[str | None]:
    """Part of each row where the rows that the column calls ``held_out`` validate and there is no third part."""
    return [{"train": "train", held_out: "val"}.get(row.split or "") for row in rows]


def _marked(table: TextTable, held_out: str, together: Sequence[str] | None, shares: Shares) -> list[str | None]:
    """Part of each row as the column says, validation rows being drawn where it names none."""
    part_of = [row.split for row in table.rows]
    if held_out == "test":
        train = replace(table, rows=[row for row in table.rows if row.split == "train"])
        split, _ = _draw(train, together, val_fraction=shares["val_fraction"], seed=shares["seed"])
        drawn = {train.rows[i].id for i in split.val}
        part_of = ["val" if row.id in drawn else row.split for row in table.rows]
    return part_of


def fingerprint_table(table: TextTable, split: Split) -> str:
    """sha256 over every row's id, texts and label and over the split: equal data, equal number."""

    def told(side: str, i: int) -> str:
        row = table.rows[i]
        return json.dumps([side, row.id, sorted(row.texts.items()), row.label]) + "\n"

    return split.fingerprint(told)


def _draw(table: TextTable, together: Sequence[str] | None, **shares: Unpack[Shares]) -> tuple[Split, list[str]]:
    rows, groups = table.rows, group_texts(table.rows, together)
    split = split_rows(
        [row.id for row in rows],
        groups=groups,
        **shares,
        file=table.file,
        remedy="Use more rows, or name the texts that hold rows together in data.split.together.",
    )
    for part, share in ((split.val, shares["val_fraction"]), (split.test, shares.get("test_fraction", 0.0))):
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
