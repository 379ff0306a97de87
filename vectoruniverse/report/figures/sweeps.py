"""What a sweep says: the metric, the cost and the shape of the space at each value of the swept key.

Every figure has the swept values as ticks of one axis, so that figures can be read below each other. Values without an
order stand beside each other, and no line joins them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vectoruniverse.report.figures.style import (
    ADAPTED,
    BASE,
    DASHES,
    GREEN,
    GREY,
    INK,
    drawable,
    drawing,
    key_above,
    label_ends,
)
from vectoruniverse.report.figures.swept import Swept, metric_axis, seed_dots, shades_of, tick_label, value_axis

TITLE_CHARACTERS = 66
"""A line of a title; more would leave the figure."""

Bounds = tuple[float, float, float]
"""Estimate, low, high."""

ByPlace = Mapping[float, Sequence[float]]
"""Place on the axis → a number of each seed."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value at its place on the axis: the mean over seeds and queries with its interval, and that of each seed."""

    place: float
    mean: Bounds
    seeds: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a model lies in the plane.

    Attributes:
        place: of its value on the axis; None for the base.
        alignment: mean ||I - T||² of pairs.
        uniformity: log mean exp(-2 ||x - y||²), mean of pictures and texts.
    """

    place: float | None
    alignment: float
    uniformity: float


def metric_by_value(
    points: Sequence[Point],
    base: Bounds,
    swept: Swept,
    *,
    metric: str,
    evaluated_on: str = "held-out",
    chosen: float | None = None,
    title: str = "",
) -> Figure:
    """The metric at each value with its interval, single seeds as faint dots, the base as a dashed line.

    Args:
        points: at least one, ascending.
        base: of the model before training.
        swept: the axis.
        metric: such as ``recall@5``; a recall is shown in percent.
        evaluated_on: what the rows are: held-out, or training.
        chosen: place of the smallest value that is not worse than the best, which gets a ring.
        title: the answer, above the figure.
    """
    keys = [Line2D([], [], color=ADAPTED, marker="o", label="mean, 95 % interval")]
    if any(len(point.seeds) > 1 for point in points):
        keys += [Line2D([], [], color=ADAPTED, alpha=0.4, marker="o", markersize=3.5, linestyle="", label="a seed")]
    with drawing(3.6) as figure:
        axes = figure.subplots()
        axes.axhspan(base[1], base[2], color=BASE, alpha=0.13, linewidth=0)
        ends = _base_line(axes, base[0])
        for point in points:
            axes.plot([point.place] * 2, point.mean[1:], color=ADAPTED, linewidth=1.8, solid_capstyle="butt", zorder=3)
            if len(point.seeds) > 1:
                seed_dots(axes, point.place, point.seeds)
            if point.place == chosen:
                ring = Line2D([], [], color=GREEN, marker="o", markersize=9, markerfacecolor="none", linestyle="")
                ring.set_label("smallest not worse")
                axes.plot(point.place, point.mean[0], "o", color=GREEN, markersize=13, markerfacecolor="none", zorder=5)
                keys.append(ring)
        places = [point.place for point in points]
        axes.plot(
            places, [point.mean[0] for point in points], f"{swept.line}o", color=ADAPTED, markersize=5.5, zorder=4
        )
        axes.set_ylabel(f"{metric}, {evaluated_on}")
        metric_axis(axes.yaxis, metric)
        value_axis(axes, swept, places)
        if title:
            shown = textwrap.fill(drawable(title), TITLE_CHARACTERS)
            figure.suptitle(shown, x=0.01, ha="left", fontsize=10, fontweight="bold")
        key_above(axes, keys)
        label_ends(axes, ends)
    return figure


def costs(kinds: Mapping[str, ByPlace], swept: Swept) -> Figure:
    """What each value costs: one panel for each kind of cost, named with its unit, above each other on one axis.

    Raises:
        ValueError: no kind of cost has a number.
    """
    kept = {label: found for label, found in kinds.items() if any(found.values())}
    if not kept:
        raise ValueError("no cost is known")
    places = sorted({place for found in kept.values() for place in found})
    with drawing(0.8 + 1.1 * len(kept)) as figure:
        panels = figure.subplots(len(kept), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, by_place) in zip(panels, kept.items(), strict=True):
            most = _medians(axes, by_place, swept)
            axes.set_title(label, fontsize=9.5)
            axes.set_ylim(0, most * 1.2 or 1)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
            axes.yaxis.set_major_formatter(lambda amount, _: f"{amount:,.6g}")
            value_axis(axes, swept, places, named=axes is panels[-1])
    return figure


def effective_ranks(by_place: ByPlace, base: float | None, swept: Swept) -> Figure:
    """Directions that the embeddings use at each value: median as a line, seeds as dots, the base dashed."""
    with drawing(2.8) as figure:
        axes = figure.subplots()
        most = max(base or 0, _medians(axes, by_place, swept))
        axes.set(ylabel="effective rank (directions)", ylim=(0, most * 1.15 or 1))
        value_axis(axes, swept, [place for place, seeds in by_place.items() if seeds])
        label_ends(axes, _base_line(axes, base))
    return figure


def plane(positions: Sequence[Position], swept: Swept) -> Figure:
    """Each cell in the plane of Wang & Isola (arXiv:2005.10242), the base as an open square; lower is better for both.

    Values are told by colour from light to dark, and by name at the mean of each value's cells.
    """
    places = sorted({position.place for position in positions if position.place is not None})
    shades = dict(zip(places, shades_of(len(places)), strict=True))
    with drawing(3.6) as figure:
        axes = figure.subplots()
        for position in positions:
            x, y = position.uniformity, position.alignment
            if position.place is None:
                axes.plot(x, y, "s", color=INK, markerfacecolor="white", markersize=8)
                _named(axes, x, y, "base", INK)
            else:
                axes.plot(x, y, "o", color=shades[position.place], markersize=5, alpha=0.8)
        middles = [
            np.mean([(one.uniformity, one.alignment) for one in positions if one.place == place], axis=0)
            for place in places
        ]
        if middles and swept.ordered:
            axes.plot(*np.array(middles).T, "-", color=GREY, linewidth=0.8, zorder=1)
        for place, (x, y) in zip(places, middles, strict=True):
            _named(axes, float(x), float(y), tick_label(swept.labels[place]), shades[place])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))  # near-equal cells have long numbers
        axes.set(xlabel="uniformity (lower: more spread)", ylabel="alignment (lower: pairs closer)")
        axes.margins(0.15)
        axes.set_title(f"at each point: {drawable(swept.name)}", fontsize=9)
    return figure


def validation_curves(
    curves: Mapping[float, Sequence[Mapping[int, float]]],
    base: float | None,
    swept: Swept,
    *,
    metric: str,
    evaluated_on: str = "held-out",
) -> Figure:
    """The metric by epoch: the mean over seeds of each value as a line, seeds faint behind it.

    Args:
        curves: by place, one mapping of epoch → metric for each seed.
        base: of the model before training.
        swept: the axis.
        metric: such as ``recall@5``.
        evaluated_on: what the rows are.
    """
    places = sorted(place for place, seeds in curves.items() if any(seeds))
    with drawing(3.3) as figure:
        axes, ends = figure.subplots(), []
        for place, shade in zip(places, shades_of(len(places)), strict=True):
            for seed in curves[place]:
                axes.plot(list(seed), list(seed.values()), color=shade, linewidth=0.7, alpha=0.4)
            mean = mean_curve([seed for seed in curves[place] if seed])
            axes.plot(list(mean), list(mean.values()), color=shade, linewidth=2)
            ends += [(list(mean.values())[-1], tick_label(swept.tell(place)), shade)] if mean else []
        ends += _base_line(axes, base)
        axes.set(xlabel="epoch", ylabel=f"{metric}, {evaluated_on}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.margins(x=0.01)
        metric_axis(axes.yaxis, metric)
        label_ends(axes, ends)
    return figure


def mean_curve(seeds: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Mean over the seeds at the epochs that all of them reached."""
    shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
    return {epoch: float(np.mean([seed[epoch] for seed in seeds])) for epoch in shared}


def _medians(axes: Axes, by_place: ByPlace, swept: Swept) -> float:
    """Medians joined by a line, with the seeds beside them; gives the largest of all seeds."""
    known = sorted(place for place, seeds in by_place.items() if seeds)
    axes.plot(known, [np.median(by_place[place]) for place in known], f"{swept.line}o", color=ADAPTED, markersize=5)
    for place in known:
        if len(by_place[place]) > 1:
            seed_dots(axes, place, by_place[place])
    return max(max(by_place[place]) for place in known)


def _base_line(axes: Axes, base: float | None) -> list[tuple[float, str, str]]:
    """The base as a dashed line; gives its name, for ``label_ends``."""
    if base is None:
        return []
    axes.axhline(base, color=BASE, linestyle=DASHES, linewidth=1.2)
    return [(base, "base", GREY)]


def _named(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(text, (x, y), xytext=(7, 5), textcoords="offset points", color=colour, fontsize=9, fontweight="bold")
