"""The report on a data folder, and its forms for people and machines; JSON holds names and titles exactly."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass

from vectoruniverse.data.findings import KINDS, Finding, inert, spreadsheet_cell
from vectoruniverse.data.splits import Split
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
        stats: labels and lengths of the usable rows, and of each part of the configured split.
    """

    root: str
    metadata: str
    findings: tuple[Finding, ...]
    rows_usable: int
    rows_unusable: int
    stats: DataStats

    @property
    def bad_share(self) -> float:
        """Share of the rows that cannot be used; 1 where the table cannot be read at all."""
        total = self.rows_usable + self.rows_unusable
        return self.rows_unusable / total if total else 1.0

    @property
    def part_rows(self) -> dict[str, int]:
        """Number of rows of each part of the split, 0 where there are none."""
        parts = self.stats.parts
        return {name: parts[name].rows if name in parts else 0 for name in Split._fields}

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
        **{f"{part}_rows": count for part, count in report.part_rows.items()},
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
