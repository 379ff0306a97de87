"""A CLIP-like dual encoder: loaded from Hugging Face, asked for unit vectors.

Shapes: B batch, H side of the input picture, L tokens, E shared embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.activation import put_quick_gelu
from vectoruniverse.models.load import (
    check_vocabulary,
    load_config,
    load_tokenizer,
    load_weights,
    longest_text,
)
from vectoruniverse.models.picture_input import PictureInput, read_picture_input
from vectoruniverse.models.source import BUILT_IN, ModelSource, open_source
from vectoruniverse.models.told import told

FAMILIES = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip")
"""Values of ``config.model_type`` whose vectors are known to be those of transformers."""

VISION_TOWER, TEXT_TOWER = "vision_model", "text_model"
"""Where transformers puts the two towers in every model of the family."""

MAX_LOGIT_SCALE = math.log(100.0)
"""Upper bound of the trained logit scale (in the logarithm), as in the CLIP paper."""


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of many texts, unpadded.

    Attributes:
        ids: one array of token ids per text, marks included.
        truncated: positions of the texts that were longer than the model reads and were cut.
    """

    ids: list[np.ndarray]
    truncated: list[int]


class DualEncoder:
    """Two towers and a shared space.

    Attributes:
        model: the transformers model (``CLIPModel`` and its relatives).
        tokenizer: its tokenizer.
        picture: what its image tower reads.
        name: how the user named it.
        commit: commit of the hub repository it came from, where known.
        max_tokens: longest text in tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        picture: PictureInput,
        *,
        name: str,
        dtype: torch.dtype,
        commit: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.picture, self.name, self.dtype = model, tokenizer, picture, name, dtype
        self.commit = commit
        config: Any = model.config
        text = config.text_config
        self.max_tokens = min(_positions(config), int(tokenizer.model_max_length))
        self._vocabulary = int(text.vocab_size)
        # SigLIP pools the last position and was trained with every text padded to the end and no mask
        self.pads_to_end = str(config.model_type).startswith("siglip")
        self._pools_eos = config.model_type in ("clip", "metaclip_2")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> Tensor:
        """What multiplies cosines, e^s, a 0-d tensor with gradient."""
        return self._scalar("logit_scale").float().exp()

    @property
    def logit_bias(self) -> Tensor:
        """What SigLIP adds to the logits."""
        return self._scalar("logit_bias").float()

    def _scalar(self, name: str) -> Tensor:
        value = getattr(self.model, name, None)
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"{self.name} has no {name}", key="loss", remedy="set loss.temperature (and loss.bias) to numbers"
            )
        return value.reshape(())

    def clamp_logit_scale(self) -> None:
        """Keep a trained logit scale within [0, ln 100]; transformers never does."""
        scale = getattr(self.model, "logit_scale", None)
        if isinstance(scale, nn.Parameter) and scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(0.0, MAX_LOGIT_SCALE)

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of every text; special tokens written out in a text are read as plain characters."""
        rows = self.tokenizer(
            list(texts), truncation=False, padding=False, split_special_tokens=True, verbose=False
        )["input_ids"]  # fmt: skip
        long = [i for i, row in enumerate(rows) if len(row) > self.max_tokens]
        if long:
            cut = self.tokenizer(
                [texts[i] for i in long], truncation=True, max_length=self.max_tokens, split_special_tokens=True
            )["input_ids"]  # fmt: skip
            for i, row in zip(long, cut, strict=True):
                rows[i] = row
        ids = [np.asarray(row, dtype=np.int64) for row in rows]
        check_vocabulary(self.name, max((int(row.max()) for row in ids if len(row)), default=0), self._vocabulary)
        if self._pools_eos:
            eos = int(self.model.config.text_config.eos_token_id)  # type: ignore[union-attr,arg-type]
            # transformers pools the first EOS, and position 0 where there is none: both would be silent nonsense
            assert eos == 2 or all((row == eos).sum() == 1 for row in ids), "every text needs exactly one EOS"
        return TokenizedTexts(ids, long)

    def pad(self, ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Right-padded token ids and attention mask, both (B, L) int64, L as short as the model allows."""
        length = self.max_tokens if self.pads_to_end else max(map(len, ids))
        tokens = np.full((len(ids), length), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(tokens)
        for i, row in enumerate(ids):
            tokens[i, : len(row)], mask[i, : len(row)] = row, 1
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised float32 (B, 3, H, H) → unit float32 (B, E)."""
        with self._autocast():
            return image_vectors(self.model, pixel_values=pixels)

    def encode_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, L) → unit float32 (B, E)."""
        attention = {} if self.pads_to_end else {"attention_mask": mask}
        with self._autocast():
            return text_vectors(self.model, input_ids=ids, **attention)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and image processor so that plain transformers loads them."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        self.picture.processor().save_pretrained(folder)


def image_vectors(model: Any, **inputs: Tensor) -> Tensor:
    """Pixels (B, 3, H, H), as transformers' feature methods take them → unit float32 (B, E)."""
    return F.normalize(model.get_image_features(**inputs).pooler_output.float(), dim=-1)


def text_vectors(model: Any, **inputs: Tensor) -> Tensor:
    """Token ids, and what else the model takes of a text, each (B, L) → unit float32 (B, E)."""
    return F.normalize(model.get_text_features(**inputs).pooler_output.float(), dim=-1)


def load_dual_encoder(
    name: str, *, revision: str | None, device: torch.device, dtype: torch.dtype, weights: torch.dtype, attention: str
) -> DualEncoder:
    """Load a CLIP-like model, its tokenizer and what its image processor declares; never code, never pickles.

    Args:
        name: ``tiny-clip``, a name on the Hugging Face hub, or a local folder.
        revision: branch, tag or commit of a hub name.
        device: where the weights go.
        dtype: compute format of the towers.
        weights: format of the weights: ``dtype`` where they are frozen, float32 where they are trained.
        attention: ``sdpa`` or ``eager``.

    Raises:
        ConfigError: there is no such model, it is no dual encoder, or it needs its own code to load.
    """
    from transformers import AutoImageProcessor

    source = open_source(name, revision).within("")
    config = _load_config(source)
    tokenizer = load_tokenizer(source)
    longest_text(source, tokenizer, _positions(config))
    _check_end_mark(source, config, tokenizer)
    model, _ = load_weights(source, config, dtype=weights, attention=attention)  # which holds the sizes to the weights
    with told(name):
        processor = AutoImageProcessor.from_pretrained(source.folder, backend="pil", trust_remote_code=False)
    picture = read_picture_input(name, config.vision_config.image_size, processor)
    put_quick_gelu(model)
    return DualEncoder(model.to(device), tokenizer, picture, name=name, dtype=dtype, commit=source.commit)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer without the model."""

    tokenizer: Any
    max_tokens: int

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, marks included, nothing cut."""
        rows = self.tokenizer(list(texts), truncation=False, split_special_tokens=True, verbose=False)["input_ids"]
        return [len(row) for row in rows]


def load_dual_tokenizer(name: str, revision: str | None) -> Tokenizer:
    """The tokenizer of a CLIP-like model, which takes a fraction of the time of loading the model.

    Raises:
        ConfigError: there is no such model.
    """
    source = open_source(name, revision).within("")
    tokenizer = load_tokenizer(source)
    return Tokenizer(tokenizer, longest_text(source, tokenizer, _positions(_load_config(source))))


def load_image_size(name: str, revision: str | None) -> int:
    """Side in pixels of the pictures that a CLIP-like model reads, from its configuration alone.

    Raises:
        ConfigError: there is no such model, or it reads no pictures of one size.
    """
    size: int = _load_config(open_source(name, revision).within("")).vision_config.image_size
    return size


def local_source(name: str) -> str:
    """What transformers itself can load: the folder of a model that comes with the package, else the name as it is."""
    return str(BUILT_IN.get(name, name))


def _load_config(source: ModelSource) -> Any:
    """The configuration of a dual encoder of a known family."""
    config = load_config(source)
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"{source.name!r} is a {config.model_type}, which has no image and text tower in one shared space that is "
            "known here",
            key="model",
            remedy=f"choose a model of type {', '.join(FAMILIES)}: CLIP, SigLIP (SigLIP 2 of fixed size), Chinese-CLIP "
            "or MetaCLIP 2",
        )
    return config


def _positions(config: Any) -> int:
    """Longest text that a text tower has positions for; AltCLIP's, an XLM-R, numbers them from behind the padding's."""
    text = config.text_config
    return int(text.max_position_embeddings) - (text.pad_token_id + 1 if config.model_type == "altclip" else 0)


def _check_end_mark(source: ModelSource, config: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer whose end of a text is not what the text tower pools, which nothing later would notice.

    Raises:
        ConfigError: they differ, or a mark is no token of the model.
    """
    name, text = source.name, config.text_config
    with told(name):
        ids = [int(i) for i in tokenizer("a")["input_ids"]]
    check_vocabulary(name, max((*ids, int(tokenizer.pad_token_id))), text.vocab_size)
    if config.model_type not in ("clip", "metaclip_2"):
        return
    # the number 2 is what old configurations say whatever the vocabulary, and then the highest token is pooled
    end = max(ids) if config.model_type == "clip" and text.eos_token_id == 2 else text.eos_token_id
    if ids.count(end) != 1 or ids[-1] != end:
        message = f"says text_config.eos_token_id = {text.eos_token_id!r}, and its tokenizer ends a text with {ids[-1]}"
        file = source.folder / "config.json"
        raise ConfigError(message, file=file, key="model", remedy="take the tokenizer that belongs to the model")
