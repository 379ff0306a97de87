"""Pictures decoded once: an append-only store of small RGB squares, found by the content of their files.

A store (see ``record_store``) is a folder ``<cache_dir>/<recipe key>/`` of

- ``pictures.u8``: records of size x size x 3 bytes;
- ``index.jsonl``: by the sha256 of the picture file; the picture's own width and height are noted beside;
- ``files.jsonl``: path, size and times of files seen, so that an unchanged file is not read again to be hashed;
- ``lock``: held while a chunk of pictures is looked up, decoded and written.

Where decoded pictures would not fit (``streamed``), such a store holds the digest of each in place of its pixels.

What is stored depends on no limit: a picture's size is held to ``max_pixels`` whenever it is asked for, so which
pictures are used does not depend on who decoded them first.

Decoding happens under the lock, so no picture is decoded twice, and the lock is let go after each chunk, so that a
process which wants ten pictures does not wait for another one's hundred thousand. Taking turns costs nothing: either
one keeps all cores busy.

Threads, not processes: Pillow decodes and resizes without the GIL. 1280x720 JPEGs to 224 (no ``draft``, whose pixels
would differ from the CLIP processor's), two shared cores: one thread 10-11 ms a picture, two threads 6-7, two
processes 8-9 (they also have to start, and to send the pixels back).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.decoding import (
    PictureError,
    PictureFile,
    PictureRecipe,
    decode_content,
    picture_place,
    picture_size,
    picture_stamp,
    pillow_warnings_silenced,
    read_picture_file,
    refuse_extremes,
)
from vectoruniverse.data.journal import JsonLines
from vectoruniverse.data.record_store import POLL_SECONDS, RecordStore, make_folder
from vectoruniverse.data.shards.base import Stamp
from vectoruniverse.data.streamed import StreamedPictures
from vectoruniverse.errors import ConfigError

CHUNK_BYTES = 32 * 2**20  # decoded pixels that wait in memory to be written
CHUNK_ROWS = 128
DIGEST_CHUNK_ROWS = 1024

_PICTURES, _FILES, _WHAT = "pictures.u8", "files.jsonl", "picture cache"
_DIGESTS, _DIGEST_BYTES = "digests.u8", 16


def pixel_digest(picture: NDArray[np.uint8]) -> bytes:
    """Digest of a decoded picture: files that decode to the same pixels are one picture to the model."""
    return hashlib.blake2b(picture.tobytes(), digest_size=_DIGEST_BYTES).digest()


def default_cache_dir() -> Path:
    """``$VU_CACHE``, or ``$XDG_CACHE_HOME/vectoruniverse``, or ``~/.cache/vectoruniverse``.

    Raises:
        ConfigError: that is below a home folder, and the system knows of none.
    """
    chosen, shared = os.environ.get("VU_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if chosen:
            return Path(chosen).expanduser()
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "vectoruniverse"
    except RuntimeError as error:
        message, remedy = "there is no home folder to keep decoded pictures in", "Set $VU_CACHE to an absolute path."
        raise ConfigError(message, key="data.cache_dir", remedy=remedy) from error


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Decoded pictures in the order in which their paths were given."""

    digests: list[str | None]  # sha256 of each file's content, hex; None where the picture is bad
    errors: dict[int, PictureError]  # index of each bad picture → why
    _slots: NDArray[np.int64]
    _records: NDArray[np.uint8]  # read-only map of the store's records

    def __len__(self) -> int:
        return len(self.digests)

    def usable(self) -> NDArray[np.int64]:
        """Indices of the pictures that are not bad."""
        return np.flatnonzero(self._slots >= 0)

    def select(self, indices: NDArray[np.int64]) -> Pictures:
        """These pictures, none of them bad, in this order."""
        return Pictures([self.digests[i] for i in indices], {}, self._slots[indices], self._records)

    def content(self, index: int) -> bytes:
        """Digest of a decoded picture."""
        return pixel_digest(self.take(np.array([index])))

    def ahead(self, indices: NDArray[np.integer]) -> None:
        """Nothing: what will be asked for is there already."""

    def reading_order(self) -> None:
        """None: any order costs the same."""

    def blocks(self) -> None:
        """None: any picture costs the same."""

    def take(self, indices: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        """Copy pictures out of the store: indices (B,) → RGB bytes (B, S, S, 3). Bad pictures have none."""
        slots = self._slots[indices]
        assert (slots >= 0).all(), "a bad picture was asked for"
        pictures: NDArray[np.uint8] = self._records[slots]
        return pictures


DecodedPictures = Pictures | StreamedPictures
"""Pictures that are kept, or decoded whenever they are read."""

_Square = tuple[NDArray[np.uint8], tuple[int, int]]
"""A decoded picture, and the width and height that it had, pixels."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one path; ``square`` only where it has to be written, ``file_row`` where the file was read."""

    digest: str | None = None
    error: PictureError | None = None
    square: _Square | None = None
    file_row: dict[str, object] | None = None


class PictureStore(RecordStore):
    """Decoded pictures of one recipe on disk; several processes may use the same folder at once."""

    def __init__(self, folder: Path, recipe: PictureRecipe, *, pixels: bool = True) -> None:
        """Use ``open``, which also makes the folder."""
        shape = (recipe.size, recipe.size, 3) if pixels else (_DIGEST_BYTES,)
        super().__init__(folder, _PICTURES if pixels else _DIGESTS, shape, noted=("width", "height"), what=_WHAT)
        self._pixels = pixels
        self._recipe, self._files = recipe, JsonLines(folder / _FILES)
        self._seen: dict[str, tuple[Stamp, str]] = {}  # place → size and times, sha256

    @classmethod
    def open(cls, cache_dir: Path, recipe: PictureRecipe, *, pixels: bool = True) -> PictureStore:
        """Open, or make, the store of a recipe below ``cache_dir``; without ``pixels`` it holds digests of them.

        Raises:
            ConfigError: the folder cannot be made or written.
        """
        folder = cache_dir / (recipe.key if pixels else f"{recipe.key}-digests")
        make_folder(folder, (_PICTURES if pixels else _DIGESTS, "index.jsonl", _FILES), _WHAT)
        return cls(folder, recipe, pixels=pixels)

    def ensure(
        self,
        paths: Sequence[PictureFile],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> Pictures:
        """See ``settle``; what is settled can be taken out of the store."""
        digests, errors, slots = self.settle(paths, on_progress=on_progress, workers=workers)
        return Pictures(digests, errors, slots, self._records)

    def digest_only(
        self, paths: Sequence[PictureFile], *, on_progress: Callable[[int, int], None] | None = None
    ) -> StreamedPictures:
        """See ``settle``; of a store without pixels."""
        assert not self._pixels, "a store of pixels has them already"
        digests, errors, slots = self.settle(paths, on_progress=on_progress)
        contents = np.zeros((len(slots), _DIGEST_BYTES), np.uint8)
        contents[slots >= 0] = self._records[slots[slots >= 0]]
        return StreamedPictures(paths, digests, errors, contents, self._recipe)

    def settle(
        self,
        paths: Sequence[PictureFile],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> tuple[list[str | None], dict[int, PictureError], NDArray[np.int64]]:
        """Decode what the store lacks of these pictures; checks the crc32 of what it has.

        Args:
            paths: picture files, or pictures in shards; equal content shares a record.
            on_progress: called in this thread with (paths settled, paths in all) after each chunk.
            workers: threads; None takes one for each core this process may use. Each may hold one file and its
                decoded form: about 0.5 GB at the default ``max_pixels``, a few MB for usual pictures.

        Raises:
            ConfigError: the store's folder cannot be written.
            ResourceError: the disk is full.
            LockedError: another process held the lock for ten minutes.
        """
        outcomes: list[_Outcome] = []
        rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // self._record_bytes)) if self._pixels else DIGEST_CHUNK_ROWS
        usable_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with pillow_warnings_silenced(), ThreadPoolExecutor(workers or usable_cores) as pool:
            for start in range(0, len(paths), rows):
                outcomes += self._settle(paths[start : start + rows], pool)
                if on_progress:
                    on_progress(len(outcomes), len(paths))
        digests = [outcome.digest for outcome in outcomes]
        errors = {index: outcome.error for index, outcome in enumerate(outcomes) if outcome.error is not None}
        slots = np.array([-1 if digest is None else self._known[digest].slot for digest in digests], np.int64)
        return digests, errors, slots

    def _settle(self, chunk: Sequence[PictureFile], pool: ThreadPoolExecutor) -> list[_Outcome]:
        with self._writing():
            outcomes = list(pool.map(self._load, chunk))
            fresh = {out.digest: out.square for out in outcomes if out.digest is not None and out.square is not None}
            self._files.append([out.file_row for out in outcomes if out.file_row is not None])
            self._append(fresh)
        if fresh:
            time.sleep(2 * POLL_SECONDS)  # file locks are not fair: without a pause the others would never get it
        return outcomes

    def _catch_up(self) -> None:
        super()._catch_up()
        for row in self._files.read_new():
            match row:
                case {"path": str(path), "size": int(n), "mtime_ns": int(m), "ctime_ns": int(c), "sha256": str(digest)}:
                    self._seen[path] = (n, m, c), digest

    def _load(self, path: PictureFile) -> _Outcome:
        """Settle one path in a worker thread, reading and decoding no more than is needed."""
        try:
            digest = self._remembered(path)
            if digest is not None and self._serves(digest, path):
                return _Outcome(digest)
            content, (size, mtime, ctime) = read_picture_file(path)
            digest = hashlib.sha256(content).hexdigest()
            square = None
            if not self._serves(digest, path):
                pixels = decode_content(content, path, self._recipe)
                record = pixels if self._pixels else np.frombuffer(pixel_digest(pixels), np.uint8)
                square = (record, picture_size(content))
        except PictureError as error:
            return _Outcome(error=error)
        row = {"path": picture_place(path), "size": size, "mtime_ns": mtime, "ctime_ns": ctime, "sha256": digest}
        return _Outcome(digest, square=square, file_row=row)

    def _remembered(self, path: PictureFile) -> str | None:
        stamp, digest = self._seen.get(picture_place(path), ((), None))
        with contextlib.suppress(OSError, ValueError):  # told by read_picture_file, which comes next
            return digest if digest and picture_stamp(path) == stamp else None
        return None

    def _serves(self, digest: str, path: PictureFile) -> bool:
        """Whether the store holds this picture undamaged.

        Raises:
            PictureError: it does, and the picture is beyond the recipe's limits.
        """
        known = self._intact(digest)
        if known is None:
            return False
        width, height = known.noted
        refuse_extremes(width, height, path, self._recipe.max_pixels)
        return True
