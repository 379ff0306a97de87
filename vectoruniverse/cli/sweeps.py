"""Commands about sweeps: sweep, sweep-rank."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vectoruniverse.cli.shell import (
    ConfigOption,
    FoldsOption,
    ForceOption,
    JsonOption,
    MaxTimeOption,
    NewOption,
    QuietOption,
    RunsOption,
    SetOption,
    complain,
    open_display,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vectoruniverse.report.sweep.parts import CellRecord
    from vectoruniverse.sweep.engines import Engine
    from vectoruniverse.sweep.grid import Grid
    from vectoruniverse.sweep.runner import SweepOutcome
    from vectoruniverse.terminal import Display

    Machines = Callable[[Display], contextlib.AbstractContextManager[Engine | None]]

SeedsOption = Annotated[
    str | None, typer.Option(metavar="S,S,…", help="Seeds of every value; without it the experiment's own.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of sweep.json and sweep.csv; without it <experiment>-sweep-<id> in runs.")
]
RatesOption = Annotated[
    str,
    typer.Option(
        metavar="RATES",
        help="Learning rates that each value chooses from on validation rows, in short trials. auto: around the "
        "experiment's own, for ranks from where the scaling rule of alpha points to; LR,LR,…: these; fixed: the "
        "experiment's own for all.",
    ),
]
_MACHINES = "Where cells are trained"
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="What trains the cells. local: this process, one after another; ray: the machines of a cluster.",
        rich_help_panel=_MACHINES,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Head of the Ray cluster; auto: that of this machine; without it this machine becomes one of its own.",
        rich_help_panel=_MACHINES,
    ),
]
CpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Processors of a cell on Ray; without it a machine's, divided by its GPUs.",
        rich_help_panel=_MACHINES,
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs of a cell on Ray, or a share of one; without it one where there are any.",
        rich_help_panel=_MACHINES,
    ),
]
RetriesOption = Annotated[
    int,
    typer.Option(
        min=0, help="Times that Ray starts a cell again whose worker or machine died.", rich_help_panel=_MACHINES
    ),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Train the I-th of N parts of the cells, counted from 0, as an element of a job array; the same command "
        "without --part then gives the answer.",
        rich_help_panel=_MACHINES,
    ),
]
AgentOption = Annotated[
    Path | None,
    typer.Option("--wandb-sweep", metavar="FILE", help="Write the cells as a sweep for `wandb agent`; train nothing."),
]


@tells_errors
def sweep(
    config: ConfigOption,
    over: Annotated[
        list[str], typer.Option("--over", metavar="KEY=V,V,…", help="A key and its values; repeatable for a grid.")
    ],
    seeds: SeedsOption = None,
    lrs: RatesOption = "fixed",
    folds: FoldsOption = None,
    overrides: SetOption = [],
    out: OutOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    cpus_per_cell: CpusOption = None,
    gpus_per_cell: GpusOption = None,
    retries: RetriesOption = 3,
    part: PartOption = None,
    wandb_sweep: AgentOption = None,
    force: ForceOption = False,
    new: NewOption = False,
    max_time: MaxTimeOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one run for each value and seed, and say which value is best and how sure that is.

    Running the same command again goes on where it stopped, or says that all is done; more values or seeds run only
    what is new. Exit code 1: some cells failed, 4: they diverged; the others are there.
    """
    del max_time  # tells_errors holds the command to it
    from vectoruniverse.sweep.grid import make_grid, parse_over, whole_numbers

    chosen = whole_numbers(seeds, "--seeds")
    grid = make_grid(config, overrides, [parse_over(text) for text in over], chosen, rates=_rates(lrs), folds=folds)
    if wandb_sweep is not None:
        _write_for_agents(wandb_sweep, grid, config, overrides, out, runs_dir)
        return
    if part is not None:
        if force or new:
            raise UserError("--part trains cells of a sweep that others train too; --force and --new do not go with it")
        _run_part(part, grid, out, runs_dir, quiet, as_json)
        return
    machines = _machines(engine, address, cpus_per_cell, gpus_per_cell, retries)
    run_grid(grid, out, runs_dir, quiet, as_json, machines, force=force, new=new)


@tells_errors
def sweep_rank(
    config: ConfigOption,
    ranks: Annotated[str, typer.Option(metavar="R,R,…", help="Ranks of LoRA to train.")] = "1,2,4,8,16,32,64",
    seeds: SeedsOption = None,
    folds: FoldsOption = None,
    alpha: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="How alpha follows the rank, which decides what is compared. proportional:K: alpha = K·rank, the "
            "update's scale stays, ranks alone differ. fixed: alpha stays, so higher ranks also take smaller steps. "
            "rank-stabilized: alpha stays, the scale is alpha/√rank. auto: the experiment's own alpha/rank, kept.",
        ),
    ] = "auto",
    lrs: RatesOption = "auto",
    full: Annotated[bool, typer.Option("--full", help="Full fine-tuning too, at a rate of its own.")] = False,
    pattern: Annotated[
        bool,
        typer.Option("--pattern/--no-pattern", help="Train ranks by layer as the largest adapter suggests."),
    ] = True,
    overrides: SetOption = [],
    out: OutOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    cpus_per_cell: CpusOption = None,
    gpus_per_cell: GpusOption = None,
    retries: RetriesOption = 3,
    part: PartOption = None,
    wandb_sweep: AgentOption = None,
    force: ForceOption = False,
    new: NewOption = False,
    max_time: MaxTimeOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train LoRA at several ranks, each at its own learning rate, and say from which rank on more does not help.

    Validation rows choose the rates and the best rank; test rows are what the answer is of. Running the same command
    again goes on where it stopped, or says that all is done; more ranks or seeds run only what is new. Exit code 1:
    some cells failed, 4: they diverged; the others are there.
    """
    del max_time  # tells_errors holds the command to it
    from vectoruniverse.sweep.grid import RANK, Over, make_grid, whole_numbers

    grid = make_grid(
        config,
        overrides,
        [Over(RANK, whole_numbers(ranks, "--ranks"))],
        whole_numbers(seeds, "--seeds"),
        alpha,
        rates=_rates(lrs),
        full=full,
        pattern=pattern,
        folds=folds,
    )
    if wandb_sweep is not None:
        _write_for_agents(wandb_sweep, grid, config, overrides, out, runs_dir)
        return
    if part is not None:
        if force or new:
            raise UserError("--part trains cells of a sweep that others train too; --force and --new do not go with it")
        _run_part(part, grid, out, runs_dir, quiet, as_json)
        return
    machines = _machines(engine, address, cpus_per_cell, gpus_per_cell, retries)
    run_grid(grid, out, runs_dir, quiet, as_json, machines, force=force, new=new)


def _run_part(part: str, grid: Grid, out: Path | None, runs_dir: Path, quiet: bool, as_json: bool) -> None:
    """Train some of the cells; exit code as of ``_complain_of``."""
    from vectoruniverse.sweep.part import Part, run_part

    chosen = Part.parse(part)
    with open_display(quiet) as display:
        cells = run_part(grid, chosen, runs_dir=runs_dir, out=out, display=display)
    if as_json:
        print_json({"part": part, "cells": [cell.model_dump() for cell in cells]})
    else:
        print_table(f"part {part}", ("cell", "state", "run"), [(one.name, one.state, one.run or "") for one in cells])
    _complain_of([cell for cell in cells if cell.state in ("failed", "stopped")])


def _complain_of(failed: Sequence[CellRecord]) -> None:
    """Tell which cells have no result; exit code 4 where all of them diverged, else 1; nothing where there are none."""
    from vectoruniverse.errors import DivergedError
    from vectoruniverse.tasks.same_run import ENDS_THE_SAME

    for cell in failed:
        complain(f"{cell.name} {cell.state}: {cell.message}", ENDS_THE_SAME if cell.state == "stopped" else None)
    if failed:
        raise typer.Exit(DivergedError.exit_code if all(cell.state == "stopped" for cell in failed) else 1)


def _machines(engine: str, address: str | None, cpus: float | None, gpus: float | None, retries: int) -> Machines:
    """What makes the engine that was asked for, once there is a display."""
    if engine == "local":
        if address is not None or cpus is not None or gpus is not None:
            raise UserError("--address, --cpus-per-cell and --gpus-per-cell go with --engine ray")
        return lambda display: contextlib.nullcontext()
    from vectoruniverse.sweep.on_ray import OnRay, Resources

    return lambda display: OnRay(address, Resources(cpus, gpus, retries), display)


def _rates(lrs: str) -> str | None:
    return None if lrs == "fixed" else lrs


def _write_for_agents(
    file: Path, grid: Grid, config: str, overrides: Sequence[str], out: Path | None, runs_dir: Path
) -> None:
    from vectoruniverse.sweep.agent import write_agent_sweep
    from vectoruniverse.terminal import counted

    if grid.folds is not None:
        raise UserError("--folds pools what its cells say, which agents cannot; leave out --folds, or --wandb-sweep")
    if out is not None:
        raise UserError("--out goes with a sweep that is run here; agents' runs go to --runs-dir")
    write_agent_sweep(file, grid, config=config, overrides=overrides, runs_dir=runs_dir)
    if grid.rates is not None or grid.full:
        typer.echo("agents train every rank at the experiment's learning rate, and no full fine-tuning")
    typer.echo(f"{counted(len(grid.cells), 'cell')} in {file}; go on with: wandb sweep {shlex.quote(str(file))}")


def run_grid(
    grid: Grid,
    out: Path | None,
    runs_dir: Path,
    quiet: bool,
    as_json: bool,
    machines: Machines | None = None,
    *,
    force: bool,
    new: bool,
) -> None:
    """Run a sweep and print its answer; exit code as of ``_complain_of``."""
    from vectoruniverse.sweep.runner import run_sweep

    with open_display(quiet) as display, machines(display) if machines else contextlib.nullcontext() as engine:
        outcome = run_sweep(grid, runs_dir=runs_dir, out=out, display=display, engine=engine, force=force, new=new)
    if as_json:
        print_json(outcome.record.model_dump())
    elif outcome.found_before:
        if not quiet:
            _print_found_before(outcome)
    else:
        _print(outcome)
    _complain_of(outcome.record.failed)


def _print_found_before(outcome: SweepOutcome) -> None:
    found, folder = outcome.record.compared, outcome.folder
    answer = "" if found is None else f": {found.answer}"
    where = folder.page_file if folder.page_file.is_file() else folder.record_file
    typer.echo(f"{folder.name} has already finished{answer} See {where}; train it again with: --force")


def _print(outcome: SweepOutcome) -> None:
    from vectoruniverse.report.ledger import ledger_line
    from vectoruniverse.report.sweep import words
    from vectoruniverse.report.sweep.parts import NotComparable
    from vectoruniverse.report.sweep.rates import rate_words
    from vectoruniverse.report.sweep.tables import terminal_table
    from vectoruniverse.report.verdict import LEARNED

    record, folder = outcome.record, outcome.folder
    if (found := record.compared) is not None:
        table = terminal_table(record, found)
        print_table(table.title, table.columns, table.rows)
        if table.note:
            typer.echo(table.note)
        typer.echo(f"{found.answer}{'' if record.evaluated_on == 'held-out' else f' {LEARNED}'}")
        for sentence in (*filter(None, [words.worth(record)]), *words.comparisons(record), *rate_words(record)):
            typer.echo(sentence)
        for sentence in words.health(record, words.verdicts(record, folder.path)):
            typer.echo(f"Health of the space: {sentence}")
    elif isinstance(record.statistics, NotComparable):
        typer.echo(record.statistics.reason)
    if record.forgetting is not None:
        typer.echo(ledger_line(record.forgetting))
    if timing := record.timing:
        typer.echo(f"{timing.seconds:.0f} s, {timing.outside_steps:.1%} of them outside training steps")
    typer.echo(f"all of it in {folder.record_file} and {folder.table_file}")
    if folder.page_file.is_file():
        typer.echo(f"report in {folder.page_file}")
