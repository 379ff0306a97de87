"""What the attention layers are called in each family of models."""

from __future__ import annotations

from typing import Any

from torch import nn

from vectoruniverse.errors import ConfigError

_Names = tuple[str, ...]

_CLIP: _Names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_BERT: _Names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")
_MPNET = ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")
_GPT2 = ("attn.c_attn", "attn.c_proj")
_VIT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")

_TWO_TOWERS = {"vision_model": _CLIP, "text_model": _CLIP}
_BERT_TEXT = {"vision_model": _CLIP, "text_model": _BERT}

ATTENTION: dict[str, dict[str, tuple[str, ...]]] = {
    "altclip": _BERT_TEXT,
    "bert": {"": _BERT},
    "chinese_clip": _BERT_TEXT,
    "clip": _TWO_TOWERS,
    "distilbert": {"": _DISTILBERT},
    "gpt2": {"": _GPT2},
    "mpnet": {"": _MPNET},
    "roberta": {"": _BERT},
    "siglip": _TWO_TOWERS,
    "vit": {"": _VIT},
    "xclip": _TWO_TOWERS,
    "xlm-roberta": {"": _BERT},
}
"""Query, key, value and output projections by ``config.model_type`` and by tower; the tower ``""`` is the whole model.

X-CLIP's attention across frames (``message_attn``) and SigLIP's pooling head are not among them.
"""


def attention_targets(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of the attention layers of a transformers model, for ``TowerTargets``, by tower.

    Args:
        model: the model; its ``config.model_type`` decides.

    Raises:
        ConfigError: the model is of no known family.
    """
    model_type: Any = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in ATTENTION:
        raise ConfigError(
            f"the attention layers of model type {model_type!r} are not known",
            remedy=f"Name the layers. Known are {', '.join(ATTENTION)}.",
        )
    return dict(ATTENTION[model_type])
