"""What becomes of a sweep's findings when it has ended: its page, and a run of its own at Weights & Biases.

``published.json`` in the sweep's folder remembers of which record each was made, so that a call which found nothing new
writes and logs nothing, and one that failed is made up for by the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pydantic import Field

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.report.sweep.page import write_sweep_page
from vectoruniverse.report.sweep.record import SweepRecord, read_sweep
from vectoruniverse.report.sweep.tables import cell_frame
from vectoruniverse.report.sweep.values import shown
from vectoruniverse.report.sweep.words import answer
from vectoruniverse.runs.environment import environment
from vectoruniverse.runs.files import Record, read_record, write_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.wandb_sweep import JOB_TYPE, WandbSweepTracker
from vectoruniverse.tracking.wandb_sync import sync
from vectoruniverse.tracking.weights_and_biases import WandbSettings

MEMORY_FILE = "published.json"


class Published(Record):
    """Of which record, as its fingerprint, each was made; None: of none yet."""

    page: str | None = None
    wandb_run: str | None = Field(None, alias="wandb run")


def publish(folder: SweepFolder, record: SweepRecord, display: Display) -> None:
    """Write the page, and then tell Weights & Biases, figures included; what fails is a warning.

    Args:
        folder: of the sweep, which nobody else works on.
        record: what sweep.json holds; of its settings, ``eval.report`` asks for page and figures, and ``wandb`` says
            what is logged where.
        display: takes the warnings.
    """
    if not record.finished:
        return
    content, memory = _fingerprint(record), _read(folder)
    for field, kind, act in (("page", "page", _write_page), ("wandb_run", "wandb run", _log)):
        if getattr(memory, field) == content:
            continue
        try:
            if act(folder, record, display):
                memory = memory.model_copy(update={field: content})
                write_record(folder.path / MEMORY_FILE, memory)
        except Exception as error:  # the sweep is done and its record is written, whatever becomes of the rest
            display.warn(f"the sweep's {kind} could not be made: {error}")


def sync_sweep(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Upload what a sweep and its cells wrote offline, one after the other.

    Args:
        folder: of the sweep.

    Yields:
        Name and address of each run as ``tracking.wandb_sync.sync`` tells it; runs that have nothing are passed over.

    Raises:
        ConfigError: the record cannot be read, or there is nothing to upload at all.
        LockedError: another process works on the sweep, or on one of its runs.
        UserError: an upload failed.
    """
    record = read_sweep(folder / "sweep.json")
    told = 0
    with SweepFolder(folder, record.name).lock():
        for cell in (*record.cells, *record.beside):
            run = Run(folder / (cell.path or ""))
            if cell.path is None or not run.config_file.is_file():
                continue
            with run.lock():
                try:
                    address = sync(run.path)
                except ConfigError:  # it was online, or disabled
                    continue
            told += 1
            yield run.path.resolve().name, address
        try:
            address = sync(folder)
        except ConfigError:
            if not told:
                raise
            return
        yield record.name, address


def _write_page(folder: SweepFolder, record: SweepRecord, display: Display) -> bool:
    if not record.config["eval"]["report"]:
        return False
    write_sweep_page(record, folder.path)
    return True


def _log(folder: SweepFolder, record: SweepRecord, display: Display) -> bool:
    """Tell the table, the summary, and the page's figures where the page is of this record."""
    given = record.config["wandb"]
    settings = WandbSettings(**given | {"group": given["group"] or folder.name, "job_type": JOB_TYPE})
    if settings.effective_mode() == "disabled":
        return False
    swept = record.model_dump(include={"over", "seeds", "alpha", "metric"})
    is_drawn = _read(folder).page == _fingerprint(record)
    drawn = sorted((folder.path / "figures").glob("*.png")) if is_drawn else []
    config = {**record.config, "sweep": swept}
    tracker = WandbSweepTracker(
        folder.path, folder.name, config, display.warn, settings, environment=environment().model_dump(), history=()
    )
    return tracker.log_sweep(
        len(record.finished),
        _table(record),
        _summary(record),
        figures={path.stem: path for path in drawn},
        failed=record.state in ("failed", "stopped"),
    )


def _table(record: SweepRecord) -> pd.DataFrame:
    cells, metric = cell_frame(record), record.metric
    values, gains = cells[metric].tolist(), cells[f"{metric} gain"].tolist()
    known = [None not in pair for pair in zip(values, gains, strict=True)]
    columns = {
        metric: values,
        "base": [v - g if both else None for v, g, both in zip(values, gains, known, strict=True)],
        "difference": gains,
        "trained parameters": cells["trained_parameters"].tolist(),
        **{name: cells[name].tolist() for name in ("seconds", "run", "message")},
    }
    index = cells[[*record.over, "seed", "state"]].reset_index(drop=True)
    return index.join(pd.DataFrame(columns, dtype=object))


def _summary(record: SweepRecord) -> dict[str, float | int | str | None]:
    """The answer in words and in numbers; a thing that is not known is None, so that it replaces what was known."""
    found, said = record.compared, answer(record)
    best = [one.mean.estimate for one in found.values if one.values == found.best] if found else []
    chosen = {"best": found and found.best, "smallest_not_worse": found and found.smallest_not_worse}
    return {
        "answer": said.headline,
        "answer_in_full": found.answer if found else said.detail,
        f"best/{record.metric}": best[0] if best else None,
        f"base/{record.metric}": found.base.estimate if found else None,
        "cells/finished": len(record.finished),
        "cells/failed": len(record.failed),
        **{f"{name}/{key}": _plain((values or {}).get(key)) for name, values in chosen.items() for key in record.over},
    }


def _plain(value: object) -> float | int | str | None:
    return value if isinstance(value, int | float | str | None) else shown(value)


def _fingerprint(record: SweepRecord) -> str:
    """SHA-256 of what the record found, without the times of the call that wrote it."""
    return hashlib.sha256(json.dumps(record.model_dump(exclude={"timing"}), sort_keys=True).encode()).hexdigest()


def _read(folder: SweepFolder) -> Published:
    """What was published so far; nothing where that is not known, so that it is published again."""
    try:
        return read_record(folder.path / MEMORY_FILE, Published)
    except DataError:
        return Published()
