"""Fusions: learned layers that make one vector X = f(i, t; Ψ) of a picture's vector i and its text's vector t.

Each starts half way between the two, whatever Ψ is drawn, so that the encoders get no random gradients at first. What
its layers read is n(v), v brought to mean 0 and variance 1, for the numbers of a unit vector shrink with its width.

Shapes: .. any dimensions, E width of the shared embedding; i, t and X are (.., E).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, normalize

from vectoruniverse.models.load import drawn_from

FUSION_FILE = "fusion.safetensors"
"""A trained fusion in an adapter's folder; retrieval needs none, so no export holds it."""

MAX_HEADS = 8
"""Heads of the attention, where the width is a multiple of it."""


class ConcatMlp(nn.Module):
    """X = i + t + W₂ GELU(W₁ n([i, t]) + b₁) + b₂, the second layer starting at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2 * width, width), _silent(nn.Linear(width, width))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Both (.., E) → X (.., E)."""
        added: Tensor = self.out(gelu(self.hidden(_scaled(torch.cat([image, text], dim=-1)))))
        return image + text + added


class GatedSum(nn.Module):
    """X = g ⊙ i + (1 - g) ⊙ t with g = sigmoid(W n([i, t]) + b), W and b starting at 0 (GMU, arXiv:1702.01992)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = _silent(nn.Linear(2 * width, width))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Both (.., E) → X (.., E)."""
        return torch.lerp(text, image, self.gate(_scaled(torch.cat([image, text], dim=-1))).sigmoid())


class CrossAttention(nn.Module):
    """X = mean of i and t, each after it has attended to both: z + W_o Attention(n(z); n(i), n(t)) + b_o.

    There is one vector of each, and attention to the other alone would always be 1; so a vector chooses, in each of H
    heads, between the other and itself. W_o and b_o start at 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, math.gcd(width, MAX_HEADS), batch_first=True)
        _silent(self.attention.out_proj)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Both (.., E) → X (.., E)."""
        pair = torch.stack([image, text], dim=-2)  # (.., 2, E)
        read = _scaled(pair).flatten(end_dim=-3)
        seen, _ = self.attention(read, read, read, need_weights=False)
        fused: Tensor = (pair + seen.view_as(pair)).mean(dim=-2)
        return fused


FUSIONS: dict[str, type[ConcatMlp | GatedSum | CrossAttention]] = {
    "concat_mlp": ConcatMlp,
    "gated_sum": GatedSum,
    "cross_attention": CrossAttention,
}
"""``loss.label_kl.fusion`` → what it stands for."""


def build_fusion(name: str, width: int, seed: int) -> nn.Module:
    """A new fusion of vectors of this width, on the CPU; its weights are a function of these three alone."""
    with drawn_from(seed):
        return FUSIONS[name](width)


@torch.inference_mode()
def fused_rows(fusion: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    """X / ‖X‖ of unit rows of pictures and texts, all (N, E) float32 on the CPU."""
    device = next(fusion.parameters()).device
    found: Tensor = normalize(fusion(image.to(device), text.to(device)), dim=-1)
    return found.float().cpu()


def _silent(layer: nn.Linear) -> nn.Linear:
    """The layer with weights of 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(vectors: Tensor) -> Tensor:
    """Each vector (.., E) with mean 0 and variance 1 over its numbers."""
    return layer_norm(vectors, vectors.shape[-1:])
