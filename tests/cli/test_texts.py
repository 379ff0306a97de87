"""Commands about texts: what a person sees."""

from __future__ import annotations

from typer.testing import CliRunner

from vectoruniverse.cli import app


def run(*arguments: object):
    return CliRunner().invoke(app, [str(word) for word in arguments])


def test_texts_are_listed_and_built_with_their_attribution(tmp_path):
    listed = run("data", "texts")
    assert listed.exit_code == 0
    for name in ("emoji_languages", "emoji_aliases", "emoji_groups", "python_docs", "question_answers"):
        assert name in listed.stdout
    made = run("data", "texts", "emoji_aliases", "--out", tmp_path)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "emoji_aliases.csv").read_text(encoding="utf-8").startswith("emoji,name,alias")
    assert (tmp_path / "emoji_aliases.md").is_file()
    assert "Unicode" in made.stdout
    assert run("data", "texts", "emoji_aliases", "--out", tmp_path).exit_code == 0, "again is no harm"


def test_unknown_texts_are_told_with_those_that_are(tmp_path):
    told = run("data", "texts", "emojis", "--out", tmp_path)
    assert told.exit_code == 2
    assert "emoji_groups" in told.output


def test_a_page_is_for_encoders_only(tmp_path):
    told = run("eval", "--config", "quickstart.yaml", "--out", tmp_path / "page.html")
    assert told.exit_code == 2
    assert "vu report RUN" in told.output
    told = run("eval", "--config", "text_pairs.yaml", "--out", tmp_path / "page")
    assert told.exit_code == 2
    assert ".html" in told.output


def test_a_missing_table_is_named_with_its_key(tmp_path):
    told = run("eval", "--config", "text_pairs.yaml", "--set", f"data.file={tmp_path / 'none.csv'}")
    assert told.exit_code == 3
    assert "none.csv" in told.output
    assert "data.file" in told.output
