"""How far up the right answer stands: recall@k, median rank, reciprocal rank, average precision, zero-shot accuracy.

Everything is exact and works on stripes of the similarity matrix, so that 100,000 rows fit in memory.

Two rules hold throughout. Items of one group or label are joint positives: none counts as an error before another.
Ties count against the model: a wrong item whose cosine is not more than ``TIE`` (1e-6) below the right one's stands
before it, so a model that maps everything to one point gets the worst rank and not the best.
Libraries that break ties by position differ here: where the right and a wrong item have equal cosines, they answer
rank 1 or 2, and this module answers 2. torchmetrics also takes items of similarity ≤ 0 for not retrieved (a right item
at cosine -0.1 before a wrong one at -0.2 has reciprocal rank 0 there and 1 here).

Shapes: N queries, M gallery items, E width of unit rows, R queries in a stripe, P positive pairs, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.metrics.similarity import STRIPE, TIE, check_unit_rows, similarity_stripes


def retrieval_ranks(
    query: Tensor,
    gallery: Tensor,
    query_group: Tensor,
    gallery_group: Tensor,
    *,
    gallery_item: Tensor | None = None,
    stripe: int = STRIPE,
) -> Tensor:
    """Rank of each query's best positive: 1 + the number of non-positive items at least as similar (see the tie rule).

    Args:
        query: unit rows (N, E).
        gallery: unit rows (M, E).
        query_group: (N,) int64.
        gallery_group: (M,) int64; items of the query's group are its positives.
        gallery_item: (P,) int64 where an item is of several groups, or of none: item ``gallery_item[k]`` is of group
            ``gallery_group[k]``, which is (P,) then. None: item k.
        stripe: similarities held at once.

    Returns:
        (N,) int64, from 1 (nothing wrong stands before a right item).

    Raises:
        ValueError: rows that are not finite or not of norm 1, groups of another length, or a query without a positive.
    """
    check_unit_rows(query=query, gallery=gallery)
    members = torch.arange(len(gallery), device=gallery.device) if gallery_item is None else gallery_item
    if query_group.shape != query.shape[:1] or gallery_group.shape != members.shape:
        raise ValueError("query_group and gallery_group need one id for each row")
    order, first, count = _positives(query_group, gallery_group)
    order = members[order]
    if missing := int((count == 0).sum()):
        raise ValueError(f"{missing} of {len(query)} queries have no item of their group in the gallery")
    ranks = torch.empty(len(query), dtype=torch.int64, device=query.device)
    for rows, similarity in similarity_stripes(query, gallery, stripe=stripe):
        ranks[rows] = _rank_of_best(similarity, *_pairs(order, first[rows], count[rows]))
    return ranks


def recall_at(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Share of the queries with a positive among the first k, as ``recall@k``; also known as hit rate.

    Where a query has several positives, torchmetrics' RetrievalRecall instead gives the share of them within k
    (2 positives at ranks 1 and 9: recall@5 is 1 here and 0.5 there); its RetrievalHitRate agrees with this one.
    """
    return {f"recall@{k}": float((ranks <= k).double().mean()) for k in ks}


def median_rank(ranks: Tensor) -> float:
    """Median rank; the mean of the middle two for an even number of queries."""
    return float(np.median(ranks.cpu().numpy()))


def mean_reciprocal_rank(ranks: Tensor) -> float:
    """Mean of 1 / rank of the best positive, from 0 to 1."""
    return float(ranks.double().reciprocal().mean())


def label_map(
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    exclude_self: bool,
    stripe: int = STRIPE,
) -> Tensor:
    """Average precision of each query over the whole gallery; items that share at least one label are relevant.

    AP = (1/number of relevant items) Σ_relevant (relevant items down to it) / (its rank); its mean over queries is mAP.

    Args:
        query: unit rows (N, E).
        gallery: unit rows (M, E).
        query_labels: (N, L) bool, multi-hot.
        gallery_labels: (M, L) bool, multi-hot.
        exclude_self: query i is gallery item i, which is left out.
        stripe: similarities held at once.

    Returns:
        (N,) float64 on the CPU, from 0 to 1; NaN where nothing is relevant, for such a query is neither good nor bad.

    Raises:
        ValueError: rows that are not finite or not of norm 1, labels of another shape, or exclude_self with N ≠ M.
    """
    check_unit_rows(query=query, gallery=gallery)
    _check_labels(query, query_labels)
    _check_labels(gallery, gallery_labels)
    if exclude_self and len(query) != len(gallery):
        raise ValueError(f"exclude_self needs the gallery to be the queries, got {len(query)} and {len(gallery)} rows")
    precision = torch.empty(len(query), dtype=torch.float64)
    shared = similarity_stripes(query_labels, gallery_labels, stripe=stripe)
    for (rows, similarity), (_, overlap) in zip(similarity_stripes(query, gallery, stripe=stripe), shared, strict=True):
        if exclude_self:
            overlap.diagonal(rows.start).zero_()
            similarity.diagonal(rows.start).fill_(-2.0)  # below every cosine: last, and not relevant
        precision[rows] = torch.from_numpy(_average_precision(similarity, overlap > 0))
    return precision


def zero_shot_ranks(image: Tensor, label_text: Tensor, labels: Tensor, *, stripe: int = STRIPE) -> Tensor:
    """Rank of the best of each picture's own labels among all labels, by the cosine to the label's text.

    Args:
        image: unit rows (N, E).
        label_text: unit rows (L, E).
        labels: (N, L) bool, multi-hot; at least one label in a row.
        stripe: similarities held at once.

    Returns:
        (N,) int64, from 1; other own labels do not count as errors.

    Raises:
        ValueError: rows that are not finite or not of norm 1, labels of another shape, or a row without a label.
    """
    check_unit_rows(image=image, label_text=label_text)
    _check_labels(image, labels)
    if missing := int((~labels.any(dim=1)).sum()):
        raise ValueError(f"{missing} of {len(labels)} rows have no label; leave them out of zero-shot accuracy")
    ranks = torch.empty(len(image), dtype=torch.int64, device=image.device)
    for rows, similarity in similarity_stripes(image, label_text, stripe=stripe):
        row, column = labels[rows].nonzero(as_tuple=True)
        ranks[rows] = _rank_of_best(similarity, row, column)
    return ranks


def ranks_of_best(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank (N,) int64 of the best of each row's own labels among all, by scores (N, L) that need not be cosines.

    Args:
        scores: (N, L); those that differ by less than ``TIE`` are equal.
        labels: (N, L) bool, multi-hot; at least one label in a row.
    """
    return _rank_of_best(scores.clone(), *labels.nonzero(as_tuple=True))


def summarise_ranks(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """``recall@k`` for each k, ``median_rank`` and ``mrr`` of ranks (N,)."""
    return recall_at(ranks, ks) | {"median_rank": median_rank(ranks), "mrr": mean_reciprocal_rank(ranks)}


def _positives(query_group: Tensor, gallery_group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gallery items ordered by group (M,), and where in that order each query's positives start, and how many (N,)."""
    groups, order = gallery_group.sort()
    first = torch.searchsorted(groups, query_group)
    return order, first, torch.searchsorted(groups, query_group, right=True) - first


def _pairs(order: Tensor, first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (P,) of every positive pair of a stripe, from what `_positives` gives for its rows (R,)."""
    row = torch.arange(len(count), device=count.device).repeat_interleave(count)
    shift = first - (count.cumsum(0) - count)
    return row, order[shift[row].add_(torch.arange(len(row), device=count.device))]


def _rank_of_best(similarity: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Rank (R,) of the best positive in each row of a stripe (R, M), from the positive pairs; overwrites the stripe."""
    best = similarity.new_full(similarity.shape[:1], -torch.inf)
    best.scatter_reduce_(0, row, similarity[row, column], "amax")
    similarity[row, column] = -torch.inf
    # Counted in fp32, in place: four times as fast as a sum of bools, and exact up to 16 million items.
    return 1 + similarity.ge_(best[:, None] - TIE).sum(dim=1).long()


def _average_precision(similarity: Tensor, relevant: Tensor) -> NDArray[np.float64]:
    """AP (R,) of a stripe (R, M); overwrites the stripe.

    Relevant items are lowered by the tie's width. Whether an item is relevant then travels through the sort in the last
    bit of its cosine (1e-7, far below a tie), since sorting numbers alone is ten times as fast as sorting indices.
    """
    similarity.sub_(relevant.float(), alpha=TIE)
    similarity.view(torch.int32).bitwise_and_(-2).bitwise_or_(relevant)
    ascending = np.sort(similarity.cpu().numpy(), axis=1)
    row, place = np.nonzero(ascending.view(np.int32) & 1)
    count = np.bincount(row, minlength=len(ascending))
    before = np.arange(len(row)) - (count.cumsum() - count)[row]  # relevant items further down the list
    precision = (count[row] - before) / (ascending.shape[1] - place)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing is relevant
        return np.bincount(row, weights=precision, minlength=len(ascending)) / count


def _check_labels(rows: Tensor, labels: Tensor) -> None:
    """Refuse labels that do not describe these rows."""
    if labels.dtype != torch.bool or labels.ndim != 2 or len(labels) != len(rows):
        raise ValueError(
            f"labels must be bool of shape ({len(rows)}, labels), got {labels.dtype} {tuple(labels.shape)}"
        )
