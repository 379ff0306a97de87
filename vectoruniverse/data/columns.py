"""Columns by the role that they have for a row, and how messages name them."""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vectoruniverse.data.normalise import canonical, caseless
from vectoruniverse.data.text_file import TextFileError
from vectoruniverse.errors import ConfigError

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "id": {"id": "Id", "title": "Title", "labels": "Category"},
    "imagefolder": {"file": "file_name", "title": "text"},
    "open_clip": {"file": "filepath", "title": "title"},
}
"""Layout → role → its usual column."""

_MOST_NAMES = 20  # columns that a message lists


def find_columns(
    file: Path, header: Sequence[str], layout: str, given: Mapping[str, str | None], text: str
) -> Mapping[str, str]:
    """Column of each role that this file has."""
    asked = {role: canonical(name) for role, name in given.items() if name is not None}
    names = {**LAYOUTS[_detect(file, header, asked) if layout == "auto" else layout], **asked}
    for role, name in list(names.items()):
        if name in header:
            continue
        if role in asked or role in ("id", "file") or f"{{{role}}}" in text:
            raise TextFileError(
                f"there is no column {shortened(name)}; the columns are {listed(header)}{closest(name, header)}"
                f"{other_separator(header)}",
                kind="unreadable_table",
                file=file,
                line=1,
                key=f"data.columns.{role}",
                remedy=f"Name the column in data.columns.{role}, or choose another data.layout.",
            )
        del names[role]
    return names


def _detect(file: Path, header: Sequence[str], asked: Mapping[str, str]) -> str:
    if "id" in asked and "file" not in asked:
        return "id"
    for layout, role in (("imagefolder", "file"), ("open_clip", "file"), ("id", "id")):
        if LAYOUTS[layout][role] in header:
            return layout
    if "file" in asked:
        return "imagefolder"
    raise TextFileError(
        "none of the columns Id, file_name, filepath is there, so the layout is unknown; "
        f"the columns are {listed(header)}{other_separator(header)}",
        kind="unreadable_table",
        file=file,
        line=1,
        remedy="Name the column of the ids in data.columns.id, or that of the pictures in data.columns.file.",
    )


def closest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like this one; nothing where none is."""
    folded = {caseless(other)[:80]: other for other in known}
    match = difflib.get_close_matches(caseless(name)[:80], folded, n=1)
    return f" (did you mean {shortened(folded[match[0]])}?)" if match else ""


def parse_template(text: str, header: Sequence[str], names: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Literals and placeholders. A placeholder is only ever looked up by its whole name, never evaluated."""
    known = [role for role in ("title", "labels") if role in names]
    known += [name for name in header if name not in ("title", "labels")]
    parts: list[tuple[str, str | None]] = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            # a column's name may itself hold ! or :, which the parser cuts off
            rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            name = None if field is None else canonical(field + rest)
            parts.append((literal, name))
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", key="data.text", remedy="Write a literal brace twice.") from error
    for _, name in parts:
        if name is not None and name not in known:
            raise ConfigError(
                f"there is no {{{name}}} in this file{closest(name, known)}",
                key="data.text",
                remedy=f"Choose from {listed(known)}.",
            )
    return parts


def listed(names: Sequence[str]) -> str:
    """The columns, for a message on one line."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shortened(name) or "''" for name in names[:_MOST_NAMES]) + more


def shortened(text: str) -> str:
    """The beginning of a text as Python would write it, for a message on one line."""
    return repr(text if len(text) <= 40 else text[:39] + "…") if text else ""


def other_separator(header: Sequence[str]) -> str:
    """A hint where the header's only cell seems to hold several; else nothing."""
    marks = [mark for mark in ";|,\t" if len(header) == 1 and mark in header[0]]
    return f" (are the cells separated by {marks[0]!r}? commas and tabs are read, tabs in a .tsv)" if marks else ""
