"""Reading a comma- or tab-separated file strictly: what would shift or swallow rows is an error with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vectoruniverse.errors import DataError


class Record(NamedTuple):
    """Cells of a record, and the physical 1-based line where it begins (cells may hold line breaks)."""

    line: int
    cells: list[str]


def read_table(file: Path) -> tuple[list[str], list[Record]]:
    """Header and records of a UTF-8 file, with or without a byte order mark.

    Tabs separate the cells of a ``.tsv`` file, and of any other whose header has more tabs than commas.

    Raises:
        DataError: the file is missing, empty, not UTF-8, holds NUL bytes or an unclosed quote, or repeats a column.
    """
    content = _read_text(file)
    first = content.lstrip("\r\n").splitlines()[0]
    tabs = file.suffix.lower() == ".tsv" or first.count("\t") > first.count(",")
    records = list(_records(file, content, "\t" if tabs else ","))
    if not records:
        raise DataError("the file is empty", file=file, remedy="It needs a header and a row for each picture.")
    line, header = records[0]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(
            f"column {twice[0]!r} occurs twice", file=file, line=line, remedy="Rename or remove one of them."
        )
    return header, records[1:]


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes() if file.is_file() else None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file, remedy="Check its permissions.") from error
    if data is None:
        raise DataError("there is no such file", file=file, remedy="Check data.root and data.metadata.")
    if (nul := data.find(b"\0")) >= 0:
        raise DataError("holds a NUL byte", file=file, line=_line_of(data, nul), remedy="Save it as UTF-8 text.")
    try:
        content = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = _line_of(data, error.start)
        raise DataError("is not UTF-8 here", file=file, line=line, remedy="Save it as UTF-8.") from error
    if not content.strip():
        raise DataError("the file is empty", file=file, remedy="It needs a header and a row for each picture.")
    return content


def _line_of(data: bytes, position: int) -> int:
    return len((data[:position] + b".").splitlines())


def _records(file: Path, content: str, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            unclosed = "unexpected end" in str(error) or "field limit" in str(error)
            what = "a quote in this row is never closed" if unclosed else f"a quote in this row is misplaced: {error}"
            remedy = 'Close the quote; write a quote within a quoted cell twice ("").'
            raise DataError(what, file=file, line=line, remedy=remedy) from error
        if cells is None:
            return
        if cells:  # an empty line is no record
            yield Record(line, cells)
