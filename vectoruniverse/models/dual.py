"""A CLIP-like dual encoder: loaded from Hugging Face, asked for unit vectors.

Shapes: B batch, H side of the input picture, L tokens, E shared embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.data.transfer import send
from vectoruniverse.data.views import to_input
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.activation import put_quick_gelu
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.encoder import Encoder, TextBatch, TextReader, TokenizedTexts, attention_mask
from vectoruniverse.models.load import (
    check_vocabulary,
    load_config,
    load_tokenizer,
    load_weights,
    longest_text,
)
from vectoruniverse.models.patch_dropout import count_patches, only_patches
from vectoruniverse.models.picture_input import PictureInput, read_picture_input
from vectoruniverse.models.quantized import Quantization
from vectoruniverse.models.shards import placed
from vectoruniverse.models.source import BUILT_IN, ModelSource, open_source, told

FAMILIES = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip")
"""Values of ``config.model_type`` whose vectors are known to be those of transformers."""

_NOT_DUAL = "has no image and text tower in one shared space that is known here"

_POOL_END = ("clip", "metaclip_2")
"""Those of them whose text tower is causal and pools the mark at the end of a text, so that padding is never seen."""

VISION_TOWER, TEXT_TOWER = "vision_model", "text_model"
"""Where transformers puts the two towers in every model of the family."""

LOGIT_SCALARS = ("logit_scale", "logit_bias")
"""Names of a model's own logit scalars."""

SIGLIP_BIAS = -10.0
"""Where the logit bias starts in the SigLIP paper (arXiv:2303.15343), so that most pairs are negatives at first."""

MAX_LOGIT_SCALE = math.log(100.0)
"""Upper bound of the trained logit scale (in the logarithm), as in the CLIP paper."""


class DualEncoder(Encoder):
    """Two towers and a shared space.

    Attributes:
        picture: what the image tower reads.
        added: the logit bias by its name, where the model has none of its own: frozen until somebody trains it.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        picture: PictureInput,
        *,
        name: str,
        compute: Compute,
        commit: str | None = None,
    ) -> None:
        super().__init__(model, _reader(name, model.config, tokenizer), compute=compute, commit=commit)
        self.picture = picture
        bias = torch.tensor(SIGLIP_BIAS, device=compute.device)
        self.added = {} if hasattr(model, "logit_bias") else {"logit_bias": nn.Parameter(bias, requires_grad=False)}

    @property
    def model(self) -> Any:
        """The transformers model (``CLIPModel`` and its relatives)."""
        return self.module

    @property
    def width(self) -> int:
        """Width of the shared embedding, E, for which each family has another name."""
        return self.embed_texts(self.tokenize(["a"]), batch_size=1).shape[1]

    @property
    def patches(self) -> int:
        """Patches of a picture, each of which is a token of the image tower."""
        return count_patches(self.model.get_submodule(VISION_TOWER))

    @property
    def logit_scale(self) -> Tensor:
        """What multiplies cosines, e^s, a 0-d tensor with gradient."""
        return self._scalar("logit_scale").float().exp()

    @property
    def logit_bias(self) -> Tensor:
        """What SigLIP adds to the logits; of a model without one of its own only where it is trained."""
        return self._scalar("logit_bias").float()

    def _scalar(self, name: str) -> Tensor:
        value = getattr(self.model, name, None)
        if value is None and name in self.added and self.added[name].requires_grad:
            value = self.added[name]
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"{self.name} has no {name}",
                key="loss",
                remedy="set loss.temperature (and loss.bias) to numbers, or train them with adapter.train_logit_scale",
            )
        return value.reshape(())

    def trained_scalars(self) -> dict[str, Tensor]:
        """What multiplies cosines and what is added to them, by name, where they are trained; 0-d copies."""
        scalars = {name: getattr(self.model, name, self.added.get(name)) for name in LOGIT_SCALARS}
        return {
            name: getattr(self, name).detach().clone()
            for name, one in scalars.items()
            if one is not None and one.requires_grad
        }

    def trains_texts(self) -> bool:
        """Whether anything is trained that a text's vector comes from: all but what pictures or logits alone read."""
        apart = (f"{VISION_TOWER}.", "visual_projection.", *LOGIT_SCALARS)
        return any(one.requires_grad and not name.startswith(apart) for name, one in self.model.named_parameters())

    def start_logits(self, *, temperature: float | None, bias: float | None) -> None:
        """Let trained logit scalars start at these; None leaves them where they are."""
        with torch.no_grad():
            if temperature is not None:
                self._scalar("logit_scale").fill_(-math.log(temperature))
            if bias is not None:
                self._scalar("logit_bias").fill_(bias)

    def clamp_logit_scale(self) -> None:
        """Keep a trained logit scale within [0, ln 100]; transformers never does."""
        scale = getattr(self.model, "logit_scale", None)
        if isinstance(scale, nn.Parameter) and scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(0.0, MAX_LOGIT_SCALE)

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of every text; special tokens written out in a text are read as plain characters."""
        tokens, config = super().tokenize(texts), self.model.config
        if config.model_type in _POOL_END:
            end = int(config.text_config.eos_token_id)
            # transformers pools the first EOS, and position 0 where there is none: both would be silent nonsense
            assert end == 2 or all((row == end).sum() == 1 for row in tokens.ids), "every text needs exactly one EOS"
        return tokens

    def encode_images(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Normalised float32 (B, 3, H, H) → unit float32 (B, E), from the ``kept`` patches (B, K) alone where given."""
        with self.compute.autocast(), only_patches(self.model.get_submodule(VISION_TOWER), kept):
            return image_vectors(self.model, pixel_values=pixels)

    def encode_texts(self, batch: TextBatch) -> Tensor:
        """Token ids and mask → unit float32 (B, E)."""
        config, attention = self.model.config, {}
        if not (self.pads_to_end or config.model_type in _POOL_END):
            attention = {"attention_mask": attention_mask(batch.mask, config.text_config)}
        with self.compute.autocast():
            return text_vectors(self.model, input_ids=batch.ids, **attention)

    def embed_squares(self, take: Callable[[slice], np.ndarray], count: int, *, batch_size: int) -> Tensor:
        """Unit vectors of ``count`` ≥ 1 square pictures, unaugmented, (N, E) float32 on the CPU; without gradients.

        Args:
            take: gives uint8 (B, S, S, 3) of a run of positions.
            count: N.
            batch_size: pictures taken and encoded at a time.
        """
        mean, std = (torch.tensor(values, device=self.device) for values in (self.picture.mean, self.picture.std))

        def encode(part: slice) -> Tensor:
            squares = send(torch.from_numpy(take(part)), self.device)
            return self.encode_images(to_input(squares, self.picture.size, mean, std))

        return self._in_batches(encode, count, batch_size)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and image processor so that plain transformers loads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.picture.processor().save_pretrained(folder)


def image_vectors(model: Any, **inputs: Tensor) -> Tensor:
    """Pixels (B, 3, H, H), as transformers' feature methods take them → unit float32 (B, E)."""
    return F.normalize(model.get_image_features(**inputs).pooler_output.float(), dim=-1)


def text_vectors(model: Any, **inputs: Tensor) -> Tensor:
    """Token ids, and what else the model takes of a text, each (B, L) → unit float32 (B, E)."""
    return F.normalize(model.get_text_features(**inputs).pooler_output.float(), dim=-1)


def load_dual_encoder(
    name: str,
    compute: Compute,
    *,
    revision: str | None = None,
    trained: bool = False,
    quantization: Quantization | None = None,
) -> DualEncoder:
    """Load a CLIP-like model, its tokenizer and what its image processor declares; never code, never pickles.

    Args:
        name: ``tiny-clip``, a name on the Hugging Face hub, or a local folder.
        compute: where, and in which format.
        revision: branch, tag or commit of a hub name.
        trained: whether its weights will be trained, and not be frozen.
        quantization: how the frozen linear layers of its blocks are kept, if not in the format of the others.

    Raises:
        ConfigError: there is no such model, it is no dual encoder, or it needs its own code to load.
    """
    from transformers import AutoImageProcessor

    source, config, tokenizer = _open(name, revision)
    _check_end_mark(source, config, tokenizer)
    weights = compute.weights(trained=trained)  # which hold the sizes to what is stored
    model, _ = load_weights(source, config, dtype=weights, attention=compute.attention, quantization=quantization)
    with told(name):
        processor = AutoImageProcessor.from_pretrained(source.folder, backend="pil", trust_remote_code=False)
    picture = read_picture_input(name, config.vision_config.image_size, processor)
    put_quick_gelu(model)
    return DualEncoder(placed(model, compute), tokenizer, picture, name=name, compute=compute, commit=source.commit)


def load_dual_tokenizer(name: str, revision: str | None) -> TextReader:
    """The tokenizer of a CLIP-like model, which takes a fraction of the time of loading the model.

    Raises:
        ConfigError: there is no such model.
    """
    _, config, tokenizer = _open(name, revision)
    return _reader(name, config, tokenizer)


def _open(name: str, revision: str | None) -> tuple[ModelSource, Any, Any]:
    """Files, configuration and tokenizer."""
    source = open_source(name, revision).within("")
    config, tokenizer = load_config(source, FAMILIES, _NOT_DUAL), load_tokenizer(source)
    longest_text(source, tokenizer, _positions(config))
    return source, config, tokenizer


def _reader(name: str, config: Any, tokenizer: Any) -> TextReader:
    return TextReader(
        tokenizer,
        name=name,
        max_tokens=min(_positions(config), int(tokenizer.model_max_length)),
        vocabulary=int(config.text_config.vocab_size),
        # SigLIP pools the last position and was trained with every text padded to the end and no mask
        pads_to_end=str(config.model_type).startswith("siglip"),
    )


def load_image_size(name: str, revision: str | None) -> int:
    """Side in pixels of the pictures that a CLIP-like model reads, from its configuration alone.

    Raises:
        ConfigError: there is no such model, or it reads no pictures of one size.
    """
    config = load_config(open_source(name, revision).within(""), FAMILIES, _NOT_DUAL)
    return int(config.vision_config.image_size)


def local_source(name: str) -> str:
    """What transformers itself can load: the folder of a model that comes with the package, else the name as it is."""
    return str(BUILT_IN.get(name, name))


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
    if config.model_type not in _POOL_END:
        return
    # the number 2 is what old configurations say whatever the vocabulary, and then the highest token is pooled
    end = max(ids) if config.model_type == "clip" and text.eos_token_id == 2 else text.eos_token_id
    if ids.count(end) != 1 or ids[-1] != end:
        message = f"says text_config.eos_token_id = {text.eos_token_id!r}, and its tokenizer ends a text with {ids[-1]}"
        file = source.folder / "config.json"
        raise ConfigError(message, file=file, key="model", remedy="take the tokenizer that belongs to the model")
