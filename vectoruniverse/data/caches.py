"""Stores of a cache folder: which there are, which are in use, and the least recently used removed above a limit.

A process that opens a store holds a shared lock on its file ``in-use`` for as long as it lives, and touches it: its
time is that of the last use. Whoever removes a store needs that lock for itself, so none is taken from a running
training.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from vectoruniverse.errors import ConfigError

if sys.platform != "win32":
    import fcntl

STORES = {"pictures.u8": "decoded pictures", "digests.u8": "digests of pictures", "states.bin": "hidden states"}
"""The file of records that makes a folder a store → what it holds."""

VARIABLE = "VU_CACHE_LIMIT"
MOST = 200 * 10**9
"""Bytes that stores take at most where nobody says otherwise, if a quarter of the disk is more."""

_IN_USE, _GOING = "in-use", ".evicted"
_held: dict[Path, int] = {}
"""Descriptors of this process's locks."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store.

    Attributes:
        folder: where.
        holds: what.
        size: bytes on the disk.
        used: when it was last opened, seconds since 1970.
        busy: whether a process that opened it lives.
    """

    folder: Path
    holds: str
    size: int
    used: float
    busy: bool


def hold(folder: Path) -> bool:
    """Mark a store as in use until this process ends; False where it was removed meanwhile and has to be made again."""
    if sys.platform == "win32":  # no lock to share, so nothing is ever removed either
        return True
    key = folder.absolute()
    with contextlib.suppress(OSError):
        if key in _held and os.fstat(_held[key]).st_ino == (folder / _IN_USE).stat().st_ino:
            os.utime(folder / _IN_USE)
            return True
    try:
        descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_ino != (folder / _IN_USE).stat().st_ino:
            os.close(descriptor)
            return False
    except FileNotFoundError:  # by whoever held the lock until now
        return False
    os.utime(folder / _IN_USE)
    _held[key] = descriptor
    return True


def stores(cache_dir: Path) -> list[Store]:
    """The stores of a cache folder, least recently used first; links and anything else are passed over."""
    found = []
    for folder in sorted(cache_dir.glob("*")) if cache_dir.is_dir() else []:
        holds = next((what for name, what in STORES.items() if (folder / name).is_file()), None)
        if folder.is_symlink() or holds is None or not (folder / "index.jsonl").is_file():
            continue
        with contextlib.suppress(OSError):  # removed meanwhile, or somebody else's
            files = [one.lstat() for one in folder.iterdir() if one.is_file()]
            marked = folder / _IN_USE
            if not marked.exists():  # of an earlier version
                marked.touch()
                os.utime(marked, (max(one.st_mtime for one in files),) * 2)
            with _alone(folder) as free:
                size = sum(one.st_size for one in files)
                found.append(Store(folder, holds, size, marked.stat().st_mtime, not free))
    return sorted(found, key=lambda store: store.used)


def surplus(found: list[Store], limit: int) -> list[Store]:
    """Which stores have to go, least recently used first, so that all take ``limit`` bytes; none that is in use."""
    total, going = sum(store.size for store in found), []
    for store in found:
        if total <= limit:
            break
        if not store.busy:
            going.append(store)
            total -= store.size
    return going


def remove(store: Store) -> bool:
    """Remove a store that nobody uses; False where somebody does by now.

    Raises:
        ConfigError: the system does not let one remove it.
    """
    with _alone(store.folder) as free:
        if not free:
            return False
        try:
            going = store.folder.with_name(f".{secrets.token_hex(8)}{_GOING}")
            store.folder.rename(going)
            shutil.rmtree(going)
        except OSError as error:
            raise ConfigError(f"cannot be removed: {error.strerror or error}", file=store.folder) from error
    return True


def keep_within(cache_dir: Path) -> None:
    """Remove what is above the limit, least recently used first, and what a kill left of such a removal."""
    for left in cache_dir.glob(f".*{_GOING}"):
        if not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    for store in surplus(stores(cache_dir), limit_of(cache_dir)):
        with contextlib.suppress(ConfigError):  # somebody else's, say; it is told where one asks
            remove(store)


def limit_of(cache_dir: Path) -> int:
    """``$VU_CACHE_LIMIT``, as in ``20GB``; else a quarter of the disk, and 200 GB at most.

    Raises:
        ConfigError: it is no size.
    """
    if told := os.environ.get(VARIABLE):
        return parse_size(told, f"${VARIABLE}")
    return min(MOST, shutil.disk_usage(cache_dir).total // 4)


def parse_size(text: str, name: str) -> int:
    """Bytes of a size such as ``20GB`` or ``500MiB``.

    Raises:
        ConfigError: it is none.
    """
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = -1
    if size < 0:
        raise ConfigError(f"{text[:40]!r} is no size", file=name, remedy="as in 20GB or 500MiB")
    return size


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no process uses a store; within it none can begin to."""
    if sys.platform == "win32":
        yield False
        return
    try:
        descriptor = os.open(folder / _IN_USE, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
