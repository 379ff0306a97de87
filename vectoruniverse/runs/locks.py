"""Locks between processes, which the system frees when a process dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from vectoruniverse.errors import ConfigError, LockedError
from vectoruniverse.runs.files import check_regular


def _somebody() -> LockedError:
    return LockedError("another process works on it", remedy="wait for it, or end that process first")


@contextlib.contextmanager
def lock_file(path: Path, held: Callable[[], LockedError] = _somebody, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``path``, a file that is made where there is none.

    Args:
        path: the file.
        held: makes the error where another process holds it.
        wait: for the other process, however long that takes.

    Raises:
        LockedError: another process holds it.
        DataError: it is something else than a regular file.
        ConfigError: the system does not let one write it.
    """
    check_regular(path, remedy="remove it")
    lock = filelock.FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise held() from error
    except FileNotFoundError:
        raise
    except OSError as error:
        said = f"cannot be locked: {error.strerror or error}"
        raise ConfigError(said, file=path, remedy="choose a place that you can write") from error
    try:
        yield
    finally:
        lock.release()
