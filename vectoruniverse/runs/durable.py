"""Files that are replaced as a whole, so that no reader and no power cut meets half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from vectoruniverse.errors import ConfigError, ResourceError

UNFINISHED = ".tmp"
"""How the names of files end that are being written; they begin with a dot."""


@contextlib.contextmanager
def disk_full_is_told(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a ``ResourceError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError("the disk is full", file=path, remedy="make room, then resume the run") from error


@contextlib.contextmanager
def write_errors_are_told(path: Path) -> Iterator[None]:
    """Turn what the system has against writing ``path`` into a ``UserError`` that names it.

    Raises:
        ConfigError: it cannot be written.
        ResourceError: the disk is full.
    """
    try:
        with disk_full_is_told(path):
            yield
    except OSError as error:
        remedy = "choose a place that you can write"
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=path, remedy=remedy) from error


def write_durably(path: Path, content: str | bytes) -> None:
    r"""Replace a file as a whole: written beside it, fsynced, renamed over it, and the folder fsynced.

    Half of a surrogate pair, as in the name of a file that is not UTF-8, is written as JSON does: ``\udcff``.

    Raises:
        ResourceError: the disk is full; the earlier file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with disk_full_is_told(path):
            with temporary.open("xb") as stream:
                stream.write(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete the files that killed processes left half written; nobody may be writing into ``folder``."""
    if folder.is_dir():
        for path in folder.glob(f".*{UNFINISHED}"):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)


def share_as_other_files(path: Path) -> None:
    """Give a file the mode of any new file in its folder: safetensors' ``save_file`` lets its owner alone read it."""
    other = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        other.touch()
        path.chmod(stat.S_IMODE(other.stat().st_mode))
    finally:
        other.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut (where the system lets one fsync a folder)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
