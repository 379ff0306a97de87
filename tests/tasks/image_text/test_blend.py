"""``eval.keep: blend``: the adapter scale that validation rows choose is what is saved, read and told."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch

from vectoruniverse.api import load_run
from vectoruniverse.errors import ConfigError, ResourceError
from vectoruniverse.experiment import resume, train
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.runs.records import BlendRecord
from vectoruniverse.tasks.base import Prepared
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.finished import evaluate_run
from vectoruniverse.tasks.image_text.prepared import PreparedImageText
from vectoruniverse.tasks.image_text.setup import prepare, share
from vectoruniverse.terminal import Display
from vectoruniverse.training.loop import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

YELLOW = {"include": {"Category": ["yellow"]}}
EVERY_WAY = {
    "lora": {"method": "lora", "rank": 2, "train_projections": True, "train_logit_scale": True},
    "rank-stabilized": {"method": "lora", "rank": 4, "rank_stabilized": True, "alpha": 6.0},
    "pissa": {"method": "lora", "rank": 2, "initialisation": "pissa"},
    "dora": {"method": "lora", "rank": 2, "dora": True},
    "full": {"method": "full"},
}


def quiet():
    return Display(quiet=True)


def vectors(task):
    found = task.embed(task.val)
    return torch.cat([found.image, found.text])


@pytest.mark.parametrize("scale", [0.0, 0.3])
@pytest.mark.parametrize("way", EVERY_WAY)
def test_what_is_saved_is_the_model_at_that_scale(way, scale, config, tmp_path):
    experiment = load_experiment(config(adapter=EVERY_WAY[way]))
    shared = share(experiment, quiet())
    prepared = prepare(experiment, shared)
    torch.manual_seed(1)
    for parameter in prepared.task.trained().values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    full = vectors(prepared.task)
    (adapter,) = prepared.adapters.values()
    adapter.set_scale(scale)
    between = vectors(prepared.task)
    adapter.set_scale(1.0)
    assert torch.equal(vectors(prepared.task), full) and not torch.allclose(between, full, atol=1e-3)
    prepared.blend(scale)
    assert torch.allclose(vectors(prepared.task), between, atol=1e-5)
    prepared.save(tmp_path / "adapter")
    prepared.release()
    again = prepare(experiment, shared, tmp_path / "adapter")
    assert torch.allclose(vectors(again.task), between, atol=1e-5)
    again.release()
    if way in ("rank-stabilized", "pissa", "dora"):
        encoder = load_dual_encoder(experiment.model, shared.compute)
        peft.PeftModel.from_pretrained(encoder.model, tmp_path / "adapter")  # in place
        theirs = encoder.embed_texts(shared.pairs["val"].tokens, batch_size=8)
        assert torch.allclose(theirs, between[len(theirs) :], atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_blend_is_chosen_evaluated_and_loaded_again_with_the_same_numbers(method, config, tmp_path, monkeypatch):
    asked = config(adapter={"method": method}, eval={"keep": "blend", "report": False}, forgetting=YELLOW)
    own = PreparedImageText.choose_scale

    def half(self, split):
        found = own(self, split)
        assert [point["scale"] for point in found.curve] == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert all({"new", "old"} < set(point) for point in found.curve)
        return found.model_copy(update={"scale": 0.5})

    monkeypatch.setattr(PreparedImageText, "choose_scale", half)
    monkeypatch.setattr(Trainer, "_is_best", lambda self, *found: True)
    outcome = train(load_experiment(asked), runs_dir=tmp_path / "runs", display=quiet())
    record = outcome.run.read_evaluation()
    assert record.blend.scale == record.forgetting.kept_scale == 0.5 and record.blend.split == "val"
    point = next(point for point in record.forgetting.curve if point.scale == 0.5)
    assert point.new.estimate == pytest.approx(record.adapted["recall@5"])
    _, again = evaluate_run(outcome.run.name, runs_dir=tmp_path / "runs", split="val", display=quiet())
    assert again.adapted.metrics == pytest.approx(record.adapted, abs=1e-5)
    for name, found in outcome.comparison.adapted.vectors.items():
        assert torch.allclose(again.adapted.vectors[name], found, atol=1e-5)
    titles = [f"a {colour} circle on the left" for colour in ("red", "blue")]
    loaded = load_run(outcome.run.path, device="cpu", precision="fp32")
    apart = np.linalg.norm(loaded.embed_texts(titles) - loaded.base.embed_texts(titles), axis=1)
    assert (apart > 1e-4).all()
    said = (outcome.run.path / "README.md").read_text(encoding="utf-8")
    assert "Kept is the adapter at scale 0.5, chosen on these very rows" in said


def test_a_run_cut_off_while_its_results_were_written_is_blended_once_when_it_goes_on(config, tmp_path, monkeypatch):
    experiment = load_experiment(config(eval={"keep": "blend", "report": False}))

    def quarter(self, split):
        return BlendRecord(scale=0.25, split=split, metric="recall@5", curve=[], rule="")

    def cut_off(*told):
        raise ResourceError("the disk is full")

    monkeypatch.setattr(PreparedImageText, "choose_scale", quarter)
    monkeypatch.setattr(Trainer, "_is_best", lambda self, *found: True)
    with monkeypatch.context() as broken:
        broken.setattr("vectoruniverse.experiment.write_results", cut_off)
        with pytest.raises(ResourceError):
            train(experiment, runs_dir=tmp_path / "runs", display=quiet())
    outcome = resume("latest", runs_dir=tmp_path / "runs", display=quiet())
    written = json.loads((outcome.run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["lora_alpha"] == 2 * 0.25
    again = evaluate_run("latest", runs_dir=tmp_path / "runs", split="val", display=quiet())[1]
    assert again.adapted.metrics == pytest.approx(dict(outcome.adapted), abs=1e-5)


def test_the_chosen_scale_is_the_best_of_the_curve(config, monkeypatch):
    experiment = load_experiment(config())
    prepared = prepare(experiment, share(experiment, quiet()))
    reached = iter([0.2, 0.5, 0.7, 0.7, 0.1])

    class Told:
        @property
        def metrics(self):
            return {"recall@5": next(reached)}

    monkeypatch.setattr(type(prepared.task), "evaluate", lambda self, split: Told())
    found = Prepared.choose_scale(prepared, "val")
    assert isinstance(found, BlendRecord) and found.scale == 0.75
    assert [point["new"] for point in found.curve] == [0.2, 0.5, 0.7, 0.7, 0.1]


def test_there_is_no_blend_with_a_prefix(config):
    with pytest.raises(ConfigError, match=r"eval\.keep: blend needs a way"):
        load_experiment(config(adapter={"method": "prefix"}, eval={"keep": "blend"}))
