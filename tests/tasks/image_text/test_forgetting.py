"""The forgetting ledger: both sides along the path from the base to the adapter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from vectoruniverse.adapters.svd import intruders
from vectoruniverse.cli import app
from vectoruniverse.data.splits import Split
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.metrics.intervals import difference_interval
from vectoruniverse.runs.listing import find_run
from vectoruniverse.runs.records import Estimate
from vectoruniverse.sweep.forgetting import forgetting_curve
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import report_run
from vectoruniverse.tasks.image_text.forgetting import best_scale, known_rows, weigh
from vectoruniverse.tasks.image_text.settings import ForgettingConfig
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.tasks.table import evaluated_base
from vectoruniverse.terminal import Display

YELLOW = ForgettingConfig(include={"Category": ["yellow"]}, scales=[0.0, 0.5, 1.0])


def quiet():
    return Display(quiet=True)


def one(estimate):
    return Estimate(estimate, 0, 1), None


def test_the_scale_that_keeps_most_is_found_by_hand():
    points = [
        (0.0, one(0.2), one(0.8)),
        (0.5, one(0.6), one(0.7)),
        (1.0, one(0.8), one(0.2)),
    ]
    curve = weigh(points)
    assert [p.new_share for p in curve] == pytest.approx([0.25, 0.75, 1.0])
    assert [p.old_share for p in curve] == pytest.approx([1.0, 0.875, 0.25])
    assert [p.kept for p in curve] == pytest.approx([0.4, 2 * 0.75 * 0.875 / 1.625, 0.4])
    assert best_scale(curve) == 0.5
    nothing = weigh([(s, one(0.0), one(0.0)) for s in (0.0, 1.0)])
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
    before = {name: value for name, value in outcome.base.items() if not name.startswith("labels/")}
    assert after == pytest.approx(before), "the base is left as it was"


@pytest.mark.usefixtures("blank_figures")
def test_a_run_tells_what_it_lost_in_its_record_page_card_and_terminal(config, tmp_path, capsys, monkeypatch):
    every = partial(intruders, threshold=1.1)  # all of the first ten directions
    monkeypatch.setattr("vectoruniverse.tasks.image_text.forgetting.intruders", every)
    file = config(
        forgetting={"include": {"Category": ["yellow"]}, "scales": [0.5, 1.0]}, eval={"report": True, "keep": "last"}
    )
    runs = tmp_path / "runs"
    app(["train", "--config", file, "--runs-dir", str(runs)], standalone_mode=False)
    run = find_run(runs, "latest")
    ledger, record = run.read_evaluation().forgetting, run.read_evaluation()
    assert [point.scale for point in ledger.curve] == [0.0, 0.5, 1.0]
    assert ledger.curve[0].new.estimate == pytest.approx(record.base["recall@5"])
    assert ledger.curve[-1].new.estimate == pytest.approx(record.adapted["recall@5"])
    assert list(ledger.curve[-1].new_change) == pytest.approx(record.intervals["recall@5"]["difference"])

    old = load_experiment(file, ['data.include.Category=["yellow"]', "forgetting=null", "data.split.val_fraction=0.5"])
    everything = np.arange(8)
    shared = share(old, quiet(), Chosen(Split(everything, everything)))
    before = evaluated_base(old, shared, "val").per_query["recall@5"]
    prepared = prepare(old, shared, run.adapter)
    after = prepared.task.evaluate().per_query["recall@5"]
    layers = prepared.adapters[""].low_rank.layers
    for layer in layers.values():
        layer.merge()
        u, sigma, vh = np.linalg.svd(layer.base.weight.detach().double().numpy(), full_matrices=False)
        rest = torch.from_numpy((u[:, 10:] * sigma[10:]) @ vh[10:])
        layer.base.weight.data.copy_(rest)
    shrunk = prepared.task.evaluate().per_query["recall@5"]
    assert ledger.intruders == 10 * len(layers)
    assert ledger.without_intruders.old.estimate == pytest.approx(shrunk.mean())
    told = {path: n for tower in record.adapter.values() for path, n in tower["intruders"].items()}
    assert told.keys() == layers.keys() and set(told.values()) <= set(range(11))
    change = difference_interval(before, after)
    assert ledger.old_rows == len(before) == 8
    assert list(ledger.curve[-1].old_change) == pytest.approx(list(change))

    said = f"recall@5 went from {before.mean():.3f} to {after.mean():.3f}"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (run.path / "README.md").read_text(encoding="utf-8")
    page = run.report_file.read_text(encoding="utf-8")
    assert "What was forgotten" in page and f"{ledger.intruders} intruder directions" in page
    assert (run.path / "figures" / "forgetting.svg").is_file()
    assert (run.path / "tables" / "forgetting.csv").read_text(encoding="utf-8").count("\n") == 4
    run.report_file.unlink()
    report_run(run.name, runs_dir=runs, display=quiet())
    assert "What was forgotten" in run.report_file.read_text(encoding="utf-8"), "from the record, without the old rows"


class Chosen:
    """A choice of rows by position."""

    trained, side = None, "val"

    def __init__(self, split):
        self.split = split

    def divide(self, rows, file):
        return self.split


def test_what_the_base_knew_is_looked_for_before_a_run_begins(config, tmp_path):
    experiment = load_experiment(config(forgetting={"include": {"Category": ["red"]}}))
    with pytest.raises(ConfigError, match="0 rows are left"):
        train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    experiment = load_experiment(config(forgetting={}, adapter={"method": "prefix"}))
    with pytest.raises(ConfigError, match="a prefix has no scale"):
        train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    assert not (tmp_path / "runs").exists()


def test_rows_of_the_experiment_itself_are_not_what_the_base_knew(config):
    experiment = load_experiment(config())
    shared = share(experiment, quiet())
    known = known_rows(experiment, ForgettingConfig(), shared.data, shared.encoder, quiet())
    assert {row.labels[0] for row in known.rows} == {"yellow"}
    few = known_rows(experiment, ForgettingConfig(rows=3), shared.data, shared.encoder, quiet())
    again = known_rows(experiment, ForgettingConfig(rows=3), shared.data, shared.encoder, quiet())
    assert len(few.rows) == 3 and [r.id for r in few.rows] == [r.id for r in again.rows]
    with pytest.raises(ConfigError, match="0 rows are left") as error:
        known_rows(experiment, ForgettingConfig(include={"Category": ["red"]}), shared.data, shared.encoder, quiet())
    assert error.value.key == "forgetting"
