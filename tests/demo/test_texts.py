from __future__ import annotations

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from vectoruniverse.data.corpus import read_corpus
from vectoruniverse.data.text_splits import divide_table
from vectoruniverse.data.text_table import encode_labels, read_text_table
from vectoruniverse.demo import texts as demo_texts
from vectoruniverse.demo.docstrings import Docstring, read_docstrings
from vectoruniverse.demo.texts import DEMO_TEXTS, DemoTexts
from vectoruniverse.errors import ConfigError, DataError

EMOJI = [name for name in DEMO_TEXTS if name.startswith("emoji")]
Row = dict[str, str]


def rows(made: DemoTexts) -> list[Row]:
    with made.file.open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert len(read) == made.rows
    return read


def by_sign(made: DemoTexts) -> dict[str, Row]:
    return {row["emoji"]: row for row in rows(made)}


def test_emoji_are_named_in_two_languages(tmp_path: Path) -> None:
    made = by_sign(demo_texts.emoji_languages(tmp_path))
    assert len(made) >= 1_900
    assert (made["🐯"]["name_en"], made["🐯"]["name_ko"]) == ("tiger face", "호랑이 얼굴")
    assert not [sign for sign in made if "\U0001f3fb" <= sign[-1] <= "\U0001f3ff"]
    assert by_sign(demo_texts.emoji_languages(tmp_path, language="de"))["🐯"]["name_de"] == "tigergesicht"
    with pytest.raises(ConfigError, match="'xx'") as caught:
        demo_texts.emoji_languages(tmp_path, language="xx")
    assert "ko" in str(caught.value.remedy)


def test_an_alias_is_another_word_that_means_one_emoji_only(tmp_path: Path) -> None:
    made = rows(demo_texts.emoji_aliases(tmp_path))
    assert len(made) >= 600
    spelled = [{key: "".join(filter(str.isalnum, row[key].lower())) for key in ("name", "alias")} for row in made]
    assert all(row["name"] != row["alias"] for row in spelled)
    assert max(Counter(row["alias"] for row in spelled).values()) == 1
    assert not {row["alias"] for row in spelled} & {row["name"] for row in spelled}
    assert not [row for row in made if row["alias"] == f"flag for {row['name']}"]
    told = {row["name"]: row["alias"] for row in made}
    assert told["bullseye"] == "dart"
    assert "spouting whale" not in told  # its alias, whale, is another emoji's name


def test_groups_are_the_classes_of_unicode(tmp_path: Path) -> None:
    made = by_sign(demo_texts.emoji_groups(tmp_path))
    counts = Counter(row["group"] for row in made.values())
    assert len(made) >= 1_890
    assert len(counts) == 9
    assert min(counts.values()) >= 50
    assert (made["🐶"]["group"], made["🇰🇷"]["group"]) == ("Animals & Nature", "Flags")


@pytest.mark.parametrize(
    ("name", "first", "second"), [("emoji_matches", "name", "alias"), ("question_answers", "question", "answer")]
)
def test_neither_text_of_a_pair_tells_the_label_alone(tmp_path: Path, name: str, first: str, second: str) -> None:
    made = DEMO_TEXTS[name](tmp_path)
    for column in (first, second):
        labels = defaultdict(list)
        for row in rows(made):
            labels[row[column]].append(row["label"])
        assert all(seen.count("1") == seen.count("0") for seen in labels.values())
    table = read_text_table(made.file, texts={"first": first, "second": second}, label="label")
    ids, names = encode_labels(table.rows)
    assert (ids.mean(), names, table.bad) == (0.5, ("0", "1"), [])
    drawn = divide_table(table, val_fraction=0.2, seed=42)
    assert drawn.shared == 0
    assert len(drawn.split.val) / made.rows == pytest.approx(0.2, abs=0.01)


def test_matches_are_true_and_mismatches_are_of_one_group(tmp_path: Path) -> None:
    group = {row["name"]: row["group"] for row in rows(demo_texts.emoji_groups(tmp_path))}
    matches = rows(demo_texts.emoji_matches(tmp_path))
    owner = {row["alias"]: row["name"] for row in matches if row["label"] == "1"}
    assert owner["dart"] == "bullseye"
    for row in matches:
        assert (owner[row["alias"]] == row["name"]) == (row["label"] == "1")
        assert group.get(owner[row["alias"]]) == group.get(row["name"])


def test_answers_are_what_the_functions_own_documentation_says(tmp_path: Path) -> None:
    made = rows(demo_texts.question_answers(tmp_path))
    assert len(made) >= 5_000
    true = {row["question"]: row["answer"] for row in made if row["label"] == "1"}
    assert "What does shutil.copytree do?" in true
    assert true["What does abc.ABCMeta.register do?"] == "Register a virtual subclass of an ABC."
    assert not [question for question in true if "._" in question or "test" in question.split(".")]


def test_pythons_own_documentation_is_a_corpus_of_a_megabyte(tmp_path: Path) -> None:
    made = demo_texts.python_docs(tmp_path)
    found = read_corpus(made.file, column="text")
    assert (len(found.rows), found.bad) == (made.rows, [])
    assert sum(len(sentence) for document in found.rows for sentence in document.sentences) > 1_000_000
    assert sum(len(document.sentences) >= 2 for document in found.rows) > 3_000
    texts = {(row["module"], row["name"]): row["text"] for row in rows(made)}
    assert texts["csv", "Dialect"].startswith("Describe a CSV dialect.")


def test_docstrings_are_parsed_never_imported_and_tests_are_passed_over(tmp_path: Path) -> None:
    method = '  if True:\n    def f(self):\n      """Do\n        it."""\n'
    code = f'"""Top."""\nraise SystemExit\nclass A:\n  """An A."""\n{method}'
    for name in ("pkg/__init__.py", "pkg/test/x.py", "site-packages/y.py", "z-1/z.py", "test_z.py", "pkg/m.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "latin.py").write_bytes(b'# coding: latin-1\n"""Caf\xe9."""\n')
    (tmp_path / "nul.py").write_text('"""\\0 is a NUL."""')
    assert read_docstrings(tmp_path) == (
        Docstring("latin", "", False, "Café."),
        Docstring("pkg", "", False, "Top."),
        Docstring("pkg", "A", False, "An A."),
        Docstring("pkg", "A.f", True, "Do\nit."),
    )
    with pytest.raises(DataError, match="no Python sources"):
        read_docstrings(tmp_path / "z-1" / "none")


@pytest.mark.parametrize("build", DEMO_TEXTS.values(), ids=DEMO_TEXTS)
def test_the_same_bytes_again_with_attribution_and_other_files_are_not_touched(
    tmp_path: Path, build: Callable[[Path], DemoTexts]
) -> None:
    made = build(tmp_path / "new" / "folder")
    before = made.file.read_bytes()
    assert build(tmp_path / "new" / "folder") == made
    assert build(tmp_path).file.read_bytes() == before
    told = made.file.with_suffix(".md").read_text(encoding="utf-8")
    assert made.attribution in told
    assert "icence" in told or "License" in told
    made.file.write_text("mine")
    with pytest.raises(DataError, match="not be overwritten"):
        build(made.file.parent)
    assert made.file.read_text() == "mine"
    with pytest.raises(ConfigError, match="cannot be written"):
        build(made.file)


@pytest.mark.parametrize("name", EMOJI)
def test_a_missing_package_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)  # what Python itself does with a module it must not find
    with pytest.raises(ConfigError, match="package emoji") as caught:
        DEMO_TEXTS[name](tmp_path)
    assert caught.value.remedy == "Run: pip install 'vectoruniverse[demo]'"
