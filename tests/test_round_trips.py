"""What a run saves is read again to the same numbers: every way of adapting, with whatever is trained beside it."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from itertools import product
from pathlib import Path

import peft
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import CLIPModel

from tests.models.models import save_clip
from tests.models.text_models import save_encoder
from vectoruniverse.config.loading import dump_experiment
from vectoruniverse.errors import ConfigError
from vectoruniverse.experiment import train
from vectoruniverse.planning import dry_run
from vectoruniverse.runs.base_record import BaseRecord
from vectoruniverse.runs.files import parse_record, read_record, record_text
from vectoruniverse.runs.records import Environment, EvaluationRecord, RunState
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.recorded_rows import RowRecord
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display
from vectoruniverse.training.checkpoint import Manifest, Pointers
from vectoruniverse.training.position import TrainerState

quiet = partial(Display, quiet=True)
BESIDE = {"train_projections": True, "train_logit_scale": True}
METHODS = {
    "lora": {"method": "lora", "rank": 2},
    "lora and more": {"method": "lora", "rank": 2, "dropout": 0.1, **BESIDE},
    "prefix": {"method": "prefix", "prefix_length": 3},
    "prefix and more": {"method": "prefix", "prefix_length": 3, "prefix_projection": 8, "dropout": 0.1, **BESIDE},
    "full": {"method": "full"},
    "full and more": {"method": "full", "train_logit_scale": True},
}
# peft 0.21 asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def trained(shapes, clip, tmp_path):
    """A run of the shapes with this adapter; it learns for so many epochs."""

    def run(adapter, epochs=2):
        base = {
            "name": "shapes",
            "task": "image_text",
            "model": str(clip),
            "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": adapter,
            "loss": {"name": "info_nce"},
            "train": {"epochs": epochs, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu"},
            "eval": {"report": False, "keep": "last"},
            "wandb": {"mode": "disabled"},
        }
        file = tmp_path / "shapes.yaml"
        file.write_text(yaml.safe_dump(base), encoding="utf-8")
        return train(load_experiment(file), runs_dir=tmp_path / "runs", display=quiet())

    return run


def evaluated_again(outcome):
    _, again = evaluate_run(outcome.run.name, runs_dir=outcome.run.path.parent, split="val", display=quiet())
    return dict(again.adapted.metrics)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_pictures_is_evaluated_again_to_the_same_numbers(method, trained):
    outcome = trained(METHODS[method])
    assert evaluated_again(outcome) == pytest.approx(dict(outcome.adapted), abs=1e-6)
    assert dict(outcome.adapted) != pytest.approx(dict(outcome.base), abs=1e-3), "something was learned"


@pytest.mark.parametrize("beside", [{}, BESIDE, {"train_logit_scale": True}], ids=["nothing", "both", "scale"])
def test_what_starts_from_an_adapter_is_that_adapter_and_is_saved_whole(beside, trained):
    first = trained({"method": "lora", "rank": 2, **beside})
    start = {"method": "lora", "init_from": str(first.run.adapter)}
    second = trained(start, epochs=0)
    assert second.adapted == pytest.approx(dict(first.adapted), abs=1e-6)
    assert evaluated_again(second) == pytest.approx(dict(second.adapted), abs=1e-6)
    kept = {file.name for file in first.run.adapter.glob("*.safetensors")}
    assert {file.name for file in second.run.adapter.glob("*.safetensors")} == kept
    third = trained(start | {"train_projections": True})
    assert evaluated_again(third) == pytest.approx(dict(third.adapted), abs=1e-6)


def test_modules_to_save_of_an_adapter_made_by_peft_are_saved_again(clip, trained, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["text_projection"], lora_dropout=0.1)
    theirs = peft.get_peft_model(CLIPModel.from_pretrained(clip), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    theirs.save_pretrained(tmp_path / "theirs")
    outcome = trained({"method": "lora", "init_from": str(tmp_path / "theirs")}, epochs=1)
    assert evaluated_again(outcome) == pytest.approx(dict(outcome.adapted), abs=1e-6)
    told = json.loads((outcome.run.adapter / "adapter_config.json").read_text())
    assert (told["modules_to_save"], told["lora_dropout"]) == (["text_projection"], 0.1)


def test_a_run_does_not_need_the_adapter_that_it_started_from(trained, tmp_path):
    first = trained({"method": "lora", "rank": 2})
    shutil.copytree(first.run.adapter, tmp_path / "moved")
    outcome = trained({"method": "lora", "init_from": str(tmp_path / "moved"), "lora_plus_ratio": 2.0})
    shutil.rmtree(tmp_path / "moved")
    assert evaluated_again(outcome) == pytest.approx(dict(outcome.adapted), abs=1e-6)
    written = load_experiment(outcome.run.config_file)
    assert dump_experiment(written) == outcome.run.config_file.read_text(encoding="utf-8")


def test_both_encoders_of_a_run_on_pairs_can_be_started_from(tmp_path):
    bert = save_encoder(tmp_path / "bert", "bert", max_position_embeddings=64)
    table = tmp_path / "pairs.csv"
    lines = [f"the {a} {b},a {b} on {a},{i % 2}" for i, (a, b) in enumerate(product("abcdef", ("red", "blue")))]
    table.write_text("\n".join(["first,second,same", *lines]), encoding="utf-8")

    def run(adapter, epochs):
        base = {
            "name": "pairs",
            "task": "pair_classification",
            "model": str(bert),
            "data": {"file": str(table), "label": "same", "split": {"val_fraction": 0.25, "test_fraction": 0}},
            "adapter": adapter,
            "train": {"epochs": epochs, "batch_size": 4, "lr": 0.01, "precision": "fp32", "device": "cpu"},
            "eval": {"report": False, "keep": "last"},
            "wandb": {"mode": "disabled"},
        }
        (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
        return train(load_experiment(tmp_path / "pairs.yaml"), runs_dir=tmp_path / "runs", display=quiet())

    first = run({"method": "lora", "rank": 2}, epochs=2)
    second = run({"method": "lora", "init_from": str(first.run.adapter)}, epochs=0)
    assert evaluated_again(second) == pytest.approx(dict(second.adapted), abs=1e-6)
    (*parts,) = first.run.adapter.glob("*/adapter_model.safetensors")
    assert len(parts) == 2
    for file in parts:
        again = load_file(second.run.adapter / file.parent.name / file.name)
        assert all(torch.equal(again[key], value) for key, value in load_file(file).items())


@pytest.mark.parametrize(
    ("adapter", "views", "told"),
    [
        ({"method": "lora", "rank": 2}, {}, ["TT+ draws nothing together: T+ is T"]),
        ({"method": "lora", "rank": 2, "dropout": 0.1}, {}, []),
        ({"method": "prefix", "prefix_length": 2, "dropout": 0.1}, {}, []),
        ({"method": "prefix", "prefix_length": 2}, {}, ["TT+ draws nothing together: T+ is T"]),
        (
            {"method": "lora", "rank": 2, "dropout": 0.1, "text_targets": []},
            {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "brightness": 0, "contrast": 0, "saturation": 0},
            ["II+ draws nothing together: I+ is I", "TT+ draws nothing together: T+ is T"],
        ),
    ],
)
def test_a_pair_of_a_view_with_itself_is_told_before_training(adapter, views, told, shapes, clip, tmp_path):
    base = {"name": "a", "task": "image_text", "model": str(clip), "data": {"root": str(shapes)}, "views": views}
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(base | {"adapter": adapter, "train": {"device": "cpu", "precision": "fp32"}}))
    experiment = load_experiment(file)
    prepared = setup(experiment).prepare(experiment, setup(experiment).share(experiment, quiet()))
    assert [remark.partition(", since")[0] for remark in prepared.remarks()] == told
    assert all(remark in prepared.facts()["loss"] for remark in prepared.remarks())
    console = Console(file=io.StringIO(), width=200)
    dry_run(experiment, Display(console))
    assert all(remark in console.file.getvalue() for remark in prepared.remarks())


def test_what_an_adapter_to_start_from_decides_is_refused_beside_it(tmp_path):
    for key, value in {"dropout": 0.1, "text_targets": ["q_proj"], "rank": 4}.items():
        file = tmp_path / "a.yaml"
        adapter = {"init_from": "somewhere", key: value}
        file.write_text(yaml.safe_dump({"name": "a", "task": "image_text", "model": "m", "adapter": adapter}))
        with pytest.raises(ConfigError, match=f"init_from brings its own {key}; remove it"):
            load_experiment(file)


RECORDS = {
    "base.json": BaseRecord,
    "environment.json": Environment,
    "evaluation.json": EvaluationRecord,
    "manifest.json": Manifest,
    "pointers.json": Pointers,
    "rows.json": RowRecord,
    "state.json": RunState,
}


def test_every_json_file_of_a_run_is_read_by_the_class_that_wrote_it_and_written_again_alike(trained):
    run = trained(METHODS["lora"]).run
    files = [file for file in run.path.rglob("*.json") if not file.is_relative_to(run.adapter)]
    assert {file.name for file in files} == RECORDS.keys()
    for file in files:
        is_trainer = file.name == "state.json" and file.is_relative_to(run.checkpoints)
        kind = TrainerState if is_trainer else RECORDS[file.name]
        record = read_record(file, kind)
        assert record.model_extra in (None, {}), "nothing is in it that the class does not know"
        assert json.loads(record_text(record)) == json.loads(file.read_text(encoding="utf-8"))
        assert parse_record(record_text(record).encode(), kind, file=file) == record


def test_records_of_an_earlier_version_open_under_the_names_that_they_have_now():
    told = {"split": "val", "judged": "training", "judges_space": False, "rows": 8, "data": "", "monitor": "recall@1"}
    found = parse_record(
        json.dumps({**told, "best_epoch": 1, "adapted": {}}).encode(), EvaluationRecord, file=Path("evaluation.json")
    )
    assert (found.evaluated_on, found.has_space) == ("training", False)
    assert not {"judged", "judges_space"} & json.loads(record_text(found)).keys()
    state = {"position": {"judged": 3}, "optimizer": {}, "scaler": {}}
    assert TrainerState.model_validate(state).position.evaluated == 3
