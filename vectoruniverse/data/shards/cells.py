"""Values of a typed column as the cells of a table, which are texts."""

from __future__ import annotations

from collections.abc import Mapping

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import MAX_CELL

Scalar = str | int | float | bool | None


def cells_of(values: Mapping[str, object], separator: str) -> dict[str, str]:
    """Cells by column; values that are no texts, numbers or lists of them are no cells.

    Raises:
        FaultError: a cell is too long, or a listed value holds the separator.
    """
    return {name: found for name, value in values.items() if (found := cell(name, value, separator)) is not None}


def cell(name: str, value: object, separator: str) -> str | None:
    """The cell of a value; None where it has none, such as of an object."""
    if isinstance(value, list):
        if any(isinstance(one, list | dict | bytes) for one in value):
            return None
        parts = ["" if one is None else str(one) for one in value]
        if any(separator in part for part in parts):
            raise FaultError(f"a value in the list {name!r} holds {separator!r}; set data.label_separator to another")
        text = separator.join(parts)
    elif value is None or isinstance(value, str | int | float):
        text = "" if value is None else str(value)
    else:
        return None
    if len(text) > MAX_CELL:
        raise FaultError(f"{name!r} holds {len(text):,} characters, more than {MAX_CELL:,}")
    return text
