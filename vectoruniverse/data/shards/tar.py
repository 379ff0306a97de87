"""WebDataset shards: tar files in which members of one base name, next to each other, are one sample.

Members are found by their headers and read where they lie. Nothing is extracted, and nothing but JSON and plain text is
ever decoded: WebDataset's own decoders would unpickle members called ``.pyd`` or ``.pkl``.
"""

from __future__ import annotations

import array
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from vectoruniverse.data.decoding import MAX_FILE_BYTES
from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import KEY, MAX_CELL, PICTURE_SUFFIXES, Block, Sample, Shard
from vectoruniverse.data.shards.cells import cells_of

_MAX_HEADER = 2**20  # bytes of one extended header, which tarfile reads as a whole
_MAX_NAME = 4096  # characters
_BLOCK = 8 * 2**20  # bytes that are read together
_END = b"\0" * 1024  # two empty blocks


class TarShard(Shard):
    """An uncompressed tar file.

    Args:
        path, name: as of ``Shard``.
        image: ending of the members that are pictures; None: whichever is one.
        separator: between several labels in a cell.
    """

    def __init__(self, path: Path, name: str, *, image: str | None, separator: str) -> None:
        super().__init__(path, name)
        self._endings = PICTURE_SUFFIXES if image is None else (image.lower(),)
        self._separator = separator
        self._places = array.array("Q")  # of each picture: where it begins, and its length

    def samples(self) -> Iterator[Sample]:
        """See ``Shard``."""
        from webdataset.tariterators import base_plus_ext

        self._places, seen = array.array("Q"), dict[str, int]()
        key, members = None, list[tuple[str, tarfile.TarInfo]]()
        with self.path.open("rb") as stream:
            for member in self._members(stream):
                if member.isdir() or _is_meta(member.name):
                    continue
                base, ending = base_plus_ext(member.name)
                if base is None:
                    continue
                if base != key and members:
                    yield self._sample(stream, str(key), members, seen)
                    members = []
                key = base
                members.append((ending.lower(), member))
            if members:
                yield self._sample(stream, str(key), members, seen)

    def _members(self, stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
        """Headers, one at a time.

        Raises:
            FaultError: the file is no tar, is compressed, damaged, or cut off.
        """
        count, end = 0, 0
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r:") as archive:
                while (member := archive.next()) is not None:
                    count, end = count + 1, archive.offset
                    if len(member.name) > _MAX_NAME:
                        raise tarfile.ReadError(f"a name of {len(member.name):,} characters")
                    yield member
                    cast("Any", archive).members.clear()  # which would hold every header
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
            if count == 0 and _is_compressed(self.path):
                remedy = "Decompress it: members of a compressed file cannot be read where they lie."
                raise self.broken("is compressed", remedy=remedy) from error
            what = "is not a tar file" if count == 0 else f"is damaged or cut off after {count:,} members"
            raise self.broken(f"{what} ({error})") from error
        stream.seek(end)
        if stream.read(len(_END)) != _END:
            raise self.broken(f"is damaged or cut off after {count:,} members: its end mark is not there")

    def _sample(
        self, stream: IO[bytes], key: str, members: list[tuple[str, tarfile.TarInfo]], seen: dict[str, int]
    ) -> Sample:
        """Read the texts of a sample, and note where its picture lies."""
        number = len(self._places) // 2
        self._places.extend((0, 0))
        cells: dict[str, str] = {KEY: key}
        try:
            self._refuse_twice(key, number, seen)
            for ending, member in members:
                _refuse_unsafe(member)
                if ending in ("json", "txt", "cls"):
                    cells |= self._texts(stream, ending, member)
            picture = self._picture(key, members)
            self._places[2 * number : 2 * number + 2] = array.array("Q", (picture.offset_data, picture.size))
        except FaultError as why:
            return Sample(cells, why)
        return Sample(cells, picture.name)

    def _refuse_twice(self, key: str, number: int, seen: dict[str, int]) -> None:
        if (first := seen.setdefault(key, number)) != number:
            raise FaultError(f"the key {key!r} is that of sample {first + 1} of {self.name}", kind="duplicate_id")

    def _picture(self, key: str, members: list[tuple[str, tarfile.TarInfo]]) -> tarfile.TarInfo:
        pictures = [member for ending, member in members if ending in self._endings]
        if not pictures:
            held = ", ".join(sorted(ending for ending, _ in members)[:5])
            raise FaultError(f"sample {key!r} holds no picture; it holds {held}", kind="missing_picture")
        if len(pictures) > 1:
            raise FaultError(f"sample {key!r} holds {len(pictures)} pictures", kind="ambiguous_id")
        if pictures[0].size > MAX_FILE_BYTES:
            raise FaultError(f"{pictures[0].name} is larger than {MAX_FILE_BYTES >> 20} MiB")
        return pictures[0]

    def _texts(self, stream: IO[bytes], ending: str, member: tarfile.TarInfo) -> Mapping[str, str]:
        """Cells of a ``.json`` object, of a ``.txt`` (``text``) or of a ``.cls`` (``cls``)."""
        if member.size > MAX_CELL:
            raise FaultError(f"{member.name} holds {member.size:,} bytes, more than {MAX_CELL:,}")
        stream.seek(member.offset_data)
        try:
            text = stream.read(member.size).decode("utf-8-sig")
            if ending != "json":
                return {"text" if ending == "txt" else ending: text.strip()}
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = "UTF-8" if isinstance(error, UnicodeError) else "JSON"
            raise FaultError(f"{member.name} is not {what}", kind="unusable_row") from error
        if not isinstance(values, dict):
            raise FaultError(f"{member.name} is no JSON object", kind="unusable_row")
        return cells_of(values, self._separator)

    def content(self, number: int) -> bytes:
        """See ``Shard``."""
        begin, size = self._places[2 * number : 2 * number + 2]
        try:
            with self.path.open("rb") as stream:
                stream.seek(begin)
                content = stream.read(size)
        except OSError as error:
            raise self.broken(f"cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise self.broken("was cut off while it was read")
        return content

    def blocks(self) -> list[Block]:
        """Members next to each other, some megabytes of them."""
        found, rows, size = list[Block](), 0, 0
        for length in self._places[1::2]:
            rows, size = rows + 1, size + length
            if size >= _BLOCK:
                found.append(Block(rows, size))
                rows = size = 0
        return [*found, Block(rows, size)] if rows else found


class _Bounded:
    """What ``tarfile`` reads headers of: a header that claims to be huge is refused before memory is filled."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._stream.read(size)


def _is_meta(name: str) -> bool:
    """Members that WebDataset passes over, too: ``__name__``, and what macOS adds."""
    base = name.rpartition("/")[2]
    return (name.startswith("__") and "__" in name[2:]) or base.startswith(".")


def _refuse_unsafe(member: tarfile.TarInfo) -> None:
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        raise FaultError(f"member {member.name!r} has a path that leads out of the shard", kind="outside_root")
    if member.issym() or member.islnk():
        raise FaultError(f"member {member.name!r} is a link to {member.linkname!r}", kind="outside_root")
    if not member.isreg() or member.issparse():
        raise FaultError(f"member {member.name!r} is not a plain file", kind="unusable_row")


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
