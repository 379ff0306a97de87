"""A frozen base in shards (FSDP2) over gloo: what each process holds, and that no number is another."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.distributed.tensor import DTensor

from tests import test_processes as several
from tests.models.models import WORDS, save_siglip
from vectoruniverse.adapters.apply import TowerTargets, attention_targets, inject_lora
from vectoruniverse.adapters.svd import intruders
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.models.scratch import build_clip
from vectoruniverse.models.shards import help_first, helped, whole
from vectoruniverse.models.sizes import ScratchClip
from vectoruniverse.processes import apart, rank
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.training.micro_batches import in_micro_batches

clip, config, texts = several.clip, several.config, several.texts
TEXTS = ["a red circle", "blue square", "two", "on the left"]


class Held:
    """Most numbers of base weights that a model held at once, as of the times that it was looked at."""

    def __init__(self, model, lora):
        self.model, self.most = model, 0
        self.trained = {id(one) for one in lora}
        for path, module in model.named_modules():
            if path.endswith("mlp"):  # one of each block, which is whole then
                module.register_forward_hook(lambda *_: self.look())
        for one in lora[::3]:
            one.register_hook(lambda _: self.look())

    def look(self):
        base = (one for one in self.model.parameters() if id(one) not in self.trained)
        self.most = max(self.most, sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in base))


def passed(folder, sharded, micro_batch):
    """Vectors, gradients, new directions, and what is held: of rows that processes do not share evenly."""
    encoder = load_dual_encoder(folder, Compute(torch.device("cpu"), torch.float32, sharded=sharded))
    model = encoder.model
    resting = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in model.parameters())
    own = attention_targets(model)
    lora = inject_lora(model, [TowerTargets(tower, own[tower], "") for tower in own], rank=2, alpha=2.0)
    for seed, layer in enumerate(lora.layers.values()):
        torch.nn.init.normal_(layer.lora_B, std=0.5, generator=torch.Generator().manual_seed(seed))
    held = Held(model, lora.parameters())
    generator, tokens = torch.Generator().manual_seed(rank()), encoder.tokenize(TEXTS)
    pixels = torch.randn(7, 3, 32, 32, generator=generator)
    images = in_micro_batches(lambda some: [encoder.encode_images(pixels[some])] * 2, np.arange(7), micro_batch)
    read = in_micro_batches(
        lambda some: [encoder.encode_texts(encoder.pad(tokens, some % 4))], np.arange(7), micro_batch
    )
    (images[0] @ read[0].T).exp().sum().backward()
    gradients = [one.grad for one in lora.parameters()]
    embedded = encoder.embed_texts(encoder.tokenize(TEXTS * 2 + TEXTS[:1]), batch_size=2)
    return (
        [images[0].detach(), embedded, *gradients],
        sum(map(len, intruders(lora).values())),
        resting,
        held.most,
        model,
    )


def compared(cases):
    """Of each model: largest difference, new directions of both, and the shares that are held at rest and at most."""
    found = []
    for folder, micro_batch in cases:
        base, new, whole_size, *_ = passed(folder, False, micro_batch)
        ours, also_new, resting, most, model = passed(folder, True, micro_batch)
        apart_by = max(float((one - other).abs().max()) for one, other in zip(ours, base, strict=True))
        largest = max(sum(p.numel() for p in part.parameters()) for part in (model.vision_model, model.text_model))
        found.append((apart_by, new, also_new, resting / whole_size, (most - resting) / largest))
    return found


def test_a_process_holds_its_part_and_few_units_whole_and_every_number_is_that_of_a_whole_base(tmp_path):
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "heads": 2, "projection_dim": 16, "vocab_size": 560}
    deep = ScratchClip(scratch="clip", vision_layers=5, text_layers=5, max_text_tokens=16, **sizes)
    build_clip(WORDS, deep, Compute(torch.device("cpu"), torch.float32), seed=0).save(tmp_path / "deep")
    cases = [(str(tmp_path / "deep"), None), (str(tmp_path / "deep"), 2), (str(save_siglip(tmp_path / "siglip")), 1)]
    for shares in several.on(2, compared, cases):
        for (difference, new, also_new, resting, most), blocks in zip(shares, (3, 3, 6), strict=True):
            assert difference == 0.0 and new == also_new
            assert 0.45 < resting < 0.6, "projections and scalars stay whole"
            assert most <= blocks / 10, "of a tower, of which half is held at rest, few of its blocks are whole at once"


def alone(folder):
    """What the first process gets while it works alone, whether it ends well or not; the others help it."""
    encoder = load_dual_encoder(folder, Compute(torch.device("cpu"), torch.float32, sharded=True))
    layer = encoder.model.text_model.encoder.layers[1].mlp.fc1
    for _ in range(2):
        if rank() > 0:
            help_first(encoder.model)
            continue
        with contextlib.suppress(ZeroDivisionError), apart(), helped(encoder.model):
            found = encoder.embed_texts(encoder.tokenize(TEXTS), batch_size=3)
            with whole(encoder.model, layer):
                weight = layer.weight.detach().clone()
            raise ZeroDivisionError
    return (found.tolist(), weight.tolist()) if rank() == 0 else None


def test_the_first_process_passes_the_model_alone_and_its_failure_frees_the_others(clip):
    (found, weight), *others = several.on(2, alone, str(clip))
    plain = load_dual_encoder(str(clip), Compute(torch.device("cpu"), torch.float32))
    assert found == plain.embed_texts(plain.tokenize(TEXTS), batch_size=3).tolist() and others == [None]
    assert weight == plain.model.text_model.encoder.layers[1].mlp.fc1.weight.tolist()


EVERYTHING = {
    "loss": {"name": "info_nce", "negatives": {"labels": "positive"}, "label_kl": {"weight": 0.1}},
    "views": {"count": 2},
    "data": {"include": {"Category": ["circle", "square"]}, "split": {"val_fraction": 0.25, "test_fraction": 0.2}},
    "forgetting": {"exclude": {"Category": ["circle", "square"]}},
    "eval": {"keep": "blend", "batch_size": 2, "report": False},
}
"""Of what passes the model: labels, old rows of which a process has none, blends, test rows, linear probes."""


def sharded(train, **more):
    return {
        "epochs": 2,
        "batch_size": 9,
        "lr": 0.01,
        "precision": "fp32",
        "device": "cpu",
        "log_every": 1,
        "packed_weights": False,
        **train,
        **more,
    }


@pytest.mark.parametrize(
    ("count", "more"),
    [
        (2, {"preserve": {"rows": 1}, "micro_batch": 2}),
        pytest.param(4, {"activation_checkpointing": True, "hard_negatives": {"share": 0.5}}, marks=pytest.mark.slow),
    ],
)
def test_a_training_of_a_base_in_shards_is_that_of_a_whole_one(count, more, config, tmp_path, monkeypatch):
    for name in ("shards", "whole"):
        file = config(**EVERYTHING, train=sharded(more, epochs=1, shard_base=name == "shards"))
        first, *others = several.train(count, file, tmp_path / name, monkeypatch)
        assert not any(one.out.read_text() + one.err.read_text() for one in others)
        assert "shard_base" not in first.err.read_text()
    several.assert_same_run(several.curve(tmp_path / "shards"), several.curve(tmp_path / "whole"), tolerance=1e-6)
    (run, found), (other, expected) = several.curve(tmp_path / "shards"), several.curve(tmp_path / "whole")
    assert found == expected and run.read_evaluation().adapted == other.read_evaluation().adapted


def changed(file, change):
    """An experiment file with other settings."""
    settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    change(settings)
    Path(file).write_text(yaml.safe_dump(settings), encoding="utf-8")


@pytest.mark.parametrize("task", ["text_pairs", pytest.param("sequence_classification", marks=pytest.mark.slow)])
def test_text_encoders_in_shards_train_as_whole_ones(task, texts, tmp_path, monkeypatch):
    file = texts(task)
    changed(file, lambda settings: settings["train"].update(packed_weights=False))
    several.train(2, file, tmp_path / "whole", monkeypatch)
    changed(file, lambda settings: settings["train"].update(shard_base=True))
    several.train(2, file, tmp_path / "shards", monkeypatch)
    several.assert_same_run(several.curve(tmp_path / "shards"), several.curve(tmp_path / "whole"), tolerance=1e-6)


def test_a_killed_process_is_told_and_others_go_on_with_a_whole_base(config, tmp_path, monkeypatch):
    few, runs = {"epochs": 6, "lr": 0.003}, tmp_path / "two"
    children = several.begun(2, config(train=sharded(few, shard_base=True)), runs, monkeypatch)
    for _ in range(2400):
        if any(text.read_text().count('"epoch"') >= 2 for text in runs.glob("*/metrics.jsonl")):
            break
        time.sleep(0.025)
    children[1].send_signal(signal.SIGKILL)
    assert [child.wait(60) for child in children] == [5, -signal.SIGKILL]
    assert "another process of this run has ended" in children[0].err.read_text()
    several.train(2, config(train=sharded(few)), runs, monkeypatch)
    assert len(list_runs(runs)) == 1, "a base in shards makes no other run"
    (alone,) = several.train(1, config(train=sharded(few, shard_base=True)), tmp_path / "one", monkeypatch)
    assert "holds the whole base" in alone.err.read_text()
    several.assert_same_run(several.curve(runs), several.curve(tmp_path / "one"), tolerance=2e-3)


@pytest.mark.parametrize(
    "sections",
    [
        {"adapter": {"method": "full"}},
        {"adapter": {"dora": True}},
        {"adapter": {"initialisation": "pissa"}},
        {"views": {"pool": 2}},
        {"train": {"shard_base": True, "compile": True}},
        {"quantization": "int8"},
        {"task": "masked_lm", "data": {"source": "texts.txt"}, "adapter": {"method": "lora"}},
    ],
)
def test_what_needs_whole_weights_is_refused_by_name(sections, config):
    file = config(train=sharded({}, shard_base=True))
    changed(file, lambda settings: (settings.update(sections), settings.pop("eval")))
    with pytest.raises(ConfigError, match=r"train\.shard_base"):
        load_experiment(file)
