"""``metrics.jsonl``: one line per logged step, readable while the run runs and whatever ends it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vectoruniverse.runs.files import check_regular, open_regular, strict
from vectoruniverse.runs.records import finite
from vectoruniverse.tracking.contract import Status, Tracker, Value


class JsonlTracker(Tracker):
    """Writes ``{"step": …, "seconds": …, …}``, one strict JSON object a line, flushed line by line.

    ``seconds`` is the wall-clock time of the run; it goes on after a resume. JSON has no NaN and no infinity: they are
    written as the strings "NaN", "Infinity" and "-Infinity", which ``float()`` and JavaScript's ``Number()`` read back.

    Args:
        path: the file.
        resume_step: the last step to keep of an earlier part of this run; None starts an empty file.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        check_regular(path, remedy="remove it")
        elapsed = 0.0 if resume_step is None else _drop_beyond(path, resume_step)
        self._start = time.monotonic() - elapsed
        self._stream = path.open("w" if resume_step is None else "a", encoding="utf-8", newline="\n")

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Append one line."""
        assert not {"step", "seconds"} & values.keys(), values
        seconds = round(time.monotonic() - self._start, 3)
        record = {"step": step, "seconds": seconds, **values}
        self._stream.write(json.dumps(strict(record), ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()

    def finish(self, status: Status) -> None:
        """Close the file, with every line on the disk."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()


def read_metrics(path: Path) -> Iterator[dict[str, Value]]:
    """Yield the lines of a ``metrics.jsonl``; lines that are torn or are no record are passed over.

    Raises:
        DataError: it is missing, or no regular file.
    """
    with open_regular(path) as stream:
        for line in stream:
            if (record := _record(line)) is not None:
                yield record


def _record(line: bytes) -> dict[str, Value] | None:
    if not line.endswith(b"\n"):  # a torn number is still a number: `"step": 12` of 123
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    usable = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if usable else None


def _drop_beyond(path: Path, resume_step: int) -> float:
    """Drop lines after ``resume_step`` and torn ones, and return the seconds of the last line that stays."""
    if not path.exists():
        return 0.0
    elapsed = 0.0
    temporary = path.with_name(f".{path.name}.tmp")
    with path.open("rb") as source, temporary.open("wb") as target:
        for line in source:
            record = _record(line)
            if record is None or int(record["step"]) > resume_step:
                continue
            target.write(line)
            if (seconds := finite(record.get("seconds"))) is not None:
                elapsed = seconds
        target.flush()
        os.fsync(target.fileno())
    temporary.replace(path)
    return elapsed
