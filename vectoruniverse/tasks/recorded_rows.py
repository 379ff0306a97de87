"""The rows of a run: noted by name in its folder when it begins, and found again when it is evaluated.

A split is a pure function of all rows, so one row more or less may move others across it. A run therefore keeps the
names of its rows, and is evaluated on these.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from vectoruniverse.config.places import is_there, place_key, place_of, with_place
from vectoruniverse.config.sections import Experiment
from vectoruniverse.data.splits import Split
from vectoruniverse.errors import DataError
from vectoruniverse.runs.files import Record, read_bytes, read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.tasks.rows import Data, NamedRow
from vectoruniverse.terminal import Display, counted

MAX_GONE = 0.5
"""Where more than this share of the rows to evaluate is gone, what is left is another test."""

MIN_LEFT = 2
"""Rows that are left to evaluate at least: one row alone has nothing to be told from."""

EXAMPLES = 3
"""Rows that a message names."""

SIDES = {"train": "training", "val": "held-out", "test": "test"}

DATA_FILE = "data.sha256"
"""Fingerprint of the data that a run is trained on, in the run folder."""

ROWS_FILE = "rows.json"
"""Names of the rows that a run is trained and evaluated on, in the run folder."""

MAX_BYTES = 2**30
"""Longest file of rows that is read; a row takes about 60 bytes."""

OTHER_DATA = "put it back, or evaluate the run on it as other data: vu eval RUN --data PLACE"


class RowRecord(Record):
    """What ``rows.json`` of a run holds.

    Attributes:
        version: of this form.
        place: where the data was when the run began, absolute.
        beside: the same, relative to the run folder.
        train: rows that the run learns from, in the order of the split.
        val: rows that pick the epoch; the same as ``train`` where nothing is held out.
        test: rows that are reported; empty where there are two parts, and in records of earlier versions.
        others: number of usable rows in no part.
    """

    version: Literal[1] = 1
    place: str
    beside: str
    train: list[NamedRow]
    val: list[NamedRow]
    test: list[NamedRow] = Field(default_factory=list)
    others: int

    @property
    def reported(self) -> str:
        """Name of the part that is reported."""
        return "test" if self.test else "val"


class FoundRows(NamedTuple):
    """A run's rows among those of its data today.

    Attributes:
        split: positions of those that are there as they were.
        gone: rows that are there no more, by side.
        changed: rows with another picture, text or label now, by side.
        new: number of rows that the run knew nothing of.
    """

    split: Split
    gone: dict[str, list[NamedRow]]
    changed: dict[str, list[NamedRow]]
    new: int


def hold_to_data(run: Run, experiment: Experiment, data: Data[Any, Any]) -> None:
    """Note what a new run is trained on, and refuse to go on with other data.

    Raises:
        DataError: the run was begun with other data.
    """
    if not os.path.lexists(run.path / DATA_FILE):
        run.write_text(DATA_FILE, data.fingerprint() + "\n")
    elif not _is_as_noted(run, data):
        raise DataError(
            "the data is not what this run was begun with", file=run.path, remedy="put it back, or train a new run"
        )
    if not os.path.lexists(run.path / ROWS_FILE):
        where = place_of(experiment)
        rows = data.named_rows()
        train, val, test = ([rows[i] for i in part] for part in data.split)
        record = RowRecord(
            place=str(where),
            beside=os.path.relpath(where, run.path.absolute()),
            train=train,
            val=val,
            test=test,
            others=len(rows) - len({*train, *val, *test}),
        )
        run.write_text(ROWS_FILE, json.dumps(record.model_dump(), ensure_ascii=False) + "\n")


def refuse_other_data(run: Run, data: Data[Any, Any]) -> None:
    """Of a run that noted no rows: raise where its split is not drawn from the same data again.

    Raises:
        DataError: the data has changed, or the run did not note what it was.
    """
    if not _is_as_noted(run, data):
        raise DataError(
            "the data has changed since this run, which an earlier version made and which did not note its rows, so "
            "rows that it learned from may be among those held out now",
            file=run.path,
            remedy=OTHER_DATA,
        )


def _is_as_noted(run: Run, data: Data[Any, Any]) -> bool:
    noted = read_bytes(run.path / DATA_FILE, inside=run.path).decode(errors="replace").strip()
    return noted in (data.fingerprint(), data.earlier_fingerprint())


def read_rows_of(run: Run) -> RowRecord | None:
    """The rows that a run noted; None of a run that an earlier version made.

    Raises:
        DataError: the file is damaged.
    """
    file = run.path / ROWS_FILE
    if not os.path.lexists(file):
        return None
    return read_record(file, RowRecord, limit=MAX_BYTES, inside=run.path)


def locate_data(run: Run, experiment: Experiment, record: RowRecord | None, display: Display) -> Experiment:
    """The experiment with its data where it is today: where it was, beside a run that was moved, or where it is named.

    Raises:
        DataError: it is at none of these places.
    """
    named = place_of(experiment)
    if record is None:
        return experiment
    beside, was = run.path.absolute() / record.beside, Path(record.place)
    relative = not Path(getattr(experiment.data, place_key(experiment))).expanduser().is_absolute()
    tried = list(dict.fromkeys(map(_normal, (beside, was, named) if relative else (named, was, beside))))
    for where in tried:
        if is_there(where):
            if where == _normal(named):
                return experiment
            display.say(f"data in {where}")
            return with_place(experiment, where)
    raise DataError(
        f"the data of this run is at none of {', '.join(map(str, tried))}",
        file=run.path,
        key=f"data.{place_key(experiment)}",
        remedy="put it, or a link to it, at one of these places",
    )


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def find_rows(record: RowRecord, rows: Sequence[NamedRow]) -> FoundRows:
    """Find a run's rows by their ids, else by what they hold: ids of repeated rows depend on their number."""
    noted = dict.fromkeys([*record.train, *record.val, *record.test])
    by_id = {row.id: i for i, row in enumerate(rows)}
    at = {row: i for row in noted if (i := by_id.get(row.id)) is not None and _same(row, rows[i])}
    free: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in sorted({*range(len(rows))} - {*at.values()}, reverse=True):
        free[rows[i].content, rows[i].truth].append(i)
    for row in noted:
        if row not in at and free[row.content, row.truth]:
            at[row] = free[row.content, row.truth].pop()
    left = [rows[i] for positions in free.values() for i in positions]
    ids, contents = {row.id for row in left}, {row.content for row in left}
    lost = [row for row in noted if row not in at]
    changed = {row for row in lost if row.id in ids or row.content in contents}

    def of(side: str, rows: Iterable[NamedRow]) -> list[NamedRow]:
        wanted = {*rows}
        return [row for row in getattr(record, side) if row in wanted]

    return FoundRows(
        Split(*(np.array([at[row] for row in of(side, at)], dtype=np.int64) for side in SIDES)),
        {side: of(side, {*lost} - changed) for side in SIDES},
        {side: of(side, changed) for side in SIDES},
        max(0, len(left) - len(changed) - record.others),
    )


def row_changes(record: RowRecord, rows: Sequence[NamedRow]) -> list[str]:
    """What has become of a run's rows, in words: how many were added, removed, relabelled or changed, and which.

    Relabelled is a row that holds what it held, of which something else is right: a text or a label.
    """
    found = find_rows(record, rows)
    gone = list(dict.fromkeys(row for side in SIDES for row in found.gone[side]))
    changed = list(dict.fromkeys(row for side in SIDES for row in found.changed[side]))
    now = {(row.id, row.content) for row in rows}
    relabelled = [row for row in changed if (row.id, row.content) in now]
    others = [row for row in changed if row not in {*relabelled}]
    known = {row.id for row in (*record.train, *record.val, *record.test)}
    added = [row for row in rows if row.id not in known] if not record.others else []
    told = [f"{counted(found.new, 'row')} added{_in_brackets(added)}"] if found.new else []
    for what, which in (("removed", gone), ("relabelled", relabelled), ("changed", others)):
        told += [f"{counted(len(which), 'row')} {what}{_in_brackets(which)}"] if which else []
    return told


def _in_brackets(rows: Sequence[NamedRow]) -> str:
    return f" ({_named(rows)})" if rows else ""


def _same(row: NamedRow, other: NamedRow) -> bool:
    return (row.content, row.truth) == (other.content, other.truth)


@dataclass(frozen=True, slots=True)
class RecordedRows:
    """The rows of the run's own split, as far as they are there still.

    Attributes:
        record: the run's.
        side: ``train``, ``val`` or ``test``, whichever is evaluated.
        tell: takes what a person should know.
        trained: folder of what the run trained.
    """

    record: RowRecord
    side: str
    tell: Callable[[str], None]
    trained: Path

    def divide(self, rows: Sequence[NamedRow], file: Path) -> Split:
        """The run's split.

        Raises:
            DataError: rows to evaluate have changed, or too few of them are left.
        """
        found, wanted = find_rows(self.record, rows), len(getattr(self.record, self.side))
        what = f"{counted(wanted, f'{SIDES[self.side]} row')} of this run"
        changed, gone = found.changed[self.side], found.gone[self.side]
        fault = ""
        if changed:
            fault = f"{len(changed)} of {what} have another picture, text or label than they had: {_named(changed)}"
        elif len(gone) > MAX_GONE * wanted or (gone and wanted - len(gone) < MIN_LEFT):
            fault = f"{len(gone)} of {what} are not there any more: {_named(gone)}"
        if fault:
            remedy = "put them back, or evaluate the run on this as other data: vu eval RUN --data PLACE"
            raise DataError(fault, file=file, remedy=remedy)
        if gone:
            self.tell(f"{len(gone)} of {what} are gone since it began ({_named(gone)}); {wanted - len(gone)} are left")
        if found.new:
            new, are = counted(found.new, "row"), "is" if found.new == 1 else "are"
            self.tell(f"{new} {are} new since this run began, and {are} not evaluated")
        return found.split


@dataclass(frozen=True, slots=True)
class EveryRow:
    """All rows of data that is not the run's own."""

    trained: Path
    side: str = "val"

    def divide(self, rows: Sequence[NamedRow], file: Path) -> Split:
        """Every row, ordered by id; in both parts that every task has."""
        del file
        everything = np.array(sorted(range(len(rows)), key=lambda i: rows[i].id), dtype=np.int64)
        return Split(everything, everything)


def count_trained(record: RowRecord, rows: Sequence[NamedRow]) -> int:
    """How many of ``rows`` have the picture or the texts of a row that the run learned from."""
    seen = {row.content for row in record.train}
    return sum(row.content in seen for row in rows)


def _named(rows: Sequence[NamedRow]) -> str:
    more = ", ..." if len(rows) > EXAMPLES else ""
    return ", ".join(map(str, rows[:EXAMPLES])) + more
