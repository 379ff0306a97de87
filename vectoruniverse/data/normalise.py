"""When two texts are the same text: one normal form for titles, labels, groups and names.

Canonical forms (NFC) and not compatibility forms (NFKC): canonically equivalent strings are the same characters
written otherwise, such as a Korean syllable and its parts; compatibility forms also make 1 of ①, 2 of ² and Latin
letters of mathematical ones, which are other titles.
"""

from __future__ import annotations

import unicodedata


def canonical(text: str) -> str:
    """The text in NFC, without surrounding space, and with one space for every other run of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def caseless(text: str) -> str:
    """What is equal for texts that differ only in case, white space or Unicode form (canonical caseless matching)."""
    # Unicode 3.13, D145: folding sees decomposed letters, and may leave marks that need composing anew.
    return canonical(unicodedata.normalize("NFD", text).casefold())
