from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from vectoruniverse.report.figures import style
from vectoruniverse.report.figures.space import spectra
from vectoruniverse.report.figures.style import shown_name
from vectoruniverse.tasks.text_pairs.figures import Scored, cosine_histograms, share_histograms

NAMES = ("한국어 문장 임베딩, 평균", "KoBERT <b>[CLS]</b> $x$", "distiluse")


def encoders(count: int = 50) -> dict[str, Scored]:
    random = np.random.default_rng(0)
    return {
        name: Scored(random.uniform(low, 1, count), random.uniform(0, scale / count, count), np.full(count, 1 / count))
        for name, low, scale in zip(NAMES, (-0.4, 0.2, 0.8), (16, 4, 1), strict=True)
    }


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def shares(axes) -> np.ndarray:
    filled, outline = (patch for patch in axes.patches if isinstance(patch, StepPatch))
    assert np.array_equal(filled.get_data().values, outline.get_data().values)
    return filled.get_data().values


def test_cosines_of_each_encoder_stand_on_the_same_axes_with_their_clipped_mean():
    given = encoders()
    figure = cosine_histograms(given)
    assert len(figure.axes) == 3
    assert figure.axes[-1].get_xlabel() == "cosine of the two texts of a pair"
    assert figure.get_supylabel() == "share of pairs"
    for axes, (name, scored) in zip(figure.axes, given.items(), strict=True):
        assert shares(axes).sum() == pytest.approx(1.0)
        assert axes.get_xlim() == figure.axes[0].get_xlim() and axes.get_ylim() == figure.axes[0].get_ylim()
        mean = np.maximum(scored.cosine, 0).mean()
        assert axes.lines[0].get_xdata()[0] == pytest.approx(mean)
        assert words(axes) == [f"mean {mean:.3f}", shown_name(name)]
    assert given[NAMES[0]].cosine.min() < 0 and figure.axes[0].get_xlim()[0] < given[NAMES[0]].cosine.min()
    assert style.png(figure)


def test_scores_are_multiples_of_chance_and_zero_is_drawn_at_the_left_end():
    given = encoders()
    given[NAMES[1]].row[:5] = 0.0
    figure = share_histograms(given)
    assert len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == ["row score, times chance", "column score, times chance"]
    for place, axes in enumerate(figure.axes):
        scored = list(given.values())[place // 2]
        assert shares(axes).sum() == pytest.approx(1.0)
        assert axes.get_xlim() == figure.axes[0].get_xlim() and axes.get_ylim() == figure.axes[0].get_ylim()
        chance, mean = (line.get_xdata()[0] for line in axes.lines)
        assert chance == 1 and mean == pytest.approx((scored.row, scored.column)[place % 2].mean() * 50, rel=0.02)
    assert shares(figure.axes[2])[0] >= 5 / 50
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 6
    assert style.svg(figure)


def test_spectra_of_encoders_of_different_width_stand_in_one_axes():
    flat, steep = np.full(8, 1 / 8), np.array([0.95, 0.04, 0.01])
    (axes,) = spectra({NAMES[0]: flat, "steep": steep}).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("direction, largest first", "share of variance")
    assert axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{shown_name(NAMES[0])}: 90% in 8", "steep: 90% in 1"]
    assert [len(line.get_xdata()) for line in axes.lines] == [8, 1, 3, 1]
    assert style.png(axes.figure)


def test_a_long_name_keeps_both_its_ends():
    name = shown_name("/models/" + "x" * 90 + "/한국어-v2\n\u202e")
    assert name.startswith("/models/xx") and "…" in name and len(name) < 50
    assert "\n" not in name and "\u202e" not in name


def test_a_single_pair_and_one_collapsed_encoder_can_be_drawn():
    one = {"a": Scored(np.array([1.0]), np.array([1.0]), np.array([0.0]))}
    for figure in (cosine_histograms(one), share_histograms(one), spectra({"a": np.array([1.0, 0.0])})):
        assert style.png(figure)


def test_more_encoders_than_there_are_colours_can_be_drawn():
    many = {f"encoder {i}": Scored(np.full(9, i / 12), np.full(9, i / 50), np.full(9, i / 50)) for i in range(7)}
    assert len(cosine_histograms(many).axes) == 7
    assert style.png(share_histograms(many))
    assert style.png(spectra({name: np.full(4, 0.25) for name in many}))
