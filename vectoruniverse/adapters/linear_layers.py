"""Linear layers in both orientations, and the names of query, key and value in a fused one.

Shapes: I input width, O output width. ``nn.Linear`` holds its weight as (O, I), the ``Conv1D`` of GPT-2 as (I, O).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from vectoruniverse.models.quantized import QuantizedLinear

SLICES = ("q", "k", "v")
"""Names of the three equal blocks along the output of a fused projection, in order."""

_FUSED_NAMES = frozenset({"c_attn", "qkv", "in_proj", "Wqkv"})
"""Projections that hold query, key and value one after the other: GPT-2, timm, OpenCLIP, ModernBERT and MPT."""

_INTERLEAVED = frozenset({"deberta", "gpt_bigcode"})
"""Model types that use one of these names and order its output by head."""


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can be put on a module: ``nn.Linear``, ``Conv1D`` or a quantised layer."""
    return isinstance(module, nn.Linear | Conv1D | QuantizedLinear)


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight is (I, O), what peft calls ``fan_in_fan_out``."""
    return isinstance(layer, Conv1D)


def widths(layer: nn.Module) -> tuple[int, int]:
    """I and O of a linear layer."""
    if isinstance(layer, QuantizedLinear):
        return layer.in_features, layer.out_features
    rows, columns = weight_of(layer).shape
    return columns, rows


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as (O, I): a view, or what quantised numbers stand for, in fp32."""
    if isinstance(layer, QuantizedLinear):
        return layer.weight
    weight: Tensor = layer.get_parameter("weight")
    return weight.T if is_transposed(layer) else weight


def device_of(layer: nn.Module) -> torch.device:
    """Where the weight of a linear layer is."""
    return layer.codes.device if isinstance(layer, QuantizedLinear) else weight_of(layer).device


def with_added(layer: nn.Module, delta: Tensor) -> nn.Module:
    """A plain frozen layer with ``delta`` (O, I) added to the weight, and the same bias; ``layer`` stays as it is.

    The sum is taken in fp32 and rounded to the weight's format once; a quantised layer becomes a plain one first.
    """
    if isinstance(layer, QuantizedLinear):
        layer = layer.plain()
    weight = layer.get_parameter("weight")
    summed = (weight + (delta.T if is_transposed(layer) else delta)).to(weight.dtype)  # the sum is promoted to fp32
    other = copy.copy(layer)
    other._parameters = {**layer._parameters, "weight": nn.Parameter(summed, requires_grad=False)}
    return other


def why_not_fused(layer: nn.Module, name: str, model_type: str | None) -> str | None:
    """Say why a layer is not query, key and value in three equal blocks along the output; None where it is.

    Grouped-query attention, whose keys and values are narrower, does not pass, and no model whose output is ordered by
    head: its thirds would be something else.

    Args:
        layer: a linear layer.
        name: last component of its path.
        model_type: ``config.model_type`` of the model, where it has one.
    """
    if model_type in _INTERLEAVED or name not in _FUSED_NAMES:
        return f"it is not known to be query, key and value one after the other, as {', '.join(sorted(_FUSED_NAMES))}"
    width, out = widths(layer)
    if out != 3 * width:
        return f"its output width {out} is not three times its input width {width}, so the parts are not equal"
    return None
