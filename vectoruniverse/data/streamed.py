"""Pictures that are decoded whenever they are asked for: for data whose decoded form would not fit on a disk.

Each picture is decoded once when a run begins, to know that it can be and what it holds; that is remembered beside the
store of decoded pictures, 16 bytes a picture. So rows, splits and what is the same picture are those of the store, and
a picture that changes later on ends the run instead of entering it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.decoding import (
    PictureError,
    PictureFile,
    PictureRecipe,
    decode_content,
    read_picture_file,
)
from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import Block, Packed

WINDOW_BYTES = 96 * 2**20
"""Bytes of the blocks that are shuffled together; those of two windows are at hand at a time."""

MAX_BLOCK = 64 * 2**20
"""Bytes of the largest block of pictures that can be shuffled."""


class _Ahead:
    """Threads that decode, and what they were told to decode before it is asked for."""

    def __init__(self) -> None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.pool = ThreadPoolExecutor(usable, thread_name_prefix="decode")
        self.begun: dict[int, Future[NDArray[np.uint8]]] = {}
        # for good: filters belong to the process, and these threads decode while others compute
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")


@dataclass(frozen=True, slots=True, eq=False)
class StreamedPictures:
    """Pictures in the order in which their files were given; the same questions as to ``Pictures``."""

    files: Sequence[PictureFile]
    digests: list[str | None]  # sha256 of each file's content, hex; None where the picture is bad
    errors: dict[int, PictureError]
    contents: NDArray[np.uint8]  # (N, 16): digest of each decoded picture
    recipe: PictureRecipe
    _ahead: _Ahead = field(default_factory=_Ahead)

    def __len__(self) -> int:
        return len(self.files)

    def usable(self) -> NDArray[np.int64]:
        """Indices of the pictures that are not bad."""
        return np.array([i for i in range(len(self)) if i not in self.errors], np.int64)

    def select(self, indices: NDArray[np.int64]) -> StreamedPictures:
        """These pictures, none of them bad, in this order."""
        files, digests = [self.files[i] for i in indices], [self.digests[i] for i in indices]
        return StreamedPictures(files, digests, {}, self.contents[indices], self.recipe)

    def content(self, index: int) -> bytes:
        """Digest of a decoded picture."""
        return bytes(self.contents[index])

    def take(self, indices: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        """Decode: indices (B,) → RGB bytes (B, S, S, 3).

        Raises:
            FaultError: a picture is not what it was when the run began.
        """
        wanted = np.arange(len(self))[indices].tolist()
        begun = self._ahead.begun
        found = [begun.pop(i) if i in begun else self._begin(i) for i in wanted]
        size = self.recipe.size
        return np.stack([one.result() for one in found]) if found else np.empty((0, size, size, 3), np.uint8)

    def ahead(self, indices: NDArray[np.integer]) -> None:
        """Begin to decode what will be asked for next; whatever else was begun is forgotten."""
        begun, wanted = self._ahead.begun, [int(i) for i in indices]
        for i in begun.keys() - wanted:
            begun.pop(i).cancel()
        for i in wanted:
            if i not in begun:
                begun[i] = self._begin(i)

    def _begin(self, index: int) -> Future[NDArray[np.uint8]]:
        return self._ahead.pool.submit(self._decode, index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        file = self.files[index]
        try:
            content, _ = read_picture_file(file)
            if hashlib.sha256(content).hexdigest() == self.digests[index]:
                return decode_content(content, file, self.recipe)
            reason = "is another picture than when the run began"
        except PictureError as error:
            reason = error.message
        raise FaultError(reason, kind="unusable_row", file=str(file), remedy="Put it back, or train a new run.")

    def reading_order(self) -> NDArray[np.int64]:
        """Positions in the order in which the pictures lie in their shards (N,)."""
        places = [(str(one.shard.path), one.number) if isinstance(one, Packed) else ("", i) for i, one in self._each()]
        return np.array(sorted(range(len(self)), key=places.__getitem__), np.int64)

    def blocks(self) -> tuple[NDArray[np.int64], int] | None:
        """Number of the block (N,) that each picture is read with, and how many blocks are shuffled together.

        None where every picture is a file of its own.

        Raises:
            FaultError: a block is too large to be shuffled.
        """
        numbers: dict[tuple[int, int], int] = {}
        own = np.zeros(len(self), np.int64)
        found: list[Block] = []
        starts = _Starts()
        for i, one in self._each():
            if not isinstance(one, Packed):
                return None
            number, block = starts.find(one)
            key = (id(one.shard), number)
            if key not in numbers:
                numbers[key] = len(numbers)
                found.append(block)
            own[i] = numbers[key]
        sizes = [block.bytes for block in found]
        return own, max(1, WINDOW_BYTES // max(1, sum(sizes) // max(1, len(sizes))))

    def _each(self) -> list[tuple[int, PictureFile]]:
        return list(enumerate(self.files))


class _Starts:
    """Finds the block of a sample."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[list[Block], NDArray[np.int64]]] = {}

    def find(self, one: Packed) -> tuple[int, Block]:
        """Its number in the shard, and it.

        Raises:
            FaultError: it is too large.
        """
        key = id(one.shard)
        if key not in self._of:
            blocks = one.shard.blocks()
            self._of[key] = blocks, np.cumsum([block.rows for block in blocks])
        blocks, ends = self._of[key]
        number = int(np.searchsorted(ends, one.number, side="right"))
        if (size := blocks[number].bytes) > MAX_BLOCK:
            remedy = "Write smaller ones: vu data shard; or set data.store to on."
            message = f"a row group holds {size:,} bytes of pictures; more than {MAX_BLOCK:,} cannot be shuffled"
            raise FaultError(message, kind="unreadable_table", file=one.shard.path, key="data.store", remedy=remedy)
        return number, blocks[number]
