"""Whole runs on a base whose weights are kept in 8 or 4 bits: trained, evaluated again, gone on with, exported."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
import yaml

from tests.export.runs import train_shapes
from tests.models.text_models import save_encoder
from vectoruniverse.api import load_run
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import resume, train
from vectoruniverse.export.exporter import export_run
from vectoruniverse.models.quantized import QuantizedLinear
from vectoruniverse.runs.folder import Run
from vectoruniverse.tasks.experiments import load_config_of, load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.terminal import Display
from vectoruniverse.training.interruption import InterruptedTraining
from vectoruniverse.training.observer import RunObserver

LORA = {"method": "lora", "rank": 2, "dropout": 0.1, "vision_targets": ["q_proj", "fc1"], "text_targets": ["v_proj"]}


def quiet():
    return Display(quiet=True)


def evaluated_again(path: Path):
    return evaluate_run(path.name, runs_dir=path.parent, split="val", display=quiet())[1]


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    return Run(train_shapes(tmp_path_factory.mktemp("nf4"), shapes, adapter=LORA, quantization="nf4"))


@pytest.mark.parametrize("adapter", [{"method": "prefix", "prefix_length": 3}, {**LORA, "dora": True}])
def test_prefixes_and_dora_are_trained_on_it_and_evaluated_again_to_the_same_numbers(adapter, shapes, tmp_path):
    path = train_shapes(tmp_path, shapes, adapter=adapter, quantization="int8")
    told, again = Run(path).read_evaluation(), evaluated_again(path)
    assert dict(again.adapted.metrics) == pytest.approx(dict(told.adapted), abs=1e-6)
    assert dict(again.base.metrics) == pytest.approx(dict(told.base), abs=1e-6)
    assert dict(told.adapted) != pytest.approx(dict(told.base), abs=1e-3), "something was learned"


def test_its_base_is_the_quantised_one_wherever_the_run_is_read(run):
    again, told = evaluated_again(run.path), run.read_evaluation()
    assert dict(again.adapted.metrics) == pytest.approx(dict(told.adapted), abs=1e-6)
    assert dict(again.base.metrics) == pytest.approx(dict(told.base), abs=1e-6)
    loaded = load_run(run.path, device="cpu", precision="fp32")
    assert any(isinstance(module, QuantizedLinear) for module in loaded.encoder.model.modules())
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert ", its blocks in nf4" in card and "load_run" in card, "peft would put the adapter on plain weights"
    plain = load_config_of(run, ["quantization=null"])
    assert sharing_key(plain) != sharing_key(load_config_of(run)), "another base, so no evaluation is shared"


def test_an_export_is_merged_into_what_was_trained_on(run, tmp_path):
    exported = export_run(str(run.path), "transformers", out=tmp_path / "out")
    assert max(exported.agreement.image, exported.agreement.text) <= 1e-5
    assert "its blocks in nf4" in (exported.folder / "README.md").read_text(encoding="utf-8")


def test_an_adapter_is_not_exported_for_a_base_that_gives_other_vectors(run, tmp_path):
    with pytest.raises(ConfigError, match="was trained on weights in nf4") as told:
        export_run(str(run.path), "peft", out=tmp_path / "out")
    assert "--to transformers" in told.value.remedy and not (tmp_path / "out").exists()


@pytest.fixture
def texts(tmp_path):
    bert = save_encoder(tmp_path / "bert", "bert", max_position_embeddings=64)
    file = tmp_path / "texts.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = itertools.product(("red", "green", "blue"), ("circle", "square"), ("left", "right"), ("one", "two", "a"))
        lines = [(f"{n} {c} {s} on the {p}", f"{p} {s} {c} {n}", c, i % 2) for i, (c, s, p, n) in enumerate(rows)]
        csv.writer(stream).writerows([("first", "second", "colour", "same"), *lines])

    def experiment(task, columns):
        base = {
            "name": task,
            "task": task,
            "model": str(bert),
            "quantization": "nf4",
            "data": {"file": str(file), "split": {"val_fraction": 0.25, "test_fraction": 0}, **columns},
            "adapter": {"method": "lora", "rank": 2},
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.01, "precision": "fp32", "device": "cpu"},
            "eval": {"keep": "last", "report": False},
            "wandb": {"mode": "disabled"},
        }
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
        return load_experiment(tmp_path / "a.yaml")

    return experiment


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("text_pairs", {}),
        ("sequence_classification", {"text": "first", "label": "colour"}),
        ("pair_classification", {"label": "same"}),
    ],
)
def test_runs_on_texts_too(task, columns, texts, tmp_path):
    outcome = train(texts(task, columns), runs_dir=tmp_path / "runs", display=quiet())
    again = evaluated_again(outcome.run.path)
    assert dict(again.adapted.metrics) == pytest.approx(dict(outcome.adapted), abs=1e-6)
    assert dict(outcome.adapted) != pytest.approx(dict(outcome.base), abs=1e-4), "something was learned"


def test_a_run_that_was_cut_short_goes_on_to_the_same_adapter(texts, tmp_path, monkeypatch):
    whole = train(texts("text_pairs", {}), runs_dir=tmp_path / "whole", display=quiet())
    with monkeypatch.context() as patched:
        steps = itertools.count(1)
        patched.setattr(RunObserver, "interrupted", lambda observer: next(steps) >= 3)
        with pytest.raises(InterruptedTraining):
            train(texts("text_pairs", {}), runs_dir=tmp_path / "parts", display=quiet())
    outcome = resume("latest", runs_dir=tmp_path / "parts", display=quiet())
    (expected,), (found,) = (one.run.adapter.rglob("adapter_model.safetensors") for one in (whole, outcome))
    assert expected.read_bytes() == found.read_bytes()
