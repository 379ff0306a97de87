"""What a text encoder is made of: a transformers model, pooling over tokens, and layers behind it.

Shapes: B batch, L tokens, H width of the transformer, D width of the pooled vector.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.encoder import attention_mask
from vectoruniverse.models.sizes import Pooling


class Dense(nn.Module):
    """A linear layer and an activation, (B, in) → (B, out), as in sentence-transformers.

    Attributes:
        linear: the layer.
        activation: what follows it.
    """

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear, self.activation = linear, activation

    def forward(self, vectors: Tensor) -> Tensor:
        """activation(W x + b)."""
        activated: Tensor = self.activation(self.linear(vectors))
        return activated


class Normalize(nn.Module):
    """Every vector divided by its length, (B, D) → (B, D) float32."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors x / ‖x‖."""
        return F.normalize(vectors.float(), dim=-1)


class TextTower(nn.Module):
    """Everything of a text encoder that has weights; adapters go on this module.

    Args:
        model: a transformers encoder.
        pooling: how its token vectors become one.
        layers: ``Dense`` and ``Normalize`` layers behind the pooling, in order.
        name: how the user named the model, for messages.

    Raises:
        ConfigError: the model has no pooler, or the widths of the layers do not fit.

    Attributes:
        model: the transformers encoder.
        layers: what follows the pooling.
        pooling: how token vectors become one.
        width: D.
        config: the transformers model's configuration.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, layers: Sequence[Dense | Normalize], *, name: str) -> None:
        super().__init__()
        if pooling == "pooler" and getattr(model, "pooler", None) is None:
            remedy = "choose mean or cls"
            raise ConfigError(f"{name!r} has no pooler with trained weights", key="pooling", remedy=remedy)
        config: Any = model.config
        self.model, self.pooling, self.config = model, pooling, config
        self.width = _checked_width(int(config.hidden_size), layers, name)
        self.layers = nn.ModuleList(layers)
        # some RoBERTas come with BERT's tokenizer, which numbers segments that they have no vectors for
        knows_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self._takes_segments = knows_segments and int(getattr(config, "type_vocab_size", 0)) > 1

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Token ids, mask and segments, each (B, L) → pooled float32 (B, D)."""
        more = {"token_type_ids": segments} if self._takes_segments else {}
        attended = attention_mask(mask, self.config)
        vectors = self._pool(self.model(input_ids=ids, attention_mask=attended, **more), mask)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors.float()

    def _pool(self, output: Any, mask: Tensor) -> Tensor:
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        share = mask.unsqueeze(-1).float()
        return torch.sum(hidden.float() * share, dim=1) / share.sum(dim=1)


def without_normalize(tower: TextTower) -> TextTower:
    """The tower without scaling to length 1, which is for cosines and would hold a classifier's logits down; in place.

    A dense layer before it stays.
    """
    kept = [layer for layer in tower.layers if not isinstance(layer, Normalize)]
    tower.layers = nn.ModuleList(kept)
    return tower


def _checked_width(width: int, layers: Sequence[Dense | Normalize], name: str) -> int:
    for layer in layers:
        if isinstance(layer, Dense):
            if layer.linear.in_features != width:
                message = f"a dense layer of {name!r} takes vectors of {layer.linear.in_features} numbers, not {width}"
                raise ConfigError(message, key="model")
            width = layer.linear.out_features
    return width
