"""sweep.json's statistics and sweep.csv from outcomes made by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vectoruniverse.errors import DataError
from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.tables import cell_frame
from vectoruniverse.report.tables import write_csv
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import outcomes
from vectoruniverse.sweep.findings import statistics


def cell(tmp_path, values, seed, hits, data="d"):
    """An entry and its run folder, whose rows are hits or misses."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    arrays = {"adapted/recall@5": np.array(hits, np.float32), "base/recall@5": np.zeros(len(hits), np.float32)}
    save_file({**arrays, "drawn": np.arange(len(hits))}, folder / "per_query.safetensors")
    facts = {"data": data, "trained_parameters": 10, "seconds": 2.0, "peak_memory_bytes": None}
    return CellRecord(values=values, seed=seed, name="cell", state="finished", **facts), Run(folder)


def test_the_smallest_rank_that_is_as_good_is_found(tmp_path):
    low, high = [1] * 10 + [0] * 90, [1] * 80 + [0] * 20
    cells = [cell(tmp_path, {"adapter.rank": r}, s, h) for s in (0, 1) for r, h in ((16, high), (4, high), (1, low))]
    told = statistics(cells, "recall@5", one_base=True)
    assert told.smallest_not_worse == {"adapter.rank": 4}
    assert [v.values["adapter.rank"] for v in told.values] == [1, 4, 16]
    assert [v.mean.estimate for v in told.values] == pytest.approx([0.1, 0.8, 0.8])
    assert told.values[0].shortfall.estimate == pytest.approx(0.7)
    assert told.base.estimate == 0
    assert told.answer.startswith("rank 4 is the best, and every smaller rank is credibly worse")
    assert (told.seeds, told.queries, told.values[0].seconds) == ([0, 1], 100, 2.0)


def test_intervals_of_groups_are_called_so(tmp_path):
    cells = [cell(tmp_path, {"adapter.rank": rank}, 0, [0, 1] * 30) for rank in (1, 2)]
    for _, run in cells:
        arrays = load_file(run.path / "per_query.safetensors")
        save_file(arrays | {"drawn": np.arange(60) // 5}, run.path / "per_query.safetensors")
    told = statistics(cells, "recall@5", one_base=True)
    assert told.groups == 12
    assert "intervals over 60 queries in 12 groups drawn together" in told.answer


def test_combinations_without_an_order_are_compared_too(tmp_path):
    values = [{"loss.form": form, "adapter.rank": 2} for form in ("a", "b")]
    cells = [cell(tmp_path, v, 0, [i] * 50 + [0] * 50) for i, v in enumerate(values)]
    told = statistics(cells, "recall@5", one_base=True)
    assert (told.best, told.ordered, told.smallest_not_worse) == (values[1], False, None)
    assert told.answer.startswith("form b, rank 2 comes first with recall@5 0.500")


def test_what_cannot_be_compared_says_why(tmp_path):
    assert statistics([], "recall@5", one_base=True) is None
    two = [cell(tmp_path, {"adapter.rank": r}, 0, [1, 0], data=str(r)) for r in (1, 2)]
    assert "own base" in statistics(two, "recall@5", one_base=True).reason
    unpaired = [cell(tmp_path, {"adapter.rank": r}, r, [1, 0]) for r in (1, 2)]
    assert "no seed is common" in statistics(unpaired, "recall@5", one_base=True).reason
    (tmp_path / "0" / "per_query.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read"):
        outcomes(Run(tmp_path / "0"), "recall@5")


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    values = {"data.text": "=1+1\n{title}"}
    failed = CellRecord(values=values, seed=0, name="cell", state="failed", message="@x")
    told = {"over": {"data.text": [values["data.text"]]}, "metric": "recall@5", "cells": [failed]}
    write_csv(tmp_path / "sweep.csv", cell_frame(SweepRecord.model_construct(**told)))
    text = (tmp_path / "sweep.csv").read_text()
    (row,) = csv.DictReader(text.splitlines())
    assert row["data.text"].startswith("'=1+1") and row["message"] == "'@x" and row["seed"] == "0"
    assert len(text.splitlines()) == 2
