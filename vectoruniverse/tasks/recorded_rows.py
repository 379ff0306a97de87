"""The rows of a run in its folder: noted when it begins, and found again when it is judged."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vectoruniverse.config.places import place_key, place_of, with_place
from vectoruniverse.config.sections import Experiment
from vectoruniverse.data.row_record import RowRecord
from vectoruniverse.errors import DataError
from vectoruniverse.runs.files import read_bytes, read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.tasks.base import Data
from vectoruniverse.terminal import Display

DATA_FILE = "data.sha256"
"""Fingerprint of the data that a run is trained on, in the run folder."""

ROWS_FILE = "rows.json"
"""Names of the rows that a run is trained and judged on, in the run folder."""

MAX_BYTES = 2**30
"""Longest file of rows that is read; a row takes about 60 bytes."""

OTHER_DATA = "put it back, or evaluate the run on it as other data: vu eval RUN --data PLACE"


def hold_to_data(run: Run, experiment: Experiment, data: Data) -> None:
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
        train, val = ([rows[i] for i in part] for part in data.split)
        record = RowRecord(
            place=str(where),
            beside=os.path.relpath(where, run.path.absolute()),
            train=train,
            val=val,
            others=len(rows) - len({*train, *val}),
        )
        run.write_text(ROWS_FILE, json.dumps(record.model_dump(), ensure_ascii=False) + "\n")


def refuse_other_data(run: Run, data: Data) -> None:
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


def _is_as_noted(run: Run, data: Data) -> bool:
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
        if where.exists():
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
