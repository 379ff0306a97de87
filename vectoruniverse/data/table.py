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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vectoruniverse.data.findings import FaultError, Finding, Parts, Place, Rows, RowT, located
from vectoruniverse.data.normalise import canonical, closest, listed, shortened
from vectoruniverse.data.text_file import read_text_file

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
        name: what findings call it.
        header: names of the columns in canonical form, each once.
        written: the same as the file writes them.
        records: in the file's order; their cells are as many as the header's only where the row is sound.
        swallowed: records whose every line would be a sound row of its own.
        parts: files that the records lie in, where ``file`` is a folder of them.
    """

    file: Path
    name: str
    header: list[str]
    written: list[str]
    records: list[Record]
    swallowed: list[Swallowed]
    parts: Parts = ()

    def read(
        self, row: Callable[[int, dict[str, str]], RowT | None], name: Callable[[Mapping[str, str]], str]
    ) -> Rows[RowT]:
        """Make a row of each record.

        Args:
            row: from a record's line and its cells by column to the row, None where it is left out; raises
                ``FaultError`` where it cannot be used.
            name: what a row that cannot be used is called, by its cells.
        """
        rows: list[RowT] = []
        bad: list[Finding] = []
        for line, cells, _ in self.records:
            if len(cells) != len(self.header):
                reason = f"{len(cells)} cells where the header has {len(self.header)}"
                bad.append(Finding("wrong_cell_count", reason, self.name, line, cells=tuple(cells)))
                continue
            columns = dict(zip(self.header, cells, strict=True))
            try:
                if (found := row(line, columns)) is not None:
                    rows.append(found)
            except FaultError as why:
                called = name(columns)
                others = () if why.other_line is None else (Place(self.name, why.other_line, called),)
                bad.append(Finding(why.kind, why.message, self.name, line, called or None, others))
        return Rows(self.file, rows, bad, self.doubts(), self.parts)

    def told(self, line: int) -> str:
        """A line in words."""
        found = located(self.parts, Place("", line))
        return f"line {line}" if not self.parts else f"row {found.line} of {found.file}"

    def doubts(self) -> tuple[Finding, ...]:
        """Rows that may hold others: ``swallowed``, in words."""
        reason = (
            "the quoted cell of lines {} to {} holds lines that each read like a row; "
            "close the quote where it should end, if they are rows"
        )
        return tuple(
            Finding("swallowed_rows", reason.format(line, end), self.name, line) for line, end, _ in self.swallowed
        )

    def lacks(self, column: str) -> str:
        """That there is no such column, with those that are there and hints at what may be meant."""
        known = f"the columns are {listed(self.header)}{closest(column, self.header)}"
        return f"there is no column {shortened(column)}; {known}{self.other_separator()}"

    def other_separator(self) -> str:
        """A hint where the header's only cell seems to hold several; else nothing."""
        marks = [mark for mark in ";|,\t" if len(self.header) == 1 and mark in self.header[0]]
        return f" (are the cells separated by {marks[0]!r}? commas and tabs are read, tabs in a .tsv)" if marks else ""


def read_table(file: Path, encoding: str = "utf-8", *, key: str = "data.encoding", name: str = "") -> Table:
    """Read a file with a header, with or without a byte order mark.

    Tabs separate the cells of a ``.tsv`` file, and of any other whose header has more tabs than commas.

    Args:
        file: a regular file.
        encoding: a name that Python knows.
        key: config key or option of the encoding, for messages.
        name: what findings call it, where that is not its path.

    Raises:
        ConfigError: there is no such encoding.
        FaultError: the file cannot be read, is empty, holds an unclosed quote, or repeats a column.
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
    return Table(file, name or str(file), names, header.cells, records, swallowed)


def _header(file: Path, header: Record) -> list[str]:
    names = [canonical(name) for name in header.cells]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        message = f"column {shortened(twice[0]) or repr('')} occurs twice"
        remedy = "Rename or remove one of them; Unicode form and space around a name do not count."
        raise _fault(message, file, header.line, remedy)
    return names


def _tab_records(file: Path, lines: Sequence[str]) -> list[Record]:
    """Records of tab-separated lines by the reading of quotes that fits them."""
    rows = [(n, line.rstrip("\r\n").split("\t")) for n, line in enumerate(lines, 1) if line.rstrip("\r\n")]
    plain = [Record(n, [_unquoted(cell) for cell in cells], n) for n, cells in rows]
    if not any(_QUOTE in line for line in lines):
        return plain
    try:
        quoted = list(_records(file, lines, "\t"))
    except FaultError:
        return plain  # quotes as no program that means them so would write
    long = [record for record in quoted if record.end > record.line]
    if not long:
        return max(plain, quoted, key=_sound)
    like_rows = [_like_rows(lines, record, "\t", plain[0].cells) for record in long]
    if all(like_rows) and len(plain[0].cells) > 1:
        return plain
    for record, is_rows in zip(long, like_rows, strict=True):
        if is_rows or any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in record.cells):
            raise FaultError(
                f"a quote opens in this row and closes in line {record.end}: one cell over "
                f"{record.end - record.line + 1} lines, or rows of their own with quotes as plain characters?",
                kind="broken_quote",
                file=file,
                line=record.line,
                remedy="Save the table with commas (.csv), where quotes have one meaning.",
            )
    return quoted


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
            raise FaultError(
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


def _fault(message: str, file: Path, line: int | None, remedy: str) -> FaultError:
    return FaultError(message, kind="unreadable_table", file=file, line=line, remedy=remedy)
