"""What updates leave to be read, so that the device is waited for only when somebody is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vectoruniverse.errors import DivergedError

RowNames = Callable[[np.ndarray], list[str]]
"""What people call the training rows at these positions."""

NAMED = 5
"""Rows that a message names at most."""

MAX_SKIPPED = 20
"""Updates in a row that a loss scaler may skip; from 65,536, where it begins, it is down at 1 after 16."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an update left to be read.

    Attributes:
        step: its number.
        rows: positions of its training rows.
        finite: 0-d bool.
        numbers: what people should see, by name, 0-d where it is on the device.
    """

    step: int
    rows: np.ndarray
    finite: Tensor
    numbers: Mapping[str, Tensor | float]


def on_host(updates: Sequence[Update]) -> list[tuple[Update, bool, dict[str, float]]]:
    """Each update, whether it is finite, and its numbers, read together so that the device is waited for once."""
    found = [value for one in updates for value in (one.finite, *one.numbers.values()) if isinstance(value, Tensor)]
    values = iter(torch.stack(found).tolist() if found else [])
    return [
        (
            one,
            bool(next(values)),
            {name: next(values) if isinstance(value, Tensor) else value for name, value in one.numbers.items()},
        )
        for one in updates
    ]


def diverged(update: Update, numbers: Mapping[str, float], skipped: int, names: RowNames) -> DivergedError:
    """Why training ends at this update.

    Args:
        update: the first one that may not be made.
        numbers: its own.
        skipped: updates before it, without one that was made between, that the loss scaler skipped.
        names: of its rows.
    """
    what = "gradient" if math.isfinite(numbers["loss"]) else "loss"
    parts = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in numbers.items() if name.startswith("loss/")]
    remedy = "lower train.lr, set train.clip_grad_norm, or use train.precision: fp32; the checkpoint is intact"
    run = ""
    if skipped and what == "gradient":
        run = f", like those of the {skipped} updates before it, which were skipped at ever smaller loss scales"
        remedy = "use train.precision: bf16 or fp32, whose numbers reach further; the checkpoint is intact"
    rows = names(update.rows)
    more = f" and {len(rows) - NAMED} more" * (len(rows) > NAMED)
    of = f"; its rows: {', '.join(rows[:NAMED])}{more}" if rows else ""
    return DivergedError(f"the {what} is not finite at step {update.step} ({', '.join(parts)}){run}{of}", remedy=remedy)
