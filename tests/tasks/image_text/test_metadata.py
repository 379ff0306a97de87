from __future__ import annotations

import csv
import io
import os
import unicodedata
from pathlib import Path

import pytest

from vectoruniverse.data.findings import Finding, Rows
from vectoruniverse.data.splits import group_rows, split_rows
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.image_text import metadata
from vectoruniverse.tasks.image_text.metadata import Metadata, group_values
from vectoruniverse.tasks.image_text.settings import ColumnsConfig, DataConfig

YOUTUBE = Path(__file__).resolve().parents[4] / "shared/data/youtube_metadata.csv"
HEADER = "Id,Channel,Title,Category\n"


def folder(tmp_path: Path, text: str | bytes, *pictures: str, metadata: str = "metadata.csv") -> Path:
    """A data folder with empty files as pictures; reading metadata never opens one."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / metadata).write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read_metadata(root: Path, **settings: object) -> Metadata:
    return metadata.read_metadata(DataConfig(root=str(root), **settings))  # type: ignore[arg-type]


def reasons(found: Metadata) -> dict[int, str]:
    return {row.line: row.reason for row in found.bad if row.line}


def test_id_layout_finds_files_anywhere_below_images_and_reads_every_field(tmp_path: Path) -> None:
    text = HEADER + 'a,One,"Hello, world","Comedy, Entertainment,Comedy"\nb,Two,Bye,\n'
    root = folder(tmp_path, text, "images/One/a.jpg", "images/deep/er/b.PNG", "images/One/a.json")
    a, b = read_metadata(root, text="{labels}: {title} by {Channel}").rows
    assert (a.line, a.id, a.title, a.labels) == (2, "a", "Hello, world", ("Comedy", "Entertainment"))
    assert a.text == "Comedy, Entertainment: Hello, world by One"
    assert a.path == root / "images/One/a.jpg"
    assert a.columns == {
        "Id": "a",
        "Channel": "One",
        "Title": "Hello, world",
        "Category": "Comedy, Entertainment,Comedy",
    }
    assert (b.labels, b.text, b.path.name) == ((), ": Bye by Two", "b.PNG")


@pytest.mark.parametrize(
    ("pictures", "chosen"),
    [
        (["images/x/a (1).jpg"], "images/x/a (1).jpg"),
        (["images/x/a (1).jpg", "images/x/a.jpg"], "images/x/a.jpg"),
        (["images/y/a.jpg", "images/One/a.jpg"], "images/One/a.jpg"),
        (["images/y/a.jpg", "images/One/a (1).jpg"], "images/One/a (1).jpg"),
    ],
)
def test_of_several_files_the_channels_folder_comes_first_and_then_the_plain_name(
    tmp_path: Path, pictures: list[str], chosen: str
) -> None:
    root = folder(tmp_path, HEADER + "a,One,t,c\n", *pictures)
    assert read_metadata(root).rows[0].path == root / chosen


def test_an_ambiguous_id_is_set_aside_and_names_the_files(tmp_path: Path) -> None:
    text = HEADER + "a,One,t,c\nb,One,t,c\n"
    root = folder(tmp_path, text, "images/x/a.jpg", "images/y/a.png", "images/b.jpg")
    found = read_metadata(root)
    assert [row.id for row in found.rows] == ["b"]
    assert "x/a.jpg, y/a.png" in reasons(found)[2]


def test_decomposed_file_names_of_macos_match(tmp_path: Path) -> None:
    root = folder(tmp_path, HEADER + "caf\u00e9,c,t,l\n", "images/cafe\u0301.jpg")
    assert len(read_metadata(root).rows) == 1


def both_forms(text: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("layout", ["id", "imagefolder", "open_clip"])
@pytest.mark.parametrize("swap", [False, True])
def test_files_folders_and_the_metadata_file_are_found_in_either_unicode_form(
    tmp_path: Path, layout: str, swap: bool
) -> None:
    def here(text: str) -> str:
        return both_forms(text)[swap]

    def there(text: str) -> str:
        return both_forms(text)[not swap]

    root = tmp_path / here("썸네일")
    pictures = root / "images" / here("채널 é")
    pictures.mkdir(parents=True)
    other = root / "images" / "b"
    other.mkdir()
    for folder_, name in ((pictures, "하나"), (pictures, "둘"), (other, "둘")):
        (folder_ / here(f"{name}.png")).touch()
    name, channel = there("하나"), there("채널 é")
    content = {
        "id": f"Id,Channel,Title\n{name},{channel},t\n{there('둘')},{channel},u\n",
        "imagefolder": f"file_name,text\nimages/{channel}/{name}.png,t\nimages/{channel}/{there('둘')}.png,u\n",
        "open_clip": f"filepath\ttitle\nimages/{channel}/{name}.png\tt\nimages/{channel}/{there('둘')}.png\tu\n",
    }[layout]
    (root / here("메타.csv")).write_text(content, encoding="utf-8")
    found = read_metadata(tmp_path / there("썸네일"), metadata=there("메타.csv"))
    assert found.bad == []
    assert [row.path.parent for row in found.rows] == [pictures, pictures]
    assert all(unicodedata.is_normalized("NFC", row.id) for row in found.rows)


def test_of_two_files_that_differ_in_form_only_the_exact_one_comes_first(tmp_path: Path) -> None:
    composed, decomposed = both_forms("é")
    root = folder(tmp_path, f"file_name,text\n{composed}.png,t\n{decomposed}.png,u\n", f"{composed}.png")
    (root / f"{decomposed}.png").touch()
    assert [row.path.stem for row in read_metadata(root).rows] == [composed, decomposed]
    files = [f"images/{composed}.png", f"images/{decomposed}.png"]
    for number, name in enumerate((composed, decomposed)):
        root = folder(tmp_path / f"id{number}", HEADER + f"{name},c,t,x\n", *files)
        assert [row.path.stem for row in read_metadata(root).rows] == [name]
    root = folder(tmp_path / "folders", HEADER + f"{composed},c,t,x\n", files[0], f"images/b/{decomposed}.png")
    with pytest.raises(DataError, match="ambiguous"):  # two folders hold two pictures of one name
        read_metadata(root)


def test_an_id_in_two_unicode_forms_is_one_id(tmp_path: Path) -> None:
    composed, decomposed = both_forms("카페")
    root = folder(tmp_path, HEADER + f"{composed},c,t,x\n{decomposed} ,c,u,x\n", f"images/{decomposed}.jpg")
    assert reasons(read_metadata(root)) == {3: "the same id as in line 2"}
    root = folder(tmp_path / "f", f"file_name,text\n{composed}.png,t\n{decomposed}.png,t\n", f"{composed}.png")
    assert reasons(read_metadata(root)) == {3: "the same picture and text as in line 2"}


def test_filters_labels_and_columns_are_equal_up_to_form_and_space(tmp_path: Path) -> None:
    (music, music_nfd), (channel, channel_nfd) = both_forms("음악"), both_forms("채널")
    cells = [f"{music}|x", f"{music_nfd} |x", f"  {music}\u00a0", f"x| {music_nfd}"]
    channels = [channel, channel_nfd + " ", f"\u3000{channel}", "other"]
    rows = "".join(f"p{i},{channels[i]},t,{cells[i]}\n" for i in range(4))
    text = f"Id,{channel_nfd} ,Title, Category\n" + rows
    root = folder(tmp_path, text, *(f"images/p{i}.png" for i in range(4)))

    def kept(**filters: object) -> list[str]:
        return [row.id for row in read_metadata(root, label_separator="|", **filters).rows]

    for name in (channel, channel_nfd):
        for value in (channel, f" {channel_nfd}"):
            assert kept(include={name: [value]}) == ["p0", "p1", "p2"]
            assert kept(exclude={name: [value]}) == ["p3"]
    for label in (music, music_nfd):
        assert kept(include={" Category": [label]}) == ["p0", "p1", "p2", "p3"]
    found = read_metadata(root, label_separator="|", text=f"{{{channel_nfd}}}: {{labels}}")
    assert {label for row in found.rows for label in row.labels} == {music, "x"}
    assert found.rows[3].text == f"other: x, {music}"


def test_groups_are_equal_up_to_form_space_case_and_width(tmp_path: Path) -> None:
    composed, decomposed = both_forms("카페 One")
    values = [composed, f"{decomposed} ", composed.upper(), "카페 Ｏｎｅ", "two", "Two", " ", ""]
    rows = "".join(f"p{i},{value},t,x\n" for i, value in enumerate(values))
    root = folder(tmp_path, HEADER + rows, *(f"images/p{i}.png" for i in range(len(values))))
    found = read_metadata(root).rows
    grouped = group_values(found, " Channel")
    assert grouped is not None
    assert len(set(grouped[:4])) == 1
    assert grouped[4:] == ["Two", "Two", "", ""]
    assert group_values(found[::-1], "Channel") == grouped[::-1]
    assert group_values(found[4:5], "Channel") == ["two"]  # alone, a group keeps its name, and so its side
    assert group_values(found, None) is None
    with pytest.raises(ConfigError, match="no column 'channel' to group by"):
        group_values(found, "channel")


def test_channels_of_the_real_rows_stay_together_however_they_are_written(tmp_path: Path) -> None:
    if not YOUTUBE.is_file():
        pytest.skip("the YouTube rows are not beside the checkout")
    with YOUTUBE.open(encoding="utf-8", newline="") as stream:
        rows = list({row["Id"]: row for row in csv.DictReader(stream)}.values())
    ways = [str, lambda name: name + " ", lambda name: unicodedata.normalize("NFD", name), str.upper]
    out = io.StringIO()
    written = csv.writer(out)
    written.writerow(("Id", "Channel", "Title", "Category"))
    for i, row in enumerate(rows):
        written.writerow((row["Id"], ways[i % 4](row["Channel"]), row["Title"], row["Category"]))
    root = folder(tmp_path, out.getvalue(), *(f"images/{row['Id']}.jpg" for row in rows))
    found = read_metadata(root).rows
    groups = group_rows([row.id for row in found], group_values(found, "Channel"))
    for seed in range(5):
        split = split_rows([row.id for row in found], groups=groups, val_fraction=0.2, seed=seed)
        sides = [{rows[i]["Channel"].strip().casefold() for i in part} for part in split]
        assert not sides[0] & sides[1]


def test_imagefolder_layout(tmp_path: Path) -> None:
    root = folder(tmp_path, "file_name,text\ntrain/a.png,a cat\n", "sub/train/a.png", metadata="images/metadata.csv")
    (root / "images/train").mkdir()
    (root / "images/train/a.png").touch()
    row = read_metadata(root, metadata="images/metadata.csv").rows[0]
    assert (row.id, row.path, row.text) == ("train/a.png", root / "images/train/a.png", "a cat")


@pytest.mark.parametrize("name", ["metadata.csv", "pairs.tsv"])
def test_open_clip_layout_is_tab_separated(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path, "filepath\ttitle\nimages/a.png\tone, two\n", "images/a.png", metadata=name)
    assert read_metadata(root, metadata=name).rows[0].text == "one, two"


def test_several_texts_of_one_picture_are_kept_and_a_repeated_one_is_not(tmp_path: Path) -> None:
    root = folder(tmp_path, "filepath\ttitle\na.png\tone\na.png\ttwo\na.png\tone\na.png\tthree\n", "a.png")
    found = read_metadata(root)
    assert [row.id for row in found.rows] == ["a.png", "a.png#2", "a.png#3"]
    assert reasons(found) == {4: "the same picture and text as in line 2"}


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    root = folder(tmp_path, "key;x,name,tags\na,t,p|q\n", "images/a.jpg")
    names = {"id": "key;x", "title": "name", "labels": "tags", "file": None}
    row = read_metadata(root, columns=ColumnsConfig(**names), label_separator="|").rows[0]
    assert (row.title, row.labels) == ("t", ("p", "q"))


def test_lines_are_physical_lines_where_the_record_begins(tmp_path: Path) -> None:
    text = "\ufeff" + HEADER + 'a,c,"two\nlines",x\n\n\nb,c,"",x\nc,c,t\nd,c,t,x\r\na,c,t,x\n'
    found = read_metadata(folder(tmp_path, text, "images/a.jpg", "images/b.jpg"))
    assert [(row.line, row.title) for row in found.rows] == [(2, "two\nlines")]
    assert reasons(found) == {
        6: "the text is empty",
        7: "3 cells where the header has 4",
        8: "no picture named 'd' below images",
        9: "the same id as in line 2",
    }


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (HEADER + 'a,c,t,x\nb,c,"never closed,x\nc,c,t,x\n', 3, "never closed"),
        (HEADER + 'a,c,t,x\nb,c,"never closed,x\nc,c,t,x\nd,c,"quoted",x\n', 3, "misplaced"),
        (HEADER + 'b,c,"' + "x" * 200_000, 2, "never closed"),
        (HEADER.encode() + b"a,c,t,x\nb,c,\xff,x\n", 3, "UTF-8"),
        (HEADER.encode("utf-16"), 1, "NUL"),
        (HEADER + "a,c,t\0,x\n", 2, "NUL"),
        ("Id,Title,Id\n", 1, "'Id' occurs twice"),
        ("Id,Titel\na,b\n", 1, "no column 'Title'; the columns are 'Id', 'Titel' (did you mean 'Titel'?)"),
        ("a,b\n", 1, "the columns are 'a', 'b'"),
        ("\n \n", None, "empty"),
        ("", None, "empty"),
        (HEADER, None, "no row"),
        (HEADER + "a,c,t\n", None, "1 of 1 rows"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, line: int | None, words: str
) -> None:
    root = folder(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_metadata(root)
    assert caught.value.file == root / "metadata.csv"
    assert caught.value.line == line
    assert words in str(caught.value)
    assert caught.value.remedy


def test_missing_file_and_missing_images_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_metadata(tmp_path)
    (tmp_path / "metadata.csv").write_text(HEADER)
    with pytest.raises(DataError, match="no such folder of pictures"):
        read_metadata(tmp_path)


def test_paths_that_leave_the_folder_or_are_no_files_are_set_aside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.touch()
    names = [
        "../secret.png",
        str(secret),
        "link.png",
        "loop.png",
        "pipe.png",
        "sub",
        "x" * 300,
        "~/a.png",
        "in.png",
        "",
    ]
    root = folder(tmp_path, "file_name,text\n" + "".join(f"{name},t\n" for name in names), "real.png", "sub/a.png")
    (root / "link.png").symlink_to(secret)
    (root / "loop.png").symlink_to("loop.png")
    (root / "in.png").symlink_to("real.png")
    os.mkfifo(root / "pipe.png")
    found = read_metadata(root)
    assert [(row.id, row.path) for row in found.rows] == [("in.png", root / "real.png")]
    assert [line for line, reason in reasons(found).items() if "outside" in reason] == [2, 3, 4]
    assert [line for line, reason in reasons(found).items() if "not a file" in reason] == [5, 6, 7, 8, 9]
    assert reasons(found)[11] == "file_name is empty"


def test_links_in_the_images_folder_must_not_escape(tmp_path: Path) -> None:
    root = folder(tmp_path, HEADER + "a,c,t,x\nb,c,t,x\n", "images/b.jpg")
    (tmp_path / "secret.jpg").touch()
    (root / "images/a.jpg").symlink_to(tmp_path / "secret.jpg")
    assert reasons(read_metadata(root)) == {2: "'a.jpg' leads outside the data folder"}
    with pytest.raises(ConfigError, match=r"data\.images"):
        read_metadata(root, images="..")


@pytest.mark.parametrize(
    "template",
    [
        "{titel}",
        "{title.__class__}",
        "{title[0]}",
        "{title!r}",
        "{title:>9999999999}",
        "{0}",
        "{}",
        "{",
        "{{}",
        "{a{b}}",
    ],
)
def test_a_template_only_names_columns(tmp_path: Path, template: str) -> None:
    root = folder(tmp_path, HEADER + "a,c,t,x\n", "images/a.jpg")
    with pytest.raises(ConfigError) as caught:
        read_metadata(root, text=template)
    assert caught.value.key == "data.text"


def test_braces_in_cells_are_text_and_odd_column_names_work(tmp_path: Path) -> None:
    root = folder(tmp_path, "Id,Title,a:b c!d\na,{Id},{x.y}\n", "images/a.jpg")
    assert read_metadata(root, text="{{{title}}} {a:b c!d}").rows[0].text == "{{Id}} {x.y}"


def test_labels_placeholder_needs_a_label_column(tmp_path: Path) -> None:
    root = folder(tmp_path, "file_name,text\na.png,t\n", "a.png")
    with pytest.raises(ConfigError, match="labels"):
        read_metadata(root, text="{labels}, {title}")


def test_filters_match_any_label_and_whole_cells_elsewhere(tmp_path: Path) -> None:
    rows = 'a,One,t,"x,y"\nb,One,t,y\nc,Two,t,z\nd,"One,Two",t,x\nmissing,Two,t,z\n'
    root = folder(tmp_path, HEADER + rows, *(f"images/{name}.jpg" for name in "abcd"))

    def kept(include: dict[str, list[str]] | None = None, exclude: dict[str, list[str]] | None = None) -> list[str]:
        return [row.id for row in read_metadata(root, include=include or {}, exclude=exclude or {}).rows]

    assert kept(include={"Category": ["x"]}) == ["a", "d"]
    assert kept(include={"Category": ["x", "z"]}, exclude={"Channel": ["One"]}) == ["c", "d"]
    assert kept(exclude={"Category": ["y", "x"]}) == ["c"]
    assert read_metadata(root, exclude={"Channel": ["Two"]}).bad == []  # what is filtered out is not bad
    for filters in ({"include": {"category": ["x"]}}, {"exclude": {"category": ["x"]}}):
        with pytest.raises(ConfigError, match="did you mean 'Category'"):
            kept(**filters)
    with pytest.raises(DataError, match="no row passes"):
        kept(include={"Category": ["nothing"]})


def test_too_many_bad_rows_stop_with_the_first_three() -> None:
    file = Path("metadata.csv")
    bad = [Finding("missing_picture", "no picture", str(file), line, f"id{line}") for line in range(2, 7)]
    found = Rows(file, list(range(95)), bad)
    found.refuse_bad(0.05)
    Rows(file, [], []).refuse_bad(0.0)
    with pytest.raises(DataError) as caught:
        found.refuse_bad(0.049)
    message = str(caught.value)
    assert "5 of 100 rows (5.0%)" in message
    assert "line 4 (id4): no picture" in message
    assert "id5" not in message


def test_the_real_youtube_rows_are_read_as_pandas_reads_them(tmp_path: Path) -> None:
    if not YOUTUBE.is_file():
        pytest.skip("the YouTube rows are not beside the checkout")
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(YOUTUBE, dtype=str, keep_default_na=False)
    root = folder(tmp_path, YOUTUBE.read_bytes())
    for name in set(table["Id"]):
        (root / "images" / f"{name}.jpg").touch()
    found = read_metadata(root, text="{labels}, {title}")
    with YOUTUBE.open(encoding="utf-8", newline="") as stream:
        repeated = len(list(csv.reader(stream))) - 1 - table["Id"].nunique()
    assert len(found.bad) == repeated
    assert len(found.rows) == table["Id"].nunique()
    firsts = table.drop_duplicates("Id")
    assert [row.title for row in found.rows] == [title.strip() for title in firsts["Title"]]
    assert {label for row in found.rows for label in row.labels} == set(",".join(firsts["Category"]).split(","))
