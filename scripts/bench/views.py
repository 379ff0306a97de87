"""Two views and the linear loss, beside the original notes' loop."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from bench.machine import training_peak_mib
from bench.material import Material
from bench.rounds import Case, Column, Measured, table

OURS, NOTES = "vectoruniverse", "the original notes' loop"
FORMATS = {OURS: "fp32", f"{OURS}, precision auto": "auto", NOTES: "fp32"}
"""Of each contestant; the notes know no other."""
COLUMNS = (
    Column("pairs/s", "pairs", ".2f"),
    Column("pairs/s, first epoch", "pairs_first", ".2f"),
    Column("peak memory, MiB", "memory", ",.0f"),
)


def check(options: Namespace) -> Case:
    """Both losses of the same rows."""
    return Case("views", "check", "both", {})


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    settings = {"folder": str(options.work), "epochs": options.epochs}
    return [
        Case("views", f"two views, batch {batch}", name, {**settings, "batch": batch})
        for batch in options.batch
        for name in FORMATS
        if re.search(options.only, name)
    ]


def measure(case: Case) -> dict[str, float]:
    if case.group == "check":
        return same_loss()
    material, batch = Material(Path(case.settings["folder"])), case.settings["batch"]
    if case.name == NOTES:
        from bench.notes_loop import NotesLoop

        contestant: Any = NotesLoop(material, batch, FORMATS[NOTES])
    else:
        from bench.ours import TWO_VIEWS, Ours

        contestant = Ours(material, batch, FORMATS[case.name], TWO_VIEWS)
    seconds, rows = contestant.epochs(case.settings["epochs"]), len(material.rows())
    later = sum(seconds[1:]) / len(seconds[1:])
    return {"seconds": later, "pairs": rows / later, "pairs_first": rows / seconds[0], "memory": training_peak_mib()}


def same_loss() -> dict[str, float]:
    """Of random unit rows, by both.

    Raises:
        SystemExit: they differ.
    """
    from bench.notes_loop import notes_loss
    from vectoruniverse.losses.contrastive import alignment_anisotropy

    torch.manual_seed(0)
    views = {view: normalize(torch.randn(16, 512), dim=1) for view in ("I", "T", "I+", "T+")}
    ours = float(alignment_anisotropy(views, form="linear", temperature=0.05).total)
    theirs = float(notes_loss(*views.values()))
    if abs(ours - theirs) > 1e-4 * abs(theirs):
        raise SystemExit(f"the original notes' loop computes another loss: {theirs} and not {ours}")
    return {OURS: ours, NOTES: theirs}


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return table(found, COLUMNS)
