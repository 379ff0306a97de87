"""CLIP's activation with a cheaper way back.

``QuickGELU(x) = x σ(1.702 x)`` is ``SiLU(t) / 1.702`` with ``t = 1.702 x``, so that its derivative is SiLU'(t): one
pass over memory, where autograd makes five of the three operations that transformers writes. The values are the same
bit for bit; on two CPU cores a training step of tiny-clip takes a sixth less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SLOPE = 1.702


class _QuickGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = SLOPE * x
        ctx.save_for_backward(scaled)
        return torch.sigmoid(scaled).mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        grad: Tensor = torch.ops.aten.silu_backward(grads[0], scaled)
        return grad


class QuickGelu(nn.Module):
    """``x σ(1.702 x)``, element by element."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, the same shape."""
        if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():  # which fuses it itself
            activated: Tensor = _QuickGelu.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return activated
        return x * torch.sigmoid(SLOPE * x)


def put_quick_gelu(model: nn.Module) -> None:
    """Replace transformers' activation of the same name wherever the model has it; it has no parameters."""
    from transformers.activations import QuickGELUActivation

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, QuickGELUActivation):
                setattr(parent, name, QuickGelu())
