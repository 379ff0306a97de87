"""Append-only JSON lines that survive a writer being killed in the midst of a line."""

from __future__ import annotations

import json
import os
from pathlib import Path


class JsonLines:
    """An append-only file of JSON objects, one a line. Writers take turns under a lock of the caller's."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_to = path, 0

    def read_new(self) -> list[object]:
        """Whole lines that were not read before; None for a damaged one."""
        with self._path.open("rb") as handle:
            handle.seek(self._read_to)
            tail = handle.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return [_parse(line) for line in whole.split(b"\n")[:-1]]

    def append(self, rows: list[dict[str, object]]) -> None:
        """Add lines after the last whole one that ``read_new`` saw: a torn end is cut off."""
        if not rows:
            return
        with self._path.open("r+b") as handle:
            handle.truncate(self._read_to)
            handle.seek(self._read_to)
            handle.write("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))
            handle.flush()
            os.fsync(handle.fileno())


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
