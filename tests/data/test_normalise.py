from __future__ import annotations

import unicodedata

import pytest

from vectoruniverse.data.normalise import canonical, caseless


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Red  circle", " red\tCIRCLE\u00a0"),
        ("질문", unicodedata.normalize("NFD", "질문")),
        ("Café", "CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("ᾳ\u0301", "\u1fb4"),  # a mark that is composed only before, or only after, folding
        ("İstanbul", "i\u0307STANBUL"),
    ],
)
def test_texts_that_differ_in_case_space_or_form_are_the_same(one, other):
    assert caseless(one) == caseless(other)
    assert caseless(caseless(one)) == caseless(one)


@pytest.mark.parametrize(("one", "other"), [("m²", "m2"), ("①", "1"), ("red circle", "redcircle"), ("a", "á")])
def test_texts_that_read_otherwise_are_not_the_same(one, other):
    assert caseless(one) != caseless(other)


def test_the_canonical_form_keeps_case():
    assert canonical("  Cafe\u0301\u3000 Noir\n") == "Café Noir"
    assert canonical("A") != canonical("a")
