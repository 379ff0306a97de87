"""What can be wrong with rows without looking at a picture: why they were set aside, their titles and their labels."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from vectoruniverse.data.findings import Finding, Place
from vectoruniverse.data.normalise import listed, shortened, shown, spellings
from vectoruniverse.data.splits import Split
from vectoruniverse.evaluation.label_rules import MIN_POSITIVES
from vectoruniverse.tasks.image_text.metadata import Row, split_labels

_INVISIBLE = {"Zs", "Zl", "Zp", "Cf", "Cc"}
_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"  # fillers that belong to visible categories


def title_findings(rows: Sequence[Row], file: str) -> Iterator[Finding]:
    """Titles that are empty, invisible or damaged; where no row has a title, the texts instead."""
    have_titles = any(row.title for row in rows)
    for row in rows:
        place, what = Place(file, row.line, row.id), "title" if have_titles else "text"
        written = row.title if have_titles else row.text
        if not written:
            yield Finding("empty_title", f"the title is empty; the text is {shortened(row.text, 60)}", *place)
        elif fault := unprintable(written):
            yield Finding("unprintable_title", f"the {what} {fault}", *place)


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
            reason = f"the text has {count} tokens, the model reads {max_tokens}: {shortened(row.text, 60)}"
            yield Finding("too_long_text", reason, file, row.line, row.id)


def label_findings(rows: Sequence[Row], file: str, *, column: str | None, separator: str) -> Iterator[Finding]:
    """Rows without a label, or that none has any, labels of one row only, and labels spelt in several ways."""
    with_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in row.labels:
            with_label[label].append(row)
    if column and rows and not with_label:
        yield Finding("no_label", f"no row has a label: the column {column!r} is empty", file)
    for row in rows if with_label else ():
        if not row.labels:
            yield Finding("no_label", "the row has no label", file, row.line, row.id)
    for label, (first, *more) in with_label.items():
        if not more:
            yield Finding("rare_label", f"no other row has the label {label!r}", file, first.line, first.id)
    written = [(row, label) for row in rows if column for label in split_labels(row.columns[column], separator)]
    yield from _spelling_findings("similar_labels", "label", written, file)


def part_label_findings(rows: Sequence[Row], file: str, split: Split | None) -> Iterator[Finding]:
    """Labels that cannot be told of rows as they are divided; positions in ``split`` are those of ``rows``.

    As in training, a label that every row has counts for nothing, and two labels are needed to tell any.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for label in row.labels:
            places[label].append(i)
    telling = {label: {*found} for label, found in places.items() if len(found) < len(rows)}
    if places and not telling and len(rows) > 1:
        yield Finding("same_labels", f"all {len(rows):,} rows have {listed(sorted(places))}", file)
    if len(telling) < 2:
        return
    if common := sorted(places.keys() - telling.keys()):
        yield Finding("common_label", f"all {len(rows):,} rows have {listed(common)}, and others that differ", file)
    if split is None:
        return
    learned, validation = {*split.train.tolist(), *split.val.tolist()}, {*split.val.tolist()}
    known = {label: found for label, found in telling.items() if found & learned}
    for label in telling.keys() - known.keys():
        first, *more = (Place(file, rows[i].line, rows[i].id) for i in sorted(telling[label]))
        yield Finding("unseen_label", f"test rows alone have the label {label!r}", *first, (*more,))
    if few := sorted(label for label, found in known.items() if len(found & validation) < MIN_POSITIVES):
        reason = f"{len(few):,} of {len(known):,} labels have fewer than {MIN_POSITIVES} validation rows: {listed(few)}"
        yield Finding("unvalidated_labels", reason, file)


def group_findings(rows: Sequence[Row], file: str, column: str | None) -> Iterator[Finding]:
    """Groups of the split that are spelt in several ways."""
    if column is not None:
        yield from _spelling_findings("similar_groups", column, [(row, row.columns[column]) for row in rows], file)


def _spelling_findings(kind: str, what: str, written: Sequence[tuple[Row, str]], file: str) -> Iterator[Finding]:
    """Names that are ``alike`` and written differently; the rarest spelling first, since it is likely the slip."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row, name in written:
        rows[name].append(row)
    for names in spellings(rows):
        names.sort(key=lambda name: (len(rows[name]), name))
        first, *others = (Place(file, rows[name][0].line, rows[name][0].id) for name in names)
        counted = ", ".join(f"{shown(name)} ({len(rows[name])})" for name in names)
        yield Finding(kind, f"the same {what}, spelt in {len(names)} ways: {counted}", *first, (*others,))
