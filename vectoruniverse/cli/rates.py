"""Command about learning rates: find-lr."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vectoruniverse.cli.shell import (
    ConfigOption,
    JsonOption,
    QuietOption,
    SetOption,
    open_display,
    print_json,
    print_table,
    tells_errors,
)

if TYPE_CHECKING:
    from vectoruniverse.config.sections import Experiment
    from vectoruniverse.training.find_lr import Rates
    from vectoruniverse.training.rate_rules import Probe

FAR_ABOVE = 1.2
"""A first loss of so many times chance is a matter of the temperature before it is one of the rate."""

MINED = "train.hard_negatives"
"""What probes leave out, as it encodes all rows before each epoch."""


@tells_errors
def find_lr(
    config: ConfigOption,
    overrides: SetOption = [],
    steps: Annotated[int, typer.Option(min=5, max=10_000, help="Updates of each probe.")] = 20,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write find-lr.json and a figure (PNG, SVG) there.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure which learning rate learns, in updates that are forgotten; writes nothing but --out."""
    from vectoruniverse import planning
    from vectoruniverse.tasks.experiments import load_experiment

    loaded = load_experiment(config, overrides)
    with open_display(quiet) as display:
        found = planning.find_lr(loaded, display, steps=steps)
    command, why = next_command(found, config, overrides, _warmer(loaded))
    left_out = [MINED] if getattr(loaded.train, "hard_negatives", None) is not None else []
    told = {"config": config, "set": overrides, "left_out": left_out}
    record = {**told, **dataclasses.asdict(found), "why": why, "command": command}
    if out is not None:
        _write(out, found, record)
    if as_json:
        print_json(record)
        return
    title = f"loss of {found.held_rows} training rows set apart, {found.steps} steps at each rate"
    print_table(title, ("train.lr", "loss", "change", "eff. rank", ""), table_rows(found))
    typer.echo(why)
    for key in left_out:
        typer.echo(f"measured without {key}: batches were shuffled, and those of the training are harder")
    typer.echo(f"next: {command}")
    if out is not None:
        typer.echo(f"figure and record in {out}")


def table_rows(found: Rates) -> list[tuple[str, str, str, str, str]]:
    """A row for the start, one for chance where it is known, and one for each probe."""
    rank = "" if found.start_rank is None else f"{found.start_rank:.1f}"
    rows = [("before", f"{found.start:.3f}", "", rank, "")]
    if found.chance is not None:
        rows.append(("chance", f"{found.chance:.3f}", "", "", "nothing is told apart"))
    return rows + [_row(probe, found) for probe in found.probes]


def _row(probe: Probe, found: Rates) -> tuple[str, str, str, str, str]:
    marks: list[str] = [probe.told if probe.told != "unclear" else "within noise of nothing learned"]
    marks += ["asked for"] * (probe.lr == found.asked) + ["recommended"] * (probe.lr == found.recommended)
    return (
        f"{probe.lr:g}",
        "" if probe.loss is None else f"{probe.loss:.3f}",
        "" if probe.loss is None else f"{probe.loss - found.start:+.3f}",
        "" if probe.effective_rank is None else f"{probe.effective_rank:.1f}",
        ", ".join(marks),
    )


def _warmer(loaded: Experiment) -> float | None:
    """The next temperature to try; None where the loss has none."""
    loss: Any = getattr(loaded, "loss", None)  # which not every task has
    if not hasattr(loss, "temperature"):
        return None
    return 0.07 if loss.temperature is None else min(2 * loss.temperature, 1.0)


def next_command(found: Rates, config: str, overrides: list[str], warmer: float | None) -> tuple[str, str]:
    """The command to go on with, and the measured reason in a sentence.

    Args:
        found: what was measured.
        config: the experiment file, as it was given.
        overrides: settings, as they were given.
        warmer: the next temperature to try, where the loss has one.
    """
    given = ["--config", config, *(part for one in overrides for part in ("--set", one))]
    if found.recommended is not None:
        chosen, asked = (next(one for one in found.probes if one.lr == lr) for lr in (found.recommended, found.asked))
        why = f"{chosen.lr:g} learns: loss {chosen.loss:.3f} after {found.steps} steps, {_levels(found)}"
        if asked.lr != chosen.lr:
            reached = "" if asked.loss is None else f" with loss {asked.loss:.3f}"
            why += f"; {asked.lr:g}, which was asked for, {_did(asked)}{reached}"
        return _shell("train", *given, "--set", f"train.lr={chosen.lr:g}"), why
    rates = f"{found.probes[0].lr:g} to {found.probes[-1].lr:g}"
    why = f"no rate from {rates} learns within {found.steps} steps: {_levels(found)}"
    if warmer is not None and found.chance is not None and found.start > FAR_ABOVE * found.chance:
        why += "; a first loss so far above chance is a temperature too low for these pairs"
        return _shell("find-lr", *given, "--set", f"loss.temperature={warmer:g}"), why
    return _shell("find-lr", *given, "--steps", f"{3 * found.steps}"), why


def _did(probe: Probe) -> str:
    return {"learns": "learns too, no better than noise or worse", "unclear": "learns nothing beyond noise"}.get(
        probe.told, {"worse": "gets worse", "above chance": "stays above chance"}.get(probe.told, probe.told)
    )


def _levels(found: Rates) -> str:
    return f"{found.start:.3f} before" + ("" if found.chance is None else f", {found.chance:.3f} by chance")


def _shell(command: str, *arguments: str) -> str:
    return shlex.join(["vu", command, *arguments])


def _write(folder: Path, found: Rates, record: dict[str, Any]) -> None:
    """``find-lr.json``, ``find-lr.png`` and ``find-lr.svg``."""
    from vectoruniverse.report.figures.rates import learning_rates
    from vectoruniverse.report.figures.style import save
    from vectoruniverse.runs.durable import write_durably, write_errors_are_told
    from vectoruniverse.runs.files import strict

    figure = learning_rates(
        [(step.lr, step.loss, step.smoothed) for step in found.ramp],
        [(one.lr, one.loss, one.error or 0.0) for one in found.probes if one.loss is not None],
        start=found.start, chance=found.chance, broke_at=found.broke_at,
        recommended=found.recommended, steps=found.steps,
    )  # fmt: skip
    save(figure, folder, "find-lr")
    file = folder / "find-lr.json"
    with write_errors_are_told(file):
        write_durably(file, json.dumps(strict(record), indent=2, allow_nan=False) + "\n")
