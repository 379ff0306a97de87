"""The command line: parse, call one function, print. Heavy libraries load inside the commands."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from vectoruniverse.errors import UserError

if TYPE_CHECKING:
    from vectoruniverse.comparison import Comparison
    from vectoruniverse.display import Display
    from vectoruniverse.experiment import Plan
    from vectoruniverse.results import Outcome

P = ParamSpec("P")

app = typer.Typer(
    name="vu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Experiments in multimodal contrastive fine-tuning: does LoRA make CLIP better on your pictures?",
    epilog="First time? [bold]vu data demo[/bold] builds a data set, [bold]vu train --config quickstart.yaml[/bold] "
    "trains on it.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets.", rich_markup_mode="rich")
config_app = typer.Typer(no_args_is_help=True, help="Experiment files.", rich_markup_mode="rich")
app.add_typer(data_app, name="data", rich_help_panel="Before a run")
app.add_typer(config_app, name="config", rich_help_panel="Before a run")

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="Experiment file; a bare name is also looked up in configs/.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key, as in train.lr=7e-7; repeatable.")
]
RunsOption = Annotated[Path, typer.Option("--runs-dir", envvar="VU_RUNS", help="Folder of the runs.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print what a user can mend in one or two lines, and leave with the exit code that says what kind it was."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            _complain(str(error), error.remedy)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted", None)
            raise typer.Exit(130) from None
        except MemoryError:
            _complain("out of memory", "lower train.batch_size")
            raise typer.Exit(5) from None
        except BrokenPipeError:
            # the reader of our output went away, as `head` does; nothing more can be said to it
            sys.stderr.close()
            raise typer.Exit(141) from None
        except RuntimeError as error:
            if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error).lower():
                raise
            _complain("out of memory", "lower train.batch_size")
            raise typer.Exit(5) from None

    return wrapped


def _complain(message: str, remedy: str | None) -> None:
    typer.echo(f"vu: {message}", err=True)
    if remedy:
        typer.echo(f"    → {remedy}", err=True)


def _display(quiet: bool = False) -> Display:
    """The terminal, with the libraries below it told to keep their own progress bars to themselves."""
    import transformers

    from vectoruniverse.display import Display

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return Display(quiet=quiet)


@app.command(rich_help_panel="Runs", epilog="Example: vu train --config quickstart.yaml --set train.epochs=3")
@tells_errors
def train(
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Experiment file; a bare name is also looked up in configs/.")
    ] = None,
    overrides: SetOption = [],  # noqa: B006  (typer reads the default and never changes it)
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run from its last checkpoint; `latest` works too.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load everything, try one batch, print the plan.")] = False,
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter and judge it against its base on held-out rows."""
    if (config is None) == (resume is None):
        raise UserError("give either --config FILE or --resume RUN", remedy="vu train --config quickstart.yaml")
    if resume is not None and (overrides or dry_run):
        raise UserError("--resume goes on with the run's own config; --set and --dry-run do not go with it")
    from vectoruniverse import experiment as runner
    from vectoruniverse.config.loading import load_experiment
    from vectoruniverse.training.loop import InterruptedTraining

    display = _display(quiet)
    try:
        if resume is not None:
            outcome = runner.resume(resume, runs_dir=runs_dir, display=display)
            if outcome is None:
                typer.echo("already finished; see it with: vu eval " + resume)
                return
        else:
            assert config is not None
            loaded = load_experiment(config, overrides)
            if dry_run:
                _print_plan(runner.dry_run(loaded, display), as_json)
                return
            outcome = runner.train(loaded, runs_dir=runs_dir, display=display)
    except InterruptedTraining as stopped:
        _complain(str(stopped), stopped.remedy)
        raise typer.Exit(stopped.exit_code) from None
    _print_outcome(outcome, as_json)


@app.command("eval", rich_help_panel="Runs", epilog="Example: vu eval latest --json")
@tells_errors
def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="Run: name, unique prefix, path, experiment name or `latest`.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Judge an experiment's model as it is, before any training.")
    ] = None,
    overrides: SetOption = [],  # noqa: B006  (typer reads the default and never changes it)
    split: Annotated[str, typer.Option(help="Rows to judge on: val or train.")] = "val",
    runs_dir: RunsOption = Path("runs"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge a run's adapter beside its base, on the same rows by the same code."""
    if split not in ("val", "train"):
        raise UserError(f"--split {split!r} is neither val nor train")
    if (run is None) == (config is None):
        raise UserError("give either a RUN or --config FILE", remedy="vu eval latest")
    if run is not None and overrides:
        raise UserError("a RUN is judged with its own config; --set goes with --config")
    from vectoruniverse import experiment as runner
    from vectoruniverse.comparison import evaluation_record
    from vectoruniverse.config.loading import load_experiment
    from vectoruniverse.report import metric_rows

    display = _display(quiet)
    try:
        if run is not None:
            found, comparison = runner.evaluate_run(run, runs_dir=runs_dir, split=split, display=display)
            record = {"run": found.name, **evaluation_record(comparison)}
        else:
            assert config is not None
            rows, judged = runner.evaluate_base(load_experiment(config, overrides), split=split, display=display)
            record = {"split": split, "rows": rows, "base": dict(judged.metrics), "spectra": judged.spectra()}
    finally:
        display.close()
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    elif run is not None:
        _print_comparison(f"{found.name}: {comparison.rows} {split} rows", comparison)
    else:
        _print_table(f"{rows} {split} rows, base model", ("metric", "base"), metric_rows(judged.metrics))


@app.command(rich_help_panel="Runs")
@tells_errors
def runs(runs_dir: RunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """List runs with their state and best metric."""
    from vectoruniverse.runs.listing import list_runs

    found = list_runs(runs_dir)
    if as_json:
        fields = ("state", "started", "metric", "best", "epoch", "message")
        typer.echo(json.dumps([{"run": s.run.name, **{f: getattr(s, f) for f in fields}} for s in found], indent=2))
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
    _print_table("", ("run", "state", "started (UTC)", "best", "epoch", "message"), rows)


@data_app.command("demo", epilog="Example: vu data demo --out data/openmoji")
@tells_errors
def data_demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/openmoji"),
    quiet: QuietOption = False,
) -> None:
    """Build a real data set offline: OpenMoji pictograms, their names and groups."""
    from vectoruniverse.data.openmoji import build_demo
    from vectoruniverse.display import Display

    display = Display(quiet=quiet)
    try:
        summary = build_demo(out, on_progress=lambda done, total: display.advance("pictograms", done, total))
    finally:
        display.close()
    typer.echo(f"{summary.rows} pictures in {summary.channels} channels in {summary.root}")
    typer.echo(summary.attribution)


@data_app.command("check", epilog="Example: vu data check data/youtube_thumbnails --csv faults.csv")
@tells_errors
def data_check(
    root: Annotated[str | None, typer.Argument(help="Data folder with a metadata.csv.")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Check the data of an experiment, with its split and its model."),
    ] = None,
    overrides: SetOption = [],  # noqa: B006  (typer reads the default and never changes it)
    as_json: JsonOption = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write every finding to this CSV file.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Find what is wrong with a data folder: every finding with file, line and reason; exit code 3 above the share."""
    from vectoruniverse import datasets
    from vectoruniverse.data.findings import report_csv, report_json, summary_rows

    display = _display(quiet)
    try:
        report, allowed = datasets.check(root, config, overrides, display)
    finally:
        display.close()
    if csv_file is not None:
        csv_file.write_text(report_csv(report), encoding="utf-8", newline="")
    if as_json:
        typer.echo(report_json(report))
    else:
        _print_table(f"{report.metadata}", ("finding", "count", "severity", "first"), summary_rows(report))
        typer.echo(
            f"{report.rows_usable} usable rows ({report.train_rows} training, {report.val_rows} validation), "
            f"{report.rows_unusable} unusable ({report.bad_share:.1%}, allowed {allowed:.1%})"
        )
    if report.bad_share > allowed:
        raise typer.Exit(3)


@data_app.command("stats", epilog="Example: vu data stats data/openmoji --out stats")
@tells_errors
def data_stats(
    root: Annotated[str | None, typer.Argument(help="Data folder with a metadata.csv.")] = None,
    config: Annotated[str | None, typer.Option("--config", "-c", help="Describe the data of an experiment.")] = None,
    overrides: SetOption = [],  # noqa: B006  (typer reads the default and never changes it)
    as_json: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures (PNG and SVG).")] = None,
) -> None:
    """Describe a data folder: how often each label occurs, how long the texts are."""
    from vectoruniverse import datasets

    stats = datasets.describe(root, config, overrides)
    if as_json:
        typer.echo(json.dumps(stats.summary(), indent=2, ensure_ascii=False))
        return
    _print_table("labels", ("label", "rows"), datasets.label_rows(stats))
    _print_table("lengths", ("", "min", "p25", "median", "p75", "p95", "max"), datasets.length_rows(stats))
    if out is not None:
        for path in datasets.draw(stats, out):
            typer.echo(path)


@config_app.command("check", epilog="Example: vu config check clip_lora_r8.yaml --set train.lr=7e-7")
@tells_errors
def config_check(
    file: Annotated[str, typer.Argument(help="Experiment file; a bare name is also looked up in configs/.")],
    overrides: SetOption = [],  # noqa: B006  (typer reads the default and never changes it)
) -> None:
    """Check an experiment file and print it with every default written out."""
    from vectoruniverse.config.loading import dump_experiment, load_experiment

    typer.echo(dump_experiment(load_experiment(file, overrides)), nl=False)


@config_app.command("schema")
@tells_errors
def config_schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    from vectoruniverse.config.document import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    from vectoruniverse.display import make_table

    Console(highlight=False).print(make_table(title, columns, rows))


def _print_comparison(title: str, comparison: Comparison) -> None:
    from vectoruniverse.comparison import plain_intervals
    from vectoruniverse.report import comparison_rows

    rows = comparison_rows(comparison.base.metrics, comparison.adapted.metrics, plain_intervals(comparison))
    _print_table(title, ("metric", "base", "adapted", "change [95 % interval]"), rows)


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        record = {"run": str(outcome.run.path), "best_epoch": outcome.best_epoch, "seconds": outcome.seconds}
        typer.echo(json.dumps({**record, "base": outcome.base, "adapted": outcome.adapted}, indent=2))
        return
    title = f"{outcome.run.name}: held-out rows, best epoch {outcome.best_epoch}, {outcome.seconds:.0f} s"
    _print_comparison(title, outcome.comparison)
    if outcome.earlier is not None:
        change = outcome.score - outcome.earlier.score
        than = f"best earlier run on this data: {outcome.earlier.name} with {outcome.earlier.score:.3f}"
        typer.echo(f"{outcome.monitor} {outcome.score:.3f}, {change:+.3f} against the {than}")
    typer.echo(f"adapter in {outcome.run.adapter}; again with: vu eval {outcome.run.name}")
    if outcome.run.report_file.is_file():
        typer.echo(f"report in {outcome.run.report_file}")


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        import dataclasses

        typer.echo(json.dumps(dataclasses.asdict(plan), indent=2))
        return
    rows = [(f"{name} rows", f"{count:,}") for name, count in plan.rows.items()]
    rows += [
        ("steps per epoch", f"{plan.steps_per_epoch:,}"),
        ("steps", f"{plan.steps:,}"),
        ("computes on", plan.compute),
        *((f"loss of the first batch: {name}", f"{value:.4f}") for name, value in plan.loss.items()),
        ("first forward and backward", f"{plan.seconds_per_step:.2f} s"),
        ("peak memory so far", f"{plan.memory / 2**20:,.0f} MiB"),
    ]
    _print_table("plan", ("", ""), rows)
    parts = [
        (p.part, str(p.adapted_layers), f"{p.trainable:,}", f"{p.total:,}", f"{p.share:.2%}") for p in plan.parameters
    ]
    _print_table("parameters", ("part", "adapted layers", "trained", "total", "share"), parts)


def main() -> None:
    """Entry point of ``vu``."""
    app()


if __name__ == "__main__":
    main()
