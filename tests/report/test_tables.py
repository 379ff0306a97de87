from __future__ import annotations

import pytest

import vectoruniverse.tasks  # noqa: F401 (declares its metrics)
from vectoruniverse.report.tables import comparison_rows, markdown_table, model_card


def test_comparison_shows_both_directions_then_geometry_then_others_with_signed_changes():
    base = {"image_to_text/recall@1": 0.1, "text_to_image/recall@1": 0.2, "modality_gap": 0.9, "other": 1.0}
    adapted = {"image_to_text/recall@1": 0.4, "text_to_image/recall@1": 0.1, "modality_gap": 0.2, "other": 2.0}
    rows = comparison_rows(base, adapted)
    assert rows[0] == ("image → text recall@1 ↑", "0.100", "0.400", "+0.300")
    assert rows[1] == ("text → image recall@1 ↑", "0.200", "0.100", "-0.100")
    assert rows[2][0] == "modality gap" and rows[2][3] == "-0.700"
    assert rows[3] == ("other", "1.000", "2.000", "+1.000"), "what nobody declared is shown all the same"
    assert len(rows) == 4


def test_a_change_shows_its_interval_where_there_is_one():
    bounds = {"image_to_text/recall@1": {"difference": [0.3, 0.21, 0.4]}}
    metrics = {"image_to_text/recall@1": 0.4, "text_to_image/mrr": 0.5}
    rows = comparison_rows({"image_to_text/recall@1": 0.1, "text_to_image/mrr": 0.5}, metrics, bounds)
    assert [row[3] for row in rows] == ["+0.300 [+0.210, +0.400]", "0.000"]


def test_a_card_has_the_hub_s_front_matter_and_the_snippet():
    card = model_card(
        drawn_by=None,
        name="r",
        facts={"data": "`x`"},
        columns=["m", "b"],
        table=[["a|b", "1"]],
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
def test_a_card_says_what_the_bootstrap_drew(drawn_by, said):
    card = model_card(name="r", facts={}, columns=["m"], table=[], drawn_by=drawn_by, snippet="", tags=["peft"])
    assert f"paired bootstraps {said}" in card


def test_a_hostile_cell_cannot_break_the_markdown_table():
    table = markdown_table(["a", "b"], [["x|y\n<script>", "\\|"]])
    lines = table.splitlines()
    assert len(lines) == 3
    assert "<script>" not in table
    assert lines[2] == "| x\\|y &lt;script> | \\\\\\| |"
