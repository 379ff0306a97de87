"""``adapter.train_logit_scale``: scale and bias are learned from where the loss says, saved, and resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics

PAPER = {"name": "siglip", "temperature": 0.1}
ADAPTERS = {
    "lora": {"method": "lora", "rank": 2, "train_logit_scale": True},
    "prefix": {"method": "prefix", "prefix_length": 2, "train_logit_scale": True},
    "full": {"method": "full", "train_logit_scale": True},
}
SCALARS = ("logit_scale", "logit_bias")


def quiet():
    return Display(quiet=True)


def start(config, loss, adapter=ADAPTERS["lora"]):
    experiment = load_experiment(config(loss=loss, adapter=adapter))
    return prepare(experiment, share(experiment, quiet()))


def scalars(task):
    return {name: one.item() for name, one in task.trained().items() if name in SCALARS}


def test_siglip_on_a_clip_learns_scale_and_bias_from_the_start_of_its_paper(config):
    task = start(config, PAPER).task
    assert scalars(task) == pytest.approx({"logit_scale": math.log(10.0), "logit_bias": -10.0})
    rows = np.arange(6)
    loss = task.loss(rows, 0)
    images, texts = task._pictures.encode(rows, 0)[0].detach(), task._texts.encode(rows, 0)[0].detach()
    scale, bias = (torch.tensor(value, requires_grad=True) for value in (math.log(10.0), -10.0))
    same = (task.train.items.second[rows][:, None] == task.train.items.second[rows]) & ~np.eye(6, dtype=bool)
    slow = torch.zeros(())
    for i in range(6):
        for j in range(6):
            sign = 1.0 if i == j else -1.0
            logit = scale.exp() * (images[i] @ texts[j]) + bias
            slow = slow - torch.log(torch.sigmoid(sign * logit)) / 6 * (not same[i, j])
    assert float(loss.total.detach()) == pytest.approx(float(slow.detach()), rel=1e-4)
    ours = torch.autograd.grad(loss.total, [task.trained()[name] for name in SCALARS])
    torch.testing.assert_close(ours, torch.autograd.grad(slow, [scale, bias]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_scalars_are_saved_with_every_adapter_and_the_base_comes_back(adapter, config, tmp_path):
    experiment = load_experiment(config(loss=PAPER, adapter=ADAPTERS[adapter]))
    shared = share(experiment, quiet())
    before = shared.encoder.model.logit_scale.item()
    prepared = prepare(experiment, shared)
    with torch.no_grad():
        for name, value in {"logit_scale": 1.5, "logit_bias": -3.0}.items():
            prepared.task.trained()[name].fill_(value)
    prepared.save(tmp_path / "adapter")
    prepared.release()
    assert shared.encoder.model.logit_scale.item() == before
    assert [(one.item(), one.requires_grad) for one in shared.encoder.added.values()] == [(-10.0, False)]
    again = prepare(experiment, shared, tmp_path / "adapter")
    assert shared.encoder.model.logit_scale.item() == 1.5
    assert shared.encoder.added["logit_bias"].item() == -3.0
    again.release()
    assert shared.encoder.added["logit_bias"].item() == -10.0


def test_a_cut_run_resumes_to_the_same_scalars_and_is_evaluated_again_alike(config, cut_and_resumed, tmp_path):
    experiment = load_experiment(config(loss=PAPER, adapter=ADAPTERS["lora"]))
    whole = train(experiment, runs_dir=tmp_path / "whole", display=quiet())
    learned = load_file(whole.run.adapter / "logit_scalars.safetensors")
    assert learned.keys() == set(SCALARS) and all(map(math.isfinite, map(float, learned.values())))
    steps = [line for line in read_metrics(whole.run.metrics_file) if "train/loss" in line]
    assert steps[-1]["train/logit_bias"] != steps[0]["train/logit_bias"] == -10.0
    assert steps[0]["train/logit_scale"] == pytest.approx(10.0, rel=1e-6)
    resumed = cut_and_resumed(experiment)
    found = load_file(resumed.run.adapter / "logit_scalars.safetensors")
    assert all(torch.equal(found[name], learned[name]) for name in SCALARS)
    _, again = evaluate_run("latest", runs_dir=resumed.run.path.parent, split="val", display=quiet())
    assert dict(again.adapted.metrics) == pytest.approx(dict(whole.adapted), abs=1e-6)


def test_a_later_run_starts_from_a_saved_bias_unless_it_says_where(config, tmp_path):
    first = start(config, PAPER)
    with torch.no_grad():
        first.task.trained()["logit_bias"].fill_(-3.0)
    first.save(tmp_path / "adapter")
    from_it = {"method": "lora", "init_from": str(tmp_path / "adapter"), "train_logit_scale": True}
    assert scalars(start(config, {"name": "siglip"}, from_it).task)["logit_bias"] == -3.0
    told = scalars(start(config, {"name": "siglip", "bias": -5.0, "temperature": 0.5}, from_it).task)
    assert told == pytest.approx({"logit_scale": math.log(2.0), "logit_bias": -5.0})
    other = start(config, {"name": "info_nce"}, {"method": "lora", "init_from": str(tmp_path / "adapter")})
    assert scalars(other.task) == {}


def test_info_nce_learns_its_scale_from_a_temperature_and_no_bias(config):
    task = start(config, {"name": "info_nce", "temperature": 0.05}).task
    assert scalars(task) == pytest.approx({"logit_scale": math.log(20.0)})
    assert torch.autograd.grad(task.loss(np.arange(6), 0).total, task.trained()["logit_scale"])[0] != 0


def test_a_start_beyond_the_bounds_of_a_trained_scale_is_refused(config):
    for temperature in (0.001, 2.0):
        loss = {"name": "siglip", "temperature": temperature}
        with pytest.raises(ConfigError, match="a trained logit scale stays within 1 to 100"):
            load_experiment(config(loss=loss, adapter=ADAPTERS["lora"]))
        load_experiment(config(loss=loss))
