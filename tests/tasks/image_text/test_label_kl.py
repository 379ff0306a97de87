"""``loss.label_kl``: rows are brought to the texts of their labels by a fusion that is trained and kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.experiment import train
from vectoruniverse.export.exporter import export_run
from vectoruniverse.losses.label_kl import label_kl
from vectoruniverse.models.fusion import FUSIONS
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.image_text.prepared import build_task
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.training.checkpoint import latest

INFO_NCE = {"name": "info_nce", "temperature": 0.1}


def quiet():
    return Display(quiet=True)


def with_labels(**settings):
    return {"loss": INFO_NCE | {"label_kl": settings}}


def fusion_of(run):
    return load_file(run.adapter / "fusion.safetensors")


def equal(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_trained_fusion_is_saved_and_read_again_to_the_last_bit(name, config, tmp_path):
    experiment = load_experiment(config(**with_labels(fusion=name)))
    outcome = train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    checkpoint = latest(outcome.run.checkpoints, "best", print)
    kept = {n.removeprefix("fusion."): t for n, t in checkpoint.tensors["model"].items() if n.startswith("fusion.")}
    assert equal(fusion_of(outcome.run), kept)
    shared = share(experiment, quiet())
    assert not equal(dict(prepare(experiment, shared).fusion.named_parameters()), kept), "it was trained"
    again = prepare(experiment, share(experiment, quiet()), outcome.run.adapter)
    assert equal(dict(again.fusion.named_parameters()), kept)
    _, found = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert dict(found.adapted.metrics) == pytest.approx(dict(outcome.adapted), abs=1e-6)
    assert "label_kl" in again.facts()["loss"]


@pytest.mark.parametrize("name", FUSIONS)
def test_an_interrupted_run_ends_with_the_very_same_fusion(name, config, tmp_path, cut_and_resumed):
    experiment = load_experiment(config(**with_labels(fusion=name)))
    whole, resumed = train(experiment, runs_dir=tmp_path / "whole", display=quiet()), cut_and_resumed(experiment)
    assert equal(fusion_of(resumed.run), fusion_of(whole.run))
    assert resumed.adapted == whole.adapted


@pytest.mark.parametrize("method", ["prefix", "full"])
def test_beside_every_way_of_adapting(method, config, tmp_path):
    experiment = load_experiment(config(adapter={"method": method}, **with_labels(fusion="gated_sum")))
    outcome = train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    again = prepare(experiment, share(experiment, quiet()), outcome.run.adapter)
    assert equal(dict(again.fusion.named_parameters()), fusion_of(outcome.run))
    _, found = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert dict(found.adapted.metrics) == pytest.approx(dict(outcome.adapted), abs=1e-6)


def test_exports_hold_no_fusion(config, tmp_path):
    outcome = train(load_experiment(config(**with_labels())), runs_dir=tmp_path / "runs", display=quiet())
    for form in ("peft", "transformers"):
        exported = export_run(str(outcome.run.path), form)
        assert exported.files and "fusion.safetensors" not in exported.files
        assert "info_nce + 1 x label_kl" in (exported.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("limit", [64, 2])
def test_it_is_added_to_the_loss_over_all_labels_or_those_of_the_batch(limit, config):
    plain = load_experiment(config(loss=INFO_NCE))
    settings = {"weight": 2.0, "template": "a {label} shape", "max_labels": limit}
    experiment = load_experiment(config(**with_labels(**settings)))
    shared = share(experiment, quiet())
    prepared = prepare(experiment, shared)
    task, encoder, rows = prepared.task, shared.encoder, np.array([0, 3, 7])
    held = [shared.data.rows[i].labels for i in shared.data.split.train]
    every = sorted({label for labels in held for label in labels})
    names = every if limit == 64 else sorted({label for row in rows for label in held[row]})
    assert (len(names) < len(every)) == (limit == 2)
    with torch.no_grad():
        vectors = torch.cat(
            [encoder.encode_texts(encoder.pad(encoder.tokenize([f"a {name} shape"]), [0])) for name in names]
        )
        images, texts = task._pictures.encode(rows, 0), task._texts.encode(rows, 0)
        fused = torch.stack([prepared.fusion(images[view], texts[0]) for view in range(2)])
        has = torch.tensor([[name in held[row] for name in names] for row in rows])
        expected = label_kl(
            fused, vectors, has, weight=2.0, kernel="dot", bandwidth=None, temperature=0.05, direction="forward",
            smoothing=0.0,
        )  # fmt: skip
        contrast = build_task(plain, encoder, shared.pairs).loss(rows, 0)
        found = task.loss(rows, 0)
    assert float(found.total) == pytest.approx(float(contrast.total + expected.total), rel=1e-5)
    assert float(found.parts["label_kl"]) == pytest.approx(float(expected.parts["label_kl"]), rel=1e-4)
    assert found.chance == pytest.approx(contrast.chance + expected.chance, rel=1e-5)
    assert found.parts.keys() == {*contrast.parts, "label_kl"}


def test_alone_it_is_the_whole_loss_is_logged_by_name_and_falls(config, tmp_path):
    experiment = load_experiment(config(loss={"name": "none"}), ["loss.label_kl.temperature=0.2", "train.epochs=6"])
    outcome = train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    steps = [line for line in read_metrics(outcome.run.metrics_file) if "train/loss" in line]
    assert all(line["train/loss"] == pytest.approx(line["train/loss/label_kl"]) for line in steps)
    assert np.mean([line["train/loss"] for line in steps[-3:]]) < 0.7 * steps[0]["train/loss"]


def test_gradients_reach_both_towers_the_labels_and_the_fusion(config):
    experiment = load_experiment(config(loss={"name": "none"}, adapter={"method": "full"}))
    task = prepare(experiment, share(experiment, quiet())).task
    task.loss(np.arange(6), 0).total.backward()
    for part in ("vision_model.", "text_model.", "fusion.out."):
        assert any(p.grad is not None and p.grad.any() for name, p in task.trained().items() if name.startswith(part))


def test_a_batch_without_any_label_says_nothing(config, described):
    data = described(lambda i, row: row | {"Category": row["Category"] if i % 2 else ""})
    experiment = load_experiment(config(data=data, loss={"name": "none", "label_kl": {"max_labels": 2}}))
    shared = share(experiment, quiet())
    task = prepare(experiment, shared).task
    bare = [at for at, i in enumerate(shared.data.split.train) if not shared.data.rows[i].labels]
    loss = task.loss(np.array(bare[:3]), 0).total
    loss.backward()
    assert loss.item() == 0.0
    assert not any(p.grad.any() for p in task.trained().values() if p.grad is not None)


def test_without_a_label_column_it_is_refused(config, described):
    data = described(lambda i, row: row, dropped="Category")
    experiment = load_experiment(config(data=data, **with_labels()))
    with pytest.raises(ConfigError, match="the training rows have no labels") as caught:
        prepare(experiment, share(experiment, quiet()))
    assert caught.value.key == "loss.label_kl" and "data.columns.labels" in caught.value.remedy


@pytest.mark.parametrize(
    ("cell", "says"), [("", "have no labels"), ("a,b", "all have the same"), ("one", "all have the same")]
)
def test_labels_that_tell_no_row_from_another_are_refused(config, described, cell, says):
    experiment = load_experiment(config(data=described(lambda i, row: row | {"Category": cell}), **with_labels()))
    with pytest.raises(ConfigError, match=says):
        prepare(experiment, share(experiment, quiet()))


def test_a_single_label_that_some_rows_have_is_refused(config, described):
    data = described(lambda i, row: row | {"Category": "one" if i % 2 else ""})
    experiment = load_experiment(config(data=data, **with_labels()))
    with pytest.raises(ConfigError, match="no two labels tell training rows apart"):
        prepare(experiment, share(experiment, quiet()))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["loss.label_kl.direction=reverse"], "infinite where q is 0; give reverse a smoothing"),
        (["loss.label_kl.bandwidth=2"], "kernel dot has none; remove it"),
        (["loss.label_kl.template=a shape"], r"loss\.label_kl\.template: does not contain \{label\}"),
        (["loss.label_kl.smoothing=1.0"], "must be less than 1"),
        (["loss.label_kl.fusion=sum"], "must be 'concat_mlp', 'gated_sum' or 'cross_attention', got 'sum'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_is_read(config, overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_experiment(config(), overrides)


def test_pairs_of_texts_have_no_labels():
    with pytest.raises(ConfigError, match=r"loss\.label_kl: pairs of texts have no labels; remove it"):
        load_experiment("text_pairs_lora.yaml", ["loss.label_kl={}"])
    with pytest.raises(ConfigError, match=r"must be one of .*siglip'?, got 'none'"):
        load_experiment("text_pairs_lora.yaml", ["loss.name=none"])


def test_a_fusion_that_is_missing_damaged_or_another_is_told(config, tmp_path):
    experiment = load_experiment(config(**with_labels()))
    outcome = train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    file = outcome.run.adapter / "fusion.safetensors"
    other = load_experiment(config(**with_labels(fusion="gated_sum")))
    for asked, content in ((other, file.read_bytes()), (experiment, file.read_bytes()[:-4]), (experiment, None)):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(DataError, match=r"adapter/fusion\.safetensors: "):
            prepare(asked, share(asked, quiet()), outcome.run.adapter)


def test_texts_that_hold_the_labels_are_remarked_on(config):
    for text, told in (("{title}", False), ("{title}: {labels}", True)):
        experiment = load_experiment(config(**with_labels()), [f'data.text="{text}"'])
        remarks = prepare(experiment, share(experiment, quiet())).remarks()
        assert any("label_kl finds the labels in the texts themselves" in remark for remark in remarks) == told
