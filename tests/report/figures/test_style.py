from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from vectoruniverse.errors import ConfigError, ResourceError
from vectoruniverse.report.figures import style


def _drawn() -> style.Figure:
    with style.drawing(2.0) as figure:
        axes = figure.subplots()
        axes.plot([0, 1, 2], [3.0, 1.0, 2.0], label="a line")
        axes.fill_between([0, 1, 2], [1, 1, 1], hatch="/")  # hatches and clip paths get salted ids in SVG
        axes.set_title("a title")
    return figure


def test_saved_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = style.save(_drawn(), tmp_path / "a", "line")
    second = style.save(_drawn(), tmp_path / "b", "line")
    assert [path.name for path in first] == ["line.png", "line.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"dc:date" not in first[1].read_bytes()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"{re.escape(str(folder))}: cannot be written"):
            style.save(_drawn(), folder, "line")
    (tmp_path / "line.svg").mkdir()
    with pytest.raises(ConfigError, match=r"line\.svg: cannot be written"):
        style.save(_drawn(), tmp_path, "line")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "line.png").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"line\.png: the disk is full"):
        style.save(_drawn(), tmp_path, "line")


def test_a_name_that_leaves_the_axes_no_room_is_drawn_without_a_warning() -> None:
    with style.drawing(2.0) as figure:
        figure.subplots().set_yticks([0], labels=["x" * 300])
    assert style.png(figure) and style.svg(figure)  # warnings are errors here


def test_png_has_150_dots_per_inch(tmp_path: Path) -> None:
    png, _ = style.save(_drawn(), tmp_path, "line")
    with Image.open(png) as image:
        assert image.size == (round(style.WIDTH * 150), 300)


def test_settings_of_the_person_neither_count_nor_change() -> None:
    ours = style.svg(_drawn())
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "none"}):
        assert style.svg(_drawn()) == ours
        assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_pyplot_stays_out() -> None:
    modules = "curves, gallery, retrieval, space, style"
    code = (
        f"import sys; from vectoruniverse.report.figures import {modules}; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_undrawable_characters_become_question_marks_and_draw_without_a_warning() -> None:
    text = style.drawable("a\U000fffffb\x00c\td\u202ee\ufe0f\n$x$")  # private use, NUL, override, variation selector
    assert text == "a?b?c d?e $x$"
    with style.drawing(1.0) as figure:
        figure.text(0, 0.5, style.drawable("한국어 日本語 🎉 שלום $\\frac{1}{0}$"))
    assert style.png(figure)  # warnings are errors here


@pytest.fixture
def no_cache():
    """Fonts are looked for again, and forgotten afterwards."""
    known = list(style.font_manager.fontManager.ttflist)
    caches = (style._fonts, style._usual, style._coverage)

    def forget() -> None:
        style._family_of.clear()
        for cache in caches:
            cache.cache_clear()

    forget()
    yield
    style.font_manager.fontManager.ttflist[:] = known
    forget()


def _font(file: Path, family: str, characters: str) -> Path:
    """A font of squares for these characters."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, *points in (("moveTo", (0, 0)), ("lineTo", (0, 700)), ("lineTo", (700, 700)), ("lineTo", (700, 0))):
        getattr(pen, move)(*points)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(c):X}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(file)
    return file


def test_any_installed_font_that_has_the_letters_is_found_though_matplotlib_s_list_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cache: None
) -> None:
    letters = "\u1c00\u1c01"  # Lepcha, which no usual font has
    assert style.drawable(letters) == "??"
    said = style.undrawn()
    assert said is not None and said.startswith(f"no installed font has {letters}, so figures show ?")
    style._family_of.clear()
    file = _font(tmp_path / "strange.ttf", "Strange Squares", letters)
    monkeypatch.setattr(style.font_manager, "findSystemFonts", lambda: [str(file)])
    style._fonts.cache_clear()
    with style.drawing(1.0) as figure:
        figure.text(0.1, 0.5, style.drawable(letters + "x"))
    assert style.drawable(letters) == letters and style.undrawn() is None
    assert style.png(figure)  # a missing glyph would warn, and warnings are errors here


def test_what_to_install_depends_on_the_script_and_symbols_need_nothing(no_cache: None, monkeypatch) -> None:
    monkeypatch.setattr(style, "_family_with", lambda point: None)
    monkeypatch.setattr(style, "_coverage", lambda families: frozenset(map(ord, "abc")))
    assert style.drawable("a🎉") == "a?" and style.undrawn() is None
    assert style.drawable("질문") == "??"
    assert "질" in str(style.undrawn()) and "fonts-noto-cjk" in str(style.undrawn())


def test_end_labels_keep_apart_and_near_their_lines() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        wanted = sorted(random.uniform(size=6).tolist())
        placed = style._apart(wanted, 0.1)
        assert (np.diff(placed) >= 0.1 - 1e-9).all()
        assert np.mean(placed) == pytest.approx(np.mean(wanted))
    assert style._apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert style._apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
