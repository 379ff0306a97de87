"""Command about runs in the formats of other libraries: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import (
    JsonOption,
    QuietOption,
    RunArgument,
    RunsOption,
    open_display,
    print_json,
    tells_errors,
)
from vectoruniverse.errors import UserError


@tells_errors
def export(
    run: RunArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="peft, transformers, sentence-transformers or onnx.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; RUN/export/FORMAT unless given. Nothing else is overwritten.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Also upload it to the Hugging Face hub; a new repository is private."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: list what would be uploaded, and upload nothing.")
    ] = False,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run for another library, checked: the same inputs through that library give the same vectors."""
    if dry_run and push is None:
        raise UserError("--dry-run goes with --push REPO")
    from vectoruniverse.export.packages import require_packages

    require_packages(to)  # before the seconds of loading that come with what follows
    from vectoruniverse.export.exporter import export_run
    from vectoruniverse.export.push import check_repository
    from vectoruniverse.export.push import push as upload
    from vectoruniverse.terminal import counted

    if push is not None:
        check_repository(push, upload=not dry_run)
    with open_display(quiet) as display:
        exported = export_run(run, to, runs_dir=runs_dir, out=out, repo=push)
        display.say(str(exported.agreement))
        url = upload(exported.folder, push) if push is not None and not dry_run else None
    if as_json:
        check = {"image": exported.agreement.image, "text": exported.agreement.text}
        record = {"folder": str(exported.folder), "format": to, "largest_difference": check}
        print_json({**record, "files": exported.files, "pushed": url})
        return
    size = sum(exported.files.values())
    typer.echo(f"{to} in {exported.folder}: {counted(len(exported.files), 'file')}, {size / 2**20:.1f} MiB")
    if push is not None and url is None:
        typer.echo(f"would be uploaded to {push}:")
        for name, count in exported.files.items():
            typer.echo(f"  {name}  {count:,} bytes")
    elif url is not None:
        typer.echo(f"uploaded to {url}")
