"""Where lora_A and lora_B start.

Left out: orthogonal initialisation (peft's ``orthogonal``). Its product is zero only up to rounding, so the model
before the first step would no longer be the base bit for bit; it takes even ranks only, and its source is a blog post.
peft's ``gaussian`` differs from Kaiming-uniform only in the spread of lora_A; OLoRA, CorDA, EVA and LoftQ need data or
quantised weights. Adapters that were made with ``gaussian``, ``orthogonal`` or ``eva`` load: their start is of no
account once they are trained.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vectoruniverse.errors import ConfigError

Initialisation = Literal["kaiming", "pissa"]
"""``kaiming``: random lora_A, lora_B zero. ``pissa``: the weight's principal directions."""


def kaiming(rank: int, width: int, generator: torch.Generator | None) -> Tensor:
    """lora_A (R, I), Kaiming-uniform with a = √5 as loralib does, drawn on the CPU: the same values on every device."""
    return nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5), generator=generator)


@torch.no_grad()
def principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """PiSSA (arXiv:2404.02948): factors whose scaled product is the best rank-R approximation of the weight.

    With W = U Σ Vᵀ, lora_B = U √(Σ / scale) and lora_A = √(Σ / scale) Vᵀ, first R directions of each.

    Args:
        weight: (.., O, I), of any float dtype.
        rank: R, at most min(O, I).
        scale: of the LoRA layer.

    Returns:
        lora_A (.., R, I) and lora_B (.., O, R), fp32.

    Raises:
        ConfigError: the weight has fewer than R directions.
    """
    if rank > (most := min(weight.shape[-2:])):
        raise ConfigError(
            f"PiSSA at rank {rank} needs a weight of at least {rank} by {rank}, and one has only {most} directions",
            remedy=f"Take a rank of at most {most}.",
        )
    u, sigma, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    root = (sigma[..., :rank] / scale).sqrt()
    return root.unsqueeze(-1) * vh[..., :rank, :], u[..., :rank] * root.unsqueeze(-2)
