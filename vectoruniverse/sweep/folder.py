"""The folder of a sweep: ``sweep.json`` and ``sweep.csv``, and the lock that keeps others out.

The cells' runs are ordinary runs beside it, so that every command that knows runs knows them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vectoruniverse.errors import ConfigError, LockedError
from vectoruniverse.report.sweep.record import SweepRecord, read_sweep
from vectoruniverse.report.sweep.tables import cell_frame
from vectoruniverse.report.tables import write_csv
from vectoruniverse.runs.durable import remove_unfinished
from vectoruniverse.runs.files import write_record
from vectoruniverse.runs.locks import lock_file


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

    def read(self) -> SweepRecord | None:
        """The record as an earlier call left it; None where there is none.

        Raises:
            ConfigError: it is the record of another sweep, or none.
        """
        if not self.record_file.exists():
            return None
        said = f"is not the record of {self.name}"
        try:
            if (record := read_sweep(self.record_file)).name == self.name:
                return record
        except ConfigError as error:
            said += f": {f'{error.key}: ' if error.key else ''}{error.message}"
        remedy = "choose another --out; a sweep with another config or other data is another sweep"
        raise ConfigError(said, file=self.record_file, remedy=remedy)

    def write(self, record: SweepRecord) -> None:
        """Replace both files, each as a whole."""
        write_record(self.record_file, record)
        write_csv(self.table_file, cell_frame(record))

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
        remedy = "wait for it, or end that process first"
        held = partial(LockedError, "another process works on this sweep", file=self.path, remedy=remedy)
        with lock_file(self.path / ".lock", held):
            remove_unfinished(self.path)
            yield
