r"""Rank and alpha by layer, with peft's ``rank_pattern`` and ``alpha_pattern``.

A pattern is a regular expression for the end of a module path, whole components of it: ``q_proj``,
``layers\.[0-3]\.self_attn\.q_proj``, ``^text_model\..*\.v_proj``. The first that fits decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from vectoruniverse.errors import ConfigError

Value = TypeVar("Value", int, float)

MAX_CHOICES, MAX_LENGTH = 4, 200
"""A pattern may come from a stranger, and some take for ever to match: so few groups and repeats, none of a group."""


def choose(patterns: Mapping[str, Value], path: str, default: Value) -> Value:
    """The value of the first pattern that fits a module path, by peft's rule; else the default."""
    return next((value for key, value in patterns.items() if _fits(key, path)), default)


def check_patterns(patterns: Iterable[str], paths: Iterable[str] | None, *, key: str) -> None:
    """Refuse patterns that are no regular expressions, could take for ever, or fit no layer.

    Args:
        patterns: the patterns.
        paths: module paths of the adapted layers; None where a pattern may fit none, as in peft.
        key: config key that they come from.

    Raises:
        ConfigError: one is refused.
    """
    known = None if paths is None else list(paths)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            remedy = "Write the end of a module path, such as q_proj."
            raise ConfigError(f"{pattern!r} is no regular expression: {error}", key=key, remedy=remedy) from error
        choices = len(re.findall(r"[*+?{(]", pattern))
        if choices > MAX_CHOICES or re.search(r"\)[*+?{]", pattern) or len(pattern) > MAX_LENGTH:
            remedy = f"Take at most {MAX_CHOICES} groups and repeats (* + ? {{}}) together, and no repeat of a group."
            raise ConfigError(f"{pattern!r} could take for ever to match", key=key, remedy=remedy)
        if known and not any(_fits(pattern, path) for path in known):
            remedy = f"Write the end of a path such as {known[0]}."
            raise ConfigError(f"{pattern!r} fits no adapted layer", key=key, remedy=remedy)


def exactly(path: str) -> str:
    """The pattern that fits one module path only, here and in peft."""
    return f"^{re.escape(path)}"


def _fits(pattern: str, path: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", path) is not None
