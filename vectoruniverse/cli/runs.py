"""``vu runs``: list, show, tag and prune the runs there are."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated

import typer

from vectoruniverse.cli.shell import (
    JsonOption,
    RunArgument,
    RunsOption,
    complain,
    print_json,
    print_table,
    seconds_of,
    tells_errors,
)
from vectoruniverse.errors import UserError, printable
from vectoruniverse.runs.states import ShownState

StateOption = Annotated[ShownState | None, typer.Option(help="Only runs in this state.")]

app = typer.Typer(help="Runs that there are.", rich_markup_mode="rich")


@app.callback(invoke_without_command=True, epilog="Example: vu runs --state finished --since 7d")
@tells_errors
def runs(
    context: typer.Context,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this experiment.")] = None,
    state: StateOption = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs begun since then: 7d, 12h, or a date in UTC.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs begun by then; a date counts to its end.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs that have this tag.")] = None,
    runs_dir: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List runs with their state and best metric; or show, tag and prune them."""
    if context.invoked_subcommand is not None:
        given = [context.get_parameter_source(name) for name in context.params]
        if any(str(getattr(source, "name", "")) == "COMMANDLINE" for source in given):
            command = f"vu runs {context.invoked_subcommand}"
            raise UserError("options of the list do not hold for its commands", remedy=f"put them behind {command}")
        return
    from vectoruniverse.runs.listing import list_runs
    from vectoruniverse.runs.tags import readable_tags

    earliest = None if since is None else _span(since, "--since")[0]
    latest = None if until is None else _span(until, "--until")[1]
    found = [
        (one, readable_tags(one.run))
        for one in list_runs(runs_dir)
        if experiment in (None, one.run.experiment)
        and state in (None, one.state)
        and (earliest is None or (one.begun is not None and one.begun >= earliest))
        and (latest is None or (one.begun is not None and one.begun <= latest))
    ]
    found = [(one, tags) for one, tags in found if tag is None or tag in tags]
    if as_json:
        fields = ("state", "started", "metric", "best", "epoch", "message")
        print_json([{"run": s.run.name, **{f: getattr(s, f) for f in fields}, "tags": tags} for s, tags in found])
        return
    if not found:
        such = "such " * any(asked is not None for asked in (experiment, state, since, until, tag))
        typer.echo(f"no {such}runs in {runs_dir}; start one with: vu train --config quickstart.yaml")
        return
    rows = [
        (
            s.run.name,
            s.state,
            (s.started or "")[:16].replace("T", " "),
            "" if s.best is None else f"{s.metric} {s.best:.3f}",
            "" if s.epoch is None else str(s.epoch),
            ", ".join(tags),
            s.message or "",
        )
        for s, tags in found
    ]
    print_table("", ("run", "state", "started (UTC)", "best", "epoch", "tags", "message"), rows)


def _span(text: str, option: str) -> tuple[datetime, datetime]:
    """First and last moment of a date in UTC; twice the same one for a time ago, or a date with its time."""
    with contextlib.suppress(ValueError):
        day = date.fromisoformat(text)
        return datetime.combine(day, time.min, UTC), datetime.combine(day, time.max, UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        ago = seconds_of(text, option)
        assert ago is not None
        moment = datetime.now(UTC) - timedelta(seconds=ago)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment, moment


@app.command("tag", epilog="Example: vu runs tag latest baseline")
@tells_errors
def runs_tag(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="TAG", help="Letters, digits, dots, hyphens and underscores.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    runs_dir: RunsOption = Path("runs"),
) -> None:
    """Give a run a name of your own; a tagged run is never pruned."""
    from vectoruniverse.runs.listing import find_run
    from vectoruniverse.runs.tags import tag

    found = find_run(runs_dir, run)
    typer.echo(f"{found.name}: {', '.join(tag(found, name, remove=remove)) or 'no tags'}")


@app.command("show", epilog="Example: vu runs show latest")
@tells_errors
def runs_show(run: RunArgument, runs_dir: RunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """Show what a run is, what it reached, what has changed since the one before, and what it takes on the disk."""
    from vectoruniverse.runs.listing import find_run
    from vectoruniverse.tasks.shown import facts_of

    facts = facts_of(find_run(runs_dir, run))
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        for number, line in enumerate(value if isinstance(value, list) else [value]):
            if line:
                typer.echo(printable(f"{'' if number else key:<14}{line}"))


@app.command("prune", epilog="Example: vu runs prune --older-than 30d --yes")
@tells_errors
def runs_prune(
    keep_last: Annotated[int, typer.Option(min=0, help="Newest runs of each experiment that stay.")] = 3,
    older_than: Annotated[str | None, typer.Option(metavar="TIME", help="Only runs begun that long ago: 30d.")] = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this experiment.")] = None,
    state: StateOption = None,
    checkpoints_only: Annotated[
        bool, typer.Option("--checkpoints-only", help="Only checkpoints of finished runs: what they left stays.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only told.")] = False,
    runs_dir: RunsOption = Path("runs"),
) -> None:
    """Remove runs, but for the best, the newest, tagged and running ones, and those that something needs."""
    from vectoruniverse.errors import LockedError
    from vectoruniverse.runs.removing import remove_checkpoints, remove_run
    from vectoruniverse.unattended.pruning import Wanted, verdicts

    age = seconds_of(older_than, "--older-than")
    found = list(verdicts(runs_dir, Wanted(keep_last, experiment, state, age, checkpoints_only)))
    going = [one for one in found if one.stays is None]
    rows = [(one.summary.run.name, one.stays or "goes", f"{one.size / 2**20:,.1f} MiB") for one in found]
    if rows:
        print_table("", ("run", "", ""), rows)
    gone, failed = [] if yes else going, 0
    for one in going if yes else []:
        try:
            (remove_checkpoints if checkpoints_only else remove_run)(one.summary.run)
            gone.append(one)
        except LockedError as error:
            typer.echo(f"stays: {error}", err=True)
        except UserError as error:  # the others can go all the same
            complain(str(error), error.remedy)
            failed += 1
    what = "checkpoints of runs" if checkpoints_only else "runs"
    tail = "removed" if yes else "would go; add --yes to remove them"
    typer.echo(f"{len(gone)} of {len(found)} {what}, {sum(one.size for one in gone) / 2**20:,.1f} MiB, {tail}")
    if failed:
        raise typer.Exit(UserError.exit_code)
