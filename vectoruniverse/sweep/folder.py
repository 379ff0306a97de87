"""The folder of a sweep: ``sweep.json`` and ``sweep.csv``, and the lock that keeps others out.

The cells' runs are ordinary runs beside it, so that every command that knows runs knows them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse.errors import ConfigError, DataError, LockedError
from vectoruniverse.report.sweep.record import MAX_BYTES, REMEDY
from vectoruniverse.runs.durable import remove_unfinished, write_durably
from vectoruniverse.runs.files import read_bytes
from vectoruniverse.runs.locks import lock_file
from vectoruniverse.sweep.findings import sweep_csv

VERSION = 1


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Where a sweep's findings are."""

    path: Path
    name: str

    @property
    def record_file(self) -> Path:
        """The findings."""
        return self.path / "sweep.json"

    @property
    def table_file(self) -> Path:
        """The cells as a table."""
        return self.path / "sweep.csv"

    @property
    def page_file(self) -> Path:
        """The page, once it is written."""
        return self.path / "report.html"

    def read(self) -> dict[str, Any]:
        """The record as an earlier call left it; empty where there is none.

        Raises:
            ConfigError: it is the record of another sweep, or none.
        """
        if not self.record_file.exists():
            return {}
        try:
            record = json.loads(read_bytes(self.record_file, limit=MAX_BYTES, remedy=REMEDY))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            record = None
        if not isinstance(record, dict) or record.get("version") != VERSION or record.get("name") != self.name:
            raise ConfigError(
                f"is not the record of {self.name}",
                file=self.record_file,
                remedy="choose another --out; a sweep with another config or other data is another sweep",
            )
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Replace both files, each as a whole."""
        write_durably(self.record_file, json.dumps(record, indent=1, allow_nan=False) + "\n")
        write_durably(self.table_file, sweep_csv(record))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes off this sweep; the system frees the lock when the process dies.

        Raises:
            ConfigError: the folder cannot be made.
            LockedError: another process works on it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make this folder: {error.strerror}", file=self.path, remedy="choose another --out"
            ) from error
        with lock_file(self.path / ".lock", self._held):
            remove_unfinished(self.path)
            yield

    def _held(self) -> LockedError:
        return LockedError(
            "another process works on this sweep", file=self.path, remedy="wait for it, or end that process first"
        )
