"""A metric over two swept keys at once, as a map of numbered cells."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vectoruniverse.metrics.catalogue import ARROWS, describe
from vectoruniverse.report.figures.style import INK, WIDTH, drawable, drawing
from vectoruniverse.report.figures.sweeps import TITLE_CHARACTERS
from vectoruniverse.report.figures.swept import tick_label, turn_long_labels
from vectoruniverse.tracking.series import Floats

CHARACTER = 0.085
"""Inches that a character of a number takes; a map of many columns grows wider, so that its numbers stay legible."""

LIGHT = 0.5
"""Luma from which a cell's number is dark."""


def heat_map(
    values: Mapping[tuple[str, str], float],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str],
    y_ticks: Sequence[str],
    metric: str,
    marked: Sequence[tuple[str, str]] = (),
    title: str = "",
) -> Figure:
    """The metric at each pair of values, as a colour and as a number; what was not tried stays empty.

    Colours are evenly spaced to the eye and told apart with every kind of colour vision (cividis), the brightest at the
    better end.

    Args:
        values: by what the ticks of x and y say; at least one.
        x_label: name of the key across.
        y_label: name of the key upwards.
        x_ticks: values of the key across, from the left.
        y_ticks: values of the other key, from below.
        metric: such as ``recall@5``.
        marked: cells to outline.
        title: the answer, above the figure.

    Raises:
        ValueError: nothing to draw, or a cell that no tick is for.
    """
    table = _table(values, x_ticks, y_ticks)
    what = describe(metric)
    longest = max(len(what.tell(value)) for value in values.values())
    width = max(WIDTH, 1.9 + (longest + 1) * CHARACTER * len(x_ticks))
    with drawing(1.2 + 0.36 * len(y_ticks), width=width) as figure:
        axes = figure.subplots()
        colours = "cividis_r" if what.better == "lower" else "cividis"
        drawn = axes.pcolormesh(np.ma.masked_invalid(table), cmap=colours, edgecolors="white", linewidth=1.2)
        _name_ticks(axes, x_ticks, y_ticks)
        axes.set(xlabel=drawable(x_label), ylabel=drawable(y_label))
        for x, y in marked:
            _outline(axes, x_ticks.index(x), y_ticks.index(y))
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                number = axes.text(column + 0.5, row + 0.5, what.tell(value), ha="center", va="center", fontsize=8.5)
                number.set_color(_legible(drawn, value))
                if (x_ticks[column], y_ticks[row]) in marked:
                    number.set_fontweight("bold")
        axes.set_title(f"{drawable(metric)}{ARROWS[what.better]}", fontsize=9.5)
        figure.colorbar(drawn, ax=axes, aspect=25)
        if title:
            shown = textwrap.fill(drawable(title), TITLE_CHARACTERS)
            figure.suptitle(shown, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _table(values: Mapping[tuple[str, str], float], x_ticks: Sequence[str], y_ticks: Sequence[str]) -> Floats:
    """(y, x), NaN where nothing is known."""
    strange = [cell for cell in values if cell[0] not in x_ticks or cell[1] not in y_ticks]
    if strange or not values:
        raise ValueError(f"no tick is for {strange[0]}" if strange else "no cell has a value")
    return np.array([[values.get((x, y), np.nan) for x in x_ticks] for y in y_ticks])


def _name_ticks(axes: Axes, x_ticks: Sequence[str], y_ticks: Sequence[str]) -> None:
    across = [tick_label(label) for label in x_ticks]
    axes.set_xticks(np.arange(len(across)) + 0.5, across)
    axes.set_yticks(np.arange(len(y_ticks)) + 0.5, [tick_label(label) for label in y_ticks])
    turn_long_labels(axes, across)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _outline(axes: Axes, column: int, row: int) -> None:
    """A dark line with a light one within, seen on every colour of the map."""
    for inset, width, colour in ((0.0, 3.0, INK), (0.035, 1.2, "white")):
        sides = (1 - 2 * inset, 1 - 2 * inset)
        line = Rectangle((column + inset, row + inset), *sides, fill=False, linewidth=width, edgecolor=colour)
        axes.add_patch(line).set(zorder=3, clip_on=False)


def _legible(drawn: QuadMesh, value: float) -> str:
    """Ink on light cells, white on dark ones."""
    red, green, blue, _ = drawn.to_rgba(np.array(value))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > LIGHT else "white"
