"""What a page and the terminal say of labels: numbers of the record, with the words for what is not known."""

from __future__ import annotations

import numpy as np

from tests.evaluation.test_label_report import NAMES, report, some_rows
from vectoruniverse.report.labels import label_plates, labels_chapter, labels_line


def test_the_terminal_gets_one_line() -> None:
    truth, models = some_rows()
    found = report(truth, models)
    base, adapted = (found.reached["both"][model]["map"][0] for model in ("base", "adapted"))
    line = labels_line(found)
    assert line.startswith(f"labels by picture and text: mAP {base:.3f} → {adapted:.3f} (change ")
    assert "3 of 5 known" in line and line.endswith(" of the linear probe") and "\n" not in line


def test_the_chapter_tells_models_labels_and_what_is_not_known() -> None:
    truth, models = some_rows(2)
    chapter = labels_chapter(report(truth, models))
    said = " ".join(chapter.said)
    assert "the validation rows" in said and "threshold of all labels together: 'dog'." in said
    assert "never predicted: 'owl'." in said and "never predicted: 'new'." in said
    by_model, by_label, mistaken = chapter.tables
    assert [row[:2] for row in by_model.rows] == [
        ("base", "picture"),
        ("linear probe", "picture"),
        ("adapted", "picture"),
        ("base", "picture and text"),
        ("adapted", "picture and text"),
    ]
    assert [row[0] for row in by_label.rows] == [name for name in NAMES if name != "elk"]
    assert {row[0]: row[-1] for row in by_label.rows}["owl"] == "seen once"
    assert {row[0]: row[5] for row in by_label.rows}["owl"] == "" != {row[0]: row[5] for row in by_label.rows}["cat"]
    assert all(len(row) == len(by_label.columns) for row in by_label.rows) and len(mistaken.rows) > 0


def test_rows_that_chose_the_thresholds_are_called_optimistic() -> None:
    truth, models = some_rows()
    chapter = labels_chapter(report(truth, models).model_copy(update={"in_sample": True}))
    assert "these very rows, so F1 and calibration are optimistic" in chapter.said[0]


def test_the_figure_holds_the_shares_that_are_true() -> None:
    truth, models = some_rows()
    found = report(truth, models)
    upper = {plate.name: plate for plate in label_plates(found)}["label_reliability"].figure.axes[0]
    shares = [one for one in found.reliability["adapted"].accuracy if one is not None]
    assert np.allclose([bar.get_height() for bar in upper.patches], shares)
    assert upper.get_ylabel() == "share that is true"
    error = found.reached["both"]["adapted"]["calibration_error"][0]
    assert any(f"calibration error {error:.3f}" in text.get_text() for text in upper.texts)
    assert list(label_plates(None)) == []


def test_the_confusion_is_shaded_by_the_rows_that_have_the_label() -> None:
    truth, models = some_rows(2)
    found = report(truth, models)
    most = found.confused
    assert most is not None
    plate = next(label_plates(found))
    axes = plate.figure.axes[0]
    assert plate.name == "label_confusion" and plate.section == "labels"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == most.labels
    assert np.allclose(axes.images[0].get_array(), np.array(most.said) / np.maximum(most.rows, 1)[:, None])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("label", "label that was said")
    assert [one.name for one in label_plates(found.model_copy(update={"confused": None}))] == ["label_reliability"]
