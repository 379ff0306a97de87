from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from vectoruniverse.metrics.classification import reliability
from vectoruniverse.report.figures import classification, style

MATRIX = [[30, 10, 0], [0, 1200, 0], [0, 0, 0]]
NAMES = ["pos", "neg", "a very long name of a class that never occurs"]


def test_counts_stand_in_their_cells_and_shares_shade_them() -> None:
    axes = classification.confusion(MATRIX, NAMES).axes[0]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert cells[0, 0] == "30" and cells[1, 0] == "10" and cells[0, 1] == "0" and cells[1, 1] == "1,200"
    shares = np.asarray(axes.images[0].get_array())
    assert shares.tolist() == [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["pos", "neg"] and len(labels[2]) == classification.LABEL_CHARACTERS
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("class", "predicted class")


def test_dark_cells_have_light_counts() -> None:
    axes = classification.confusion(MATRIX, NAMES).axes[0]
    colour = {tuple(map(int, text.get_position())): to_hex(text.get_color()) for text in axes.texts}
    assert colour[1, 1] == "#ffffff" and colour[1, 0] == style.INK


def test_many_classes_are_shaded_without_counts() -> None:
    many = classification.COUNTED_CLASSES + 1
    figure = classification.confusion(np.eye(many, dtype=int), [f"class {i}" for i in range(many)])
    assert not figure.axes[0].texts
    assert figure.get_figwidth() <= style.WIDTH and figure.get_figheight() <= style.WIDTH


def test_a_matrix_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="matrix of 2 classes"):
        classification.confusion(MATRIX, ["a", "b"])


def test_bars_of_the_reliability_diagram_stand_at_the_accuracy_of_their_bin() -> None:
    bins = reliability([0.15, 0.18, 0.9, 0.95, 0.97], [False, True, True, True, False], bins=5)
    upper, lower = classification.reliability(bins).axes
    tops = {round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height() for bar in upper.patches}
    assert tops == pytest.approx({0.1: 0.5, 0.9: 2 / 3}), "no bar where there are no rows"
    assert [bar.get_height() for bar in lower.patches] == [2, 0, 0, 0, 3]
    (dots,) = [line for line in upper.lines if line.get_color() == style.VERMILLION]
    assert list(np.asarray(dots.get_xdata(), float)) == pytest.approx([0.165, 0.94])
    assert [text.get_text() for text in upper.texts] == [f"calibration error {bins.error:.3f}"]


def test_figures_can_be_saved() -> None:
    for figure in (classification.confusion(MATRIX, NAMES), classification.reliability(reliability([0.5], [True]))):
        assert style.png(figure).startswith(b"\x89PNG") and style.svg(figure)
