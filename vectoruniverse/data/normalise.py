"""When two texts are the same text: one normal form for titles, labels, groups and names.

Canonical forms (NFC) and not compatibility forms (NFKC): canonically equivalent strings are the same characters
written otherwise, such as a Korean syllable and its parts; compatibility forms also make 1 of ①, 2 of ² and Latin
letters of mathematical ones, which are other titles.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence


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
