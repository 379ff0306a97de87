"""Writing shards: pictures as they are, beside the cells of their rows; whole or not at all, and gone on with later."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from filelock import FileLock, Timeout
from PIL import Image

from vectoruniverse.data.decoding import (
    FORMATS,
    PictureError,
    PictureFile,
    picture_stamp,
    picture_suffix,
    pillow_warnings_silenced,
    read_picture_file,
)
from vectoruniverse.data.shards.base import PICTURE_SUFFIXES
from vectoruniverse.data.shards.find import ENDINGS
from vectoruniverse.data.shards.manifest import (
    MANIFEST_FILE,
    PARTIAL_FILE,
    Format,
    ShardManifest,
    ShardRecord,
    sha256_of,
)
from vectoruniverse.errors import ConfigError, DataError, LockedError
from vectoruniverse.runs.durable import UNFINISHED, remove_unfinished, sync_folder, write_errors_are_told
from vectoruniverse.runs.files import read_record, write_record

GROUP_BYTES = 16 * 2**20
"""Bytes of pictures after which a row group of a Parquet file ends."""

GROUP_ROWS = 1000


class Cut(NamedTuple):
    """After how many rows, or how many bytes of pictures and texts, a shard ends."""

    rows: int | None = None
    bytes: int | None = None

    def told(self) -> dict[Any, int]:
        """As the manifest notes it."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def reached(self, rows: int, size: int) -> bool:
        """Whether a shard of this many is full."""
        return (self.rows is not None and rows >= self.rows) or (self.bytes is not None and size >= self.bytes)


@dataclass(frozen=True, slots=True)
class Source:
    """What is written.

    Attributes:
        columns: of the table, as they are written.
        cells: of each row.
        pictures: of each row.
        left_out: rows that have no picture at all.
        allowed: how many more rows may be left out since their picture cannot be read.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    pictures: Sequence[PictureFile]
    left_out: int = 0
    allowed: int = 0

    def fingerprint(self) -> str:
        """sha256 over the table, and name, size and time of every picture."""
        digest = hashlib.sha256(json.dumps(list(self.columns)).encode())
        for cells, picture in zip(self.cells, self.pictures, strict=True):
            with contextlib.suppress(OSError):  # one that is gone is told when it is read
                digest.update(json.dumps([*cells, str(picture), *picture_stamp(picture)[:2]]).encode())
        return digest.hexdigest()


class _Writer(ABC):
    """One shard that is being written."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns, self.rows, self.size = columns, 0, 0

    def add(self, key: str, cells: Sequence[str], content: bytes, picture: PictureFile) -> None:
        """One sample."""
        self.rows += 1
        self.size += len(content) + sum(map(len, cells))
        self._write(key, dict(zip(self._columns, cells, strict=True)), content, picture)

    @abstractmethod
    def _write(self, key: str, cells: Mapping[str, str], content: bytes, picture: PictureFile) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class _Tar(_Writer):
    """By WebDataset's own writer; equal samples make equal files."""

    def __init__(self, stream: IO[bytes], columns: Sequence[str]) -> None:
        import webdataset

        super().__init__(columns)
        self._tar = webdataset.TarWriter(stream, encoder=False, mtime=0)

    def _write(self, key: str, cells: Mapping[str, str], content: bytes, picture: PictureFile) -> None:
        text = json.dumps(cells, ensure_ascii=False).encode(errors="backslashreplace")
        self._tar.write({"__key__": key, picture_ending(picture, content): content, "json": text})

    def close(self) -> None:
        self._tar.close()


class _Parquet(_Writer):
    """By pyarrow; pictures, which are compressed already, are not compressed again."""

    def __init__(self, stream: IO[bytes], columns: Sequence[str]) -> None:
        super().__init__(columns)
        self._stream, self._file = stream, cast("Any", None)
        self._image = next(
            f"image{mark}" for mark in ("", *map(str, range(2, 10_000))) if f"image{mark}" not in columns
        )
        self._cells: dict[str, list[str]] = {name: [] for name in columns}
        self._pictures: list[tuple[bytes, str]] = []
        self._waiting = 0

    def _write(self, key: str, cells: Mapping[str, str], content: bytes, picture: PictureFile) -> None:
        for name, cell in cells.items():
            self._cells[name].append(cell.encode(errors="backslashreplace").decode())
        name = f"{key}.{picture_ending(picture, content)}"
        self._pictures.append((content, Path(picture.name).name or name))
        self._waiting += len(content)
        if self._waiting >= GROUP_BYTES or len(self._pictures) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        from vectoruniverse.data.shards.columns import arrow_table

        table = arrow_table(self._cells, self._pictures, self._image)
        if self._file is None:
            plain = {f"{self._image}.{part}": "NONE" for part in ("bytes", "path")}
            packed = plain | dict.fromkeys(self._cells, "ZSTD")
            texts = list(self._cells)
            self._file = pq.ParquetWriter(
                self._stream, table.schema, compression=packed, use_dictionary=texts, write_statistics=texts
            )
        self._file.write_table(table, row_group_size=max(1, len(self._pictures)))
        self._cells, self._pictures, self._waiting = {name: [] for name in self._cells}, [], 0

    def close(self) -> None:
        if self._pictures or self._file is None:
            self._flush()
        self._file.close()


_WRITERS: Mapping[Format, Callable[[IO[bytes], Sequence[str]], _Writer]] = {"parquet": _Parquet, "webdataset": _Tar}


def picture_ending(picture: PictureFile, content: bytes) -> str:
    """How a member's name ends: as the picture's own does, else as its content says."""
    if (named := picture_suffix(picture).removeprefix(".")) in PICTURE_SUFFIXES:
        return named
    with (
        contextlib.suppress(Exception),
        pillow_warnings_silenced(),
        Image.open(BytesIO(content), formats=FORMATS) as image,
    ):
        return str(image.format).lower().replace("jpeg", "jpg").replace("mpo", "jpg")
    return "jpg"


def write_shards(
    out: Path, form: Format, source: Source, cut: Cut, tell: Callable[[int, int], None] = lambda done, total: None
) -> ShardManifest:
    """Write shards and, at last, their manifest; what an interrupted call left is gone on with.

    Args:
        out: folder; is made.
        form: of the files.
        source: the rows.
        cut: when a shard ends.
        tell: called with how many rows are written, and how many there are.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
        DataError: more pictures than are allowed cannot be read.
        LockedError: another process writes there.
        ResourceError: the disk is full.
    """
    with write_errors_are_told(out):
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            remove_unfinished(out)
            begun = _begun(out, form, source, cut)
            if (out / MANIFEST_FILE).is_file():
                return begun
            return _write_rest(out, begun, source, cut, tell)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise LockedError("another process writes shards here", file=out, remedy="wait for it, or end it") from error


def _begun(out: Path, form: Format, source: Source, cut: Cut) -> ShardManifest:
    """What is written already of these very shards.

    Raises:
        ConfigError: the folder holds other files.
    """
    new = ShardManifest(
        format=form,
        source=source.fingerprint(),
        columns=list(source.columns),
        left_out=source.left_out,
        cut=cut.told(),
        shards=[],
    )
    remedy = "choose another --out, or remove what is there"
    for name in (MANIFEST_FILE, PARTIAL_FILE):
        if (out / name).is_file():
            held = read_record(out / name, ShardManifest, remedy=remedy)
            same = {"format", "source", "columns", "cut"}
            if held.model_dump(include=same) != new.model_dump(include=same):
                raise ConfigError("holds shards of other data, or cut otherwise", file=out, key="--out", remedy=remedy)
            return held if name == MANIFEST_FILE else _intact(out, held, source.left_out)
    if any(file.suffix in ENDINGS.values() for file in out.iterdir()):
        raise ConfigError("holds shards that were not written here", file=out, key="--out", remedy=remedy)
    return new


def _intact(out: Path, held: ShardManifest, left_out: int) -> ShardManifest:
    """What was begun; nothing of it where a shard is not as it was written."""
    files = [(out / one.name, one.bytes) for one in held.shards]
    if all(file.is_file() and file.stat().st_size == size for file, size in files):
        return held
    return held.model_copy(update={"shards": [], "left_out": left_out})


def _write_rest(
    out: Path, begun: ShardManifest, source: Source, cut: Cut, tell: Callable[[int, int], None]
) -> ShardManifest:
    total, held = len(source.pictures), begun
    at = held.rows + held.left_out - source.left_out
    write_record(out / PARTIAL_FILE, held)  # before the first shard, so that whatever is there is known as our own
    while at < total:
        name = f"shard-{len(held.shards):06d}{ENDINGS[held.format]}"
        at, rows, left_out = _write_shard(out / name, held, source, cut, at, tell)
        if rows:
            file = out / name
            record = ShardRecord(name=name, rows=rows, bytes=file.stat().st_size, sha256=sha256_of(file))
            held = held.model_copy(update={"shards": [*held.shards, record]})
        held = held.model_copy(update={"left_out": held.left_out + left_out})
        write_record(out / PARTIAL_FILE, held)
    if not held.shards:
        raise DataError("not one row has a picture that can be read", file=out, remedy="run vu data check")
    write_record(out / MANIFEST_FILE, held)
    (out / PARTIAL_FILE).unlink(missing_ok=True)
    return held


def _write_shard(
    file: Path, held: ShardManifest, source: Source, cut: Cut, at: int, tell: Callable[[int, int], None]
) -> tuple[int, int, int]:
    """Write one shard from row ``at`` on; returns the row behind it, and how many it holds and left out."""
    temporary, left_out, first = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}"), 0, at
    allowed = source.allowed + source.left_out - held.left_out
    try:
        with temporary.open("xb") as stream:
            with contextlib.closing(_WRITERS[held.format](stream, source.columns)) as writer:
                while at < len(source.pictures) and not cut.reached(writer.rows, writer.size):
                    try:
                        content, _ = read_picture_file(source.pictures[at])
                        writer.add(f"{at:09d}", source.cells[at], content, source.pictures[at])
                    except PictureError as error:
                        left_out += 1
                        if left_out > allowed:
                            message, remedy = f"too many pictures cannot be read: {error}", "run vu data check"
                            raise DataError(message, remedy=remedy) from error
                    at += 1
                    tell(at, len(source.pictures))
            stream.flush()
            os.fsync(stream.fileno())
        if writer.rows:
            temporary.replace(file)
            sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)
    assert at > first, "no row was taken"
    return at, writer.rows, left_out
