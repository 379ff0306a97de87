"""The shape of the embedding space before and after: spectrum, similarities, alignment and uniformity.

Shapes: N rows, E width, K directions, R shown rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.report.figures.runs import colours_of
from vectoruniverse.report.figures.style import (
    BLUE,
    IMAGE,
    INK,
    LINES,
    TEXT,
    VERMILLION,
    drawing,
    key_above,
    shown_name,
)
from vectoruniverse.tracking.series import Floats, Record, series

MATRIX_ROWS = 128
"""Rows that the similarity matrix shows: more would be thinner than a printed dot."""

HISTOGRAM_ROWS = 2048
"""Rows whose mutual cosines are counted: four million pairs give a smooth histogram."""

BINS = 80
LEAST_SHARE = 1e-6
"""Eigenvalues below this share are rounding of fp32 rows, and not drawn."""


class Embedded(NamedTuple):
    """Unit rows of pictures and of their texts, both (N, E)."""

    image: NDArray[np.floating]
    text: NDArray[np.floating]


def spectra(models: Mapping[str, Floats], parts: Sequence[float] = (0.9,)) -> Figure:
    """Share of the second moment that each direction holds, largest first, on a log scale, a line for each model.

    Args:
        models: by name, eigenvalue shares (K,), descending, sum 1, as ``metrics.geometry.spectrum`` gives them; K may
            differ.
        parts: shares of the whole; marked is after how many directions each is reached.
    """
    with drawing(2.6 + 0.2 * len(models)) as figure:
        axes = figure.subplots()
        for i, ((name, shares), colour) in enumerate(zip(models.items(), colours_of(models).values(), strict=True)):
            kept, reached = shares[shares >= LEAST_SHARE], [directions_for(shares, part) for part in parts]
            counts = ", ".join(f"{part:.0%} in {k}" for part, k in zip(parts, reached, strict=True))
            label = f"{shown_name(name)}: {counts}{' directions' if len(parts) > 1 else ''}"
            axes.semilogy(np.arange(1, len(kept) + 1), kept, LINES[i % len(LINES)], color=colour, label=label)
            axes.plot(reached, shares[np.array(reached) - 1], "o", color=colour, markeredgecolor="white")
        axes.set(xlabel="direction, largest first", ylabel="share of variance", xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:.4g}%")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, handlelength=2.6)
    return figure


def directions_for(shares: Floats, part: float) -> int:
    """The least number of directions that together hold ``part`` of the variance."""
    return min(int(np.searchsorted(np.cumsum(shares), part - 1e-12)) + 1, len(shares))


def similarity_matrix(base: Embedded, adapted: Embedded) -> Figure:
    """Cosines of pictures (rows) and texts (columns) of at most 128 rows, in one order and one scale for both models.

    The rows stand evenly apart in the data and are ordered by the adapted model, so that what it holds together stands
    together. The diagonal holds the right pairs.
    """
    shown = evenly(len(adapted.image), MATRIX_ROWS)
    shown = shown[order_by_similarity((adapted.image[shown] + adapted.text[shown]).astype(np.float64))]
    matrices = [np.asarray(model.image[shown] @ model.text[shown].T, dtype=np.float64) for model in (base, adapted)]
    low, high = np.percentile(matrices, [0.5, 99.5])
    with drawing(3.1) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, matrix, name in zip(panels, matrices, ("base", "adapted"), strict=True):
            drawn = axes.imshow(matrix, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
            axes.set(title=name, xlabel="texts")
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
        panels[0].set_ylabel(f"pictures ({len(shown)} of {len(adapted.image)})")
        figure.colorbar(drawn, ax=panels, label="cosine", extend="both", location="bottom", aspect=40, shrink=0.6)
    return figure


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` positions, evenly apart and ascending."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def order_by_similarity(rows: Floats) -> NDArray[np.int64]:
    """An order (R,) in which similar rows stand together: the leaves of average linkage over cosines, in O(R³) time.

    Args:
        rows: (R, E), none of them zero.
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    leaves = {i: [i] for i in range(len(rows))}
    for _ in range(len(rows) - 1):
        i, j = (int(place) for place in np.unravel_index(similarity.argmax(), similarity.shape))
        size_i, size_j = len(leaves[i]), len(leaves[j])
        joined = (similarity[i] * size_i + similarity[j] * size_j) / (size_i + size_j)
        joined[i] = -np.inf
        similarity[i], similarity[:, i] = joined, joined
        similarity[j], similarity[:, j] = -np.inf, -np.inf
        leaves[i] += leaves.pop(j)
    return np.array(leaves.popitem()[1], dtype=np.int64)


def cosine_histograms(base: Embedded, adapted: Embedded, items: PairItems) -> Figure:
    """Cosines of pictures with right texts and with wrong ones, each as shares of their own number.

    At most 2,048 rows are taken, evenly apart in the data.

    Args:
        base: the base model's embeddings.
        adapted: the adapted model's.
        items: which rows hold the same picture or text.
    """
    split = [cosines(model, items) for model in (base, adapted)]
    edges = np.linspace(*_limits(np.concatenate([c for pair in split for c in pair])), BINS + 1)
    with drawing(3.6) as figure:
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for axes, (right, wrong), name in zip(panels, split, ("base", "adapted"), strict=True):
            for values, colour, text, line in (
                (wrong, VERMILLION, "wrong text", "--"),
                (right, BLUE, "right text", "-"),
            ):
                if len(values):
                    histogram(axes, values, edges, colour, text, line)
                    axes.axvline(float(values.mean()), color=colour, linewidth=1, linestyle=":")
            axes.set(title=name, ylabel="share of pairs")
        key_above(panels[0])
        panels[-1].set_xlabel("cosine of picture and text")
    return figure


def cosines(model: Embedded, items: PairItems) -> tuple[Floats, Floats]:
    """Cosines of all right pairs and of all wrong pairs among at most 2,048 rows."""
    rows = evenly(len(items), HISTOGRAM_ROWS)
    matrix = np.asarray(model.image[rows] @ model.text[rows].T, dtype=np.float64)
    right = items.right(rows, rows)
    return matrix[right], matrix[~right]


def histogram(axes: Axes, values: Floats, edges: Floats, colour: str, name: str = "", line: str = "-") -> None:
    """Values as shares of their own number, in percent."""
    counts = np.histogram(values, edges)[0] / max(len(values), 1)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
    axes.stairs(counts, edges, color=colour, linewidth=1.4, linestyle=line, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _limits(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 1e-6 else (low - 0.01, high + 0.01)


def alignment_uniformity(history: Sequence[Record]) -> Figure:
    """The path of training in the plane of Wang & Isola (arXiv:2005.10242), of pictures and of texts.

    Alignment: mean ||I - T||² of pairs. Uniformity: log mean exp(-2 ||x - y||²). Lower is better for both.

    Raises:
        ValueError: the history holds no alignment with uniformity.
    """
    with drawing(3.6) as figure:
        axes = figure.subplots()
        alignment = dict(zip(*series(history, "val/alignment"), strict=True))
        drawn = [
            _path(axes, alignment, dict(zip(*series(history, f"val/{name}/uniformity"), strict=True)), label, style)
            for name, label, style in (("image", "pictures", (IMAGE, "-")), ("text", "texts", (TEXT, "--")))
        ]
        if not any(drawn):
            raise ValueError("the history holds no val/alignment with val/image/uniformity or val/text/uniformity")
        axes.set(xlabel="uniformity (lower: more spread)", ylabel="alignment (lower: pairs closer)")
        first = Line2D(
            [], [], color=INK, marker="o", markerfacecolor="white", markersize=7, linestyle="", label="first"
        )
        last = Line2D([], [], color=INK, marker="o", markersize=7, linestyle="", label="last")
        key_above(axes, [line for line in axes.lines if not str(line.get_label()).startswith("_")] + [first, last])
    return figure


def _path(
    axes: Axes,
    alignment: Mapping[float, float],
    uniformity: Mapping[float, float],
    label: str,
    style: tuple[str, str],
) -> bool:
    colour, dashes = style
    points = [(uniformity[s], alignment[s]) for s in alignment if s in uniformity]
    points = [point for point in points if np.isfinite(point).all()]
    if not points:
        return False
    x, y = np.array(points).T
    axes.plot(x, y, dashes, color=colour, linewidth=1.2, marker=".", markersize=4, label=label)
    axes.plot(x[0], y[0], "o", color=colour, markerfacecolor="white", markersize=7)
    axes.plot(x[-1], y[-1], "o", color=colour, markersize=7)
    return True
