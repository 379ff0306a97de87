"""``train.packed_weights``: frozen linear layers multiply by weights that lie in memory as the CPU's kernels read them.

oneDNN's kernels read a weight in blocks of their own. Given a plain one they copy it anew in every product, and PyTorch
adds a bias in bf16 by a pass of its own before that. A frozen weight never changes, so it is laid out once for each
direction, y = x Wᵀ + b and ∂x = ∂y W, and the bias is added inside the product, before it is rounded. Equal to the
plain product up to rounding. It costs the memory of two more copies of these weights.

Shapes: B.. any leading dimensions, I input width, O output width.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FORMATS = (torch.float32, torch.bfloat16)
_MACHINES = ("x86_64", "AMD64")  # on others it was not measured


@contextlib.contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within this, training passes the model's frozen linear layers with packed weights, where the CPU can.

    Names, parameters and evaluation are as ever. Weights are packed when they are first needed, and must not change
    until the end.
    """
    layers = [_PackedLinear(layer) for layer in model.modules() if _is_frozen_linear(layer)] if can_pack() else []
    for packed in layers:
        vars(packed.layer)["forward"] = packed.forward  # this layer's alone
    try:
        yield
    finally:
        for packed in layers:
            del vars(packed.layer)["forward"]


def can_pack() -> bool:
    """Whether PyTorch has oneDNN's kernels here."""
    return platform.machine() in _MACHINES and bool(torch._C._has_mkldnn)


def _is_frozen_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Of nn.Linear itself, whose forward is known, on the CPU, and not passed in another way already."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    return not any(one.requires_grad or one.device.type != "cpu" for one in module.parameters())


class _PackedLinear:
    """A frozen linear layer, and its weight for either direction in the format in which it is asked for."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._plain = layer.forward
        self._forth: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        self._back: dict[torch.dtype, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B.., I) to (B.., O)."""
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else self.layer.weight.dtype
        trains = self.layer.training and torch.is_grad_enabled()
        if not trains or dtype not in FORMATS or not (autocast or x.dtype == dtype) or not x.numel():
            return self._plain(x)
        mapped: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return mapped

    def forth(self, x: Tensor) -> Tensor:
        """The product x Wᵀ + b."""
        if x.dtype not in self._forth:
            bias = self.layer.bias
            self._forth[x.dtype] = _packed(self.layer.weight, x.dtype), None if bias is None else bias.to(x.dtype)
        return _multiply(x, *self._forth[x.dtype])

    def back(self, grad: Tensor) -> Tensor:
        """The gradient ∂x = ∂y W."""
        if grad.dtype not in self._back:
            self._back[grad.dtype] = _packed(self.layer.weight.T, grad.dtype)
        return _multiply(grad, self._back[grad.dtype], None)


class _Product(torch.autograd.Function):
    """Keeps nothing for the way back: no weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: _PackedLinear) -> Tensor:
        ctx.packed = packed
        return packed.forth(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        packed: _PackedLinear = ctx.packed
        return packed.back(grad), None


@torch.no_grad()
def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (O, I) in oneDNN's own layout, for any number of rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), None)
    return packed


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
