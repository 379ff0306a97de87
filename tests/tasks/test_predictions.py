"""What `vu predict` writes: the user's table as it is, and the predictions behind it."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from vectoruniverse.cli.shell import print_data
from vectoruniverse.data.text_table import open_table, text_rows
from vectoruniverse.errors import ConfigError
from vectoruniverse.tasks.predictions import Predictions

KEYS = {"file": "--input", "encoding": "--encoding"}


def predicted(tmp_path: Path, content: str, names: tuple[str, ...] = ("-1", "0", "=1+1"), column: str = "text"):
    """The rows of a table in turn into each class."""
    file = tmp_path / "in.csv"
    file.write_text(content, encoding="utf-8", newline="")
    table = open_table(file, encoding="utf-8", keys=KEYS)
    found = text_rows(table, texts={"text": column})
    shares = np.eye(len(names), dtype=np.float32)[np.arange(len(found.rows)) % len(names)]
    return Predictions.of_classes(table, found.rows, found.bad, names, shares)


def read(predictions: Predictions) -> list[list[str]]:
    return list(csv.reader(io.StringIO(predictions.csv(), newline="")))


def test_classes_ids_and_cells_come_back_as_they_are(tmp_path):
    cells = ["-kX9_a", "=A1", "@home", "+1", "\t-", '"q", r', "two\nlines", "bare\rreturn", " spaced ", "e\u0301"]
    content = io.StringIO()
    csv.writer(content).writerows(
        [(" Id", "text ", "질문"), *((cell, f"text {i}", cell) for i, cell in enumerate(cells))]
    )
    header, *rows = read(predicted(tmp_path, content.getvalue()))
    assert header == [" Id", "text ", "질문", "prediction", "p(-1)", "p(0)", "p(=1+1)", "reason"]
    assert [row[:3] for row in rows] == [[cell, f"text {i}", cell] for i, cell in enumerate(cells)]
    assert [row[3] for row in rows[:4]] == ["-1", "0", "=1+1", "-1"]


def test_every_row_comes_back_in_order_and_a_bad_one_with_its_reason(tmp_path):
    header, *rows = read(predicted(tmp_path, "id,text,n\n1,good,x\n2, ,x\n3,short\n4,a,b,too long\n\n5,fine,x\n"))
    assert [row[:3] for row in rows] == [
        ["1", "good", "x"],
        ["2", " ", "x"],
        ["3", "short", ""],
        ["4", "a", "b"],
        ["5", "fine", "x"],
    ]
    assert all(len(row) == len(header) for row in rows)
    assert [row[3] for row in rows] == ["-1", "", "", "", "0"]
    assert [row[-1] for row in rows] == [
        "",
        "text is empty",
        "2 cells where the header has 3",
        "4 cells where the header has 3",
        "",
    ]
    assert rows[1][4:-1] == ["", "", ""]


def test_a_table_without_a_usable_row_comes_back_too(tmp_path):
    header, *rows = read(predicted(tmp_path, "text\n\u200b\n \n"))
    assert [row[-1] for row in rows] == ["text is empty"] * 2
    assert header[-1] == "reason"


def test_columns_that_the_table_has_already_are_kept_and_the_new_ones_numbered(tmp_path):
    said = predicted(tmp_path, "text,prediction,p(0),reason,prediction.1\na,old,0.5,why,older\n")
    header, row = read(said)
    assert header[:5] == ["text", "prediction", "p(0)", "reason", "prediction.1"]
    assert header[5:] == said.columns() == ["prediction.2", "p(-1)", "p(0).1", "p(=1+1)", "reason.1"]
    assert row[:6] == ["a", "old", "0.5", "why", "older", "-1"]


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "caf\u00e9 가"), ("ascii", "é"), ("euc_kr", "가 🎉")])
def test_output_that_cannot_hold_the_text_is_refused_and_nothing_is_written(monkeypatch, encoding, text):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding, errors="replace"))
    with pytest.raises(ConfigError, match=rf"standard output is {encoding}, which has no .* \(line 2") as caught:
        print_data(f"header\n{text}\n")
    assert "--out" in str(caught.value.remedy)
    sys.stdout.flush()
    assert buffer.getvalue() == b""


def test_output_that_can_hold_the_text_gets_it(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="euc_kr", newline=""))
    print_data("고양이,1\n")
    sys.stdout.flush()
    assert buffer.getvalue().decode("euc_kr") == "고양이,1\n"
