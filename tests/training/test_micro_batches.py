"""``train.micro_batch``: the loss and the gradient of the whole batch, encoded some rows at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import normalize

from tests.models.models import save_clip, save_siglip
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.micro_batches import in_micro_batches

ROWS = np.array([3, 0, 7, 11, 4, 9, 2])
LORA = {"method": "lora", "rank": 2}


@pytest.fixture
def prepared(shapes, tmp_path):
    def make(model=save_clip, micro_batch=None, **sections):
        content = {
            "name": "shapes",
            "task": "image_text",
            "model": str(model(tmp_path / "model") if not (tmp_path / "model").exists() else tmp_path / "model"),
            "data": {"root": str(shapes), "cache_dir": str(tmp_path / "cache"), "split": {"test_fraction": 0}},
            "adapter": LORA,
            "train": {"batch_size": 7, "precision": "fp32", "device": "cpu", "micro_batch": micro_batch},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(content | sections), encoding="utf-8")
        experiment = load_experiment(str(file))
        return prepare(experiment, share(experiment, Display(quiet=True)))

    return make


def step(prepared):
    """Loss of a batch, and the gradients of what is trained, in double precision."""
    torch.manual_seed(5)
    if prepared.experiment.views.pool is None:  # whose states are kept in single precision
        prepared.model.double()
    prepared.model.train()
    trained = prepared.task.trained()
    with torch.no_grad():
        for parameter in trained.values():  # B of LoRA starts at zero, and A's gradient with it
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    loss = prepared.task.loss(ROWS, epoch=1)
    gradients = torch.autograd.grad(loss.total, list(trained.values()), allow_unused=True)
    return loss, dict(zip(trained, gradients, strict=True))


@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"loss": {"name": "info_nce", "temperature": 0.1, "label_kl": {}}},
        {"loss": {"name": "siglip", "temperature": 0.1}, "adapter": {**LORA, "train_logit_scale": True}},
        {"views": {"patch_dropout": 0.5, "text": {"word_dropout": 0.3}}},
        {"views": {"pool": 3}, "adapter": {**LORA, "vision_layers_to_transform": [1], "text_layers_to_transform": [1]}},
        {"adapter": {"method": "full"}},
    ],
    ids=["default", "info_nce with label_kl", "siglip", "views", "pool", "full"],
)
def test_loss_and_gradients_are_those_of_the_whole_batch(prepared, sections, size):
    whole, wanted = step(prepared(**sections))
    found, gradients = step(prepared(micro_batch=size, **sections))
    assert torch.allclose(found.total, whole.total, atol=1e-6, rtol=1e-6)
    assert torch.allclose(found.embeddings, whole.embeddings, atol=1e-6)
    assert gradients.keys() == wanted.keys() and any(one is not None for one in wanted.values())
    for name, gradient in wanted.items():
        if gradient is None:
            assert gradients[name] is None, name
        else:
            assert torch.allclose(gradients[name], gradient, atol=1e-6), name


def test_a_model_that_pads_texts_to_its_limit_has_them_too(prepared):
    whole, wanted = step(prepared(model=save_siglip))
    found, gradients = step(prepared(model=save_siglip, micro_batch=2))
    assert torch.allclose(found.total, whole.total, atol=1e-6)
    for name, gradient in wanted.items():
        assert gradient is None or torch.allclose(gradients[name], gradient, atol=1e-6), name


def test_never_more_rows_than_a_micro_batch_are_in_the_model_and_each_comes_twice(prepared):
    made = prepared(micro_batch=3)
    passed = []
    made.task.encoder.model.vision_model.encoder.layers[0].register_forward_hook(
        lambda module, given, out: passed.append(len(given[0]))
    )
    step(made)
    assert sorted(passed) == [4, 4, 4, 4, 6, 6], "two views of 3, 2 and 2 rows, forth and once more on the way back"


def test_dropout_is_replayed_so_that_the_gradient_is_that_of_the_loss():
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(9, 6, dtype=torch.float64)

    def encode(some):
        return [normalize(torch.dropout(rows[some], 0.5, train=True) @ weight, dim=1)]

    def gradient(parts):
        torch.manual_seed(1)
        (found,) = parts()
        loss = (found @ found.T).logsumexp(dim=1).sum()
        return loss, torch.autograd.grad(loss, weight)[0]

    order = np.arange(9)
    kept, wanted = gradient(lambda: [torch.cat([encode(part)[0] for part in np.array_split(order, 3)])])
    loss, found = gradient(lambda: in_micro_batches(encode, order, 3))
    assert torch.equal(loss, kept) and torch.allclose(found, wanted, atol=1e-12)


def test_a_batch_that_is_no_larger_is_encoded_at_once():
    calls = []
    (found,) = in_micro_batches(lambda some: [calls.append(len(some)) or torch.ones(len(some))], np.arange(4), 4)
    assert calls == [4] and len(found) == 4
