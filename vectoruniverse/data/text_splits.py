"""Division of a table of texts: as its own column says, or drawn so that no text is in two parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.splits import Shares, Split, count_shared, divide_marked, group_rows, split_rows
from vectoruniverse.data.text_table import TextRow, TextTable
from vectoruniverse.errors import DataError


@dataclass(frozen=True, slots=True)
class TextSplit:
    """The division of a text table.

    Attributes:
        split: positions of the rows of each part, each in ascending order of the rows' ids.
        shared: number of validation and test rows with a text that also occurs in a training row.
        groups: of each row of the table, where the seed chose: rows of one group stay on one side.
    """

    split: Split
    shared: int = 0
    groups: list[str] | None = None


def divide_table(table: TextTable, *, together: Sequence[str] | None = None, **shares: Unpack[Shares]) -> TextSplit:
    """Obey the split column where the table was read with one (``divide_marked``), else draw so that no text is in two
    parts.

    Drawn, rows that share a text form a group, whichever of their columns it stands in, and groups that share a row
    are one: the pairs (a, b), (c, b) and (c, d) stay together. Texts that differ in case, spacing or Unicode form only
    count as the same. Where a stock answer ties most pairs into one group, leave its role out of ``together``.

    Args:
        table: what was read.
        together: roles whose equal texts hold rows together; None: all.
        **shares: as for ``split_rows``; with a column there are no folds.

    Raises:
        DataError: a part would be empty, or shared texts tie so many rows together that too few can be held out.
    """
    rows = table.rows
    groups = None
    if rows[0].split is None:
        split, groups = _draw(table, together, **shares)
    else:

        def draw(train: list[int]) -> Split:
            part = replace(table, rows=[rows[i] for i in train])
            return _draw(part, together, val_fraction=shares["val_fraction"], seed=shares["seed"])[0]

        marks = [row.split for row in rows]
        split = divide_marked([row.id for row in rows], marks, draw, file=table.file, **shares)
    texts = [{caseless(text) for text in row.texts.values()} for row in rows]
    return TextSplit(split, count_shared(texts, split), groups)


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
