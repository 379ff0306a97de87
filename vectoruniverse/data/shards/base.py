"""A shard: one large file, or a data set's folder, that holds many samples, each a picture and its cells.

A shard is read twice: once from end to end for the samples' cells, and then picture by picture, in the order of the
samples or near it. No picture is held between the two; what is remembered of one is its shard and its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vectoruniverse.data.findings import FaultError

KEY = "__key__"
"""Column of the name that a sample has without any column that names it."""

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
"""Endings of members that are pictures."""

MAX_CELL = 2**20
"""Bytes of the longest text of a sample."""

Stamp = tuple[int, ...]
"""What changes when a file changes: size and times."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A picture in a shard.

    Attributes:
        shard: it.
        number: of the sample in it, from 0.
        name: what the shard calls the picture; empty where it has no name.
    """

    shard: Shard
    number: int
    name: str

    def __str__(self) -> str:
        """Shard and member, or shard and row, for messages."""
        return f"{self.shard.name}/{self.name}" if self.name else f"{self.shard.name}, row {self.number + 1}"

    @property
    def place(self) -> str:
        """A name that no other picture has."""
        return f"{self.shard.path.absolute()}#{self.shard.part}{self.number}"

    def stamp(self) -> Stamp:
        """Of its shard."""
        return self.shard.stamp

    def read(self) -> bytes:
        """Its bytes as they are; empty where it has none.

        Raises:
            FaultError: the shard cannot be read there, or the picture is too large.
        """
        return self.shard.content(self.number)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a shard holds beside a picture.

    Attributes:
        cells: texts by the column's written name.
        picture: name of the picture; what is wrong where it has none that can be used.
    """

    cells: Mapping[str, str]
    picture: str | FaultError


class Block(NamedTuple):
    """Samples that are read together: how many, and about how many bytes their pictures have."""

    rows: int
    bytes: int


class Shard(ABC):
    """One file, or one folder, of samples.

    Attributes:
        path: where it is, links followed.
        name: what messages call it: its path below the folder of all shards.
        stamp: what changes when it changes.
        part: name of it within ``path``, where that holds several, such as ``train/``.
    """

    def __init__(self, path: Path, name: str, part: str = "") -> None:
        self.path, self.name, self.part = path, name, part
        self.stamp = stamp_of(path)

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Every sample, in order; pictures are not read.

        Raises:
            FaultError: the shard is damaged or not of this kind; rows that come before are lost as well.
        """

    @abstractmethod
    def content(self, number: int) -> bytes:
        """Bytes of the picture of sample ``number``; safe in threads.

        Raises:
            FaultError: it cannot be read, or is too large.
        """

    @abstractmethod
    def blocks(self) -> list[Block]:
        """Samples that lie together and are best read together, in order."""

    def broken(self, reason: str, *, rows: int = 0, remedy: str | None = None) -> FaultError:
        """That this shard cannot be read."""
        return FaultError(reason, kind="broken_shard", file=self.path, rows=rows, remedy=remedy or "Fetch it again.")


def stamp_of(path: Path) -> Stamp:
    """Size and times of a file; of a folder, of all files below it together."""
    files = [path] if not path.is_dir() else sorted(one for one in path.rglob("*") if one.is_file())
    found = [file.stat() for file in files]
    times = [max((getattr(one, name) for one in found), default=0) for name in ("st_mtime_ns", "st_ctime_ns")]
    return sum(one.st_size for one in found), *times
