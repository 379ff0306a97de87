from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalMRR, RetrievalRecall

from vectoruniverse.errors import DivergedError
from vectoruniverse.metrics.ranking import (
    label_map,
    mean_reciprocal_rank,
    median_rank,
    recall_at,
    retrieval_ranks,
    summarise_ranks,
    zero_shot_ranks,
)

KS = (1, 3, 5, 10)


def rows_with_similarity(drawn: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Unit queries and gallery whose cosines are exactly a matrix drawn by hand: query i is the i-th axis."""
    similarity = torch.tensor(drawn)
    rest = (1 - similarity.square().sum(dim=0)).sqrt()  # an axis of its own per item makes it a unit row
    queries, items = similarity.shape
    return torch.eye(queries, queries + items), torch.cat([similarity.T, torch.diag(rest)], dim=1)


def lattice(rows: int, *, seed: int) -> Tensor:
    """Unit rows of ±1/4 in 16 dimensions, from few patterns: cosines are exact in fp32, and many are equal."""
    random = torch.Generator().manual_seed(seed)
    patterns = torch.randint(0, 2, (max(4, rows // 2), 16), generator=random) * 0.5 - 0.25
    return patterns[torch.randint(len(patterns), (rows,), generator=random)]


def against_the_model(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Scores for torchmetrics, which breaks ties by position and takes scores of 0 and below for not retrieved."""
    return similarity + 2 - 1e-3 * relevant


def test_ranks_of_a_matrix_drawn_by_hand() -> None:
    query, gallery = rows_with_similarity(
        [
            [0.5, 0.1, 0.2, 0.3],  # right on top
            [0.4, 0.4, 0.1, 0.0],  # tie with the right one: second
            [0.3, 0.6, 0.2, 0.5],  # three before it
            [0.2, 0.1, 0.6, 0.5],  # one before it
        ]
    )
    ids = torch.arange(4)
    assert retrieval_ranks(query, gallery, ids, ids).tolist() == [1, 2, 4, 2]


def test_equal_groups_are_joint_positives() -> None:
    query, gallery = rows_with_similarity([[0.2, 0.3, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4]])
    assert retrieval_ranks(query, gallery, torch.tensor([7, 8]), torch.tensor([7, 9, 7, 8])).tolist() == [2, 2]
    assert retrieval_ranks(query, gallery, torch.tensor([7, 7]), torch.tensor([7, 9, 7, 7])).tolist() == [1, 1]


def test_a_collapsed_model_gets_the_worst_rank() -> None:
    point = normalize(torch.ones(9, 5), dim=1)
    assert retrieval_ranks(point, point, torch.arange(9), torch.arange(9)).tolist() == [9] * 9
    # rounding noise in the last bits is no discrimination
    noisy = normalize(point + 2e-8 * torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    assert retrieval_ranks(noisy, noisy, torch.arange(9), torch.arange(9)).tolist() == [9] * 9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranks_equal_a_full_sort_whatever_the_stripe(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    query, gallery = lattice(37, seed=seed), lattice(53, seed=seed + 10)
    gallery_group = torch.randint(-3, 20, (53,), generator=random)
    query_group = gallery_group[torch.randint(53, (37,), generator=random)]
    expected = []
    for similarity, group in zip(query @ gallery.T, query_group, strict=True):
        ordered = sorted(
            zip(similarity.tolist(), (gallery_group == group).tolist(), strict=True), key=lambda x: (-x[0], x[1])
        )
        wrong = 0
        for _, right in ordered:
            if right:
                break
            wrong += 1
        expected.append(1 + wrong)
    for stripe in (1, 60, 53 * 5, 1 << 20):
        assert retrieval_ranks(query, gallery, query_group, gallery_group, stripe=stripe).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("duplicate_titles", [False, True])
def test_recall_and_mrr_equal_torchmetrics(seed: int, duplicate_titles: bool) -> None:
    n = 60
    random = torch.Generator().manual_seed(seed)
    groups = torch.randint(20, (n,), generator=random) if duplicate_titles else torch.arange(n)
    text = lattice(n, seed=seed)
    image = torch.where(torch.rand(n, 16, generator=random) < 0.2, -text, text)
    for query, gallery in ((image, text), (text, image)):
        ours, similarity = summarise_ranks(retrieval_ranks(query, gallery, groups, groups), KS), query @ gallery.T
        relevant = groups[:, None] == groups[None, :]
        scored = (
            against_the_model(similarity, relevant).flatten(),
            relevant.flatten(),
            torch.arange(n).repeat_interleave(n),
        )
        recall = RetrievalHitRate if duplicate_titles else RetrievalRecall
        for k in KS:
            metric = recall(top_k=k)
            metric.update(scored[0], scored[1], indexes=scored[2])
            assert ours[f"recall@{k}"] == pytest.approx(float(metric.compute()), abs=1e-6)
        reciprocal = RetrievalMRR()
        reciprocal.update(scored[0], scored[1], indexes=scored[2])
        assert ours["mrr"] == pytest.approx(float(reciprocal.compute()), abs=1e-6)


def test_summaries_of_ranks() -> None:
    ranks = torch.tensor([1, 2, 4, 10])
    assert recall_at(ranks, (1, 2, 5)) == {"recall@1": 0.25, "recall@2": 0.5, "recall@5": 0.75}
    assert median_rank(ranks) == 3.0
    assert median_rank(ranks[:3]) == 2.0
    assert mean_reciprocal_rank(ranks) == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4)


def test_an_item_of_several_groups_is_right_for_each_of_them() -> None:
    query, gallery = rows_with_similarity([[0.2, 0.3, 0.5], [0.6, 0.1, 0.4], [0.1, 0.2, 0.2]])
    ids = torch.arange(3)
    of_group, item = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 1, 2])
    for stripe in (1, 1 << 20):
        ranks = retrieval_ranks(query, gallery, ids, of_group, gallery_item=item, stripe=stripe)
        assert ranks.tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="one id for each row"):
        retrieval_ranks(query, gallery, ids, of_group, gallery_item=item[1:])
    with pytest.raises(ValueError, match="1 of 3 queries have no item"):
        retrieval_ranks(query, gallery, ids, of_group[:3], gallery_item=item[:3])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_never_get_a_rank(bad: float) -> None:
    good = torch.eye(3)
    broken = good.clone()
    broken[1, 1] = bad
    ids = torch.arange(3)
    for query, gallery in ((broken, good), (good, broken)):
        with pytest.raises(DivergedError, match="1 of 3"):
            retrieval_ranks(query, gallery, ids, ids)
    labels = torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(DivergedError):
        label_map(broken, good, labels, labels, exclude_self=False)
    with pytest.raises(DivergedError):
        zero_shot_ranks(good, broken, torch.ones(3, 3, dtype=torch.bool))


def test_input_that_has_no_rank_is_refused() -> None:
    ids = torch.arange(3)
    with pytest.raises(ValueError, match="norm 1"):
        retrieval_ranks(2 * torch.eye(3), torch.eye(3), ids, ids)
    with pytest.raises(ValueError, match="1 of 3 queries have no item"):
        retrieval_ranks(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 9]), ids)
    with pytest.raises(ValueError, match="one id for each row"):
        retrieval_ranks(torch.eye(3), torch.eye(3), ids[:2], ids)
    with pytest.raises(ValueError, match="one width"):
        retrieval_ranks(torch.eye(3), torch.eye(4), ids, torch.arange(4))


def test_average_precision_drawn_by_hand() -> None:
    query, gallery = rows_with_similarity([[0.5, 0.4, 0.3, 0.2], [0.2, 0.2, 0.1, 0.0]])
    query_labels = torch.tensor([[True, False], [False, True]])
    gallery_labels = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    precision = label_map(query, gallery, query_labels, gallery_labels, exclude_self=False)
    # query 0: relevant at 1 and 3; query 1: relevant at 2 (the tie goes to the other item) and 3
    torch.testing.assert_close(precision, torch.tensor([(1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2], dtype=torch.float64))


def test_a_query_with_nothing_relevant_has_no_average_precision() -> None:
    labels = torch.tensor([[True, False], [True, False], [False, True], [False, False]])
    precision = label_map(torch.eye(4), torch.eye(4), labels, labels, exclude_self=True)
    assert precision.isnan().tolist() == [False, False, True, True]


@pytest.mark.parametrize("stripe", [1, 100, 1 << 20])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_map_equals_torchmetrics(stripe: int, exclude_self: bool) -> None:
    n = 40
    rows = lattice(n, seed=3)
    labels = torch.rand(n, 6, generator=torch.Generator().manual_seed(3)) < 0.3
    labels[:, 0] |= ~labels.any(dim=1)
    relevant = (labels[:, None] & labels[None]).any(dim=2)
    scores = against_the_model(rows @ rows.T, relevant)
    kept = ~torch.eye(n, dtype=torch.bool) if exclude_self else torch.ones(n, n, dtype=torch.bool)
    oracle = RetrievalMAP(empty_target_action="error")
    oracle.update(scores[kept], relevant[kept], indexes=torch.arange(n)[:, None].expand(n, n)[kept])
    ours = label_map(rows, rows, labels, labels, exclude_self=exclude_self, stripe=stripe)
    assert float(ours.mean()) == pytest.approx(float(oracle.compute()), abs=1e-6)


def test_labels_of_another_shape_are_refused() -> None:
    labels = torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="labels must be bool of shape"):
        label_map(torch.eye(3), torch.eye(3), labels.float(), labels, exclude_self=False)
    with pytest.raises(ValueError, match="exclude_self"):
        label_map(torch.eye(3), torch.eye(3)[:2], labels, labels[:2], exclude_self=True)


def test_zero_shot_takes_any_own_label_and_ties_against() -> None:
    image, label_text = rows_with_similarity(
        [
            [0.5, 0.4, 0.1, 0.0],  # own 0: first
            [0.3, 0.2, 0.1, 0.4],  # own 1 and 0: second, behind 3
            [0.2, 0.2, 0.2, 0.2],  # own 2, all equal: last
        ]
    )
    labels = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    assert zero_shot_ranks(image, label_text, labels).tolist() == [1, 2, 4]
    assert zero_shot_ranks(image, label_text, labels, stripe=1).tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="1 of 3 rows have no label"):
        zero_shot_ranks(image, label_text, labels & torch.tensor([[True], [True], [False]]))


def test_autocast_does_not_coarsen_the_ranks() -> None:
    random = torch.Generator().manual_seed(5)
    query = normalize(torch.randn(50, 32, generator=random), dim=1)
    gallery = normalize(torch.randn(50, 32, generator=random), dim=1)
    ids = torch.arange(50)
    plain = retrieval_ranks(query, gallery, ids, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(retrieval_ranks(query, gallery, ids, ids), plain)
