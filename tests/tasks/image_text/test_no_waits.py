"""A step waits for no number of the GPU: neither forth nor back, whatever the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tasks.meta import on_meta
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display

INFO_NCE = {"name": "info_nce", "pairs": ["IT", "I+T"]}
LOSSES = {
    "linear": {"name": "alignment_anisotropy", "form": "linear"},
    "log_sum_exp": {"name": "alignment_anisotropy", "form": "log_sum_exp"},
    "info_nce": INFO_NCE | {"negatives": {"labels": "soft"}},
    "siglip": {"name": "siglip", "temperature": 0.1, "bias": -5.0},
}


def loss_on_meta(file, monkeypatch):
    experiment, display = load_experiment(file), Display(quiet=True)
    shared = setup(experiment).share(experiment, display)
    shared.encoder.model.set_attn_implementation("sdpa")  # as on a GPU
    task = setup(experiment).prepare(experiment, shared).task
    with on_meta(task, monkeypatch):
        found = task.loss(np.arange(8), 0)
        found.total.backward()
    assert found.total.is_meta and all(p.grad is not None for p in task.trained().values())
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_for_the_device_and_chance_is_known_without_it(name, config, monkeypatch):
    found = loss_on_meta(config(loss=LOSSES[name]), monkeypatch)
    assert not isinstance(found.chance, torch.Tensor)
    assert isinstance(found.watched["masked_share"], float)


def test_nor_does_what_is_added_to_a_loss(config, monkeypatch):
    views = {"text": {"templates": ["{title}", "{Channel}"]}}
    adapter = {"method": "lora", "rank": 2, "train_logit_scale": True}
    train = {"batch_size": 8, "precision": "fp32", "device": "cpu", "preserve": {"rows": 4}}
    known = {"include": {"Category": ["yellow"]}}
    sections = {"views": views, "adapter": adapter, "train": train, "forgetting": known}
    found = loss_on_meta(config(loss=INFO_NCE | {"temperature": 0.1, "label_kl": {}}, **sections), monkeypatch)
    assert found.parts.keys() == {"IT", "I+T", "preserve", "preserve_old", "label_kl"}
    assert found.chance.is_meta, "the distance from the base is part of it"
