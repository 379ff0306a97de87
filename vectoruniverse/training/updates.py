"""What updates leave to be read, so that the device is waited for only when somebody is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vectoruniverse.errors import DivergedError


@dataclass(frozen=True, slots=True)
class Update:
    """What an update left to be read.

    Attributes:
        step: its number.
        finite: 0-d bool.
        numbers: what people should see, by name, 0-d where it is on the device.
    """

    step: int
    finite: Tensor
    numbers: Mapping[str, Tensor | float]


def on_host(updates: Sequence[Update]) -> list[tuple[int, bool, dict[str, float]]]:
    """Step, whether it is finite, and numbers of each update, read together so that the device is waited for once."""
    found = [value for one in updates for value in (one.finite, *one.numbers.values()) if isinstance(value, Tensor)]
    values = iter(torch.stack(found).tolist() if found else [])
    return [
        (
            one.step,
            bool(next(values)),
            {name: next(values) if isinstance(value, Tensor) else value for name, value in one.numbers.items()},
        )
        for one in updates
    ]


def diverged(step: int, numbers: Mapping[str, float]) -> DivergedError:
    """Why training ends at this step."""
    what = "gradient" if math.isfinite(numbers["loss"]) else "loss"
    parts = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in numbers.items() if name.startswith("loss/")]
    return DivergedError(
        f"the {what} is not finite at step {step} ({', '.join(parts)})",
        remedy="lower train.lr, set train.clip_grad_norm, or use train.precision: fp32; the checkpoint is intact",
    )
