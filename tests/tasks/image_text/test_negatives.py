"""``loss.negatives``: which training rows are pushed apart, by picture, text, labels and channel."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics

INFO_NCE = {"name": "info_nce", "temperature": 0.1}


def quiet():
    return Display(quiet=True)


def trained_on(config, data, negatives, *overrides):
    experiment = load_experiment(config(data=data, loss=INFO_NCE | {"negatives": negatives}), list(overrides))
    shared = share(experiment, quiet())
    rows = [shared.data.rows[i] for i in shared.data.split.train]
    return prepare(experiment, shared).task, rows


def weights_of(task):
    """Negative and positive weights among all training rows."""
    count = task.train_rows
    return task.negatives.among(np.arange(count)).weights(torch.zeros((), dtype=torch.float64))


def slow(rows, negative):
    """(N, N) of a function of two different rows; 0 on the diagonal."""
    found = [[float(a is not b and negative(a, b)) for b in rows] for a in rows]
    return torch.tensor(found, dtype=torch.float64)


def some(i, row):
    """Every fourth title is the one before, every fifth row has no labels, and every sixth no channel."""
    title = row["Title"] if i % 4 else "a shape"
    return row | {
        "Title": title,
        "Category": row["Category"] if i % 5 else " ",
        "Channel": row["Channel"] if i % 6 else "",
    }


def test_rows_that_share_a_text_a_label_or_a_channel_are_no_negatives(config, described):
    data = described(some)
    data["split"] |= {"group_by": "Title", "val_fraction": 0.2}
    for labels in ("off", "mask"):
        task, rows = trained_on(config, data, {"labels": labels}, "loss.negatives.groups=off")
        negative, positive = weights_of(task)
        expected = slow(
            rows,
            lambda a, b: a.text != b.text and not (labels == "mask" and set(a.labels) & set(b.labels)),  # noqa: B023
        )
        assert torch.equal(negative, expected) and 0 < expected.sum() < expected.numel()
        assert torch.equal(positive, torch.eye(len(rows), dtype=torch.float64))
    data["split"] |= {"group_by": "Channel"}
    task, rows = trained_on(config, data, {"groups": "mask"})
    channels = [row.columns["Channel"] for row in rows]
    assert "" in channels and len(set(channels)) > 2
    expected = slow(rows, lambda a, b: a.text != b.text and not (a.columns["Channel"] == b.columns["Channel"] != ""))
    assert torch.equal(weights_of(task)[0], expected)


def test_labels_draw_rows_together_whole_or_by_their_overlap(config, described):
    data = described(some)
    for use in ("positive", "soft"):
        task, rows = trained_on(config, data, {"labels": use})

        def related(a, b):
            either = set(a.labels) | set(b.labels)
            jaccard = len(set(a.labels) & set(b.labels)) / len(either) if either else 0.0
            return (a.text != b.text) * (jaccard if use == "soft" else jaccard > 0)  # noqa: B023

        negative, positive = weights_of(task)
        own = torch.eye(len(rows), dtype=torch.float64)
        torch.testing.assert_close(positive, slow(rows, related) + own)
        torch.testing.assert_close(negative, slow(rows, lambda a, b: a.text != b.text) - slow(rows, related))


def test_a_run_without_a_label_column_works_and_asking_for_labels_is_refused(config, described, tmp_path):
    data = described(lambda i, row: row, dropped="Category")
    outcome = train(load_experiment(config(data=data)), runs_dir=tmp_path / "runs", display=quiet())
    steps = [line for line in read_metrics(outcome.run.path / "metrics.jsonl") if "train/loss" in line]
    assert steps and all(line["train/masked_share"] == 0.0 for line in steps)
    with pytest.raises(ConfigError, match="the training rows have no labels") as caught:
        trained_on(config, data, {"labels": "mask"})
    assert caught.value.key == "loss.negatives.labels" and "data.columns.labels" in caught.value.remedy


@pytest.mark.parametrize(("cell", "says"), [("", "have no labels"), (" , ", "have no labels"), ("a,b", "same")])
def test_labels_that_tell_no_row_from_another_are_refused(config, described, cell, says):
    data = described(lambda i, row: row | {"Category": cell})
    with pytest.raises(ConfigError, match=says):
        trained_on(config, data, {"labels": "positive"})


def test_labels_are_one_in_any_unicode_form_and_space_and_two_in_another_case(config, described):
    spelt = ["café  bar", unicodedata.normalize("NFD", " café bar"), "Café bar"]
    task, rows = trained_on(config, described(lambda i, row: row | {"Category": spelt[i % 3]}), {"labels": "mask"})
    assert {label for row in rows for label in row.labels} == {"café bar", "Café bar"}
    assert torch.equal(weights_of(task)[0], slow(rows, lambda a, b: a.labels != b.labels))


def test_a_thousand_labels_are_counted_as_sets(config, described):
    def many(i, row):
        return row | {"Category": ",".join(f"label {(40 * i + j) % 1000}" for j in range(45 + i % 9))}

    task, rows = trained_on(config, described(many), {"labels": "mask"})
    assert task.negatives.label_sets.shape[1] > 900
    assert torch.equal(weights_of(task)[0], slow(rows, lambda a, b: not set(a.labels) & set(b.labels)))
    assert torch.isfinite(task.loss(np.arange(8), 0).total)


def test_the_masked_share_is_logged_and_training_is_refused_beyond_the_limit(config, tmp_path):
    mask = {"name": "alignment_anisotropy", "negatives": {"labels": "mask"}}
    outcome = train(load_experiment(config(loss=mask)), runs_dir=tmp_path / "runs", display=quiet())
    steps = [line for line in read_metrics(outcome.run.path / "metrics.jsonl") if "train/loss" in line]
    assert all(0.2 < line["train/masked_share"] < 0.9 for line in steps)
    refused = load_experiment(config(loss=mask), ["loss.negatives.max_masked=0.2"])
    with pytest.raises(DataError, match="of the pairs of training rows share their picture or text or label") as caught:
        train(refused, runs_dir=tmp_path / "refused", display=quiet())
    assert caught.value.exit_code == 3 and "loss.negatives.labels: off" in caught.value.remedy


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["loss.negatives.labels=positive"], "positive is for info_nce and siglip"),
        (["loss.negatives.groups=mask"], "name it in data.split.group_by"),
        (["loss.negatives.labels=none"], "must be 'off', 'mask', 'soft' or 'positive', got 'none'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_is_read(config, overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_experiment(config(), overrides)


@pytest.mark.parametrize(("key", "value"), [("labels", "mask"), ("labels", "soft"), ("groups", "mask")])
def test_pairs_of_texts_have_neither_labels_nor_groups(key, value):
    with pytest.raises(ConfigError, match=f"loss.negatives.{key}: pairs of texts have no {key}; set it to off"):
        load_experiment("text_pairs_lora.yaml", [f"loss.negatives.{key}={value}"])
