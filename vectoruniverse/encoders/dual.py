"""A CLIP-like dual encoder: loaded from Hugging Face, asked for unit vectors.

Shapes: B batch, H side of the input picture, L tokens, E shared embedding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.encoders.activation import put_quick_gelu
from vectoruniverse.encoders.text_files import find_commit_of_config
from vectoruniverse.errors import ConfigError

BUILT_IN = {"tiny-clip": Path(__file__).parent.parent / "models" / "tiny_clip"}
"""Models that come with the package."""

VISION_TOWER, TEXT_TOWER = "vision_model", "text_model"
"""Where transformers puts the two towers in every model of the family."""

MAX_LOGIT_SCALE = math.log(100.0)
"""Upper bound of the trained logit scale (in the logarithm), as in the CLIP paper."""

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True)
class PictureInput:
    """What a model wants of a picture: side in pixels, mean and deviation per channel, resampling filter."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: str = "bicubic"


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
        self.max_tokens = min(int(config.text_config.max_position_embeddings), int(tokenizer.model_max_length))
        # SigLIP pools the last position and was trained with every text padded to the end and no mask
        self._pads_to_end = str(config.model_type).startswith("siglip")
        self._pools_eos = config.model_type == "clip"

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
        if self._pools_eos:
            eos = int(self.model.config.text_config.eos_token_id)  # type: ignore[union-attr,arg-type]
            # transformers pools the first EOS, and position 0 where there is none: both would be silent nonsense
            assert eos == 2 or all((row == eos).sum() == 1 for row in ids), "every text needs exactly one EOS"
        return TokenizedTexts(ids, long)

    def pad(self, ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Right-padded token ids and attention mask, both (B, L) int64, L as short as the model allows."""
        length = self.max_tokens if self._pads_to_end else max(map(len, ids))
        tokens = np.full((len(ids), length), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(tokens)
        for i, row in enumerate(ids):
            tokens[i, : len(row)], mask[i, : len(row)] = row, 1
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised float32 (B, 3, H, H) → unit float32 (B, E)."""
        with self._autocast():
            features = self.model.get_image_features(pixel_values=pixels)  # type: ignore[operator]
        return F.normalize(features.pooler_output.float(), dim=-1)

    def encode_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, L) → unit float32 (B, E)."""
        attention = {} if self._pads_to_end else {"attention_mask": mask}
        with self._autocast():
            features = self.model.get_text_features(input_ids=ids, **attention)  # type: ignore[operator]
        return F.normalize(features.pooler_output.float(), dim=-1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and image processor so that plain transformers loads them."""
        from transformers import CLIPImageProcessorPil

        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        size = self.picture.size
        CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=list(self.picture.mean),
            image_std=list(self.picture.std),
        ).save_pretrained(folder)


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
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    source, where = _source(name, revision)
    commit = find_commit_of_config(source, revision)
    if commit is not None:
        where["revision"] = commit  # all files of one commit, whatever is pushed in the meantime
    with _told(name):
        model = AutoModel.from_pretrained(
            source, dtype=weights, attn_implementation=attention, use_safetensors=True, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", **where)
    if not (hasattr(model, "get_image_features") and hasattr(model, VISION_TOWER) and hasattr(model, TEXT_TOWER)):
        raise ConfigError(
            f"{name!r} is a {type(model).__name__}, which has no image and text tower in one shared space",
            key="model",
            remedy="choose a CLIP, SigLIP or Chinese-CLIP model",
        )
    put_quick_gelu(model)
    return DualEncoder(
        model.to(device), tokenizer, _picture_input(model, processor), name=name, dtype=dtype, commit=commit
    )


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer without the model."""

    tokenizer: Any
    max_tokens: int

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, marks included, nothing cut."""
        rows = self.tokenizer(list(texts), truncation=False, split_special_tokens=True, verbose=False)["input_ids"]
        return [len(row) for row in rows]


def load_tokenizer(name: str, revision: str | None) -> Tokenizer:
    """The tokenizer of a CLIP-like model, which takes a fraction of the time of loading the model.

    Raises:
        ConfigError: there is no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    source, where = _source(name, revision)
    with _told(name):
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        config: Any = AutoConfig.from_pretrained(source, **where)
        text = config.get_text_config()
    return Tokenizer(tokenizer, min(int(text.max_position_embeddings), int(tokenizer.model_max_length)))


def load_image_size(name: str, revision: str | None) -> int:
    """Side in pixels of the pictures that a CLIP-like model reads, from its configuration alone.

    Raises:
        ConfigError: there is no such model, or it reads no pictures of one size.
    """
    from transformers import AutoConfig

    source, where = _source(name, revision)
    with _told(name):
        config: Any = AutoConfig.from_pretrained(source, **where)
    size = getattr(getattr(config, "vision_config", None), "image_size", None)
    if not isinstance(size, int):
        raise ConfigError(f"{name!r} names no size of its pictures", key="model")
    return size


def local_source(name: str) -> str:
    """What transformers itself can load: the folder of a model that comes with the package, else the name as it is."""
    return str(BUILT_IN.get(name, name))


def _source(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    source = local_source(name)
    _check_local(name, source)
    return source, {"revision": revision or "main", "trust_remote_code": False}


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one line what transformers says in many."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(
            f"cannot load {name!r}: {_first_line(error)}",
            key="model",
            remedy="give tiny-clip, a Hugging Face name such as openai/clip-vit-base-patch32 (with a connection or a "
            "filled cache), or a folder with config.json, model.safetensors, tokenizer and preprocessor_config.json",
        ) from error


def _check_local(name: str, source: str) -> None:
    """Give a wrong path its own message instead of the hub's about repository names."""
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path and not (Path(source) / "config.json").is_file():
        raise ConfigError(f"no config.json in {name!r}", key="model", remedy="give a folder written by save_pretrained")


def _picture_input(model: Any, processor: Any) -> PictureInput:
    size = int(model.config.vision_config.image_size)
    mean, std = (tuple(float(v) for v in values) for values in (processor.image_mean, processor.image_std))
    return PictureInput(size, mean, std, _RESAMPLE.get(int(processor.resample), "bicubic"))  # type: ignore[arg-type]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
