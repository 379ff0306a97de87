"""The command train."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectoruniverse.cli.outcomes import print_comparison, print_verdict
from vectoruniverse.cli.shell import (
    FoldsOption,
    ForceOption,
    JsonOption,
    MaxTimeOption,
    NewOption,
    QuietOption,
    RunsOption,
    SetOption,
    open_display,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import ConfigError, UserError

if TYPE_CHECKING:
    from vectoruniverse.planning import Plan
    from vectoruniverse.runs.folder import Run
    from vectoruniverse.tasks.results import Outcome


@tells_errors
def train(
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Experiment file; a bare name is also looked up in configs/.")
    ] = None,
    overrides: SetOption = [],
    set_json: Annotated[
        str | None,
        typer.Option(
            "--set-json",
            metavar="OBJECT",
            help="Override keys after --set, as in '{\"train.lr\": 7e-7}'; for programs.",
        ),
    ] = None,
    alpha_per_rank: Annotated[
        float | None, typer.Option(metavar="K", help="Set adapter.alpha to K times adapter.rank, whatever that is.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run from its last checkpoint; `latest` works too.")
    ] = None,
    force: ForceOption = False,
    new: NewOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load everything, try two updates, print the plan.")
    ] = False,
    folds: FoldsOption = None,
    max_time: MaxTimeOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter and evaluate it against its base on rows that nothing was chosen on.

    The same command again goes on with a run that was interrupted, killed or failed, and says so where it has finished.
    Another setting, row, base or version makes a new run, which says what has changed.

    With --folds, a run for each fold: every row is tested once, by a model that did not learn from it.
    """
    del max_time  # tells_errors holds the command to it
    given = bool(overrides or set_json or alpha_per_rank)
    _check_options(config, resume, folds, dry_run=dry_run, with_settings=given, again=force or new)
    from vectoruniverse import experiment as runner
    from vectoruniverse import planning
    from vectoruniverse.processes import is_first
    from vectoruniverse.runs.folder import Run
    from vectoruniverse.runs.listing import find_run
    from vectoruniverse.tasks.experiments import load_experiment

    display = open_display(quiet)
    outcome: Outcome | Run | None
    if resume is not None:
        resumed = runner.resume(resume, runs_dir=runs_dir, display=display)
        outcome = find_run(runs_dir, resume, among="resumable") if resumed is None else resumed
    else:
        assert config is not None
        settings = _settings(config, overrides, set_json, alpha_per_rank)
        if folds is not None:  # a run for each, and what they say together
            from vectoruniverse.cli.sweeps import run_grid
            from vectoruniverse.sweep.grid import make_grid

            grid = make_grid(config, settings, [], (), folds=folds)
            run_grid(grid, None, runs_dir, quiet, as_json, force=force, new=new)
            return
        loaded = load_experiment(config, settings)
        if dry_run:
            with display:
                plan = planning.dry_run(loaded, display)
            _print_plan(plan, as_json)
            return
        if new:
            outcome = runner.train(loaded, runs_dir=runs_dir, display=display)
        else:
            outcome = runner.train_or_go_on(loaded, runs_dir=runs_dir, display=display, force=force)
    if outcome is None or not is_first():
        return  # the first process of the run tells it
    if isinstance(outcome, Run):
        _print_finished(outcome, quiet, as_json)
    elif as_json or not quiet:
        _print_outcome(outcome, as_json)


def _check_options(
    config: str | None, resume: str | None, folds: int | None, *, dry_run: bool, with_settings: bool, again: bool
) -> None:
    """Refuse options that do not go together."""
    if (config is None) == (resume is None):
        raise UserError("give either --config FILE or --resume RUN", remedy="vu train --config quickstart.yaml")
    if resume is not None and (with_settings or dry_run or folds or again):
        said = "settings, --dry-run, --folds, --force and --new do not go with it"
        raise UserError(f"--resume goes on with the run's own config; {said}")
    if os.environ.get("WORLD_SIZE", "1") != "1" and (folds is not None or dry_run):
        raise UserError("--folds and --dry-run are for one process", remedy="leave out torchrun")
    if folds is not None and dry_run:
        raise UserError("--dry-run plans one run; leave out --folds: each of its runs learns from about as many rows")


def _settings(config: str, overrides: list[str], set_json: str | None, alpha_per_rank: float | None) -> list[str]:
    """All overrides as ``KEY=VALUE``: those of --set, then those of --set-json, then alpha from the rank they give."""
    from vectoruniverse.tasks.experiments import load_experiment

    given = [*overrides, *(_from_json(set_json) if set_json is not None else [])]
    if alpha_per_rank is None:
        return given
    if not (math.isfinite(alpha_per_rank) and alpha_per_rank > 0):
        raise ConfigError("must be above 0", file="--alpha-per-rank")
    rank = load_experiment(config, given).adapter.rank
    return [*given, f"adapter.alpha={alpha_per_rank * rank!r}"]


def _from_json(text: str) -> list[str]:
    import json

    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{text[:60]!r} is not a JSON object", file="--set-json", remedy="""as in --set-json '{"train.lr": 7e-7}'"""
        )
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def _print_finished(run: Run, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run.path), "state": "finished"})
    elif not quiet:
        typer.echo(f"{run.name} has already finished; see it with: vu eval {run.name}; train it again with: --force")


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        from vectoruniverse.report.verdict import kept_words

        record = {"run": str(outcome.run.path), "best_epoch": outcome.best_epoch, "epoch": outcome.epoch}
        record |= {"kept": kept_words(outcome.epoch, outcome.best_epoch), "seconds": outcome.seconds}
        record |= {"split": outcome.comparison.split, "base": outcome.base, "adapted": outcome.adapted}
        if outcome.selection is not None:
            chosen_on = outcome.selection
            record["selection"] = {"base": chosen_on.base.metrics, "adapted": chosen_on.adapted.metrics}
        rivals = outcome.comparison.rivals
        print_json({**record, "rivals": rivals and rivals.model_dump()})
        return
    which = "best epoch" if outcome.epoch == outcome.best_epoch else "epoch"
    title = f"{outcome.run.name}: {outcome.comparison.rows_are}, {which} {outcome.epoch}, {outcome.seconds:.0f} s"
    print_comparison(title, outcome.comparison)
    print_verdict(outcome.run, outcome.comparison)
    if outcome.forgetting is not None:
        from vectoruniverse.report.ledger import ledger_line

        typer.echo(ledger_line(outcome.forgetting))
    if outcome.earlier is not None:
        from vectoruniverse.metrics.catalogue import signed

        change = outcome.score - outcome.earlier.score
        than = f"best earlier run on this data: {outcome.earlier.name} with {outcome.earlier.score:.3f}"
        typer.echo(f"{outcome.monitor} {outcome.score:.3f}, {signed(change, '.3f')} against the {than}")
    typer.echo(f"adapter in {outcome.run.adapter}; again with: vu eval {outcome.run.name}")
    if outcome.run.report_file.is_file():
        typer.echo(f"report in {outcome.run.report_file}")


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(plan))
        return
    from vectoruniverse.terminal import duration

    rows = [(f"{name} rows", f"{count:,}") for name, count in plan.rows.items()]
    rows += [
        ("steps per epoch", f"{plan.steps_per_epoch:,}"),
        ("steps", f"{plan.steps:,}"),
        ("computes on", plan.compute),
        ("train.precision", plan.precision),
        *((f"loss of the first batch: {name}", f"{value:.4f}") for name, value in plan.loss.items()),
        ("one update", f"{plan.seconds_per_step:.2f} s"),
        ("all updates, without evaluations", duration(plan.seconds)),
        ("peak memory so far", "unknown" if plan.memory is None else f"{plan.memory / 2**20:,.0f} MiB"),
    ]
    print_table("plan", ("", ""), rows)
    from vectoruniverse.report.tables import trained_table

    parameters = trained_table(plan.parameters)
    print_table("parameters", parameters.columns, parameters.rows)
