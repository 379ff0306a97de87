"""How every figure looks, and how it is saved.

Figures are one column wide (5.2 inches), so that they stay legible on a phone and in a two-column paper. Colours are
those of Okabe & Ito (2008), told apart with every kind of colour vision; what they tell is also told by a label, a
marker or a dash. The base model is always grey, the adapted model always blue.
"""

from __future__ import annotations

import contextlib
import functools
import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib.style
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from vectoruniverse.runs.durable import write_errors_are_told

INK = "#1a1a1a"
GREY = "#767676"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
SERIES = (VERMILLION, GREEN, PURPLE, ORANGE, SKY)
BASE, ADAPTED = GREY, BLUE
IMAGE, TEXT = BLUE, VERMILLION
LINES = ("-", "--", "-.", ":")
DASHES = (0, (5, 3))
"""Line of the base model."""

WIDTH = 5.2
NAME_CHARACTERS = 48
DPI = 150

_FAMILIES = (
    "DejaVu Sans",
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic", "UnDotum"),
    *("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "IPAGothic"),
    *("Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei"),
    *("Noto Emoji", "Segoe UI Symbol", "Symbola"),
)
"""Fonts to look for a character in first, in this order, before all others that are installed."""

_PACKAGES = {
    "HANGUL": "fonts-noto-cjk (Debian, Ubuntu), google-noto-sans-cjk-fonts (Fedora) or font-noto-cjk (Homebrew)",
    "": "fonts-noto (Debian, Ubuntu), google-noto-fonts-all (Fedora) or font-noto-sans (Homebrew)",
}
"""Packages with a font for a script, by the first word of its characters' names."""

_PACKAGES |= dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA"), _PACKAGES["HANGUL"])

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
    with matplotlib.style.context([_RC, {"font.family": list(_installed())}], after_reset=True):
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


_renderings: WeakKeyDictionary[Figure, dict[str, bytes]] = WeakKeyDictionary()
"""A figure stands as PNG and SVG in a folder and once more in a page: each is drawn once."""


def _rendered(figure: Figure, kind: str) -> bytes:
    drawn = _renderings.setdefault(figure, {})
    if kind not in drawn:
        drawn[kind] = _render(figure, kind, first=not drawn)
    return drawn[kind]


def _render(figure: Figure, kind: str, *, first: bool) -> bytes:
    stream, families = io.BytesIO(), list(_installed())
    ours = matplotlib.style.context([_RC, {"font.family": families}], after_reset=True)
    with ours, warnings.catch_warnings():
        # a very long name leaves the axes no room: the figure is drawn all the same, with the name cut off
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        if first:
            for text in figure.findobj(Text):  # fonts may have been found after it was made
                text.set_fontfamily(families)
            _lay_out(figure)
        # not savefig, which draws everything twice: once more to find out how large it is
        canvas: Any = FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure)
        if kind == "svg":
            canvas.print_svg(stream, metadata={"Date": None})
        else:
            canvas.print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def _lay_out(figure: Figure) -> None:
    """Once, alike for every format."""
    if figure.axes and (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")


def drawable(text: str) -> str:
    """The text with every character that no installed font can draw, or that would move others, as ``?``.

    matplotlib draws such characters as empty boxes and warns once for each.
    """
    return "".join(c if _is_drawable(c) else "?" for c in " ".join(text.split()) if not _is_silent(c))


def shown_name(name: str) -> str:
    """The name of a model as a figure can hold it: what can be drawn of it, cut in its middle.

    What tells two checkpoints apart stands at either end.
    """
    name = drawable(name)
    if len(name) <= NAME_CHARACTERS:
        return name
    half = (NAME_CHARACTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def undrawn() -> str | None:
    """Which letters of this process's figures no installed font has, and what to install; None where there are none.

    Emoji and other symbols are not told of: most fonts that have them cannot be drawn.
    """
    letters = (character for character in _family_of if unicodedata.category(character).startswith("L"))
    lacking = sorted(character for character in letters if _family_of[character] is None)
    if not lacking:
        return None
    shown = "".join(lacking[:12]) + ("…" if len(lacking) > 12 else "")
    script = unicodedata.name(lacking[0], "").split(" ")[0].split("-")[0]
    advice = _PACKAGES.get(script, _PACKAGES[""])
    return f"no installed font has {shown}, so figures show ? instead; install {advice}, and write the report again"


def _is_drawable(character: str) -> bool:
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs"):
        return False
    if ord(character) in _coverage(_installed()):
        return True
    if character not in _family_of:
        _family_of[character] = _family_with(ord(character))
    return _family_of[character] is not None


_PLACEHOLDERS = "Last Resort"
"""A family whose glyphs only say which script a character is of."""

_family_of: dict[str, str | None] = {}
"""Characters that the usual fonts lack, and the font that has them."""


def _family_with(point: int) -> str | None:
    """A font that is installed and has a character; bitmap fonts such as Noto Color Emoji cannot be drawn."""
    for entry in _fonts().ttflist:
        if entry.name.startswith(_PLACEHOLDERS):
            continue
        try:
            font = font_manager.get_font(entry.fname)
        except (OSError, RuntimeError):  # removed since it was found, or no font
            continue
        if font.scalable and point in font.get_charmap():
            return entry.name
    return None


@functools.cache
def _fonts() -> font_manager.FontManager:
    """All installed fonts; matplotlib keeps a list of them, which lacks those that were installed after it was made."""
    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    for file in sorted(set(font_manager.findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # what matplotlib cannot read it cannot draw
            manager.addfont(file)
    return manager


def _is_silent(character: str) -> bool:
    """Variation selectors and joiners, which only say how their neighbours are to look."""
    return character in "\u200b\u200c\u200d\ufeff" or "\ufe00" <= character <= "\ufe0f"


def _installed() -> tuple[str, ...]:
    """Families to draw with: the usual ones, and those that were found for single characters."""
    return (*_usual(), *dict.fromkeys(filter(None, _family_of.values())))


@functools.cache
def _usual() -> tuple[str, ...]:
    names = {entry.name for entry in _fonts().ttflist}
    return tuple(family for family in _FAMILIES if family in names)


@functools.cache
def _coverage(families: tuple[str, ...]) -> frozenset[int]:
    """Code points that one of these fonts can draw."""
    points: set[int] = set()
    for family in families:
        points |= (
            font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[family])))
            .get_charmap()
            .keys()
        )
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
