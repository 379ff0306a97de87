from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.errors import DivergedError
from vectoruniverse.metrics.pair_scores import pair_scores


def unit_rows(count: int, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, width, generator=generator)
    second = first + 2 * torch.randn(count, width, generator=generator)
    return F.normalize(first, dim=1), F.normalize(second, dim=1)


def note(pred_embed, gt_embed):
    """The researcher's own loops, with the column score summing its column, which it was meant to do."""

    def cosine_similarity(a, b):
        dot_product = np.dot(a, b)
        norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
        return dot_product / (norm_a * norm_b) if norm_a != 0 and norm_b != 0 else 0

    clipped = [max(cosine_similarity(gt, pred), 0) for pred, gt in zip(pred_embed, gt_embed, strict=True)]
    w = np.maximum(np.matmul(pred_embed, gt_embed.T), 0)
    score_i, score_j = [], []
    for i in range(len(w)):
        score_i.append(w[i][i] / sum(w[i][:]))
    for i in range(len(w)):
        score_j.append(w[i][i] / sum(w[:, i]))
    return clipped, score_i, score_j


@pytest.mark.parametrize("stripe", [1, 7 * 23, 1 << 20])
def test_scores_are_those_of_the_note_with_columns_summed_as_columns(stripe):
    first, second = unit_rows(23)
    scores = pair_scores(first, second, stripe=stripe)
    clipped, row, column = note(first.double().numpy(), second.double().numpy())
    assert min(scores.cosine) < 0, "the clipping is put to the test"
    assert scores.per_pair()["pair_cosine_clipped"] == pytest.approx(clipped, abs=1e-6)
    assert scores.row == pytest.approx(row, abs=1e-6)
    assert scores.column == pytest.approx(column, abs=1e-6)
    assert not np.allclose(scores.row, scores.column, atol=1e-3)


def test_metrics_are_the_means_over_pairs_beside_chance():
    scores = pair_scores(*unit_rows(40))
    metrics = scores.metrics()
    for name, values in scores.per_pair().items():
        assert values.shape == (40,)
        assert metrics[name] == pytest.approx(values.mean())
    assert metrics["pair_cosine"] < metrics["pair_cosine_clipped"]
    assert metrics["uniformity_chance"] == 1 / 40


def test_one_point_for_all_texts_is_chance_and_orthogonal_pairs_are_certain():
    point = F.normalize(torch.ones(8, 8), dim=1)
    collapsed, certain = pair_scores(point, point), pair_scores(torch.eye(8), torch.eye(8))
    assert collapsed.metrics()["pair_cosine"] == pytest.approx(1.0)
    assert collapsed.row == pytest.approx([collapsed.chance] * 8)
    assert certain.row.tolist() == certain.column.tolist() == [1.0] * 8


def test_a_text_that_is_like_none_scores_zero_and_is_counted():
    first = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    second = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = pair_scores(first, second)
    assert scores.row.tolist() == [1.0, 0.0] and scores.column.tolist() == [1.0, 0.0]
    assert (scores.empty_rows, scores.empty_columns) == (1, 1)
    assert scores.metrics()["empty_rows"] == 1.0


def test_rows_that_would_give_a_number_without_meaning_are_refused():
    first, second = unit_rows(5)
    with pytest.raises(ValueError, match="norm 1"):
        pair_scores(first * 3, second)
    with pytest.raises(ValueError, match="5 and 4 rows"):
        pair_scores(first, second[:4])
    broken = first.clone()
    broken[2, 0] = torch.nan
    with pytest.raises(DivergedError, match="1 of 5 first"):
        pair_scores(broken, second)
