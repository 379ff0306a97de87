"""The command line: parse, call one function, print. Heavy libraries load inside the commands."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

import vectoruniverse.tasks  # noqa: F401 (every command knows every task's metrics)
from vectoruniverse.cli import (
    cache,
    config,
    data,
    doctor,
    evaluate,
    exports,
    guide,
    launch,
    predict,
    rates,
    reports,
    runs,
    schedule,
    sweeps,
    sync,
    train,
)
from vectoruniverse.cli.shell import print_version, tell_fault, tells_errors
from vectoruniverse.cli.surroundings import lend_a_home
from vectoruniverse.errors import UserError
from vectoruniverse.training.threads import watch_others

app = typer.Typer(
    name="vu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    help="Experiments in multimodal contrastive fine-tuning: does LoRA make CLIP better on your pictures?",
    epilog="First time? [bold]vu data demo[/bold] builds a data set, [bold]vu train --config quickstart.yaml[/bold] "
    "trains on it, [bold]vu guide[/bold] explains.",
)


@app.callback()
@tells_errors
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take what goes before a command; the help above is the app's own."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand != "train":
        said = f"vu {context.invoked_subcommand} is for one process, and {os.environ['WORLD_SIZE']} were started"
        raise UserError(said, remedy="leave out torchrun; it is for vu train")


RUNS, SWEEPS, BEFORE = "Runs", "Many runs", "Before a run"

app.command("train", rich_help_panel=RUNS, epilog="Example: vu train --config quickstart.yaml --set train.epochs=3")(
    train.train
)
app.command("eval", rich_help_panel=RUNS, epilog="Example: vu eval latest --json")(evaluate.evaluate)
app.command("export", rich_help_panel=RUNS, epilog="Example: vu export latest --to peft")(exports.export)
app.command("predict", rich_help_panel=RUNS, epilog="Example: vu predict latest --input new.csv --out said.csv")(
    predict.predict
)
app.command("sync", rich_help_panel=RUNS, epilog="Example: vu sync latest")(sync.sync)
app.command("sweep-rank", rich_help_panel=SWEEPS, epilog="Example: vu sweep-rank -c quickstart.yaml --ranks 1,4,16")(
    sweeps.sweep_rank
)
app.command("sweep", rich_help_panel=SWEEPS, epilog="Example: vu sweep -c quickstart.yaml --over train.lr=1e-3,2e-3")(
    sweeps.sweep
)
app.command(
    "launch",
    rich_help_panel=SWEEPS,
    context_settings={"allow_interspersed_args": False},
    epilog="Example: vu launch --print slurm --time 4h train --config clip_lora_r8.yaml",
)(launch.launch)
app.command("report", rich_help_panel=SWEEPS, epilog="Example: vu report quickstart-sweep-44f8929b")(reports.report)
app.command("compare", rich_help_panel=SWEEPS, epilog="Example: vu compare RUN RUN --out compared.html")(
    reports.compare
)
app.command(
    "find-lr", rich_help_panel=BEFORE, epilog="Example: vu find-lr --config quickstart.yaml --set train.batch_size=64"
)(rates.find_lr)
app.command("doctor", rich_help_panel=BEFORE, epilog="Example: vu doctor --config clip_lora_r8.yaml")(doctor.doctor)
app.command("guide", rich_help_panel=BEFORE, epilog="Example: vu guide pictures")(guide.guide)
app.add_typer(runs.app, name="runs", rich_help_panel=RUNS)
app.add_typer(schedule.app, name="schedule", rich_help_panel=SWEEPS)
app.add_typer(cache.app, name="cache", rich_help_panel=BEFORE)
app.add_typer(data.app, name="data", rich_help_panel=BEFORE)
app.add_typer(config.app, name="config", rich_help_panel=BEFORE)


def main() -> None:
    """Entry point of ``vu``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there is none where a program closed it
            stream.reconfigure(errors="backslashreplace")  # names that differ stay different
    lend_a_home()
    watch_others()
    try:
        app()
    except Exception:
        tell_fault()
        sys.exit(1)
