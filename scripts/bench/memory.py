"""Memory of a step by rows of a batch: all at once, with activations made again, and in micro-batches."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.machine import clock, device, reset_training_peak, training_peak_mib
from bench.material import Material, make
from bench.rounds import Case, Column, Measured, table

SIDE = 96
"""Pixels of a picture's sides, which no step sees: it has what the model reads."""
VIEWS = ("loss={name: alignment_anisotropy}",)
WAYS = {
    "all at once": VIEWS,
    "train.activation_checkpointing": (*VIEWS, "train.activation_checkpointing=true"),
    "train.micro_batch 64": (*VIEWS, "train.micro_batch=64"),
}
"""Settings of two views; the second passes blocks another way, which the benchmark enters as vu does."""
MOST_AT_ONCE = 512
"""Rows at most without micro-batches, so that a neighbour keeps his memory."""

COLUMNS = (Column("seconds", "seconds", ".2f"), Column("memory beyond the model's, MiB", "memory", ",.0f"))


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    folder = options.work / "memory"
    make(folder, "tiny-clip", max(options.memory_rows), sides=(SIDE, SIDE))
    return [
        Case("memory", f"{rows:,} pairs", name, {"folder": str(folder), "batch": rows})
        for rows in options.memory_rows
        for name in WAYS
        if rows <= MOST_AT_ONCE or "micro_batch" in name
    ]


def measure(case: Case) -> dict[str, float]:
    """Of one update, the model and its pictures being there."""
    from bench.ours import Ours
    from vectoruniverse.training.blocks import passed_as_asked

    ours = Ours(Material(Path(case.settings["folder"])), case.settings["batch"], "fp32", WAYS[case.name])
    with passed_as_asked(ours.task.encoder.model, ours.experiment.train, device()):
        before, started = reset_training_peak(), clock()
        ours.step()
        return {"seconds": clock() - started, "memory": training_peak_mib() - before}


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return f"tiny-clip, LoRA, two views, log_sum_exp, fp32: one update.\n\n{table(found, COLUMNS)}"
