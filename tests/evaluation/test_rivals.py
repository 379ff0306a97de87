"""Rivals that cost nothing: held to scikit-learn, to slow loops, and to data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge, RidgeClassifier
from torch.nn import functional as F

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.closed_forms import cache_scores, canonical, ridge
from vectoruniverse.evaluation.comparison import compare_rows
from vectoruniverse.evaluation.result import Evaluation, Labels
from vectoruniverse.evaluation.retrieval import evaluate_labels, evaluate_pairs
from vectoruniverse.evaluation.rivals import (
    STRENGTHS,
    EmbeddedRows,
    beside_rivals,
    caches,
    centred,
    fit_probe,
    fit_rivals,
    probes,
    ridge_maps,
    sample,
)
from vectoruniverse.metrics.intervals import intervals_at_once

WIDTH, CLASSES = 12, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_rows(count, seed, *, turn=None, labels=True):
    """Pictures around class centres, and their texts: turned pictures with noise, and far from them."""
    kind = torch.from_numpy(np.random.default_rng(seed).integers(CLASSES, size=count))
    image = 3 * draw(CLASSES, WIDTH, seed=99)[kind] + 3 * draw(count, WIDTH, seed=seed)
    text = image @ (torch.eye(WIDTH, dtype=torch.float64) if turn is None else turn)
    text = text + 0.05 * draw(count, WIDTH, seed=seed + 1) + 8 * F.one_hot(torch.tensor(0), WIDTH)
    image, text = (F.normalize(side, dim=1).float() for side in (image, text))
    found = Labels(list("abcd"), F.normalize(draw(CLASSES, WIDTH, seed=7), dim=1).float(), F.one_hot(kind).bool())
    return EmbeddedRows(image, text, PairItems(np.arange(count), np.arange(count)), found if labels else None)


def test_ridge_is_scikit_learns():
    x, y = draw(40, 6), draw(40, 3, seed=1)
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_x, y - mean_y
    for strength, weights in zip((10.0, 1e-3), ridge(x, y, (10.0, 1e-3)), strict=True):
        penalty = strength * float((x.T @ x).trace()) / 6
        expected = Ridge(alpha=penalty).fit((x + mean_x).numpy(), (y + mean_y).numpy())
        assert np.allclose(weights.T.numpy(), expected.coef_, atol=1e-10)


def test_a_map_that_is_shrunk_towards_the_base_solves_its_normal_equations():
    """Of the difference Y - X, plus X itself: (XᵀX + λI) W = XᵀY + λI."""
    x, y = draw(30, 5), draw(30, 5, seed=1)
    stay = torch.eye(5, dtype=torch.float64)
    penalty = 0.1 * (x.T @ x).trace() / 5
    expected = torch.linalg.solve(x.T @ x + penalty * stay, x.T @ y + penalty * stay)
    assert torch.allclose(stay + ridge(x, y - x, (0.1,))[0], expected, atol=1e-12)


def test_canonical_directions_are_scikit_learns():
    shared = draw(200, 3)
    x = torch.cat([shared + 0.3 * draw(200, 3, seed=1), draw(200, 2, seed=2)], dim=1) @ draw(5, 5, seed=3)
    y = torch.cat([shared + 0.3 * draw(200, 3, seed=4), draw(200, 1, seed=5)], dim=1) @ draw(4, 4, seed=6)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    a, b, correlations = canonical(x, y, 1e-12)
    one, other = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    for i in range(3):
        expected = np.corrcoef(one[:, i], other[:, i])[0, 1]
        assert float(correlations[i]) == pytest.approx(expected, abs=1e-6)
        assert abs(np.corrcoef((x @ a)[:, i].numpy(), one[:, i])[0, 1]) == pytest.approx(1, abs=1e-5)
        assert abs(np.corrcoef((y @ b)[:, i].numpy(), other[:, i])[0, 1]) == pytest.approx(1, abs=1e-5)


def test_the_cache_is_tip_adapters_formula_written_out():
    image, cached, text = (F.normalize(draw(n, 5, seed=n), dim=1) for n in (6, 7, 3))
    labels = (draw(7, 3, seed=9) > 0).double()
    found = cache_scores(image, cached, labels, text, alpha=2.0, beta=5.5)
    for i in range(6):
        for c in range(3):
            near = sum(math.exp(-5.5 * (1 - float(image[i] @ cached[j]))) * float(labels[j, c]) for j in range(7))
            assert float(found[i, c]) == pytest.approx(100 * float(image[i] @ text[c]) + 2.0 * near)


def test_the_probe_is_scikit_learns():
    training, rows = some_rows(120, 0), some_rows(80, 10)
    x, kind = training.image.double().numpy(), training.labels.of_row.int().argmax(dim=1).numpy()
    spread = float(np.var(x, axis=0).sum()) * len(x) / WIDTH
    for strength, probe in zip(STRENGTHS, probes(training.image, training.labels), strict=True):
        expected = RidgeClassifier(alpha=strength * spread).fit(x, kind).predict(rows.image.double().numpy())
        hits = expected == rows.labels.of_row.int().argmax(dim=1).numpy()
        assert probe.evaluate(rows)["zero_shot/accuracy@1"].tolist() == hits.tolist()


def test_a_probe_has_scikit_learns_values_at_the_strength_that_does_best_on_the_rows_that_choose():
    training, choosing, rows = some_rows(120, 0), some_rows(60, 5), some_rows(80, 10)
    blank = Labels(list("abcde"), training.labels.text, F.pad(training.labels.of_row, (0, 1)))
    chosen = Labels(blank.names, blank.text, F.pad(choosing.labels.of_row, (0, 1)))
    probe = fit_probe(training.text, blank, choosing.text, chosen)
    x, y = training.text.double().numpy(), blank.of_row.double().numpy()
    spread = float(np.var(x, axis=0).sum()) * len(x) / WIDTH
    fitted = [Ridge(alpha=strength * spread).fit(x, y) for strength in STRENGTHS]
    right = choosing.labels.of_row.int().argmax(dim=1).numpy()
    hits = [(one.predict(choosing.text.double().numpy()).argmax(axis=1) == right).mean() for one in fitted]
    expected = fitted[int(np.argmax(hits))].predict(rows.text.double().numpy())
    assert len({*hits}) > 1 and np.allclose(probe(rows.text).numpy(), expected, atol=1e-5)
    assert probe.known.tolist() == [True] * 4 + [False] and not probe(rows.text)[:, 4].any()


def test_centred_clouds_are_those_of_a_loop():
    training, rows = some_rows(50, 0), some_rows(30, 10)
    (rival,) = centred(training, (1, 5))
    sides = []
    for known, side in ((training.image, rows.image), (training.text, rows.text)):
        moved = [row - sum(known.double()) / len(known) for row in side.double()]
        sides.append(torch.stack([row / row.norm() for row in moved]).float())
    expected = evaluate_pairs(*sides, rows.items, (1, 5), names=("image", "text")).per_query
    for key in ("recall@1", "recall@5"):
        assert rival.evaluate(rows)[key].tolist() == expected[key].tolist()


def test_an_empty_cache_is_zero_shot_accuracy():
    """What is left are the cosines of pictures and label texts; a row without a label has no value."""
    training, rows = some_rows(50, 0), some_rows(30, 10)
    rows.labels.of_row[3] = False
    candidate = next(caches(training.image, Labels([], training.labels.text, torch.zeros(50, CLASSES))))
    expected = evaluate_labels(rows, rows.labels).per_query
    for key in ("zero_shot/accuracy@1", "zero_shot/accuracy@3"):
        assert np.array_equal(candidate.evaluate(rows)[key], expected[key], equal_nan=True)
        assert math.isnan(expected[key][3])


def test_maps_find_a_turned_space_that_the_base_does_not():
    turn = torch.linalg.qr(draw(WIDTH, WIDTH, seed=5))[0]
    training, choosing, reported = (some_rows(n, seed, turn=turn) for n, seed in ((300, 0), (60, 10), (60, 20)))
    fitted = fit_rivals(training, choosing, "recall@1", (1,))
    found = fitted.evaluate(reported)
    base = evaluate_pairs(reported.image, reported.text, reported.items, (1,), names=("image", "text"))
    reached = {name: np.nanmean(values.get("recall@1", [0])) for name, values in found.values.items()}
    assert base.metrics["recall@1"] < 0.1
    assert reached["ridge map"] > 0.8 and reached["CCA"] > 0.8
    assert found.best["recall@1"] in ("ridge map", "CCA") and found.fitted_on == 300
    assert np.nanmean(found.values["linear probe"]["zero_shot/accuracy@1"]) > 0.6
    assert found.best["zero_shot/accuracy@1"] in ("linear probe", "Tip-Adapter cache")


def test_what_is_chosen_depends_on_the_rows_that_choose_alone():
    training, choosing = some_rows(100, 0), some_rows(40, 10)
    fitted = fit_rivals(training, choosing, "recall@5", (1, 5))
    for name, family in (("ridge map", ridge_maps(training, (1, 5))), ("linear probe", None)):
        tried = list(family or probes(training.image, training.labels))
        key = "recall@5" if family else "zero_shot/accuracy@1"
        reached = {one.how: float(np.nanmean(one.evaluate(choosing)[key])) for one in tried}
        assert reached[fitted.chosen[name].how] == max(reached.values())
    one, other = fitted.evaluate(some_rows(30, 20)), fitted.evaluate(some_rows(20, 30))
    assert (one.how, one.best) == (other.how, other.best)
    assert {len(values["recall@5"]) for values in other.values.values() if "recall@5" in values} == {20}


def test_a_base_that_maps_everything_to_one_point_gives_rivals_that_find_nothing():
    point = F.normalize(torch.ones(40, WIDTH), dim=1)
    rows = EmbeddedRows(point, point, PairItems(np.arange(40), np.arange(40)))
    found = fit_rivals(rows, rows, "recall@5", (1, 5)).evaluate(rows)
    assert set(found.values) == {"centred", "ridge map", "CCA"}, "there are no labels to probe"
    assert all(values["recall@5"].max() == 0 for values in found.values.values())


def test_rows_without_labels_choose_no_probe_and_have_no_value():
    training, choosing = some_rows(60, 0, labels=False), some_rows(30, 10)
    assert "linear probe" not in fit_rivals(training, choosing, "recall@5", (5,)).chosen
    fitted = fit_rivals(some_rows(60, 0), choosing, "recall@5", (5,))
    assert fitted.evaluate(some_rows(30, 20, labels=False)).values["linear probe"] == {}


def test_the_adapted_model_is_compared_with_each_rival_on_the_same_rows():
    training, rows = some_rows(100, 0), some_rows(40, 10)
    fitted = fit_rivals(training, rows, "recall@5", (1, 5))
    rivals, groups = fitted.evaluate(rows), np.arange(40) // 4
    random = np.random.default_rng(0)
    base, adapted = (
        Evaluation({}, {"recall@5": random.integers(2, size=40).astype(float), "mrr": random.random(40)}, rivals=found)
        for found in (rivals, None)
    )
    record = beside_rivals(base, adapted, groups)
    assert next(iter(record.models)) == "base" and list(record.models)[-1] == "adapted"
    both = {"rival": rivals.values["CCA"], "adapted": adapted.per_query}
    gap = compare_rows(both, "adapted", groups=groups, ahead=True).differences["rival"]["recall@5"]
    assert record.models["CCA"].adapted_ahead["recall@5"] == pytest.approx(list(gap))
    picked = beside_rivals(base, adapted, groups, picked=True)
    others = [base.per_query, *(rivals.values[name] for name in ("centred", "ridge map", "CCA"))]
    leads = intervals_at_once([adapted.per_query["recall@5"] - other["recall@5"] for other in others], groups)
    told = [one.adapted_ahead["recall@5"] for one in picked.models.values() if one.adapted_ahead]
    assert told == [pytest.approx(list(lead)) for lead in leads]
    assert picked.at_once and not record.at_once
    assert gap.estimate == pytest.approx(
        record.models["adapted"].reached["recall@5"] - record.models["CCA"].reached["recall@5"]
    )
    assert "mrr" not in record.models["base"].reached, "no rival has it"
    assert beside_rivals(base, None).models.keys() == {"base", *rivals.values}
    assert beside_rivals(adapted, base) is None


def test_sampled_rows_do_not_depend_on_their_order():
    keys = [2**64 - 1, 5, 9, 1, 7]
    assert sample(keys, 3).tolist() == [1, 3, 4]
    assert {keys[::-1][i] for i in sample(keys[::-1], 3)} == {1, 5, 7}
    assert sample(keys, 99).tolist() == [0, 1, 2, 3, 4]
