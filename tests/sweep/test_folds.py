"""Cross-fitting: every row is tested once, and the results of all folds are pooled row by row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.test_runs import vu
from tests.sweep.test_runner import quiet
from vectoruniverse.metrics.intervals import difference_interval, mean_interval
from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.report.sweep.record import read_sweep
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.sweep.findings import statistics
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.pooling import comparable, mean_metrics
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.recorded_rows import read_rows_of


@pytest.fixture
def file(config, shapes):
    return config(data={"root": str(shapes), "split": {"group_by": "Category"}})


def sweep(file, over, *, runs, folds=3, seeds=(0,), **asked):
    grid = make_grid(file, [], over, seeds, "auto" if over else None, folds=folds, **asked)
    return run_sweep(grid, runs_dir=runs, out=None, display=quiet())


def test_every_row_is_tested_once_by_a_model_that_did_not_learn_from_it(file, tmp_path):
    record = sweep(file, [], runs=tmp_path / "runs").record
    rows = [read_rows_of(Run(tmp_path / "runs" / cell.run)) for cell in record.cells]
    assert [cell.fold for cell in record.cells] == [0, 1, 2] and record.folds == 3
    tested = [row.id for one in rows for row in one.test]
    assert len(tested) == len(set(tested)) == record.data.rows
    everything = {row.id for one in rows for part in (one.train, one.val, one.test) for row in part}
    assert set(tested) == everything
    for one in rows:
        assert not {row.id for row in one.test} & {row.id for part in (one.train, one.val) for row in part}


def test_the_answer_is_of_all_rows_and_no_group_stands_in_two_folds(file, tmp_path):
    found = sweep(file, [], runs=tmp_path / "runs")
    record, statistics = found.record, found.record.statistics
    parts = [outcomes(Run(tmp_path / "runs" / cell.run), "recall@5") for cell in record.cells]
    base, adapted = (np.concatenate([getattr(part, name) for part in parts]) for name in ("base", "adapted"))
    groups = np.concatenate([1000 * i + part.drawn for i, part in enumerate(parts)])
    (value,) = statistics.values
    assert (statistics.queries, statistics.groups) == (len(base), len(set(groups.tolist())))
    assert value.mean.estimate == pytest.approx(adapted.mean()) and statistics.base.estimate == pytest.approx(
        base.mean()
    )
    slow, gain = mean_interval(adapted, groups), difference_interval(base, adapted, groups)
    assert value.mean[1:] == pytest.approx(slow[1:], abs=0.06), "the same jackknife, of simulated draws"
    assert value.gain[1:] == pytest.approx(gain[1:], abs=0.06)
    assert statistics.chosen_on is None, "validation rows of one fold are test rows of another"
    assert statistics.answer.endswith("Each row was tested once, in 3 folds, among the rows of its own fold.")
    evaluations = [Run(tmp_path / "runs" / cell.run).read_evaluation() for cell in record.cells]
    weighed = sum(one.base["recall@5"] * one.rows for one in evaluations) / sum(one.rows for one in evaluations)
    assert record.base.metrics["recall@5"] == pytest.approx(weighed)
    assert read_sweep(found.folder.record_file) == record


def test_a_sweep_over_ranks_searches_rates_in_each_fold_with_its_own_validation_rows(file, tmp_path):
    record = sweep(
        file, [Over("adapter.rank", (2,))], runs=tmp_path / "runs", folds=2, rates="0.001,0.01", full=True
    ).record
    assert {(one.fold, *one.values.values()) for one in record.rates.choices} == {
        (fold, which) for fold in (0, 1) for which in (2, "full")
    }
    assert {trial.fold for trial in record.rates.trials} == {0, 1}
    for cell in (*record.cells, *record.beside):
        assert cell.settings["train.lr"] == record.rates.chosen(cell.values, cell.fold).rate
        config = Run(tmp_path / "runs" / cell.run).config_file.read_text()
        assert f"fold: {cell.fold}" in config and "folds: 2" in config
    (full,) = record.comparisons
    assert full.reference == record.statistics.best and record.statistics.queries == record.data.rows


def test_a_value_that_lacks_a_fold_waits_for_it(file, tmp_path):
    over = [Over("adapter.rank", (1, 2))]
    record = sweep(file, over, runs=tmp_path / "runs", folds=2).record
    cells = [cell for cell in record.cells if (cell.values["adapter.rank"], cell.fold) != (2, 1)]

    def told(cells):
        return statistics([(c, Run(tmp_path / "runs" / c.run)) for c in cells], "recall@5", one_base=True, folds=2)

    assert [value.values for value in told(cells).values] == [{"adapter.rank": 1}]
    assert comparable(cells) and not comparable([*cells, cells[0].model_copy(update={"data": "other"})])
    of_one = told([cell for cell in record.cells if cell.fold == 0])
    assert of_one.reason == "no value has been tested in all 2 folds yet", "rows of one fold are not all rows"


def test_means_over_folds_are_weighed_by_their_rows():
    assert mean_metrics([({"a": 1.0, "b": 2.0}, 3), ({"a": 5.0}, 1)]) == {"a": 2.0}


def test_the_same_command_again_trains_nothing_and_another_number_of_folds_is_another_sweep(file, tmp_path):
    first = sweep(file, [], runs=tmp_path / "runs", folds=2)
    again = sweep(file, [], runs=tmp_path / "runs", folds=2)
    assert again.record.cells == first.record.cells
    other = sweep(file, [], runs=tmp_path / "runs", folds=3)
    assert other.folder.path != first.folder.path
    assert all(isinstance(cell, CellRecord) for cell in other.record.cells)


def test_vu_train_with_folds_prints_what_they_say_together(file, tmp_path):
    done = vu("train", "-c", file, "--folds", "2", "-q", "--set", "eval.report=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recall@5" in done.stdout and "in 2 folds" in done.stdout.replace("\n", " ")
    (page,) = (tmp_path / "runs").glob("shapes-sweep-*/report.html")
    told = page.read_text(encoding="utf-8")
    assert "each the test part once" in told and "behind the best" not in told and "swept" not in told
    record = json.loads((page.parent / "sweep.json").read_text())
    assert record["folds"] == 2 and [cell["name"] for cell in record["cells"]] == [
        "shapes-fold0-seed0",
        "shapes-fold1-seed0",
    ]
    for arguments, says in (
        (("train", "--resume", "latest", "--folds", "2"), "--folds"),
        (("train", "-c", file, "--folds", "2", "--dry-run"), "--dry-run plans one run"),
        (("sweep-rank", "-c", file, "--folds", "2", "--wandb-sweep", "s.yaml"), "agents cannot"),
        (("train", "-c", file, "--folds", "2", "--set", "data.split.column=part"), "column"),
    ):
        refused = vu(*arguments, cwd=tmp_path)
        assert refused.returncode == 2 and says in refused.stderr
