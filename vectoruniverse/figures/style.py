"""How every figure looks, and how it is saved.

Figures are one column wide (5.2 inches), so that they stay legible on a phone and in a two-column paper. Colours are
those of Okabe & Ito (2008), told apart with every kind of colour vision; what they tell is also told by a label, a
marker or a dash. The base model is always grey, the adapted model always blue.
"""

from __future__ import annotations

import functools
import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import matplotlib.style
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vectoruniverse.runs.durable import write_errors_are_told

INK = "#1a1a1a"
GREY = "#767676"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
SERIES = (VERMILLION, GREEN, PURPLE, ORANGE, SKY)
BASE, ADAPTED = GREY, BLUE
IMAGE, TEXT = BLUE, VERMILLION
DASHES = (0, (5, 3))
"""Line of the base model."""

WIDTH = 5.2
DPI = 150

_FAMILIES = (
    "DejaVu Sans",
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic", "UnDotum"),
    *("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "IPAGothic"),
    *("Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei"),
    *("Noto Emoji", "Segoe UI Symbol", "Symbola"),
)
"""Fonts to look for a character in, in this order; bitmap fonts such as Noto Color Emoji cannot be drawn."""

_RC = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.unicode_minus": True,
    "figure.dpi": DPI,
    "font.size": 9.5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "vectoruniverse",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing(height: float, *, width: float = WIDTH) -> Iterator[Figure]:
    """A new figure of ``width`` × ``height`` inches, to be drawn within the ``with`` block.

    Within the block matplotlib's settings, which belong to the whole process, are ours and not those of a matplotlibrc;
    they are put back after it. pyplot is not used: no window, no list of open figures.
    """
    with matplotlib.style.context([_RC, {"font.family": _installed()}], after_reset=True):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes, with text as outlines that need no font."""
    return _rendered(figure, "svg")


def png(figure: Figure) -> bytes:
    """The figure as PNG at 150 dots per inch; the same figure gives the same bytes."""
    return _rendered(figure, "png")


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.svg`` into ``folder``, which is made where it is missing.

    Raises:
        ConfigError: the folder or a file cannot be written.
        ResourceError: the disk is full.
    """
    with write_errors_are_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    for path, content in zip(paths, (png(figure), svg(figure)), strict=True):
        with write_errors_are_told(path):
            path.write_bytes(content)
    return paths


def _rendered(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    undated = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.style.context([_RC, {"font.family": _installed()}], after_reset=True), warnings.catch_warnings():
        # a very long name leaves the axes no room: the figure is drawn all the same, with the name cut off
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        figure.savefig(stream, format=kind, dpi=DPI, metadata=undated)
    return stream.getvalue()


def drawable(text: str) -> str:
    """The text with every character that no installed font can draw, or that would move others, as ``?``.

    matplotlib draws such characters as empty boxes and warns once for each.
    """
    covered = _coverage()
    return "".join(
        c if ord(c) in covered and unicodedata.category(c) not in ("Cc", "Cf") else "?"
        for c in " ".join(text.split())
        if not _is_silent(c)
    )


def _is_silent(character: str) -> bool:
    """Variation selectors and joiners, which only say how their neighbours are to look."""
    return character in "\u200b\u200c\u200d\ufeff" or "\ufe00" <= character <= "\ufe0f"


@functools.cache
def _installed() -> list[str]:
    names = set(font_manager.get_font_names())
    return [family for family in _FAMILIES if family in names]


@functools.cache
def _coverage() -> frozenset[int]:
    """Code points that one of the installed fonts can draw."""
    points: set[int] = set()
    for family in _installed():
        points |= font_manager.get_font(font_manager.findfont(family)).get_charmap().keys()
    return frozenset(points)


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name beside the right end of the axes, in its colour: ``(y, name, colour)``.

    Names that would overlap are moved apart. Called last, when the limits of the axes are final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    gap = 13 / (axes.get_position().height * figure.get_figheight() * 72)
    low, high = axes.get_ylim()
    wanted = sorted(((y - low) / (high - low), name, colour) for y, name, colour in ends)
    for place, (_, name, colour) in zip(_apart([y for y, _, _ in wanted], gap), wanted, strict=True):
        axes.annotate(
            name,
            (1, place),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places, moved as little as leaves ``gap`` between them (isotonic regression of place - i·gap)."""
    blocks: list[list[float]] = []
    for i, place in enumerate(places):
        blocks.append([place - i * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) >= fmean(blocks[-1]):
            upper = blocks.pop()
            blocks[-1] += upper
    return [fmean(block) + i * gap for i, block in enumerate(block for block in blocks for _ in block)]


def key_above(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """A legend above the right end of the axes, where no data can lie behind it."""
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        borderaxespad=0.1,
        handletextpad=0.5,
        columnspacing=1.2,
        fontsize=9,
    )
