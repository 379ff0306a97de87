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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.data.decoding import PictureFile
from vectoruniverse.data.findings import FaultError, Rows
from vectoruniverse.data.locate import Finder, by_file, by_id, on_disk
from vectoruniverse.data.normalise import canonical, closest, listed, one_spelling
from vectoruniverse.data.shards.find import PackedFormat, Place, find_shards, is_pattern, open_shards
from vectoruniverse.data.shards.manifest import refuse_other_counts
from vectoruniverse.data.shards.table import PackedTable, read_shards
from vectoruniverse.data.table import Table, read_table
from vectoruniverse.data.text_file import refuse_unreadable
from vectoruniverse.data.text_table import part_named
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.image_text.columns import find_columns, has_layout
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.image_text.template import Template, fill, parse_template


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        line: physical line where the record begins, 1-based.
        id: unique name; in layouts without an id column the picture's path as written, with ``#2``, ``#3``, ... where
            one picture has several texts.
        path: the picture, links followed, or its place in a shard.
        title: the title cell, or "" where the file has none.
        labels: the label cell, split, each in canonical form; in order, each once.
        text: the filled-in template.
        columns: all cells, as they are written, by the canonical form of their column's name.
        split: ``train``, ``val`` or ``test``; None where no column was asked for.
    """

    line: int
    id: str
    path: PictureFile
    title: str
    labels: tuple[str, ...]
    text: str
    columns: Mapping[str, str]
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata(Rows[Row]):
    """The rows of a metadata file that pass the filters, in file order.

    Attributes:
        name: what findings call the file.
        root: the data folder, links followed.
        label_column: column of the labels, where there is one.
        placeholders: names that a template of texts may hold.
    """

    name: str
    root: Path
    label_column: str | None
    placeholders: Sequence[str]


def read_metadata(data: DataConfig) -> Metadata:
    """Read a metadata file and find the picture of every row. No picture is opened.

    Names of columns, labels, ids and files, and the values of filters, are equal up to Unicode form and space around
    them. No picture outside ``data.root`` is used.

    Raises:
        DataError: the file cannot be read as a table, lacks a column, or no usable row is left.
        ConfigError: ``text``, ``include``, ``exclude``, ``images`` or ``split.column`` names something that is not
            there.
    """
    table, reader = open_table(data)
    file = table.file
    _refuse_swallowed(table, reader.find)
    found = table.read(reader.row, reader.id)
    if not found.rows:
        found.refuse_bad(0.0)
        what = "no row passes data.include and data.exclude" if table.records else "there is a header, but no row"
        raise FaultError(what, kind="unreadable_table", file=file, remedy="Check the file and the filters.")
    facts = (file, found.rows, found.bad, found.doubts, found.parts)
    known = _placeholders(table.header, reader.names)
    root = file if found.parts else _root(data)
    labels = reader.names.get("labels")
    return Metadata(*facts, name=table.name, root=root, label_column=labels, placeholders=known)


def open_table(data: DataConfig, *, pictures: bool = True) -> tuple[Table, _Reader]:
    """The table of a folder, or of shards, and how its records become rows; without ``pictures`` none is looked for."""
    packed = read_packed(data)
    if packed is not None:
        if not has_layout(packed.table, data):
            packed = packed.with_keys()
        names = find_columns(packed.table, data, packed=True)
        template = parse_template(data.text, _placeholders(packed.table.header, names))
        return packed.table, _Reader(data, packed.table, names, template, _no_picture, packed)
    folder = on_disk(Path(data.root).expanduser())
    if is_pattern(data.root):
        message, remedy = "is a pattern, which names no folder of pictures", "Name a folder, or another data.format."
        raise ConfigError(f"{data.root} {message}", key="data.root", remedy=remedy)
    file, root = refuse_unreadable(folder / data.metadata, key="data.root and data.metadata"), _root(data)
    table = read_table(file, data.encoding, name=data.metadata)
    names = find_columns(table, data)
    template = parse_template(data.text, _placeholders(table.header, names))
    find: Finder = _no_picture
    if pictures:
        by_name = "file" not in names
        find = by_id(root, data.images, names["id"]) if by_name else by_file(root, file.parent, names["file"])
    return table, _Reader(data, table, names, template, find)


def read_packed(data: DataConfig) -> PackedTable | None:
    """The samples of shards, where ``data.root`` names some; None where it is a folder of pictures.

    Raises:
        ConfigError: what it names cannot be told, or a package to read it is absent.
        DataError: a shard is damaged.
    """
    place = packed_place(data)
    if place is None:
        return None
    shards = open_shards(place, image=data.columns.image, separator=data.label_separator)
    found = read_shards(shards, place.folder)
    if place.manifest is not None:
        refuse_other_counts(place.folder, place.manifest, found.table.parts, len(found.table.records))
    return found


def packed_place(data: DataConfig) -> Place | None:
    """Where shards are that ``data.root`` names; errors as of ``find_shards``."""
    if data.format == "folder":
        return None
    form: PackedFormat | None = None if data.format == "auto" else data.format
    return find_shards(on_disk(Path(data.root).expanduser()), form, table=data.metadata)


def _no_picture(columns: Mapping[str, str]) -> Path:
    raise FaultError("no picture is looked for", kind="missing_picture")


def _root(data: DataConfig) -> Path:
    return _real(on_disk(Path(data.root).expanduser()))


def read_rows(data: DataConfig) -> Metadata:
    """Read a metadata file of which no more than ``data.max_bad_share`` of the rows are unusable."""
    metadata = read_metadata(data)
    metadata.refuse_bad(data.max_bad_share)
    return metadata


def _placeholders(header: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """What a template may hold: ``title`` and ``labels``, where the file has them, and all its columns."""
    known = [role for role in ("title", "labels") if role in names]
    return known + [name for name in header if name not in ("title", "labels")]


class _Reader:
    """How a record becomes a row: filtered, with its picture, its labels, its text and a unique id."""

    def __init__(
        self,
        data: DataConfig,
        table: Table,
        names: Mapping[str, str],
        template: Template,
        find: Finder,
        packed: PackedTable | None = None,
    ) -> None:
        """``names``: columns by role (id, file, title, labels); ``template``: literals, each with a placeholder."""
        self._table, self._packed = table, packed
        self._separator, self._template, self.names, self.find = data.label_separator, template, names, find
        self._split = _split_column(data.split.column, table)
        self._include = _wanted("data.include", data.include, table.header)
        self._exclude = _wanted("data.exclude", data.exclude, table.header)
        self._lines: dict[tuple[str, str], int] = {}  # of the first row with this id, or this picture and text
        self._counts: dict[str, int] = {}  # texts seen under each id that is taken

    def picture(self, line: int, columns: Mapping[str, str]) -> PictureFile:
        """The picture of a record.

        Raises:
            FaultError: there is none that can be used.
        """
        return self.find(columns) if self._packed is None else self._packed.picture(line)

    def id(self, columns: Mapping[str, str]) -> str:
        written = columns[self.names.get("id", self.names.get("file", ""))].strip()
        return unicodedata.normalize("NFC", written)

    def row(self, line: int, columns: Mapping[str, str]) -> Row | None:
        if self._packed is not None:  # a damaged sample counts whatever filters say, for its cells may be unknown
            self._packed.picture(line)
        labels = self.labels(columns)
        if not self._passes(columns, labels):
            return None
        title, text = self._title(columns), self.text(columns, labels)
        split = part_named(None if self._split is None else columns[self._split])
        picture = self.picture(line, columns)
        return self._unique(Row(line, self.id(columns), picture, title, labels, text, columns, split))

    def _title(self, columns: Mapping[str, str]) -> str:
        return columns[self.names["title"]].strip() if "title" in self.names else ""

    def text(self, columns: Mapping[str, str], labels: Sequence[str]) -> str:
        """The filled-in template."""
        text = fill(self._template, columns, self._title(columns), labels)
        if not text:
            raise FaultError("the text is empty", kind="empty_text")
        return text

    def labels(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        cell = columns[self.names["labels"]] if "labels" in self.names else ""
        return tuple(dict.fromkeys(map(canonical, split_labels(cell, self._separator))))

    def _passes(self, columns: Mapping[str, str], labels: Iterable[str]) -> bool:
        def matches(name: str, values: set[str]) -> bool:
            cells = labels if name == self.names.get("labels") else [canonical(columns[name])]
            return not values.isdisjoint(cells)

        kept = all(matches(name, values) for name, values in self._include.items())
        return kept and not any(matches(name, values) for name, values in self._exclude.items())

    def _unique(self, row: Row) -> Row:
        """Refuse a repeated row, and number the further texts of one picture."""
        several_texts = "id" not in self.names
        first = self._lines.setdefault((row.id, canonical(row.text) if several_texts else ""), row.line)
        if first != row.line:
            what = "picture and text" if several_texts else "id"
            where = self._table.told(first)
            raise FaultError(f"the same {what} as in {where}", kind="duplicate_id", other_line=first)
        unique = row.id
        while unique in self._counts:
            self._counts[row.id] += 1
            unique = f"{row.id}#{self._counts[row.id]}"
        self._counts[unique] = 1
        return row if unique == row.id else dataclasses.replace(row, id=unique)


def _wanted(key: str, given: Mapping[str, Sequence[str]], header: Sequence[str]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for name in given:
        if canonical(name) not in header:
            message = f"there is no column {name!r}{closest(name, header)}"
            raise ConfigError(message, key=key, remedy=f"Choose from {listed(header)}.")
        values.setdefault(canonical(name), set()).update(map(canonical, given[name]))
    return values


def _split_column(name: str | None, table: Table) -> str | None:
    column = None if name is None else canonical(name)
    if column is not None and column not in table.header:
        key = "data.split.column"
        raise ConfigError(table.lacks(column), key=key, remedy=f"Name one of these columns in {key}, or null.")
    return column


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


def _refuse_swallowed(table: Table, find: Finder) -> None:
    """Raise where a line within a quoted cell names a picture that is there: it is a row, and would be lost."""
    for line, end, rows in table.swallowed:
        for cells in rows[1:]:
            with contextlib.suppress(FaultError):
                picture = find(dict(zip(table.header, cells, strict=True)))
                break
        else:
            continue
        raise FaultError(
            f"a quote opens in this row and closes in line {end}, so that the rows between, such as that of "
            f"{picture.name!r}, are lost in one cell",
            kind="broken_quote",
            file=table.file,
            line=line,
            remedy='Write a quote at the beginning of a cell as """, and another " behind the cell.',
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
