"""Commands about experiment files: check, schema."""

from __future__ import annotations

from typing import Annotated

import typer

from vectoruniverse.cli.shell import SetOption, tells_errors

app = typer.Typer(no_args_is_help=True, help="Experiment files.", rich_markup_mode="rich")


@app.command("check", epilog="Example: vu config check clip_lora_r8.yaml --set train.lr=7e-7")
@tells_errors
def config_check(
    file: Annotated[str, typer.Argument(help="Experiment file; a bare name is also looked up in configs/.")],
    overrides: SetOption = [],
) -> None:
    """Check an experiment file and print it with every default written out."""
    from vectoruniverse.config.loading import dump_experiment
    from vectoruniverse.tasks.experiments import load_experiment

    typer.echo(dump_experiment(load_experiment(file, overrides)), nl=False)


@app.command("schema")
@tells_errors
def config_schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    import json

    from vectoruniverse.config.document import json_schema
    from vectoruniverse.tasks.experiments import EXPERIMENTS

    typer.echo(json.dumps(json_schema(EXPERIMENTS), indent=2, ensure_ascii=False))
