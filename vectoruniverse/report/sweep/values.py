"""Combinations of swept values: how they are told apart, put in order, and called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Values = Mapping[str, Any]
"""Swept key → value."""

LR, EPOCHS = "train.lr", "train.epochs"
"""Settings that a trial of a learning rate has of its own."""

AS_IT_IS = "adapted"
"""What a model is called where nothing is swept."""


def places_of(combinations: Iterable[Values]) -> tuple[dict[str, float], bool]:
    """Where each combination of swept values stands on an axis, by its ``key_of``, and whether values are in order.

    They are where one key is swept over numbers: the place is the number then. Others are counted as they come.
    """
    distinct = {key_of(values): values for values in combinations}
    numbers = [value for values in distinct.values() for value in values.values()]
    if all(len(values) == 1 for values in distinct.values()) and all(map(is_number, numbers)):
        return {key: float(number) for key, number in zip(distinct, numbers, strict=True)}, True
    return {key: float(i) for i, key in enumerate(distinct)}, False


def key_of(values: Values) -> str:
    """Tells combinations of values apart."""
    return json.dumps(values)


def label_of(values: Values) -> str:
    """A value as a tick: ``4``, or ``rank 4, temperature 0.05`` where several keys are swept."""
    return shown(next(iter(values.values()))) if len(values) == 1 else title_of(values)


def title_of(values: Values) -> str:
    """A value with the last word of its key, such as ``rank 4``."""
    return ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in values.items()) or AS_IT_IS


def cell_title(values: Values, seed: int, fold: int | None) -> str:
    """A cell for people, such as ``rank 4, seed 0``, or ``rank 4, fold 2, seed 0``."""
    place = "" if fold is None else f"fold {fold + 1}, "
    return f"{title_of(values)}, {place}seed {seed}"


def shown(value: object) -> str:
    """A value as it would stand in the experiment file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def is_number(value: object) -> bool:
    """Whether a swept value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
