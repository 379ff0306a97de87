"""Scripts by which Slurm or SkyPilot run a command of ours on their machines; nothing is submitted.

Both schedulers warn a job or take its machine away, and both can start it again: exit codes say when that is worth it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vectoruniverse.errors import ConfigError

AGAIN = (75, 129, 138, 143)
"""Exit codes after which the same command goes on: another process trains it; SIGHUP, SIGUSR1 or time up, SIGTERM."""

WARNING_SECONDS = 120
"""How long before its limit Slurm warns a job."""

PORT = 29500
"""Where the processes of a run meet: torchrun's own default."""

RUNS = "/vu-runs"
"""Where SkyPilot mounts the bucket of the runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be run.

    Attributes:
        name: of the job.
        program: the `vu` of this environment, absolute.
        arguments: its arguments, the first of which is its command.
        folder: from which relative paths are meant, absolute.
        inputs: files and folders outside of ``folder`` that it reads, absolute.
    """

    name: str
    program: str
    arguments: Sequence[str]
    folder: Path
    inputs: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Machines:
    """What it is to be run on.

    Attributes:
        gpu: model of the GPUs, as the scheduler calls it; None: any.
        gpus: GPUs of a machine; 0 for none.
        nodes: machines, of which a training takes all.
        seconds: limit of its time; None: the scheduler's own.
        parts: elements of a job array, which share the cells of a sweep; None: one job.
        spot: whether machines may be taken away at any time, for a lower price.
    """

    gpu: str | None = None
    gpus: int = 1
    nodes: int = 1
    seconds: float | None = None
    parts: int | None = None
    spot: bool = True

    @property
    def processes(self) -> int:
        """Of one run on all machines."""
        return max(1, self.gpus) * self.nodes


def check_fit(work: Work, machines: Machines) -> None:
    """Refuse what would leave machines idle.

    Raises:
        ConfigError: a sweep is to take several machines or GPUs at once, or anything else is to be divided.
    """
    command = work.arguments[0]
    if machines.parts is not None and command not in ("sweep", "sweep-rank"):
        raise ConfigError(f"vu {command} has no parts", key="--parts", remedy="leave it out")
    if command != "train" and machines.processes > 1:
        message = f"vu {command} works on one GPU at a time"
        raise ConfigError(message, key="--gpus", remedy="--parts N for a sweep on Slurm, or --engine ray")


def slurm_script(work: Work, machines: Machines) -> str:
    """A batch script for ``sbatch``.

    Slurm signals the processes themselves before the limit; they save and leave with a code of ``AGAIN``, and the job
    asks to be queued again.

    Raises:
        ConfigError: see ``check_fit``.
    """
    check_fit(work, machines)
    options = {
        "job-name": work.name,
        "nodes": machines.nodes,
        "ntasks-per-node": max(1, machines.gpus),
        **({"gpus-per-node": _gpus(machines)} if machines.gpus else {}),
        **({} if machines.seconds is None else {"time": _clock(machines.seconds)}),
        "signal": f"USR1@{WARNING_SECONDS}",
        "requeue": None,
        "open-mode": "append",
        "output": "%x-%j.log",
    }
    command, before = shlex.join([work.program, *work.arguments]), []
    if machines.parts:
        before = [f'part=(${{SLURM_ARRAY_TASK_ID:+--part "$SLURM_ARRAY_TASK_ID/{machines.parts}"}})']
        command += ' "${part[@]}"'
    elif machines.processes > 1:
        before = [
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"export MASTER_ADDR MASTER_PORT={PORT}",
        ]
        ranks = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS"
        command = f"bash -c {shlex.quote(f'export {ranks}; exec {command}')}"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in options.items()),
        *_how_to_submit(machines),
        f"cd {shlex.quote(str(work.folder))} || exit 2",
        *before,
        f"srun --kill-on-bad-exit=1 {command}",
        "code=$?",
        f"case $code in {'|'.join(map(str, AGAIN))})  # goes on from its last checkpoint",
        '  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}" ;;',
        "esac",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _gpus(machines: Machines) -> str:
    return f"{machines.gpu}:{machines.gpus}" if machines.gpu else str(machines.gpus)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds, as Slurm reads a time."""
    whole = round(seconds)
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _how_to_submit(machines: Machines) -> list[str]:
    if machines.parts is None:
        return ["# sbatch FILE"]
    return [
        "# The cells, and the answer when all of them are done:",
        f"#   cells=$(sbatch --parsable --array=0-{machines.parts - 1} FILE)",
        "#   sbatch --dependency=afterok:$cells FILE",
    ]


def skypilot_task(work: Work, machines: Machines) -> str:
    """A task for ``sky jobs launch``: on machines that may be taken away it goes on elsewhere, from its bucket.

    Raises:
        ConfigError: see ``check_fit``; the command names a runs folder, which has to be the bucket; or what it reads is
            not here.
    """
    check_fit(work, machines)
    if machines.parts is not None or machines.seconds is not None:
        raise ConfigError("is of Slurm", key="--parts" if machines.parts else "--time", remedy="leave it out")
    if any(argument.split("=")[0] == "--runs-dir" for argument in work.arguments):
        raise ConfigError(f"on SkyPilot runs go to {RUNS}, a bucket", key="--runs-dir", remedy="leave it out")
    arguments = [*work.arguments, "--runs-dir", RUNS]
    run = shlex.join(["vu", *arguments])
    if machines.processes > 1:
        run = (
            'torchrun --nnodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK"'
            ' --nproc-per-node "${SKYPILOT_NUM_GPUS_PER_NODE:-1}"'
            f' --master-addr "$(head -n 1 <<< "$SKYPILOT_NODE_IPS")" --master-port {PORT}'
            f" -m vectoruniverse {shlex.join(arguments)}"
        )
    for path in work.inputs:
        if not path.exists():
            raise ConfigError("is not here, so that it cannot be uploaded", file=path)
    inputs = {str(path): str(path) for path in work.inputs}
    task: dict[str, Any] = {
        "name": work.name,
        "num_nodes": machines.nodes,
        "resources": {
            **({"accelerators": f"{machines.gpu}:{machines.gpus}"} if machines.gpus and machines.gpu else {}),
            "use_spot": machines.spot,
            "job_recovery": {"max_restarts_on_errors": 3, "recover_on_exit_codes": list(AGAIN)},
        },
        "workdir": str(work.folder),
        "file_mounts": {**inputs, RUNS: {"name": f"{work.name.lower()}-runs", "mode": "MOUNT_CACHED"}},
        "secrets": {"WANDB_API_KEY": ""},
        "setup": "command -v vu || pip install vectoruniverse",
        "run": run,
    }
    remarks = (
        "# sky jobs launch --secret WANDB_API_KEY FILE\n# The bucket's name has to be yours alone; see file_mounts.\n"
    )
    return remarks + yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=1000)
