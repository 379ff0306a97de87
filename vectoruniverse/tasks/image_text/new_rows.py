"""A table of new pictures and texts, whose labels are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse.data.decoding import PictureFile
from vectoruniverse.data.findings import FaultError, Rows
from vectoruniverse.data.shards.find import ENDINGS, is_pattern
from vectoruniverse.data.table import Table
from vectoruniverse.tasks.image_text.metadata import open_table
from vectoruniverse.tasks.image_text.settings import DataConfig


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row whose labels are asked for.

    Attributes:
        line: as of ``Row``.
        id: as of ``Row``, not necessarily unique.
        picture: the picture, links followed, or its place in a shard; None where there is none.
        text: the filled-in template; None where it is empty.
        labels: those that the table has already.
    """

    line: int
    id: str
    picture: PictureFile | None
    text: str | None
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewRows:
    """A table as it is written, and what was read of it."""

    table: Table
    read: Rows[NewRow]


def read_new_rows(file: Path, data: DataConfig, *, needs: Collection[str], takes: Collection[str]) -> NewRows:
    """Read a table of new pictures and texts, which lie beside it as those of ``data`` do; no filter applies.

    Args:
        file: the table, or shards, or a folder of either.
        data: how the table that a run was trained on is read.
        needs: which of ``picture`` and ``text`` a row must have; one of ``takes`` in any case.
        takes: which of both are looked for.

    Raises:
        DataError: the file cannot be read as a table, or lacks a column.
        ConfigError: the template names a column that is not there.
    """
    plain = not file.is_dir() and file.suffix.lower() not in ENDINGS.values() and not is_pattern(str(file))
    own = {"root": str(file.parent), "metadata": file.name, "format": "folder"} if plain else {"root": str(file)}
    if not plain:
        own["format"] = "auto"
    return new_rows(data.model_copy(update=own), needs=needs, takes=takes)


def new_rows(data: DataConfig, *, needs: Collection[str], takes: Collection[str]) -> NewRows:
    """Every row of data as a table of new ones; arguments and errors as of ``read_new_rows``."""
    own: dict[str, Any] = {"include": {}, "exclude": {}, "split": data.split.model_copy(update={"column": None})}
    if "text" not in takes:
        own["text"] = ""
    table, reader = open_table(data.model_copy(update=own), pictures="picture" in takes)

    def row(line: int, columns: Mapping[str, str]) -> NewRow:
        labels, found, faults = reader.labels(columns), dict[str, Any](), dict[str, FaultError]()
        for what in takes:
            try:
                found[what] = reader.picture(line, columns) if what == "picture" else reader.text(columns, labels)
            except FaultError as fault:
                faults[what] = fault
        if faults and (not found or not faults.keys().isdisjoint(needs)):
            raise next(iter(faults.values()))
        return NewRow(line, reader.id(columns), found.get("picture"), found.get("text"), labels)

    return NewRows(table, table.read(row, reader.id))
