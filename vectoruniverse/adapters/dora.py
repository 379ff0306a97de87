"""DoRA (arXiv:2402.09353): direction from LoRA, magnitude of every output trained on its own.

Shapes: B.. any leading dimensions, I input width, O output width, R rank. lora_magnitude_vector m is (O,).
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import linear

from vectoruniverse.adapters.layers import LoraLinear, LoraSettings
from vectoruniverse.adapters.linear_layers import weight_of
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.shards import in_shards


class DoraLinear(LoraLinear):
    """A frozen linear layer whose weight is taken apart: W' = m · (W + scale · B A) / ‖W + scale · B A‖, by row.

    m starts at ‖W‖, so that step 0 is the base bit for bit. The norm is a constant to the gradient (section 4.3 of the
    paper), is computed in fp32, and costs a pass over the whole weight at each forward: DoRA is slower than LoRA.

    Left out: parts of a fused projection (the whole one can be adapted) and a start from PiSSA, which peft has too but
    for which nobody has asked.

    Args:
        base: the layer, ``nn.Linear`` or ``Conv1D``.
        **settings: as of ``LoraLinear``; ``initialisation`` must be ``kaiming``.
    """

    def __init__(self, base: nn.Module, **settings: Unpack[LoraSettings]) -> None:
        if in_shards(weight_of(base)):
            message, remedy = "DoRA reads whole weights of the base", "set it to false, or take another adapter"
            raise ConfigError(message, key="train.shard_base", remedy=remedy)
        super().__init__(base, **settings)
        assert self.initialisation == "kaiming", self.initialisation
        self.lora_magnitude_vector = nn.Parameter(self._norm())

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Set lora_A, lora_B and the magnitudes to where they start: the update is nothing."""
        super().initialise(generator)
        if "lora_magnitude_vector" in self._parameters:  # not yet while the layer is being made
            self.lora_magnitude_vector.data = self._norm()

    def trained(self) -> dict[str, nn.Parameter]:
        """The layer's own parameters under their names in peft's format."""
        return super().trained() | {"lora_magnitude_vector": self.lora_magnitude_vector}

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """Return W' - W, times the factor of ``set_scale``: (O, I), fp32 and of full rank."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            weight = self._unmerged_weight().float()
            directed = self._directed(weight)
            gain: Tensor = self.lora_magnitude_vector / vector_norm(directed, dim=1)
            return (gain.unsqueeze(1) * directed - weight) * self.factor

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        r"""Make W' - W ``factor`` times what it is, for good.

        With g = m / ‖W + scale · B A‖ by row, W + f (W' - W) = d · (W + scale · (f g / d) B A) where d = 1 - f + f g:
        DoRA again, of another lora_B and another m.
        """
        self.factor = 1.0
        gain = self.lora_magnitude_vector / self._norm()
        weight = 1.0 - factor + factor * gain
        self.lora_B.mul_((factor * gain / weight).unsqueeze(1))
        self.lora_magnitude_vector.copy_(weight * self._norm())

    def _unmerged_weight(self) -> Tensor:
        (base,) = self._unmerged or (self.base,)
        return weight_of(base)

    def _directed(self, weight: Tensor) -> Tensor:
        """W + scale · B A, fp32."""
        return weight + (self.lora_B @ self.lora_A) * self.scale

    @torch.no_grad()
    def _norm(self) -> Tensor:
        with torch.autocast(self.lora_A.device.type, enabled=False):
            norm: Tensor = vector_norm(self._directed(self._unmerged_weight().float()), dim=1)
            return norm

    def _update(self, x: Tensor, y: Tensor) -> Tensor:
        """(m / ‖..‖ - 1) · W x + m / ‖..‖ · scale · B A x, of the input after dropout as in peft."""
        gain = self.lora_magnitude_vector / self._norm()
        dropped = self.dropout(x)
        if dropped is x:
            bias = getattr(self.base, "bias", None)
            straight = y if bias is None else y - bias
        else:
            straight = linear(dropped, weight_of(self.base).to(dropped.dtype))
        low = linear(dropped, self.lora_A.to(x.dtype)) * self.scale
        update = (gain - 1) * straight + gain * linear(low, self.lora_B.to(x.dtype))
        return (update * self.factor).to(y.dtype)
