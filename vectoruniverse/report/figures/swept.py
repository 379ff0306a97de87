"""The axis of a sweep: a tick at each value, logarithmic where the values span a factor of 8, as ranks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from vectoruniverse.report.figures.style import ADAPTED, drawable

LOG_SPAN = 8
"""Values whose largest is at least this many times the smallest stand on a logarithmic axis."""

LABEL_CHARACTERS = 40
"""A longer tick label is cut."""

SHORT_LABEL = 6
"""Longer labels are turned."""

ASIDE = 0.07
"""Inches that seeds stand beside their mean."""


@dataclass(frozen=True, slots=True)
class Swept:
    """The axis of a sweep: its name, such as ``rank``, and what the tick at each place says.

    Where values are in order, the place is the value itself; otherwise places only count.
    """

    name: str
    labels: Mapping[float, str]
    ordered: bool = True

    @property
    def line(self) -> str:
        """What joins the values."""
        return "-" if self.ordered else ""

    def tell(self, place: float) -> str:
        """A value with its name, such as ``rank 4``."""
        return f"{self.name} {self.labels[place]}" if self.ordered else self.labels[place]


def value_axis(axes: Axes, swept: Swept, places: Sequence[float], *, named: bool = True) -> None:
    """A tick at each of the places, on a logarithmic axis where they are values that span enough."""
    if swept.ordered and min(places) > 0 and max(places) >= LOG_SPAN * min(places):
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(places) / 1.3, max(places) * 1.3)
    else:
        room = 0.08 * (max(places) - min(places)) or 0.5
        axes.set_xlim(min(places) - room, max(places) + room)
    labels = [tick_label(swept.labels.get(place, f"{place:g}")) for place in places]
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    turn_long_labels(axes, labels)
    if named:
        axes.set_xlabel(drawable(swept.name))


def turn_long_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Turn the x axis' labels where one is long, so that they do not run into each other."""
    if max(map(len, labels)) > SHORT_LABEL:
        axes.tick_params(axis="x", labelrotation=25)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")


def metric_axis(axis: Axis, metric: str) -> None:
    """Shares such as recall in percent, anything else as the number that it is."""
    if "recall@" in metric or "accuracy@" in metric:
        axis.set_major_formatter(lambda share, _: f"{round(share * 100, 6):g}%")


def shades_of(count: int) -> list[str]:
    """Colours from light to dark for ordered values, told apart in grey print as well."""
    return [to_hex(colormaps["viridis_r"](place)) for place in np.linspace(0.22, 0.95, count)]


def seed_dots(axes: Axes, place: float, seeds: Sequence[float]) -> None:
    """Faint dots a little beside the place, so that they stand clear of their mean."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    aside = axes.transData + ScaledTranslation(ASIDE, 0, figure.dpi_scale_trans)
    axes.plot([place] * len(seeds), seeds, "o", color=ADAPTED, alpha=0.4, markersize=3, linewidth=0, transform=aside)
    axes.update_datalim([(place, value) for value in seeds])


def tick_label(label: str) -> str:
    """A label that can be drawn, cut where it is long."""
    shown = drawable(label)
    return shown if len(shown) <= LABEL_CHARACTERS else shown[: LABEL_CHARACTERS - 1] + "…"
