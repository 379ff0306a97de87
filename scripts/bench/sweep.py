"""A sweep of seven ranks, beside as many separate runs."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from typing import Any

from bench.rounds import Case, Measured, table
from bench.start import COLUMNS, VU, quickstart, seconds

RANKS = (1, 2, 4, 8, 16, 32, 64)
ONE_SWEEP, SINGLE_RUNS = "vu sweep-rank", f"vu train, {len(RANKS)} times"
UPPER = ("adapter.vision_layers_to_transform=[3]", "adapter.text_layers_to_transform=[2]")
"""The last block of each of tiny-clip's towers."""
SWEEPS = {
    ONE_SWEEP: (),
    f"{ONE_SWEEP}, upper third": UPPER,
    f"{ONE_SWEEP}, upper third, trunk kept": (*UPPER, "views.pool=4"),
}
"""Settings of each sweep beside quickstart's own."""


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    settings = {"openmoji": str(options.openmoji), "cache": str(options.work / "cache"), "epochs": options.sweep_epochs}
    group = f"quickstart at {len(RANKS)} ranks, epochs: {options.sweep_epochs}"
    return [Case("sweep", group, name, settings) for name in (ONE_SWEEP, SINGLE_RUNS, *[*SWEEPS][1:])]


def measure(case: Case) -> dict[str, float]:
    settings = case.settings
    with tempfile.TemporaryDirectory() as runs:
        options = quickstart(settings["openmoji"], settings["cache"], runs, settings["epochs"])
        if case.name in SWEEPS:
            ranks = ("--ranks", ",".join(map(str, RANKS)), "--lrs", "fixed", "--no-pattern")
            less = [word for setting in SWEEPS[case.name] for word in ("--set", setting)]
            return {"seconds": seconds((*VU, "sweep-rank", *options, *less, *ranks))}
        return {"seconds": sum(seconds((*VU, "train", *options, "--set", f"adapter.rank={rank}")) for rank in RANKS)}


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return table(found, COLUMNS)
