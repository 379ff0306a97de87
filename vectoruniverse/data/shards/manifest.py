"""``shards.json``: what `vu data shard` wrote, so that who reads it sees that all of it is there.

It is written last. While shards are being written, ``shards.partial.json`` holds those that are whole; a folder with it
is not read, and the same command goes on from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vectoruniverse.data.findings import FaultError, Finding, Parts
from vectoruniverse.runs.files import Record, check_regular, read_record

MANIFEST_FILE = "shards.json"
PARTIAL_FILE = "shards.partial.json"

Format = Literal["parquet", "webdataset"]
Count = Annotated[int, Field(ge=0, strict=True)]

_AGAIN = "run vu data shard again, or take an intact copy of the folder"


class ShardRecord(Record):
    """One shard.

    Attributes:
        name: of the file, in the manifest's folder.
        rows: samples.
        bytes: length of the file.
        sha256: of the file, hexadecimal.
    """

    name: Annotated[str, Field(pattern=r"^[\w-]+(\.[\w-]+)+$")]
    rows: Count
    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ShardManifest(Record):
    """All shards of a data set.

    Attributes:
        version: of this form.
        format: of the files.
        source: sha256 over the table that they were made of, and name, size and time of every picture.
        columns: of the table.
        left_out: rows of the table without a picture that could be read.
        cut: rows, or bytes of pictures and texts, after which a shard ends.
        shards: in order.
    """

    version: Literal[1] = 1
    format: Format
    source: str
    columns: list[str]
    left_out: Count = 0
    cut: dict[Literal["rows", "bytes"], int]
    shards: list[ShardRecord]

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(one.rows for one in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(one.bytes for one in self.shards)


def read_manifest(folder: Path) -> ShardManifest | None:
    """What the shards of a folder should be; None where nobody wrote it down.

    Raises:
        DataError: it is damaged, or writing was not finished.
    """
    if (folder / PARTIAL_FILE).is_file():
        message = "these shards are not all written yet"
        raise FaultError(message, kind="broken_shard", file=folder, remedy="run the same vu data shard again")
    if not (folder / MANIFEST_FILE).is_file():
        return None
    return read_record(folder / MANIFEST_FILE, ShardManifest, remedy=_AGAIN)


def hold_to_manifest(folder: Path, manifest: ShardManifest, files: Sequence[Path]) -> None:
    """Raise where shards are missing, of another length, or more than were written.

    Raises:
        FaultError: names the first such file.
    """
    there = {file.name: file for file in files}
    faults = dict[Path, str]()
    for one in manifest.shards:
        if one.name not in there:
            faults[folder / one.name] = f"is missing; {MANIFEST_FILE} names it"
        elif (size := there[one.name].stat().st_size) != one.bytes:
            faults[folder / one.name] = f"holds {size:,} bytes; {MANIFEST_FILE} says {one.bytes:,}"
    known = {one.name for one in manifest.shards}
    faults |= {file: f"is not named in {MANIFEST_FILE}" for name, file in there.items() if name not in known}
    if faults:
        file, fault = next(iter(faults.items()))
        more = f"; so are {len(faults) - 1} more files" if len(faults) > 1 else ""
        raise FaultError(fault + more, kind="broken_shard", file=file, remedy=_AGAIN)


def refuse_other_counts(folder: Path, manifest: ShardManifest, parts: Parts, total: int) -> None:
    """Raise where a shard holds more or fewer rows than were written to it; ``parts`` and ``total`` as they were read.

    Raises:
        FaultError: names the first such shard.
    """
    ends, written = [*(before for _, before in parts[1:]), total], {one.name: one.rows for one in manifest.shards}
    for (name, before), end in zip(parts, ends, strict=True):
        if end - before != written[name]:
            fault = f"holds {end - before:,} rows; {MANIFEST_FILE} says {written[name]:,}"
            raise FaultError(fault, kind="broken_shard", file=folder / name, remedy=_AGAIN)


def changed_shards(folder: Path, manifest: ShardManifest, tell: Callable[[int, int], None]) -> list[Finding]:
    """Shards whose content is not what was written, by their sha256."""
    found = list[Finding]()
    for done, one in enumerate(manifest.shards, 1):
        if sha256_of(folder / one.name) != one.sha256:
            reason = f"its content is not what was written: its sha256 is not that of {MANIFEST_FILE}"
            found.append(Finding("broken_shard", reason, one.name))
        tell(done, len(manifest.shards))
    return found


def sha256_of(file: Path) -> str:
    """Of a regular file, hexadecimal."""
    check_regular(file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
