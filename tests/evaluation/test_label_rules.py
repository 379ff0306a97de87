"""Rules that tell labels: fitted where rows allow it, of all labels together elsewhere, and the same read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.evaluation.label_rules import (
    Probe,
    cosines,
    enough_rows,
    fit_probed_rules,
    fit_rules,
    label_values,
    predict,
)
from vectoruniverse.runs.label_records import LabelRules, LabelsFile

ROWS, LABELS = 120, 4
FREQUENCIES = (0.5, 0.2, 0.05, 0.0)


def some(seed: int, inputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Cosines between 0.1 and 0.4, higher for right labels, each label from a level of its own; label 3 of no row."""
    random = np.random.default_rng(seed)
    truth = random.random((ROWS, LABELS)) < FREQUENCIES
    truth[:3, 2] = True
    level = np.array([0.2, 0.25, 0.15, 0.2])[:, None]
    return level + 0.03 * random.normal(size=(ROWS, LABELS, inputs)) + 0.06 * truth[:, :, None], truth


def test_a_labels_probabilities_are_scikit_learns_where_all_labels_say_nothing() -> None:
    """With one label, that of all labels together is its own shrunk once; towards it the label's own shrinks again."""
    linear = pytest.importorskip("sklearn.linear_model")
    scores, truth = some(0)
    scores, truth = scores[:, :1], truth[:, :1]
    scaled = (scores[:, 0] - scores.mean()) / scores.std()
    once = linear.LogisticRegression(C=1.0, tol=1e-10).fit(scaled, truth[:, 0])
    slopes, intercept, _ = fit_rules(scores, truth).default
    assert scores[:, 0] @ slopes + intercept == pytest.approx(once.decision_function(scaled), abs=1e-4)


@pytest.mark.parametrize("inputs", [1, 2])
def test_predictions_are_calibrated_and_thresholds_find_labels_at_their_own_levels(inputs: int) -> None:
    scores, truth = some(1, inputs)
    found = predict(fit_rules(scores, truth), scores)
    known = enough_rows(truth)
    assert known.tolist() == [True, True, True, False]
    assert found.probabilities[:, known].mean(axis=0) == pytest.approx(truth[:, known].mean(axis=0), abs=1e-6)
    fresh, right = some(2, inputs)
    said = predict(fit_rules(scores, truth), fresh).said
    assert (said[:, :2] == right[:, :2]).mean() > 0.8


def test_a_label_that_too_few_rows_have_gets_the_rules_of_all() -> None:
    scores, truth = some(3)
    rules = fit_rules(scores, truth)
    slopes, intercept, threshold = rules.default
    assert (rules.slopes[3], rules.intercepts[3], rules.thresholds[3]) == (slopes, intercept, threshold)
    assert (rules.slopes[0], rules.thresholds[0]) != (slopes, threshold)
    unknown = predict(rules, scores, [-1, 1, 2, 3])
    shares = 1 / (1 + np.exp(-(scores[:, 0] @ slopes + intercept)))
    assert unknown.probabilities[:, 0] == pytest.approx(shares) and unknown.thresholds[0] == threshold


def test_a_label_of_all_rows_has_no_rules_of_its_own() -> None:
    scores, truth = some(4)
    truth[:, 0] = True
    assert not enough_rows(truth)[0]
    assert fit_rules(scores, truth).thresholds[0] == fit_rules(scores, truth).default[2]


def test_rules_are_the_same_after_they_were_written() -> None:
    scores, truth = some(5, 2)
    rules = fit_rules(scores, truth)
    again = LabelRules.model_validate(json.loads(rules.model_dump_json()))
    assert np.array_equal(predict(again, scores).probabilities, predict(rules, scores).probabilities)


def test_cosines_are_those_of_a_loop() -> None:
    image, text, label = (F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(n))) for n in (3, 3, 2))
    found = cosines({"image": image, "text": text}, label)
    assert [found[by].shape for by in ("picture", "text", "both")] == [(3, 2, 1), (3, 2, 1), (3, 2, 2)]
    for i in range(3):
        for c in range(2):
            expected = [float(image[i] @ label[c]), float(text[i] @ label[c])]
            assert found["both"][i, c] == pytest.approx(expected, abs=1e-6)
    assert list(cosines({"text": text}, label)) == ["text"]


def test_a_file_whose_columns_differ_in_length_is_refused() -> None:
    with pytest.raises(ValueError, match="not all labels have their rules"):
        LabelsFile(names=["a", "b"], training=[1], validation=[1, 1], fitted=[True, True], rows=2, models={})


def test_a_thousand_labels_take_seconds() -> None:
    random = np.random.default_rng(0)
    truth = random.random((300, 1000)) < 0.01
    scores = 0.2 + 0.03 * random.normal(size=(300, 1000, 1)) + 0.05 * truth[:, :, None]
    rules = fit_rules(scores, truth)
    assert len(rules.slopes) == 1000 and np.isfinite(rules.thresholds).all()
    known = enough_rows(truth)
    assert predict(rules, scores).said[:, known][truth[:, known]].mean() > 0.5


def test_behind_the_cosines_stand_the_values_of_the_probes() -> None:
    image, text, label = (F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(n))) for n in (3, 3, 2))
    drawn = torch.Generator().manual_seed(9)
    one, other = (Probe(torch.randn(5, 2, generator=drawn), torch.randn(2, generator=drawn)) for _ in range(2))
    sides, probes = {"image": image, "text": text, "fused": image}, {"image": one, "text": other}
    plain, found = cosines(sides, label), label_values(sides, label, probes)
    assert {by: part.shape[2] for by, part in found.items()} == {"picture": 2, "text": 2, "both": 4, "fused": 5}
    for by, width in (("picture", 1), ("text", 1), ("both", 2), ("fused", 3)):
        assert np.array_equal(found[by][:, :, :width], plain[by])
    for i in range(3):
        for c in range(2):
            expected = [float(image[i] @ one.weights[:, c] + one.bias[c])]
            expected.append(float(text[i] @ other.weights[:, c] + other.bias[c]))
            assert found["fused"][i, c, 3:] == pytest.approx(expected, abs=1e-5)
    assert {*label_values(sides, label, {"image": one})} == {"picture"}
    turned = {"image": one.select([1, -1])}
    assert label_values({"image": image}, label, turned)["picture"][:, 0, 1] == pytest.approx(one(image)[:, 1].numpy())
    assert not label_values({"image": image}, label, turned)["picture"][:, 1, 1].any()


def test_labels_that_the_probes_do_not_know_keep_the_rules_by_cosines_and_disturb_no_others() -> None:
    scores, truth = some(6, 2)
    values = truth[:, :, None] + 0.3 * np.random.default_rng(7).normal(size=(ROWS, LABELS, 1))
    known = np.array([True, True, False, True])
    values[:, ~known] = 0.0
    rules = fit_probed_rules(np.concatenate([scores, values], axis=2), truth, known, 2)
    plain, full = (
        fit_rules(scores, truth),
        fit_rules(np.concatenate([scores, values], axis=2)[:, known], truth[:, known]),
    )
    assert rules.slopes[2] == [*plain.slopes[2], 0.0] and rules.thresholds[2] == plain.thresholds[2]
    assert rules.default == ([*plain.default[0], 0.0], *plain.default[1:])
    assert [rules.slopes[i] for i in (0, 1, 3)] == full.slopes and min(row[2] for row in full.slopes) > 0
    found = predict(rules, np.concatenate([scores, values], axis=2))
    assert np.array_equal(found.probabilities[:, 2], predict(plain, scores).probabilities[:, 2])
    nobody = fit_probed_rules(np.concatenate([scores, values], axis=2), truth, np.zeros(LABELS, dtype=bool), 2)
    assert nobody.slopes == [[*row, 0.0] for row in plain.slopes]


@pytest.mark.parametrize(("version", "width"), [(1, 2), (2, 1), (2, 3)])
def test_rules_with_another_number_of_slopes_than_scores_are_refused(version: int, width: int) -> None:
    rules = {"slopes": [[1.0] * width], "intercepts": [0.0], "thresholds": [0.5], "default": ([1.0] * width, 0.0, 0.5)}
    file = {"version": version, "names": ["a"], "training": [1], "validation": [1], "fitted": [True], "rows": 2}
    with pytest.raises(ValueError, match=f"rules by picture need {version} slopes of each label"):
        LabelsFile.model_validate({**file, "models": {"adapted": {"picture": rules}}})
