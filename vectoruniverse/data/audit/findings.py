"""What a check of a data folder found: the kinds of fault, the report, and its forms for people and machines.

JSON holds names and titles exactly. Spreadsheet and table cells are inert: control characters and those that turn the
direction of writing are escaped, and a spreadsheet takes no cell for a formula.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from vectoruniverse.data.audit.stats import DataStats

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
        "Remove one, or name a column in data.split.group_by that holds them together.",
    ),
    "same_picture": Kind("warning", "Identical picture files, different titles.", "Keep the row with the true title."),
    "repeated_pair": Kind("warning", "Identical picture files with the same title.", "Remove all rows but one."),
    "near_picture": Kind("warning", "Nearly the same picture: resized, recompressed, retouched.", "Keep one of them."),
    "same_title": Kind("warning", "The same title on different pictures.", "Write what tells them apart."),
    "empty_title": Kind("warning", "A title is empty; the text has other parts only.", "Write a title."),
    "unprintable_title": Kind("warning", "A title is invisible or holds damaged characters.", "Write it anew."),
    "too_long_text": Kind("warning", "A text exceeds the model's token limit; its end is cut off.", "Shorten it."),
    "no_label": Kind("warning", "A row has no label where others have some.", "Fill in its labels."),
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
    "wrong_suffix": Kind("note", "A picture's format is not what its file name says.", "Rename it."),
    "tiny_picture": Kind("note", "A picture is smaller than the square that the model sees.", "Find a larger one."),
    "flat_picture": Kind("note", "All that the model sees of a picture is one colour.", "Look at it; remove the row."),
}
"""Every kind, in the order of a report."""


class Place(NamedTuple):
    """A row of the metadata file, or a file: its path below the data folder, and line and id where it is a row."""

    file: str
    line: int | None = None
    row_id: str | None = None

    def __str__(self) -> str:
        named = f" ({self.row_id})" if self.row_id else ""
        return f"{self.file}{'' if self.line is None else f':{self.line}'}{named}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: key of ``KINDS``.
        severity: that of the kind.
        file: the metadata file, or the picture that no row names; relative to the data folder.
        line: line where the row begins, 1-based; None where the fault is no row's.
        row_id: the row's id, as far as known.
        reason: one sentence with the facts.
        others: the other rows or files concerned.
    """

    kind: str
    severity: Severity
    file: str
    line: int | None
    row_id: str | None
    reason: str
    others: tuple[Place, ...] = ()

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.file, self.line, self.row_id)


def finding(kind: str, place: Place, reason: str, others: tuple[Place, ...] = ()) -> Finding:
    """A finding with its kind's severity."""
    return Finding(kind, KINDS[kind].severity, *place, reason, others)


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a check found.

    Attributes:
        root: the data folder as given.
        metadata: the metadata file, relative to it.
        findings: in the order of ``KINDS``, then of lines.
        rows_usable: rows with a text and a decoded picture.
        rows_unusable: rows set aside.
        train_rows: rows on the training side of the configured split.
        val_rows: rows on the validation side.
        stats: labels and lengths of the usable rows.
    """

    root: str
    metadata: str
    findings: tuple[Finding, ...]
    rows_usable: int
    rows_unusable: int
    train_rows: int
    val_rows: int
    stats: DataStats

    @property
    def bad_share(self) -> float:
        """Share of the rows that cannot be used; 1 where the table cannot be read at all."""
        total = self.rows_usable + self.rows_unusable
        return self.rows_unusable / total if total else 1.0

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind that occurs, in the order of ``KINDS``."""
        seen = Counter(found.kind for found in self.findings)
        return {kind: seen[kind] for kind in KINDS if kind in seen}


def summary_rows(report: DataReport) -> list[tuple[str, str, str, str]]:
    """Kind, count, severity and first example, as inert text for a table."""
    first = {found.kind: found for found in reversed(report.findings)}
    return [
        (kind, f"{count:,}", KINDS[kind].severity, inert(f"{first[kind].place}: {first[kind].reason}"))
        for kind, count in report.counts.items()
    ]


def report_json(report: DataReport) -> str:
    """The whole report for machines, in ASCII; names and titles exactly as they are."""
    record = {
        "root": report.root,
        "metadata": report.metadata,
        "rows_usable": report.rows_usable,
        "rows_unusable": report.rows_unusable,
        "bad_share": report.bad_share,
        "train_rows": report.train_rows,
        "val_rows": report.val_rows,
        "counts": report.counts,
        "stats": report.stats.summary(),
        "findings": [
            {**asdict(found), "others": [place._asdict() for place in found.others]} for found in report.findings
        ],
    }
    return json.dumps(record, indent=2) + "\n"


def report_csv(report: DataReport) -> str:
    """The findings as a comma-separated table whose cells a spreadsheet takes for text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("kind", "severity", "file", "line", "id", "reason", "others", "remedy"))
    for found in report.findings:
        line = "" if found.line is None else str(found.line)
        others, remedy = "; ".join(map(str, found.others)), KINDS[found.kind].remedy
        cells = (found.kind, found.severity, found.file, line, found.row_id or "", found.reason, others, remedy)
        writer.writerow(map(spreadsheet_cell, cells))
    return out.getvalue()


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
