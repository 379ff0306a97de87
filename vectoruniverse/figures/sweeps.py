"""What a sweep says: the metric, the cost and the shape of the space at each value of the swept key.

Every figure has the swept values as ticks of one axis, so that figures can be read below each other. The axis is
logarithmic where the values span a factor of 8, as ranks do.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from vectoruniverse.figures.style import ADAPTED, BASE, GREEN, GREY, INK, drawing, key_above, label_ends

LOG_SPAN = 8
"""Values whose largest is at least this many times the smallest stand on a logarithmic axis."""

TITLE_CHARACTERS = 62
"""A line of a title; more would leave the figure."""

Bounds = tuple[float, float, float]
"""Estimate, low, high."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of the swept key.

    Attributes:
        value: such as the rank.
        mean: over seeds and queries, with its interval.
        seeds: mean of each seed.
    """

    value: float
    mean: Bounds
    seeds: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell lies in the plane of alignment and uniformity.

    Attributes:
        value: such as the rank; None for the base.
        alignment: mean ||I - T||² of pairs.
        uniformity: log mean exp(-2 ||x - y||²), mean of pictures and texts.
    """

    value: float | None
    alignment: float
    uniformity: float


def metric_by_value(
    points: Sequence[Point],
    base: Bounds | None,
    *,
    name: str,
    metric: str,
    chosen: float | None = None,
    title: str = "",
) -> Figure:
    """The metric at each value with its interval, single seeds as faint dots, the base as a dashed line.

    Args:
        points: at least one.
        base: of the model before training.
        name: of what is swept.
        metric: such as ``recall@5``; a recall is shown in percent.
        chosen: the smallest value that is not worse than the best, which gets a ring and a name.
        title: the answer, above the figure.
    """
    values = [point.value for point in points]
    with drawing(3.5) as figure:
        axes = figure.subplots()
        if base is not None:
            axes.axhspan(base[1], base[2], color=BASE, alpha=0.13, linewidth=0)
            axes.axhline(base[0], color=BASE, linestyle=(0, (5, 3)), linewidth=1.2)
        _seed_dots(axes, points)
        for point in points:
            axes.plot([point.value] * 2, point.mean[1:], color=ADAPTED, linewidth=1.8, solid_capstyle="butt", zorder=3)
        axes.plot(values, [point.mean[0] for point in points], "-o", color=ADAPTED, markersize=5.5, zorder=4)
        found = next((point for point in points if point.value == chosen), None)
        if found is not None:
            axes.plot(found.value, found.mean[0], "o", color=GREEN, markersize=13, markerfacecolor="none", zorder=5)
        axes.set(ylabel=f"{metric}, held-out")
        metric_axis(axes.yaxis, metric)
        value_axis(axes, values, name)
        if title:
            figure.suptitle(textwrap.fill(title, TITLE_CHARACTERS), x=0.01, ha="left", fontsize=10, fontweight="bold")
        key_above(axes, _keys(seeds=any(len(point.seeds) > 1 for point in points), ring=found is not None))
        if base is not None:
            label_ends(axes, [(base[0], "base", GREY)])
    return figure


def costs(costs: Mapping[str, Mapping[float, Sequence[float]]], *, name: str) -> Figure:
    """What each value costs: one panel for each kind of cost, above each other on one axis of values.

    Args:
        costs: by label with its unit, the cost of each seed by value.
        name: of what is swept.

    Raises:
        ValueError: no kind of cost has a number.
    """
    kept = {label: found for label, found in costs.items() if any(found.values())}
    if not kept:
        raise ValueError("no cost is known")
    values = sorted({value for found in kept.values() for value in found})
    with drawing(0.7 + 1.15 * len(kept)) as figure:
        panels = figure.subplots(len(kept), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, by_value) in zip(panels, kept.items(), strict=True):
            for value, seeds in by_value.items():
                axes.plot([value] * len(seeds), seeds, "o", color=ADAPTED, alpha=0.3, markersize=3.5, linewidth=0)
            known = sorted(value for value, seeds in by_value.items() if seeds)
            middles = [float(np.median(by_value[value])) for value in known]
            axes.plot(known, middles, "-o", color=ADAPTED, markersize=5)
            axes.set_title(label, fontsize=9.5)
            axes.set_ylim(0, max(max(seeds) for seeds in by_value.values() if seeds) * 1.15 or 1)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
            axes.yaxis.set_major_formatter(lambda amount, _: f"{amount:,.6g}")
            value_axis(axes, values, "")
        panels[-1].set_xlabel(name)
    return figure


def effective_ranks(by_value: Mapping[float, Sequence[float]], base: float | None, *, name: str) -> Figure:
    """Directions that the held-out embeddings use at each value: median as a line, seeds as dots, the base dashed."""
    values = sorted(value for value, seeds in by_value.items() if seeds)
    with drawing(2.8) as figure:
        axes = figure.subplots()
        for value in values:
            seeds = by_value[value]
            axes.plot([value] * len(seeds), seeds, "o", color=ADAPTED, alpha=0.3, markersize=4, linewidth=0)
        axes.plot(values, [float(np.median(by_value[value])) for value in values], "-o", color=ADAPTED, markersize=5)
        if base is not None:
            axes.axhline(base, color=BASE, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.set(ylabel="effective rank (directions)", ylim=(0, None))
        axes.margins(y=0.12)
        value_axis(axes, values, name)
        if base is not None:
            label_ends(axes, [(base, "base", GREY)])
    return figure


def plane(places: Sequence[Place], *, name: str) -> Figure:
    """Each cell in the plane of Wang & Isola (arXiv:2005.10242), the base as an open square; lower is better for both.

    Values are told by colour from light to dark, and by a number at the mean of each value's cells.
    """
    values = sorted({place.value for place in places if place.value is not None})
    shades = dict(zip(values, shades_of(len(values)), strict=True))
    with drawing(3.4) as figure:
        axes = figure.subplots()
        for place in places:
            if place.value is None:
                axes.plot(place.uniformity, place.alignment, "s", color=INK, markerfacecolor="white", markersize=8)
                _beside(axes, place.uniformity, place.alignment, "base", INK)
            else:
                axes.plot(place.uniformity, place.alignment, "o", color=shades[place.value], markersize=5, alpha=0.8)
        middles = [_middle([place for place in places if place.value == value]) for value in values]
        if middles:
            axes.plot(*np.array(middles).T, "-", color=GREY, linewidth=0.8, zorder=1)
        for value, (x, y) in zip(values, middles, strict=True):
            _beside(axes, x, y, f"{value:g}", shades[value])
        axes.set(xlabel="uniformity (lower: more spread)", ylabel="alignment (lower: pairs closer)")
        axes.margins(0.12)
        axes.set_title(f"numbers: {name}", fontsize=9)
    return figure


def validation_curves(
    curves: Mapping[float, Sequence[Mapping[float, float]]], base: float | None, *, name: str, metric: str
) -> Figure:
    """The validation metric by epoch: the mean over seeds of each value as a line, seeds faint behind it.

    Args:
        curves: by value, one mapping of epoch → metric for each seed.
        base: of the model before training.
        name: of what is swept.
        metric: such as ``recall@5``.
    """
    values = sorted(value for value, seeds in curves.items() if any(seeds))
    with drawing(3.3) as figure:
        axes, ends = figure.subplots(), []
        for value, shade in zip(values, shades_of(len(values)), strict=True):
            for seed in curves[value]:
                axes.plot(list(seed), list(seed.values()), color=shade, linewidth=0.7, alpha=0.35)
            mean = _mean_curve(curves[value])
            axes.plot(list(mean), list(mean.values()), color=shade, linewidth=2)
            ends.append((list(mean.values())[-1], f"{name} {value:g}", shade))
        if base is not None:
            axes.axhline(base, color=BASE, linestyle=(0, (5, 3)), linewidth=1.2)
            ends.append((base, "base", GREY))
        axes.set(xlabel="epoch", ylabel=f"{metric}, held-out")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.margins(x=0.01)
        metric_axis(axes.yaxis, metric)
        label_ends(axes, ends)
    return figure


def value_axis(axes: Axes, values: Sequence[float], name: str) -> None:
    """A tick at each of the values, on a logarithmic axis where they span enough."""
    if min(values) > 0 and max(values) >= LOG_SPAN * min(values):
        axes.set_xscale("log", base=2)
        low, high = min(values) / 1.25, max(values) * 1.25
    else:
        room = 0.06 * (max(values) - min(values)) or 0.5
        low, high = min(values) - room, max(values) + room
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in values]))
    axes.xaxis.set_minor_locator(NullLocator())
    if name:
        axes.set_xlabel(name)


def metric_axis(axis: Axis, metric: str) -> None:
    """Shares such as recall in percent, anything else as the number that it is."""
    if "recall@" in metric or "accuracy@" in metric:
        axis.set_major_formatter(lambda share, _: f"{round(share * 100, 6):g}%")


def shades_of(count: int) -> list[str]:
    """Colours from light to dark for ordered values, told apart in grey print as well."""
    return [to_hex(colormaps["viridis_r"](place)) for place in np.linspace(0.22, 0.95, count)]


def _seed_dots(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        if len(point.seeds) > 1:
            axes.plot(
                [point.value] * len(point.seeds), point.seeds, "o", color=ADAPTED, alpha=0.35, markersize=3.5, zorder=2
            )


def _keys(*, seeds: bool, ring: bool) -> list[Line2D]:
    keys = [Line2D([], [], color=ADAPTED, marker="o", label="mean, 95 % interval")]
    if seeds:
        keys.append(Line2D([], [], color=ADAPTED, alpha=0.4, marker="o", markersize=3.5, linestyle="", label="a seed"))
    if ring:
        label = "smallest not worse"
        keys.append(
            Line2D([], [], color=GREEN, marker="o", markersize=9, markerfacecolor="none", linestyle="", label=label)
        )
    return keys


def _middle(places: Sequence[Place]) -> tuple[float, float]:
    return float(np.mean([p.uniformity for p in places])), float(np.mean([p.alignment for p in places]))


def _beside(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(text, (x, y), xytext=(7, 5), textcoords="offset points", color=colour, fontsize=9, fontweight="bold")


def _mean_curve(seeds: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean over the seeds at the epochs that all of them reached."""
    shared = sorted(set.intersection(*(set(seed) for seed in seeds if seed)))
    return {epoch: float(np.mean([seed[epoch] for seed in seeds if seed])) for epoch in shared}
