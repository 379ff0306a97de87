"""The command launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vectoruniverse.cli.shell import seconds_of, tells_errors
from vectoruniverse.errors import ConfigError, UserError

if TYPE_CHECKING:
    from vectoruniverse.unattended.launch import Work

_LAUNCHED = ("train", "sweep", "sweep-rank", "eval")


@tells_errors
def launch(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="What is to be run, as after `vu`.")],
    scheduler: Annotated[
        Literal["slurm", "skypilot"], typer.Option("--print", help="Whose script is printed; nothing is submitted.")
    ],
    gpu: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model of the GPUs, as in V100; for SkyPilot it is needed.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a machine; a training has a process on each.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; a training takes all of them.")] = 1,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Slurm's limit, as in 4h; what is not done by then goes on.")
    ] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="Elements of a Slurm array that share the cells of a sweep.")
    ] = None,
    spot: Annotated[bool, typer.Option("--spot/--on-demand", help="SkyPilot: machines that may be taken away.")] = True,
) -> None:
    """Print a script by which Slurm or SkyPilot run a command, and start it again where that goes on with it."""
    from vectoruniverse.unattended.launch import Machines, skypilot_task, slurm_script

    work = _work(command)
    machines = Machines(gpu, gpus, nodes, seconds_of(time, "--time"), parts, spot)
    if scheduler == "skypilot" and gpus and gpu is None:
        raise ConfigError("SkyPilot has to know which", key="--gpu", remedy="as in --gpu V100; --gpus 0 for none")
    typer.echo((slurm_script if scheduler == "slurm" else skypilot_task)(work, machines), nl=False)


def _work(command: list[str]) -> Work:
    """What a command line of ours works on; its options and its experiment file are checked.

    Raises:
        UserError: it cannot be launched.
    """
    import sys

    from vectoruniverse.config.loading import find_config
    from vectoruniverse.config.places import place_of
    from vectoruniverse.tasks.experiments import load_experiment
    from vectoruniverse.unattended.launch import Work

    given = _parsed(command)
    if (config := given.get("config")) is None:
        raise UserError("only an experiment file can be launched", remedy="vu launch --print slurm train --config FILE")
    experiment = load_experiment(config, given.get("overrides") or [])
    folder, model = Path.cwd(), Path(experiment.model if isinstance(experiment.model, str) else "").expanduser()
    read = [
        find_config(config).absolute(),
        place_of(experiment),
        *([model.absolute()] if experiment.model and model.is_dir() else []),
    ]
    outside = [path for path in read if not path.is_relative_to(folder)]
    program = Path(sys.executable).parent / "vu"  # not resolved: the link is what makes it the environment's Python
    return Work(experiment.name, str(program.absolute()), command, folder, outside)


def _parsed(command: list[str]) -> dict[str, Any]:
    """The options of a command line of ours."""
    from typer.main import get_command

    from vectoruniverse.cli import app

    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = group.commands.get(command[0])
    if found is None or command[0] not in _LAUNCHED:
        raise UserError(f"vu {command[0][:40]} cannot be launched", remedy=f"one of {', '.join(_LAUNCHED)}")
    return found.make_context(command[0], command[1:]).params
