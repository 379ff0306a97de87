"""Prefix tuning: learned keys and values in front of every self-attention of a frozen transformers tower.

Shapes: P prefix, N layers, H heads, D = H · head_dim width of the keys.

Per layer and head, softmax(Q [Kₚ; K]ᵀ / √head_dim) [Vₚ; V], with Kₚ and Vₚ (P, head_dim) learned: every token sees
every prefix, causal or not, padded or not. Prefix tuning: arXiv:2101.00190; without the MLP it is P-tuning v2,
arXiv:2110.07602. Both are peft's ``PrefixTuningConfig``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vectoruniverse.adapters.linear_layers import widths
from vectoruniverse.adapters.lora import refuse_adapted
from vectoruniverse.adapters.prefix_layers import (
    ATTENTION,
    SHIFTED_EMBEDDINGS,
    AttentionNames,
    Prefix,
    PrefixedAttention,
    ShiftedPositions,
    token_positions,
)
from vectoruniverse.adapters.targets import suggest
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.shards import plain_class

__all__ = ["PrefixAdapter", "TowerSizes", "inject_prefix", "tower_sizes"]


class TowerSizes(NamedTuple):
    """What the shape of a tower's prefix depends on: N, H and D."""

    layers: int
    heads: int
    width: int


class PrefixAdapter:
    """The prefix of one tower: put in, trained, saved and taken out.

    Making one freezes every parameter of the model and gives the tower a child ``prefix`` (see ``Prefix``), so that
    ``model.named_parameters()`` lists its parameters under ``<tower>.prefix.``. ``inject_prefix`` checks what it is
    given; this does not.

    Attributes:
        model: the adapted model.
        tower: module path of the tower; empty is the whole model.
        prefix: the module that holds what is trained.
        length: P.
        heads: H.
        reserved_positions: how many of the tower's token positions the prefix takes up, so that a text can be as much
            shorter: P for BERT and RoBERTa, whose tokens are placed after it (as peft does); 0 for others.
    """

    def __init__(
        self,
        model: nn.Module,
        tower: str,
        *,
        length: int,
        projection: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.tower, self.length = model, tower, length
        sizes, root = tower_sizes(model, tower), model.get_submodule(tower)
        self.heads = sizes.heads
        self._trainable_before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        device = next(root.parameters()).device
        self.prefix = Prefix(
            sizes.layers, sizes.width, length=length, projection=projection, dropout=dropout, seed=seed
        )
        self.prefix.to(device).train(root.training)
        model.requires_grad_(False)
        root.add_module("prefix", self.prefix)
        self._handles: list[RemovableHandle] = []
        for index, attention in enumerate(_attentions(model, tower)):
            self._handles += PrefixedAttention(self.prefix, index).put_on(attention, _names(attention))
        tables = _shifted(root)
        self._handles += [table.register_forward_pre_hook(ShiftedPositions(table, length)) for table in tables]
        self.reserved_positions = length if tables else 0

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, under its names in ``model.named_parameters()``.

        Without an MLP that is ``embedding`` alone, 2 · P · D · N numbers. With one of width M it is
        P·D + (D + 1)·M + (M + 1)·2·D·N while training, and 2 · P · D · N once saved.
        """
        path = f"{self.tower}.prefix" if self.tower else "prefix"
        return {f"{path}.{name}": parameter for name, parameter in self.prefix.named_parameters()}

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter of the prefix: what an optimizer gets."""
        return list(self.trained().values())

    def keys_and_values(self) -> Tensor:
        """What the layers get, (N, 2, H, P, head_dim) fp32: keys, then values; without dropout, gradients flow."""
        produced = torch.stack([self.prefix.layer(index) for index in range(self.prefix.layers)])
        layers, length, two, width = produced.shape
        by_head = produced.reshape(layers, length, two, self.heads, width // self.heads)
        return by_head.permute(0, 2, 3, 1, 4)

    def remove(self) -> None:
        """Take the prefix out and undo the freezing: the model is bit for bit as before. Twice is once."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        delattr(self.model.get_submodule(self.tower), "prefix")
        for parameter, trainable in self._trainable_before:
            parameter.requires_grad_(trainable)
        self._handles, self._trainable_before = [], []


def inject_prefix(
    model: nn.Module,
    tower: str = "",
    *,
    length: int,
    projection: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> PrefixAdapter:
    """Put learned keys and values in front of every self-attention of a tower and freeze everything else.

    BERT, RoBERTa, XLM-RoBERTa, DistilBERT and CLIP's towers; encoders only. BERT's and RoBERTa's tokens move P
    positions on, as in peft, so that texts can be P tokens shorter (``PrefixAdapter.reserved_positions``).

    Load the model in the compute dtype first: a later ``model.to(dtype)`` would cast the fp32 prefix too.

    Args:
        model: the model, changed in place; ``PrefixAdapter.remove`` undoes it.
        tower: module path of the transformer within it, such as ``text_model``; empty is the whole model.
        length: P, at least 1.
        projection: width of the hidden layer of the MLP that produces keys and values while training, which the paper
            finds steadier; None learns them directly.
        dropout: probability of dropping an element of the produced keys and values while training, in [0, 1).
        seed: the prefix's start is a function of it and of the sizes alone.

    Raises:
        ConfigError: a setting is out of range; there is no such tower, or none whose attention is known. The model is
            as before.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    _check(length, projection, dropout)
    tower_sizes(model, tower)
    most = min((token_positions(table) for table in _shifted(model.get_submodule(tower))), default=length + 1)
    if length >= most:
        raise ConfigError(
            f"a prefix of {length} leaves no positions for tokens: the model has {most}",
            key="adapter.prefix_length",
            remedy="Take a shorter prefix.",
        )
    return PrefixAdapter(model, tower, length=length, projection=projection, dropout=dropout, seed=seed)


def tower_sizes(model: nn.Module, tower: str) -> TowerSizes:
    """N, H and D of a tower that can take a prefix.

    Raises:
        ConfigError: there is no such tower, or none whose attention is known.
    """
    attentions = _attentions(model, tower)
    names = _names(attentions[0])
    heads: int = getattr(attentions[0], names.heads)
    return TowerSizes(len(attentions), heads, widths(attentions[0].get_submodule(names.key))[1])


def _check(length: int, projection: int | None, dropout: float) -> None:
    if length < 1:
        raise ConfigError(
            f"a prefix of length {length} is none", key="adapter.prefix_length", remedy="Take at least 1."
        )
    if projection is not None and projection < 1:
        remedy = "Take at least 1, or null to learn keys and values directly."
        raise ConfigError(f"a projection of width {projection} is none", key="adapter.prefix_projection", remedy=remedy)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout {dropout} is not in [0, 1)", key="adapter.dropout", remedy="Take 0 for none.")


def _attentions(model: nn.Module, tower: str) -> list[nn.Module]:
    """The self-attention modules of a tower, first layer first."""
    try:
        root = model.get_submodule(tower)
    except AttributeError:
        remedy = suggest(tower, {name for name, _ in model.named_children()})
        raise ConfigError(f"the model has no tower {tower!r}", key="adapter", remedy=remedy) from None
    assert not isinstance(root, nn.Sequential | nn.ModuleList), "a child of these would be run as a layer"
    found = {path: module for path, module in root.named_modules() if type(module).__name__ in ATTENTION}
    stacks = {re.sub(r"(^|\.)\d+\.", r"\1*.", path) for path in found}
    if not found or any(getattr(module, "is_decoder", False) for module in found.values()):
        raise ConfigError(
            f"no encoder whose attention can take a prefix is in {tower or type(model).__name__}",
            key="adapter",
            remedy="Take BERT, RoBERTa, XLM-RoBERTa, DistilBERT or a tower of CLIP; or LoRA.",
        )
    if len(stacks) > 1:
        named = {path.partition(".")[0] for path in found}
        raise ConfigError("the model has several towers", key="adapter", remedy=suggest(tower, named))
    return list(found.values())


def _names(attention: nn.Module) -> AttentionNames:
    return ATTENTION[type(attention).__name__]


def _shifted(root: nn.Module) -> list[nn.Embedding]:
    """The tables of positions whose tokens begin after the prefix."""
    embeddings = [module for module in root.modules() if plain_class(module).__name__ in SHIFTED_EMBEDDINGS]
    tables = [module.get_submodule("position_embeddings") for module in embeddings]
    return [table for table in tables if isinstance(table, nn.Embedding)]
