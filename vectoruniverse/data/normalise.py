"""When two texts are the same text: one normal form for titles, labels, groups and names; how messages write them.

Canonical forms (NFC) and not compatibility forms (NFKC): canonically equivalent strings are the same characters
written otherwise, such as a Korean syllable and its parts; compatibility forms also make 1 of ①, 2 of ² and Latin
letters of mathematical ones, which are other titles.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

_MOST_NAMES = 20  # names that a message lists


def canonical(text: str) -> str:
    """The text in NFC, without surrounding space, and with one space for every other run of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def caseless(text: str) -> str:
    """What is equal for texts that differ only in case, white space or Unicode form (canonical caseless matching)."""
    # Unicode 3.13, D145: folding sees decomposed letters, and may leave marks that need composing anew.
    return canonical(unicodedata.normalize("NFD", text).casefold())


def alike(text: str) -> str:
    """What is equal for names that a reader takes for one: ``caseless``, and full-width letters are plain ones."""
    return caseless(unicodedata.normalize("NFKC", text))


def spellings(names: Iterable[str]) -> list[list[str]]:
    """Different spellings of one name: lists of two or more that are ``alike``, each in order."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found[alike(name)].add(name)
    return [sorted(written) for same, written in found.items() if same and len(written) > 1]


def shown(name: str) -> str:
    """The name in quotes; where two that look the same may stand side by side, this tells them apart."""
    return repr(name) if unicodedata.is_normalized("NFC", name) else f"{name!r} (decomposed letters)"


def one_spelling(names: Sequence[str]) -> list[str]:
    """Each name in canonical form, and those that are ``alike`` in one spelling: the first by code points."""
    plain = {name: canonical(name) for name in set(names)}
    chosen: dict[str, str] = {}
    for name in sorted(plain.values()):
        chosen.setdefault(alike(name), name)
    return [chosen[alike(plain[name])] for name in names]


def closest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like this one; nothing where none is."""
    folded = {caseless(other)[:80]: other for other in known}
    match = difflib.get_close_matches(caseless(name)[:80], folded, n=1)
    return f" (did you mean {shortened(folded[match[0]])}?)" if match else ""


def listed(names: Sequence[str]) -> str:
    """The names, for a message on one line."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shortened(name) or "''" for name in names[:_MOST_NAMES]) + more


def shortened(text: str, limit: int = 40) -> str:
    """The beginning of a text as Python would write it, for a message on one line; nothing of an empty one."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…") if text else ""
