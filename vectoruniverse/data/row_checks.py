"""What can be wrong with rows without looking at a picture: why they were set aside, their titles and their labels."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vectoruniverse.data.findings import Finding, Place, finding
from vectoruniverse.data.metadata import BadRow, Row
from vectoruniverse.errors import DataError

# Kinds by how the reason is worded where the fault is found (table.py, locate.py, metadata.py); tests hold each.
_TABLE_FAULTS = {
    r"is not UTF-8": "not_utf8",
    r"a quote in this row": "broken_quote",
    r"cannot be used": "no_usable_row",
}
_ROW_FAULTS = {
    r"\d+ cells where the header": "wrong_cell_count",
    r"the same (id|picture and text) as in line": "duplicate_id",
    r"the text is empty": "empty_text",
    r".* is empty": "empty_id",
    r"the id is ambiguous": "ambiguous_id",
    r".* leads outside": "outside_root",
    r"no picture named|.* is not a file": "missing_picture",
}
_UNSAFE_ID = re.compile(r".*[/\\].*|\.\.?", re.DOTALL)
_INVISIBLE = {"Zs", "Zl", "Zp", "Cf", "Cc"}
_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"  # fillers that belong to visible categories


def table_finding(error: DataError, file: str) -> Finding:
    """Why the whole metadata file cannot be used."""
    kind = _first_match(_TABLE_FAULTS, error.message, search=True) or "unreadable_table"
    elsewhere = "" if error.file is None or Path(error.file).name == Path(file).name else f"{error.file}: "
    return finding(kind, Place(file, error.line), elsewhere + error.message)


def bad_row_finding(row: BadRow, file: str) -> Finding:
    """Why a row was set aside."""
    kind = _first_match(_ROW_FAULTS, row.reason) or "unusable_row"
    if row.reason.startswith("no picture named") and _UNSAFE_ID.fullmatch(row.id):
        kind = "unsafe_id"
    others: tuple[Place, ...] = ()
    if kind == "duplicate_id":
        first = int(row.reason.rpartition(" ")[2])
        others = (Place(file, first, row.id),)
    return finding(kind, Place(file, row.line, row.id or None), row.reason, others)


def title_findings(rows: Sequence[Row], file: str) -> Iterator[Finding]:
    """Titles that are empty, invisible or damaged; where no row has a title, the texts instead."""
    have_titles = any(row.title for row in rows)
    for row in rows:
        place, what = Place(file, row.line, row.id), "title" if have_titles else "text"
        written = row.title if have_titles else row.text
        if not written:
            yield finding("empty_title", place, f"the title is empty; the text is {_quoted(row.text)}")
        elif fault := unprintable(written):
            yield finding("unprintable_title", place, f"the {what} {fault}")


def unprintable(text: str) -> str | None:
    """Why a text cannot be read by a person, or None. Every script, emoji and combining mark is readable.

    Unassigned code points pass too: they may be emoji younger than this Python. So do tabs and line ends, which a
    tokenizer takes for spaces.
    """
    if all(char in _BLANK or _is_variation(char) or unicodedata.category(char) in _INVISIBLE for char in text):
        return f"has no visible character ({text[:12]!a})"
    for position, char in enumerate(text, 1):
        if what := _damage(char):
            return f"holds U+{ord(char):04X}, {what}, as its character {position}"
    return None


def _damage(char: str) -> str | None:
    code, category = ord(char), unicodedata.category(char)
    if char == "\ufffd":
        return "which replaces what an earlier program could not decode"
    if category == "Cc" and char not in "\t\n\r":
        return "a control character"
    if category == "Cs":
        return "half of a surrogate pair"
    if category == "Co":
        return "a private-use character"
    return "no character" if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF else None


def _is_variation(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def length_findings(
    rows: Sequence[Row], file: str, token_counts: Sequence[int] | None, max_tokens: int | None
) -> Iterator[Finding]:
    """Texts that the model does not read to their end; counts and limit include the model's marks."""
    for row, count in zip(rows, token_counts or (), strict=token_counts is not None):
        if max_tokens is not None and count > max_tokens:
            reason = f"the text has {count} tokens, the model reads {max_tokens}: {_quoted(row.text)}"
            yield finding("too_long_text", Place(file, row.line, row.id), reason)


def label_findings(rows: Sequence[Row], file: str) -> Iterator[Finding]:
    """Rows without a label (where some have one), labels of one row only, and labels spelt in several ways."""
    with_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in row.labels:
            with_label[label].append(row)
    for row in rows if with_label else ():
        if not row.labels:
            yield finding("no_label", Place(file, row.line, row.id), "the row has no label")
    for label, (first, *more) in with_label.items():
        if not more:
            yield finding("rare_label", Place(file, first.line, first.id), f"no other row has the label {label!r}")
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in with_label:
        spellings[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    for alike in spellings.values():
        if len(alike) > 1:
            yield _similar_labels(sorted(alike, key=lambda label: (len(with_label[label]), label)), with_label, file)


def _similar_labels(labels: list[str], with_label: Mapping[str, list[Row]], file: str) -> Finding:
    places = [Place(file, with_label[label][0].line, with_label[label][0].id) for label in labels]
    counted = ", ".join(f"{label!r} ({len(with_label[label])})" for label in labels)
    return finding(
        "similar_labels", places[0], f"the same label, spelt in {len(labels)} ways: {counted}", (*places[1:],)
    )


def _first_match(kinds: Mapping[str, str], reason: str, *, search: bool = False) -> str | None:
    match = re.search if search else re.match
    return next((kind for pattern, kind in kinds.items() if match(pattern, reason)), None)


def _quoted(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
