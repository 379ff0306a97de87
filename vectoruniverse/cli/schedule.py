"""Commands that have cron or systemd run an experiment: add, list, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vectoruniverse.cli.shell import (
    ConfigOption,
    JsonOption,
    RunsOption,
    SetOption,
    print_json,
    print_table,
    tells_errors,
)

app = typer.Typer(no_args_is_help=True, help="Runs by cron or systemd.", rich_markup_mode="rich")

NameArgument = Annotated[str, typer.Argument(help="Name of a schedule, as in vu schedule list.")]


@app.command("add", epilog='Example: vu schedule add --config clip_lora_r8.yaml --at "0 3 * * *"')
@tells_errors
def schedule_add(
    config: ConfigOption,
    at: Annotated[
        str, typer.Option(metavar="CRON", help="When, in cron's five fields: minute, hour, day, month, weekday.")
    ],
    command: Annotated[Literal["train", "sweep-rank", "eval"], typer.Option(help="What to do with it.")] = "train",
    overrides: SetOption = [],
    name: Annotated[
        str | None, typer.Option(help="Name of the schedule; the experiment's where none is given.")
    ] = None,
    ping: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Tell URL/start, then URL, or URL/CODE after a failure (healthchecks.io)."),
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Write a timer of your own systemd in place of a crontab line.")
    ] = False,
    print_only: Annotated[bool, typer.Option("--print", help="Show what would be written, and write nothing.")] = False,
    runs_dir: RunsOption = Path("runs"),
) -> None:
    """Have cron or systemd run an experiment; a schedule of the same name is replaced."""
    from vectoruniverse.unattended import scheduling
    from vectoruniverse.unattended.schedule import Place, make_schedule

    made = make_schedule(config, overrides, at=at, command=command, name=name, runs_dir=runs_dir, ping=ping)
    place = Place.default()
    if print_only:
        for file, content in scheduling.written(made, place, by_systemd=systemd).items():
            typer.echo(f"# {file}\n{content}")
        return
    for line in scheduling.add(made, place, by_systemd=systemd):
        typer.echo(line)


@app.command("list")
@tells_errors
def schedule_list(as_json: JsonOption = False) -> None:
    """List schedules with their next time and what starts them."""
    from vectoruniverse.unattended import scheduling
    from vectoruniverse.unattended.schedule import Place

    found = scheduling.entries(Place.default())
    if as_json:
        import dataclasses

        print_json([dataclasses.asdict(entry) for entry in found])
        return
    if not found:
        typer.echo('no schedules; make one with: vu schedule add --config quickstart.yaml --at "0 3 * * *"')
        return
    columns = ("schedule", "when", "next", "by", "command", "log")
    rows = [
        (one.name, one.when, one.following[:16].replace("T", " "), one.by or "nothing", one.command, one.log)
        for one in found
    ]
    print_table("", columns, rows)


@app.command("remove", epilog="Example: vu schedule remove clip_lora_r8")
@tells_errors
def schedule_remove(name: NameArgument) -> None:
    """Take a schedule out of crontab and systemd; its log and the file for keys stay."""
    from vectoruniverse.unattended import scheduling
    from vectoruniverse.unattended.schedule import Place

    for line in scheduling.remove(name, Place.default()):
        typer.echo(line)


@app.command("run")
@tells_errors
def schedule_run(
    record: Annotated[Path, typer.Argument(help="Record of a schedule, as crontab and timer name it.")],
) -> None:
    """Run a schedule now, as cron would; its output goes to its log."""
    from vectoruniverse.unattended.job import run_job
    from vectoruniverse.unattended.schedule import Place

    code = run_job(record)
    if code != 0:
        typer.echo(f"vu: {record.stem} left with {code}; see {Place(record.parent).log(record.stem)}", err=True)
        raise typer.Exit(code)
