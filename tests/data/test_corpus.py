from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from vectoruniverse.data.corpus import LONGEST, divide_corpus, fingerprint_corpus, read_corpus, split_sentences
from vectoruniverse.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two!  Three?\nFour", ["One.", "Two!", "Three?", "Four"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Wait... what? Pi is 3.14 here.", ["Wait... what?", "Pi is 3.14 here."]),
        (
            "Dr. J. R. Smith lives in the U.S. today, e.g. here.",
            ["Dr. J. R. Smith lives in the U.S. today, e.g. here."],
        ),
        ("1. First. 2. Second. It was in 1990. Then", ["1. First.", "2. Second.", "It was in 1990.", "Then"]),
        ("A heading\n\nIts text,\nwrapped.", ["A heading", "Its text, wrapped."]),
        ("it ran. it fell... off! approx. five mats", ["it ran.", "it fell...", "off!", "approx. five mats"]),
        ("안녕하세요. 반갑습니다! 네", ["안녕하세요.", "반갑습니다!", "네"]),
        ("今日は。「はい。」元気？うん", ["今日は。", "「はい。」", "元気？", "うん"]),
        ("Bad.<br /><br />Awful<BR>end.", ["Bad.", "Awful end."]),
        (" \n\n\u200b\n", []),
        ("", []),
    ],
)
def test_the_rule_of_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_text_without_full_stops_is_cut_between_words_and_loses_nothing() -> None:
    words = [f"word{i}" for i in range(3_000)]
    cut = split_sentences(" ".join(words))
    assert " ".join(cut).split() == words
    assert all(LONGEST - 20 < len(sentence) <= LONGEST for sentence in cut[:-1])
    endless = split_sentences("a b " + "x" * (2 * LONGEST + 7))
    assert max(map(len, endless)) <= LONGEST
    assert "".join(endless).count("x") == 2 * LONGEST + 7


def test_hostile_text_takes_linear_time() -> None:
    for text in ("." * 300_000, "。" * 300_000, "<br" * 100_000 + " " * 100_000, "\n" * 300_000, ". " * 150_000):
        split_sentences(text)  # a quadratic rule would take minutes


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "books.txt"
    file.write_bytes("\ufeffOne. Two.\r\nThree.\r\n\r\n \r\n\r\nFour\nfive\n".encode())
    found = read_corpus(file)
    assert [(document.name, document.sentences) for document in found.rows] == [
        ("books.txt:1", ("One.", "Two.", "Three.")),
        ("books.txt:6", ("Four five",)),
    ]


def test_reviews_come_from_the_column_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "IMDB Dataset.csv"
    rows = ['"Good.<br /><br />Very, very good.",positive', "Bad.,negative", "Bad.,negative", "<br />,negative"]
    file.write_text("\n".join(["review,sentiment", *rows]))
    found = read_corpus(file, column="review", max_bad_share=0.25)
    assert [document.sentences for document in found.rows] == [("Good.", "Very, very good."), ("Bad.",), ("Bad.",)]
    assert found.rows[2].id == f"{found.rows[1].id}#2"
    assert [(row.line, row.reason) for row in found.bad] == [(5, "holds no text")]
    with pytest.raises(DataError, match="1 of 4 rows"):
        read_corpus(file, column="review")
    with pytest.raises(ConfigError, match="'sentiment'") as caught:
        read_corpus(file, column="reviews")
    assert caught.value.key == "data.text"
    with pytest.raises(ConfigError, match="by one of its columns"):
        read_corpus(file)


def test_each_text_file_of_a_folder_is_a_document_and_links_outside_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("A secret.")
    root = tmp_path / "pos"
    (root / "deep").mkdir(parents=True)
    (root / "b.txt").write_text("B one.\n\nB two.")
    (root / "deep" / "a.TXT").write_text("A.")
    (root / "notes.md").write_text("No.")
    (root / "empty.txt").touch()
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "in.txt").symlink_to(root / "b.txt")
    found = read_corpus(root, max_bad_share=0.5)
    assert [(document.name, document.sentences) for document in found.rows] == [
        ("b.txt:1", ("B one.", "B two.")),
        ("deep/a.TXT:1", ("A.",)),
        ("in.txt:1", ("B one.", "B two.")),
    ]
    assert sorted((row.row_id, row.reason) for row in found.bad) == [
        ("empty.txt", "holds no text"),
        ("out.txt", "is no regular file inside the folder"),
    ]
    with pytest.raises(ConfigError, match="no table"):
        read_corpus(root, column="review")


def test_bad_bytes_are_named_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Fine.")
    bad = tmp_path / "b.txt"
    bad.write_bytes(b"fine\n\n" + "한글".encode("cp949"))
    for source in (bad, tmp_path):
        with pytest.raises(DataError, match="not UTF-8") as caught:
            read_corpus(source)
        assert (caught.value.file, caught.value.line) == (bad, 3)
    bad.write_bytes(b"a\nb\0c")
    with pytest.raises(DataError, match="NUL") as caught:
        read_corpus(bad)
    assert caught.value.line == 2


def test_nothing_and_too_much_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n \n")
    for source in (file, tmp_path / "none.txt", tmp_path / "nowhere"):
        with pytest.raises(DataError):
            read_corpus(source)
    file.write_text("Long enough.")
    (tmp_path / "b.txt").write_text("Long enough too.")
    for source in (file, tmp_path):
        with pytest.raises(DataError, match="more than 11"):
            read_corpus(source, max_bytes=11)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_part_documents_whichever_line_end_they_have(tmp_path: Path, end: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(end.join(["One is", "here.", "", "Two is here.", ""]).encode())
    found = read_corpus(file).rows
    assert [(one.name, one.sentences) for one in found] == [
        ("a.txt:1", ("One is here.",)),
        ("a.txt:4", ("Two is here.",)),
    ]


def test_one_document_cannot_be_divided_and_the_remedy_is_one_for_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("One is here. " * 9)
    with pytest.raises(DataError, match="one group") as caught:
        divide_corpus(read_corpus(file), val_fraction=0.2, seed=3)
    assert caught.value.file == file and "blank line" in str(caught.value.remedy)


def test_documents_that_differ_in_case_spacing_or_unicode_form_lie_on_one_side(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    forms = [str, str.upper, lambda text: unicodedata.normalize("NFD", text), lambda text: text.replace(" ", "  ")]
    file.write_text(
        "\n\n".join(form(f"Café number {i}. 먹방 {i}.") for form in forms for i in range(15)), encoding="utf-8"
    )
    found = read_corpus(file)
    assert len(found.rows) == 60
    sides = [{found.rows[i].name for i in part} for part in divide_corpus(found, val_fraction=0.2, seed=3)]
    told = [{(int(name.partition(":")[2]) // 2) % 15 for name in side} for side in sides]
    assert len(told[1]) == 3 and not told[0] & told[1]


def test_equal_documents_lie_on_one_side_and_the_fingerprint_sees_the_split(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(f"Document {i // 3}." for i in range(60)))
    found = read_corpus(file)
    split = divide_corpus(found, val_fraction=0.2, seed=3)
    sides = [{found.rows[i].sentences for i in part} for part in split]
    assert not sides[0] & sides[1]
    assert len(split.val) == 12
    other = divide_corpus(found, val_fraction=0.2, seed=4)
    assert fingerprint_corpus(found, split) == fingerprint_corpus(found, split) != fingerprint_corpus(found, other)
