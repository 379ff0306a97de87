"""Parquet files with a column of picture bytes, as Hugging Face's data sets have.

Parquet is read by row groups. Those of a usual size are read as a whole and the last few are kept, so that rows near
each other cost one read; a group that is too large for that is read on from where the last row was.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vectoruniverse.data.shards.base import Block, Sample, Shard
from vectoruniverse.data.shards.columns import Columns, find_columns

MAX_BLOCK = 64 * 2**20
"""Bytes of the largest row group that is read as a whole."""

KEPT_BYTES = 256 * 2**20
"""Bytes of row groups that all shards of a process keep."""

MAX_TEXTS = 2**30
"""Bytes of texts in one row group; more is refused before it is read."""

_STREAMED_ROWS = 64
_TEXT_ROWS = 4096


class Kept:
    """The last row groups that were read, by shard and number, up to so many bytes; safe in threads."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit, self._bytes = KEPT_BYTES if limit is None else limit, 0
        self._found: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> Any | None:
        """What is kept; it is now the last one to be dropped."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: tuple[str, int], array: Any) -> None:
        """Keep it, and drop what was not asked for the longest."""
        with self._lock:
            self._bytes += array.nbytes
            self._found[key] = array
            while self._bytes > self._limit and len(self._found) > 1:
                self._bytes -= self._found.popitem(last=False)[1].nbytes


class ParquetShard(Shard):
    """A Parquet file.

    Args:
        path, name: as of ``Shard``.
        image: column of the pictures; None: the only one that holds bytes.
        separator: between several labels in a cell.
        kept: where row groups are kept.

    Raises:
        FaultError: it is no Parquet file, or has no column of pictures.
    """

    def __init__(self, path: Path, name: str, *, image: str | None, separator: str, kept: Kept) -> None:
        super().__init__(path, name)
        self._separator, self._kept = separator, kept
        self._lock = threading.Lock()
        with self._told():
            self._file = pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=2**20)
            facts = self._file.metadata
            groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
        self._columns: Columns = find_columns(self._file.schema_arrow, image)
        self._starts = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        self._bytes = [self._group_bytes(group) for group in groups]
        self._streamed: tuple[int, int, Any, Iterator[Any]] | None = None  # group, first row of the batch, it, the rest

    def _group_bytes(self, group: Any) -> int:
        """Bytes of a row group's pictures.

        Raises:
            FaultError: its texts are too large to be read.
        """
        sizes = {"image": 0, "text": 0}
        for i in range(group.num_columns):
            column = group.column(i)
            own = column.path_in_schema.partition(".")[0] == self._columns.image
            sizes["image" if own else "text"] += column.total_uncompressed_size
        if sizes["text"] > MAX_TEXTS:
            raise self.broken(f"a row group holds {sizes['text']:,} bytes beside pictures, more than {MAX_TEXTS:,}")
        return sizes["image"]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, MemoryError) as error:  # pa.ArrowInvalid is a ValueError, others are not
            reason = str(error).partition("\n")[0][:200]
            raise self.broken(f"is damaged, or not a Parquet file ({reason})") from error

    def samples(self) -> Iterator[Sample]:
        """See ``Shard``."""
        columns = [*self._columns.texts, *self._columns.paths]
        for group in range(len(self._bytes)):
            count = 0
            batches = self._batches(_TEXT_ROWS, group, columns)
            for batch in batches:
                count += len(batch)
                yield from self._columns.samples(pa.Table.from_batches([batch]), self._separator)
            rows = self._starts[group + 1] - self._starts[group]
            if count != rows:
                raise self.broken(f"row group {group + 1} holds {count:,} rows and should hold {rows:,}")

    def _batches(self, rows: int, group: int, columns: list[str]) -> Iterator[Any]:
        """Parts of a row group."""
        if not columns:  # pyarrow would give no rows at all
            yield pa.RecordBatch.from_pydict({"": pa.nulls(self._starts[group + 1] - self._starts[group])})
            return
        with self._told():
            yield from self._file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)

    def content(self, number: int) -> bytes:
        """See ``Shard``."""
        group = bisect.bisect_right(self._starts, number) - 1
        row = number - self._starts[group]
        if self._bytes[group] > MAX_BLOCK:
            with self._lock:
                first, array = self._stream_to(group, row)
            return self._columns.content(array, row - first)
        key = (str(self.path), group)
        with self._lock:  # so that a group is read once, and pyarrow's file by one thread
            array = self._kept.get(key)
            if array is None:
                with self._told():
                    table = self._file.read_row_group(group, columns=[self._columns.image], use_threads=False)
                array = table.column(0)
                self._kept.put(key, array)
        return self._columns.content(array, row)

    def _stream_to(self, group: int, row: int) -> tuple[int, Any]:
        """The batch of a row, and its first row: the one at hand, a later one, or from the group's beginning."""
        held = self._streamed
        if held is None or held[0] != group or row < held[1]:
            held = (group, 0, (), iter(self._batches(_STREAMED_ROWS, group, [self._columns.image])))
        _, first, array, rest = held
        while row >= first + len(array):
            first += len(array)
            array = next(rest).column(0)
        self._streamed = group, first, array, rest
        return first, array

    def blocks(self) -> list[Block]:
        """Row groups."""
        return [
            Block(end - start, size) for (start, end), size in zip(pairwise(self._starts), self._bytes, strict=True)
        ]
