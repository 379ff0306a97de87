from __future__ import annotations

import numpy as np
import pytest

import vectoruniverse.tasks  # noqa: F401 (declares its metrics)
from vectoruniverse.report.figures import retrieval, style

BASE = {"image_to_text/recall@10": 0.3, "image_to_text/recall@1": 0.1, "text_to_image/recall@1": 0.2, "alignment": 1.0}
ADAPTED = {"image_to_text/recall@10": 0.8, "image_to_text/recall@1": 0.05, "text_to_image/recall@1": 0.4, "extra": 1.0}


def _dots(axes: retrieval.Axes, colour: str) -> list[tuple[float, float]]:
    dots = [line for line in axes.lines if line.get_marker() == "o" and line.get_color() == colour]
    return [(float(np.asarray(dot.get_xdata())[0]), float(np.asarray(dot.get_ydata())[0])) for dot in dots]


def test_dots_stand_at_the_values_with_the_least_k_first() -> None:
    forth, back = retrieval.recall(BASE, ADAPTED).axes
    assert _dots(forth, style.BASE) == [(0.1, 0), (0.3, 1)]
    assert _dots(forth, style.ADAPTED) == [(0.05, 0), (0.8, 1)]
    assert _dots(back, style.ADAPTED) == [(0.4, 0)]
    assert [label.get_text() for label in forth.get_yticklabels()] == ["@1", "@10"]
    assert [text.get_text() for text in forth.texts] == ["5.0%", "80.0%"]


def test_intervals_are_drawn_where_there_are_any() -> None:
    intervals = {"text_to_image/recall@1": {"base": [0.15, 0.25], "adapted": [0.3, 0.5], "difference": [0.2, 0.1, 0.3]}}
    forth, back = retrieval.recall(BASE, ADAPTED, intervals).axes
    spans = {tuple(np.asarray(line.get_xdata()).tolist()) for line in back.lines}
    assert {(0.15, 0.25), (0.3, 0.5)} <= spans
    assert len(forth.lines) == 2 * 3  # two dots and what joins them
    legend = forth.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == [
        "base",
        "adapted",
        "95 % interval",
    ]


def test_models_without_a_common_recall_are_refused() -> None:
    with pytest.raises(ValueError, match="recall"):
        retrieval.recall({"alignment": 1.0}, ADAPTED)


def test_wide_intervals_of_few_rows_and_their_labels_stay_within_the_axes() -> None:
    """Ten rows: recall 0.1 with an interval to 0.4, far beyond the dots."""
    keys = [f"{way}/recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)]
    base, adapted = dict.fromkeys(keys, 0.05), dict.fromkeys(keys, 0.1)
    intervals = {key: {"base": [0.0, 0.2], "adapted": [0.0, 0.4], "difference": [0.05, 0.0, 0.2]} for key in keys}
    figure = retrieval.recall(base, adapted, intervals)
    for axes in figure.axes:
        assert axes.get_xlim()[1] > 0.4
        assert all(text.xy[0] <= axes.get_xlim()[1] for text in axes.texts)
    full = retrieval.recall(base, dict.fromkeys(keys, 1.0), {k: {"base": [0, 0.2], "adapted": [1, 1]} for k in keys})
    figure.draw_without_rendering(), full.draw_without_rendering()
    for axes in full.axes:
        for text in axes.texts:
            assert text.get_window_extent().x1 <= full.bbox.x1
