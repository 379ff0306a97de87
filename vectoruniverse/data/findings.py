"""What is wrong with data: the kinds of fault, and a fault with its facts, from where it arises to whoever tells of it.

Spreadsheet and table cells are inert: control characters and those that turn the direction of writing are escaped, and
a spreadsheet takes no cell for a formula.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from vectoruniverse.errors import DataError

RowT = TypeVar("RowT")

Severity = Literal["error", "warning", "note"]
"""``error``: the row or file cannot be used. ``warning``: it is used, and may mislead. ``note``: worth knowing."""


class Kind(NamedTuple):
    """A kind of fault: how grave, what it means and what to do about it."""

    severity: Severity
    meaning: str
    remedy: str


KINDS: Mapping[str, Kind] = {
    "not_utf8": Kind("error", "The metadata file is not in its encoding.", "Set data.encoding, or save it as UTF-8."),
    "broken_quote": Kind("error", "A quote is misplaced or never closed.", 'Close it; write "" for a quote in a cell.'),
    "unreadable_table": Kind("error", "The metadata file cannot be used as a table.", "Mend it as the reason says."),
    "no_usable_row": Kind("error", "Not one row can be used.", "Mend the rows that the reason names, and check again."),
    "wrong_cell_count": Kind(
        "error", "A row has more or fewer cells than the header.", "Quote cells that hold the separator."
    ),
    "empty_id": Kind("error", "A row names no picture.", "Fill in the id or the path, or remove the row."),
    "unsafe_id": Kind("error", "An id holds a path separator or is `..`.", "Use the bare name of the picture file."),
    "duplicate_id": Kind("error", "An id occurs twice; the first row counts.", "Rename or remove one of the rows."),
    "missing_picture": Kind("error", "There is no picture file for a row.", "Add the file or remove the row."),
    "ambiguous_id": Kind(
        "error", "Several files could belong to an id.", "Keep one, or put it below images/<Channel>."
    ),
    "outside_root": Kind("error", "A path or link leads outside the data folder.", "Copy the file into the folder."),
    "broken_shard": Kind("error", "A file of many samples is damaged, cut off or missing.", "Fetch it again."),
    "empty_text": Kind("error", "The text of a row is empty.", "Write a title or remove the row."),
    "empty_file": Kind("error", "A picture file has no bytes.", "Fetch it again."),
    "not_a_picture": Kind(
        "error", "A file is no picture of a known format.", "Convert it to JPEG or PNG, or remove it."
    ),
    "broken_picture": Kind("error", "A picture cannot be decoded to its end.", "Fetch it again."),
    "too_many_pixels": Kind("error", "A picture has more pixels than allowed.", "Make it smaller or raise max_pixels."),
    "extreme_shape": Kind("error", "A picture is a thin strip.", "Cut it to a usual shape."),
    "unusable_row": Kind("error", "A row cannot be used for another reason.", "Mend it as the reason says."),
    "no_split": Kind(
        "error", "The rows cannot be divided into training and validation.", "Add rows or change data.split.group_by."
    ),
    "leak": Kind(
        "warning",
        "The same or nearly the same picture is in training and in validation.",
        "Remove one, or hold them together by data.split.group_by, or by what data.split.column says.",
    ),
    "same_picture": Kind("warning", "Identical picture files, different titles.", "Keep the row with the true title."),
    "repeated_pair": Kind("warning", "Identical picture files with the same title.", "Remove all rows but one."),
    "near_picture": Kind("warning", "Nearly the same picture: resized, recompressed, retouched.", "Keep one of them."),
    "same_title": Kind("warning", "The same title on different pictures.", "Write what tells them apart."),
    "empty_title": Kind("warning", "A title is empty; the text has other parts only.", "Write a title."),
    "unprintable_title": Kind("warning", "A title is invisible or holds damaged characters.", "Write it anew."),
    "too_long_text": Kind("warning", "A text exceeds the model's token limit; its end is cut off.", "Shorten it."),
    "no_label": Kind("warning", "A row has no label, or none has any.", "Fill in its labels."),
    "same_labels": Kind(
        "warning",
        "All rows have the same labels, which tell none from another: nothing is evaluated or predicted by them.",
        "Fill in labels that differ, or name another column.",
    ),
    "common_label": Kind(
        "note",
        "Every row has a label: it tells none from another, so nothing is evaluated or predicted by it.",
        "Nothing, where other labels tell rows apart.",
    ),
    "unseen_label": Kind(
        "warning",
        "Test rows alone have a label: it is unknown when they are evaluated, and in no mean over labels.",
        "Add rows with it, or divide otherwise (data.split.seed).",
    ),
    "similar_labels": Kind("warning", "Labels differ by case, space, width or Unicode form only.", "Spell them alike."),
    "similar_groups": Kind(
        "warning",
        "Groups differ by case, space, width or Unicode form only; the split keeps them together.",
        "Spell them alike, or rename one where they are not the same.",
    ),
    "swallowed_rows": Kind(
        "warning", "A quoted cell holds lines that read like rows.", "Close the quote where the cell should end."
    ),
    "orphan_picture": Kind("warning", "No row names a picture file.", "Add a row or remove the file."),
    "rare_label": Kind("note", "One row alone has a label.", "Merge it with another label, or add rows."),
    "unvalidated_labels": Kind(
        "note",
        "Labels that fewer than two validation rows have are predicted from the threshold of all labels together.",
        "Add rows, merge labels, or raise data.split.val_fraction.",
    ),
    "wrong_suffix": Kind("note", "A picture's format is not what its file name says.", "Rename it."),
    "tiny_picture": Kind("note", "A picture is smaller than the square that the model sees.", "Find a larger one."),
    "flat_picture": Kind("note", "All that the model sees of a picture is one colour.", "Look at it; remove the row."),
}
"""Every kind, in the order of a report."""


class Place(NamedTuple):
    """A row of a table, or a file: its path below the data folder, and line and id where it is a row."""

    file: str
    line: int | None = None
    row_id: str | None = None

    def __str__(self) -> str:
        named = f" ({self.row_id})" if self.row_id else ""
        return f"{self.file}{'' if self.line is None else f':{self.line}'}{named}"


Parts = Sequence[tuple[str, int]]
"""Files whose rows follow each other: name, and number of rows before it, ascending."""


def located(parts: Parts, place: Place) -> Place:
    """The place in the file of its row, and numbered there; the same where rows lie in one file."""
    if not parts or place.line is None:
        return place
    name, before = parts[bisect.bisect_left(parts, place.line, key=lambda part: part[1]) - 1]
    return place._replace(file=name, line=place.line - before)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: key of ``KINDS``.
        reason: one sentence with the facts.
        file: the table, or the picture that no row names; of a picture folder, relative to it.
        line: line where the row begins, 1-based; None where the fault is no row's.
        row_id: the row's id, as far as known.
        others: the other rows or files concerned.
        cells: what the row holds, where its cells are not those of the header.
    """

    kind: str
    reason: str
    file: str
    line: int | None = None
    row_id: str | None = None
    others: tuple[Place, ...] = ()
    cells: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """That of the kind."""
        return KINDS[self.kind].severity

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.file, self.line, self.row_id)

    def located(self, parts: Parts) -> Finding:
        """The same with its places in the files of their rows."""
        place, others = located(parts, self.place), tuple(located(parts, other) for other in self.others)
        return replace(self, file=place.file, line=place.line, others=others)


class FaultError(DataError):
    """A row, a picture or a whole file cannot be used.

    Attributes:
        kind: key of ``KINDS``; ``no_file`` where there is no table.
        other_line: line of the row that this one clashes with, where it does with one.
        rows: number of rows that are lost with a file, where known.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "unusable_row",
        file: Path | str | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
        other_line: int | None = None,
        rows: int = 0,
    ) -> None:
        super().__init__(message, file=file, line=line, key=key, remedy=remedy)
        self.kind, self.other_line, self.rows = kind, other_line, rows


@dataclass(frozen=True)  # without slots, so that a subscripted alias can be called
class Rows(Generic[RowT]):
    """What was read of a file or folder: rows that can be used, in its order, those set aside, and those in doubt.

    Attributes:
        file: it.
        rows: usable rows.
        bad: rows set aside.
        doubts: rows that are used and may hold others.
        parts: files that the rows lie in, where ``file`` is a folder of them: name, and number of rows before it.
    """

    file: Path
    rows: list[RowT]
    bad: list[Finding]
    doubts: tuple[Finding, ...] = ()
    parts: Parts = ()

    def refuse_bad(self, max_share: float) -> None:
        """Stop when a larger share of the rows cannot be used.

        Raises:
            FaultError: names the first three of them.
        """
        bad, total = self.bad, len(self.rows) + len(self.bad)
        if not bad or len(bad) <= max_share * total:
            return
        where = [
            located(self.parts, row.place) if self.parts else f"line {row.line} ({row.row_id or 'no id'})"
            for row in bad[:3]
        ]
        first = "; ".join(f"{place}: {row.reason}" for place, row in zip(where, bad, strict=False))
        raise FaultError(
            f"{len(bad)} of {total} rows ({len(bad) / total:.1%}) cannot be used, "
            f"more than {max_share:.1%}. First: {first}",
            kind="no_usable_row",
            rows=len(bad),
            file=self.file,
            remedy="Mend or remove these rows, or raise data.max_bad_share.",
        )


def inert(text: str) -> str:
    """The text with control characters, line ends, lone surrogates and direction controls escaped."""
    return "".join(_escaped(char) if _is_active(char) else char for char in text)


def spreadsheet_cell(text: str) -> str:
    """The text as a cell of a CSV file that no spreadsheet takes for a formula."""
    text = inert(text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _is_active(char: str) -> bool:
    turns = "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
    return turns or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
