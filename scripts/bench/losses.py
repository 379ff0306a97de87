"""The losses alone, forward and backward, from 64 rows to as many as memory allows."""

from __future__ import annotations

import contextlib
import resource
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench.machine import median_seconds, peak_mib, reset_peak, told_mib
from bench.rounds import Case, Column, Measured, table
from vectoruniverse.losses.contrastive import alignment_anisotropy, info_nce, siglip

WIDTH, SCALE = 512, 20.0
PEER, NOTES = "sentence-transformers MNRL", "the original notes' loop"
NOTES_MOST = 64
"""Rows at most for the loop over pairs, which takes minutes of more."""

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def ours(loss: Callable[..., Any], **settings: Any) -> Loss:
    return lambda views: loss(views, **settings).total


def mnrl(views: Mapping[str, Tensor]) -> Tensor:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    loss = MultipleNegativesRankingLoss(None, scale=SCALE, **both)
    return loss.compute_loss_from_embeddings([views["I"], views["T"]], None)


def notes(views: Mapping[str, Tensor]) -> Tensor:
    from bench.notes_loop import notes_loss

    return notes_loss(views["I"], views["T"], views["I+"], views["T+"])


LOSSES: dict[str, Loss] = {
    "info_nce": ours(info_nce, logit_scale=SCALE),
    PEER: mnrl,
    "siglip": ours(siglip, logit_scale=SCALE, logit_bias=-10.0),
    "log_sum_exp": ours(alignment_anisotropy, form="log_sum_exp", temperature=1 / SCALE),
    "linear": ours(alignment_anisotropy, form="linear", temperature=1 / SCALE),
    NOTES: notes,
}
"""The peer computes what info_nce does, and the notes' loop what linear does."""

COLUMNS = (Column("ms", "ms", ",.2f"), Column("memory beyond the rows, MiB", "memory", ",.0f"))


def cases(options: Namespace, facts: dict[str, Any]) -> list[Case]:
    return [
        Case("losses", f"N = {rows:,}", name, {"rows": rows})
        for rows in options.loss_rows
        for name in LOSSES
        if name != NOTES or rows <= NOTES_MOST
    ]


def measure(case: Case) -> dict[str, float]:
    """Time and memory; nothing where the memory that is free now does not suffice."""
    loss, views = LOSSES[case.name], unit_rows(case.settings["rows"])
    loss(unit_rows(2)).backward()  # imports, and what the library makes once
    before = reset_peak()
    try:
        with memory_that_is_free():
            seconds = median_seconds(partial(step, loss, views))
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return {}
    return {"seconds": seconds, "ms": 1000 * seconds, "memory": peak_mib() - before}


def step(loss: Loss, views: Mapping[str, Tensor]) -> None:
    for view in views.values():
        view.grad = None
    loss(views).backward()


def unit_rows(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        view: normalize(torch.randn(rows, WIDTH, generator=generator), dim=1).requires_grad_()
        for view in ("I", "T", "I+", "T+")
    }


@contextlib.contextmanager
def memory_that_is_free() -> Iterator[None]:
    """Within it this process gets three quarters of what is free, so that a loss of too many rows fails alone."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = told_mib("/proc/self/status", "VmData") + told_mib("/proc/meminfo", "MemAvailable") * 0.75
    resource.setrlimit(resource.RLIMIT_DATA, (int(most * 2**20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def page(found: list[Measured], facts: dict[str, Any]) -> str:
    return f"Forward and backward of unit rows of {WIDTH}; – is more memory than was free.\n\n{table(found, COLUMNS)}"


def figure(found: list[Measured]) -> bytes:
    """SVG of milliseconds against N, both logarithmic."""
    from matplotlib.ticker import NullLocator

    from vectoruniverse.report.figures.style import BLUE, GREY, INK, LINES, SERIES, drawing, svg

    names = list(dict.fromkeys(one.case.name for one in found))
    colours = dict(zip(LOSSES, (BLUE, GREY, *SERIES[:3], INK), strict=True))
    with drawing(3.0) as drawn:
        axes = drawn.add_subplot()
        drawn_names: list[str] = []
        for number, name in enumerate(names):
            points = [(one.case.settings["rows"], one.median("ms")) for one in found if one.case.name == name]
            known = [(n, ms) for n, ms in points if ms is not None]
            if known:
                line = LINES[number % len(LINES)]
                axes.plot(*zip(*known, strict=True), line, marker="o", markersize=3, color=colours[name])
                drawn_names.append(name)
        axes.set(xscale="log", yscale="log", xlabel="rows of a batch, N", ylabel="forward and backward, ms")
        axes.set_xticks(sorted({one.case.settings["rows"] for one in found}))
        axes.get_xaxis().set_major_formatter("{x:,.0f}")
        axes.get_yaxis().set_major_formatter("{x:,g}")
        axes.get_xaxis().set_minor_locator(NullLocator())
        axes.legend(drawn_names, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
        return svg(drawn)
