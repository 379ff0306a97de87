"""Planted faults are all found and named with file and line, and a sound folder gives no finding."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vectoruniverse.cli import app
from vectoruniverse.config.sections import SplitConfig
from vectoruniverse.data.findings import KINDS, Finding, Place
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.image_text.audit.check import check_data
from vectoruniverse.tasks.image_text.audit.report import DataReport, report_csv, report_json, summary_rows
from vectoruniverse.tasks.image_text.audit.row_checks import unprintable
from vectoruniverse.tasks.image_text.audit.stats import DataStats, data_stats
from vectoruniverse.tasks.image_text.check import describe
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.terminal import Display

SIZE = 32
SPLIT = SplitConfig.model_fields.keys()
COUNT = 12
CSV = "metadata.csv"


def picture(seed: int) -> Image.Image:
    """Smooth colours; no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


class Folder:
    """A sound data folder, row n in line n + 2, into which a fault can be planted."""

    def __init__(self, root: Path) -> None:
        self.root, self.images = root, root / "images"
        self.images.mkdir(parents=True)
        self.header = ["Id", "Channel", "Title", "Category"]
        self.rows = [[f"p{n}", f"C{n // 3}", f"title {n}", "Comedy,Music" if n % 2 else "Music"] for n in range(COUNT)]
        for n in range(COUNT):
            picture(n).save(self.file(n))

    def file(self, n: int, name: str | None = None) -> Path:
        return self.images / (name or f"p{n}.png")

    def set(self, n: int, column: str, cell: str) -> None:
        self.rows[n][self.header.index(column)] = cell

    def write(self) -> None:
        with (self.root / CSV).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.header, *self.rows])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def config(root: Path, **settings: object) -> DataConfig:
    asked = {key: value for key, value in settings.items() if key in SPLIT}
    split = SplitConfig(**{"test_fraction": 0.0, **asked})  # type: ignore[arg-type]
    others = {key: value for key, value in settings.items() if key not in SPLIT}
    return DataConfig(root=str(root), max_pixels=10_000, split=split, **others)  # type: ignore[arg-type]


def silent(stage: str, done: int, total: int) -> None:
    pass


def check(folder: Folder, on_progress: Callable[[str, int, int], None] = silent, **settings: object) -> DataReport:
    folder.write()
    data = config(folder.root, **settings)
    return check_data(data, size=SIZE, token_counts=words, max_tokens=5, on_progress=on_progress)


def bomb() -> bytes:
    """A PNG header that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg(image: Image.Image, quality: int = 75) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


Plant = Callable[[Folder], None]
FEW_ROWS = ("unvalidated_labels", "common_label")
"""What a label that is planted in so few rows brings with it."""

PLANTS: dict[str, tuple[str, Place, Plant]] = {}


def plant(kind: str, line: int | None, row_id: str | None, file: str = CSV) -> Callable[[Plant], Plant]:
    def keep(function: Plant) -> Plant:
        PLANTS[function.__name__] = (kind, Place(file, line, row_id), function)
        return function

    return keep


@plant("missing_picture", 5, "p3")
def missing_picture(f: Folder) -> None:
    f.file(3).unlink()


@plant("orphan_picture", None, None, "images/deep/lost.JPG")
def orphan(f: Folder) -> None:
    f.file(0, "deep").mkdir()
    picture(99).save(f.file(0, "deep/lost.JPG"))


@plant("duplicate_id", 8, "p2")
def duplicate_id(f: Folder) -> None:
    f.set(6, "Id", "p2")
    f.file(6).unlink()


@plant("same_picture", 4, "p2")
def identical_pictures(f: Folder) -> None:
    f.file(7).write_bytes(f.file(2).read_bytes())


@plant("repeated_pair", 4, "p2")
def identical_pictures_with_the_same_title(f: Folder) -> None:
    f.file(7).write_bytes(f.file(2).read_bytes())
    f.set(7, "Title", "title 2")


@plant("near_picture", 3, "p1")
def recompressed_copy(f: Folder) -> None:
    f.file(1).unlink()
    f.file(1, "p1.jpg").write_bytes(jpeg(picture(2).resize((48, 48))))


@plant("same_title", 3, "p1")
def repeated_title(f: Folder) -> None:
    f.set(9, "Title", " title 1 ")


@plant("empty_text", 6, "p4")
def empty_title(f: Folder) -> None:
    f.set(4, "Title", " \u00a0\u3000 ")


@plant("unprintable_title", 6, "p4")
def control_character_in_a_title(f: Folder) -> None:
    f.set(4, "Title", "bell \x07 rings")


@plant("unprintable_title", 6, "p4")
def invisible_title(f: Folder) -> None:
    f.set(4, "Title", "\u200b\u2060\ufeff\u3164\ufe0f")


@plant("unprintable_title", 6, "p4")
def damaged_title(f: Folder) -> None:
    f.set(4, "Title", "caf\ufffd")


@plant("too_long_text", 7, "p5")
def title_longer_than_the_model_reads(f: Folder) -> None:
    f.set(5, "Title", "one two three four five six")


@plant("wrong_cell_count", 6, None)
def wrong_number_of_cells(f: Folder) -> None:
    f.rows[4] = ["p4", "One", "a title", "cut in two", "Music"]


@plant("broken_picture", 5, "p3")
def truncated_jpeg(f: Folder) -> None:
    f.file(3).unlink()
    content = jpeg(picture(3), 95)
    f.file(3, "p3.jpg").write_bytes(content[: len(content) * 2 // 3])


@plant("not_a_picture", 5, "p3")
def text_file_named_png(f: Folder) -> None:
    f.file(3).write_text("<html>404</html>")


@plant("too_many_pixels", 5, "p3")
def picture_above_the_limit(f: Folder) -> None:
    Image.new("RGB", (200, 60)).save(f.file(3))


@plant("too_many_pixels", 5, "p3")
def decompression_bomb(f: Folder) -> None:
    f.file(3).write_bytes(bomb())


@plant("extreme_shape", 5, "p3")
def thin_strip(f: Folder) -> None:
    Image.new("RGB", (1, 400)).save(f.file(3))


@plant("empty_file", 5, "p3")
def zero_byte_file(f: Folder) -> None:
    f.file(3).write_bytes(b"")


@plant("outside_root", 5, "p3")
def symlink_out_of_the_folder(f: Folder) -> None:
    outside = f.root.parent / "outside.png"
    f.file(3).rename(outside)
    f.file(3).symlink_to(outside)


@plant("ambiguous_id", 5, "p3")
def two_files_for_an_id(f: Folder) -> None:
    for sub in "xy":
        f.file(3, sub).mkdir()
        picture(ord(sub)).save(f.file(3, f"{sub}/p3.png"))
    f.file(3).unlink()


@plant("unsafe_id", 5, "../../etc/passwd")
def id_with_path_separators(f: Folder) -> None:
    f.set(3, "Id", "../../etc/passwd")
    f.file(3).unlink()


@plant("unsafe_id", 5, "..")
def id_of_two_dots(f: Folder) -> None:
    f.set(3, "Id", "..")
    f.file(3).unlink()


@plant("empty_id", 5, None)
def empty_id(f: Folder) -> None:
    f.set(3, "Id", " ")
    f.file(3).unlink()


@plant("no_label", 5, "p3")
def empty_label_list(f: Folder) -> None:
    f.set(3, "Category", " , ")


@plant("rare_label", 5, "p3")
def label_seen_once(f: Folder) -> None:
    f.set(3, "Category", "Comedy,Opera")


@plant("similar_labels", 6, "p4")
def labels_that_differ_by_case_and_space(f: Folder) -> None:
    for n, cell in {4: "music ,Comedy", 6: "music"}.items():
        f.set(n, "Category", cell)


@plant("similar_labels", 6, "p4")
def a_label_in_decomposed_letters(f: Folder) -> None:
    for n, form in {4: "NFD", 6: "NFC", 8: "NFC"}.items():
        f.set(n, "Category", unicodedata.normalize(form, "음악, Music"))


@plant("similar_groups", 7, "p5")
def channels_that_differ_by_space_and_case(f: Folder) -> None:
    f.set(5, "Channel", "c1 ")


@plant("similar_groups", 6, "p4")
def a_channel_in_decomposed_letters(f: Folder) -> None:
    for n, form in {3: "NFC", 4: "NFD", 5: "NFC"}.items():
        f.set(n, "Channel", unicodedata.normalize(form, "채널"))


@plant("same_labels", None, None)
def one_label_for_all_rows(f: Folder) -> None:
    for n in range(COUNT):
        f.set(n, "Category", "Music")


@plant("no_label", None, None)
def a_column_of_labels_without_any(f: Folder) -> None:
    for n in range(COUNT):
        f.set(n, "Category", " ")


@plant("wrong_suffix", 5, "p3")
def png_named_jpg(f: Folder) -> None:
    f.file(3).rename(f.file(3, "p3.jpg"))


@plant("tiny_picture", 5, "p3")
def picture_below_the_input_size(f: Folder) -> None:
    picture(3).resize((64, 31)).save(f.file(3))


@plant("flat_picture", 5, "p3")
def picture_of_one_colour(f: Folder) -> None:
    Image.new("RGB", (64, 64), (200, 30, 90)).save(f.file(3))


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_alone_with_file_and_line(folder: Folder, name: str) -> None:
    kind, place, sow = PLANTS[name]
    sow(folder)
    report = check(folder, group_by="Channel")
    findings = [found for found in report.findings if found.kind not in FEW_ROWS]
    assert [(found.kind, found.place) for found in findings] == [(kind, place)]
    assert findings[0].severity == KINDS[kind].severity
    assert report.rows_usable + report.rows_unusable == COUNT
    assert report.rows_unusable == (1 if KINDS[kind].severity == "error" else 0)


@pytest.mark.parametrize(
    ("kind", "line", "damage"),
    [
        ("not_utf8", 5, lambda content: content.replace(b"title 3", b"caf\xe9")),
        ("broken_quote", 5, lambda content: content.replace(b"title 3", b'"title 3')),
        ("unreadable_table", 1, lambda content: content.replace(b"Id,", b"Name,")),
    ],
)
def test_what_makes_the_table_unreadable_is_a_finding(
    folder: Folder, kind: str, line: int, damage: Callable[[bytes], bytes]
) -> None:
    folder.write()
    file = folder.root / CSV
    file.write_bytes(damage(file.read_bytes()))
    report = check_data(config(folder.root), size=SIZE)
    assert [(found.kind, found.place) for found in report.findings] == [(kind, Place(CSV, line))]
    assert report.bad_share == 1.0


def test_a_sound_folder_gives_no_finding_and_the_split_sizes(folder: Folder) -> None:
    stages: list[tuple[str, int, int]] = []
    report = check(folder, val_fraction=0.25, on_progress=lambda *stage: stages.append(stage))
    assert (report.findings, report.bad_share, report.counts) == ((), 0.0, {})
    assert (report.rows_usable, report.part_rows) == (12, {"train": 9, "val": 3, "test": 0})
    three = check(folder, val_fraction=0.25, test_fraction=0.25)
    assert three.part_rows == {"train": 6, "val": 3, "test": 3}
    assert {stage for stage, done, total in stages if done == total} == {
        "pictures",
        "looks of pictures",
        "pictures compared",
    }


def test_there_are_at_least_twenty_planted_kinds_and_only_of_kinds_that_are_documented() -> None:
    planted = {kind for kind, _, _ in PLANTS.values()}
    assert len(planted) >= 20
    assert set(KINDS) - planted == {
        *(
            "not_utf8",
            "broken_quote",
            "unreadable_table",
            "swallowed_rows",
            "broken_shard",
        ),  # held by a test of their own
        *("leak", "no_split", "no_usable_row", "empty_title", "unseen_label", *FEW_ROWS),
        "unusable_row",  # what has no name
    }
    assert all(kind.meaning.endswith(".") and kind.remedy.endswith(".") for kind in KINDS.values())


def test_others_name_every_further_row(folder: Folder) -> None:
    for n in (5, 9):
        folder.file(n).write_bytes(folder.file(2).read_bytes())
    (same,) = check(folder).findings
    assert (same.kind, same.place) == ("same_picture", Place(CSV, 4, "p2"))
    assert same.others == (Place(CSV, 7, "p5"), Place(CSV, 11, "p9"))


def leaks(folder: Folder, **settings: object) -> list[Finding]:
    return [found for found in check(folder, **settings).findings if found.kind == "leak"]


def test_a_near_copy_on_both_sides_of_the_configured_split_leaks(folder: Folder) -> None:
    """Every row's copy under another name: some must straddle, and a column that joins them mends it."""
    for n in range(COUNT // 2):
        folder.file(n + COUNT // 2).unlink()
        folder.file(n, f"p{n + COUNT // 2}.jpg").write_bytes(jpeg(picture(n)))
        folder.set(n, "Channel", f"pair {n}")
        folder.set(n + COUNT // 2, "Channel", f"pair {n}")
    found = leaks(folder, val_fraction=0.3)
    assert found
    assert all(abs((leak.line or 0) - (leak.others[0].line or 0)) == COUNT // 2 for leak in found)
    assert leaks(folder, val_fraction=0.3, group_by="Channel") == []


def test_identical_pictures_never_straddle(folder: Folder) -> None:
    for n in range(1, COUNT, 2):
        folder.file(n).write_bytes(folder.file(n - 1).read_bytes())
    assert all(leaks(folder, val_fraction=0.3, seed=seed) == [] for seed in range(5))


def test_a_column_that_puts_one_picture_into_several_parts_leaks(folder: Folder) -> None:
    folder.header.append("part")
    for n, row in enumerate(folder.rows):
        row.append(("train", "train", "val", "test")[n % 4])
    folder.file(2).write_bytes(folder.file(0).read_bytes())  # val and train
    folder.file(7, "p7.jpg").write_bytes(jpeg(picture(3)))  # both test
    folder.file(7).unlink()
    folder.file(11, "p11.jpg").write_bytes(jpeg(picture(5)))  # test and train
    folder.file(11).unlink()
    report = check(folder, column="part", test_fraction=0.2)
    found = [leak for leak in report.findings if leak.kind == "leak"]
    assert report.part_rows == {"train": 6, "val": 3, "test": 3}
    assert [(leak.place, leak.others) for leak in found] == [
        (Place(CSV, 4, "p2"), (Place(CSV, 2, "p0"),)),
        (Place(CSV, 13, "p11"), (Place(CSV, 7, "p5"),)),
    ]
    assert found[1].reason == "alike pictures: 1 rows in test, 1 in training"
    # where test rows are in no part they are not held against training rows
    assert [leak.place for leak in leaks(folder, column="part")] == [Place(CSV, 4, "p2")]


def test_a_row_whose_part_is_no_word_for_one_is_a_finding(folder: Folder) -> None:
    folder.header.append("part")
    for n, row in enumerate(folder.rows):
        row.append(("train", " Validation", "TEST")[n % 3])
    folder.set(4, "part", "maybe")
    folder.set(5, "part", " ")
    report = check(folder, column="part")
    assert [(found.kind, found.place, found.reason) for found in report.findings] == [
        ("unusable_row", Place(CSV, 6, "p4"), "its split is 'maybe'; it should be train, val or test"),
        ("unusable_row", Place(CSV, 7, "p5"), "its split is empty; it should be train, val or test"),
    ]


def test_a_label_of_all_rows_beside_others_is_told(folder: Folder) -> None:
    for n in range(COUNT):
        folder.set(n, "Category", "Comedy,Music" if n % 2 else "Music,Opera")
    (found,) = [one for one in check(folder).findings if one.kind == "common_label"]
    assert found.reason == "all 12 rows have 'Music', and others that differ"


def test_a_single_label_that_tells_rows_apart_is_remarked_on_and_no_fault(folder: Folder) -> None:
    said = "only the label 'Comedy' (6 of 12 rows) tells rows apart, and it takes two: "
    report = check(folder)
    assert report.findings == () and report.stats.label_remark == f"{said}nothing is evaluated or predicted by labels"
    done = CliRunner().invoke(app, ["data", "check", str(folder.root)])
    assert done.exit_code == 0 and said in done.output
    assert json.loads(report_json(report))["stats"]["label_remark"] == report.stats.label_remark
    for n, cell in ((0, "Music,Opera"), (1, "")):
        folder.set(n, "Category", cell)
    assert check(folder).stats.label_remark is None


def test_colours_tell_pictures_of_the_same_shape_apart(folder: Folder) -> None:
    red, green, blue = picture(2).split()
    Image.merge("RGB", (green, red, blue)).save(folder.file(3))
    assert check(folder).findings == ()


def test_pictures_of_one_colour_are_near_nothing(folder: Folder) -> None:
    for n in (3, 4):
        Image.new("RGB", (64, 64), (250, 250, 250 - n)).save(folder.file(n))
    assert [found.kind for found in check(folder).findings] == ["flat_picture", "flat_picture"]


def test_one_group_of_rows_cannot_be_divided(folder: Folder) -> None:
    for n in range(COUNT):
        folder.set(n, "Channel", "One")
    report = check(folder, group_by="Channel")
    assert [found.kind for found in report.findings] == ["no_split"]
    assert (report.part_rows, report.rows_usable) == ({"train": 0, "val": 0, "test": 0}, COUNT)


def test_an_empty_title_beside_labels_is_a_warning(folder: Folder) -> None:
    folder.set(3, "Title", "")
    report = check(folder, text="{labels}: {title}")
    assert [(found.kind, found.line) for found in report.findings] == [("empty_title", 5)]
    assert report.rows_unusable == 0


def test_no_usable_row_counts_all_rows_as_bad(folder: Folder) -> None:
    for n in range(COUNT):
        folder.file(n).unlink()
    report = check(folder)
    assert [found.kind for found in report.findings] == ["no_usable_row"]
    assert (report.rows_unusable, report.bad_share) == (COUNT, 1.0)
    assert "line 2 (p0)" in report.findings[0].reason


def test_rows_that_a_filter_drops_still_name_their_pictures(folder: Folder) -> None:
    report = check(folder, include={"Channel": ["C1"]})
    assert (report.findings, report.rows_usable) == ((), 3)


def test_several_captions_of_one_file_are_no_fault_and_paths_are_no_unsafe_ids(folder: Folder) -> None:
    folder.header = ["file_name", "text"]
    folder.rows = [[f"images/p{n}.png", f"title {n}"] for n in range(COUNT)]
    folder.rows += [["images/p0.png", "another"], ["images/no/p1.png", "gone"], ["../outside.png", "outside"]]
    report = check(folder)
    assert [(found.kind, found.line) for found in report.findings] == [("missing_picture", 15), ("outside_root", 16)]


def test_a_missing_metadata_file_and_an_unknown_column_are_raised(folder: Folder) -> None:
    with pytest.raises(DataError, match="no such file"):
        check_data(config(folder.root), size=SIZE)
    with pytest.raises(ConfigError, match="no column 'Chanel'"):
        check(folder, group_by="Chanel")
    with pytest.raises(ConfigError, match="no column 'parts'"):
        check(folder, column="parts")


@pytest.mark.parametrize(
    "title",
    [
        "안녕하세요, 세계",
        "\u1112\u1161\u11ab\u1100\u1173\u11af",  # decomposed Hangul
        "e\u0301tude \u0928\u092e\u0938\u094d\u0924\u0947",
        "\U0001f469\U0001f3fd\u200d\U0001f680",
        "\u2764\ufe0f",
        "\U0001fae8\U0001fac6",  # emoji that are younger than Unicode 14
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "two\nlines\tand a tab",
        "[/] =1+1",
        "?",
    ],
)
def test_every_script_is_printable(title: str) -> None:
    assert unprintable(title) is None


@pytest.mark.parametrize("title", ["a\x00", "\x1b[31m", "\u200d\u200b", "\ufffe", "\ue000", "\ud800", "\u2800 \u3164"])
def test_damaged_and_invisible_titles_are_not_printable(title: str) -> None:
    assert unprintable(title) is not None


HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\x1b]0;x\x07", "a\r\n=b", "\u202etxt", "\ud83d"]


def report_of(*findings: Finding) -> DataReport:
    return DataReport("data", CSV, findings, 3, 1, data_stats([]))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_inert_in_tables_and_exact_in_json(text: str) -> None:
    report = report_of(Finding("same_title", text, text, 2, text, (Place(text, 3, text),)))
    header, cells = csv.reader(io.StringIO(report_csv(report)))
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in cells)
    for cell in [*cells, *summary_rows(report)[0]]:
        assert not any(ord(char) < 32 or char in "\x7f\u202e\ud83d" for char in cell)
    assert len(header) == len(cells)
    (found,) = json.loads(report_json(report))["findings"]
    assert (found["file"], found["row_id"], found["reason"], found["others"][0]["row_id"]) == (text, text, text, text)


def test_a_korean_title_stays_readable_in_spreadsheets() -> None:
    family = "가족 \U0001f469\u200d\U0001f466"
    assert family in report_csv(report_of(Finding("same_title", family, CSV, 2, "a")))


def test_the_summary_counts_kinds_gravest_first_with_the_first_example() -> None:
    report = report_of(
        Finding("empty_file", "has no bytes", CSV, 2, "a"),
        Finding("same_title", "first", CSV, 3, "b"),
        Finding("same_title", "second", CSV, 4, "c"),
    )
    assert summary_rows(report) == [
        ("empty_file", "1", "error", "metadata.csv:2 (a): has no bytes"),
        ("same_title", "2", "warning", "metadata.csv:3 (b): first"),
    ]
    assert report.bad_share == 0.25
    assert json.loads(report_json(report))["counts"] == {"empty_file": 1, "same_title": 2}


@pytest.mark.skipif(os.name == "nt", reason="such a name cannot be made there")
def test_a_picture_name_that_is_no_utf8_is_reported(folder: Folder) -> None:
    name = os.fsencode(folder.images) + b"/caf\xe9\n.png"
    Path(os.fsdecode(name)).write_bytes(folder.file(1).read_bytes())
    report = check(folder)
    assert [found.kind for found in report.findings] == ["orphan_picture"]
    assert "caf\\udce9\\n.png" in report_csv(report)
    assert json.loads(report_json(report))["findings"][0]["file"] == "images/caf\udce9\n.png"


def test_labels_are_named_that_test_rows_alone_have_or_too_few_validation_rows(folder: Folder) -> None:
    folder.header.append("split")
    for n, row in enumerate(folder.rows):
        row.append("val" if n in (0, 1, 2) else "test" if n in (3, 4) else "train")
    for n, cell in {0: "cat", 1: "cat", 2: "Cat", 3: "owl", 4: "owl,cat", 5: "Cat", 6: "dog", 7: "dog"}.items():
        folder.set(n, "Category", cell)
    found = {one.kind: one for one in check(folder, column="split", test_fraction=0.2).findings}
    assert {"unseen_label", "unvalidated_labels", "similar_labels"} <= found.keys()
    unseen = found["unseen_label"]
    assert (unseen.place, unseen.others) == (Place(CSV, 5, "p3"), (Place(CSV, 6, "p4"),))
    assert found["unvalidated_labels"].reason.startswith("4 of 5 labels have fewer than 2 validation rows: 'Cat', ")


def test_a_thousand_labels_are_named_in_one_line(folder: Folder) -> None:
    for n in range(COUNT):
        folder.set(n, "Category", ",".join(f"label {n % 6}-{i}" for i in range(167)))
    (found,) = (one for one in check(folder).findings if one.kind == "unvalidated_labels")
    assert "1,002 labels have fewer than 2 validation rows: " in found.reason and "more" in found.reason
    assert len(found.reason) < 500


def test_stats_are_plain_numbers(folder: Folder) -> None:
    folder.set(0, "Category", "")
    stats = check(folder).stats
    assert stats.label_counts == {"Music": 11, "Comedy": 6}
    assert stats.labels_per_row == {0: 1, 1: 5, 2: 6}
    assert sorted(stats.title_characters) == [7] * 10 + [8] * 2
    assert stats.text_tokens == (2,) * COUNT
    summary = stats.summary()
    assert summary["title_characters"] == {"min": 7, "p25": 7, "median": 7, "p75": 7, "p95": 8, "max": 8}
    assert isinstance(stats, DataStats)


def test_parts_are_counted_as_training_divides_them_whether_pictures_are_decoded_or_only_read(folder: Folder) -> None:
    folder.file(4).write_bytes(folder.file(0).read_bytes())
    report = check(folder, val_fraction=0.25, test_fraction=0.25, group_by="Channel")
    parts = report.stats.parts
    assert {name: part.rows for name, part in parts.items()} == report.part_rows == {"train": 6, "val": 3, "test": 3}
    # channels of three rows, of which p0 and p4 tie two together: what is left over is one channel a part
    assert {name: part.groups for name, part in parts.items()} == {"train": 1, "val": 1, "test": 1}
    summed = Counter[str]()
    for part in parts.values():
        summed.update(part.label_counts)
    assert summed == report.stats.label_counts == {"Music": 12, "Comedy": 6}
    assert report.stats.summary()["parts"]["train"] == asdict(parts["train"])  # type: ignore[index]
    file = folder.root / "experiment.yaml"
    split = "{val_fraction: 0.25, test_fraction: 0.25, group_by: Channel}"
    model = "{scratch: clip}"
    told = f"name: x\ntask: image_text\nmodel: {model}\nadapter: {{method: full}}\n"
    file.write_text(f"{told}data: {{root: {folder.root}, split: {split}}}\n", encoding="utf-8")
    assert describe(None, str(file), [], Display(quiet=True)).parts == parts
    for n in range(COUNT):
        folder.set(n, "Channel", "One")
    folder.write()
    one = describe(None, str(file), [], Display(quiet=True))
    assert (one.rows, one.parts) == (COUNT, {})
