"""Views of training pictures, and what the model makes of them: new ones in every epoch, or some of a fixed pool.

Shapes: B batch, V views of a picture in a step, S side of the stored picture, H side of the model's input, P patches of
which K are kept, E shared embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.data.transfer import send
from vectoruniverse.data.views import Augmentation, augment, draw, kept_patches, pooled, to_input
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.tasks.image_text.frozen import POOL_SEED, Frozen


class PictureSource(Protocol):
    """Stored pictures, by position."""

    def take(self, indices: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """uint8 (B, S, S, 3)."""

    def select(self, indices: NDArray[np.int64]) -> PictureSource:
        """These pictures, in this order."""

    def ahead(self, indices: NDArray[np.int64]) -> None:
        """That these will be asked for next."""

    def reading_order(self) -> NDArray[np.int64] | None:
        """Positions (N,) in the order in which they are best read; None: any."""


class PictureViews:
    """Training pictures as a step sees them; every draw is a function of seed, epoch, row and view.

    Args:
        encoder: the model.
        pictures: stored pictures, row by row.
        keys: stable 64-bit key of each row.
        augmentation: how a view is drawn.
        count: views of a picture in a step, where they differ.
        seed: of the draws.
        patches: K, drawn anew for each view; None: all.
        pool: of how many fixed views of a picture a step draws its own; None: views are new in every epoch.
        frozen: keeps what frozen blocks make of the fixed views.

    Attributes:
        count: V.
        are_random: False when every view is the stored picture, so that one view does for all.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        pictures: PictureSource,
        keys: Sequence[int],
        augmentation: Augmentation,
        *,
        count: int,
        seed: int,
        patches: int | None = None,
        pool: int | None = None,
        frozen: Frozen | None = None,
    ) -> None:
        self._encoder, self._pictures, self._keys = encoder, pictures, keys
        self._augmentation, self._seed, self._patches, self._pool = augmentation, seed, patches, pool
        self._frozen = frozen
        self.are_random = augmentation.is_random or patches is not None
        self.count = count if self.are_random else 1
        self.mean = torch.tensor(encoder.picture.mean, device=encoder.device)
        self.std = torch.tensor(encoder.picture.std, device=encoder.device)

    def ahead(self, rows: NDArray[np.int64]) -> None:
        """That the views of these rows come next."""
        self._pictures.ahead(rows)

    def encode(self, rows: NDArray[np.int64], epoch: int) -> list[Tensor]:
        """Unit vectors of each view, V times (B, E), from one pass over all views."""
        views = self._chosen(rows, epoch)
        if self._frozen is None or (side := self._frozen.pictures) is None:
            pixels, kept = self._draw(rows, views, epoch)
            return list(self._encoder.encode_images(pixels, kept).chunk(self.count))
        every, own = np.tile(rows, self.count), views.reshape(-1)
        found = self._frozen.picture_digests
        digests = [_digest(found[row], self._keys[row], view) for row, view in zip(every, own.tolist(), strict=True)]

        def encode(missing: list[int]) -> None:
            self._encoder.encode_images(*self._draw(every[missing], own[None, missing], epoch))

        with side.standing_in(digests, encode) as states:
            return list(self._encoder.encode_images(states).chunk(self.count))

    def _chosen(self, rows: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Numbers of the views that each row shows, (V, B)."""
        if self._pool is None or not self.are_random:
            return np.tile(np.arange(self.count)[:, None], len(rows))
        return pooled(self._seed, epoch, [self._keys[row] for row in rows], self.count, self._pool)

    def _draw(self, rows: NDArray[np.int64], views: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor | None]:
        """Input of the views (V, B) of these rows: float32 (V · B, 3, H, H), and the kept patches (V · B, K)."""
        encoder, size = self._encoder, self._encoder.picture.size
        pictures = send(torch.from_numpy(self._pictures.take(rows)), encoder.device)
        if not self.are_random:
            return to_input(pictures, size, self.mean, self.std), None
        keys, patches = [self._keys[row] for row in rows], 0 if self._patches is None else encoder.patches
        seed, epoch = (self._seed, epoch) if self._pool is None else (POOL_SEED, 0)
        draws = [draw(seed, epoch, keys, view, patches) for view in views]
        if self._augmentation.is_random:
            pixels = [augment(pictures, one, self._augmentation, size, self.mean, self.std) for one in draws]
        else:
            pixels = [to_input(pictures, size, self.mean, self.std)] * len(draws)
        if self._patches is None:
            return torch.cat(pixels), None
        kept = torch.from_numpy(np.concatenate([kept_patches(one, self._patches) for one in draws]))
        return torch.cat(pixels), send(kept, encoder.device)


def _digest(picture: str, key: int, view: int) -> str:
    """Of a fixed view: its picture, the row that it is drawn for, and its number."""
    return hashlib.sha256(f"{picture} {key} {view}".encode()).hexdigest()
