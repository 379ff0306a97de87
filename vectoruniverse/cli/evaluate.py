"""The command eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectoruniverse.cli.outcomes import print_comparison, print_rivals, print_verdict
from vectoruniverse.cli.shell import (
    JsonOption,
    QuietOption,
    RunsOption,
    SetOption,
    open_display,
    page_file,
    print_json,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import UserError

if TYPE_CHECKING:
    from vectoruniverse.config.sections import Experiment
    from vectoruniverse.tasks.text_pairs.settings import TextPairsExperiment


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
    print_comparison(f"{found.name}: {comparison.rows} {comparison.rows_are}", comparison)
    if comparison.evaluated_on == "held-out":
        print_verdict(found, comparison)


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
    print_rivals(rivals)


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
