"""Which column of a table is which: the layouts that are known, and the columns that an experiment names."""

from __future__ import annotations

from collections.abc import Mapping

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.normalise import canonical, listed
from vectoruniverse.data.shards.base import KEY
from vectoruniverse.data.table import Table
from vectoruniverse.tasks.image_text.settings import DataConfig

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "id": {"id": "Id", "title": "Title", "labels": "Category"},
    "imagefolder": {"file": "file_name", "title": "text"},
    "open_clip": {"file": "filepath", "title": "title"},
}
"""Layout → role → its usual column."""


PACKED_TITLES = ("text", "caption", "title")
"""Where shards have the columns of no layout: the title is the first of these."""


def find_columns(table: Table, data: DataConfig, *, packed: bool = False) -> Mapping[str, str]:
    """Column of each role that this file has; where ``packed`` samples have those of no layout, keys are their ids."""
    asked = _asked(data)
    usual = _packed_columns(table, data) if packed else LAYOUTS[_layout(table, data)]
    names = {**usual, **asked}
    for role, name in list(names.items()):
        if name in table.header:
            continue
        if role in asked or role in ("id", "file") or f"{{{role}}}" in data.text:
            key = f"data.columns.{role}"
            remedy = f"Name the column in {key}, or choose another data.layout."
            raise FaultError(
                table.lacks(name), kind="unreadable_table", file=table.file, line=1, key=key, remedy=remedy
            )
        del names[role]
    return names


def _layout(table: Table, data: DataConfig) -> str:
    return _detect(table, _asked(data)) if data.layout == "auto" else data.layout


def _packed_columns(table: Table, data: DataConfig) -> Mapping[str, str]:
    """Columns of a layout, where packed samples have them; else their keys, and the usual names of titles."""
    found = LAYOUTS[_layout(table, data)] if has_layout(table, data) else {"id": KEY}
    if found.get("title") in table.header or data.layout != "auto":
        return found
    return {**found, "title": next((name for name in PACKED_TITLES if name in table.header), PACKED_TITLES[0])}


def _asked(data: DataConfig) -> dict[str, str]:
    """Columns by role, as they are named in the experiment."""
    return {role: canonical(name) for role, name in data.columns if name is not None and role != "image"}


def has_layout(table: Table, data: DataConfig) -> bool:
    """Whether a column says which row is which: one that is asked for, or that of a layout."""
    if data.layout != "auto" or {"id", "file"} & _asked(data).keys():
        return True
    return any(
        columns[role] in table.header for columns in LAYOUTS.values() for role in ("id", "file") if role in columns
    )


def _detect(table: Table, asked: Mapping[str, str]) -> str:
    if "id" in asked and "file" not in asked:
        return "id"
    for layout, role in (("imagefolder", "file"), ("open_clip", "file"), ("id", "id")):
        if LAYOUTS[layout][role] in table.header:
            return layout
    if "file" in asked:
        return "imagefolder"
    raise FaultError(
        "none of the columns Id, file_name, filepath is there, so the layout is unknown; "
        f"the columns are {listed(table.header)}{table.other_separator()}",
        kind="unreadable_table",
        file=table.file,
        line=1,
        remedy="Name the column of the ids in data.columns.id, or that of the pictures in data.columns.file.",
    )
