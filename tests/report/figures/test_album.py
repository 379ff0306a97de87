from __future__ import annotations

import numpy as np

import vectoruniverse.tasks  # noqa: F401 (declares its metrics)
from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.report.figures import album, style
from vectoruniverse.report.figures.space import Embedded


def test_figures_without_numbers_are_left_out() -> None:
    assert list(album.history_figures([], "recall@5")) == []
    assert list(album.comparison_figures({"alignment": 1.0}, {"alignment": 1.0})) == []
    assert [plate.name for plate in album.history_figures([{"step": 1, "train/lr": 1e-3}], "recall@5")] == [
        "learning_rate"
    ]


def test_every_figure_has_words_and_a_name_of_its_own() -> None:
    history = [
        {
            "step": step,
            **dict.fromkeys(("train/loss", "train/lr", "train/effective_rank", "val/alignment"), 1.0),
            **dict.fromkeys(("val/recall@5", "val/image/uniformity"), 0.5),
        }
        for step in (0, 1)
    ]
    rows = np.eye(4, dtype=np.float32)
    metrics = {"image_to_text/recall@1": 0.5, "text_to_image/recall@1": 0.5}
    plates = [
        *album.comparison_figures(metrics, metrics, {"image_to_text/recall@1": {"base": [0.4, 0.6]}}),
        *album.history_figures(history, "recall@5"),
        *album.space_figures(
            Embedded(rows, rows), Embedded(rows, rows[::-1].copy()), PairItems(np.arange(4), np.arange(4))
        ),
    ]
    assert len({plate.name for plate in plates}) == len(plates) == 8
    assert [plate.section for plate in plates] == sorted(plate.section for plate in plates)
    for plate in plates:
        assert plate.title and plate.caption.endswith(".")
        assert style.svg(plate.figure)
        for axes in plate.figure.axes:  # a hostile or empty label would show here
            assert axes.get_xlabel() or axes.get_ylabel() or axes.get_title(loc="left")
