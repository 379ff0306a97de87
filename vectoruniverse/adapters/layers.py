"""LoRA (arXiv:2106.09685): a low-rank update beside one frozen linear layer.

Shapes: B.. any leading dimensions, I input width, O output width, R rank. lora_A is (R, I), lora_B is (O, R).

Dtypes: the base weight stays in the dtype it was loaded in (the compute dtype), lora_A and lora_B are fp32. The update
is computed in the dtype of the input, or in autocast's where autocast is on, and the output has the dtype that the base
layer gives: with a bf16 base and no autocast, lora_A and lora_B are cast to bf16 on the way, their gradients are fp32.
"""

from __future__ import annotations

import math
from typing import Required, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vectoruniverse.adapters.initialise import Initialisation, kaiming, principal
from vectoruniverse.adapters.linear_layers import device_of, weight_of, widths, with_added


class LoraSettings(TypedDict, total=False):
    """The settings of ``LoraLinear``."""

    rank: Required[int]
    alpha: Required[float]
    dropout: float
    rank_stabilized: bool
    generator: torch.Generator | None
    initialisation: Initialisation


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update: y = base(x) + scale · dropout(x) lora_Aᵀ lora_Bᵀ.

    It has no ``weight`` of its own, so that code which reads a layer's weight and never calls the layer fails at once
    where it would otherwise silently leave the update out.

    PiSSA starts lora_A and lora_B at the weight's principal directions A₀, B₀ and takes them off the base. Here the
    base weight is left as it is and they are taken off the update, y = base(x) + scale · (B A dropout(x) - B₀ A₀ x):
    the same function with the same gradients, yet step 0 is the base bit for bit (where no input is dropped), a bf16
    base is not rounded again, and nothing has to be restored. It costs one more low-rank product.

    Args:
        base: the layer to wrap, ``nn.Linear``, ``Conv1D`` or a quantised one; kept as ``.base``, the same object with
            the same tensors, and frozen.
        rank: R, at least 1.
        alpha: numerator of the scale.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank (arXiv:2312.03732) in place of alpha / rank.
        generator: source of the initial lora_A, on the CPU; None takes torch's global one.
        initialisation: where lora_A and lora_B start.

    Raises:
        ConfigError: PiSSA, with a rank above the smaller width.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilized: bool = False,
        generator: torch.Generator | None = None,
        initialisation: Initialisation = "kaiming",
    ) -> None:
        super().__init__()
        assert rank >= 1, f"rank {rank} is below 1"
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = widths(base)
        self.rank, self.alpha, self.rank_stabilized = rank, alpha, rank_stabilized
        self.scale = alpha / math.sqrt(rank) if rank_stabilized else alpha / rank
        self.factor = 1.0
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.initialisation = initialisation
        shape_a, shape_b = self._factor_shapes()
        device = device_of(base)
        self.lora_A = nn.Parameter(torch.empty(shape_a, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.empty(shape_b, device=device, dtype=torch.float32))
        # What PiSSA takes off again; not in state_dict, since the base weight determines it.
        self.register_buffer("start_A", None, persistent=False)
        self.register_buffer("start_B", None, persistent=False)
        self._unmerged: tuple[nn.Module, ...] = ()  # in a tuple, since a bare module would register itself
        self.initialise(generator)
        self.train(base.training)  # a new module is in training mode, which would drop inputs of a model under eval()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Set lora_A and lora_B to where they start: the update is nothing.

        Args:
            generator: CPU generator; drawing on the CPU makes the values the same on every device.
        """
        assert not self.merged, "unmerge before initialising"
        if self.initialisation == "pissa":
            start_a, start_b = principal(self._base_weight(), self.rank, self.scale)
            self.lora_A.copy_(start_a)
            self.lora_B.copy_(start_b)
            # Clones have the same memory layout, so that the same products are computed and their difference is 0.
            self.start_A, self.start_B = self.lora_A.detach().clone(), self.lora_B.detach().clone()
        else:
            self.lora_A.copy_(self._drawn(generator))
            self.lora_B.zero_()

    @property
    def merged(self) -> bool:
        """Whether the base layer's weight holds the update now."""
        return bool(self._unmerged)

    def trained(self) -> dict[str, nn.Parameter]:
        """The layer's own parameters under their names in peft's format."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B.., I) to (B.., O).

        Raises:
            RuntimeError: the layer is merged and in training mode; it would train nothing.
        """
        if self.merged and self.training:
            raise RuntimeError("a merged LoRA layer cannot be trained: call unmerge() first")
        y: Tensor = self.base(x)
        return y if self.merged else y + self._update(x, y)

    @torch.no_grad()
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (K, I) and B (O, K), whose product times the scale is the low-rank update; K is a multiple of R."""
        a, b = self._whole(self.lora_A.detach(), self.lora_B.detach())
        if self.start_A is not None:
            start_a, start_b = self._whole(self.start_A, self.start_B)
            a, b = torch.cat([a, start_a]), torch.cat([b, -start_b], dim=1)
        return a, b

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """Return what the update adds to the weight, scale · lora_B lora_A: (O, I), fp32."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            a, b = self.factors()
            return (b @ a) * (self.scale * self.factor)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Make the update ``factor`` times what it is, for good: alpha carries it, so that peft reads it too."""
        assert not self.merged, "unmerge before rescaling"
        self.factor = 1.0
        if factor == 0.0:  # peft takes no alpha of 0
            self.lora_A.copy_(self.lora_A if self.start_A is None else self.start_A)
            self.lora_B.copy_(torch.zeros_like(self.lora_B) if self.start_B is None else self.start_B)
        else:
            self.alpha, self.scale = self.alpha * factor, self.scale * factor

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the base layer's weight, so that a forward costs no more than before; twice is once.

        The sum is taken in fp32 and rounded to the weight's dtype once: in bf16, updates below its 8 bits are lost. The
        original weight is kept beside the merged one (one more copy of each adapted weight), since subtracting the
        update again would not give its bits back. Another module that shares the weight is not touched.
        """
        if self.merged:
            return
        base = self.base
        self.base, self._unmerged = with_added(base, self.delta_weight()), (base,)

    def unmerge(self) -> None:
        """Put the original layer back: with the same parameter, bit for bit; twice is once."""
        if not self.merged:
            return
        (base,) = self._unmerged
        self.base, self._unmerged = base.to(device_of(self.base)), ()  # they may have moved while merged

    def extra_repr(self) -> str:
        """One line on shape, rank and scale, such as ``32 -> 64, rank=8, alpha=16, scale=2, dropout=0.1``."""
        parts = [f"{self.in_features} -> {self.out_features}", f"rank={self.rank}", f"alpha={self.alpha:g}"]
        parts.append(f"scale={self.scale * self.factor:g}")
        parts += [f"dropout={self.dropout.p:g}"] if isinstance(self.dropout, nn.Dropout) else []
        parts += ["rank_stabilized"] if self.rank_stabilized else []
        parts += [self.initialisation] if self.initialisation != "kaiming" else []
        parts += ["merged"] if self.merged else []
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rank, self.in_features), (self.out_features, self.rank)

    def _base_weight(self) -> Tensor:
        """The part of the base weight that lora_B lora_A stands beside."""
        return weight_of(self.base)

    def _drawn(self, generator: torch.Generator | None) -> Tensor:
        return kaiming(self.rank, self.in_features, generator)

    def _update(self, x: Tensor, y: Tensor) -> Tensor:
        """What is added to the base layer's output y."""
        del y
        update = self._low_rank(self.dropout(x), self.lora_A, self.lora_B)
        return update if self.start_A is None else update - self._low_rank(x, self.start_A, self.start_B)

    def _low_rank(self, x: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
        # Through the narrow middle, and scaled there: (B.., R) is the smallest tensor on the way.
        low = linear(x, lora_a.to(x.dtype)) * (self.scale * self.factor)
        return linear(low, lora_b.to(x.dtype))

    def _whole(self, lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
        """Factors as (K, I) and (O, K)."""
        return lora_a, lora_b
