"""Command report: the page of a run or of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import QuietOption, RunsOption, open_display, tells_errors


@tells_errors
def report(
    subject: Annotated[str, typer.Argument(metavar="RUN|SWEEP", help="A run, or the folder or name of a sweep.")],
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
) -> None:
    """Write the page of a run or a sweep again: one self-contained report.html, with its figures beside it."""
    from vectoruniverse.sweep.folder import SweepFolder
    from vectoruniverse.sweep_page import write_sweep_page

    for folder in (Path(subject), runs_dir / subject):
        if (folder / "sweep.json").is_file():
            page = write_sweep_page(json.loads(SweepFolder(folder, folder.name).record_file.read_text("utf-8")), folder)
            break
    else:
        from vectoruniverse.experiment import report_run

        display = open_display(quiet)
        try:
            page = report_run(subject, runs_dir=runs_dir, display=display)
        finally:
            display.close()
    typer.echo(f"report in {page}")
