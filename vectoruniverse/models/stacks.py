"""Where a transformer's blocks are: in the lists of layers that transformers' models keep them in."""

from __future__ import annotations

from torch import nn


def stacks_of(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of layers inside a model, by path, in the order of its modules; the model itself is none."""
    return {path: one for path, one in model.named_modules() if path and isinstance(one, nn.ModuleList)}
