"""Commands about what was found: report, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import (
    JsonOption,
    QuietOption,
    RunsOption,
    open_display,
    page_file,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import UserError, printable


@tells_errors
def report(
    subject: Annotated[str, typer.Argument(metavar="RUN|SWEEP", help="A run, or the folder or name of a sweep.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page of a sweep; figures and tables go into a folder of its name."),
    ] = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
) -> None:
    """Write the page of a run or a sweep again: one self-contained HTML file, with figures and tables beside it."""
    sweeps = [folder for folder in (Path(subject), runs_dir / subject) if (folder / "sweep.json").is_file()]
    if sweeps:
        from vectoruniverse.report.sweep.page import write_sweep_page
        from vectoruniverse.report.sweep.record import read_sweep

        page = write_sweep_page(read_sweep(sweeps[0] / "sweep.json"), sweeps[0], page=page_file(out))
    elif out is not None:
        raise UserError(f"no sweep is at {subject}; --out goes with a sweep, and a run's page stands in its folder")
    else:
        from vectoruniverse.tasks.finished import report_run

        display = open_display(quiet)
        try:
            page = report_run(subject, runs_dir=runs_dir, display=display)
        finally:
            display.close()
    typer.echo(f"report in {page}")


@tells_errors
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Runs; others are held against the first.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page; figures and tables go into a folder of its name."),
    ] = None,
    runs_dir: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side: settings that differ, metrics with intervals, paired differences from the first."""
    from vectoruniverse.evaluation.runs import compare_runs
    from vectoruniverse.report import comparison as compare_page

    record = compare_runs(runs, runs_dir=runs_dir)
    if (page := page_file(out)) is not None:
        compare_page.write_compare_page(record, page)
    if as_json:
        print_json(record)
        return
    for title, table in (
        ("runs", compare_page.run_table(record)),
        ("settings that differ", compare_page.config_table(record)),
        (f"{compare_page.rows_are(record)} rows [95 %]", compare_page.metric_table(record)),
        ("paired differences", compare_page.difference_table(record)),
    ):
        if table.rows:
            print_table(title, table.columns, table.rows)
    for line in compare_page.since_lines(record):
        typer.echo(printable(line))
    said = compare_page.answer(record)
    typer.echo(f"{said.headline}. {said.detail}")
    if page is not None:
        typer.echo(f"page in {page}")
