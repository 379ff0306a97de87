"""Frozen linear layers in 8 or 4 bits, made by bitsandbytes: the base of QLoRA (arXiv:2305.14314).

Shapes: B.. any leading dimensions, I input width, O output width.

A layer is computed as y = x Wᵀ + b of the weight that its numbers stand for, made anew at each pass, forward and
backward; activations are not quantised. The layers of bitsandbytes itself are not used: on CPUs that multiply bf16 its
4-bit one packs its weights anew at the first evaluation, computes in bf16 from then on, and cannot be trained after it;
its 8-bit one evaluates with quantised activations and trains without.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.stacks import stacks_of

Quantization = Literal["int8", "nf4"]
"""``int8``: each row over its largest number, as in LLM.int8() (arXiv:2208.07339). ``nf4``: QLoRA's 4-bit numbers."""

BLOCK = 64
"""Numbers of a weight that share a scale in ``nf4``."""


class QuantizedLinear(nn.Module):
    """A frozen linear layer whose weight is kept in 8 or 4 bits.

    Args:
        layer: what it stands for; its bias is taken over as it is.
        kind: how its weight is kept.

    Attributes:
        codes: the quantised numbers: (O, I) int8, or two in each uint8.
        scale: what they are multiplied by, fp32: (O,), or one of each block.
        bias: (O,), or None.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, kind: Quantization) -> None:
        super().__init__()
        self.kind, self.in_features, self.out_features = kind, layer.in_features, layer.out_features
        weight = layer.weight.detach()
        if kind == "int8":
            codes, scale, _ = _bitsandbytes().int8_vectorwise_quant(weight.half())
        else:
            codes, state = _bitsandbytes().quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
            scale = state.absmax
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            layer.bias.requires_grad_(False)
            self.bias = layer.bias
        self.train(layer.training)  # a new module is in training mode, and a model is in one mode as a whole

    @property
    def weight(self) -> Tensor:
        """The weight that the numbers stand for: (O, I) fp32, made anew each time."""
        return self.dequantized(torch.float32)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight that the numbers stand for, (O, I)."""
        if self.kind == "int8":
            return self.codes.to(dtype).mul_(self.scale.unsqueeze(1) / 127.0)
        shape = (self.out_features, self.in_features)
        # the library's own operator, which torch.compile passes
        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.codes, self.scale, BLOCK, "nf4", shape, dtype
        )
        return weight

    def plain(self) -> nn.Linear:
        """A frozen ``nn.Linear`` that computes the same: with this layer's own bias, and in its format, else fp32."""
        dtype = torch.float32 if self.bias is None else self.bias.dtype
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.dequantized(dtype), requires_grad=False)
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B.., I) to (B.., O), in the format of x, or autocast's where autocast is on."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        y: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """One line on shape and format."""
        return f"{self.in_features} -> {self.out_features}, {self.kind}"

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Move to another device; to another format, only the bias: scales stay fp32."""
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scale = scale.to(self.codes.device)
        return self


class _Product(torch.autograd.Function):
    """x Wᵀ + b without W among what is kept for the way back, which torch's own product would keep in full."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantized(gradient.dtype), None


def quantize(model: nn.Module, kind: Quantization, dtype: torch.dtype) -> None:
    """Quantise the linear layers of a model's blocks, in place; embeddings, norms and projections are cast only.

    Args:
        model: in fp32, so that its numbers do not depend on the format that it computes in.
        kind: how weights are kept.
        dtype: of everything else.

    Raises:
        ConfigError: bitsandbytes is not installed, or the model has no such layers.
    """
    found = [path for path, module in _in_blocks(model) if type(module) is nn.Linear]
    if not found:
        raise ConfigError(
            "the model has no blocks of linear layers to quantise", key="quantization", remedy="remove it"
        )
    for path in found:
        model.set_submodule(path, QuantizedLinear(cast("nn.Linear", model.get_submodule(path)), kind))
    for parameter in model.parameters():  # model.to(dtype) would round buffers too
        parameter.data = parameter.data.to(dtype)


def dequantize(model: nn.Module) -> None:
    """Make every quantised layer a plain one that computes the same, in place."""
    for path, module in [*model.named_modules()]:
        if isinstance(module, QuantizedLinear):
            model.set_submodule(path, module.plain())


def quantized_numbers(part: nn.Module) -> int:
    """How many numbers the quantised weights of a part stand for."""
    layers = (module for module in part.modules() if isinstance(module, QuantizedLinear))
    return sum(layer.in_features * layer.out_features for layer in layers)


def _in_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that lie in one of the model's stacks of layers, by path."""
    stacks = tuple(f"{path}." for path in stacks_of(model))
    return ((path, module) for path, module in model.named_modules() if path.startswith(stacks))


@functools.cache
def _bitsandbytes() -> Any:
    """Its functions.

    Where the package ``kernels`` is installed, it would fetch native code from a hub as it loads, for a layer that is
    not used here; where it is not, it complains.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        message = "8-bit and 4-bit weights need bitsandbytes, which is not installed"
        raise ConfigError(message, key="quantization", remedy="pip install 'vectoruniverse[quantized]'")
    kernels, disabled = sys.modules.get("kernels"), logging.root.manager.disable
    sys.modules["kernels"] = None  # type: ignore[assignment] # import says that there is none
    logging.disable(logging.WARNING)
    try:
        from bitsandbytes import functional
    finally:
        logging.disable(disabled)
        if kernels is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kernels
    return functional
