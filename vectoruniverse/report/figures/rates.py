"""What a search for a learning rate measured: the loss over a ramp of rates, and after short probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vectoruniverse.report.figures.style import ADAPTED, BASE, DASHES, GREY, SERIES, drawing, label_ends


def learning_rates(
    ramp: Sequence[tuple[float, float, float]],
    probes: Sequence[tuple[float, float, float]],
    *,
    start: float,
    chance: float | None,
    broke_at: float | None,
    recommended: float | None,
    steps: int,
) -> Figure:
    """Loss over the rate: of each step of the ramp, and of held rows after each probe.

    Args:
        ramp: rate, loss and moving average of each step.
        probes: rate, loss and its standard error of each probe that did not diverge.
        start: loss of the held rows before the first step.
        chance: their loss when nothing is told apart.
        broke_at: rate at which the ramp stopped.
        recommended: the rate to train with.
        steps: length of each probe.
    """
    with drawing(4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        rates, losses, smoothed = np.array(ramp, dtype=np.float64).reshape(-1, 3).T
        above.plot(rates, losses, ".", color=GREY, markersize=3)
        above.plot(rates, smoothed, color=SERIES[0])
        above.set(ylabel="ramp: training loss")
        if broke_at is not None:
            above.axvline(broke_at, color=SERIES[0], linestyle=DASHES, linewidth=1.2)
            above.annotate("breaks", (broke_at, 1), xycoords=("data", "axes fraction"), ha="right", va="top")
        at, after, errors = np.array(probes, dtype=np.float64).reshape(-1, 3).T
        below.errorbar(at, after, yerr=errors, color=ADAPTED, marker="o", markersize=4, capsize=2)
        below.set(ylabel=f"after {steps} steps: held loss", xlabel="learning rate")
        _levels(below, start, chance)
        for axes in (above, below):
            axes.set_xscale("log")
            if recommended is not None:
                axes.axvline(recommended, color=ADAPTED, linestyle=":", linewidth=1.4)
    return figure


def _levels(axes: Axes, start: float, chance: float | None) -> None:
    axes.axhline(start, color=BASE, linestyle=DASHES, linewidth=1.2)
    ends = [(start, "before", GREY)]
    if chance is not None:
        axes.axhline(chance, color=SERIES[1], linestyle=DASHES, linewidth=1.2)
        ends.append((chance, "chance", SERIES[1]))
    label_ends(axes, ends)
