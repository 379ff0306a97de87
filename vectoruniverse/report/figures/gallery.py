"""The best and the worst retrievals, with the pictures themselves.

Shapes: N rows, E width, S side of a thumbnail, k answers.
"""

from __future__ import annotations

import textwrap
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.report.figures.space import Embedded
from vectoruniverse.report.figures.style import GREEN, GREY, INK, WIDTH, drawable, drawing
from vectoruniverse.tracking.contract import Direction, Found, Retrieval

Thumbnail = NDArray[np.uint8]
TakePictures = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Thumbnails uint8 (B, S, S, 3) of the rows at these positions (B,)."""

ROW_INCHES = 1.05
LINE = 0.155
"""Height of a line of text, as a share of a row's."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Best and worst retrievals of one direction."""

    direction: Direction
    best: tuple[Retrieval, ...]
    worst: tuple[Retrieval, ...]


def choose_retrievals(
    model: Embedded,
    items: PairItems,
    ranks: NDArray[np.int64],
    titles: Sequence[str],
    pictures: TakePictures,
    *,
    direction: Direction,
    count: int = 6,
    k: int = 5,
) -> Gallery:
    """The queries with the least and the greatest rank; the cosine with the own answer breaks ties.

    A picture or a text is shown once among the queries, and once among the answers to each.

    Args:
        model: unit rows of the held-out rows.
        items: which rows hold the same picture or text.
        ranks: (N,) rank of each query's best right answer among the distinct ones.
        titles: N texts.
        pictures: gives the thumbnails of rows.
        direction: who asks whom.
        count: queries among the best, and among the worst.
        k: answers shown to each.
    """
    query, answers = (model.image, model.text) if direction == "image_to_text" else (model.text, model.image)
    own = np.einsum("ne,ne->n", query, answers)
    order = np.lexsort((np.arange(len(ranks)), -own, ranks))
    for item in (items.second, items.first):
        order = order[np.sort(np.unique(item[order], return_index=True)[1])]  # the first of each text, of each picture
    asked = items if direction == "image_to_text" else items.turned()
    shown = asked.gallery()
    best, worst = order[:count], order[count:][::-1][:count]

    def retrieval(row: int) -> Retrieval:
        cosines = answers[shown] @ query[row]
        nearest = np.argsort(-cosines, kind="stable")[:k]
        first, right = shown[nearest], asked.right(np.array([row]), shown[nearest])[0]
        thumbnails = pictures(np.concatenate([[row], first]).astype(np.int64))
        found = tuple(
            Found(titles[i], thumbnail, float(cosine), bool(hit))
            for i, cosine, hit, thumbnail in zip(first, cosines[nearest], right, thumbnails[1:], strict=True)
        )
        return Retrieval(direction, titles[row], thumbnails[0], int(ranks[row]), len(shown), found)

    return Gallery(direction, tuple(map(retrieval, best)), tuple(map(retrieval, worst)))


def gallery_figure(gallery: Gallery) -> Figure:
    """Each query in a row, the best and then the worst: its picture or text, its rank, and what was found.

    Right answers have a ✓. Characters that no installed font can draw appear as ``?``; a browser shows them all.

    Raises:
        ValueError: the gallery is empty.
    """
    rows = [*gallery.best, *gallery.worst]
    if not rows:
        raise ValueError("the gallery holds no retrieval")
    forth = gallery.direction == "image_to_text"
    widths = [1.0, 5.0] if forth else [2.2, *[1.0] * max(len(item.answers) for item in rows)]
    with drawing(ROW_INCHES * len(rows) + 0.1, width=WIDTH * 1.3) as figure:
        panels = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
        for line, item in zip(panels, rows, strict=True):
            for axes in line:
                axes.set_axis_off()
            if forth:
                _show(line[0], item.picture)
                _write(line[1], item.title, [f"rank {item.rank} of {item.among}", *map(_answer_line, item.answers)])
            else:
                _write(line[0], item.title, [f"rank {item.rank} of {item.among}"])
                for axes, answer in zip(line[1:], item.answers, strict=False):
                    _show(axes, answer.picture)
                    text, colour = ("✓ ", GREEN) if answer.right else ("", GREY)
                    axes.set_title(f"{text}{answer.cosine:.2f}", color=colour, size=8, pad=2, loc="center")
    return figure


def _answer_line(answer: Found) -> str:
    return f"{'✓' if answer.right else '·'} {answer.cosine:.2f}  {short(answer.title, 58)}"


def _show(axes: Axes, picture: Thumbnail) -> None:
    axes.imshow(picture, interpolation="antialiased")


def _write(axes: Axes, title: str, lines: Sequence[str]) -> None:
    """The title, wrapped where it has no other text for company, and lines below it.

    Nothing is bold: few of the fonts that cover what DejaVu does not have a bold face.
    """
    head = [short(title, 48)] if len(lines) > 1 else textwrap.wrap(short(title, 60), 20)
    for i, text in enumerate([*head, *lines]):
        size, colour = (9, INK) if i < len(head) else (8, GREEN if text.startswith("✓") else GREY)
        axes.text(0, 1 - i * LINE, text, size=size, va="top", color=colour, transform=axes.transAxes, in_layout=False)


def short(title: str, columns: int) -> str:
    """The drawable text of a title, cut at a width; Chinese, Japanese and Korean characters are two columns wide."""
    text = drawable(title)
    ends = list(accumulate(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text))
    return text if not ends or ends[-1] <= columns else text[: bisect_right(ends, columns - 1)].rstrip() + "…"
