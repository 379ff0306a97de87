from __future__ import annotations

import pandas as pd
import pytest

import vectoruniverse.tasks  # noqa: F401 (declares its metrics)
from vectoruniverse.report.tables import (
    Table,
    comparison_table,
    grounds,
    markdown_table,
    model_card,
    rivals_table,
    rivals_told,
    write_csv,
)
from vectoruniverse.runs.records import RivalRecord, RivalsRecord


def test_comparison_shows_both_directions_then_geometry_then_others_with_signed_changes():
    base = {"image_to_text/recall@1": 0.1, "text_to_image/recall@1": 0.2, "modality_gap": 0.9, "other": 1.0}
    adapted = {"image_to_text/recall@1": 0.4, "text_to_image/recall@1": 0.1, "modality_gap": 0.2, "other": 2.0}
    rows = comparison_table(base, adapted).rows
    assert rows[0] == ("image → text recall@1 ↑", "0.100", "0.400", "+0.300")
    assert rows[1] == ("text → image recall@1 ↑", "0.200", "0.100", "-0.100")
    assert rows[2][0] == "modality gap" and rows[2][3] == "-0.700"
    assert rows[3] == ("other", "1.000", "2.000", "+1.000"), "what nobody declared is shown all the same"
    assert len(rows) == 4


def test_a_change_shows_its_interval_where_there_is_one():
    bounds = {"image_to_text/recall@1": {"difference": [0.3, 0.21, 0.4]}}
    metrics = {"image_to_text/recall@1": 0.4, "text_to_image/mrr": 0.5}
    rows = comparison_table({"image_to_text/recall@1": 0.1, "text_to_image/mrr": 0.5}, metrics, bounds).rows
    assert [row[3] for row in rows] == ["+0.300 [+0.210, +0.400]", "0.000"]


def test_a_card_has_the_hub_s_front_matter_and_the_snippet():
    card = model_card(
        grounds="Held-out rows",
        name="r",
        facts={"data": "`x`"},
        table=Table("", ["m", "b"], [["a|b", "1"]]),
        snippet="import x\n",
        tags=["peft", "clip"],
    )
    assert card.startswith("---\nlibrary_name: peft\ntags: [clip]\n---\n")
    assert "```python\nimport x\n```" in card
    assert "| a\\|b | 1 |" in card


@pytest.mark.parametrize(
    ("drawn_by", "said"),
    [(None, "over rows ("), ("row", "over rows ("), ("Channel", "over groups of rows with the same Channel (")],
)
def test_a_card_says_what_its_intervals_are_over(drawn_by, said):
    told = grounds("Held-out rows", drawn_by)
    card = model_card(name="r", facts={}, grounds=told, table=Table("", ["m"], []), snippet="", tags=["peft"])
    assert f"intervals are paired, {said}" in card


def test_a_hostile_cell_cannot_break_the_markdown_table():
    table = markdown_table(Table("", ["a", "b"], [["x|y\n<script>", "\\|"]]))
    lines = table.splitlines()
    assert len(lines) == 3
    assert "<script>" not in table
    assert lines[2] == "| x\\|y &lt;script> | \\\\\\| |"


def test_a_file_holds_numbers_as_they_are_and_text_that_no_spreadsheet_runs(tmp_path):
    frame = pd.DataFrame({"=name": ["=1+1", "a,b", None], "value": [1, 0.1 + 0.2, None]}, dtype=object)
    write_csv(tmp_path / "beside" / "table.csv", frame)
    text = (tmp_path / "beside" / "table.csv").read_text(encoding="utf-8")
    assert text == "'=name,value\n'=1+1,1\n\"a,b\",0.30000000000000004\n,\n"


def test_rivals_stand_beside_base_and_adapted_model():
    models = {
        "base": RivalRecord(how="as it is", reached={"recall@5": 0.1}, adapted_ahead={"recall@5": [0.3, 0.2, 0.4]}),
        "linear probe": RivalRecord(how="strength 1", reached={"zero_shot/accuracy@1": 0.7}),
        "adapted": RivalRecord(how="trained", reached={"recall@5": 0.4, "zero_shot/accuracy@1": 0.5}),
    }
    told = RivalsRecord(chosen_by="recall@5", fitted_on=1592, best={"recall@5": "base"}, models=models)
    table = rivals_table(told)
    assert table.columns == (
        "model",
        "recall@5, mean of both ↑",
        "zero-shot label, top 1 ↑",
        "adapted ahead in recall@5",
        "chosen",
    )
    assert table.rows == [
        ("base", "0.100", "", "+0.300 [+0.200,\N{NO-BREAK SPACE}+0.400]", "as it is"),
        ("linear probe", "", "0.700", "", "strength 1"),
        ("adapted", "0.400", "0.500", "", "trained"),
    ]
    assert rivals_told(None, "val") == "" and table.note == "", "of a single lead there is nothing to say"
    both = models | {"CCA": models["base"]}
    several = told.model_copy(update={"models": both})
    assert rivals_table(several).note == "The interval of each lead is by itself."
    at_once = rivals_table(several.model_copy(update={"at_once": True}))
    assert markdown_table(at_once).endswith(f"|\n\n{at_once.note}") and "2 leads in a metric hold" in at_once.note
    said = rivals_told(told, "val")
    assert "of 1,592 training rows" in said and "on these very rows" in said and "| linear probe |" in said
    assert "on the val rows" in rivals_told(told, "test")
    assert "recall@5, mean of both: It beats the best rival that costs nothing (the base itself) by 30.0" in said
    assert "top 1: It" not in said, "nothing was compared by labels"
    alone = {name: one.model_copy(update={"adapted_ahead": {}}) for name, one in models.items()}
    assert "adapted ahead in recall@5" not in rivals_table(told.model_copy(update={"models": alone})).columns
