"""Commands about runs: train, eval, runs, predict, sync."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from vectoruniverse.cli.shell import (
    EncodingOption,
    FoldsOption,
    JsonOption,
    QuietOption,
    RunsOption,
    SetOption,
    open_display,
    page_file,
    print_data,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import ConfigError, UserError

if TYPE_CHECKING:
    from vectoruniverse.config.sections import Experiment
    from vectoruniverse.evaluation.comparison import Comparison
    from vectoruniverse.experiment import Plan
    from vectoruniverse.runs.folder import Run
    from vectoruniverse.runs.records import RivalsRecord
    from vectoruniverse.tasks.predictions import Predictions
    from vectoruniverse.tasks.results import Outcome
    from vectoruniverse.tasks.text_pairs.settings import TextPairsExperiment
    from vectoruniverse.terminal import Display

MOST_BAD = 5
"""Unusable rows that are told one by one."""


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load everything, try two updates, print the plan.")
    ] = False,
    folds: FoldsOption = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter and evaluate it against its base on rows that nothing was chosen on.

    With --folds, a run for each fold: every row is tested once, by a model that did not learn from it.
    """
    if (config is None) == (resume is None):
        raise UserError("give either --config FILE or --resume RUN", remedy="vu train --config quickstart.yaml")
    if resume is not None and (overrides or set_json or alpha_per_rank or dry_run or folds):
        raise UserError("--resume goes on with the run's own config; settings, --dry-run and --folds do not go with it")
    if folds is not None and dry_run:
        raise UserError("--dry-run plans one run; leave out --folds: each of its runs learns from about as many rows")
    from vectoruniverse import experiment as runner
    from vectoruniverse.tasks.experiments import load_experiment

    display = open_display(quiet)
    if resume is not None:
        outcome = runner.resume(resume, runs_dir=runs_dir, display=display)
        if outcome is None:
            _print_finished(resume, runs_dir, quiet, as_json)
            return
    else:
        assert config is not None
        settings = _settings(config, overrides, set_json, alpha_per_rank)
        if folds is not None:
            _train_folds(config, settings, folds, runs_dir, quiet, as_json)
            return
        loaded = load_experiment(config, settings)
        if dry_run:
            with display:
                plan = runner.dry_run(loaded, display)
            _print_plan(plan, as_json)
            return
        outcome = runner.train(loaded, runs_dir=runs_dir, display=display)
    if as_json or not quiet:
        _print_outcome(outcome, as_json)


def _train_folds(config: str, settings: list[str], folds: int, runs_dir: Path, quiet: bool, as_json: bool) -> None:
    """A run for each fold, and what they say together."""
    from vectoruniverse.cli.sweeps import run_grid
    from vectoruniverse.sweep.grid import make_grid

    run_grid(make_grid(config, settings, [], (), folds=folds), None, runs_dir, quiet, as_json)


@tells_errors
def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="Run: name, unique prefix, path, experiment name or `latest`.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Evaluate an experiment's model as it is, before any training.")
    ] = None,
    overrides: SetOption = [],
    split: Annotated[
        str | None,
        typer.Option(help="Rows of the experiment's own data: test, val or train; without it test, else val."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Evaluate a RUN on all rows of other data: its folder, table or documents."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page about the encoders of an experiment of task text_pairs."),
    ] = None,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run's adapter beside its base, on its test rows; or an experiment's encoders."""
    _check_subject(run, config, split, data, overrides)
    from vectoruniverse.tasks.experiments import load_experiment
    from vectoruniverse.tasks.text_pairs.settings import TextPairsExperiment

    loaded = None if config is None else load_experiment(config, overrides)
    if isinstance(loaded, TextPairsExperiment):
        _evaluate_encoders(loaded, split, page_file(out), quiet, as_json)
        return
    if out is not None:
        raise UserError("--out goes with --config FILE of task text_pairs; the page of a run: vu report RUN")
    if loaded is not None:
        _evaluate_base(loaded, split, quiet, as_json)
        return
    from vectoruniverse.evaluation.comparison import evaluation_record
    from vectoruniverse.tasks.finished import evaluate_run

    assert run is not None
    with open_display(quiet) as display:
        found, comparison = evaluate_run(
            run, runs_dir=runs_dir, split=split, display=display, place=data, settings=overrides
        )
        record = {"run": found.name, **evaluation_record(comparison)}
    if as_json:
        print_json(record)
        return
    _print_comparison(f"{found.name}: {comparison.rows} {comparison.rows_are}", comparison)
    if comparison.evaluated_on == "held-out":
        _print_verdict(found, comparison)


def _evaluate_base(loaded: Experiment, split: str | None, quiet: bool, as_json: bool) -> None:
    """The model of an experiment as it is, with the rivals that cost nothing."""
    from vectoruniverse.evaluation.comparison import spectra
    from vectoruniverse.evaluation.rivals import beside_rivals
    from vectoruniverse.report.tables import metric_table
    from vectoruniverse.tasks.finished import evaluate_base

    with open_display(quiet) as display:
        split, evaluated = evaluate_base(loaded, split=split, display=display)
        rivals = beside_rivals(evaluated, None)
    if as_json:
        record = {"split": split, "rows": evaluated.rows, "base": dict(evaluated.metrics)}
        print_json({**record, "spectra": spectra(evaluated), "rivals": rivals and rivals.model_dump()})
        return
    table = metric_table(evaluated.metrics)
    print_table(f"{evaluated.rows} {_kind_of_rows(loaded, split)} rows, base model", table.columns, table.rows)
    _print_rivals(rivals)


def _check_subject(
    run: str | None, config: str | None, split: str | None, data: str | None, overrides: list[str]
) -> None:
    """Refuse options of ``vu eval`` that do not go together."""
    if split not in (None, "test", "val", "train"):
        raise UserError(f"--split {split!r} is none of test, val and train")
    if (run is None) == (config is None):
        raise UserError("give either a RUN or --config FILE", remedy="vu eval latest")
    if run is not None and (other := [given for given in overrides if not given.strip().startswith("data.")]):
        raise UserError(
            f"--set goes with --config: a RUN is evaluated with its own settings, but for data.*, not {other[0]}"
        )
    if run is None and data is not None:
        raise UserError("--data goes with a RUN", remedy=f"vu eval latest --data {data}")


def _kind_of_rows(loaded: Experiment, split: str) -> str:
    """What the rows of a split would be to a model that this experiment trains."""
    held_out = "test" if split == "test" else "held-out"
    return held_out if split != "train" and loaded.holds_out else "training"


def _evaluate_encoders(
    loaded: TextPairsExperiment, split: str | None, page: Path | None, quiet: bool, as_json: bool
) -> None:
    """One table over the encoders of an experiment, and the page where it is wanted."""
    from vectoruniverse.tasks.text_pairs import page as encoder_page
    from vectoruniverse.tasks.text_pairs.encoders import answer
    from vectoruniverse.tasks.text_pairs.setup import evaluate_encoders, pair_findings

    with open_display(quiet) as display:
        split, comparison = evaluate_encoders(loaded, split=split, display=display)
    rows = len(comparison.first)
    if page is not None:
        facts = {"pairs": f"{rows} of {loaded.data.file}, {_kind_of_rows(loaded, split)} rows"}
        plates = pair_findings(comparison.found).plates
        encoder_page.write_encoder_page(page, comparison, title=loaded.name, plates=plates, facts=facts)
    if as_json:
        found = {name: dict(one.metrics) for name, one in comparison.found.items()}
        print_json({"split": split, "rows": rows, "metric": comparison.metric, "encoders": found})
        return
    table, said = encoder_page.encoder_table(comparison), answer(comparison)
    print_table(f"{rows} {_kind_of_rows(loaded, split)} pairs", table.columns, table.rows)
    typer.echo(f"{said.headline}. {said.detail}")
    if page is not None:
        typer.echo(f"page in {page}")


@tells_errors
def runs(runs_dir: RunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """List runs with their state and best metric."""
    from vectoruniverse.runs.listing import list_runs

    found = list_runs(runs_dir)
    if as_json:
        fields = ("state", "started", "metric", "best", "epoch", "message")
        print_json([{"run": s.run.name, **{f: getattr(s, f) for f in fields}} for s in found])
        return
    if not found:
        typer.echo(f"no runs in {runs_dir}; start one with: vu train --config quickstart.yaml")
        return
    rows = [
        (
            s.run.name,
            s.state,
            (s.started or "")[:16].replace("T", " "),
            "" if s.best is None else f"{s.metric} {s.best:.3f}",
            "" if s.epoch is None else str(s.epoch),
            s.message or "",
        )
        for s in found
    ]
    print_table("", ("run", "state", "started (UTC)", "best", "epoch", "message"), rows)


@tells_errors
def predict(
    run: Annotated[
        str, typer.Argument(help="Run of pictures with labels, or of a classifier: name, unique prefix or `latest`.")
    ],
    table: Annotated[
        Path,
        typer.Option(
            "--input", "-i", metavar="FILE", help="Table with the columns the run was trained on; pictures beside it."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write .csv, .json or .parquet there, not CSV to the terminal."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Labels by picture, text, both, or fused (by loss.label_kl); without it each row by all that it has."
        ),
    ] = None,
    encoding: EncodingOption = "utf-8",
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
) -> None:
    """Which labels new pictures and titles have, or which class new texts: a table with probabilities behind it."""
    from vectoruniverse.runs.durable import write_durably, write_errors_are_told
    from vectoruniverse.tasks.predictions import refuse_format

    if out is not None:
        refuse_format(out)
    with open_display(quiet) as display:
        predictions = _predictions(run, runs_dir, table, by, encoding, display)
        for bad in predictions.bad[:MOST_BAD]:
            display.warn(f"{table}:{bad.line}: {bad.reason}")
        if len(predictions.bad) > MOST_BAD:
            display.warn(f"and {len(predictions.bad) - MOST_BAD} more rows without a prediction")
    if out is None:
        print_data(predictions.csv())
        return
    with write_errors_are_told(out):
        write_durably(out, predictions.content(out.suffix.lower()))
    if not quiet:
        print_table("", ("prediction", "rows"), predictions.counts())
        typer.echo(f"{len(predictions.rows)} predictions in {out}{predictions.modes()}")


def _predictions(run: str, runs_dir: Path, table: Path, by: str | None, encoding: str, display: Display) -> Predictions:
    """What a run says of a table, be it of labels or of classes."""
    from vectoruniverse.api import LoadedRun, load_predictor
    from vectoruniverse.runs.label_records import LabelInput

    loaded = load_predictor(run, runs_dir=runs_dir)
    if not isinstance(loaded, LoadedRun):
        if by is not None:
            raise UserError("--by goes with a run of pictures and texts; a classifier reads its own columns")
        return loaded.predict_table(table, display, encoding=encoding)
    inputs: dict[str | None, LabelInput] = {one: one for one in get_args(LabelInput)}
    if by is not None and by not in inputs:
        raise UserError(f"--by {by!r} is none of {', '.join(get_args(LabelInput))}")
    return loaded.predict_table(table, display, encoding=encoding, by=inputs.get(by))


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


def _print_comparison(title: str, comparison: Comparison) -> None:
    from vectoruniverse.report.run import compared

    table = compared(comparison)
    print_table(title, table.columns, table.rows)
    _print_rivals(comparison.rivals)
    if comparison.labels is not None:
        from vectoruniverse.report.labels import labels_line

        typer.echo(labels_line(comparison.labels))


def _print_rivals(rivals: RivalsRecord | None) -> None:
    """What costs no training, beside the rest; nothing where there is none."""
    from vectoruniverse.report.tables import rivals_table

    if rivals is not None:
        table = rivals_table(rivals)
        print_table("rivals that cost no training", table.columns, table.rows)
        if table.note:
            typer.echo(table.note)


def _print_verdict(run: Run, comparison: Comparison) -> None:
    """What the page says first, in words; nothing where the run does not tell what it was after."""
    from vectoruniverse.report.run import verdict_of

    record = run.read_evaluation()
    if record is not None and record.monitor in comparison.adapted.metrics:
        for line in verdict_of(run, comparison, monitor=record.monitor, has_space=record.has_space).lines():
            typer.echo(line)


def _print_finished(reference: str, runs_dir: Path, quiet: bool, as_json: bool) -> None:
    from vectoruniverse.runs.listing import find_run

    if as_json:
        print_json({"run": str(find_run(runs_dir, reference, among="resumable").path), "state": "finished"})
    elif not quiet:
        typer.echo(f"already finished; see it with: vu eval {reference}")


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
    _print_comparison(title, outcome.comparison)
    _print_verdict(outcome.run, outcome.comparison)
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
        *((f"loss of the first batch: {name}", f"{value:.4f}") for name, value in plan.loss.items()),
        ("one update", f"{plan.seconds_per_step:.2f} s"),
        ("all updates, without evaluations", duration(plan.seconds)),
        ("peak memory so far", "unknown" if plan.memory is None else f"{plan.memory / 2**20:,.0f} MiB"),
    ]
    print_table("plan", ("", ""), rows)
    from vectoruniverse.report.tables import trained_table

    parameters = trained_table(plan.parameters)
    print_table("parameters", parameters.columns, parameters.rows)
