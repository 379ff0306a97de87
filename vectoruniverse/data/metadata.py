"""The metadata file: which picture belongs to which text. Every row is used, or set aside with its line and reason.

Three layouts, told apart by their header:

- ``id``: columns Id, Title, Category, and Channel where there is one; the picture is the file named ``<Id>`` (or
  ``<Id> (1)``) anywhere below the images folder, by preference in ``images/<Channel>/``.
- ``imagefolder`` (Hugging Face): ``file_name``, relative to the metadata file, and ``text``.
- ``open_clip``: ``filepath``, relative to the metadata file, and ``title``; tab-separated.

Nothing in the file is trusted: a picture must be a regular file inside the data folder once all links are followed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.data.columns import closest, find_columns, listed, parse_template
from vectoruniverse.data.locate import Finder, UnusableError, by_file, by_id, on_disk
from vectoruniverse.data.normalise import canonical, one_spelling
from vectoruniverse.data.table import Record, Table, read_table
from vectoruniverse.data.text_file import TextFileError, refuse_unreadable
from vectoruniverse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        line: physical line where the record begins, 1-based.
        id: unique name; in layouts without an id column the picture's path as written, with ``#2``, ``#3``, ... where
            one picture has several texts.
        path: the picture, links followed.
        title: the title cell, or "" where the file has none.
        labels: the label cell, split, each in canonical form; in order, each once.
        text: the filled-in template.
        columns: all cells, as they are written, by the canonical form of their column's name.
    """

    line: int
    id: str
    path: Path
    title: str
    labels: tuple[str, ...]
    text: str
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        line: where it begins.
        id: its id, as far as known.
        reason: why, in words.
        kind: key of ``findings.KINDS``.
        other_line: line of the row that it clashes with, where it does with one.
        cells: what it holds, where its cells are not those of the header.
    """

    line: int
    id: str
    reason: str
    kind: str = "unusable_row"
    other_line: int | None = None
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """The rows of a metadata file that pass the filters, in file order.

    Attributes:
        file: the metadata file.
        root: the data folder, links followed.
        rows: usable rows.
        bad: rows set aside.
        label_column: column of the labels, where there is one.
        doubts: rows that are used and may hold others, with what is doubtful.
    """

    file: Path
    root: Path
    rows: list[Row]
    bad: list[BadRow]
    label_column: str | None = None
    doubts: tuple[BadRow, ...] = ()


@dataclass(frozen=True)
class _Reader:
    """How a record becomes a row."""

    names: Mapping[str, str]  # role (id, file, title, labels) → column
    separator: str
    template: Sequence[tuple[str, str | None]]  # literal, then placeholder
    find: Finder

    def labels(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        cell = columns[self.names["labels"]] if "labels" in self.names else ""
        return tuple(dict.fromkeys(map(canonical, split_labels(cell, self.separator))))

    def id(self, columns: Mapping[str, str]) -> str:
        written = columns[self.names.get("id", self.names.get("file", ""))].strip()
        return unicodedata.normalize("NFC", written)

    def row(self, line: int, columns: Mapping[str, str]) -> Row:
        labels = self.labels(columns)
        title = columns[self.names["title"]].strip() if "title" in self.names else ""
        values = {**columns, "title": title, "labels": ", ".join(labels)}
        parts = (literal + (values[name] if name is not None else "") for literal, name in self.template)
        text = "".join(parts).strip()
        if not text:
            raise UnusableError("the text is empty", "empty_text")
        return Row(line, self.id(columns), self.find(columns), title, labels, text, columns)


def read_metadata(
    root: Path,
    *,
    metadata: str = "metadata.csv",
    layout: str = "auto",
    images: str = "images",
    columns: Mapping[str, str | None] | None = None,
    text: str = "{title}",
    label_separator: str = ",",
    include: Mapping[str, Sequence[str]] | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    encoding: str = "utf-8",
) -> Metadata:
    """Read a metadata file and find the picture of every row. No picture is opened.

    Names of columns, labels, ids and files, and the values of filters, are equal up to Unicode form and space around
    them.

    Args:
        root: the data folder; no picture outside it is used.
        metadata: the metadata file, relative to ``root``.
        layout: ``id``, ``imagefolder``, ``open_clip``, or ``auto``.
        images: folder of the pictures, relative to ``root`` (layout ``id``).
        columns: names of the columns ``id``, ``file``, ``title``, ``labels`` where they differ from the layout's.
        text: template of the text with ``{title}``, ``{labels}`` (joined by ", ") or any ``{Column}``.
        label_separator: what separates labels within a cell.
        include: column → values; keep rows that match every column. A label column matches with any of its labels.
        exclude: column → values; drop rows that match any column.
        encoding: of the metadata file.

    Raises:
        DataError: the file cannot be read as a table, lacks a column, or no usable row is left.
        ConfigError: ``text``, ``include``, ``exclude`` or ``images`` names something that is not there.
    """
    root = on_disk(root)
    file, root = refuse_unreadable(root / metadata, key="data.root and data.metadata"), Path(os.path.realpath(root))
    table = read_table(file, encoding)
    header = table.header
    names = find_columns(file, header, layout, columns or {}, text)
    template = parse_template(text, header, names)
    find = by_id(root, images, names["id"]) if "file" not in names else by_file(root, file.parent, names["file"])
    reader = _Reader(names, label_separator, template, find)
    keep = _filter(reader, header, include or {}, exclude or {})
    _refuse_swallowed(table, reader)
    rows, bad = _read_rows(table.records, header, reader, keep)
    if not rows and bad:
        refuse_if_too_many_bad(file, bad, len(bad), 0.0)
    if not rows:
        what = "no row passes data.include and data.exclude" if table.records else "there is a header, but no row"
        raise TextFileError(what, kind="unreadable_table", file=file, remedy="Check the file and the filters.")
    return Metadata(file, root, rows, bad, names.get("labels"), doubts(table))


def group_values(rows: Sequence[Row], group_by: str | None) -> list[str] | None:
    """Value of each row in the grouping column, in one spelling for all that are ``alike``; None without a column.

    Raises:
        ConfigError: there is no such column.
    """
    if group_by is None:
        return None
    column = canonical(group_by)
    if rows and column not in rows[0].columns:
        raise ConfigError(
            f"there is no column {column!r} to group by; there are {listed(list(rows[0].columns))}",
            key="data.split.group_by",
            remedy="name one of these columns, or null",
        )
    return one_spelling([row.columns[column] for row in rows])


def split_labels(cell: str, separator: str) -> list[str]:
    """The labels of a cell as they are written, without space around them."""
    return [part.strip() for part in cell.split(separator) if part.strip()]


def doubts(table: Table) -> tuple[BadRow, ...]:
    """Rows that may hold others: ``Table.swallowed``, in words."""
    return tuple(
        BadRow(
            line,
            "",
            f"the quoted cell of lines {line} to {end} holds lines that each read like a row; "
            "close the quote where it should end, if they are rows",
            "swallowed_rows",
        )
        for line, end, _ in table.swallowed
    )


def wrong_cell_count(record: Record, header: Sequence[str]) -> BadRow:
    """A row of which it is not known what is what."""
    reason = f"{len(record.cells)} cells where the header has {len(header)}"
    return BadRow(record.line, "", reason, "wrong_cell_count", cells=tuple(record.cells))


def refuse_if_too_many_bad(metadata_file: Path, bad: Sequence[BadRow], total: int, max_share: float) -> None:
    """Stop when too many rows cannot be used.

    Args:
        metadata_file: for the message.
        bad: the rows set aside.
        total: number of rows, good and bad.
        max_share: largest acceptable ``len(bad) / total``.

    Raises:
        DataError: the share is larger; names the first three rows.
    """
    if not bad or len(bad) <= max_share * total:
        return
    first = "; ".join(f"line {row.line} ({row.id or 'no id'}): {row.reason}" for row in bad[:3])
    raise TextFileError(
        f"{len(bad)} of {total} rows ({len(bad) / total:.1%}) cannot be used, "
        f"more than {max_share:.1%}. First: {first}",
        kind="no_usable_row",
        rows=len(bad),
        file=metadata_file,
        remedy="Mend or remove these rows, or raise data.max_bad_share.",
    )


def _refuse_swallowed(table: Table, reader: _Reader) -> None:
    """Raise where a line within a quoted cell names a picture that is there: it is a row, and would be lost."""
    for line, end, rows in table.swallowed:
        for cells in rows[1:]:
            with contextlib.suppress(UnusableError):
                picture = reader.find(dict(zip(table.header, cells, strict=True)))
                raise TextFileError(
                    f"a quote opens in this row and closes in line {end}, so that the rows between, such as that of "
                    f"{picture.name!r}, are lost in one cell",
                    kind="broken_quote",
                    file=table.file,
                    line=line,
                    remedy='Write a quote at the beginning of a cell as """, and another " behind the cell.',
                )


def _filter(
    reader: _Reader, header: Sequence[str], include: Mapping[str, Sequence[str]], exclude: Mapping[str, Sequence[str]]
) -> Callable[[Mapping[str, str]], bool]:
    def wanted(key: str, given: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        values: dict[str, set[str]] = {}
        for name in given:
            if canonical(name) not in header:
                message = f"there is no column {name!r}{closest(name, header)}"
                raise ConfigError(message, key=key, remedy=f"Choose from {listed(header)}.")
            values.setdefault(canonical(name), set()).update(map(canonical, given[name]))
        return values

    def matches(columns: Mapping[str, str], name: str, values: set[str]) -> bool:
        if name == reader.names.get("labels"):
            return any(label in values for label in reader.labels(columns))
        return canonical(columns[name]) in values

    kept, dropped = wanted("data.include", include), wanted("data.exclude", exclude)

    def keep(columns: Mapping[str, str]) -> bool:
        return all(matches(columns, name, values) for name, values in kept.items()) and not any(
            matches(columns, name, values) for name, values in dropped.items()
        )

    return keep


def _read_rows(
    records: Iterable[Record], header: Sequence[str], reader: _Reader, keep: Callable[[Mapping[str, str]], bool]
) -> tuple[list[Row], list[BadRow]]:
    rows: list[Row] = []
    bad: list[BadRow] = []
    ids = _Ids(several_texts="id" not in reader.names)
    for record in records:
        if len(record.cells) != len(header):
            bad.append(wrong_cell_count(record, header))
            continue
        columns = dict(zip(header, record.cells, strict=True))
        if not keep(columns):
            continue
        try:
            rows.append(ids.unique(reader.row(record.line, columns)))
        except UnusableError as why:
            bad.append(BadRow(record.line, reader.id(columns), why.reason, why.kind, why.other_line))
    return rows, bad


class _Ids:
    """Makes ids unique: refuses a repeated row, and numbers the further texts of one picture."""

    def __init__(self, *, several_texts: bool) -> None:
        self._several_texts = several_texts
        self._lines: dict[tuple[str, str], int] = {}
        self._counts: dict[str, int] = {}  # texts seen under each id that is taken

    def unique(self, row: Row) -> Row:
        first = self._lines.setdefault((row.id, canonical(row.text) if self._several_texts else ""), row.line)
        if first != row.line:
            what = "picture and text" if self._several_texts else "id"
            raise UnusableError(f"the same {what} as in line {first}", "duplicate_id", first)
        unique = row.id
        while unique in self._counts:
            self._counts[row.id] += 1
            unique = f"{row.id}#{self._counts[row.id]}"
        self._counts[unique] = 1
        return row if unique == row.id else dataclasses.replace(row, id=unique)
