"""Several runs beside each other: what each reached, and how they got there.

Runs are told apart by a letter and a colour, which a run keeps in all figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vectoruniverse.report.figures.style import ADAPTED, BASE, GREY, SERIES, drawing, label_ends
from vectoruniverse.report.figures.sweeps import Bounds
from vectoruniverse.report.figures.swept import metric_axis, shades_of


def reached(
    runs: Mapping[str, Bounds], colours: Mapping[str, str], *, metric: str, difference_from: str | None = None
) -> Figure:
    """A metric of each run with its interval, the first on top.

    Args:
        runs: by letter.
        colours: by letter.
        metric: such as ``recall@5``.
        difference_from: the values are differences from this run, and a line stands at 0.
    """
    with drawing(0.9 + 0.3 * len(runs)) as figure:
        axes = figure.subplots()
        if difference_from is not None:
            axes.axvline(0, color=GREY, linewidth=1)
        for y, (letter, (estimate, low, high)) in enumerate(runs.items()):
            axes.plot([low, high], [y, y], color=colours[letter], linewidth=1.8, solid_capstyle="butt")
            axes.plot(estimate, y, "o", color=colours[letter], markersize=6)
        minus = "" if difference_from is None else f" − {difference_from}"
        axes.set_yticks(range(len(runs)), [f"{letter}{minus}" for letter in runs])
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)
        axes.set_xlabel(f"{metric}, held-out" if difference_from is None else f"difference in {metric}")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        metric_axis(axes.xaxis, metric)
    return figure


def curves_together(
    curves: Mapping[str, Sequence[Sequence[float]]], colours: Mapping[str, str], *, xlabel: str, ylabel: str
) -> Figure:
    """One line for each run that has points, named by its letter at its end.

    Args:
        curves: by letter, points (x, y).
        colours: by letter.
        xlabel: of the steps or epochs.
        ylabel: of the values; a recall is shown in percent.
    """
    with drawing(3.0) as figure:
        axes, ends = figure.subplots(), []
        for letter, points in curves.items():
            if points:
                axes.plot([x for x, _ in points], [y for _, y in points], color=colours[letter], linewidth=1.5)
                ends.append((points[-1][1], letter, colours[letter]))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        metric_axis(axes.yaxis, ylabel)
        label_ends(axes, ends)
    return figure


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each model, of its own where there are enough, else a shade; base and adapted keep theirs."""
    names, own = list(names), [ADAPTED, *SERIES]
    if names == ["base", "adapted"]:
        return {"base": BASE, "adapted": ADAPTED}
    return dict(zip(names, own if len(names) <= len(own) else shades_of(len(names)), strict=False))
