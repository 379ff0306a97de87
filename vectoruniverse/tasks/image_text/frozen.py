"""``views.pool``: what frozen blocks make of fixed views and of texts is computed once, and kept beside the pictures.

Shapes: B batch, M records that are missing, L tokens, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from vectoruniverse.adapters.apply import draws_dropout
from vectoruniverse.data.hidden_states import HiddenStates
from vectoruniverse.data.transfer import send
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.dual import TEXT_TOWER, VISION_TOWER, DualEncoder
from vectoruniverse.models.trunk import Trunk

POOL_SEED = 0
"""Of the views in a pool, which are the same in runs of every seed."""


@dataclass(frozen=True, slots=True)
class FrozenSide:
    """One tower of which states are kept.

    Attributes:
        encoder: the model.
        trunk: the frozen part of the tower.
        store: states at its end.
    """

    encoder: DualEncoder
    trunk: Trunk
    store: HiddenStates

    @contextlib.contextmanager
    def standing_in(
        self, digests: Sequence[str], encode: Callable[[list[int]], object], length: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Within this, a pass of the tower begins with the states of these records, which are given (B, L, D).

        Args:
            digests: of what the states are made of.
            encode: passes records at these positions of ``digests`` through the whole tower, where states are missing.
            length: L, where the states are of padded texts; None: all.
        """

        def make(missing: list[int]) -> torch.Tensor:
            with self.encoder.evaluating(), self.trunk.reached() as found:
                encode(missing)
            return found[0].cpu()

        states = send(self.store.of(digests, make)[:, :length], self.encoder.device)
        with self.trunk.skipped(states):
            yield states


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is kept of both towers.

    Attributes:
        pictures: the image tower; None: its first block is trained.
        picture_digests: of each training row's picture.
        texts: the text tower; None: its first block is trained.
        text_digests: of each training row's tokens.
        longest: tokens of the longest text; all are padded to it.
        pool: fixed views of each picture.
    """

    pictures: FrozenSide | None
    picture_digests: Sequence[str]
    texts: FrozenSide | None
    text_digests: Sequence[str]
    longest: int
    pool: int

    @property
    def words(self) -> str:
        """What is kept, and how much it is at the most."""
        views, texts = len(self.picture_digests) * self.pool, len(set(self.text_digests))
        sides = [(self.pictures, views, "views of pictures"), (self.texts, texts, "texts")]
        kept = [(side, count, what) for side, count, what in sides if side is not None]
        told = " and ".join(f"{side.trunk.blocks} of {count:,} {what}" for side, count, what in kept)
        size = sum(side.store.record_bytes * count for side, count, _ in kept)
        return f"frozen blocks are computed once, {told}, which takes {size / 2**20:,.0f} MiB of the cache"


def freeze(
    encoder: DualEncoder,
    cache: Path,
    *,
    pool: int,
    pictures: Sequence[str],
    views: dict[str, object],
    kept: int | None,
    tokens: Sequence[NDArray[np.int64]],
    longest: int,
) -> Frozen:
    """Open the stores of an encoder with whatever is trained on it.

    Args:
        encoder: the model, LoRA in place.
        cache: folder of the cache of decoded pictures.
        pool: fixed views of each picture.
        pictures: digests of the training rows' pictures.
        views: all that determines a view beside its picture, its row and its number.
        kept: patches that a view keeps; None: all.
        tokens: of the training rows' texts.
        longest: tokens of the longest text.

    Raises:
        ConfigError: no block lies below what is trained, or one that does draws dropout.
        ResourceError: the disk has no room for what would be kept.
    """

    def see() -> object:
        size = encoder.picture.size
        some = None if kept is None else torch.arange(kept, device=encoder.device).unsqueeze(0)
        return encoder.encode_images(torch.zeros(1, 3, size, size, device=encoder.device), some)

    def read() -> object:
        return encoder.encode_texts(encoder.pad(encoder.tokenize([""]), [0], longest))

    seen = _side(encoder, VISION_TOWER, cache, see, views)
    text = _side(encoder, TEXT_TOWER, cache, read, {"padding": [encoder.tokenizer.pad_token_id, encoder.pads_to_end]})
    if seen is None and text is None:
        raise ConfigError(
            "views.pool keeps what lies below the first adapted block, and block 0 is adapted in both towers",
            key="views.pool",
            remedy="name upper blocks in adapter.vision_layers_to_transform, or remove views.pool",
        )
    digests = [hashlib.sha256(one.tobytes()).hexdigest() for one in tokens]
    for side, records in ((seen, len(pictures) * pool), (text, len(set(digests)))):
        if side is not None:
            side.store.refuse_too_many(records)
    return Frozen(seen, pictures, text, digests, longest, pool)


def _side(
    encoder: DualEncoder, path: str, cache: Path, sample: Callable[[], object], facts: dict[str, object]
) -> FrozenSide | None:
    """The store of a tower's states, in a folder that is named after all that determines them."""
    tower = encoder.model.get_submodule(path)
    trunk = Trunk(tower)
    if not trunk.blocks:
        return None
    if draws_dropout(nn.ModuleList(trunk.parts), tower.config):
        raise ConfigError(
            f"the frozen blocks of {path} draw dropout, so that what they give differs from step to step",
            key="views.pool",
            remedy="take a model without dropout of its own, or remove views.pool",
        )
    with encoder.evaluating(), trunk.reached() as found:
        sample()
    (states,) = found
    determined = facts | {
        "trunk": trunk.fingerprint(),
        "states": [list(states.shape[1:]), str(states.dtype)],
        "compute": [str(encoder.compute), encoder.compute.attention],
        "versions": [torch.__version__, transformers.__version__],
    }
    key = hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()[:32]
    length, width = states.shape[1:]
    return FrozenSide(encoder, trunk, HiddenStates(cache / f"states-{key}", (length, width), states.dtype))
