"""Data sets that Hugging Face `datasets` saved to disk: Arrow files, which that library maps into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import Block, Sample, Shard
from vectoruniverse.data.shards.columns import find_columns
from vectoruniverse.data.shards.find import STATE_FILE
from vectoruniverse.runs.files import check_regular, read_bytes

_ROWS = 4096
_BLOCK = 8 * 2**20  # bytes that are read together
SPLIT = "split"
"""Column that says of which part a row is, where the folder has parts and no such column."""


class SavedShard(Shard):
    """One data set; of a dictionary of them, one part.

    Args:
        path, name, part: as of ``Shard``.
        image: column of the pictures; None: the only one that holds bytes.
        separator: between several labels in a cell.

    Raises:
        FaultError: the folder is not what `datasets` saves, or names files elsewhere.
    """

    def __init__(self, path: Path, name: str, part: str = "", *, image: str | None, separator: str) -> None:
        super().__init__(path, name, part)
        self._separator = separator
        self._rows = self._load()
        self._columns = find_columns(self._rows.features.arrow_schema, image)

    def _load(self) -> Any:
        import datasets

        for name in _files_of(self.path):
            file = self.path / name
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise self.broken(f"its {STATE_FILE} names a file elsewhere: {name!r}")
            check_regular(file, inside=self.path)
        try:
            return datasets.load_from_disk(str(self.path.absolute())).with_format("arrow")
        except Exception as error:  # a damaged file makes the library raise anything
            raise self.broken(f"is not what `datasets` saves ({type(error).__name__}: {error})"[:300]) from error

    def samples(self) -> Iterator[Sample]:
        """See ``Shard``."""
        texts = self._rows.select_columns([*self._columns.texts, self._columns.image])
        for start in range(0, len(texts), _ROWS):
            table = texts[start : start + _ROWS]
            for sample in self._columns.samples(table, self._separator):
                cells = sample.cells
                if self.part and SPLIT not in cells:
                    cells = {**cells, SPLIT: self.part.strip("/")}
                yield Sample(cells, sample.picture)

    def content(self, number: int) -> bytes:
        """See ``Shard``."""
        array = self._rows[number : number + 1][self._columns.image]
        return self._columns.content(array, 0)

    def blocks(self) -> list[Block]:
        """Rows next to each other, some megabytes of them."""
        total = len(self._rows)
        row_bytes = self._rows.data.nbytes // max(1, len(self._rows.data)) + 1
        rows = max(1, _BLOCK // row_bytes)
        return [Block(min(rows, total - start), rows * row_bytes) for start in range(0, total, rows)]


def _files_of(folder: Path) -> list[str]:
    """Names of the Arrow files of a data set, and of its rows' order."""
    file = folder / STATE_FILE
    try:
        state = json.loads(read_bytes(file, inside=folder))
        named = [*state["_data_files"], *(state.get("_indices_files") or [])]
        return [str(one["filename"]) for one in named]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FaultError("is damaged", kind="broken_shard", file=file, remedy="Save it again.") from error
