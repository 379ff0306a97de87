"""Tables: no line vanishes without a word, quotes mean what their file makes them mean, and every refusal is true."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.table import MAX_COLUMNS, Table, read_table
from vectoruniverse.data.text_table import read_text_table
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.image_text.metadata import Metadata, read_metadata
from vectoruniverse.tasks.image_text.settings import DataConfig


def read(tmp_path: Path, content: str | bytes, name: str = "t.tsv", encoding: str = "utf-8") -> Table:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(file, encoding)


def read_pictures(root: Path) -> Metadata:
    return read_metadata(DataConfig(root=str(root)))


def cells(table: Table) -> list[list[str]]:
    return [record.cells for record in table.records]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_quotes_of_captions_between_tabs_are_characters_where_every_line_is_a_row(
    tmp_path: Path, end: str, mark: str
) -> None:
    rows = [[f"{n}.jpg", f"caption {n}", "x"] for n in range(12)]
    rows[2][1], rows[7][2] = '"An opening quote', 'the end"'
    rows[9][1] = 'say "hi" twice'
    content = mark + end.join(map("\t".join, [["filepath", "title", "more"], *rows])) + end
    found = read(tmp_path, content)
    assert cells(found) == rows
    assert [record.line for record in found.records] == list(range(2, 14))


def test_a_quote_that_opens_and_never_closes_is_a_character_between_tabs(tmp_path: Path) -> None:
    found = read(tmp_path, 'a\tb\n1\t"never closed\n2\t"closed" and not\n3\tan inch is 1"\n')
    assert cells(found) == [["1", '"never closed'], ["2", '"closed" and not'], ["3", 'an inch is 1"']]


def test_what_a_spreadsheet_quotes_between_tabs_is_unquoted(tmp_path: Path) -> None:
    """Random cells through csv's own excel-tab writer, then back."""
    draw = random.Random(0)
    for columns in (2, 3):
        rows = [
            [f"row {i}", *("".join(draw.choices(["a", " ", '"', "\n", "\t", ","], k=6)) for _ in range(columns - 1))]
            for i in range(200)
        ]
        # a cell with both a tab and a line end can be read in two ways and is refused: see below
        rows = [row for row in rows if not any("\t" in cell and "\n" in cell for cell in row)]
        file = tmp_path / "t.tsv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, "excel-tab").writerows([[f"c{i}" for i in range(columns)], *rows])
        assert cells(read_table(file)) == rows


@pytest.mark.parametrize(
    "content",
    [
        'a\tb\n1\t"x\ty\nz"\n2\tw\n',  # a cell with a tab over two lines, or a row of three cells and one of one
        'text\n"one\ntwo"\nthree\n',  # one column: every line could be a row
        'a\tb\n1\t"x\ny"\n2\t"one\n3\ttwo"\n',  # the first quoted cell is one, the second holds two rows
    ],
)
def test_a_tab_separated_file_that_can_be_read_in_two_ways_is_refused_with_its_line(
    tmp_path: Path, content: str
) -> None:
    with pytest.raises(FaultError, match="rows of their own with quotes as plain characters") as caught:
        read(tmp_path, content)
    assert caught.value.kind == "broken_quote"
    assert caught.value.line in (2, 4)
    assert caught.value.remedy


def test_a_quoted_cell_with_commas_that_holds_rows_is_told(tmp_path: Path) -> None:
    content = 'file_name,text\na.png,"Hello\nb.png,there\nc.png,you"\nd.png,"two\nlines"\n'
    (tmp_path / "metadata.csv").write_text(content, encoding="utf-8")
    for name in "ad":
        (tmp_path / f"{name}.png").touch()
    found = read_pictures(tmp_path)
    assert [row.id for row in found.rows] == ["a.png", "d.png"]
    assert [(doubt.line, doubt.kind) for doubt in found.doubts] == [(2, "swallowed_rows")]
    assert "lines 2 to 4" in found.doubts[0].reason
    texts = read_text_table(tmp_path / "metadata.csv", texts={"text": "text"})
    assert [doubt.line for doubt in texts.doubts] == [2]
    (tmp_path / "c.png").touch()  # so line 4 is a row, and not a line of a caption
    with pytest.raises(FaultError, match=r"closes in line 4, so that the rows between, such as that of 'c\.png'"):
        read_pictures(tmp_path)


def test_cells_are_as_long_as_the_file_allows_and_an_unclosed_quote_is_still_told(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word, " * 100_000
    found = read(tmp_path, f'a,b\n1,"{long}"\n2,x\n', "t.csv")
    assert cells(found) == [["1", long], ["2", "x"]]
    for content in (f'a,b\n1,x\n2,"{long}\n', f'a,b\n1,x\n2,"{long}\n3,y\n'):
        with pytest.raises(FaultError, match="never closed") as caught:
            read(tmp_path, content, "t.csv")
        assert caught.value.line == 3
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("mark", [",", "\t"])
def test_a_header_of_too_many_columns_is_refused_at_once_and_in_one_line(tmp_path: Path, mark: str) -> None:
    content = mark.join(f"c{i}" for i in range(100_000)) + "\n" + mark.join("x" * 100_000) + "\n"
    with pytest.raises(DataError, match=r"100,000 columns, more than 10,000") as caught:
        read(tmp_path, content, "t.csv")
    assert len(str(caught.value)) < 300


def test_a_wide_table_is_read_and_its_messages_stay_short(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(",".join(f"c{i}" for i in range(MAX_COLUMNS)) + "\n" + "," * (MAX_COLUMNS - 1) + "\n")
    with pytest.raises(ConfigError, match=r"and 9,980 more \(did you mean 'c\d+'\?\)") as caught:
        read_text_table(file, texts={"text": "c99999"})
    assert len(str(caught.value)) < 500


def test_a_separator_that_is_not_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metadata.csv"
    file.write_text("Id;Title;Category\na;b;c\n", encoding="utf-8")
    with pytest.raises(DataError, match="separated by ';'"):
        read_pictures(tmp_path)
    with pytest.raises(ConfigError, match="separated by ';'"):
        read_text_table(file, texts={"text": "Title"})


def test_columns_are_equal_up_to_unicode_form_and_space(tmp_path: Path) -> None:
    decomposed = "\u110c\u1175\u11af\u1106\u116e\u11ab"  # 질문
    file = tmp_path / "t.csv"
    file.write_text(f"{decomposed} , label\nq,l\n", encoding="utf-8")
    (row,) = read_text_table(file, texts={"text": "질문"}, label="label").rows
    assert (row.texts["text"], row.label) == ("q", "l")
    file.write_text("질문,label\nq,l\n", encoding="utf-8")
    assert read_text_table(file, texts={"text": decomposed}).rows[0].texts["text"] == "q"
    with pytest.raises(DataError, match="'질문' occurs twice"):
        read(tmp_path, f"질문,{decomposed}\na,b\n", "u.csv")


KOREAN = "질문,답\n도배가 들떴어요,왜 그런가요?\n"


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-16", "utf-16-le", "utf-8-sig", "UTF8"])
def test_a_table_is_read_in_the_encoding_that_is_named(tmp_path: Path, encoding: str) -> None:
    found = read(tmp_path, KOREAN.encode(encoding), "t.csv", encoding)
    assert (found.header, cells(found)) == (["질문", "답"], [["도배가 들떴어요", "왜 그런가요?"]])


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [
        (KOREAN, "cp949", "cp949 ('질문')"),
        ("question,answer\nplain,line\n왜,네\n", "euc-kr", "cp949 ('왜')"),
        ("質問,ラベル\nこんにちは、元気ですか,はい\n", "cp932", "cp932 ('質問')"),
        ("问题,答案\n你好吗,我很好\n", "gb18030", "gb18030 ('问题')"),
        ("name,note\nAndré,très bien\n", "cp1252", "cp1252 ('é')"),
        ("вопрос,ответ\nкак дела,хорошо\n", "cp1251", "cp1251 ('вопрос')"),
    ],
)
def test_a_file_in_another_encoding_names_it_the_key_and_the_line(
    tmp_path: Path, text: str, encoding: str, likely: str
) -> None:
    with pytest.raises(FaultError, match="is not UTF-8 here; it reads as") as caught:
        read(tmp_path, text.encode(encoding), "t.csv")
    error = caught.value
    assert likely in error.message
    assert error.line == next(n for n, line in enumerate(text.splitlines(), 1) if not line.isascii())
    assert "data.encoding" in str(error.remedy)


def test_a_wrong_or_unknown_encoding_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="is not cp949 here; it reads as utf-8") as caught:
        read(tmp_path, "a,b\n🎉,c\n", "t.csv", "cp949")
    assert caught.value.line == 2
    with pytest.raises(FaultError, match="UTF-16") as caught:
        read(tmp_path, KOREAN.encode("utf-16"), "t.csv")
    assert "utf-16" in str(caught.value.remedy)
    for unknown in ("klingon", "rot13", "idna", "nul\0", ""):
        with pytest.raises(ConfigError, match="there is no encoding") as told:
            read(tmp_path, KOREAN, "t.csv", unknown)
        assert told.value.key == "data.encoding"
