"""What a space of pairs is evaluated by: retrieval, labels and geometry of one set of embeddings.

Shapes: N rows, E shared embedding, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.comparison import means
from vectoruniverse.evaluation.result import Evaluation, Labels
from vectoruniverse.metrics.geometry import geometry
from vectoruniverse.metrics.ranking import label_map, retrieval_ranks, summarise_ranks, zero_shot_ranks

ZERO_SHOT_AT = (1, 3)
"""The k of zero-shot label accuracy."""

NEIGHBOURS = (("image", "image"), ("text", "text"), ("image", "text"), ("text", "image"))
"""Query and gallery of the mean average precision of label-sharing neighbours."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors of a split's pictures and texts, both (N, E) float32 on the CPU."""

    image: Tensor
    text: Tensor


def evaluate_pairs(
    first: Tensor, second: Tensor, items: PairItems, recall_at: Sequence[int], *, names: tuple[str, str]
) -> Evaluation:
    """Retrieval of either side of the pairs by the other, and the geometry of both.

    Every row is a query, so that an item weighs as much as it has rows. What it asks among are the distinct items of
    the other side, each standing once, with the vector of its first row; those that some row holds together with the
    query's item are right, and the best of them counts.

    Args:
        first: unit rows (N, E).
        second: unit rows (N, E); row i belongs to row i of the first.
        items: which rows hold the same item.
        recall_at: the k of recall@k.
        names: of the sides; with ("a", "b") the metrics are ``a_to_b/recall@k``, ``b_to_a/mrr``, ``a/uniformity``, ...,
            and their means over the directions stand under their bare names.

    Returns:
        Metrics, what recall and MRR are means of, and the ranks by direction; ties count against the model.
    """
    a, b = names
    forth, back = pair_ranks(first, second, items), pair_ranks(second, first, items.turned())
    metrics = _both_ways(names, summarise_ranks(forth, recall_at), summarise_ranks(back, recall_at))
    ranks = {f"{a}_to_{b}": forth.cpu().numpy(), f"{b}_to_{a}": back.cpu().numpy()}
    per_row = _both_ways(names, *(values_of_ranks(found, recall_at) for found in ranks.values()))
    return Evaluation(metrics | geometry(first, second, names), per_row, ranks, {a: first, b: second})


def pair_ranks(query: Tensor, answer: Tensor, items: PairItems) -> Tensor:
    """Rank (N,) of each query row's best right answer among the distinct ones.

    Args:
        query: unit rows (N, E).
        answer: unit rows (N, E); row i belongs to row i of the queries.
        items: queries on the first side, answers on the second.
    """
    rows, (asking, place) = items.gallery(), items.answers()
    gallery = answer if len(rows) == len(answer) else answer[torch.from_numpy(rows)]
    asked, asking_ids, places = (torch.from_numpy(ids) for ids in (items.first, asking, place))
    return retrieval_ranks(query, gallery, asked, asking_ids, gallery_item=places)


Value = TypeVar("Value", float, NDArray[np.float64])


def _both_ways(names: tuple[str, str], forth: Mapping[str, Value], back: Mapping[str, Value]) -> dict[str, Value]:
    """Values of both directions under their names, and the means of both under the bare names."""
    a, b = names
    return {
        **{f"{a}_to_{b}/{name}": value for name, value in forth.items()},
        **{f"{b}_to_{a}/{name}": value for name, value in back.items()},
        **{name: (forth[name] + back[name]) / 2 for name in forth},
    }


def values_of_ranks(ranks: NDArray[np.int64], recall_at: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """What recall and MRR are means of: hit or miss, and 1 / rank, of each row."""
    hits = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in recall_at}
    return hits | {"mrr": 1.0 / ranks}


def evaluate_labels(embeddings: Embeddings, labels: Labels) -> Evaluation:
    """Zero-shot label accuracy, and mean average precision of label-sharing neighbours within and across modalities.

    ``zero_shot/accuracy@k``: one of the picture's own labels is among the k labels whose texts are nearest to it.
    ``map/<query>_to_<gallery>``: rows that share a label are relevant; the row itself is left out.
    Rows without a label count in neither (NaN).
    """
    has_label = labels.of_row.any(dim=1)
    if not has_label.any():
        return Evaluation({})
    per_row: dict[str, NDArray[np.float64]] = {}
    ranks = zero_shot_ranks(embeddings.image[has_label], labels.text, labels.of_row[has_label])
    for k in ZERO_SHOT_AT:
        per_row[f"zero_shot/accuracy@{k}"] = spread((ranks <= k).double(), has_label)
    for query, gallery in NEIGHBOURS:
        precision = label_map(
            getattr(embeddings, query)[has_label],
            getattr(embeddings, gallery)[has_label],
            labels.of_row[has_label],
            labels.of_row[has_label],
            exclude_self=True,
        )
        per_row[f"map/{query}_to_{gallery}"] = spread(precision, has_label)
    return Evaluation(means(per_row), per_row)


def spread(values: Tensor, where: Tensor) -> NDArray[np.float64]:
    """Values of some rows among all rows, NaN elsewhere."""
    spread = np.full(len(where), np.nan)
    spread[where.cpu().numpy()] = values.cpu().numpy()
    return spread
