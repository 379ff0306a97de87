from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.metrics.geometry import geometry
from vectoruniverse.metrics.ranking import retrieval_metrics
from vectoruniverse.tasks.judging import Embeddings, Labels, judge, judge_labels, judge_sides


def test_labels_are_judged_by_hand_drawn_vectors():
    """Two labels on the axes; rows 0 and 1 point at their own, row 2 at the other one, row 3 has no label."""
    axes = torch.eye(2)
    rows = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.9, 0.2], [1.0, 1.0]]), dim=1)
    of_row = torch.tensor([[True, False], [False, True], [False, True], [False, False]])
    judged = judge_labels(Embeddings(rows, rows), Labels(["a", "b"], axes, of_row))
    assert judged.per_query["zero_shot/accuracy@1"].tolist()[:3] == [1.0, 1.0, 0.0]
    assert math.isnan(judged.per_query["zero_shot/accuracy@1"][3])
    assert judged.metrics["zero_shot/accuracy@1"] == pytest.approx(2 / 3)
    assert judged.metrics["zero_shot/accuracy@3"] == 1.0
    # rows 1 and 2 share a label: each finds the other behind row 0 or at the end; row 0 has no relevant neighbour
    precision = judged.per_query["map/image_to_image"]
    assert math.isnan(precision[0]) and math.isnan(precision[3])
    cosine = (rows[:3] @ rows[:3].T).numpy()
    for query, other in ((1, 2), (2, 1)):
        rank = 1 + sum(cosine[query, j] > cosine[query, other] for j in range(3) if j not in (query, other))
        assert precision[query] == pytest.approx(1 / rank)


def test_rows_without_any_label_give_no_numbers():
    rows = torch.eye(3)
    judged = judge_labels(Embeddings(rows, rows), Labels(["a"], rows[:1], torch.zeros(3, 1, dtype=torch.bool)))
    assert judged.metrics == {}


def test_map_equals_torchmetrics():
    from torchmetrics.functional.retrieval import retrieval_average_precision

    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(30, 8, generator=generator), dim=1) for _ in range(2))
    of_row = torch.rand(30, 5, generator=generator) < 0.4
    of_row[:, 0] |= ~of_row.any(dim=1)
    judged = judge_labels(Embeddings(image, text), Labels(list("abcde"), F.normalize(torch.randn(5, 8), dim=1), of_row))
    relevant = (of_row.float() @ of_row.float().T) > 0
    expected = []
    for query in range(30):
        others = torch.arange(30) != query
        scores = (image[query] @ text.T)[others] + 2  # torchmetrics leaves out scores that are not positive
        expected.append(float(retrieval_average_precision(scores, relevant[query][others])))
    assert np.allclose(judged.per_query["map/image_to_text"], expected, atol=1e-6)


def test_sides_carry_the_names_they_are_given_and_pictures_and_texts_their_own():
    generator = torch.Generator().manual_seed(1)
    first, second = (F.normalize(torch.randn(12, 4, generator=generator), dim=1) for _ in range(2))
    groups = torch.tensor([0, 0, *range(1, 11)])
    judged = judge(Embeddings(first, second), groups.numpy(), (1, 5))
    expected = retrieval_metrics(first, second, groups, (1, 5)) | geometry(first, second)
    assert list(judged.metrics.items()) == list(expected.items())
    assert list(judged.ranks) == list(dict.fromkeys(n.partition("/")[0] for n in judged.per_query if "/" in n))

    def renamed(name: str) -> str:
        return name.replace("image", "left").replace("text", "right")

    sides = judge_sides(first, second, groups.numpy(), (1, 5), names=("left", "right"))
    assert dict(sides.metrics) == {renamed(name): value for name, value in expected.items()}
    for name, values in judged.per_query.items():
        assert np.array_equal(sides.per_query[renamed(name)], values)
        assert judged.metrics[name] == pytest.approx(values.mean())
