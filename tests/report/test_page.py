from __future__ import annotations

import base64
import errno
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vectoruniverse.errors import ConfigError, ResourceError
from vectoruniverse.report import page
from vectoruniverse.report.figures import style
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.gallery import Found, Gallery, Retrieval
from vectoruniverse.report.page import write_page
from vectoruniverse.report.tables import Table
from vectoruniverse.report.verdict import Answer

SCRIPT = "<script>parent.pwned = 1; window.pwned = 1</script>"
HOSTILE = [
    SCRIPT,
    '"><img src=x onerror="parent.pwned = 1">',
    "' onload='parent.pwned = 1",
    "[/] {{ 7 * 7 }} {% include 'x' %} &lt; &amp;",
    "\u202eright to left \u2066 and no end",
    "</style></title></textarea><svg onload=parent.pwned=1>",
    "javascript:parent.pwned=1",
    "한국어 제목 🎉 日本語",
]


def _picture(value: int) -> np.ndarray:
    return np.full((120, 120, 3), value, np.uint8)


def _gallery(direction: Any, titles: list[str]) -> Gallery:
    found = tuple(Found(title, _picture(9 * i), 0.9 - i / 10, i == 1) for i, title in enumerate(titles))
    items = tuple(Retrieval(direction, title, _picture(100), 2, 440, found) for title in titles)
    return Gallery(direction, items[:2], items[2:])


def _plate(name: str, section: Any, text: str = "a caption") -> Plate:
    with style.drawing(2.0) as figure:
        figure.subplots().plot([0, 1], [0, 1])
    return Plate(name, text, section, text, figure)


def _write(path: Path, text: str = "plain", titles: list[str] | None = None, **changed: Any) -> str:
    table = Table(text, ("metric", text), [(text, "0.5")])
    settings: dict[str, Any] = {
        "title": text,
        "answer": Answer("better", f"Better: {text}", text),
        "comparison": table,
        "verdict": [f"healthy: {text}"],
        "plates": [_plate("recall", "answer", text), _plate("training", "curves"), _plate("spectrum", "health")],
        "galleries": [_gallery(d, titles or HOSTILE) for d in ("image_to_text", "text_to_image")],
        "facts": {text: text},
        "tables": [table],
        "listings": {text: text},
        "warnings": [text],
    }
    write_page(path, **(settings | changed))
    return path.read_text(encoding="utf-8")


class _Reader(HTMLParser):
    """Tags, attributes and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_is_inert_wherever_it_stands(text: str, tmp_path: Path) -> None:
    plain = _Reader(_write(tmp_path / "plain.html", "plain", ["plain"] * len(HOSTILE)))
    hostile = _Reader(_write(tmp_path / "hostile.html", text, [text] * len(HOSTILE)))
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert text in hostile.text


def test_nothing_is_loaded_and_no_script_or_foreign_style_is_allowed(tmp_path: Path) -> None:
    source = _write(tmp_path / "report.html")
    reader = _Reader(source)
    assert not {"script", "iframe", "object", "embed", "form", "base", "a"} & set(reader.tags)
    loaded = [value for name, value in reader.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert loaded and all(value.startswith("data:") for value in loaded)
    assert not [name for name, _ in reader.attributes if name == "style" or name.startswith("on")]
    (policy,) = [value for _, value in reader.attributes if value.startswith("default-src")]
    css = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css[0].encode()).digest()).decode()
    assert len(css) == 1 and policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in css[0] and "@import" not in css[0]


def test_parts_come_in_the_order_a_reader_wants(tmp_path: Path) -> None:
    source = _write(tmp_path / "report.html")
    places = [source.index(f'id="{name}"') for name in ("answer", "recall", "curves", "training", "health", "spectrum")]
    places += [source.index(f'id="{name}"') for name in ("retrievals", "settings")]
    assert places == sorted(places)


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", title="t", answer=None, comparison=None, verdict=[], facts={"loss": "info_nce"})
    reader = _Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not {"figure", "table", "ul", "img"} & set(reader.tags)
    assert [value for name, value in reader.attributes if name == "id"] == ["settings"]


def test_size_is_bounded_by_cut_titles_and_small_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(256, size=(1024, 1024, 3), dtype=np.uint8)
    items = tuple(
        Retrieval("text_to_image", "x" * 100_000, noise, 1, 2, (Found("y" * 100_000, noise, 0.5, True),))
        for _ in range(4)
    )
    source = _write(tmp_path / "r.html", galleries=[Gallery("text_to_image", items, ())], plates=[])
    assert len(source) < 200_000
    assert "x" * 299 + "…" in source
    thumbnails = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', source)
    (tmp_path / "thumbnail.jpg").write_bytes(base64.b64decode(thumbnails[0]))
    with Image.open(tmp_path / "thumbnail.jpg") as image:
        assert image.size == (96, 96)


def test_characters_that_html_forbids_do_not_break_the_page(tmp_path: Path) -> None:
    source = _write(tmp_path / "r.html", "a\x00b\x1b[31mc\x85d\ud800e\tf")
    assert "a�b�[31mc�d?e\tf" in source
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", source)


def test_a_large_figure_goes_in_as_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data:image/svg+xml" in _write(tmp_path / "small.html")
    monkeypatch.setattr(page, "SVG_BYTES", 1000)
    source = _write(tmp_path / "large.html")
    assert "data:image/svg+xml" not in source and "data:image/png" in source


def test_the_same_content_gives_the_same_page_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    assert _write(tmp_path / "a.html") == _write(tmp_path / "b.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_page_that_cannot_be_written_is_told_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    for path in (tmp_path / "absent" / "report.html", tmp_path / "report.html"):
        with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: cannot be written"):
            _write(path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_full_disk_is_told_and_leaves_the_earlier_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    source = _write(tmp_path / "report.html")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"report\.html: the disk is full"):
        _write(tmp_path / "report.html", "later")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == source
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# In a real browser ----------------------------------------------------------------------------------------------------

Open = Callable[..., tuple[str, str]]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --virtual-time-budget=3000"
).split()

MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0"><pre id="result">nothing</pre><script>
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const images = [...page.images].map(i => {
    const box = i.getBoundingClientRect();
    return [i.closest("figure") ? "figure" : "thumbnail", i.naturalWidth, box.width, box.height, box.right];
  });
  const bdi = page.querySelector(".query .title bdi");
  document.getElementById("result").textContent = JSON.stringify({
    images, text: page.body.innerText, title: page.title, pwned: window.pwned || view.pwned || 0,
    overflow: page.documentElement.scrollWidth - view.innerWidth, isolated: view.getComputedStyle(bdi).unicodeBidi,
    background: view.getComputedStyle(page.body).backgroundColor,
  });
}
</script><iframe onload="measure(this)" style="width:WIDTHpx;height:900px;border:0" srcdoc="PAGE"></iframe>"""


@pytest.fixture
def chromium(tmp_path: Path) -> Open:
    """Opens a file in headless Chromium: what --dump-dom prints, and what the browser logs."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(names)} is installed")

    def open_file(path: Path, *flags: str) -> tuple[str, str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [found, *FLAGS, profile, *flags, "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
        return done.stdout.decode(), done.stderr.decode(errors="replace")

    return open_file


def _measured(chromium: Open, source: str, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    wrapper = folder / "wrapper.html"
    content = MEASURE.replace("WIDTH", str(width)).replace("PAGE", html.escape(source))
    wrapper.write_text(content, encoding="utf-8")
    dom, log = chromium(wrapper, f"--window-size={width + 20},1000", *flags)
    assert "CONSOLE" not in log, log
    match = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert match, dom[:2000]
    result: dict[str, Any] = json.loads(html.unescape(match[1]))
    return result


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_page_renders_in_a_browser(chromium: Open, tmp_path: Path, width: int, dark: bool) -> None:
    source = _write(tmp_path / "report.html", SCRIPT)
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    seen = _measured(chromium, source, tmp_path, width, *flags)
    assert seen["pwned"] == 0 and seen["title"] == SCRIPT
    assert all(title in seen["text"] for title in HOSTILE if "\u202e" not in title)
    assert seen["isolated"] == "isolate"
    assert sum(kind == "figure" for kind, *_ in seen["images"]) == 3
    for kind, natural, shown, height, right in seen["images"]:
        assert natural > 0 and shown >= (width * 0.3 if kind == "figure" else 60) and height >= 60, seen["images"]
        assert right <= width
    assert seen["overflow"] <= 0
    red = int(re.findall(r"\d+", seen["background"])[0])
    assert red < 60 if dark else red > 200


def test_page_itself_opens_without_a_complaint_and_the_log_would_show_one(chromium: Open, tmp_path: Path) -> None:
    source = _write(tmp_path / "report.html")
    dom, log = chromium(tmp_path / "report.html")
    assert 'id="settings"' in dom and "CONSOLE" not in log
    (tmp_path / "broken.html").write_text(source.replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert "Content Security Policy" in chromium(tmp_path / "broken.html")[1]
