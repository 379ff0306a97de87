"""What a run learns of labels that are blank, of all rows, rare, many, or spelt in two ways."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.evaluation.comparison import means
from vectoruniverse.evaluation.result import Evaluation, Labels
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.fusion import build_fusion
from vectoruniverse.tasks.image_text.label_rules import learn_labels, predicted_beside, predictions
from vectoruniverse.tasks.image_text.labels import LabelTexts, label_texts
from vectoruniverse.tasks.image_text.metadata import text_tells_labels
from vectoruniverse.tasks.image_text.settings import DataConfig

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
    assert file is not None and file.rows == ROWS
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
    assert file is not None and file.names == ["often", "once", "trained"]
    assert [file.status(place) for place in file.places(names)] == ["fitted", "seen once", "default", "unseen"]
    assert [file.names[i] for i in file.known] == ["often", "trained"]
    rules = file.models["adapted"]["both"]
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
    assert file is not None and len(file.known) == 1000 and all(file.fitted)


def test_a_fusion_is_one_more_score_of_the_adapted_model_alone() -> None:
    names, fusion = ["a", "b", "c"], build_fusion("gated_sum", 8, 0)
    torch.nn.init.normal_(fusion.gate.weight, generator=torch.Generator().manual_seed(0))
    models, file = learned(of_rows(names), names, fusion=fusion)
    assert file is not None and list(file.models["adapted"]) == ["picture", "text", "both", "fused"]
    assert list(file.models["base"]) == ["picture", "text", "both"]
    rules, adapted = file.models["adapted"]["fused"], models["adapted"]
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
    assert file is not None and list(file.models["adapted"]) == ["picture"]
    fusion = build_fusion("gated_sum", 8, 0)
    _, file = learned(of_rows(names), names, data=DATA.model_copy(update={"text": "{labels}"}), fusion=fusion)
    assert file is not None and list(file.models["adapted"]) == ["picture"]
