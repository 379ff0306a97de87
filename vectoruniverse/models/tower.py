"""Sizes of a model's widest transformer, from its configuration alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vectoruniverse.models import dual, text
from vectoruniverse.models.load import load_config
from vectoruniverse.models.sentence_folder import read_layout
from vectoruniverse.models.sizes import ScratchBert, ScratchClip
from vectoruniverse.models.source import open_source

TYPICAL_TEXT = 64
"""Tokens of a text where a model reads longer ones: batches are padded to their longest text, not to the limit."""


@dataclass(frozen=True, slots=True)
class Tower:
    """A transformer's blocks, and what they read.

    Attributes:
        width: of the hidden states.
        heads: of the attention.
        feed_forward: width between the two feed-forward layers.
        tokens: of a row.
        activation: transformers' name of it.
    """

    width: int
    heads: int
    feed_forward: int
    tokens: int
    activation: str = "gelu"


def widest_tower(model: str | ScratchClip | ScratchBert, revision: str | None) -> Tower:
    """The tower of a model that is named or described; of two that are as wide the one for pictures.

    Raises:
        ConfigError: there is no such model, or its configuration is damaged or of no known type.
    """
    if isinstance(model, ScratchClip):
        tokens = (model.image_size // model.patch_size) ** 2 + 1
        return Tower(model.width, model.heads, 4 * model.width, tokens, "quick_gelu")
    if isinstance(model, ScratchBert):
        return Tower(model.width, model.heads, model.intermediate, min(model.max_text_tokens, TYPICAL_TEXT))
    source = open_source(model, revision)
    subfolder = "" if source.find("config.json") else read_layout(source.find, model).subfolder
    config = load_config(source.within(subfolder), (*dual.FAMILIES, *text.FAMILIES), "is not known here")
    towers = [getattr(config, name) for name in ("vision_config", "text_config") if hasattr(config, name)]
    return max(map(_tower, towers or [config]), key=lambda tower: tower.width)


def _tower(config: Any) -> Tower:
    if hasattr(config, "patch_size"):
        tokens = (config.image_size // config.patch_size) ** 2 + 1
    else:
        tokens = min(config.max_position_embeddings, TYPICAL_TEXT)
    width = config.hidden_size
    between = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)  # DistilBERT's name
    heads = math.gcd(width, config.num_attention_heads)  # what does not divide it is refused when the model is loaded
    return Tower(width, heads, between or 4 * width, tokens, getattr(config, "hidden_act", None) or "gelu")
