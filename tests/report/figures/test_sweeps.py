from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vectoruniverse.report.figures import style
from vectoruniverse.report.figures.adapter import (
    Balance,
    Truncation,
    by_place,
    energy_held,
    forgetting,
    layer_ranks,
    padded,
    singular_values,
    truncation,
)
from vectoruniverse.report.figures.heat import heat_map
from vectoruniverse.report.figures.runs import colours_of, curves_together, reached
from vectoruniverse.report.figures.sweeps import (
    Point,
    Position,
    costs,
    effective_ranks,
    mean_curve,
    metric_by_value,
    plane,
    validation_curves,
)
from vectoruniverse.report.figures.swept import Swept

RANKS = Swept("rank", {1.0: "1", 2.0: "2", 4.0: "4", 16.0: "16"})
PLACES = tuple(RANKS.labels)
HOSTILE = Swept("a, b", {0.0: "a \U000fffff$\\frac$" * 9, 1.0: "b <b>한국어 & co", 2.0: "c"}, ordered=False)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def line(axes, label):
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found


def test_the_metric_stands_at_its_values_with_intervals_base_and_the_chosen_one():
    points = [Point(r, (0.5 + r / 100, 0.4, 0.7), (0.5, 0.52 + r / 100)) for r in PLACES]
    figure = metric_by_value(points, (0.1, 0.05, 0.15), RANKS, metric="recall@5", chosen=4.0, title="Rank 4 will do")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == list(PLACES)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4", "16"]
    curve = next(one for one in axes.get_lines() if len(one.get_xdata()) == 4)
    assert curve.get_ydata() == pytest.approx([0.51, 0.52, 0.54, 0.66])
    bars = [one for one in axes.get_lines() if list(one.get_ydata()) == [0.4, 0.7]]
    assert [one.get_xdata()[0] for one in bars] == list(PLACES)
    rings = [one for one in axes.get_lines() if one.get_markersize() == 13]
    assert [one.get_xdata()[0] for one in rings] == [4.0]
    assert figure.get_suptitle() == "Rank 4 will do" and "base" in texts(axes)
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"
    assert style.png(figure)


def test_values_without_an_order_are_not_joined_and_hostile_names_are_drawn():
    points = [Point(place, (0.5, 0.4, 0.6)) for place in HOSTILE.labels]
    figure = metric_by_value(points, (0.1, 0.0, 0.2), HOSTILE, metric="mrr", title="x" * 300)
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert all(one.get_linestyle() == "None" for one in axes.get_lines() if len(one.get_xdata()) == 3)
    assert max(len(tick.get_text()) for tick in axes.get_xticklabels()) <= 40
    assert style.png(figure)  # warnings are errors here


def test_costs_share_one_axis_and_leave_out_what_nobody_knows():
    figure = costs({"time, s": {1.0: [3.0, 5.0], 16.0: [8.0]}, "memory": {1.0: [], 16.0: []}}, RANKS)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "time, s" and axes.get_ylim()[0] == 0
    assert axes.get_lines()[0].get_ydata() == pytest.approx([4.0, 8.0])
    with pytest.raises(ValueError, match="no cost"):
        costs({"memory": {1.0: []}}, RANKS)


def test_the_space_of_every_cell_is_beside_the_base():
    figure = effective_ranks({1.0: [9.0, 11.0], 16.0: [14.0]}, 8.0, RANKS)
    assert figure.axes[0].get_lines()[0].get_ydata() == pytest.approx([10.0, 14.0])
    places = [Position(None, 1.5, -1.0), *(Position(r, 0.5, -2.0 - r / 10) for r in PLACES for _ in range(2))]
    axes = plane(places, RANKS).axes[0]
    assert texts(axes) == ["base", "1", "2", "4", "16"]
    marks = [one.get_marker() for one in axes.get_lines()]
    assert marks.count("s") == 1 and marks.count("o") == 8


def test_curves_are_means_over_seeds_at_epochs_that_all_reached():
    seeds = [{0: 0.1, 1: 0.3, 2: 0.9}, {0: 0.1, 1: 0.5}]
    assert mean_curve(seeds) == pytest.approx({0: 0.1, 1: 0.4})
    figure = validation_curves({1.0: seeds, 4.0: [{0: 0.1, 1: 0.7}]}, 0.1, RANKS, metric="recall@5")
    assert {"rank 1", "rank 4", "base"} == set(texts(figure.axes[0]))


def two_keys(values, marked=(), metric="recall@5", title=""):
    """A map whose axes have the values 0.001, 0.01 and 1, 4, 16."""
    ticks = {"x_ticks": ["0.001", "0.01"], "y_ticks": ["1", "4", "16"]}
    return heat_map(values, x_label="lr", y_label="rank", **ticks, metric=metric, marked=marked, title=title)


def test_a_map_has_a_number_in_each_cell_that_was_tried_and_outlines_the_marked():
    values = {("0.001", "1"): 0.25, ("0.001", "16"): 0.5, ("0.01", "4"): 0.75}
    figure = two_keys(values, marked=[("0.01", "4")], title="x" * 200)
    axes = figure.axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0.5, 0.5): "0.250", (0.5, 2.5): "0.500", (1.5, 1.5): "0.750"}
    (mesh,) = axes.collections
    assert mesh.get_array().filled(np.nan) == pytest.approx(
        np.array([[0.25, np.nan], [np.nan, 0.75], [0.5, np.nan]]), nan_ok=True
    )
    outer = axes.patches[0].get_bbox()
    assert (outer.x0, outer.y0, outer.x1, outer.y1) == (1, 1, 2, 2)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.001", "0.01"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["1", "4", "16"]
    assert axes.get_title(loc="left") == "recall@5 ↑" and style.png(figure)


def test_a_map_is_brightest_at_the_better_end_and_its_numbers_stand_out():
    for metric, best in (("recall@5", 2.0), ("median_rank", 1.0)):
        figure = two_keys({("0.001", "1"): 1.0, ("0.01", "1"): 2.0}, metric=metric)
        (mesh,) = figure.axes[0].collections
        bright = {value: sum(mesh.to_rgba(value)[:3]) for value in (1.0, 2.0)}
        assert max(bright, key=bright.get) == best
        inks = {float(text.get_text()): text.get_color() for text in figure.axes[0].texts}
        assert inks.pop(best) == style.INK and set(inks.values()) == {"white"}


def test_numbers_of_a_map_with_many_columns_do_not_run_into_each_other():
    ticks = [str(i) for i in range(20)]
    values = {(x, "1"): 1000.0 + int(x) for x in ticks}
    figure = heat_map(values, x_label="a" * 90, y_label="b", x_ticks=ticks, y_ticks=["1"], metric="loss")
    style.png(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(("values", "says"), [({}, "no cell"), ({("0.1", "1"): 1.0}, "no tick is for")])
def test_a_map_without_cells_or_of_cells_beside_it_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        two_keys(values)


def test_energy_is_that_of_all_layers_and_marks_where_it_is_reached():
    layers = [np.array([3.0, 1.0]), np.array([1.0, 1.0, 0.5])]
    table = padded(layers)
    squares = [9 + 1, 1 + 1, 0.25]
    assert energy_held(table) == pytest.approx(np.cumsum(squares) / sum(squares))
    figure = singular_values({"vision": layers, "text": [np.array([1.0, 1e-9, 0.0])]}, rank=3)
    assert "90% in 2" in texts(figure.axes[2]) and "90% in 1" in texts(figure.axes[3])
    assert style.png(figure)


def test_layers_stand_by_depth_and_projection():
    paths = {
        "text_model.encoder.layers.10.self_attn.out_proj": 1.0,
        "text_model.encoder.layers.2.self_attn.q_proj": 2.0,
        "text_model.encoder.layers.2.self_attn.out_proj": 3.0,
        "text_model.head.extra": 4.0,
    }
    rows, columns, table = by_place(paths)
    assert rows == ["other", "2", "10"] and columns == ["q_proj", "out_proj", "extra"]
    assert np.array_equal(table[1], [2.0, 3.0, np.nan], equal_nan=True)
    assert style.png(layer_ranks({"text": paths, "vision": {"vision_model.layers.0.q_proj": 0.0}}))


def test_truncation_and_forgetting_draw_means_and_bands():
    cuts = [Truncation(1, (0.4, 0.6), (0.2,)), Truncation(8, (), (0.7, 0.9))]
    axes = truncation(cuts, 0.1, metric="recall@5").axes[0]
    drawn = {one.get_marker(): list(one.get_ydata()) for one in axes.get_lines() if one.get_alpha() is None}
    assert drawn["s"] == pytest.approx([0.2, 0.8]) and drawn["o"] == pytest.approx([0.5])
    points = [Balance(s, (s, s - 0.1, s + 0.1), (1 - s, 0.9 - s, 1.1 - s)) for s in (0.0, 0.5, 1.0)]
    figure = forgetting(points, metric="recall@5", best_scale=0.5)
    assert "scale 0.5" in figure.axes[0].get_title(loc="left")
    assert {"new rows", "known rows"} == set(texts(figure.axes[0]))


def test_a_run_keeps_its_colour_and_many_runs_get_shades():
    few, many = colours_of(["A", "B"]), colours_of([chr(65 + i) for i in range(26)])
    assert few["A"] == style.ADAPTED and len(set(many.values())) == 26
    figure = reached({"B": (0.1, -0.1, 0.3)}, few, metric="recall@5", difference_from="A")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["B − A"]
    assert line(figure.axes[0], "_child2").get_color() == few["B"]
    axes = curves_together({"A": [(0, 1.0), (1, 2.0)], "B": []}, few, xlabel="epoch", ylabel="loss").axes[0]
    assert texts(axes) == ["A"]


def test_ticks_of_cells_that_lie_close_do_not_run_into_each_other():
    figure = plane([Position(r, 2.01 - r / 1e4, -1.5757 - r / 1e4) for r in PLACES], RANKS)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
