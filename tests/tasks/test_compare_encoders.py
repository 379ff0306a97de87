from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.data.pair_items import same_texts
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.evaluation.retrieval import evaluate_pairs
from vectoruniverse.metrics.intervals import intervals_at_once
from vectoruniverse.metrics.pair_scores import pair_scores
from vectoruniverse.tasks.text_pairs.encoders import answer, compare_encoders, missed_pairs
from vectoruniverse.tasks.text_pairs.page import difference_table

FIRST = [f"question {i}" for i in range(60)]
SECOND = [f"질문 {i}" for i in range(60)]


def evaluated(noise: float, seed: int = 0, first=FIRST, second=SECOND) -> Evaluation:
    """An encoder whose partners differ by so much noise."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(len(first), 8, generator=generator)
    sides = [F.normalize(own + noise * torch.randn(len(first), 8, generator=generator), dim=1) for _ in range(2)]
    found = evaluate_pairs(*sides, same_texts(first, second), (1, 5), names=("first", "second"))
    scores = pair_scores(*sides)
    per_query = {**found.per_query, **scores.per_pair()}
    return Evaluation({**found.metrics, **scores.metrics()}, per_query, found.ranks, found.vectors)


def test_the_best_comes_first_and_differences_are_paired_on_the_same_pairs():
    found = {"far": evaluated(2.0), "near": evaluated(0.1), "middle": evaluated(0.6)}
    comparison = compare_encoders(found, FIRST, SECOND)
    assert list(comparison.found) == ["near", "middle", "far"] and comparison.best == "near"
    assert set(comparison.differences) == {"middle", "far"}
    for metric in ("recall@1", "mrr", "row_uniformity", "column_uniformity"):
        near, middle, far = (found[name].per_query[metric] for name in ("near", "middle", "far"))
        gaps = intervals_at_once([near - middle, near - far, middle - far], comparison.items.clusters())
        for name, gap in zip(("middle", "far"), gaps, strict=False):
            assert comparison.differences[name][metric] == pytest.approx(gap, abs=1e-3)
    assert comparison.reached["far"].estimate == found["far"].metrics["recall@1"]
    said = answer(comparison)
    assert said.outcome == "better"
    assert said.headline == f"Best: near, recall@1 {found['near'].metrics['recall@1'] * 100:.1f}\N{NO-BREAK SPACE}%"
    assert "above middle" in said.detail and "above far" in said.detail
    assert "The intervals of the 3 differences between two of the encoders in a metric hold at once" in said.detail
    assert difference_table(comparison).note in said.detail


def test_encoders_that_the_pairs_cannot_tell_apart_are_named():
    comparison = compare_encoders(
        {"a": evaluated(0.6), "b": evaluated(0.6, seed=1), "c": evaluated(3.0)}, FIRST, SECOND
    )
    other = "b" if comparison.best == "a" else "a"
    said = answer(comparison)
    assert said.outcome == "unclear"
    assert said.headline == f"Not clear: in recall@1 these pairs cannot tell {comparison.best} from {other}"


def test_an_encoder_does_not_beat_itself():
    same = evaluated(0.6)
    comparison = compare_encoders({"first named": same, "twin": same}, FIRST, SECOND)
    assert comparison.best == "first named"
    assert answer(comparison).outcome == "unclear"


def test_pairs_that_share_a_text_are_drawn_together():
    first = [FIRST[i // 6] for i in range(60)]
    found = {"a": evaluated(0.2, first=first), "b": evaluated(1.5, first=first)}
    grouped, alone = (compare_encoders(found, texts, SECOND).differences["b"]["mrr"] for texts in (first, FIRST))
    assert grouped.estimate == alone.estimate
    assert (grouped.low, grouped.high) != (alone.low, alone.high)


def test_one_encoder_and_one_group_give_a_number_without_a_claim():
    alone = answer(compare_encoders({"only": evaluated(0.5)}, FIRST, SECOND))
    assert alone.outcome == "unchanged" and alone.headline.startswith("only: recall@1")
    same = ["the same"] * 60
    comparison = compare_encoders({"a": evaluated(0.5, first=same), "b": evaluated(0.9, first=same)}, same, SECOND)
    assert answer(comparison).outcome == "unclear"
    assert not comparison.reached and comparison.differences == {"b": {}}
    assert missed_pairs(comparison, 5) == []


def test_missed_pairs_are_the_lowest_ranks_with_what_was_found_instead():
    first = [*FIRST[:58], FIRST[0], FIRST[1]]
    best = evaluated(0.9, first=first)
    comparison = compare_encoders({"a": best}, first, SECOND)
    missed = missed_pairs(comparison, 10)
    sums = best.ranks["first_to_second"] + best.ranks["second_to_first"]
    assert [one.forth + one.back for one in missed] == sorted(sums, reverse=True)[:10]
    cosine = best.vectors["first"] @ best.vectors["second"].T
    for one in missed:
        wrong = [j for j in range(60) if first[j] != first[one.pair]]
        nearest = max(wrong, key=lambda j: float(cosine[one.pair, j]))
        assert one.forth == best.ranks["first_to_second"][one.pair]
        assert one.instead == (nearest if one.forth > 1 else None)
    assert any(one.instead is not None for one in missed)


def test_pairs_that_come_first_both_ways_are_not_missed():
    assert missed_pairs(compare_encoders({"a": evaluated(0.0)}, FIRST, SECOND), 5) == []


def test_encoders_evaluated_on_other_pairs_or_otherwise_are_refused():
    with pytest.raises(ValueError, match="b was not evaluated by recall@1 on these 60 pairs"):
        compare_encoders({"a": evaluated(0.5), "b": evaluated(0.5, first=FIRST[:9], second=SECOND[:9])}, FIRST, SECOND)
    with pytest.raises(ValueError, match="recall@7"):
        compare_encoders({"a": evaluated(0.5)}, FIRST, SECOND, metric="recall@7")
    with pytest.raises(ValueError, match="no encoder"):
        compare_encoders({}, FIRST, SECOND)


def test_another_metric_may_decide():
    found = {"a": evaluated(0.6), "b": evaluated(0.6, seed=1)}
    comparison = compare_encoders(found, FIRST, SECOND, metric="mrr")
    assert comparison.best == max(found, key=lambda name: found[name].metrics["mrr"])
    assert np.isfinite(comparison.reached["b"].low) and "mrr" in answer(comparison).headline.lower()
