"""What training promises, on every device: here on the CPU, and with ``pytest -m cuda`` on a machine that has a GPU."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml

from tests.models.models import save_clip
from vectoruniverse.experiment import resume, train
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.build import build_schedule
from vectoruniverse.training.device import formats_of, peak_memory
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.observer import Observer, RunObserver
from vectoruniverse.training.optim import adamw, parameter_groups

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
ROWS = np.arange(12)


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> str:
    return request.param


@pytest.fixture
def experiment(shapes, tmp_path, device):
    """An experiment over the shapes on the device."""

    def make(*overrides: str):
        content = {
            "name": "shapes",
            "task": "image_text",
            "model": str(tmp_path / "clip" if (tmp_path / "clip").exists() else save_clip(tmp_path / "clip")),
            "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": {"method": "lora", "rank": 2, "dropout": 0.1},
            "train": {
                "epochs": 3,
                "batch_size": 12,
                "lr": 0.003,
                "precision": "fp32",
                "device": device,
                "log_every": 1,
            },
            "eval": {"report": False},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return load_experiment(str(file), list(overrides))

    return make


@pytest.fixture
def run(tmp_path):
    """Train an experiment to its end, in a folder of its own."""

    def made(experiment, folder: str = "runs"):
        return train(experiment, runs_dir=tmp_path / folder, display=Display(quiet=True))

    return made


def losses(outcome) -> list[float]:
    return [line["train/loss"] for line in read_metrics(outcome.run.metrics_file) if "train/loss" in line]


def loop(experiment) -> Trainer:
    """The loop over an experiment's task, as a run puts it together."""
    prepared = prepare(experiment, share(experiment, Display(quiet=True)))
    task, kind = prepared.task, prepared.compute.device.type
    prepared.model.train()
    groups = parameter_groups(task.trained().items(), task.modules(), experiment.train.weight_decay)
    return Trainer(
        task,
        adamw(groups, fused=kind == "cuda"),
        build_schedule(experiment.train, 100),
        experiment,
        Observer(print),
        scaler=torch.amp.GradScaler(kind, enabled=prepared.compute.needs_scaler),
    )


def gradients(experiment) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch, with every factor of LoRA different from zero."""
    task = loop(experiment).task
    trained, generator = task.trained(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    torch.manual_seed(5)
    loss = task.loss(ROWS, 0).total
    found = torch.autograd.grad(loss, list(trained.values()))
    return loss.item(), {name: one.cpu() for name, one in zip(trained, found, strict=True)}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_format_trains(experiment, run, device, precision):
    """fp16 with the scaler, as on a V100, which has no bf16."""
    if device == "cuda" and precision not in formats_of(torch.device(device)):
        pytest.skip(f"this GPU only emulates {precision}")
    outcome = run(experiment(f"train.precision={precision}", "train.epochs=4"))
    told = losses(outcome)
    assert all(map(math.isfinite, told)) and np.mean(told[-2:]) < np.mean(told[:2])
    assert peak_memory(torch.device(device)) > 0


@pytest.mark.parametrize("cut", [1, 4])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(experiment, run, tmp_path, monkeypatch, cut):
    whole = run(experiment(), "whole")
    asked = iter([False] * (cut - 1) + [True])
    with monkeypatch.context() as patch:
        patch.setattr(RunObserver, "interrupted", lambda _: next(asked))
        with pytest.raises(InterruptedTraining):
            run(experiment(), "cut")
    resumed = resume("latest", runs_dir=tmp_path / "cut", display=Display(quiet=True))
    assert resumed.adapted == whole.adapted
    assert losses(resumed) == losses(whole)
    one, other = (next(each.run.adapter.rglob("*.safetensors")).read_bytes() for each in (whole, resumed))
    assert one == other


@pytest.mark.parametrize(
    "asked", ["train.micro_batch=5", "train.activation_checkpointing=true"], ids=["micro-batches", "checkpointing"]
)
def test_what_saves_memory_gives_the_same_gradient(experiment, asked):
    loss, wanted = gradients(experiment("adapter.dropout=0"))
    again, found = gradients(experiment("adapter.dropout=0", asked))
    assert again == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_fused_attention_gives_the_vectors_of_the_plain_one(tmp_path, device):
    folder = str(save_clip(tmp_path / "clip"))
    pixels, texts = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a red circle", "blue", ""]
    found = []
    for attention in ("sdpa", "eager"):
        encoder = load_dual_encoder(folder, Compute(torch.device(device), torch.float32, attention))
        assert encoder.model.config._attn_implementation == attention
        with encoder.evaluating():
            tokens = encoder.tokenize(texts)
            found.append(
                (encoder.encode_images(pixels.to(device)), encoder.encode_texts(encoder.pad(tokens, range(3))))
            )
    for one, other in pairwise(found):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), CUDA], indirect=True)
@pytest.mark.filterwarnings("default")  # torch's compiler causes warnings, and hides those that are no errors
def test_compiled_blocks_train_as_others_do(experiment, run):
    asked = ("adapter.dropout=0", "train.epochs=4")
    plain, compiled = run(experiment(*asked)), run(experiment(*asked, "train.compile=true"))
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_a_gpu_computes_the_same(experiment):
    loss, found = gradients(experiment("adapter.dropout=0"))
    wanted_loss, wanted = gradients(experiment("adapter.dropout=0", "train.device=cpu"))
    assert loss == pytest.approx(wanted_loss, rel=1e-2)  # convolutions are in TF32 by PyTorch's default
    for name, gradient in wanted.items():
        assert torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.99, name


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("asked", ["train.precision=fp32", "train.precision=fp16", "train.micro_batch=5"])
def test_between_told_steps_no_update_waits_for_the_gpu(experiment, asked):
    trainer = loop(experiment(asked))
    assert trainer.optimizer.defaults["fused"]
    for _ in range(2):  # what is made once may wait
        trainer.train_step(ROWS, 0)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for epoch in (0, 1):
            trainer.train_step(ROWS, epoch, read=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(trainer.train_step(ROWS, 1)["loss"])
