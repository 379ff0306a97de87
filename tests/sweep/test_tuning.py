"""Whole sweeps in which each rank finds its own rate, beside full fine-tuning and ranks by layer."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.sweep.test_runner import quiet
from vectoruniverse.errors import ConfigError, DivergedError, ResourceError
from vectoruniverse.report.sweep import words
from vectoruniverse.report.sweep.page import write_sweep_page
from vectoruniverse.report.sweep.parts import Layer
from vectoruniverse.report.sweep.record import read_sweep
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.pattern import ranks_by_layer
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.image_text.task import ImageTextTask
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.loop import Trainer

THREE = {"val_fraction": 0.25, "test_fraction": 0.25}


@pytest.fixture
def file(config, shapes):
    """Three parts, and enough epochs for two rounds."""
    return config(
        data={"root": str(shapes), "split": THREE},
        train={"epochs": 8, "batch_size": 16, "lr": 0.002, "precision": "fp32", "device": "cpu"},
    )


def sweep(file, ranks, *, runs, seeds=(0,), rates="auto", full=False, pattern=False, overrides=(), force=False):
    over = [Over("adapter.rank", ranks)]
    grid = make_grid(file, overrides, over, seeds, "auto", rates=rates, full=full, pattern=pattern)
    return run_sweep(grid, runs_dir=runs, out=None, display=quiet(), force=force)


def test_each_rank_takes_the_rate_that_trials_on_validation_rows_chose_with_the_test_rows_sealed(
    file, tmp_path, monkeypatch
):
    fits, opened, evaluate, fit = [], [], ImageTextTask.evaluate, Trainer.fit

    def evaluated(task, split="val"):
        if split == "test":
            opened.append(len(fits))
        return evaluate(task, split)

    monkeypatch.setattr(ImageTextTask, "evaluate", evaluated)
    monkeypatch.setattr(Trainer, "fit", lambda trainer: fits.append(trainer) or fit(trainer))
    record = sweep(file, (1, 4), runs=tmp_path / "runs").record
    trials = len(record.rates.trials)
    assert opened[0] == trials + 1 and len(fits) == trials + 2, "when all rates are chosen, and a cell is trained"
    for trial in record.rates.trials:
        evaluation = Run(tmp_path / "runs" / record.name / "trials" / trial.run).read_evaluation()
        assert (evaluation.split, evaluation.selection) == ("val", None)
    search = record.rates
    assert record.state == "finished" and (search.asked, search.own) == ("auto", 0.002)
    assert 1 <= search.short < search.long and 1 < search.cost <= 2.5
    for rank in (1, 4):
        mine = [trial for trial in search.trials if trial.values == {"adapter.rank": rank}]
        rounds = {
            epochs: {
                t.settings["train.lr"]: t.metrics["recall@5"] for t in mine if t.settings["train.epochs"] == epochs
            }
            for epochs in (search.short, search.long)
        }
        assert 0.002 in rounds[search.short], "what one rate for all would say can be told"
        ranked = sorted(rounds[search.short], key=lambda rate: (-rounds[search.short][rate], rate))
        assert set(rounds[search.long]) == set(ranked[:2]), "the better two went on"
        chosen = search.chosen({"adapter.rank": rank}).rate
        assert rounds[search.long][chosen] == max(rounds[search.long].values())
        (cell,) = (cell for cell in record.cells if cell.values == {"adapter.rank": rank})
        assert cell.settings == {"train.lr": chosen}
        assert f"lr: {chosen}" in Run(tmp_path / "runs" / cell.run).config_file.read_text()
    assert read_sweep(tmp_path / "runs" / record.name / "sweep.json") == record
    assert {run.name for run in (tmp_path / "runs").glob("[!.]*")} == {
        record.name,
        *(cell.run for cell in record.cells),
    }


def test_named_rates_are_tried_for_every_rank_and_no_others_unless_the_best_lies_at_an_end(file, tmp_path):
    record = sweep(file, (1, 2), runs=tmp_path / "runs", rates="1e-8,1e-7").record
    for rank in (1, 2):
        tried = {t.settings["train.lr"] for t in record.rates.trials if t.values["adapter.rank"] == rank}
        assert {1e-8, 1e-7} <= tried and len(tried) <= 4


def test_the_search_is_not_made_again_and_more_ranks_search_only_for_theirs(file, tmp_path):
    runs = tmp_path / "runs"
    first = sweep(file, (1, 2), runs=runs, rates="0.002,0.02")
    trials = {path.name for path in (first.folder.path / "trials").iterdir()}
    again = sweep(file, (1, 2), runs=runs, rates="0.002,0.02")
    assert again.record.rates == first.record.rates and again.record.cells == first.record.cells
    more = sweep(file, (1, 2, 4), runs=runs, rates="0.002,0.02", seeds=(0, 1))
    assert more.folder.path == first.folder.path
    now = {path.name for path in (first.folder.path / "trials").iterdir()}
    assert trials < now and all("-rank4-" in name for name in now - trials)
    rounds = {trial.settings["train.epochs"] for trial in more.record.rates.trials}
    assert rounds == {first.record.rates.short, first.record.rates.long}, "as long as those of the first call"
    kept = {choice.values["adapter.rank"]: choice.rate for choice in more.record.rates.choices}
    assert {rank: kept[rank] for rank in (1, 2)} == {
        c.values["adapter.rank"]: c.rate for c in first.record.rates.choices
    }
    assert {(c.values["adapter.rank"], c.settings["train.lr"]) for c in more.record.cells} == set(kept.items())


def test_a_search_that_was_interrupted_goes_on(file, tmp_path, monkeypatch):
    fit, left = Trainer.fit, [2]

    def interrupted(trainer):
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedTraining("stopped")
        return fit(trainer)

    monkeypatch.setattr(Trainer, "fit", interrupted)
    with pytest.raises(InterruptedTraining):
        sweep(file, (1,), runs=tmp_path / "runs", rates="0.002,0.02")
    monkeypatch.setattr(Trainer, "fit", fit)
    folder = next((tmp_path / "runs").glob("*-sweep-*"))
    assert json.loads((folder / "sweep.json").read_text())["state"] == "interrupted"
    whole = sweep(file, (1,), runs=tmp_path / "runs", rates="0.002,0.02").record
    alone = sweep(file, (1,), runs=tmp_path / "alone", rates="0.002,0.02").record
    assert whole.rates.choices == alone.rates.choices
    assert [trial.metrics for trial in whole.rates.trials] == [trial.metrics for trial in alone.rates.trials]
    assert [cell.metrics for cell in whole.cells] == [cell.metrics for cell in alone.cells]


def fails_at_rank_2(error, times):
    """``Trainer.fit`` that raises so many times at rank 2, and what it was."""
    fit, left = Trainer.fit, [times]

    def failing(trainer):
        if trainer.experiment.adapter.rank == 2 and left[0]:
            left[0] -= 1
            raise error
        return fit(trainer)

    return failing, fit


@pytest.mark.parametrize(
    ("error", "times", "reason", "again"),
    [
        (ResourceError("the disk is full"), 1, "lr 0.002, epochs 2, seed 0: the disk is full", {}),
        (
            DivergedError("the loss is not finite"),
            99,
            "training diverged at every learning rate that was tried",
            {"force": True},
        ),
    ],
    ids=["a trial fails", "all diverge"],
)
def test_a_search_that_failed_chooses_no_rate_and_is_made_again(
    error, times, reason, again, file, tmp_path, monkeypatch
):
    failing, fit = fails_at_rank_2(error, times)
    monkeypatch.setattr(Trainer, "fit", failing)
    first = sweep(file, (1, 2), runs=tmp_path / "runs", seeds=(0, 1), rates="0.002,0.02").record
    assert [choice.values for choice in first.rates.choices] == [{"adapter.rank": 1}]
    cells = {(cell.values["adapter.rank"], cell.seed): cell for cell in first.cells}
    assert first.state == "failed" and [cells[1, seed].state for seed in (0, 1)] == ["finished"] * 2
    for seed in (0, 1):
        assert cells[2, seed].state == "failed" and cells[2, seed].message.startswith("no learning rate was chosen: ")
        assert cells[2, seed].message.endswith(reason)
    monkeypatch.setattr(Trainer, "fit", fit)
    second = sweep(file, (1, 2), runs=tmp_path / "runs", seeds=(0, 1), rates="0.002,0.02", **again).record
    alone = sweep(file, (1, 2), runs=tmp_path / "alone", seeds=(0, 1), rates="0.002,0.02").record
    assert second.state == "finished" and second.rates.choices[:1] == first.rates.choices
    assert {one.rate for one in second.rates.choices} == {one.rate for one in alone.rates.choices}
    assert [choice.values["adapter.rank"] for choice in second.rates.choices] == [1, 2]
    assert [cell.metrics for cell in second.cells] == [cell.metrics for cell in alone.cells]


def test_a_rate_that_diverges_is_not_chosen_and_stays_in_the_record(file, tmp_path, monkeypatch):
    failing, fit = fails_at_rank_2(DivergedError("the loss is not finite"), 1)
    monkeypatch.setattr(Trainer, "fit", failing)
    first = sweep(file, (2,), runs=tmp_path / "runs", rates="0.002,0.004").record
    monkeypatch.setattr(Trainer, "fit", fit)
    assert first.state == "finished" and first.cells[0].settings["train.lr"] > 0.002
    assert [trial.settings["train.lr"] for trial in first.rates.trials if trial.state == "stopped"] == [0.002]
    assert sweep(file, (2,), runs=tmp_path / "runs", rates="0.002,0.004").record.rates == first.rates


def test_trials_may_be_deleted_when_the_rates_are_chosen(file, tmp_path):
    first = sweep(file, (1, 2), runs=tmp_path / "runs", rates="0.002,0.02")
    shutil.rmtree(first.folder.path / "trials")
    again = sweep(file, (1, 2), runs=tmp_path / "runs", rates="0.002,0.02")
    assert again.record.rates == first.record.rates and again.record.cells == first.record.cells
    assert not (first.folder.path / "trials").exists(), "none was made again"
    write_sweep_page(again.record, again.folder.path)
    assert (again.folder.path / "figures" / "rates.svg").is_file()


def test_full_fine_tuning_is_a_cell_like_the_others_and_compared_with_the_best_rank(file, tmp_path):
    record = sweep(file, (1, 2), runs=tmp_path / "runs", seeds=(0, 1), rates=None, full=True).record
    assert [(cell.values, cell.seed, cell.state) for cell in record.beside] == [
        ({"adapter.method": "full"}, 0, "finished"), ({"adapter.method": "full"}, 1, "finished")
    ]  # fmt: skip
    assert {cell.settings["train.lr"] for cell in record.beside} == {0.00025}, "an eighth of LoRA's"
    (full,) = record.comparisons
    best = [cell for cell in record.cells if cell.values == record.statistics.best]
    reached = [[outcomes(Run(tmp_path / "runs" / c.run), "recall@5").adapted.mean() for c in cells]
               for cells in (record.beside, best)]  # fmt: skip
    means = [sum(one) / 2 for one in reached]
    assert full.mean.estimate == pytest.approx(means[0]) and full.reference == record.statistics.best
    assert full.difference.estimate == pytest.approx(means[0] - means[1])
    assert full.difference.low <= full.difference.estimate <= full.difference.high
    cell = record.beside[0]
    assert "method: full" in Run(tmp_path / "runs" / cell.run).config_file.read_text()


def test_full_fine_tuning_searches_below_the_rates_of_lora(file, tmp_path):
    record = sweep(file, (2,), runs=tmp_path / "runs", full=True).record
    tried = {t.settings["train.lr"] for t in record.rates.trials if "adapter.method" in t.values}
    assert len(tried) >= 5 and min(tried) < 0.002 / 8 < max(tried)
    assert record.beside[0].settings["train.lr"] == record.rates.chosen({"adapter.method": "full"}).rate


def layer(values, cost=10):
    return Layer(singular_values=values, effective_rank=1.0, parameters_per_rank=cost)


def test_directions_are_bought_by_their_energy_for_what_they_cost():
    layers = {"a": layer([3.0, 2.0, 1.0, 0.5]), "b": layer([1.0, 0.1, 0.1, 0.1]), "c": layer([3.0, 2.5, 2.4, 0.1], 40)}
    ranks = ranks_by_layer(layers, 2)
    assert ranks == {"a": 3, "b": 1, "c": 2}
    assert sum(ranks[path] * one.parameters_per_rank for path, one in layers.items()) <= 2 * 60
    assert ranks_by_layer(layers, 1) == {"a": 1, "b": 1, "c": 1}
    assert ranks_by_layer({"a": layer([0.0, 0.0])}, 2) == {"a": 1}, "an update that is nothing asks for nothing"


def test_ranks_by_layer_cost_what_the_uniform_rank_costs_and_are_compared_with_it(file, tmp_path):
    record = sweep(file, (1, 2, 4), runs=tmp_path / "runs", rates=None, pattern=True).record
    pattern, (cell,), (told,) = record.pattern, record.beside, record.comparisons
    uniform = next(c for c in record.cells if c.values == {"adapter.rank": pattern.rank} and c.seed == cell.seed)
    assert pattern.run == record.adapters[0].run and pattern.rank < 4
    assert told.reference == uniform.values and told.values == cell.values
    assert cell.trained_parameters <= uniform.trained_parameters
    assert cell.state == "finished"
    run = Run(tmp_path / "runs" / cell.run)
    saved = json.loads((run.adapter / "adapter_config.json").read_text())
    ranks = {path: saved["rank_pattern"].get(path, saved["r"]) for path in pattern.rank_pattern}
    assert ranks == pattern.rank_pattern
    alphas = {path: saved["alpha_pattern"].get(path, saved["lora_alpha"]) for path in pattern.rank_pattern}
    assert {alphas[path] / rank for path, rank in ranks.items()} == {uniform.scale}, "the scale of every layer stays"
    again = sweep(file, (1, 2, 4), runs=tmp_path / "runs", rates=None, pattern=True).record
    assert again.beside == record.beside and again.pattern == pattern


def test_ranks_by_layer_may_cost_what_a_rank_of_an_earlier_call_does_at_the_rate_of_that(file, tmp_path):
    sweep(file, (1, 2), runs=tmp_path / "runs", rates="0.002,0.004")
    record = sweep(file, (4,), runs=tmp_path / "runs", rates="0.002,0.004", seeds=(0, 1), pattern=True).record
    (cell,) = record.beside
    uniform = next(c for c in record.cells if c.values == {"adapter.rank": record.pattern.rank})
    assert record.pattern.rank < 4 and (cell.state, cell.seed) == ("finished", 0)
    assert cell.settings == uniform.settings
    assert f"lr: {cell.settings['train.lr']}" in Run(tmp_path / "runs" / cell.run).config_file.read_text()


def test_the_best_rank_stands_beside_the_rivals_that_cost_nothing(file, tmp_path):
    found = sweep(file, (1, 2), runs=tmp_path / "runs", rates=None)
    record = found.record
    best = next(cell for cell in record.cells if cell.values == record.statistics.best)
    told = Run(tmp_path / "runs" / best.run).read_evaluation().rivals
    assert (record.rivals.run, record.rivals.rivals) == (best.run, told)
    said = words.worth(record)
    assert said.startswith(f"rank {best.values['adapter.rank']} with seed 0: it ") and "costs nothing" in said
    page = write_sweep_page(record, found.folder.path)
    assert "Is the training worth it?" in page.read_text(encoding="utf-8")


def test_values_of_any_key_may_each_have_their_own_rate(file, tmp_path):
    over = [Over("loss.temperature", (0.05, 0.5))]
    grid = make_grid(file, [], over, (0,), rates="auto")
    record = run_sweep(grid, runs_dir=tmp_path / "runs", out=None, display=quiet()).record
    for value in (0.05, 0.5):
        tried = {t.settings["train.lr"] for t in record.rates.trials if t.values == {"loss.temperature": value}}
        assert {0.0005, 0.001, 0.002, 0.004, 0.008} <= tried
    assert [cell.settings["train.lr"] for cell in record.cells] == [choice.rate for choice in record.rates.choices]
    with pytest.raises(ConfigError, match="is swept already"):
        make_grid(file, [], [Over("train.lr", (0.1,))], (0,), rates="auto")
