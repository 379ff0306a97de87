"""How a dual encoder is judged: retrieval, labels and geometry of one set of embeddings.

Shapes: N rows, E shared embedding, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vectoruniverse.metrics.comparing import means
from vectoruniverse.metrics.geometry import geometry
from vectoruniverse.metrics.ranking import label_map, ranking_metrics, retrieval_ranks, zero_shot_ranks
from vectoruniverse.tasks.contract import Evaluation

ZERO_SHOT_AT = (1, 3)
"""The k of zero-shot label accuracy."""

NEIGHBOURS = (("image", "image"), ("text", "text"), ("image", "text"), ("text", "image"))
"""Query and gallery of the mean average precision of label-sharing neighbours."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors of a split's pictures and texts, both (N, E) float32 on the CPU."""

    image: Tensor
    text: Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """Label names (C) with their texts' unit vectors (C, E), and which row has which, (N, C) bool."""

    names: Sequence[str]
    text: Tensor
    of_row: Tensor


def judge(embeddings: Embeddings, groups: NDArray[np.int64], recall_at: Sequence[int]) -> Evaluation:
    """Retrieval in both directions among all rows, and the geometry of the space.

    Rows with the same text are joint positives, and ties count against the model.
    """
    ids = torch.from_numpy(groups)
    image_to_text = retrieval_ranks(embeddings.image, embeddings.text, ids, ids)
    text_to_image = retrieval_ranks(embeddings.text, embeddings.image, ids, ids)
    metrics = ranking_metrics(image_to_text, text_to_image, recall_at) | geometry(embeddings.image, embeddings.text)
    ranks = {"image_to_text": image_to_text.cpu().numpy(), "text_to_image": text_to_image.cpu().numpy()}
    return Evaluation(metrics, _per_row(ranks["image_to_text"], ranks["text_to_image"], recall_at), ranks)


def _per_row(
    image_to_text: NDArray[np.int64], text_to_image: NDArray[np.int64], recall_at: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """What recall and MRR are means of: hit or miss, and 1 / rank, of each row."""

    def of(ranks: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        hits = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in recall_at}
        return hits | {"mrr": 1.0 / ranks}

    forth, back = of(image_to_text), of(text_to_image)
    return {
        **{f"image_to_text/{name}": values for name, values in forth.items()},
        **{f"text_to_image/{name}": values for name, values in back.items()},
        **{name: (forth[name] + back[name]) / 2 for name in forth},
    }


def judge_labels(embeddings: Embeddings, labels: Labels) -> Evaluation:
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
        per_row[f"zero_shot/accuracy@{k}"] = _spread((ranks <= k).double(), has_label)
    for query, gallery in NEIGHBOURS:
        precision = label_map(
            getattr(embeddings, query)[has_label],
            getattr(embeddings, gallery)[has_label],
            labels.of_row[has_label],
            labels.of_row[has_label],
            exclude_self=True,
        )
        per_row[f"map/{query}_to_{gallery}"] = _spread(precision, has_label)
    return Evaluation(means(per_row), per_row)


def _spread(values: Tensor, where: Tensor) -> NDArray[np.float64]:
    """Values of some rows among all rows, NaN elsewhere."""
    spread = np.full(len(where), np.nan)
    spread[where.cpu().numpy()] = values.cpu().numpy()
    return spread
