"""What becomes of a sweep's findings when it has ended: its page, and a run of its own at Weights & Biases.

``published.json`` in the sweep's folder remembers of which record each was made, so that a call which found nothing new
writes and logs nothing, and one that failed is made up for by the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vectoruniverse.errors import ConfigError
from vectoruniverse.report.sweep.page import write_sweep_page
from vectoruniverse.report.sweep.record import check_record, read_record
from vectoruniverse.report.sweep.words import answer
from vectoruniverse.runs.durable import write_durably
from vectoruniverse.runs.environment import environment
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.wandb_run import WandbSettings
from vectoruniverse.tracking.wandb_sweep import JOB_TYPE, SweepFindings, WandbSweepTracker
from vectoruniverse.tracking.wandb_sync import sync

MEMORY_FILE = "published.json"
PAGE, WANDB = "page", "wandb run"

MEASURED = ("seed", "state")
FACTS = ("base", "difference", "trained parameters", "seconds", "run", "message")
"""Columns of the table of cells, before and after the metric."""


def publish(folder: SweepFolder, record: dict[str, Any], display: Display) -> None:
    """Write the page, and then tell Weights & Biases, figures included; what fails is a warning.

    Args:
        folder: of the sweep, which nobody else works on.
        record: what sweep.json holds; of its settings, ``eval.report`` asks for page and figures, and ``wandb`` says
            what is logged where.
        display: takes the warnings.
    """
    if not any(entry["state"] == "finished" for entry in record["cells"]):
        return
    content, memory = _fingerprint(record), _read(folder.path / MEMORY_FILE)
    for kind, act in ((PAGE, _write_page), (WANDB, _log)):
        if memory.get(kind) == content:
            continue
        try:
            if act(folder, record, display):
                memory[kind] = content
                write_durably(folder.path / MEMORY_FILE, json.dumps(memory) + "\n")
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
    record = check_record(read_record(folder / "sweep.json"))
    told = 0
    with SweepFolder(folder, record.name).lock():
        for cell in record.cells:
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


def findings(folder: SweepFolder, record: dict[str, Any]) -> SweepFindings:
    """The record as a table and a summary, with the page's figures where the page is of this record."""
    states = [entry["state"] for entry in record["cells"]]
    is_drawn = _read(folder.path / MEMORY_FILE).get(PAGE) == _fingerprint(record)
    drawn = sorted((folder.path / "figures").glob("*.png")) if is_drawn else []
    return SweepFindings(
        done=states.count("finished"),
        columns=(*record["over"], *MEASURED, record["metric"], *FACTS),
        rows=[_row(entry, list(record["over"]), record["metric"]) for entry in record["cells"]],
        summary=_summary(record),
        figures={path.stem: path for path in drawn},
        failed=record["state"] == "failed",
    )


def _row(entry: dict[str, Any], keys: list[str], metric: str) -> tuple[object, ...]:
    value = entry.get("metrics", {}).get(metric)
    difference = entry.get("intervals", {}).get(metric, {}).get("difference", [None])[0]
    base = None if value is None or difference is None else value - difference
    facts = (base, difference, entry.get("trained_parameters"), entry.get("seconds"), entry["run"], entry["message"])
    return (*(entry["values"][key] for key in keys), entry["seed"], entry["state"], value, *facts)


def _summary(record: dict[str, Any]) -> dict[str, float | int | str | None]:
    """The answer in words and in numbers; a thing that is not known is None, so that it replaces what was known."""
    found, states = record["statistics"] or {}, [entry["state"] for entry in record["cells"]]
    said = answer(check_record(record))
    best = next((one["mean"][0] for one in found.get("values", []) if one["values"] == found["best"]), None)
    told: dict[str, float | int | str | None] = {
        "answer": said.headline,
        "answer_in_full": found.get("answer") or said.detail,
        f"best/{record['metric']}": best,
        f"base/{record['metric']}": found["base"][0] if "base" in found else None,
        "cells/finished": states.count("finished"),
        "cells/failed": states.count("failed") + states.count("stopped"),
    }
    for name in ("best", "smallest_not_worse"):
        values = found.get(name) or {}
        told |= {f"{name}/{key}": _plain(values.get(key)) for key in record["over"]}
    return told


def _plain(value: object) -> float | int | str | None:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, ensure_ascii=False)


def _write_page(folder: SweepFolder, record: dict[str, Any], display: Display) -> bool:
    if not record["config"]["eval"]["report"]:
        return False
    write_sweep_page(record, folder.path)
    return True


def _log(folder: SweepFolder, record: dict[str, Any], display: Display) -> bool:
    given = record["config"]["wandb"]
    settings = WandbSettings(**given | {"group": given["group"] or folder.name, "job_type": JOB_TYPE})
    if settings.effective_mode() == "disabled":
        return False
    config = {**record["config"], "sweep": {key: record[key] for key in ("over", "seeds", "alpha", "metric")}}
    tracker = WandbSweepTracker(folder.path, folder.name, config, display.warn, settings, environment())
    return tracker.log_sweep(findings(folder, record))


def _fingerprint(record: dict[str, Any]) -> str:
    """SHA-256 of what the record found, without the times of the call that wrote it."""
    content = {key: value for key, value in record.items() if key != "timing"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> dict[str, object]:
    """What was published so far; nothing where that is not known, so that it is published again."""
    try:
        memory = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return memory if isinstance(memory, dict) else {}
