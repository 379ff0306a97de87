"""The forgetting ledger: both sides along the path from the base to the adapter."""

from __future__ import annotations

import pytest

from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.sweep.forgetting import best_scale, forgetting_curve, known_rows, weigh
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.settings import ForgettingConfig
from vectoruniverse.tasks.image_text.setup import share
from vectoruniverse.tasks.table import evaluated_base
from vectoruniverse.terminal import Display

YELLOW = ForgettingConfig(include={"Category": ["yellow"]}, scales=[0.0, 0.5, 1.0])


def quiet():
    return Display(quiet=True)


def test_the_scale_that_keeps_most_is_found_by_hand():
    points = [
        (0.0, Interval(0.2, 0, 1), Interval(0.8, 0, 1)),
        (0.5, Interval(0.6, 0, 1), Interval(0.7, 0, 1)),
        (1.0, Interval(0.8, 0, 1), Interval(0.2, 0, 1)),
    ]
    curve = weigh(points)
    assert [p.new_share for p in curve] == pytest.approx([0.25, 0.75, 1.0])
    assert [p.old_share for p in curve] == pytest.approx([1.0, 0.875, 0.25])
    assert [p.kept for p in curve] == pytest.approx([0.4, 2 * 0.75 * 0.875 / 1.625, 0.4])
    assert best_scale(curve) == 0.5
    nothing = weigh([(s, Interval(0.0, 0, 0), Interval(0.0, 0, 0)) for s in (0.0, 1.0)])
    assert [p.kept for p in nothing] == [0.0, 0.0] and best_scale(nothing) == 1.0


@pytest.mark.parametrize(
    "adapter",
    [{"method": "lora"}, {"method": "lora", "train_projections": True}, {"method": "full"}],
    ids=["lora", "lora and projections", "full"],
)
def test_the_ends_of_the_path_are_the_base_and_the_adapted_model(adapter, config, tmp_path):
    experiment = load_experiment(config(adapter=adapter), ["eval.report=false", "eval.keep=last"])
    outcome = train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    shared = share(experiment, quiet())
    told = forgetting_curve(experiment, YELLOW, outcome.run.adapter, display=quiet(), shared=shared)
    assert told.old_rows == 8
    assert told.curve[0].new.estimate == pytest.approx(outcome.base["recall@5"])
    assert told.curve[-1].new.estimate == pytest.approx(outcome.adapted["recall@5"])
    assert told.curve[0].old_share == 1.0
    after = evaluated_base(experiment, shared, "val").metrics
    assert after == pytest.approx(dict(outcome.base)), "the base is left as it was"


def test_rows_of_the_experiment_itself_are_not_what_the_base_knew(config):
    experiment = load_experiment(config())
    shared = share(experiment, quiet())
    known = known_rows(experiment, ForgettingConfig(), shared, quiet())
    assert {row.labels[0] for row in known.rows} == {"yellow"}
    few = known_rows(experiment, ForgettingConfig(rows=3), shared, quiet())
    again = known_rows(experiment, ForgettingConfig(rows=3), shared, quiet())
    assert len(few.rows) == 3 and [r.id for r in few.rows] == [r.id for r in again.rows]
    with pytest.raises(ConfigError, match="0 rows are left") as error:
        known_rows(experiment, ForgettingConfig(include={"Category": ["red"]}), shared, quiet())
    assert error.value.key == "forgetting"
