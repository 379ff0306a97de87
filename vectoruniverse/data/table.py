"""Reading a comma- or tab-separated file strictly: what would shift or swallow rows is told with its line.

Quotes mean what each form makes them mean. With commas, a cell may be quoted as RFC 4180 says, and then hold commas and
line ends; a misplaced quote is an error. With tabs, programs do not agree: spreadsheets and pandas quote as with
commas, others write quotes as plain characters, so that one caption may begin with a quote and a later one end with
one. A tab-separated file is read by whichever of the two makes rows of its lines, and refused where both could be.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vectoruniverse.data.columns import shortened
from vectoruniverse.data.normalise import canonical
from vectoruniverse.data.text_file import TextFileError, read_text_file

MAX_COLUMNS = 10_000
"""A header of more columns is refused: it is a table that lies on its side, or no table."""

_QUOTE = '"'


class Record(NamedTuple):
    """Cells of a record, and the physical 1-based lines where it begins and ends (cells may hold line breaks)."""

    line: int
    cells: list[str]
    end: int


class Swallowed(NamedTuple):
    """A record with a quoted cell over several lines, and what these lines would be as rows of their own."""

    line: int
    end: int
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds.

    Attributes:
        file: it.
        header: names of the columns in canonical form, each once.
        written: the same as the file writes them.
        records: in the file's order; their cells are as many as the header's only where the row is sound.
        swallowed: records whose every line would be a sound row of its own.
    """

    file: Path
    header: list[str]
    written: list[str]
    records: list[Record]
    swallowed: list[Swallowed]


def read_table(file: Path, encoding: str = "utf-8", *, key: str = "data.encoding") -> Table:
    """Read a file with a header, with or without a byte order mark.

    Tabs separate the cells of a ``.tsv`` file, and of any other whose header has more tabs than commas.

    Args:
        file: a regular file.
        encoding: a name that Python knows.
        key: config key or option of the encoding, for messages.

    Raises:
        ConfigError: there is no such encoding.
        TextFileError: the file cannot be read, is empty, holds an unclosed quote, or repeats a column.
    """
    content = read_text_file(file, encoding, key=key)
    if not content.strip():
        raise _fault("the file is empty", file, None, "It needs a header and a row for each picture or text.")
    lines = io.StringIO(content, newline="").readlines()
    first = next(line for line in lines if line.strip("\r\n"))
    tabs = file.suffix.lower() == ".tsv" or first.count("\t") > first.count(",")
    if (columns := first.count("\t" if tabs else ",") + 1) > MAX_COLUMNS:
        message = f"the header has {columns:,} columns, more than {MAX_COLUMNS:,}"
        raise _fault(message, file, 1, "Write one row for each picture or text, and its facts in columns.")
    with _cells_as_long_as(len(content)):
        records = _tab_records(file, lines) if tabs else list(_records(file, lines, ","))
    header, records = records[0], records[1:]
    names = _header(file, header)
    swallowed = [
        Swallowed(record.line, record.end, [line.strip("\r\n").split(",") for line in _held(lines, record)])
        for record in records
        if not tabs and len(names) > 1 and _like_rows(lines, record, ",", names)
    ]
    return Table(file, names, header.cells, records, swallowed)


def _header(file: Path, header: Record) -> list[str]:
    names = [canonical(name) for name in header.cells]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise _fault(
            f"column {shortened(twice[0]) or repr('')} occurs twice",
            file,
            header.line,
            "Rename or remove one of them; Unicode form and space around a name do not count.",
        )
    return names


def _tab_records(file: Path, lines: Sequence[str]) -> list[Record]:
    """Records of tab-separated lines by the reading of quotes that fits them."""
    plain = [Record(n, [_unquoted(cell) for cell in cells], n) for n, cells in _split_lines(lines)]
    if not any(_QUOTE in line for line in lines):
        return plain
    try:
        quoted = list(_records(file, lines, "\t"))
    except TextFileError:
        return plain  # quotes as no program that means them so would write
    long = [record for record in quoted if record.end > record.line]
    if not long:
        return max(plain, quoted, key=_sound)
    rows = [_like_rows(lines, record, "\t", plain[0].cells) for record in long]
    if all(rows) and len(plain[0].cells) > 1:
        return plain
    for record, is_rows in zip(long, rows, strict=True):
        if is_rows or any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in record.cells):
            raise TextFileError(
                f"a quote opens in this row and closes in line {record.end}: one cell over "
                f"{record.end - record.line + 1} lines, or rows of their own with quotes as plain characters?",
                kind="broken_quote",
                file=file,
                line=record.line,
                remedy="Save the table with commas (.csv), where quotes have one meaning.",
            )
    return quoted


def _split_lines(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, 1):
        if text := line.rstrip("\r\n"):  # an empty line is no record
            yield number, text.split("\t")


def _unquoted(cell: str) -> str:
    """The cell without its quotes where it is one that a spreadsheet would have written."""
    inner = cell[1:-1]
    sound = len(cell) > 1 and cell[0] == cell[-1] == _QUOTE and _QUOTE not in inner.replace(_QUOTE * 2, "")
    return inner.replace(_QUOTE * 2, _QUOTE) if sound else cell


def _sound(records: Sequence[Record]) -> int:
    """Number of records that have as many cells as the header."""
    return sum(len(record.cells) == len(records[0].cells) for record in records)


def _like_rows(lines: Sequence[str], record: Record, mark: str, header: Sequence[str]) -> bool:
    """Whether every line of a record would be a sound row if its quotes were plain characters."""
    held = _held(lines, record)
    return len(held) > 1 and all(line.count(mark) == len(header) - 1 for line in held)


def _held(lines: Sequence[str], record: Record) -> list[str]:
    return [line for line in lines[record.line - 1 : record.end] if line.strip("\r\n")]


@contextlib.contextmanager
def _cells_as_long_as(characters: int) -> Iterator[None]:
    """Let csv read cells of this length; its limit belongs to the process, and is set back."""
    before = csv.field_size_limit(max(csv.field_size_limit(), characters))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(file: Path, lines: Sequence[str], delimiter: str) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            where = "" if reader.line_num == line else f", or one in line {reader.line_num},"
            unclosed = "unexpected end" in str(error)  # csv has no other way to tell it
            raise TextFileError(
                "a quote in this row is never closed"
                if unclosed
                else f"a quote in this row{where} is misplaced: {error}",
                kind="broken_quote",
                file=file,
                line=line,
                remedy='Close the quote; write a quote within a quoted cell twice ("").',
            ) from error
        if cells is None:
            return
        if cells:  # an empty line is no record
            yield Record(line, cells, reader.line_num)


def _fault(message: str, file: Path, line: int | None, remedy: str) -> TextFileError:
    return TextFileError(message, kind="unreadable_table", file=file, line=line, remedy=remedy)
