from __future__ import annotations

from vectoruniverse.report.figures.dataset import label_counts, lengths
from vectoruniverse.report.figures.style import png


def test_labels_are_bars_with_their_counts_most_frequent_on_top():
    figure = label_counts({"a": 1200, "b[/]": 3})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [3, 1200]
    assert {text.get_text() for text in axes.texts} == {"1,200", "3"}
    assert png(figure).startswith(b"\x89PNG")


def test_lengths_tell_how_many_texts_are_cut():
    figure = lengths([3, 5, 90], "text, tokens", 77)
    assert "1 of 3 texts" in figure.axes[0].get_title(loc="left")
