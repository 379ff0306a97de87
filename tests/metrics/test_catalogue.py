from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.retrieval import evaluate_pairs
from vectoruniverse.metrics import catalogue
from vectoruniverse.metrics.catalogue import Metric, best_ends, declare, describe, in_order, signed
from vectoruniverse.report.tables import comparison_table, metric_table
from vectoruniverse.tasks.classification.task import Examples, _evaluation


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("recall@7", "recall@7, mean of both ↑"),
        ("second_to_first/median_rank", "second → first median rank ↓"),
        ("image/effective_rank", "effective rank, images"),
        ("text/uniformity", "uniformity, texts ↓"),
        ("perplexity", "perplexity ↓"),
        ("zero_shot/accuracy@3", "zero-shot label, top 3 ↑"),
        ("precision/spam/ham {x}", "precision, spam/ham {x} ↑"),
        ("recall/recall@5", "recall, recall@5 ↑"),
        ("f1/한국어\n", "F1, 한국어\n ↑"),
        ("bleu", "bleu"),
        ("", ""),
    ],
)
def test_every_name_has_a_label_and_a_declared_one_its_better_end(name: str, marked: str) -> None:
    assert describe(name).name == name
    assert describe(name).marked == marked


def test_a_person_reads_what_was_reached_then_the_space_then_what_is_unknown() -> None:
    names = ["new", "image/uniformity", "f1/a", "accuracy", "text_to_image/mrr", "image_to_text/mrr", "mrr"]
    assert [metric.name for metric in in_order(names)] == [
        *("mrr", "image_to_text/mrr", "text_to_image/mrr", "accuracy", "f1/a", "image/uniformity", "new")
    ]


def test_all_numbers_of_a_classifier_are_told() -> None:
    """Three classes, one of which is called like a metric: nothing may be missing, and counts stay whole."""
    names, labels = ["up", "down", "recall@5"], np.arange(30) % 3
    part = Examples([], labels, names)
    found = _evaluation(torch.randn(30, 4), torch.nn.functional.one_hot(torch.from_numpy(labels), 3).float(), part)
    rows = dict(metric_table(found.metrics).rows)
    assert len(rows) == len(found.metrics) == 5 + 4 * 3
    assert rows["rows, up"] == "10" and rows["recall, recall@5 ↑"] == "1.000"
    assert len(comparison_table(found.metrics, found.metrics).rows) == len(found.metrics)


def test_all_numbers_of_a_space_of_pairs_are_told() -> None:
    rows = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    found = evaluate_pairs(rows, rows.flip(0), PairItems(np.arange(8), np.arange(8)), (1, 5), names=("image", "text"))
    labels = [label for label, _ in metric_table(found.metrics).rows]
    assert len(labels) == len(set(labels)) == len(found.metrics)
    assert labels[0].startswith("recall@1, mean of both")


def test_summaries_keep_the_better_end_of_every_declared_metric() -> None:
    ends = list(best_ends())

    def end(name: str) -> str | None:
        return next((better for pattern, better in ends if fnmatchcase(name, pattern)), None)

    for name in ("recall@5", "text_to_image/median_rank", "loss", "calibration_error", "f1/a", "image/uniformity"):
        assert end(name) == describe(name).better is not None
    assert end("effective_rank") is None and end("support/a") is None


def test_a_name_means_one_thing():
    declare([describe("modality_gap")])  # the same again
    with pytest.raises(ValueError, match="mrr is declared twice"):
        declare([Metric("mrr", "another")])


def test_a_metric_is_known_from_when_it_is_declared(monkeypatch):
    monkeypatch.setattr(catalogue, "_DECLARED", dict(catalogue._DECLARED))
    assert describe("test/late@5").place == "undeclared"
    declare([Metric("test/late@*", "late@{}", "higher")])
    assert describe("test/late@5").marked == "late@5 ↑"
    catalogue._placed.cache_clear()  # as it was before


def test_the_command_line_knows_the_metrics_of_every_task():
    names = ["accuracy", "mlm_loss", "first_to_second/mrr", "zero_shot/accuracy@1"]
    code = f"""
import vectoruniverse.cli
from vectoruniverse.metrics.catalogue import describe
assert [describe(name).better for name in {names}] == ["higher", "lower", "higher", "higher"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-0.0004, ".3f", "0.000"),
        (0.0, ".3f", "0.000"),
        (0.0004, ".3f", "0.000"),
        (0.0006, ".3f", "+0.001"),
        (-12.34, ".1f", "-12.3"),
        (float("nan"), ".3f", "+nan"),
    ],
)
def test_a_change_that_rounds_to_zero_has_no_sign(value, form, text):
    assert signed(value, form) == text


def test_bounds_in_the_table_that_round_to_zero_have_no_sign():
    [(*_, change)] = comparison_table(
        {"mrr": 0.5}, {"mrr": 0.4999}, {"mrr": {"difference": [-0.0001, -0.02, 0.0002]}}
    ).rows
    assert change == "0.000 [-0.020, 0.000]"
