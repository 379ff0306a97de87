"""The samples of shards as a table: rows are numbered through all shards, and told by shard and number in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vectoruniverse.data.findings import FaultError, Place, located
from vectoruniverse.data.normalise import canonical, shortened
from vectoruniverse.data.shards.base import KEY, Packed, Shard
from vectoruniverse.data.table import MAX_COLUMNS, Record, Table

_SHOWN = 3  # faults of shards that a message names


@dataclass(frozen=True, slots=True)
class PackedTable:
    """What shards hold.

    Attributes:
        table: their cells; lines count samples, from 1.
        pictures: of each record, or what is wrong with it.
    """

    table: Table
    pictures: Sequence[Packed | FaultError]

    def with_keys(self) -> PackedTable:
        """The same with a column ``__key__``, where there is none: shard and number."""
        table = self.table
        if KEY in table.header:
            return self
        names = (located(table.parts, Place("", record.line)) for record in table.records)
        for record, name in zip(table.records, names, strict=True):
            record.cells.append(f"{name.file}/{name.line}")
        return replace(self, table=replace(table, header=[*table.header, KEY], written=[*table.written, KEY]))

    def picture(self, line: int) -> Packed:
        """That of a line.

        Raises:
            FaultError: it has none that can be used.
        """
        found = self.pictures[line - 1]
        if isinstance(found, FaultError):
            raise found
        return found


def read_shards(
    shards: Sequence[Shard], folder: Path, tell: Callable[[int, int], None] = lambda done, total: None
) -> PackedTable:
    """Read the cells of all samples; no picture.

    Args:
        shards: in order.
        folder: that they are in.
        tell: called with how many shards are read and how many there are.

    Raises:
        FaultError: a shard is damaged, or two columns have one name.
    """
    written: dict[str, int] = {}
    sparse: list[dict[int, str]] = []
    pictures: list[Packed | FaultError] = []
    parts: list[tuple[str, int]] = []
    faults: list[FaultError] = []
    for done, shard in enumerate(shards, 1):
        parts.append((shard.name, len(sparse)))
        try:
            for number, sample in enumerate(shard.samples()):
                cells = {written.setdefault(name, len(written)): cell for name, cell in sample.cells.items()}
                if len(written) > MAX_COLUMNS:
                    raise shard.broken(f"has more than {MAX_COLUMNS:,} columns")
                sparse.append(cells)
                named = sample.picture
                pictures.append(named if isinstance(named, FaultError) else Packed(shard, number, named))
        except FaultError as fault:
            faults.append(fault)
        tell(done, len(shards))
    if faults:
        raise _together(faults)
    header = [canonical(name) for name in written]
    if len({*header}) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        message, remedy = f"column {shortened(twice) or repr('')} occurs twice", "Rename one of the two."
        raise FaultError(message, kind="unreadable_table", file=folder, remedy=remedy)
    width = range(len(header))
    records = [Record(i, [cells.get(place, "") for place in width], i) for i, cells in enumerate(sparse, 1)]
    return PackedTable(Table(folder, folder.name, header, list(written), records, [], tuple(parts)), pictures)


def _together(faults: Sequence[FaultError]) -> FaultError:
    """One fault for all shards that cannot be read."""
    first, *more = faults
    if not more:
        return first
    named = "; ".join(str(one) for one in more[: _SHOWN - 1])
    rest = f"; and {len(more) - _SHOWN + 1} more" if len(more) >= _SHOWN else ""
    message = f"{first.message}; {named}{rest}"
    return FaultError(
        message, kind=first.kind, file=first.file, rows=sum(one.rows for one in faults), remedy=first.remedy
    )
