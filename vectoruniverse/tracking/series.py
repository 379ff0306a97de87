"""One quantity of a history over its steps.

A history is what ``metrics.jsonl`` holds: one mapping for each logged step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, float | int | str]
Floats = NDArray[np.float64]


def series(history: Sequence[Record], key: str) -> tuple[Floats, Floats]:
    """Steps and values (S,) of the records that hold ``key``; "NaN" and "Infinity" are read as the numbers they are."""
    found = [(float(record["step"]), _number(record[key])) for record in history if key in record]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def grouped(steps: Floats, values: Floats, groups: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean step, and mean, least and greatest value (G,) of that many groups of neighbours; NaN counts as absent."""
    rows = [
        (part_steps.mean(), finite.mean(), finite.min(), finite.max())
        for part_steps, part in zip(np.array_split(steps, groups), np.array_split(values, groups), strict=True)
        if len(finite := part[np.isfinite(part)])
    ]
    steps, mean, low, high = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return steps, mean, low, high


def _number(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:  # a line that another program wrote
        return math.nan
