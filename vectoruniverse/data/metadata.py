"""The metadata file: which picture belongs to which text. Every row is used, or set aside with its line and reason.

Three layouts, told apart by their header:

- ``id``: columns Id, Title, Category, and Channel where there is one; the picture is the file named ``<Id>`` (or
  ``<Id> (1)``) anywhere below the images folder, by preference in ``images/<Channel>/``.
- ``imagefolder`` (Hugging Face): ``file_name``, relative to the metadata file, and ``text``.
- ``open_clip``: ``filepath``, relative to the metadata file, and ``title``; tab-separated.

Nothing in the file is trusted: a picture must be a regular file inside the data folder once all links are followed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.data.locate import Finder, UnusableError, by_file, by_id
from vectoruniverse.data.table import Record, read_table
from vectoruniverse.errors import ConfigError, DataError

_LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "id": {"id": "Id", "title": "Title", "labels": "Category"},
    "imagefolder": {"file": "file_name", "title": "text"},
    "open_clip": {"file": "filepath", "title": "title"},
}


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        line: physical line where the record begins, 1-based.
        id: unique name; in layouts without an id column the picture's path as written, with ``#2``, ``#3``, ... where
            one picture has several texts.
        path: the picture, links followed.
        title: the title cell, or "" where the file has none.
        labels: the label cell, split; in order, each once.
        text: the filled-in template.
        columns: all cells by column name.
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
    """A row that cannot be used: the line where it begins, its id as far as known, and why."""

    line: int
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """The rows of a metadata file that pass the filters, in file order.

    Attributes:
        file: the metadata file.
        root: the data folder, links followed.
        rows: usable rows.
        bad: rows set aside.
    """

    file: Path
    root: Path
    rows: list[Row]
    bad: list[BadRow]


@dataclass(frozen=True)
class _Reader:
    """How a record becomes a row."""

    names: Mapping[str, str]  # role (id, file, title, labels) → column
    separator: str
    template: Sequence[tuple[str, str | None]]  # literal, then placeholder
    find: Finder

    def labels(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        cell = columns[self.names["labels"]] if "labels" in self.names else ""
        return tuple(dict.fromkeys(part.strip() for part in cell.split(self.separator) if part.strip()))

    def id(self, columns: Mapping[str, str]) -> str:
        return columns[self.names.get("id", self.names.get("file", ""))].strip()

    def row(self, line: int, columns: Mapping[str, str]) -> Row:
        labels = self.labels(columns)
        title = columns[self.names["title"]].strip() if "title" in self.names else ""
        values = {**columns, "title": title, "labels": ", ".join(labels)}
        parts = (literal + (values[name] if name is not None else "") for literal, name in self.template)
        text = "".join(parts).strip()
        if not text:
            raise UnusableError("the text is empty")
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
) -> Metadata:
    """Read a metadata file and find the picture of every row. No picture is opened.

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

    Raises:
        DataError: the file cannot be read as a table, lacks a column, or no usable row is left.
        ConfigError: ``text``, ``include``, ``exclude`` or ``images`` names something that is not there.
    """
    file, root = root / metadata, Path(os.path.realpath(root))
    header, records = read_table(file)
    names = _columns(file, header, layout, columns or {}, text)
    template = _parse_template(text, header, names)
    find = by_id(root, images, names["id"]) if "file" not in names else by_file(root, file.parent, names["file"])
    reader = _Reader(names, label_separator, template, find)
    keep = _filter(reader, header, include or {}, exclude or {})
    rows, bad = _read_rows(records, header, reader, keep)
    if not rows and bad:
        refuse_if_too_many_bad(file, bad, len(bad), 0.0)
    if not rows:
        what = "no row passes data.include and data.exclude" if records else "there is a header, but no row"
        raise DataError(what, file=file, remedy="Check the file and the filters.")
    return Metadata(file, root, rows, bad)


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
    raise DataError(
        f"{len(bad)} of {total} rows ({len(bad) / total:.1%}) cannot be used, "
        f"more than {max_share:.1%}. First: {first}",
        file=metadata_file,
        remedy="Mend or remove these rows, or raise data.max_bad_share.",
    )


def _columns(
    file: Path, header: Sequence[str], layout: str, given: Mapping[str, str | None], text: str
) -> Mapping[str, str]:
    """Column of each role that this file has."""
    asked = {role: name for role, name in given.items() if name is not None}
    names = {**_LAYOUTS[_detect(file, header, asked) if layout == "auto" else layout], **asked}
    for role, name in list(names.items()):
        if name in header:
            continue
        if role in asked or role in ("id", "file") or f"{{{role}}}" in text:
            raise DataError(
                f"there is no column {name!r}; the columns are {', '.join(map(repr, header))}{_closest(name, header)}",
                file=file,
                line=1,
                key=f"data.columns.{role}",
                remedy=f"Name the column in data.columns.{role}, or choose another data.layout.",
            )
        del names[role]
    return names


def _detect(file: Path, header: Sequence[str], asked: Mapping[str, str]) -> str:
    if "id" in asked and "file" not in asked:
        return "id"
    for layout, role in (("imagefolder", "file"), ("open_clip", "file"), ("id", "id")):
        if _LAYOUTS[layout][role] in header:
            return layout
    if "file" in asked:
        return "imagefolder"
    raise DataError(
        "none of the columns Id, file_name, filepath is there, so the layout is unknown; "
        f"the columns are {', '.join(map(repr, header))}",
        file=file,
        line=1,
        remedy="Name the column of the ids in data.columns.id, or that of the pictures in data.columns.file.",
    )


def _closest(name: str, known: Iterable[str]) -> str:
    lowered = {other.strip().lower(): other for other in known}
    match = difflib.get_close_matches(name.strip().lower(), lowered, n=1)
    return f" (did you mean {lowered[match[0]]!r}?)" if match else ""


def _parse_template(text: str, header: Sequence[str], names: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Literals and placeholders. A placeholder is only ever looked up by its whole name, never evaluated."""
    known = [role for role in ("title", "labels") if role in names]
    known += [name for name in header if name not in ("title", "labels")]
    parts: list[tuple[str, str | None]] = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            # a column's name may itself hold ! or :, which the parser cuts off
            rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            name = None if field is None else field + rest
            parts.append((literal, name))
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", key="data.text", remedy="Write a literal brace twice.") from error
    for _, name in parts:
        if name is not None and name not in known:
            raise ConfigError(
                f"there is no {{{name}}} in this file{_closest(name, known)}",
                key="data.text",
                remedy=f"Choose from {', '.join(f'{{{other}}}' for other in known)}.",
            )
    return parts


def _filter(
    reader: _Reader, header: Sequence[str], include: Mapping[str, Sequence[str]], exclude: Mapping[str, Sequence[str]]
) -> Callable[[Mapping[str, str]], bool]:
    for key, wanted in (("data.include", include), ("data.exclude", exclude)):
        for name in wanted:
            if name not in header:
                raise ConfigError(
                    f"there is no column {name!r}{_closest(name, header)}",
                    key=key,
                    remedy=f"Choose from {', '.join(map(repr, header))}.",
                )

    def matches(columns: Mapping[str, str], name: str, values: Sequence[str]) -> bool:
        if name == reader.names.get("labels"):
            return any(label in values for label in reader.labels(columns))
        return columns[name].strip() in values

    def keep(columns: Mapping[str, str]) -> bool:
        return all(matches(columns, name, values) for name, values in include.items()) and not any(
            matches(columns, name, values) for name, values in exclude.items()
        )

    return keep


def _read_rows(
    records: Iterable[Record], header: Sequence[str], reader: _Reader, keep: Callable[[Mapping[str, str]], bool]
) -> tuple[list[Row], list[BadRow]]:
    rows: list[Row] = []
    bad: list[BadRow] = []
    ids = _Ids(several_texts="id" not in reader.names)
    for line, cells in records:
        if len(cells) != len(header):
            bad.append(BadRow(line, "", f"{len(cells)} cells where the header has {len(header)}"))
            continue
        columns = dict(zip(header, cells, strict=True))
        if not keep(columns):
            continue
        try:
            rows.append(ids.unique(reader.row(line, columns)))
        except UnusableError as reason:
            bad.append(BadRow(line, reader.id(columns), str(reason)))
    return rows, bad


class _Ids:
    """Makes ids unique: refuses a repeated row, and numbers the further texts of one picture."""

    def __init__(self, *, several_texts: bool) -> None:
        self._several_texts = several_texts
        self._lines: dict[tuple[str, str], int] = {}
        self._counts: dict[str, int] = {}  # texts seen under each id that is taken

    def unique(self, row: Row) -> Row:
        first = self._lines.setdefault((row.id, row.text if self._several_texts else ""), row.line)
        if first != row.line:
            raise UnusableError(f"the same {'picture and text' if self._several_texts else 'id'} as in line {first}")
        unique = row.id
        while unique in self._counts:
            self._counts[row.id] += 1
            unique = f"{row.id}#{self._counts[row.id]}"
        self._counts[unique] = 1
        return row if unique == row.id else dataclasses.replace(row, id=unique)
