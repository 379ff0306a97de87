"""How soon a command begins."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.machine import clock
from bench.rounds import Case, Column, Measured, table

VU = (sys.executable, "-m", "vectoruniverse.cli")

FIRST_STEP = """
import os
from vectoruniverse.training.loop import Trainer
whole = Trainer.train_step
def first(*arguments, **settings):
    whole(*arguments, **settings)
    os._exit(0)
Trainer.train_step = first
from vectoruniverse.cli import main
main()
"""
"""A `vu` that ends with its first update."""

STARTS = {
    "vu --help": (*VU, "--help"),
    "import torch": (sys.executable, "-c", "import torch"),
    "import transformers' Trainer and CLIPModel": (sys.executable, "-c", "from transformers import CLIPModel, Trainer"),
    "import sentence_transformers": (sys.executable, "-c", "import sentence_transformers"),
}
COLD, WARM = "first update of quickstart", "first update of quickstart, pictures decoded before"
COLUMNS = (Column("seconds", "seconds", ".2f"),)


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    settings = {"openmoji": str(options.openmoji), "cache": str(options.work / "cache")}
    return [Case("start", "begin", name, settings) for name in (*STARTS, COLD, WARM)]


def measure(case: Case) -> dict[str, float]:
    if case.name in STARTS:
        return {"seconds": seconds(STARTS[case.name])}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache" if case.name == COLD else Path(case.settings["cache"])
        command = (sys.executable, "-c", FIRST_STEP, "train", *quickstart(case.settings["openmoji"], cache, folder))
        if case.name == WARM and not cache.exists():
            seconds(command)
        return {"seconds": seconds(command)}


def quickstart(openmoji: str, cache: Path | str, runs: str, epochs: int = 1) -> list[str]:
    """Options of a vu command that trains it."""
    settings = [f"data.root={openmoji}", f"data.cache_dir={cache}", f"train.epochs={epochs}", "wandb.mode=disabled"]
    given = [word for setting in settings for word in ("--set", setting)]
    return ["--config", "quickstart.yaml", "--runs-dir", runs, "--quiet", *given]


def seconds(command: tuple[str, ...]) -> float:
    """Of a command from its start to its end."""
    started = clock()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return clock() - started


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return table(found, COLUMNS)
