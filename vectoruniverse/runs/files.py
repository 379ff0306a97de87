"""The one door through which files of runs and sweeps are read: regular, inside their folder, bounded, typed.

A run folder may have been damaged, or made by somebody else. A FIFO would wait for ever, a link would show another
file, and a forged size would fill memory; each gets a message that names the file instead.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vectoruniverse.errors import DataError
from vectoruniverse.runs.durable import write_durably

MAX_RECORD = 64 * 2**20
"""Bytes of the longest JSON file that a run writes; most have a few kB."""

REMEDY = "take an intact copy of it, or train again"


class Record(BaseModel):
    """Base of every record on disk: who writes a file and who reads it use the same class.

    A file without ``version`` was written before there was one. What this version does not know is kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    """Fields by the names that earlier versions wrote."""

    @model_validator(mode="before")
    @classmethod
    def _by_new_names(cls, found: object) -> object:
        return {cls.renamed.get(key, key): value for key, value in found.items()} if isinstance(found, dict) else found


R = TypeVar("R", bound=Record)


def check_regular(path: Path, *, inside: Path | None = None, remedy: str = REMEDY) -> None:
    """Refuse what is there and is no regular file, such as a FIFO or a folder, or what a link shows from elsewhere.

    Args:
        path: the file; that there is none yet is fine.
        inside: folder that it must lie in when all links are followed; its own unless given.
        remedy: what to do about it.

    Raises:
        DataError: it is something else.
    """
    home = path.parent if inside is None else inside
    try:
        real = path.resolve()
        inside_it = real.is_relative_to(home.resolve())
        mode = real.stat().st_mode if inside_it else stat.S_IFREG
    except FileNotFoundError:
        return
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a name with a NUL
        raise DataError(f"cannot be read: {_reason(error)}", file=path, remedy=remedy) from error
    if not inside_it:
        raise DataError("is a link to a file outside its folder", file=path, remedy=remedy)
    if not stat.S_ISREG(mode):
        raise DataError(f"is {_kind(mode)}, not a regular file", file=path, remedy=remedy)


def open_regular(path: Path, *, inside: Path | None = None, remedy: str = REMEDY) -> BinaryIO:
    """Open a regular file for reading; see ``check_regular``.

    Raises:
        DataError: it is missing, cannot be read, or is something else.
    """
    check_regular(path, inside=inside, remedy=remedy)
    try:
        # should a FIFO take its place in between, then opening it does not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        return os.fdopen(descriptor, "rb")
    except FileNotFoundError as error:
        raise DataError("is missing", file=path, remedy=remedy) from error
    except OSError as error:
        raise DataError(f"cannot be read: {_reason(error)}", file=path, remedy=remedy) from error


def read_bytes(path: Path, *, limit: int = MAX_RECORD, inside: Path | None = None, remedy: str = REMEDY) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        DataError: it is missing, cannot be read, is something else, or is longer.
    """
    with open_regular(path, inside=inside, remedy=remedy) as stream:
        try:
            content = stream.read() if os.fstat(stream.fileno()).st_size <= limit else None
        except OSError as error:
            raise DataError(f"cannot be read: {_reason(error)}", file=path, remedy=remedy) from error
    if content is None:
        raise DataError(f"is longer than {limit:,} bytes, which it should not be", file=path, remedy=remedy)
    return content


def read_record(
    path: Path, kind: type[R], *, limit: int = MAX_RECORD, inside: Path | None = None, remedy: str = REMEDY
) -> R:
    """A JSON file as the class that wrote it.

    Raises:
        DataError: it cannot be read, is no JSON object, or holds something of another type; the key is named.
    """
    return parse_record(read_bytes(path, limit=limit, inside=inside, remedy=remedy), kind, file=path, remedy=remedy)


def parse_record(content: bytes, kind: type[R], *, file: Path, remedy: str = REMEDY) -> R:
    """The JSON in ``content``, which is that of ``file``, as the class that wrote it; errors as of ``read_record``."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError("is not JSON", file=file, remedy=remedy) from error
    if not isinstance(values, dict):
        raise DataError("is not a JSON object", file=file, remedy=remedy)
    return check_record(values, kind, file=file, remedy=remedy)


def check_record(values: Mapping[str, object], kind: type[R], *, file: Path | None, remedy: str = REMEDY) -> R:
    """JSON values from ``file`` as the class that wrote them; errors as of ``read_record``."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or None
        raise DataError(f"is not what was written: {first['msg']}", file=file, key=key, remedy=remedy) from error


def write_record(path: Path, record: Record) -> None:
    """Replace a file as a whole with a record, as strict JSON; errors as of ``write_durably``."""
    write_durably(path, record_text(record))


def record_text(record: Record) -> str:
    """What a record's file holds: strict JSON for people to read; NaN and infinity of a stranger's are strings."""
    return json.dumps(strict(record.model_dump(by_alias=True)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def strict(value: object) -> object:
    """JSON values without NaN and infinity: strings, which ``float()`` and JavaScript's ``Number()`` read back."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
