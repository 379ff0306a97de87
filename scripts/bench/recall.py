"""Exact ranks of every row's right answer, beside the bare matrix product they cannot do without."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.machine import clock, peak_mib, reset_peak
from bench.rounds import Case, Column, Measured, table
from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.retrieval import pair_ranks

WIDTH = 512
BARE, RANKS, SHARED = "bare product", "exact ranks", "exact ranks, each title twice"
COLUMNS = (
    Column("seconds", "seconds", ".3f"),
    Column("GFLOP/s", "gflops", ".0f"),
    Column("memory beyond the rows, MiB", "memory", ",.0f"),
)


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    return [
        Case("recall", f"{rows:,} x {rows:,}", name, {"rows": rows})
        for rows in options.recall_rows
        for name in (BARE, RANKS, SHARED)
    ]


def measure(case: Case) -> dict[str, float]:
    count = case.settings["rows"]
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    image = F.normalize(text + torch.randn(text.shape, generator=generator) / WIDTH**0.5, dim=1)
    rows = np.arange(count)
    items = PairItems(rows, rows // 2 if case.name == SHARED else rows)

    def work(first: int) -> None:
        if case.name == BARE:
            bare(image[:first], text)
        else:
            pair_ranks(image, text, items)

    bare(image[:64], text[:64])
    before, started = reset_peak(), clock()
    work(count)
    seconds = clock() - started
    answers = len(items.gallery())  # distinct ones; the bare product has all rows
    flop = 2 * count * (count if case.name == BARE else answers) * WIDTH
    return {"seconds": seconds, "gflops": flop / seconds / 1e9, "memory": peak_mib() - before}


def bare(image: torch.Tensor, text: torch.Tensor) -> None:
    """The product in blocks that fit the memory of a small machine, nothing done with it."""
    for block in image.split(4096):
        block @ text.T


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return f"One direction, unit rows of {WIDTH}, fp32.\n\n{table(found, COLUMNS)}"
