"""What can be wrong with pictures: files that cannot be decoded, copies, copies across the split, and orphans."""

from __future__ import annotations

import contextlib
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vectoruniverse.data.decoding import (
    FORMATS,
    PictureError,
    PictureFile,
    picture_suffix,
    pillow_warnings_silenced,
)
from vectoruniverse.data.findings import Finding, Place
from vectoruniverse.data.locate import on_disk
from vectoruniverse.data.pair_items import number
from vectoruniverse.data.splits import Split
from vectoruniverse.data.thumbnails import DecodedPictures
from vectoruniverse.tasks.image_text.audit.near import Looks, looks
from vectoruniverse.tasks.image_text.metadata import Metadata, Row

_FLAT = 4  # of 255: largest difference between the pixels of a picture of one colour
_CHUNK = 256
_COPY_MARK = re.compile(r" \(\d+\)$")
_PICTURE_FORMATS = {*FORMATS, "TIFF", "AVIF"}


@dataclass(frozen=True, slots=True)
class Seen:
    """Usable rows and what is known of their pictures, position by position.

    Attributes:
        file: the metadata file, relative to the data folder.
        rows: usable rows.
        decoded: the rows' pictures.
        squares: position of each row's picture among ``distinct``.
        distinct: one row of each distinct picture file.
    """

    file: str
    rows: Sequence[Row]
    decoded: DecodedPictures
    squares: Sequence[int]
    distinct: Sequence[int]

    def place(self, position: int) -> Place:
        """Where the row is written."""
        return Place(self.file, self.rows[position].line, self.rows[position].id)

    def with_squares(self, squares: Collection[int]) -> list[int]:
        """Positions of the rows that show one of these distinct pictures."""
        return [position for position, square in enumerate(self.squares) if square in squares]


def seen(file: str, rows: Sequence[Row], decoded: DecodedPictures) -> Seen:
    """Number the distinct pictures in the order in which rows show them."""
    squares = number(decoded.digests)
    return Seen(file, rows, decoded, squares.tolist(), np.unique(squares, return_index=True)[1].tolist())


def picture_finding(row: Row, error: PictureError, root: Path, file: str) -> Finding:
    """Why a row's picture cannot be used."""
    return Finding(error.kind, f"{_below(row.path, root)}: {error.message}", file, row.line, row.id)


def header_findings(pictures: Seen, root: Path, size: int) -> Iterator[Finding]:
    """Pictures whose name belies their format, and those with a side shorter than ``size`` pixels. Headers only."""
    with pillow_warnings_silenced():
        suffixes = Image.registered_extensions()
        for position in pictures.distinct:
            path = pictures.rows[position].path
            header = _header(path)
            if header is None:  # decoded a moment ago, so somebody is changing it; the next check tells
                continue
            width, height, form = header
            named = suffixes.get(picture_suffix(path), form)
            if named != form:
                reason = f"{_below(path, root)} is {form} by its content and {named} by its name"
                yield Finding("wrong_suffix", reason, *pictures.place(position))
            if min(width, height) < size:
                reason = f"{_below(path, root)} has {width} x {height} pixels; the model sees {size} x {size}"
                yield Finding("tiny_picture", reason, *pictures.place(position))


def _header(path: PictureFile) -> tuple[int, int, str] | None:
    """Width, height and format."""
    with contextlib.suppress(Exception), Image.open(_opened(path), formats=FORMATS) as image:
        # MPO: a JPEG that holds further pictures, as phones make them
        return *image.size, "JPEG" if image.format == "MPO" else str(image.format)
    return None


def _opened(path: PictureFile) -> Path | io.BytesIO:
    return path if isinstance(path, Path) else io.BytesIO(path.read())


def examine_squares(pictures: Seen) -> Iterator[tuple[Looks, list[bool]]]:
    """Looks and flatness of the distinct pictures, some at a time."""
    of_distinct = np.array(pictures.distinct, np.int64)
    for start in range(0, len(of_distinct), _CHUNK):
        squares = pictures.decoded.take(of_distinct[start : start + _CHUNK])
        spread = squares.max(axis=(1, 2)).astype(np.int16) - squares.min(axis=(1, 2))  # (B, 3)
        yield looks(squares), (spread.max(axis=1) <= _FLAT).tolist()


def flat_findings(pictures: Seen, flat: Sequence[int], root: Path) -> Iterator[Finding]:
    """Pictures that show one colour, by their numbers among the distinct ones."""
    for position in (pictures.distinct[one] for one in flat):
        reason = f"all that the model sees of {_below(pictures.rows[position].path, root)} is one colour"
        yield Finding("flat_picture", reason, *pictures.place(position))


def same_picture_findings(pictures: Seen) -> Iterator[Finding]:
    """Identical files under several names. One file that several rows name on purpose is none."""
    for positions in _grouped(pictures.squares):
        rows = [pictures.rows[position] for position in positions]
        files, titles = len({row.path for row in rows}), len({row.title for row in rows})
        if files > 1:
            first, *others = map(pictures.place, positions)
            told = f"{titles} different titles" if titles > 1 else "the same title"
            kind = "same_picture" if titles > 1 else "repeated_pair"
            yield Finding(kind, f"{files} identical picture files with {told}", *first, (*others,))


def same_title_findings(pictures: Seen) -> Iterator[Finding]:
    """Titles that stand beside more than one picture."""
    for positions in _grouped([row.title for row in pictures.rows]):
        title, count = pictures.rows[positions[0]].title, len({pictures.squares[position] for position in positions})
        if title and count > 1:
            first, *others = map(pictures.place, positions)
            yield Finding("same_title", f"{count} different pictures have the title {title!r}", *first, (*others,))


def near_findings(pictures: Seen, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Groups of nearly the same pictures, given by their numbers among the distinct ones."""
    for group in groups:
        first, *others = map(pictures.place, pictures.with_squares(set(group)))
        yield Finding("near_picture", f"{len(group)} nearly identical pictures", *first, (*others,))


def leak_findings(pictures: Seen, groups: Sequence[Sequence[int]], split: Split) -> Iterator[Finding]:
    """Groups of alike pictures with rows in several parts of the split."""
    parts = {"test": split.test, "validation": split.val, "training": split.train}
    part_of = {position: name for name, part in parts.items() for position in part.tolist()}
    group_of = {square: index for index, group in enumerate(groups) for square in group}
    keys = [group_of.get(square, f"alone {square}") for square in pictures.squares]
    for positions in _grouped(keys):
        found = {name: [i for i in positions if part_of.get(i) == name] for name in parts}
        named = [(name, rows) for name, rows in found.items() if rows]
        if len(named) > 1:
            (most_sealed, *_), *rest = named
            counts = f"{len(found[most_sealed])} rows in {most_sealed}, "
            counts += ", ".join(f"{len(rows)} in {name}" for name, rows in rest)
            first, *others = map(pictures.place, [i for rows in found.values() for i in rows])
            yield Finding("leak", f"alike pictures: {counts}", *first, (*others,))


def orphan_findings(metadata: Metadata, folder: Path) -> Iterator[Finding]:
    """Picture files below ``folder`` that no row names, be it a row that was set aside."""
    named = {row.path for row in metadata.rows}
    written = _written_names(metadata)
    beside = {Path(os.path.realpath(on_disk(metadata.file.parent / name))) for name in written}
    for path in _picture_files(folder):
        real = Path(os.path.realpath(path)) if path.is_symlink() else path
        stem = unicodedata.normalize("NFC", path.stem)
        if real not in named and real not in beside and not {stem, _COPY_MARK.sub("", stem)} & written:
            yield Finding("orphan_picture", "no row names this picture", _below(path, metadata.root))


def _written_names(metadata: Metadata) -> set[str]:
    """What rows that were set aside name: their ids, or all cells where it is not known which is the id."""
    names = {row.row_id or "" for row in metadata.bad} | {cell.strip() for row in metadata.bad for cell in row.cells}
    return {unicodedata.normalize("NFC", name) for name in names if name}


def _picture_files(folder: Path) -> Iterator[Path]:
    suffixes = {suffix for suffix, form in Image.registered_extensions().items() if form in _PICTURE_FORMATS}
    for parent, _, names in os.walk(os.path.realpath(folder)):
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                yield path


def _grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions of each key that occurs more than once."""
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        positions[key].append(position)
    return [found for found in positions.values() if len(found) > 1]


def _below(path: PictureFile, root: Path) -> str:
    return os.path.relpath(path, root) if isinstance(path, Path) else str(path)
