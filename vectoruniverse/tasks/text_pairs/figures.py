"""Several text encoders beside each other on the same pairs: scores of single pairs, and the directions in use.

Shapes: N pairs, K directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from vectoruniverse.report.figures.runs import colours_of
from vectoruniverse.report.figures.space import histogram
from vectoruniverse.report.figures.style import GREY, INK, drawing, shown_name

Floats = NDArray[np.float64]

BINS = 40
LEAST_TIMES_CHANCE = 1 / 16
"""Row and column scores below this many times chance are drawn there, zero among them."""


class Scored(NamedTuple):
    """Cosine, row score and column score of each pair, all (N,), as ``vectoruniverse.metrics.pair_scores`` has them."""

    cosine: Floats
    row: Floats
    column: Floats


def cosine_histograms(encoders: Mapping[str, Scored]) -> Figure:
    """Cosines of the pairs, a panel for each encoder, on the same axes.

    Marked is the mean with negatives clipped to 0. High alone says little: an encoder that maps all texts to one point
    has 1.

    Args:
        encoders: by name.
    """
    values = [scored.cosine for scored in encoders.values()]
    low = min(0.0, *(float(cosine.min()) for cosine in values))
    edges = np.linspace(low, max(1.0, *(float(cosine.max()) for cosine in values)), BINS + 1)
    with drawing(0.75 + 1.15 * len(encoders)) as figure:
        panels = figure.subplots(len(encoders), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (name, cosine), colour in zip(
            panels, zip(encoders, values, strict=True), colours_of(encoders).values(), strict=True
        ):
            histogram(axes, cosine, edges, colour)
            _mark(axes, float(cosine.clip(min=0).mean()), f"mean {cosine.clip(min=0).mean():.3f}", colour)
            _name(axes, name)
        panels[-1].set_xlabel("cosine of the two texts of a pair")
        figure.supylabel("share of pairs", fontsize=9.5)
    return figure


def share_histograms(encoders: Mapping[str, Scored]) -> Figure:
    """Row and column scores of the pairs as multiples of chance, on a log scale; the same axes for all.

    Args:
        encoders: by name; all on the same N pairs.
    """
    chance = 1.0 / len(next(iter(encoders.values())).row)
    times = [
        [np.maximum(score / chance, LEAST_TIMES_CHANCE) for score in (scored.row, scored.column)]
        for scored in encoders.values()
    ]
    most = max(2.0, *(float(score.max()) for both in times for score in both))
    edges = np.geomspace(LEAST_TIMES_CHANCE, most * 1.001, BINS + 1)
    with drawing(0.95 + 1.2 * len(encoders)) as figure:
        panels = figure.subplots(len(encoders), 2, sharex=True, sharey=True, squeeze=False)
        for pair, (name, both), colour in zip(
            panels, zip(encoders, times, strict=True), colours_of(encoders).values(), strict=True
        ):
            for axes, score in zip(pair, both, strict=True):
                histogram(axes, score, edges, colour)
                axes.axvline(1, color=INK, linewidth=1, linestyle="--")
                _mark(axes, float(score.mean()), f"mean ×{score.mean():.3g}", colour)
            _name(pair[0], name)
        for axes, side in zip(panels[-1], ("row score", "column score"), strict=True):
            _log_axis(axes, most)
            axes.set_xlabel(f"{side}, times chance")
        figure.supylabel("share of pairs", fontsize=9.5)
    return figure


def _mark(axes: Axes, place: float, text: str, colour: str) -> None:
    """A dotted line at the mean, told in the upper left corner, where few values lie."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.axvline(place, color=colour, linewidth=1.2, linestyle=":")
    axes.text(0.02, 0.94, text, transform=axes.transAxes, va="top", fontsize=8.5, color=GREY)


def _name(axes: Axes, name: str) -> None:
    """The name above the left end: as text it may reach over the panel to the right, which a title would widen."""
    text = axes.annotate(
        shown_name(name), (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", va="bottom"
    )
    text.set_in_layout(False)
    axes.set_title(" ")  # keeps the room


def _log_axis(axes: Axes, most: float) -> None:
    """Ticks at powers of four around chance, as whole numbers and fractions."""
    axes.set_xscale("log")
    powers = [4.0**power for power in range(-2, 12) if 4.0**power <= most * 1.5]
    axes.xaxis.set_major_locator(FixedLocator(powers[:: -(-len(powers) // 6)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}" if times >= 1 else f"1/{1 / times:g}"))
