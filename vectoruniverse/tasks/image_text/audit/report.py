"""The report on a data folder, and its forms for people and machines; JSON holds names and titles exactly."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass

from vectoruniverse.data.findings import KINDS, Finding, inert, spreadsheet_cell
from vectoruniverse.tasks.image_text.audit.stats import DataStats


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a check found.

    Attributes:
        root: the data folder as given.
        metadata: the metadata file, relative to it.
        findings: in the order of ``KINDS``, then of lines.
        rows_usable: rows with a text and a decoded picture.
        rows_unusable: rows set aside.
        train_rows: training rows of the configured split.
        val_rows: its validation rows.
        test_rows: its test rows.
        stats: labels and lengths of the usable rows.
    """

    root: str
    metadata: str
    findings: tuple[Finding, ...]
    rows_usable: int
    rows_unusable: int
    train_rows: int
    val_rows: int
    test_rows: int
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
        "test_rows": report.test_rows,
        "counts": report.counts,
        "stats": report.stats.summary(),
        "findings": [
            {
                "kind": found.kind,
                "severity": found.severity,
                **found.place._asdict(),
                "reason": found.reason,
                "others": [place._asdict() for place in found.others],
            }
            for found in report.findings
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
