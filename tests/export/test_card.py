"""What an export's README tells a person and the hub."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from tests.export.runs import train_shapes
from vectoruniverse.api import load_run
from vectoruniverse.export.card import hub_name, write_card
from vectoruniverse.export.check import Agreement
from vectoruniverse.export.exporter import export_run
from vectoruniverse.export.formats import FORMATS
from vectoruniverse.metrics.catalogue import signed

AGREEMENT = Agreement(1e-7, 2e-7, 1e-5, "peft 1.0", "8 rows of the run's data")


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    return train_shapes(tmp_path_factory.mktemp("card"), shapes, "tiny-clip")


@pytest.fixture
def loaded(run):
    return load_run(run, device="cpu", precision="fp32")


def test_the_card_tells_data_metrics_and_check(run, tmp_path):
    exported = export_run(str(run), "peft", out=tmp_path / "out")
    card, record = ModelCard.load(exported.folder / "README.md"), json.loads((run / "evaluation.json").read_text())
    assert card.data.library_name == "peft"
    assert {"lora", "vectoruniverse", "image-text"} <= set(card.data.tags)
    assert card.data.base_model is None, "tiny-clip is on no hub"
    assert record["data"] in card.text
    estimate, low, high = record["intervals"]["image_to_text/recall@5"]["difference"]
    assert f"{signed(estimate, '.3f')} [{signed(low, '.3f')}, {signed(high, '.3f')}]" in card.text
    assert "| CCA |" in card.text
    assert "8 held-out rows" in card.text
    assert str(exported.agreement).removeprefix("checked") in card.text
    assert str(run) not in card.text


def test_a_base_on_the_hub_is_named_to_the_hub(loaded, tmp_path):
    loaded.experiment = loaded.experiment.model_copy(update={"model": "openai/clip-vit-base-patch32"})
    loaded.encoder.name, loaded.encoder.commit = "openai/clip-vit-base-patch32", "a" * 40
    write_card(loaded, FORMATS["peft"], AGREEMENT, tmp_path, "me/my-clip")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "openai/clip-vit-base-patch32"
    assert card.data.base_model_relation == "adapter"
    assert 'folder = snapshot_download("me/my-clip")' in card.text
    assert f"from_pretrained('openai/clip-vit-base-patch32', revision='{'a' * 40}'" in card.text


@pytest.mark.parametrize("model", ["tiny-clip", "models/clip", "/models/clip", "../clip", "a/b/c"])
def test_what_is_not_on_the_hub_is_not_named_to_it(model, loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    loaded.experiment = loaded.experiment.model_copy(update={"model": model})
    assert hub_name(loaded) is None


SCORED = '"base": {"image_to_text/mrr": 0.1}, "adapted": {"image_to_text/mrr": 0.2}'
DAMAGED = [
    "{}",
    "[]",
    "not json",
    '{"base": 3, "adapted": {"recall@5": "x"}, "intervals": []}',
    f'{{{SCORED}, "data": "<script>", "intervals": {{"image_to_text/mrr": {{"difference": [1, null, "x"]}}}}}}',
    f'{{{SCORED}, "rows": "<script>", "intervals": {{"image_to_text/mrr": [1, 2, 3]}}}}',
]


@pytest.mark.parametrize("record", DAMAGED)
def test_a_damaged_evaluation_makes_a_card_without_what_is_damaged(record, run, loaded, tmp_path, monkeypatch):
    intact = (run / "evaluation.json").read_text()
    try:
        (run / "evaluation.json").write_text(record)
        write_card(loaded, FORMATS["onnx"], AGREEMENT, tmp_path, None)
    finally:
        (run / "evaluation.json").write_text(intact)
    text = (tmp_path / "README.md").read_text()
    assert "<script>" not in text
    assert ("The run holds no evaluation." in text) != ("image → text MRR" in text)
