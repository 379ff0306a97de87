"""How often the right answer stands among the first k, before and after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.figures.style import ADAPTED, BASE, GREY, drawing, key_above

Intervals = Mapping[str, Mapping[str, Sequence[float]]]
"""For a metric: ``base`` and ``adapted`` as [low, high], ``difference`` as [estimate, low, high]."""


def recall_keys(base: Mapping[str, float], adapted: Mapping[str, float]) -> dict[str, list[str]]:
    """Recall@k that both models have, the least k first, by what the catalogue calls the direction."""
    found: dict[str, list[str]] = {}
    for key in sorted((key for key in adapted if key in base and re.search(r"/recall@\d+$", key)), key=_k):
        if (metric := describe(key)).place == "direction":
            found.setdefault(metric.label.removesuffix(f" recall@{_k(key)}"), []).append(key)
    return found


def recall(base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals | None = None) -> Figure:
    """Recall@k of both directions as pairs of dots, with 95 % intervals where there are any.

    Raises:
        ValueError: no recall@k that both models have.
    """
    keys = recall_keys(base, adapted)
    if not keys:
        raise ValueError("no recall@k that both models have")
    rows = max(map(len, keys.values()))
    with drawing(1.5 + 0.72 * rows) as figure:
        panels = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (name, recalls) in zip(panels, keys.items(), strict=True):
            panel.set_title(name)
            _dumbbells(panel, recalls, base, adapted, intervals or {})
        every = [key for recalls in keys.values() for key in recalls]
        most = max(value for key in every for value in (base[key], adapted[key], *_ends(key, intervals or {})))
        panels[-1].set(xlim=(0, min(1.02, most * 1.3 + 0.05)), xlabel="queries with a right answer among the first k")
        panels[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _key(panels[0], intervals=bool(intervals))
    return figure


def _dumbbells(
    axes: Axes, keys: Sequence[str], base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals
) -> None:
    for y, key in enumerate(keys):
        before, after = base[key], adapted[key]
        axes.plot([before, after], [y, y], color="#c8c8c8", linewidth=1.2, zorder=1)
        for side, colour, shift in (("base", BASE, 0.14), ("adapted", ADAPTED, -0.14)):
            if bounds := intervals.get(key, {}).get(side):
                axes.plot(bounds, [y + shift] * 2, color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.plot(before, y, "o", color=BASE, markerfacecolor="white", markersize=6, zorder=3)
        axes.plot(after, y, "o", color=ADAPTED, markersize=6, zorder=3)
        axes.annotate(
            f"{after:.1%}",
            (max(before, after, *intervals.get(key, {}).get("adapted", ())), y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=ADAPTED,
        )
    axes.set_yticks(range(len(keys)), [f"@{_k(key)}" for key in keys])
    axes.set(ylim=(len(keys) - 0.5, -0.5), ylabel="recall")
    axes.grid(axis="y", visible=False)


def _ends(key: str, intervals: Intervals) -> Iterator[float]:
    """Bounds of both models, which must lie within the axes, as the label of the last one hangs on them."""
    for side in ("base", "adapted"):
        yield from intervals.get(key, {}).get(side, ())


def _key(axes: Axes, *, intervals: bool) -> None:
    dots = [
        Line2D([], [], color=BASE, marker="o", markerfacecolor="white", linestyle="", label="base"),
        Line2D([], [], color=ADAPTED, marker="o", linestyle="", label="adapted"),
    ]
    key_above(axes, [*dots, Line2D([], [], color=GREY, label="95 % interval")] if intervals else dots)


def _k(key: str) -> int:
    return int(key.rpartition("@")[2])
