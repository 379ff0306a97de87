"""What a trained LoRA says about itself, and what it costs to put it on: spectra, truncation, forgetting.

Shapes: L adapted layers of a tower, R directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from vectoruniverse.report.figures.style import (
    ADAPTED,
    BASE,
    DASHES,
    GREEN,
    GREY,
    IMAGE,
    TEXT,
    VERMILLION,
    drawing,
    key_above,
    label_ends,
)
from vectoruniverse.report.figures.sweeps import Bounds
from vectoruniverse.report.figures.swept import Swept, metric_axis, value_axis
from vectoruniverse.tracking.series import Floats

ENERGY_MARKS = (0.9, 0.99)
"""Shares of the energy that are named in the figure."""

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|resblocks|block)\.(\d+)\.")
"""Number of the layer within a module path."""


KINDS = ("qkv", "c_attn", "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Layers in the order in which data flows through a block; others follow."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """An adapter of rank k by two ways.

    Attributes:
        rank: k.
        trained: metric of the adapters that were trained at rank k, one for each seed.
        truncated: metric of the largest adapter cut to its first k directions, one for each seed.
    """

    rank: int
    trained: Sequence[float]
    truncated: Sequence[float]


@dataclass(frozen=True, slots=True)
class Balance:
    """Metrics of both sides at one adapter scale.

    Attributes:
        scale: 0 is the base, 1 the adapter as it was trained.
        new: on the new rows, with its interval.
        old: on rows that the base knew, with its interval.
    """

    scale: float
    new: Bounds
    old: Bounds


def singular_values(towers: Mapping[str, Sequence[Floats]], *, rank: int) -> Figure:
    """Singular values of scale · B·A by tower, and below them the energy that the first k directions hold.

    Above: the median over the layers as a line, within a band from the least to the greatest. Below: the share of the
    squared norm of all layers of the tower that stays when each keeps its first k directions.

    Args:
        towers: by name, such as ``vision``; singular values (M,), descending, of each layer (and seed).
        rank: that the adapter was trained at.
    """
    with drawing(4.4) as figure:
        panels = figure.subplots(2, len(towers), sharex=True, sharey="row", squeeze=False)
        for column, (tower, layers) in enumerate(towers.items()):
            colour = TEXT if "text" in tower else IMAGE
            table = padded(layers)
            _spectrum(panels[0, column], table, colour)
            _energy(panels[1, column], energy_held(table), colour)
            panels[0, column].set_title(f"{tower}, rank {rank}", fontsize=9.5)
            panels[1, column].set_xlabel(f"direction k of {rank}")
        panels[0, 0].set_ylabel("singular value of B·A")
        panels[1, 0].set_ylabel("energy in the first k")
    return figure


def padded(layers: Sequence[Floats]) -> Floats:
    """Singular values as one table (L, R); a layer with fewer has zeros."""
    most = max(len(values) for values in layers)
    return np.stack([np.pad(np.asarray(values, dtype=np.float64), (0, most - len(values))) for values in layers])


def energy_held(table: Floats) -> Floats:
    """Share (R,) of the squared norm of all rows of (L, R) that each row's first k values hold."""
    held = np.cumsum((table**2).sum(axis=0))
    return held / held[-1] if held[-1] > 0 else held


def layer_ranks(towers: Mapping[str, Mapping[str, float]]) -> Figure:
    """Effective rank of each adapted layer's update as a map, one for each tower: layers down, projections across.

    Args:
        towers: by name; effective rank by module path, such as
            ``vision_model.encoder.layers.3.self_attn.q_proj``.
    """
    tables = {tower: by_place(paths) for tower, paths in towers.items()}
    most = max(float(np.nanmax(table)) for _, _, table in tables.values())
    deepest = max(len(rows) for rows, _, _ in tables.values())
    with drawing(1.3 + 0.24 * deepest) as figure:
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (tower, (rows, columns, table)) in zip(panels, tables.items(), strict=True):
            drawn = axes.imshow(table, cmap="cividis", vmin=0, vmax=most, aspect="auto")
            axes.set_title(tower)
            axes.set_xticks(range(len(columns)), [column.removesuffix("_proj") for column in columns])
            axes.set_yticks(range(len(rows)), rows)
            axes.grid(visible=False)
            _numbers(axes, table, most)
        panels[0].set_ylabel("layer")
        figure.colorbar(drawn, ax=panels, label="effective rank", location="right", aspect=25)
    return figure


def by_place(paths: Mapping[str, float]) -> tuple[list[str], list[str], Floats]:
    """Layers, projections, and their table (layers, projections) with NaN where nothing was adapted."""
    cells = {}
    for path, value in paths.items():
        match = LAYER.search(path)
        cells[int(match[1]) if match else -1, path.rpartition(".")[2]] = value
    layers = sorted({layer for layer, _ in cells})
    found = {kind for _, kind in cells}
    kinds = [kind for kind in KINDS if kind in found] + sorted(found.difference(KINDS))
    table = np.array([[cells.get((layer, kind), np.nan) for kind in kinds] for layer in layers])
    return ["other" if layer < 0 else str(layer) for layer in layers], kinds, table


def truncation(points: Sequence[Truncation], base: float | None, *, metric: str) -> Figure:
    """Adapters trained at rank k beside the largest one cut to rank k: means over seeds, seeds as faint dots."""
    swept = Swept("rank k", {float(point.rank): str(point.rank) for point in points})
    with drawing(3.2) as figure:
        axes = figure.subplots()
        _by_rank(axes, {float(point.rank): point.trained for point in points}, ADAPTED, "-o")
        _by_rank(axes, {float(point.rank): point.truncated for point in points}, VERMILLION, "--s")
        axes.set_ylabel(f"{metric}, held-out")
        metric_axis(axes.yaxis, metric)
        value_axis(axes, swept, sorted(swept.labels))
        if base is not None:
            axes.axhline(base, color=BASE, linestyle=DASHES, linewidth=1.2)
            label_ends(axes, [(base, "base", GREY)])
        cut = f"rank {max(swept.labels):g} truncated to k"
        trained = Line2D([], [], color=ADAPTED, marker="o", label="trained at k")
        key_above(axes, [trained, Line2D([], [], color=VERMILLION, marker="s", linestyle="--", label=cut)])
    return figure


def forgetting(points: Sequence[Balance], *, metric: str, best_scale: float, beside: Balance | None = None) -> Figure:
    """The metric on new rows and on those that the base knew along the adapter scale, with bands of their intervals.

    Args:
        points: ascending in scale; scale 0 is the base.
        metric: such as ``recall@5``.
        best_scale: the scale that keeps most of both, which is marked.
        beside: a model that is not on the path, drawn as hollow marks at its scale.
    """
    scales = [point.scale for point in points]
    sides: list[tuple[list[Bounds], str, str, str]] = [
        ([point.new for point in points], "new rows", ADAPTED, "-o"),
        ([point.old for point in points], "known rows", VERMILLION, "--s"),
    ]
    with drawing(3.2) as figure:
        axes = figure.subplots()
        axes.axvline(best_scale, color=GREEN, linewidth=7, alpha=0.22)
        axes.set_title(f"keeps most of both: scale {best_scale:g}", color=GREEN, fontsize=9.5)
        for side, _, colour, style in sides:
            lows, highs = [low for _, low, _ in side], [high for _, _, high in side]
            axes.fill_between(scales, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.plot(scales, [estimate for estimate, _, _ in side], style, color=colour, markersize=5)
        if beside is not None:
            for value, colour, mark in ((beside.new, ADAPTED, "o"), (beside.old, VERMILLION, "s")):
                axes.plot([beside.scale], [value[0]], mark, color=colour, markerfacecolor="none", markersize=8)
        axes.set(xlabel="adapter scale (0: base, 1: as trained)", ylabel=metric, ylim=(0, None))
        axes.margins(x=0.03)
        metric_axis(axes.yaxis, metric)
        label_ends(axes, [(side[-1][0], label, colour) for side, label, colour, _ in sides])
    return figure


def _by_rank(axes: Axes, by_rank: Mapping[float, Sequence[float]], colour: str, style: str) -> None:
    known = {rank: float(np.mean(seeds)) for rank, seeds in by_rank.items() if seeds}
    for rank, seeds in by_rank.items():
        axes.plot([rank] * len(seeds), seeds, style[-1], color=colour, alpha=0.3, markersize=3.5, linewidth=0)
    axes.plot(list(known), list(known.values()), style, color=colour, markersize=5)


def _spectrum(axes: Axes, table: Floats, colour: str) -> None:
    k = np.arange(1, table.shape[1] + 1)
    shown = np.where(table > 0, table, np.nan)
    kept = np.isfinite(shown).any(axis=0)
    shown, k = shown[:, kept], k[kept]
    axes.fill_between(k, np.nanmin(shown, axis=0), np.nanmax(shown, axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.semilogy(k, np.nanmedian(shown, axis=0), "-o", color=colour, markersize=3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _energy(axes: Axes, held: Floats, colour: str) -> None:
    axes.plot(np.arange(1, len(held) + 1), held, "-o", color=colour, markersize=3)
    for part in ENERGY_MARKS:
        k = min(int(np.searchsorted(held, part - 1e-12)) + 1, len(held))
        axes.plot([k, k], [0, held[k - 1]], color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{part:.0%} in {k}",
            (k, 0.08 if part == ENERGY_MARKS[0] else 0.24),
            xytext=(3, 0),
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
        )
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _numbers(axes: Axes, table: Floats, most: float) -> None:
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if value < 0.55 * most else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color=colour)
