"""Commands about sweeps: sweep, sweep-rank."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vectoruniverse.cli.shell import (
    ConfigOption,
    JsonOption,
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

    from vectoruniverse.sweep.grid import Grid, Over
    from vectoruniverse.sweep.runner import SweepOutcome

SeedsOption = Annotated[
    str | None, typer.Option(metavar="S,S,…", help="Seeds of every value; without it the experiment's own.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of sweep.json and sweep.csv; without it <experiment>-sweep-<id> in runs.")
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
    overrides: SetOption = [],
    out: OutOption = None,
    wandb_sweep: AgentOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one run for each value and seed, and say which value is best and how sure that is.

    Running the same command again goes on where it stopped; more values or seeds run only what is new. Exit code 1:
    some cells failed, and the others are there.
    """
    from vectoruniverse.sweep.grid import parse_over

    grid = _grid(config, overrides, [parse_over(text) for text in over], seeds, None)
    if wandb_sweep is not None:
        _write_for_agents(wandb_sweep, grid, config, overrides, out, runs_dir)
    else:
        _sweep(grid, out, runs_dir, quiet, as_json)


@tells_errors
def sweep_rank(
    config: ConfigOption,
    ranks: Annotated[str, typer.Option(metavar="R,R,…", help="Ranks of LoRA to train.")] = "1,2,4,8,16,32,64",
    seeds: SeedsOption = None,
    alpha: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="How alpha follows the rank, which decides what is compared. proportional:K: alpha = K·rank, the "
            "update's scale stays, ranks alone differ. fixed: alpha stays, so higher ranks also take smaller steps. "
            "rank-stabilized: alpha stays, the scale is alpha/√rank. auto: the experiment's own alpha/rank, kept.",
        ),
    ] = "auto",
    overrides: SetOption = [],
    out: OutOption = None,
    wandb_sweep: AgentOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train LoRA at several ranks, and say from which rank on more does not help.

    Running the same command again goes on where it stopped; more ranks or seeds run only what is new. Exit code 1:
    some cells failed, and the others are there.
    """
    from vectoruniverse.sweep.grid import RANK, Over, whole_numbers

    grid = _grid(config, overrides, [Over(RANK, whole_numbers(ranks, "--ranks"))], seeds, alpha)
    if wandb_sweep is not None:
        _write_for_agents(wandb_sweep, grid, config, overrides, out, runs_dir)
    else:
        _sweep(grid, out, runs_dir, quiet, as_json)


def _grid(config: str, overrides: Sequence[str], over: Sequence[Over], seeds: str | None, alpha: str | None) -> Grid:
    from vectoruniverse.sweep.grid import make_grid, whole_numbers

    return make_grid(config, overrides, over, whole_numbers(seeds, "--seeds") if seeds is not None else (), alpha)


def _write_for_agents(
    file: Path, grid: Grid, config: str, overrides: Sequence[str], out: Path | None, runs_dir: Path
) -> None:
    from vectoruniverse.sweep.agent import write_agent_sweep
    from vectoruniverse.terminal import counted

    if out is not None:
        raise UserError("--out goes with a sweep that is run here; agents' runs go to --runs-dir")
    write_agent_sweep(file, grid, config=config, overrides=overrides, runs_dir=runs_dir)
    typer.echo(f"{counted(len(grid.cells), 'cell')} in {file}; go on with: wandb sweep {shlex.quote(str(file))}")


def _sweep(grid: Grid, out: Path | None, runs_dir: Path, quiet: bool, as_json: bool) -> None:
    from vectoruniverse.sweep.runner import run_sweep
    from vectoruniverse.training.loop import InterruptedTraining

    display = open_display(quiet)
    try:
        outcome = run_sweep(grid, runs_dir=runs_dir, out=out, display=display)
    except InterruptedTraining as stopped:
        complain(str(stopped), stopped.remedy)
        raise typer.Exit(stopped.exit_code) from None
    finally:
        display.close()
    if as_json:
        print_json(outcome.record)
    else:
        _print(outcome)
    if outcome.failed:
        for entry in outcome.failed:
            complain(f"{entry['name']} failed: {entry['message']}", None)
        raise typer.Exit(1)


def _print(outcome: SweepOutcome) -> None:
    from vectoruniverse.report.sweep import words
    from vectoruniverse.report.sweep.record import check_record
    from vectoruniverse.report.sweep.tables import better
    from vectoruniverse.report.verdict import LEARNED
    from vectoruniverse.sweep.grid import describe

    record: dict[str, Any] = outcome.record
    found = record["statistics"]
    if found is not None and "reason" not in found:
        rows = [
            (
                describe(one["values"]),
                _interval(one["mean"]),
                _interval(one["gain"], sign="+"),
                _interval(one["shortfall"]),
                f"{one['trained_parameters']:,}",
                "" if one["seconds"] is None else f"{one['seconds']:.0f} s",
            )
            for one in found["values"]
        ]
        columns = (
            "",
            f"{found['metric']}{better(found['metric'])} [95 %]",
            "gain over base",
            "behind the best",
            "trained",
            "time",
        )
        sweep = check_record(record)
        title = f"{record['name']}: {found['queries']} {sweep.judged} rows, seeds {record['seeds']}"
        print_table(title, columns, rows)
        typer.echo(f"{found['answer']}{'' if sweep.judged == 'held-out' else f' {LEARNED}'}")
        for sentence in words.health(sweep, words.verdicts(sweep, outcome.folder.path)):
            typer.echo(f"Health of the space: {sentence}")
    elif found is not None:
        typer.echo(found["reason"])
    if ledger := record["forgetting"]:
        before, after = ledger["curve"][0]["old"][0], ledger["curve"][-1]["old"][0]
        typer.echo(
            f"on {ledger['old_rows']} rows that the base knew, {ledger['metric']} went from {before:.3f} to "
            f"{after:.3f}; scale {ledger['best_scale']:g} of the adapter keeps most of both"
        )
    if timing := record["timing"]:
        typer.echo(f"{timing['seconds']:.0f} s, {timing['outside_steps']:.1%} of them outside training steps")
    typer.echo(f"all of it in {outcome.folder.record_file} and {outcome.folder.table_file}")
    if outcome.folder.page_file.is_file():
        typer.echo(f"report in {outcome.folder.page_file}")


def _interval(interval: list[float], sign: str = "") -> str:
    estimate, low, high = interval
    return f"{estimate:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
