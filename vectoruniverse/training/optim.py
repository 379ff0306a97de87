"""Parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from vectoruniverse.losses.penalties import penalised

Schedule = Callable[[int], float]
"""Learning rate of the update number ``step`` (0 for the first)."""


def cosine_restarts(*, peak: float, base: float, period: int, warmup: int, decay: float) -> Schedule:
    """Linear warm-up from ``base`` to the peak, cosine back to ``base``, again every ``period`` steps.

    The peak p of period n is ``peak·decayⁿ``, never below ``base``. At step t of a period the rate is
    ``base + (p − base)·t/warmup`` during the warm-up, then
    ``base + (p − base)·(1 + cos(π (t − warmup)/(period − warmup)))/2``. (SGDR, arXiv:1608.03983, with warm-up.)
    """

    def lr(step: int) -> float:
        cycle, t = divmod(step, period)
        height = max(peak * decay**cycle, base) - base
        if t < warmup:
            return base + height * t / warmup
        return base + height * (1.0 + math.cos(math.pi * (t - warmup) / (period - warmup))) / 2.0

    return lr


def cosine(*, peak: float, steps: int, warmup: float, final: float) -> Schedule:
    """Linear warm-up over the share ``warmup`` of all steps, then half a cosine from ``peak`` to ``final·peak``."""
    ramp = round(warmup * steps)

    def lr(step: int) -> float:
        if step < ramp:
            return peak * (step + 1) / (ramp + 1)
        progress = min(1.0, (step - ramp) / max(1, steps - ramp))
        return peak * (final + (1.0 - final) * (1.0 + math.cos(math.pi * progress)) / 2.0)

    return lr


def constant(*, peak: float, steps: int, warmup: float) -> Schedule:
    """Linear warm-up over the share ``warmup`` of all steps, then ``peak``."""
    ramp = round(warmup * steps)
    return lambda step: peak * min(1.0, (step + 1) / (ramp + 1))


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], modules: Iterable[nn.Module], weight_decay: float
) -> list[dict[str, object]]:
    """Two AdamW groups: decayed weights, and what decay would only distort.

    Spared is what `regularisation.penalised` spares: vectors and scalars (biases, gains, the logit scale), and whatever
    belongs to a normalisation or embedding layer. Matrices of LoRA are decayed like any weight.
    """
    trained = dict(named)
    decayed = penalised(trained, modules)
    groups: list[dict[str, object]] = [
        {"params": list(decayed.values()), "weight_decay": weight_decay},
        {"params": [p for name, p in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, object]], *, fused: bool) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with CLIP's betas; the learning rate is set before every step from the schedule."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=fused)
