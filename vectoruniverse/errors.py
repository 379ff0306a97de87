"""What goes wrong, told to the person who can mend it.

A ``UserError`` is a mistake in a config, a data folder or the surroundings of a run: the command line prints it in
one or two lines and leaves with its ``exit_code``. Whatever else escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import ClassVar

_OBEYED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of what a terminal obeys or cannot encode: controls, halves of pairs, line ends."""
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""What turns the direction of the text after it."""

_LOGIN = re.compile(r"(?<=:/)(/?)[^/@\s]+:[^/@\s]+(?=@)")
"""Name and password in a URL, also in one that was taken for a path and lost a slash."""


def without_login(text: str) -> str:
    """The text with name and password of each URL in it hidden."""
    return _LOGIN.sub(r"\1***", text)


def printable(text: str, keep: str = "\n\t") -> str:
    r"""The text with what a terminal would obey as escapes such as ``\x1b``; names and titles are strangers' text."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if c not in keep and (unicodedata.category(c) in _OBEYED or c in _TURNING)
        else c
        for c in text
    )


class UserError(ValueError):
    """A mistake that a user can mend: what is wrong, where, and what to do about it.

    Args:
        message: what is wrong, one sentence.
        file: the file it is about.
        line: 1-based line in that file.
        key: dotted path of a config key, such as ``train.lr``.
        remedy: what to do, one sentence.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.key, self.remedy = message, file, line, key, remedy
        place = ":".join(str(part) for part in (file, line) if part is not None)
        where = ", ".join(part for part in (place, key) if part)
        super().__init__(f"{where}: {message}" if where else message)


class ConfigError(UserError):
    """The experiment file or the command line asks for something that cannot be."""


class DataError(UserError):
    """A data folder cannot be used as it is."""

    exit_code = 3


class DivergedError(UserError):
    """Training produced numbers that are not finite, or the embedding space collapsed."""

    exit_code = 4


class ResourceError(UserError):
    """Memory or disk ran out."""

    exit_code = 5


class LockedError(UserError):
    """Another process works on the same thing."""

    exit_code = 75


def reason(error: Exception) -> str:
    """What an error says, in one line of printable text; a server may have worded it."""
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Printable text without line breaks, cut at 300 characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]
