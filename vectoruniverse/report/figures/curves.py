"""What a run did over its steps: loss, the metric that counts, learning rate, directions in use.

A history is what ``metrics.jsonl`` holds: one mapping for each logged step, with ``step``, ``train/...`` and
``val/...``. Values that are not finite leave a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.figures.style import (
    ADAPTED,
    BASE,
    DASHES,
    GREY,
    IMAGE,
    INK,
    SERIES,
    TEXT,
    drawing,
    label_ends,
)
from vectoruniverse.tracking.series import Record, grouped, series

POINTS = 300
"""A longer series is drawn as the means of this many groups of steps, within a band from each group's least to most."""


def training_curves(history: Sequence[Record], *, monitor: str = "recall@5", rows: str = "held-out rows") -> Figure:
    """Loss with its named parts, and below it the validation metric of both directions beside the base's.

    The base is the model before the first step: the values logged at step 0.

    Raises:
        ValueError: the history holds no loss.
    """
    if not _has(history, "train/loss"):
        raise ValueError("the history holds no train/loss")
    evaluated = _has(history, f"val/{monitor}")
    with drawing(4.6 if evaluated else 2.6) as figure:
        panels = figure.subplots(2 if evaluated else 1, 1, sharex=True, squeeze=False)[:, 0]
        _losses(panels[0], history)
        if evaluated:
            _validation(panels[1], history, monitor, rows)
        _steps(panels[-1])
    return figure


def learning_rate(history: Sequence[Record]) -> Figure:
    """The learning rate at each logged step.

    Raises:
        ValueError: the history holds no learning rate.
    """
    if not _has(history, "train/lr"):
        raise ValueError("the history holds no train/lr")
    with drawing(2.2) as figure:
        axes = figure.subplots()
        steps, values = series(history, "train/lr")
        axes.plot(steps, values, color=ADAPTED)
        axes.set(ylabel="learning rate", ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=False)
        _steps(axes)
    return figure


def effective_rank(history: Sequence[Record], *, rows: str = "held-out rows") -> Figure:
    """Effective rank while training: of each logged batch, and of all evaluated rows beside the base's.

    The two are not comparable with each other: a batch has fewer rows, and its pictures are augmented.

    Raises:
        ValueError: the history holds no effective rank.
    """
    names = [name for name in ("train/effective_rank", "val/effective_rank") if _has(history, name)]
    if not names:
        raise ValueError("the history holds no effective rank")
    with drawing(2.6) as figure:
        axes = figure.subplots()
        ends = []
        if "train/effective_rank" in names:
            ends.append((_line(axes, history, "train/effective_rank", SERIES[1]), "batches", SERIES[1]))
        if "val/effective_rank" in names:
            ends.append((_line(axes, history, "val/effective_rank", ADAPTED, marker="o"), rows, ADAPTED))
            ends += _base_line(axes, history, "val/effective_rank", f"base, {rows.removesuffix(' rows')}")
        axes.set(ylabel="effective rank (directions)", ylim=(0, None))
        _steps(axes)
        label_ends(axes, ends)
    return figure


def _losses(axes: Axes, history: Sequence[Record]) -> None:
    parts = sorted({key for record in history for key in record if key.startswith("train/loss/")})
    if len(parts) == 1:  # it is the total
        parts = []
    ends = [(_line(axes, history, "train/loss", INK), "total" if parts else "loss", INK)]
    for i, key in enumerate(parts):
        colour = SERIES[i % len(SERIES)]
        ends.append((_line(axes, history, key, colour, dashed=True), key.removeprefix("train/loss/"), colour))
    axes.set(ylabel="training loss")
    label_ends(axes, ends)


def _validation(axes: Axes, history: Sequence[Record], monitor: str, rows: str) -> None:
    ends = []
    logged = dict.fromkeys(key for record in history for key in record if key.endswith(f"/{monitor}"))
    by_direction = [key for key in logged if describe(key.removeprefix("val/")).place == "direction"]
    for key, colour in zip(by_direction, (IMAGE, TEXT), strict=False):
        label = describe(key.removeprefix("val/")).label.removesuffix(f" {describe(monitor).label.partition(',')[0]}")
        ends.append((_line(axes, history, key, colour, marker="o"), label, colour))
    if not ends:
        ends.append((_line(axes, history, f"val/{monitor}", ADAPTED, marker="o"), monitor, ADAPTED))
    ends += _base_line(axes, history, f"val/{monitor}", "base (mean)")
    axes.set(ylabel=f"{monitor}, {rows.removesuffix(' rows')}", ylim=(0, None))
    if monitor.startswith("recall@"):
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    label_ends(axes, ends)


def _line(
    axes: Axes, history: Sequence[Record], key: str, colour: str, *, marker: str = "", dashed: bool = False
) -> float:
    """Draw a series, and return its last finite value."""
    steps, values = series(history, key)
    if len(steps) > POINTS:
        steps, values, low, high = grouped(steps, values, POINTS)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    style = "--" if dashed else "-"
    axes.plot(steps, np.where(np.isfinite(values), values, np.nan), style, color=colour, marker=marker, markersize=3)
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else 0.0


def _base_line(axes: Axes, history: Sequence[Record], key: str, label: str) -> list[tuple[float, str, str]]:
    """A dashed line at the value of step 0, where one was logged."""
    steps, values = series(history, key)
    if not len(steps) or steps[0] != 0 or not math.isfinite(values[0]):
        return []
    axes.axhline(values[0], color=BASE, linestyle=DASHES, linewidth=1.2)
    return [(float(values[0]), label, GREY)]


def _steps(axes: Axes) -> None:
    axes.set(xlabel="optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.margins(x=0.01)


def _has(history: Sequence[Record], key: str) -> bool:
    return any(key in record for record in history)
