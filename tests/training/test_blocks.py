"""``train.activation_checkpointing``, ``compile`` and ``packed_weights``: the same, by other kernels or with less."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import yaml

from tests.models.models import save_clip, save_siglip
from vectoruniverse.config.sections import TrainConfig
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train as run
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.blocks import blocks_of_gradients, passed_as_asked
from vectoruniverse.training.packed_weights import can_pack

CPU = torch.device("cpu")
LORA = {"method": "lora", "rank": 2, "dropout": 0.3}
UPPER = {**LORA, "dropout": 0.0, "vision_layers_to_transform": [1], "text_layers_to_transform": [1]}
PLAIN, AGAIN, UNPACKED = TrainConfig(), TrainConfig(activation_checkpointing=True), TrainConfig(packed_weights=False)
needs_packing = pytest.mark.skipif(not can_pack(), reason="no oneDNN on this machine")


@pytest.fixture
def experiment(shapes, tmp_path):
    def make(model=save_clip, overrides=(), **sections):
        folder = tmp_path / model.__name__
        content = {
            "name": "shapes",
            "task": "image_text",
            "model": str(folder if folder.exists() else model(folder)),
            "data": {"root": str(shapes), "cache_dir": str(tmp_path / "cache"), "split": {"test_fraction": 0}},
            "adapter": LORA,
            "train": {"batch_size": 8, "precision": "fp32", "device": "cpu", "epochs": 2},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(content | sections), encoding="utf-8")
        return load_experiment(str(file), list(overrides))

    return make


@pytest.fixture
def prepared(experiment):
    def make(*args, **sections):
        made = experiment(*args, **sections)
        found = prepare(made, share(made, Display(quiet=True)))
        found.model.train()
        with torch.no_grad():
            for parameter in found.task.trained().values():  # B of LoRA starts at zero, and A's gradient with it
                parameter.copy_(torch.randn_like(parameter) * 0.1)
        return found

    return make


def step(prepared, train, rows=8):
    """Loss, gradients, and the bytes that the way back needs."""
    torch.manual_seed(5)
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trained = prepared.task.trained()
    with passed_as_asked(prepared.model, train, CPU):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = prepared.task.loss(np.arange(rows), epoch=1)
        gradients = torch.autograd.grad(loss.total, list(trained.values()), allow_unused=True)
    return loss.total.detach(), dict(zip(trained, gradients, strict=True)), sum(kept.values())


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        (save_clip, {}),
        (save_siglip, {"loss": {"name": "siglip", "temperature": 0.1}}),
        (save_clip, {"views": {"patch_dropout": 0.5, "text": {"word_dropout": 0.3}}}),
        (save_clip, {"views": {"pool": 3}, "adapter": UPPER}),
        (save_clip, {"adapter": {"method": "full"}}),
    ],
    ids=["dropout and two views", "siglip", "patches and words left out", "pool", "full"],
)
def test_activations_made_again_give_the_same_loss_and_gradient_bit_for_bit(prepared, model, sections):
    made = prepared(model, **sections)
    loss, wanted, _ = step(made, PLAIN)
    again, found, _ = step(made, AGAIN)
    assert torch.equal(again, loss)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (gradient is None) == (found[name] is None), name
        assert gradient is None or torch.equal(gradient, found[name]), name


def test_less_than_half_is_kept_for_the_way_back(prepared):
    made = prepared()
    assert step(made, AGAIN)[2] < 0.5 * step(made, PLAIN)[2]


def test_only_blocks_that_gradients_pass_are_touched_and_all_are_as_before_afterwards(prepared):
    made = prepared(adapter=UPPER)
    names = [name for name, module in made.model.named_modules() if module in blocks_of_gradients(made.model)]
    assert names == ["text_model.encoder.layers.1", "vision_model.encoder.layers.1"]
    with passed_as_asked(made.model, AGAIN, CPU):
        assert all("forward" in vars(block) for block in blocks_of_gradients(made.model))
    assert not any("forward" in vars(module) for module in made.model.modules())


def test_a_run_that_makes_activations_again_ends_where_another_does(experiment, tmp_path):
    def metrics(*overrides):
        made = experiment(overrides=["eval.report=false", *overrides])
        return run(made, runs_dir=tmp_path / "runs", display=Display(quiet=True)).comparison.adapted.metrics

    assert metrics() == metrics("train.activation_checkpointing=true")


@needs_packing
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"adapter": UPPER},
        {"adapter": {"method": "lora", "rank": 2, "dora": True}},
        {"adapter": {"method": "prefix"}},
    ],
    ids=["dropout", "upper blocks", "dora", "prefix"],
)
def test_packed_weights_give_the_same_loss_and_gradient(prepared, products, sections):
    made = prepared(**sections)
    loss, wanted, _ = step(made, UNPACKED)
    assert not products
    packed, found, _ = step(made, PLAIN)
    assert products
    torch.testing.assert_close(packed, loss, rtol=1e-6, atol=1e-6)
    for name, gradient in wanted.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_full_training_packs_nothing(prepared, products):
    step(prepared(adapter={"method": "full"}), PLAIN)
    assert not products


def test_while_weights_are_packed_the_names_and_shapes_of_what_is_saved_are_as_ever(prepared):
    made = prepared(adapter={**LORA, "dropout": 0.0})
    names = {name: value.shape for name, value in made.model.state_dict().items()}
    with passed_as_asked(made.model, PLAIN, CPU):
        made.task.loss(np.arange(4), epoch=0).total.backward()
        assert {name: value.shape for name, value in made.model.state_dict().items()} == names


TORCH_HIDES = pytest.mark.filterwarnings("default")  # its compiler causes warnings, and hides those that are no errors


@pytest.fixture
def compiled_fast(monkeypatch):
    """Traced as in training, which is what breaks or starts anew, but without the minutes of writing kernels."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@TORCH_HIDES
def test_compiled_blocks_give_the_same_and_no_step_compiles_anew_or_breaks_the_graph(prepared, compiled_fast):
    made = prepared(adapter={**LORA, "dropout": 0.0})
    compiled = TrainConfig(compile=True)
    loss, wanted, _ = step(made, PLAIN)
    found, gradients, _ = step(made, compiled)
    assert torch.allclose(found, loss, rtol=1e-5)
    for name, gradient in wanted.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-5), name
    graphs = compiled_fast["stats"]["unique_graphs"]
    assert graphs >= 2, "one of each tower at least"
    for rows in (7, 5, 8, 3):  # titles of other lengths, too
        step(made, compiled, rows)
    assert compiled_fast["stats"]["unique_graphs"] == graphs
    assert not compiled_fast["graph_break"]
    with passed_as_asked(made.model, compiled, CPU):
        made.task.evaluate()
    assert compiled_fast["stats"]["unique_graphs"] == graphs, "evaluation is not compiled"


@TORCH_HIDES
def test_both_go_together(prepared, compiled_fast):
    made = prepared(adapter=UPPER)
    _, wanted, whole = step(made, PLAIN)
    _, found, kept = step(made, TrainConfig(compile=True, activation_checkpointing=True))
    assert kept < 0.7 * whole and not compiled_fast["graph_break"]
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name


def test_without_a_compiler_the_key_and_the_remedy_are_named(prepared, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(ConfigError, match=r"train.compile: .*does not work here") as error:
        step(prepared(), TrainConfig(compile=True))
    assert "g++" in error.value.remedy and "train.compile to false" in error.value.remedy


@pytest.mark.parametrize("key", ["compile", "activation_checkpointing"])
def test_a_prefix_goes_with_neither(experiment, key):
    with pytest.raises(ConfigError, match=rf"train.{key}.*a prefix comes into the blocks by hooks"):
        experiment(overrides=[f"train.{key}=true"], adapter={"method": "prefix"})
