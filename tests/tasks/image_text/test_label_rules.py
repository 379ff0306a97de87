"""What a run learns of labels that are blank, of all rows, rare, many, or spelt in two ways."""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.errors import DataError
from vectoruniverse.evaluation.comparison import means
from vectoruniverse.evaluation.result import Evaluation, Labels
from vectoruniverse.evaluation.rivals import EmbeddedRows
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.fusion import build_fusion
from vectoruniverse.runs.label_records import PROBES_FILE
from vectoruniverse.tasks.image_text.label_rules import (
    LABELS_FILE,
    learn_labels,
    predicted_beside,
    predictions,
    read_labels,
    save_labels,
)
from vectoruniverse.tasks.image_text.labels import LabelTexts, label_texts
from vectoruniverse.tasks.image_text.rivals import label_probes
from vectoruniverse.tasks.image_text.settings import DataConfig
from vectoruniverse.tasks.image_text.template import text_tells_labels

DATA = DataConfig(root="data")
ROWS = 30


class Words:
    """An encoder as far as labels are tokenized by it."""

    def tokenize(self, texts):
        return TokenizedTexts([np.array([len(text)]) for text in texts], [np.zeros(1)] * len(texts), [])


class Row:
    def __init__(self, *labels: str) -> None:
        self.labels = labels


def vectors(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def evaluated(of_row: torch.Tensor, names: list[str], seed: int = 0) -> Evaluation:
    sides = {"image": vectors(len(of_row), seed), "text": vectors(len(of_row), seed + 1)}
    return Evaluation({}, vectors=sides, labels=Labels(names, vectors(len(names), seed + 2), of_row))


def learned(of_row: torch.Tensor, names: list[str], training: torch.Tensor | None = None, data=DATA, fusion=None):
    tokens = Words().tokenize(names)
    training = LabelTexts(names, tokens, of_row if training is None else training)
    models = {"base": evaluated(of_row, names), "adapted": evaluated(of_row, names, 5)}
    return models, learn_labels(models, training, data, fusion)


def of_rows(names: list[str], rows: int = ROWS) -> torch.Tensor:
    return torch.tensor([[i % len(names) == c for c in range(len(names))] for i in range(rows)])


def test_rows_without_a_label_are_neither_fitted_on_nor_counted() -> None:
    names = ["a", "b"]
    whole = of_rows(names)
    blank = torch.cat([whole, torch.zeros(10, 2, dtype=torch.bool)])
    models, file = learned(blank, names)
    assert file is not None and file.rules.rows == ROWS
    found = predicted_beside(file, models["base"], models["adapted"], DATA, None, in_sample=True)
    assert found is not None and found.record.rows == ROWS
    assert learned(torch.zeros(5, 2, dtype=torch.bool), names)[1] is None, "no validation row has a label"


def test_a_label_of_every_row_or_a_single_one_tells_nothing() -> None:
    encoder = Words()
    assert label_texts([Row("a"), Row("a")], encoder, "{label}") is None
    assert label_texts([Row("a", "b"), Row("a")], encoder, "{label}") is None
    found = label_texts([Row("a", "b"), Row("a", "c"), Row("a")], encoder, "{label}")
    assert found is not None and list(found.names) == ["b", "c"]


def test_labels_of_test_rows_alone_are_unseen_and_those_of_one_row_not_known() -> None:
    names = ["often", "once", "trained", "test"]
    of_row = torch.zeros(ROWS, 4, dtype=torch.bool)
    of_row[::2, 0] = True
    of_row[1, 1] = True
    of_row[3::2, 2] = False
    training = torch.zeros(9, 4, dtype=torch.bool)
    training[:, 2] = training[0, 0] = True
    _, file = learned(of_row, names, training)
    assert file is not None and file.rules.names == ["often", "once", "trained"]
    assert [file.rules.status(place) for place in file.rules.places(names)] == [
        "fitted",
        "seen once",
        "default",
        "unseen",
    ]
    assert [file.rules.names[i] for i in file.rules.known] == ["often", "trained"]
    rules = file.rules.models["adapted"]["both"]
    assert rules.thresholds[2] == rules.default[2] != rules.thresholds[0]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_are_equal_up_to_unicode_form_and_space_but_not_case(form: str, tmp_path) -> None:
    from vectoruniverse.tasks.image_text.metadata import read_metadata

    cells = [unicodedata.normalize(form, cell) for cell in ("음악 ,Cat", " 음악,cat", "big  cat", "big cat, Cat")]
    (tmp_path / "images").mkdir()
    lines = ["Id,Title,Category"]
    for i, cell in enumerate(cells):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"never opened")
        lines.append(f'{i},t,"{cell}"')
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = read_metadata(DataConfig(root=str(tmp_path))).rows
    found = label_texts(rows, Words(), "{label}")
    assert found is not None and sorted(found.names) == ["Cat", "big cat", "cat", "음악"]


def test_a_thousand_labels_are_learned() -> None:
    names = [f"label {i}" for i in range(1000)]
    _, file = learned(of_rows(names, 2000), names, data=DATA.model_copy(update={"text": "{labels}"}))  # by pictures
    assert file is not None and len(file.rules.known) == 1000 and all(file.rules.fitted)


def test_a_fusion_is_one_more_score_of_the_adapted_model_alone() -> None:
    names, fusion = ["a", "b", "c"], build_fusion("gated_sum", 8, 0)
    torch.nn.init.normal_(fusion.gate.weight, generator=torch.Generator().manual_seed(0))
    models, file = learned(of_rows(names), names, fusion=fusion)
    assert file is not None and list(file.rules.models["adapted"]) == ["picture", "text", "both", "fused"]
    assert list(file.rules.models["base"]) == ["picture", "text", "both"]
    rules, adapted = file.rules.models["adapted"]["fused"], models["adapted"]
    assert adapted.labels is not None
    found = predictions(file, "adapted", adapted, DATA, fusion)["fused"].probabilities
    for i, (image, text) in enumerate(zip(adapted.vectors["image"], adapted.vectors["text"], strict=True)):
        x = fusion(image, text).detach()
        for c, label in enumerate(adapted.labels.text):
            scores = [float(image @ label), float(text @ label), float(x @ label / x.norm())]
            margin = sum(a * s for a, s in zip(rules.slopes[c], scores, strict=True)) + rules.intercepts[c]
            assert found[i, c] == pytest.approx(1 / (1 + math.exp(-margin)), abs=1e-6)


def test_beside_the_fusion_stand_the_base_and_the_same_model_without_it() -> None:
    names, fusion = ["a", "b", "c"], build_fusion("concat_mlp", 8, 0)
    models, file = learned(of_rows(names), names, fusion=fusion)
    assert file is not None
    found = predicted_beside(file, *models.values(), DATA, None, in_sample=False, fusion=fusion)
    assert found is not None and found.record.by == "fused"
    assert means(found.values["base"])["labels/map"] == pytest.approx(found.record.reached["both"]["base"]["map"][0])
    found = found.record
    fused, both = found.reached["fused"], found.reached["both"]
    assert (fused["base"], fused["unfused"]) == (both["base"], both["adapted"])
    gap = found.ahead["fused"]["unfused"]["map"][0]
    assert gap == pytest.approx(fused["adapted"]["map"][0] - both["adapted"]["map"][0])
    change = found.labels["a"].by["fused"]
    assert change["change"]["ap"][0] == pytest.approx(change["adapted"]["ap"][0] - change["base"]["ap"][0])


def test_texts_that_are_made_of_labels_predict_none() -> None:
    for text, tells in (("{title}", False), ("{labels}: {title}", True), ("{Category}", True), ("{Channel}", False)):
        assert text_tells_labels(DATA.model_copy(update={"text": text})) is tells
    names = ["a", "b"]
    _, file = learned(of_rows(names), names, data=DATA.model_copy(update={"text": "{labels}"}))
    assert file is not None and list(file.rules.models["adapted"]) == ["picture"]
    fusion = build_fusion("gated_sum", 8, 0)
    _, file = learned(of_rows(names), names, data=DATA.model_copy(update={"text": "{labels}"}), fusion=fusion)
    assert file is not None and list(file.rules.models["adapted"]) == ["picture"]


def probed(names: list[str], data=DATA, unseen: int = 0):
    """Models with probes whose training rows lack the last ``unseen`` labels, and what is learned of them."""
    of_row = of_rows(names)
    training = of_row.clone()
    training[:, len(names) - unseen :] = False
    models = {}
    for name, seed in (("base", 0), ("adapted", 5)):
        found = evaluated(of_row, names, seed)
        seen = Labels(names, found.labels.text, training)
        rows = EmbeddedRows(vectors(ROWS, 50 + seed), vectors(ROWS, 51 + seed), PairItems(*[np.arange(ROWS)] * 2), seen)
        models[name] = replace(found, probes=label_probes(rows, found))
    return models, learn_labels(models, LabelTexts(names, Words().tokenize(names), training), data)


def test_probes_are_read_as_they_were_written_and_predict_the_same(tmp_path) -> None:
    models, learned = probed(["a", "b", "c"], unseen=1)
    assert learned is not None and learned.rules.version == 2
    save_labels(learned, tmp_path)
    again = read_labels(tmp_path, 8)
    assert again is not None and again.rules == learned.rules
    turned = Labels(["new", "c", "a"], vectors(3, 80), of_rows(["a", "b", "c"]))
    for found in (models["adapted"], replace(models["adapted"], labels=turned)):
        one, other = (predictions(file, "adapted", found, DATA) for file in (learned, again))
        assert one.keys() == other.keys() == {"picture", "text", "both"}
        for by in one:
            assert np.array_equal(one[by].probabilities, other[by].probabilities)
    rules = again.rules.models["adapted"]["both"]
    assert rules.slopes[2][2:] == rules.default[0][2:] == [0.0, 0.0], "no training row has it"
    assert all(slope != 0 for slope in rules.slopes[0])


def test_rules_without_probes_are_those_of_cosines_and_need_no_file(tmp_path) -> None:
    names = ["a", "b"]
    _, file = learned(of_rows(names), names)
    assert file is not None and file.rules.version == 1
    save_labels(file, tmp_path)
    assert not (tmp_path / PROBES_FILE).exists()
    again = read_labels(tmp_path, 8)
    assert again == file


def test_texts_made_of_labels_are_not_probed(tmp_path) -> None:
    _, learned = probed(["a", "b"], DATA.model_copy(update={"text": "{labels}"}))
    assert learned is not None and [*learned.probes["adapted"]] == [*learned.probes["base"]] == ["image"]
    save_labels(learned, tmp_path)
    assert read_labels(tmp_path, 8) is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("adapted.text.bias"), "lacks probes"),
        (lambda tensors: tensors.update({"evil.weights": torch.zeros(1)}), "evil.weights"),
        (lambda tensors: tensors.update({"base.image.weights": torch.zeros(8, 9)}), "has shape"),
        (lambda tensors: tensors["base.image.bias"].fill_(math.nan), "not finite"),
    ],
)
def test_other_probes_than_the_rules_need_are_refused(change, says: str, tmp_path) -> None:
    save_labels(probed(["a", "b"])[1], tmp_path)
    tensors = load_file(tmp_path / PROBES_FILE)
    change(tensors)
    save_file(tensors, tmp_path / PROBES_FILE)
    with pytest.raises(DataError, match=says):
        read_labels(tmp_path, 8)


def test_missing_broken_and_unweighed_probes_are_refused(tmp_path) -> None:
    save_labels(probed(["a", "b"])[1], tmp_path)
    (tmp_path / PROBES_FILE).write_bytes(b"\x80pickle")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path, 8)
    (tmp_path / PROBES_FILE).unlink()
    with pytest.raises(DataError, match="lacks probes"):
        read_labels(tmp_path, 8)
    record = json.loads((tmp_path / LABELS_FILE).read_text(encoding="utf-8"))
    (tmp_path / LABELS_FILE).write_text(json.dumps({**record, "version": 1}), encoding="utf-8")
    with pytest.raises(DataError, match="slopes of each label"):
        read_labels(tmp_path, 8)
