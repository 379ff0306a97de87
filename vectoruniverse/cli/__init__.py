"""The command line: parse, call one function, print. Heavy libraries load inside the commands."""

from __future__ import annotations

import typer

from vectoruniverse.cli import config, data, runs

app = typer.Typer(
    name="vu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Experiments in multimodal contrastive fine-tuning: does LoRA make CLIP better on your pictures?",
    epilog="First time? [bold]vu data demo[/bold] builds a data set, [bold]vu train --config quickstart.yaml[/bold] "
    "trains on it.",
)

RUNS, BEFORE = "Runs", "Before a run"

app.command("train", rich_help_panel=RUNS, epilog="Example: vu train --config quickstart.yaml --set train.epochs=3")(
    runs.train
)
app.command("eval", rich_help_panel=RUNS, epilog="Example: vu eval latest --json")(runs.evaluate)
app.command("runs", rich_help_panel=RUNS)(runs.runs)
app.command("sync", rich_help_panel=RUNS, epilog="Example: vu sync latest")(runs.sync)
app.add_typer(data.app, name="data", rich_help_panel=BEFORE)
app.add_typer(config.app, name="config", rich_help_panel=BEFORE)


def main() -> None:
    """Entry point of ``vu``."""
    app()
