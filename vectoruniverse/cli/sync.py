"""``vu sync``: what is only offline goes to Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import RunsOption, tells_errors


@tells_errors
def sync(
    run: Annotated[
        str, typer.Argument(help="Run: name, unique prefix, path, experiment name or `latest`; or a sweep's folder.")
    ],
    runs_dir: RunsOption = Path("runs"),
) -> None:
    """Upload a run that Weights & Biases has only offline, or a sweep with all its cells."""
    if sweeps := [folder for folder in (Path(run), runs_dir / run) if (folder / "sweep.json").is_file()]:
        from vectoruniverse.sweep.published import sync_sweep

        for name, address in sync_sweep(sweeps[0]):
            typer.echo(f"{name}: {_synced(address)}")
        return
    from vectoruniverse.runs.listing import find_run
    from vectoruniverse.tracking.wandb_sync import sync as upload

    found = find_run(runs_dir, run)
    with found.lock():  # a file that is still being written must not be marked as uploaded
        address = upload(found.path)
    typer.echo(_synced(address))


def _synced(address: str | None) -> str:
    return "already uploaded" if address is None else f"uploaded: {address}" if address else "uploaded"
