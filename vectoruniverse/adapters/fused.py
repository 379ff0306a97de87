"""LoRA on any of query, key and value where one projection holds all three.

Shapes: B.. any leading dimensions, I input width, O output width, P = O / 3 width of a part, S adapted parts, R rank.
lora_A is (S, R, I), lora_B is (S, P, R): a stack, one LoRA for each adapted part, exactly as if the parts were layers
of their own. The other parts have no parameters and are not changed.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vectoruniverse.adapters.initialise import kaiming
from vectoruniverse.adapters.layers import LoraLinear, LoraSettings
from vectoruniverse.adapters.linear_layers import SLICES, weight_of


class FusedLoraLinear(LoraLinear):
    """A frozen fused projection with a low-rank update of some of its parts.

    Args:
        base: the projection, ``nn.Linear`` or ``Conv1D``, whose output is q, k, v in three equal parts.
        parts: which of ``q``, ``k``, ``v`` are adapted, in that order.
        **settings: as of ``LoraLinear``; rank and alpha are those of each part.
    """

    def __init__(self, base: nn.Module, *, parts: tuple[str, ...], **settings: Unpack[LoraSettings]) -> None:
        assert parts and parts == tuple(name for name in SLICES if name in parts), parts
        self.parts = parts  # before the rest, which asks for the shapes of the factors
        super().__init__(base, **settings)

    def extra_repr(self) -> str:
        """One line on parts, shape, rank and scale."""
        return f"{'+'.join(self.parts)} of {super().extra_repr()}"

    @property
    def _width(self) -> int:
        return self.out_features // len(SLICES)

    def _factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        count = len(self.parts)
        return (count, self.rank, self.in_features), (count, self._width, self.rank)

    def _base_weight(self) -> Tensor:
        parts = weight_of(self.base).reshape(len(SLICES), self._width, self.in_features)
        return parts[[SLICES.index(name) for name in self.parts]]

    def _drawn(self, generator: torch.Generator | None) -> Tensor:
        # All three are drawn, so that a part starts the same whichever others are adapted.
        drawn = {name: kaiming(self.rank, self.in_features, generator) for name in SLICES}
        return torch.stack([drawn[name] for name in self.parts])

    def _low_rank(self, x: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
        low = linear(x, lora_a.flatten(0, 1).to(x.dtype)) * (self.scale * self.factor)  # (B.., S R)
        lows = low.chunk(len(self.parts), dim=-1)
        updates = {name: linear(part, b.to(x.dtype)) for name, part, b in zip(self.parts, lows, lora_b, strict=True)}
        nothing = torch.zeros_like(updates[self.parts[0]])
        return torch.cat([updates.get(name, nothing) for name in SLICES], dim=-1)

    def _whole(self, lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
        """A (S R, I), and B (O, S R) with one block for each part and zeros elsewhere: plain LoRA of rank S R."""
        rows = lora_b.new_zeros(len(SLICES), self._width, len(self.parts), self.rank)
        for place, name in enumerate(self.parts):
            rows[SLICES.index(name), :, place] = lora_b[place]
        return lora_a.flatten(0, 1), rows.flatten(2).flatten(0, 1)
