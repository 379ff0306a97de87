"""``train.sampler``: what the rows of a batch have in common."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.batches import batches

TRAIN = {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1}


def quiet():
    return Display(quiet=True)


def dealt(config, sampler, data, **sections):
    """Training rows batch by batch, over two epochs."""
    experiment = load_experiment(config(train=TRAIN | {"sampler": sampler}, data=data, **sections))
    shared = share(experiment, quiet())
    prepared = prepare(experiment, shared)
    rows = [shared.data.rows[i] for i in shared.data.split.train]
    parts = [part for epoch in range(2) for part in batches(len(rows), 8, 0, epoch, prepared.strata)]
    assert sorted(np.concatenate(parts)) == sorted([*range(len(rows))] * 2)
    return rows, [[rows[i] for i in part] for part in parts]


def test_each_label_is_spread_evenly_by_the_rarest_of_a_row(config, described):
    def change(i, row):
        return row | {"Category": "common" if i % 4 else "common, rare"}

    rows, parts = dealt(config, "labels", described(change))
    rare = sum("rare" in row.labels for row in rows) * 2 / len(parts)
    assert all(abs(sum("rare" in row.labels for row in part) - rare) < 1 for part in parts)


def test_rows_of_a_group_stand_in_a_batch_by_fours_and_rows_of_none_are_left_alone(config, described):
    data = described(lambda i, row: row | {"Channel": f"channel {i // 8}" if i % 8 else ""})
    data["split"] |= {"group_by": "Channel", "val_fraction": 0.1}
    rows, parts = dealt(config, "groups", data)
    together = [Counter(row.columns["Channel"] for row in part if row.columns["Channel"]) for part in parts]
    assert np.mean([count for found in together for count in found.values()]) > 2.5
    assert any(not row.columns["Channel"] for row in rows)


def test_rows_of_one_text_are_never_in_a_batch_where_there_are_batches_enough(config, described):
    _, parts = dealt(config, "no_duplicates", described(lambda i, row: row | {"Title": f"title {i % 14}"}))
    for part in parts:
        assert len({row.text for row in part}) == len(part)


def test_more_rows_of_one_text_than_batches_are_spread_evenly(config, described):
    rows, parts = dealt(config, "no_duplicates", described(lambda i, row: row | {"Title": f"title {i % 2}"}))
    for text, count in Counter(row.text for row in rows).items():
        share = count * 2 / len(parts)
        assert all(abs(sum(row.text == text for row in part) - share) < 1 for part in parts)


def test_a_cut_run_resumes_to_the_same_bits(config, cut_and_resumed, tmp_path):
    experiment = load_experiment(config(train=TRAIN | {"sampler": "labels"}))
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    resumed = cut_and_resumed(experiment)
    ours, theirs = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_cannot_be_dealt_is_refused(config, described):
    with pytest.raises(ConfigError, match=r"train.sampler: groups needs the column of groups"):
        load_experiment(config(train=TRAIN | {"sampler": "groups"}))
    data = described(lambda i, row: row | {"Category": "", "Channel": f"channel {i}"})
    with pytest.raises(ConfigError, match="the training rows have no labels") as caught:
        dealt(config, "labels", data)
    assert caught.value.key == "train.sampler"
    with pytest.raises(ConfigError, match="no two training rows are of one group"):
        dealt(config, "groups", data | {"split": {"val_fraction": 0.2, "test_fraction": 0, "group_by": "Channel"}})
    with pytest.raises(ConfigError, match=r"train\.sampler"):
        load_experiment("text_pairs_lora.yaml", ["train.sampler=labels"])
