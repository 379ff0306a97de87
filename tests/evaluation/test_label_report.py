"""How well labels were predicted: scikit-learn's numbers over known labels, and pairs of labels as a loop counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

import vectoruniverse.tasks  # noqa: F401  # the metrics of tasks are in the catalogue
from vectoruniverse.evaluation.comparison import compare_rows, means
from vectoruniverse.evaluation.label_report import LabelledRows, label_report
from vectoruniverse.evaluation.label_rules import Predicted
from vectoruniverse.metrics.intervals import difference_interval
from vectoruniverse.metrics.multilabel import average_precision_rows
from vectoruniverse.runs.label_records import LabelRules, LabelsFile, LabelsRecord

sklearn = pytest.importorskip("sklearn.metrics")

NAMES = ["cat", "dog", "owl", "elk", "new"]
"""Well known; too few validation rows; seen once; of no evaluated row; of evaluated rows alone."""

KNOWN = [0, 1, 3]


def known_file() -> LabelsFile:
    names = NAMES[:4]
    rules = LabelRules(slopes=[[1.0]] * 4, intercepts=[0.0] * 4, thresholds=[0.5] * 4, default=([1.0], 0.0, 0.5))
    models = {model: {"picture": rules} for model in ("base", "adapted")}
    return LabelsFile(
        names=names, training=[50, 9, 1, 8], validation=[9, 0, 0, 3], fitted=[True, False, False, True], rows=20,
        models=models,
    )  # fmt: skip


def some_rows(seed: int = 0, count: int = 80) -> tuple[np.ndarray, dict[str, dict[str, Predicted]]]:
    random = np.random.default_rng(seed)
    truth = random.random((count, 5)) < [0.5, 0.3, 0.1, 0.0, 0.2]
    truth[:5] = False  # rows without a label
    thresholds = np.array([0.5, 0.6, 0.5, 0.4, 0.5])

    def says(sure: float) -> Predicted:
        logits = random.normal(size=truth.shape) + sure * truth - 1
        return Predicted(1 / (1 + np.exp(-logits)), thresholds)

    models = {name: {"picture": says(sure)} for name, sure in (("base", 1), ("linear probe", 2))}
    return truth, {**models, "adapted": {"picture": says(2), "both": says(2)}}


def report(truth, models, groups=None, **facts) -> LabelsRecord:
    models = {**models, "base": {**models["base"], "both": models["base"]["picture"]}}
    found = label_report(known_file(), models, LabelledRows(NAMES, truth, groups), in_sample=False, **facts)
    assert found is not None
    return LabelsRecord.model_validate(json.loads(found.record.model_dump_json()))


def test_numbers_are_scikit_learns_over_the_known_labels_that_rows_have() -> None:
    truth, models = some_rows()
    found, having = report(truth, models), truth.any(axis=1)
    assert found.rows == having.sum() and found.by == "both"
    for by, model in (("picture", "base"), ("picture", "linear probe"), ("picture", "adapted"), ("both", "adapted")):
        said = models[model][by]
        right, shares, names = truth[having], said.probabilities[having], said.said[having]
        expected = {
            "map": sklearn.average_precision_score(right[:, :2], shares[:, :2], average="macro"),
            "macro_f1": sklearn.f1_score(right[:, :2], names[:, :2], average="macro"),
            "micro_f1": sklearn.f1_score(right[:, KNOWN], names[:, KNOWN], average="micro"),
        }
        for metric, value in expected.items():
            assert found.reached[by][model][metric][0] == pytest.approx(value), (by, model, metric)


def test_each_label_says_what_is_known_of_it_and_only_known_ones_have_an_f1() -> None:
    truth, models = some_rows()
    found, having = report(truth, models), truth.any(axis=1)
    assert [one.status for one in found.labels.values()] == ["fitted", "default", "seen once", "fitted", "unseen"]
    assert [(one.training, one.validation) for one in found.labels.values()][-1] == (0, 0)
    for c, (name, one) in enumerate(found.labels.items()):
        assert one.rows == truth[:, c].sum()
        if name == "elk":
            assert one.by == {}, "no row has it"
            continue
        said, told = models["adapted"]["both"], one.by["both"]["adapted"]
        expected = sklearn.average_precision_score(truth[having, c], said.probabilities[having, c])
        assert told["ap"][0] == pytest.approx(expected)
        assert ("f1" in told) == (c in KNOWN)
        if c in KNOWN:
            assert told["f1"][0] == pytest.approx(sklearn.f1_score(truth[having, c], said.said[having, c]))


def test_changes_are_paired_and_drawn_by_group() -> None:
    truth, models = some_rows(1)
    groups = np.arange(80) // 4
    having = truth.any(axis=1)
    rows = [
        average_precision_rows(truth[having, 0], models[name]["picture"].probabilities[having, 0])
        for name in ("base", "adapted")
    ]
    expected = difference_interval(*rows, groups[having])
    found = report(truth, models, groups)
    assert found.labels["cat"].by["picture"]["change"]["ap"] == pytest.approx(list(expected))
    lead = found.ahead["picture"]["linear probe"]["map"]
    gap = [found.reached["picture"][name]["map"][0] for name in ("adapted", "linear probe")]
    assert lead[0] == pytest.approx(gap[0] - gap[1]) and lead[1] < lead[0] < lead[2]


def test_a_label_said_in_place_of_another_is_counted_as_a_loop_counts_it() -> None:
    truth, models = some_rows(2)
    found, said = report(truth, models), models["adapted"]["both"].said
    counted = {}
    for a in KNOWN:
        for b in KNOWN:
            hits = sum(t[a] and not s[a] and s[b] and not t[b] for t, s in zip(truth, said, strict=True))
            if hits:
                counted[NAMES[a], NAMES[b]] = (hits, hits / truth[:, a].sum())
    assert counted
    told = {(one.label, one.said): (one.rows, pytest.approx(one.share[0])) for one in found.mistaken}
    assert counted == told
    assert [one.rows for one in found.mistaken] == sorted((one.rows for one in found.mistaken), reverse=True)


def test_the_most_confused_labels_have_all_of_their_pairs() -> None:
    random = np.random.default_rng(0)
    names = [f"label {c}" for c in range(30)]
    truth = random.random((200, 30)) < 0.1
    said = truth & (random.random(truth.shape) < 0.7)
    said[:, 7] |= truth[:, 4] & ~said[:, 4]  # 7 is said wherever 4 is missed
    models = {name: {"picture": Predicted(said * 1.0, np.full(30, 0.5))} for name in ("base", "adapted")}
    rules = LabelRules(slopes=[[1.0]] * 30, intercepts=[0.0] * 30, thresholds=[0.5] * 30, default=([1.0], 0.0, 0.5))
    file = LabelsFile(
        names=names, training=[9] * 30, validation=[9] * 30, fitted=[True] * 30, rows=99,
        models={name: {"picture": rules} for name in models},
    )  # fmt: skip
    found = label_report(file, models, LabelledRows(names, truth, None), in_sample=False)
    assert found is not None and found.record.confused is not None
    most = found.record.confused
    assert most.labels[:2] == ["label 4", "label 7"] and len({*most.labels}) == 12
    for i, a in enumerate(map(names.index, most.labels)):
        assert most.rows[i] == truth[:, a].sum()
        for j, b in enumerate(map(names.index, most.labels)):
            rows = zip(truth, said, strict=True)
            hits = sum(t[a] and (s[a] if a == b else not s[a] and s[b] and not t[b]) for t, s in rows)
            assert most.said[i][j] == hits
    right = {name: {"picture": Predicted(truth * 1.0, np.full(30, 0.5))} for name in models}
    flawless = label_report(file, right, LabelledRows(names, truth, None), in_sample=False)
    assert flawless is not None and flawless.record.confused is None and flawless.record.mistaken == []


def test_intervals_stay_between_nothing_and_all_and_one_row_has_none() -> None:
    truth, models = some_rows(3, count=12)
    for told in report(truth, models).reached.values():
        assert all(0 <= low <= high <= 1 for one in told.values() for _, low, high in one.values())
    alone = np.zeros((12, 5), bool)
    alone[7, 0] = True
    assert report(alone, models).reached["both"]["adapted"]["map"] == [1.0]


def test_the_means_over_labels_are_metrics_of_all_rows_with_the_same_intervals() -> None:
    truth, models = some_rows(4)
    groups = np.arange(80) // 4
    models["base"]["both"] = models["base"]["picture"]
    found = label_report(known_file(), models, LabelledRows(NAMES, truth, groups), in_sample=False)
    assert found is not None
    assert all((np.isfinite(one) == truth.any(axis=1)).all() for one in found.values["adapted"].values())
    for model, values in found.values.items():
        told = found.record.reached["both"][model]
        assert means(values) == pytest.approx({"labels/map": told["map"][0], "labels/macro_f1": told["macro_f1"][0]})
    paired = compare_rows(found.values, "base", groups=groups)
    assert list(paired.reached["adapted"]["labels/map"]) == pytest.approx(
        found.record.reached["both"]["adapted"]["map"]
    )


def test_rows_without_a_known_label_have_no_report() -> None:
    truth, models = some_rows()
    truth[:, KNOWN] = False
    assert label_report(known_file(), models, LabelledRows(NAMES, truth, None), in_sample=False) is None
