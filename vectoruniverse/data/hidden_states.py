"""Hidden states that are made once: a store of tensors of one shape, found by what they are made of.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vectoruniverse.data.record_store import Record, RecordStore, make_folder
from vectoruniverse.errors import ResourceError

_STATES, _WHAT = "states.bin", "cache of hidden states"


class HiddenStates(RecordStore):
    """States of one shape and type on disk; several processes may use the same folder at once.

    Attributes:
        record_bytes: size of one record.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> None:
        """Open, or make, the store of states (L, D) in a folder that is named after all that determines them.

        Raises:
            ConfigError: the folder cannot be made or written.
        """
        make_folder(folder, (_STATES, "index.jsonl"), _WHAT)
        self._shape, self._dtype = shape, dtype
        self.record_bytes = shape[0] * shape[1] * dtype.itemsize
        super().__init__(folder, _STATES, (self.record_bytes,), what=_WHAT)
        self._checked: set[Record] = set()

    def refuse_too_many(self, records: int) -> None:
        """See whether the disk has room for so many records, those that are there already among them.

        Raises:
            ResourceError: it has not.
        """
        needed = records * self.record_bytes - self._file.stat().st_size
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise ResourceError(
                f"hidden states would take {needed / 2**30:,.1f} GiB more, and {free / 2**30:,.1f} GiB are free",
                file=self._folder,
                remedy="Lower views.pool, or set data.cache_dir (or $VU_CACHE) to a folder on a larger disk.",
            )

    def of(self, digests: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """States (B, L, D) on the CPU, by the sha256 of what they are made of.

        Args:
            digests: of B records; equal ones are made once.
            make: gives the states (M, L, D) of the records at M of the positions; where none is missing, it is not
                called.

        Raises:
            ConfigError: the store's folder cannot be written.
            ResourceError: the disk is full.
            LockedError: another process held the lock for ten minutes.
        """
        if not all(map(self._has, digests)):
            with self._writing():
                missing = {digest: at for at, digest in enumerate(digests) if not self._has(digest)}
                if missing:
                    made = make(list(missing.values())).contiguous().view(torch.uint8).flatten(1).numpy()
                    self._append({digest: (record, ()) for digest, record in zip(missing, made, strict=True)})
        records = self._records[[self._known[digest].slot for digest in digests]]
        return torch.from_numpy(records).view(self._dtype).view(-1, *self._shape)

    def _has(self, digest: str) -> bool:
        """Whether the record is there; its checksum is compared once."""
        known = self._known.get(digest)
        if known is None or known in self._checked:
            return known is not None
        if self._intact(digest) is None:
            return False
        self._checked.add(known)
        return True
