"""Records of one size on disk, found by digests: append-only, shared by processes, and unharmed by SIGKILL.

A store is a folder of

- a file of records, one after the other; record n is slot n;
- ``index.jsonl``: its journal, ``{"sha256": of what the record is made of, "slot": n, "crc32": of the record}`` and
  whole numbers that a kind of store notes beside; the last line of a digest counts;
- ``lock``: held while records are looked up, made and written.

A slot is written once, and named in the journal only after its bytes are on disk. So SIGKILL at any moment leaves at
worst bytes that no line names (the next writer overwrites them) and a torn last line (cut off by the next writer).
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from vectoruniverse.data.caches import hold, keep_within
from vectoruniverse.data.journal import JsonLines
from vectoruniverse.errors import ConfigError, LockedError, ResourceError

LOCK_SECONDS = 600.0
POLL_SECONDS = 0.005


class Record(NamedTuple):
    """Where a record is, the checksum of its bytes, and what is noted beside."""

    slot: int
    crc: int
    noted: tuple[int, ...]


Fresh = tuple[NDArray[np.uint8], tuple[int, ...]]
"""A record that has to be written, and what is noted beside."""


class RecordStore:
    """Records on disk; several processes may use the same folder at once.

    Args:
        folder: where; ``make_folder`` comes first.
        file: name of the file of records.
        shape: of a record, in bytes.
        noted: names of the whole numbers that the journal notes beside a record; a line without them counts for none.
        what: the store in words, for error messages.
    """

    def __init__(
        self, folder: Path, file: str, shape: tuple[int, ...], *, noted: tuple[str, ...] = (), what: str
    ) -> None:
        self._folder, self._file, self._noted, self._what = folder, folder / file, noted, what
        self._record_bytes = int(np.prod(shape))
        self._journal = JsonLines(folder / "index.jsonl")
        self._records: NDArray[np.uint8] = np.empty((0, *shape), np.uint8)
        self._known: dict[str, Record] = {}  # by sha256
        self._next_slot = 0
        self._grown = False  # since others gave way to it

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone with the folder, and up to date with what it holds; where it grew, others give way above the limit.

        Raises:
            ConfigError: the folder cannot be written.
            ResourceError: the disk is full.
            LockedError: another process held the lock for ten minutes.
        """
        with disk_errors_told(self._folder, self._what):
            try:
                held = FileLock(self._folder / "lock").acquire(timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS)
            except Timeout as error:
                message, remedy = f"another process holds the {self._what}", "Wait for that process, or end it."
                raise LockedError(message, file=self._folder, remedy=remedy) from error
            with held:
                self._catch_up()
                yield
        if self._grown:
            self._grown = False
            keep_within(self._folder.parent)

    def _catch_up(self) -> None:
        """Take in what this or another process has appended since the last look."""
        shape = self._records.shape[1:]
        count = self._file.stat().st_size // self._record_bytes
        if count != len(self._records):
            mapped = (
                np.memmap(self._file, np.uint8, mode="r", shape=(count, *shape)) if count else np.empty((0, *shape))
            )
            self._records = np.asarray(mapped, np.uint8)
        for row in self._journal.read_new():
            self._next_slot += 1  # a damaged line counts too: its slot may be in use elsewhere
            match row:
                case {"sha256": str(digest), "slot": int(slot), "crc32": int(crc), **beside} if 0 <= slot < count:
                    noted = tuple(number for name in self._noted if isinstance(number := beside.get(name), int))
                    if len(noted) == len(self._noted):
                        self._known[digest] = Record(slot, crc, noted)
                        self._next_slot = max(self._next_slot, slot + 1)

    def _intact(self, digest: str) -> Record | None:
        """The record of a digest, where it is there and undamaged."""
        known = self._known.get(digest)
        if known is None or known.slot >= len(self._records) or zlib.crc32(self._records[known.slot].data) != known.crc:
            return None
        return known

    def _append(self, fresh: Mapping[str, Fresh]) -> None:
        """Write records, by digest; only within ``_writing``."""
        journal_rows: list[dict[str, object]] = []
        with self._file.open("r+b") as handle:
            handle.seek(self._next_slot * self._record_bytes)
            for slot, (digest, (record, noted)) in enumerate(fresh.items(), self._next_slot):
                handle.write(record.data)
                row = {"sha256": digest, "slot": slot, "crc32": zlib.crc32(record.data)}
                journal_rows.append(row | dict(zip(self._noted, noted, strict=True)))
            handle.flush()
            os.fsync(handle.fileno())
        self._journal.append(journal_rows)
        self._grown = self._grown or bool(fresh)
        self._catch_up()


def make_folder(folder: Path, files: tuple[str, ...], what: str) -> None:
    """Make a store's folder and its files, where they are not there, and hold it; others give way above the limit.

    Raises:
        ConfigError: they cannot be made.
    """
    made = False
    while not made:  # until nobody removes it in between
        with disk_errors_told(folder, what):
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                for name in files:
                    with (folder / name).open("ab"):
                        pass
                made = hold(folder)
    keep_within(folder.parent)


@contextlib.contextmanager
def disk_errors_told(folder: Path, what: str) -> Iterator[None]:
    """Say what can be done about a disk that is full, or a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "Free some space, or set data.cache_dir (or $VU_CACHE) to a folder on a larger disk."
            raise ResourceError(f"no space left for the {what}", file=folder, remedy=remedy) from error
        remedy = "Set data.cache_dir (or $VU_CACHE) to a folder that you can write."
        message = f"the {what} cannot be written ({error.strerror or error})"
        raise ConfigError(message, file=folder, key="data.cache_dir", remedy=remedy) from error
