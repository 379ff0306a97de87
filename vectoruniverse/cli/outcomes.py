"""What commands print of a model beside its base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vectoruniverse.cli.shell import print_table

if TYPE_CHECKING:
    from vectoruniverse.evaluation.comparison import Comparison
    from vectoruniverse.runs.folder import Run
    from vectoruniverse.runs.records import RivalsRecord


def print_comparison(title: str, comparison: Comparison) -> None:
    """Metrics of both, rivals, and how well labels are predicted."""
    from vectoruniverse.report.run import compared

    table = compared(comparison)
    print_table(title, table.columns, table.rows)
    print_rivals(comparison.rivals)
    if comparison.labels is not None:
        from vectoruniverse.report.labels import labels_line

        typer.echo(labels_line(comparison.labels))


def print_rivals(rivals: RivalsRecord | None) -> None:
    """What costs no training, beside the rest; nothing where there is none."""
    from vectoruniverse.report.tables import rivals_table

    if rivals is not None:
        table = rivals_table(rivals)
        print_table("rivals that cost no training", table.columns, table.rows)
        if table.note:
            typer.echo(table.note)


def print_verdict(run: Run, comparison: Comparison) -> None:
    """What the page says first, in words; nothing where the run does not tell what it was after."""
    from vectoruniverse.report.run_verdict import verdict_of

    record = run.read_evaluation()
    if record is not None and record.monitor in comparison.adapted.metrics:
        for line in verdict_of(run, comparison, monitor=record.monitor, has_space=record.has_space).lines():
            typer.echo(line)
