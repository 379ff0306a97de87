"""What a data set is made of: labels and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vectoruniverse.report.figures.style import BLUE, INK, VERMILLION, drawable, drawing


def label_counts(counts: Mapping[str, int]) -> Figure:
    """Rows of each label as bars, the most frequent on top, the count beside each."""
    names = [drawable(name[:40]) for name in counts][::-1]
    values = list(counts.values())[::-1]
    with drawing(0.9 + 0.22 * len(names)) as figure:
        axes = figure.subplots()
        axes.barh(range(len(names)), values, color=BLUE, height=0.7)
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("rows")
        axes.margins(y=0.01, x=0.12)
        for place, value in enumerate(values):
            axes.annotate(f"{value:,}", (value, place), (3, 0), textcoords="offset points", va="center", color=INK)
    return figure


def lengths(values: Sequence[int], what: str, limit: int | None) -> Figure:
    """Histogram of lengths; a dashed line where the model stops reading."""
    with drawing(2.4) as figure:
        axes = figure.subplots()
        top = max([*values, limit or 0])
        axes.hist(values, bins=np.linspace(0, top + 1, min(60, top + 2)).tolist(), color=BLUE)
        axes.set_xlabel(what)
        axes.set_ylabel("rows")
        if limit is not None:
            axes.axvline(limit, color=VERMILLION, linestyle="--")
            over = sum(value > limit for value in values)
            axes.set_title(f"{over:,} of {len(values):,} texts are longer than the model reads ({limit})")
    return figure
