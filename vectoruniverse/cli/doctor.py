"""The command doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import JsonOption, RunsOption, SetOption, print_json, print_table, tells_errors


@tells_errors
def doctor(
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Experiment file that is to be run; checks what it needs, too.")
    ] = None,
    overrides: SetOption = [],
    runs_dir: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Check this machine for what a run needs, and say what to do; leaves with 1 where something is to be fixed."""
    import dataclasses

    from vectoruniverse.unattended.diagnosis import diagnose

    found = diagnose(config, overrides, runs_dir)
    if as_json:
        print_json({"needs_fixing": found.needs_fixing, **dataclasses.asdict(found)})
    else:
        rows = [(name, check.status, check.found, check.remedy or "") for name, check in found.checks.items()]
        print_table("", ("check", "", "found", "what to do"), rows)
    if found.needs_fixing:
        raise typer.Exit(1)
