"""One run on several processes of one thread each, beside the same run on one process with as many threads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.rounds import Case, Column, Measured, table
from bench.start import quickstart

SHARED = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1), "4 processes, 1 thread each": (4, 1)}
"""Processes, and threads of each, by the names of contestants."""

BARE = ("eval.report=false", "eval.rivals=false", "forgetting=null", "views.count=1", "loss=info_nce")
COLUMNS = (Column("pairs/s", "pairs"), Column("seconds of steps", "seconds", ".1f"))


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    settings = {"openmoji": str(options.openmoji), "cache": str(options.work / "cache"), "epochs": options.epochs}
    return [
        Case(
            "processes",
            f"quickstart, info_nce, {number_format}, epochs: {options.epochs}",
            name,
            {**settings, "format": number_format},
        )
        for number_format in options.formats
        for name in SHARED
    ]


def measure(case: Case) -> dict[str, float]:
    """Pairs a second while updates are made, as the run's first process tells them."""
    settings, (count, threads) = case.settings, SHARED[case.name]
    with tempfile.TemporaryDirectory() as runs:
        given = (*BARE, f"train.precision={settings['format']}", "train.device=cpu", f"eval.every={settings['epochs']}")
        options = quickstart(settings["openmoji"], settings["cache"], runs, settings["epochs"])
        command = [sys.executable, "-m", "vectoruniverse", "train", *options]
        together([*command, *(word for one in given for word in ("--set", one))], count, threads)
        (state,) = Path(runs).glob("*/state.json")
        told = json.loads(state.read_text(encoding="utf-8"))
        rows = len(json.loads((state.parent / "rows.json").read_text(encoding="utf-8"))["train"])
    return {"seconds": told["step_seconds"], "pairs": rows * settings["epochs"] / told["step_seconds"]}


def together(command: list[str], count: int, threads: int) -> None:
    """Run a command in so many processes of one run, as torchrun does, to the end of all.

    Raises:
        SystemExit: one failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [{"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    started = [subprocess.Popen(command, env=shared | place, stderr=subprocess.PIPE, text=True) for place in places]
    said = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"{' '.join(command)}\n" + "\n".join(one[-2000:] for one in said))


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return table(found, COLUMNS)
