from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from vectoruniverse.data.splits import Split
from vectoruniverse.data.text_splits import divide_table, fingerprint_table
from vectoruniverse.data.text_table import TextRow, TextTable, encode_labels, read_text_table
from vectoruniverse.errors import ConfigError, DataError

DATA = Path(__file__).resolve().parents[2] / "data"
PAIR = {"first": "질문_1", "second": "질문_2"}


def table(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def labelled(*labels: str) -> list[TextRow]:
    return [TextRow(i + 2, str(i), {"text": f"t{i}"}, label) for i, label in enumerate(labels)]


def pairs(*told: tuple[str, str]) -> TextTable:
    rows = [TextRow(i + 2, f"{a}|{b}|{i}", {"first": a, "second": b}) for i, (a, b) in enumerate(told)]
    return TextTable(Path("pairs.csv"), rows, [])


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t"), ("t.txt", "\t")])
def test_columns_are_read_by_role_with_the_line_where_each_row_begins(tmp_path: Path, name: str, mark: str) -> None:
    lines = ["id|질문_1|질문_2", '1| "도배가\n들떴어요" |왜요?', "2|곰팡이|제거"]
    file = table(tmp_path, "\ufeff" + "\n".join(lines).replace("|", mark).replace(' "', '"').replace('" ', '"'), name)
    found = read_text_table(file, texts=PAIR)
    assert [(row.line, dict(row.texts)) for row in found.rows] == [
        (2, {"first": "도배가\n들떴어요", "second": "왜요?"}),
        (4, {"first": "곰팡이", "second": "제거"}),
    ]
    assert [(row.label, row.split) for row in found.rows] == [(None, None)] * 2
    assert (found.file, found.bad) == (file, [])


def test_ids_name_content_not_place(tmp_path: Path) -> None:
    lines = ["a,1", "b,0", "a,1", "a,0"]
    read = [
        {
            row.id: (row.texts["text"], row.label)
            for row in read_text_table(table(tmp_path, "\n".join(["t,y", *order])), texts={"text": "t"}, label="y").rows
        }
        for order in (lines, lines[::-1])
    ]
    assert read[0] == read[1]
    assert len(read[0]) == 4
    assert sum(name.endswith("#2") for name in read[0]) == 1


def test_a_column_that_is_not_there_names_those_that_are_and_the_key(tmp_path: Path) -> None:
    file = table(tmp_path, "question,answer\na,b\n")
    with pytest.raises(ConfigError, match=r"'questoin'.*'question', 'answer' \(did you mean 'question'\?\)") as caught:
        read_text_table(file, texts={"first": "questoin", "second": "answer"})
    assert caught.value.key == "data.first"
    with pytest.raises(ConfigError) as caught:
        read_text_table(file, texts={"text": "answer"}, label="y", keys={"label": "data.columns.label"})
    assert caught.value.key == "data.columns.label"
    with pytest.raises(ConfigError, match=r"'answer' is named here and in data\.second"):
        read_text_table(file, texts={"first": "answer", "second": "answer"})


def test_rows_without_text_or_with_other_cells_are_set_aside_by_line(tmp_path: Path) -> None:
    good = "a,b,train\n" * 20
    file = table(tmp_path, f"q,r,s\n{good}c,\u200b \u00a0,val\nd,e\nf,g,sometimes\nh,i,\n")
    found = read_text_table(file, texts={"first": "q", "second": "r"}, split_column="s", max_bad_share=0.2)
    assert len(found.rows) == 20
    assert {row.line: row.reason for row in found.bad} == {
        22: "r is empty",
        23: "2 cells where the header has 3",
        24: "its split is 'sometimes'; it should be train, val or test",
        25: "its split is empty; it should be train, val or test",
    }
    with pytest.raises(DataError, match=r"4 of 24 rows \(16\.7%\).*line 22 \('c'\): r is empty"):
        read_text_table(file, texts={"first": "q", "second": "r"}, split_column="s", max_bad_share=0.1)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("질문\n한글\n".encode("cp949"), 1, "not UTF-8"),
        ("q\na\n한글\n".encode().replace("한글".encode(), "한글".encode("cp949")), 3, "not UTF-8"),
        ('q,r\na,"b\nc,d\n', 2, "never closed"),
        ("q,q\na,b\n", 1, "'q' occurs twice"),
        (b"q\na\0b\n", 2, "NUL"),
        ("", None, "empty"),
        ("q\n", None, "no row"),
        ("q\n\u200b\n", None, "1 of 1 rows"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, line: int | None, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_text_table(table(tmp_path, content), texts={"text": "q"}, max_bad_share=1.0)
    assert caught.value.line == line
    assert caught.value.remedy


def test_a_missing_file_and_a_folder_are_told_from_tables(tmp_path: Path) -> None:
    for file, said in ((tmp_path / "none.csv", "there is no such file"), (tmp_path, "is no regular file")):
        with pytest.raises(DataError, match=rf"data\.file: {said}"):
            read_text_table(file, texts={"text": "q"})


def test_integer_labels_are_ordered_by_value_and_names_by_their_letters() -> None:
    ids, names = encode_labels(labelled("10", "2", "-1", "2"))
    assert (ids.tolist(), names, ids.dtype) == ([2, 1, 0, 1], ("-1", "2", "10"), np.int64)
    ids, names = encode_labels(labelled("pos", "neg", "pos"))
    assert (ids.tolist(), names) == ([1, 0, 1], ("neg", "pos"))
    ids, names = encode_labels(labelled("pos", "pos"), names=["pos", "neg"])  # an earlier run knew both
    assert (ids.tolist(), names) == ([0, 0], ("pos", "neg"))
    with pytest.raises(DataError, match="no integer"):  # longer than Python would read as one
        encode_labels(labelled("9" * 5_000, "1"))


def test_a_label_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    spelt = [unicodedata.normalize(form, "고양이") for form in ("NFC", "NFD")] + ["\u3000고양이 ", "개", "개"]
    file = table(tmp_path, "t,y\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(spelt)))
    ids, names = encode_labels(read_text_table(file, texts={"text": "t"}, label="y").rows)
    assert (ids.tolist(), names) == ([1, 1, 1, 0, 0], ("개", "고양이"))


def test_classes_of_an_earlier_run_are_those_of_the_labels_in_whichever_form_it_wrote_them() -> None:
    mac = unicodedata.normalize("NFD", "축구")
    ids, names = encode_labels(labelled("축구", "cafe", "축구"), names=[f"{mac} ", "cafe"])
    assert list(ids) == [0, 1, 0] and names == (f"{mac} ", "cafe"), "names stay as the run's head has them"
    with pytest.raises(DataError, match="'축구' stands twice"):
        encode_labels(labelled("축구", "cafe"), names=["cafe", "축구", mac])


@pytest.mark.parametrize(
    ("labels", "names", "line", "said"),
    [
        (("0", "1", "maybe", "1"), None, 4, "'maybe' is no integer, that of line 2 is one"),
        (("1", "01"), None, 3, "'01' is no integer"),
        (("0", ""), None, 3, "no label"),
        (("0", "0"), None, 2, "all 2 rows have the label '0'"),
        (("0",), None, 2, "the only row has the label '0'"),
        (("pos", "great"), ["neg", "pos"], 3, "'great' is none of neg, pos"),
    ],
)
def test_labels_that_cannot_be_classes_are_refused_with_their_line(
    labels: tuple[str, ...], names: list[str] | None, line: int, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        encode_labels(labelled(*labels), names=names, file=Path("f.csv"))
    assert (caught.value.line, caught.value.file) == (line, Path("f.csv"))


def test_no_text_is_on_both_sides_whichever_column_it_stands_in() -> None:
    draw = random.Random(0)
    chains = [(f"t{i}", f"T{i + (draw.random() < 0.4)} ") for i in range(300)]  # many share a text with their neighbour
    found = pairs(*chains, *((b, a) for a, b in chains[:50]))
    drawn = divide_table(found, val_fraction=0.2, seed=1)
    texts = [
        {text.strip().casefold() for i in part for text in found.rows[i].texts.values()}
        for part in (drawn.split.train, drawn.split.val)
    ]
    assert not texts[0] & texts[1]
    assert drawn.shared == 0
    assert sorted([*drawn.split.train, *drawn.split.val]) == list(range(350))
    assert len(drawn.split.val) == pytest.approx(70, abs=5)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    found = pairs(*((f"a{i}", f"b{i // 2}") for i in range(60)))
    turned = TextTable(found.file, found.rows[::-1], [])
    sides = [
        [[each.rows[i].id for i in part] for part in divide_table(each, val_fraction=0.3, seed=5).split]
        for each in (found, turned)
    ]
    assert sides[0] == sides[1]


def test_a_stock_answer_that_ties_all_rows_together_is_told_and_can_be_left_out(tmp_path: Path) -> None:
    found = pairs(*((f"q{i}", "yes") for i in range(45)), *((f"r{i}", f"s{i}") for i in range(5)))
    tied = read_text_table(
        table(tmp_path, "a,b\n" + "".join(f"q {i},yes\n" for i in range(9))), texts={"a": "a", "b": "b"}
    )
    with pytest.raises(DataError, match="all 9 rows belong to one group") as caught:
        divide_table(tied, val_fraction=0.2, seed=0)
    assert caught.value.file == tied.file and "data.split.together" in str(caught.value.remedy)
    with pytest.raises(DataError, match="45 of 50 rows hang together"):
        divide_table(found, val_fraction=0.3, seed=1)
    drawn = divide_table(found, val_fraction=0.3, seed=1, together=["first"])
    assert len(drawn.split.val) == 15
    assert 0 < drawn.shared <= 15


def marked(*splits: str) -> TextTable:
    rows = [TextRow(i + 2, f"r{i}", {"text": f"t{i % 4}"}, split=split) for i, split in enumerate(splits)]
    return TextTable(Path("f.csv"), rows, [])


def test_the_files_own_split_is_obeyed_and_said() -> None:
    with_val = divide_table(marked("train", "test", "val", "train", "train"), val_fraction=0.5, seed=0)
    assert (with_val.split.train.tolist(), with_val.split.val.tolist()) == ([0, 3, 4], [2])
    assert (len(with_val.split.test), with_val.shared) == (0, 0)
    with_test = divide_table(marked("test", "train", "train", "train", "train"), val_fraction=0.5, seed=0)
    assert [part.tolist() for part in with_test.split] == [[1, 2, 3, 4], [0], []]
    assert with_test.shared == 1  # t0 is in the last row too
    for one_sided in (("train", "train"), ("val", "test")):
        with pytest.raises(DataError, match="marks no row as"):
            divide_table(marked(*one_sided), val_fraction=0.5, seed=0)


def test_a_column_s_test_rows_are_a_third_part_and_missing_validation_rows_are_drawn_from_training_rows() -> None:
    shares = {"val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}
    found = divide_table(marked("train", "test", "val", "train", "test"), **shares)
    assert [part.tolist() for part in found.split] == [[0, 3], [2], [1, 4]]
    assert found.split.reported == "test"
    assert found.shared == 1  # t0 of the last row, a test row, is in the first one
    drawn = divide_table(marked(*["test"] * 2, *["train"] * 14), **shares)
    assert drawn.split.test.tolist() == [0, 1]
    assert len(drawn.split.val) == 4 - len(drawn.split.val) % 4  # rows of one text stay together
    assert sorted([*drawn.split.train, *drawn.split.val]) == list(range(2, 16))
    without = divide_table(marked("train", "val", "train"), **shares)
    assert (len(without.split.test), without.split.reported) == (0, "val")


@pytest.mark.parametrize("word", ["Validation", "dev", "valid", "VAL"])
def test_other_words_for_validation_are_understood(tmp_path: Path, word: str) -> None:
    file = table(tmp_path, f"q,s\na,Training\nb,{word}\nc,TEST\n")
    found = read_text_table(file, texts={"text": "q"}, split_column="s")
    assert [row.split for row in found.rows] == ["train", "val", "test"]


def test_the_fingerprint_tells_texts_labels_and_split_apart() -> None:
    def one(text: str = "a", label: str | None = "1", train: int = 0) -> str:
        rows = [TextRow(2, "x", {"text": text}, label), TextRow(3, "y", {"text": "b"}, "0")]
        sides = np.array([train], dtype=np.int64), np.array([1 - train], dtype=np.int64)
        return fingerprint_table(TextTable(Path("f"), rows, []), Split(*sides))

    assert one() == one()
    assert len({one(), one(text="c"), one(label="2"), one(label=None), one(train=1)}) == 5


def test_the_small_tables_of_the_repository() -> None:
    found = read_text_table(
        DATA / "question_answer.csv", texts={"first": "question", "second": "answer"}, label="label"
    )
    ids, names = encode_labels(found.rows)
    assert (ids.tolist(), names) == ([1, 1, 0, 0, 1], ("0", "1"))
    assert found.rows[4].texts == {
        "first": "Do you like watching TV shows?",
        "second": "Yeah, I often watch it in my spare time",
    }
    sentiment = read_text_table(DATA / "sentiment.csv", texts={"text": "text"}, label="label", split_column="split")
    divided = divide_table(sentiment, val_fraction=0.5, seed=0)
    labels = encode_labels(sentiment.rows)[0]
    assert sorted(divided.split.train) == [0, 1, 2, 3]
    assert labels.tolist() == [1, 0, 1, 0, 1, 0]
