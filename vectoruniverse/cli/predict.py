"""``vu predict``: labels of new rows, or their classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from vectoruniverse.cli.shell import (
    EncodingOption,
    QuietOption,
    RunsOption,
    open_display,
    print_data,
    print_table,
    tells_errors,
)
from vectoruniverse.errors import UserError

if TYPE_CHECKING:
    from vectoruniverse.tasks.predictions import Predictions
    from vectoruniverse.terminal import Display

MOST_BAD = 5
"""Unusable rows that are told one by one."""


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
