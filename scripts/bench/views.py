"""Two views and the linear loss, beside the original notes' loop."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from bench.machine import peak_mib
from bench.material import Material
from bench.rounds import Case, Column, Measured, table

CONTESTANTS = ("vectoruniverse", "the original notes' loop")
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
        Case("views", f"two views, fp32, batch {batch}", name, {**settings, "batch": batch})
        for batch in options.batch
        for name in CONTESTANTS
    ]


def measure(case: Case) -> dict[str, float]:
    if case.group == "check":
        return same_loss()
    material, batch = Material(Path(case.settings["folder"])), case.settings["batch"]
    if case.name == "vectoruniverse":
        from bench.ours import TWO_VIEWS, Ours

        contestant: Any = Ours(material, batch, "fp32", TWO_VIEWS)
    else:
        from bench.notes_loop import NotesLoop

        contestant = NotesLoop(material, batch, "fp32")
    seconds, rows = contestant.epochs(case.settings["epochs"]), len(material.rows())
    later = sum(seconds[1:]) / len(seconds[1:])
    return {"seconds": later, "pairs": rows / later, "pairs_first": rows / seconds[0], "memory": peak_mib()}


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
    return {"vectoruniverse": ours, "the original notes' loop": theirs}


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return table(found, COLUMNS)
