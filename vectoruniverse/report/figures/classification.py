"""What a model takes for what, and whether it is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from vectoruniverse.metrics.classification import Reliability
from vectoruniverse.report.figures.style import BLUE, DASHES, GREY, INK, VERMILLION, WIDTH, drawable, drawing, key_above

LABEL_CHARACTERS = 24
"""A longer name of a class is cut."""

COUNTED_CLASSES = 12
"""With more classes the cells are too small for their counts."""

SHORT_LABEL = 3
"""Longer names are turned below the columns, so that they do not run into each other."""


def confusion(
    matrix: ArrayLike,
    names: Sequence[str],
    rows: ArrayLike | None = None,
    *,
    had: str = "class",
    said: str = "predicted class",
) -> Figure:
    """Confusion matrix: classes as rows, predictions as columns, shaded by the share of the row, counts inside.

    Args:
        matrix: counts (C, C).
        names: of the C classes.
        rows: how many rows are of each class (C,), where they are not what ``matrix`` sums to.
        had: what a class is.
        said: what a prediction is.

    Raises:
        ValueError: not as many rows and columns as names.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"a matrix of {len(names)} classes is needed, got shape {counts.shape}")
    totals = counts.sum(axis=1) if rows is None else np.asarray(rows, dtype=np.int64)
    shares = counts / np.maximum(totals, 1)[:, None]
    side = min(WIDTH, 1.9 + 0.34 * len(names))
    with drawing(side, width=min(WIDTH, side + 1.2)) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.8)
        bar.set_label(f"share of the {had}'s rows")
        _name_classes(axes, names)
        axes.set(xlabel=said, ylabel=had)
        if len(names) <= COUNTED_CLASSES:
            _write_counts(axes, counts, shares)
    return figure


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    places, labels = range(len(names)), [_short(name) for name in names]
    turned = any(len(label) > SHORT_LABEL for label in labels)
    axes.set_xticks(places, labels, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(places, labels)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8.5)


def reliability(
    bins: Reliability,
    *,
    sure: str = "confidence in the predicted class",
    right: str = "accuracy",
    counted: str = "rows",
) -> Figure:
    """Reliability diagram: accuracy against confidence, and below it how many rows have which confidence.

    Args:
        bins: of the rows.
        sure: what the confidence is.
        right: what the accuracy is.
        counted: what the rows are.
    """
    size = len(bins.count)
    middles, full = (np.arange(size) + 0.5) / size, bins.count > 0
    with drawing(3.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=GREY, linestyle=DASHES)
        upper.bar(middles[full], bins.accuracy[full], width=0.9 / size, color=BLUE)
        upper.plot(bins.confidence[full], bins.accuracy[full], "o", color=VERMILLION, markersize=4)
        upper.set(ylim=(0, 1.02), ylabel=right)
        upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        mean = f"at mean {sure.split()[0]}"
        key_above(
            upper,
            [
                Patch(color=BLUE, label=right),
                Line2D([], [], color=VERMILLION, marker="o", markersize=4, linestyle="", label=mean),
                Line2D([], [], color=GREY, linestyle=DASHES, label="as right as sure"),
            ],
        )
        upper.text(0.02, 0.94, f"calibration error {bins.error:.3f}", va="top", color=INK)
        lower.bar(middles, bins.count, width=0.9 / size, color=GREY)
        lower.set(xlim=(0, 1), xlabel=sure, ylabel=counted)
        lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _short(name: str) -> str:
    drawn = drawable(name)
    return drawn if len(drawn) <= LABEL_CHARACTERS else drawn[: LABEL_CHARACTERS - 1] + "…"
