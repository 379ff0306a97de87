"""The text of a row: a template with the names of cells in it, which is looked up and never evaluated."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from vectoruniverse.data.normalise import canonical, closest, listed
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.image_text.columns import LAYOUTS
from vectoruniverse.tasks.image_text.settings import DataConfig

Template = Sequence[tuple[str, str | None]]
"""Literals, each with the name of the cell that follows it."""


def text_tells_labels(data: DataConfig) -> bool:
    """Whether the text of a row is made of its labels, so that labels cannot be predicted by it."""
    column = data.columns.labels or LAYOUTS["id"]["labels"]
    return not {canonical(column), "labels"}.isdisjoint(name for _, name in _template_parts(data.text))


def parse_template(text: str, known: Sequence[str], key: str = "data.text") -> Template:
    """Literals and placeholders. A placeholder is only ever looked up by its whole name, never evaluated.

    Raises:
        ConfigError: a brace stands alone, or a placeholder is none of the ``known``; names the ``key``.
    """
    parts = _template_parts(text, key)
    for _, name in parts:
        if name is not None and name not in known:
            message = f"there is no {{{name}}} in this file{closest(name, known)}"
            raise ConfigError(message, key=key, remedy=f"Choose from {listed(known)}.")
    return parts


def _template_parts(text: str, key: str = "data.text") -> Template:
    parts: list[tuple[str, str | None]] = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            # a column's name may itself hold ! or :, which the parser cuts off
            rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            parts.append((literal, None if field is None else canonical(field + rest)))
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", key=key, remedy="Write a literal brace twice.") from error
    return parts


def fill(template: Template, columns: Mapping[str, str], title: str, labels: Sequence[str]) -> str:
    """The text of a row; empty where nothing but space is left."""
    values = {**columns, "title": title, "labels": ", ".join(labels)}
    return "".join(literal + ("" if name is None else values[name]) for literal, name in template).strip()
