from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.result import Labels
from vectoruniverse.evaluation.retrieval import Embeddings, evaluate_labels, evaluate_pairs
from vectoruniverse.metrics.geometry import geometry
from vectoruniverse.metrics.ranking import retrieval_ranks, summarise_ranks


def test_labels_are_found_by_hand_drawn_vectors():
    """Two labels on the axes; rows 0 and 1 point at their own, row 2 at the other one, row 3 has no label."""
    axes = torch.eye(2)
    rows = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.9, 0.2], [1.0, 1.0]]), dim=1)
    of_row = torch.tensor([[True, False], [False, True], [False, True], [False, False]])
    found = evaluate_labels(Embeddings(rows, rows), Labels(["a", "b"], axes, of_row))
    assert found.per_query["zero_shot/accuracy@1"].tolist()[:3] == [1.0, 1.0, 0.0]
    assert math.isnan(found.per_query["zero_shot/accuracy@1"][3])
    assert found.metrics["zero_shot/accuracy@1"] == pytest.approx(2 / 3)
    assert found.metrics["zero_shot/accuracy@3"] == 1.0
    # rows 1 and 2 share a label: each finds the other behind row 0 or at the end; row 0 has no relevant neighbour
    precision = found.per_query["map/image_to_image"]
    assert math.isnan(precision[0]) and math.isnan(precision[3])
    cosine = (rows[:3] @ rows[:3].T).numpy()
    for query, other in ((1, 2), (2, 1)):
        rank = 1 + sum(cosine[query, j] > cosine[query, other] for j in range(3) if j not in (query, other))
        assert precision[query] == pytest.approx(1 / rank)


def test_rows_without_any_label_give_no_numbers():
    rows = torch.eye(3)
    found = evaluate_labels(Embeddings(rows, rows), Labels(["a"], rows[:1], torch.zeros(3, 1, dtype=torch.bool)))
    assert found.metrics == {}


def test_map_equals_torchmetrics():
    from torchmetrics.functional.retrieval import retrieval_average_precision

    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(30, 8, generator=generator), dim=1) for _ in range(2))
    of_row = torch.rand(30, 5, generator=generator) < 0.4
    of_row[:, 0] |= ~of_row.any(dim=1)
    found = evaluate_labels(
        Embeddings(image, text), Labels(list("abcde"), F.normalize(torch.randn(5, 8), dim=1), of_row)
    )
    relevant = (of_row.float() @ of_row.float().T) > 0
    expected = []
    for query in range(30):
        others = torch.arange(30) != query
        scores = (image[query] @ text.T)[others] + 2  # torchmetrics leaves out scores that are not positive
        expected.append(float(retrieval_average_precision(scores, relevant[query][others])))
    assert np.allclose(found.per_query["map/image_to_text"], expected, atol=1e-6)


def slow_ranks(query, answer, items):
    """Rank of the best right answer, by the words of the definition: nothing but loops over rows."""
    ranks, n = [], len(query)
    first = [g for g in range(n) if all(items.second[h] != items.second[g] for h in range(g))]
    for i in range(n):
        cosines = [float(query[i] @ answer[g]) for g in first]
        right = [
            any(items.second[g] == items.second[j] and items.first[j] == items.first[i] for j in range(n))
            for g in first
        ]
        best = max(c for c, r in zip(cosines, right, strict=True) if r)
        ranks.append(1 + sum(c >= best - 1e-6 for c, r in zip(cosines, right, strict=True) if not r))
    return np.array(ranks)


def pairs_of_items(seed, rows=40, *, pictures=12, texts=15):
    """Rows that share pictures and texts crosswise, with one vector for each distinct item."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    items = PairItems(random.integers(pictures, size=rows), random.integers(texts, size=rows))
    sides = (F.normalize(torch.randn(count, 5, generator=generator), dim=1) for count in (pictures, texts))
    first, second = (side[torch.from_numpy(ids)] for side, ids in zip(sides, (items.first, items.second), strict=True))
    return first, second, items


@pytest.mark.parametrize("seed", range(6))
def test_ranks_are_those_of_the_definition_in_plain_loops(seed):
    first, second, items = pairs_of_items(seed)
    found = evaluate_pairs(first, second, items, (1, 5), names=("first", "second"))
    assert found.ranks["first_to_second"].tolist() == slow_ranks(first, second, items).tolist()
    assert found.ranks["second_to_first"].tolist() == slow_ranks(second, first, items.turned()).tolist()
    for name, values in found.per_query.items():
        assert len(values) == 40 and found.metrics[name] == pytest.approx(values.mean())


def test_every_caption_of_a_picture_is_right_and_the_picture_stands_once_in_the_gallery():
    """20 pictures with 5 captions each; a caption lies near its picture and no nearer to any other."""
    generator = torch.Generator().manual_seed(0)
    pictures = F.normalize(torch.randn(20, 64, generator=generator), dim=1)
    of_row = torch.arange(20).repeat_interleave(5)
    image = pictures[of_row]
    text = F.normalize(image + 0.05 * torch.randn(100, 64, generator=generator), dim=1)
    found = evaluate_pairs(image, text, PairItems(of_row.numpy(), np.arange(100)), (1, 5), names=("image", "text"))
    assert (found.metrics["image_to_text/recall@1"], found.metrics["text_to_image/recall@1"]) == (1.0, 1.0)
    point = F.normalize(torch.ones(100, 4), dim=1)
    collapsed = evaluate_pairs(point, point, PairItems(of_row.numpy(), np.arange(100)), (1, 5), names=("image", "text"))
    assert set(collapsed.ranks["image_to_text"]) == {96} and set(collapsed.ranks["text_to_image"]) == {20}


def test_without_duplicates_the_ranks_are_those_among_all_rows_bit_for_bit():
    generator = torch.Generator().manual_seed(4)
    image, text = (F.normalize(torch.randn(64, 8, generator=generator), dim=1) for _ in range(2))
    ids = torch.arange(64)
    found = evaluate_pairs(image, text, PairItems(np.arange(64), np.arange(64)), (1, 5), names=("image", "text"))
    forth, back = retrieval_ranks(image, text, ids, ids), retrieval_ranks(text, image, ids, ids)
    assert found.ranks["image_to_text"].tolist() == forth.tolist()
    a, b = summarise_ranks(forth, (1, 5)), summarise_ranks(back, (1, 5))
    plain = {f"image_to_text/{k}": v for k, v in a.items()} | {f"text_to_image/{k}": v for k, v in b.items()}
    plain |= {name: (a[name] + b[name]) / 2 for name in a}
    expected = plain | geometry(image, text)
    assert list(found.metrics.items()) == list(expected.items())


def test_sides_carry_the_names_they_are_given_and_pictures_and_texts_their_own():
    first, second, items = pairs_of_items(1, rows=12)
    found = evaluate_pairs(first, second, items, (1, 5), names=("image", "text"))
    assert list(found.ranks) == list(dict.fromkeys(n.partition("/")[0] for n in found.per_query if "/" in n))

    def renamed(name: str) -> str:
        return name.replace("image", "left").replace("text", "right")

    sides = evaluate_pairs(first, second, items, (1, 5), names=("left", "right"))
    assert dict(sides.metrics) == {renamed(name): value for name, value in found.metrics.items()}
    for name, values in found.per_query.items():
        assert np.array_equal(sides.per_query[renamed(name)], values)
        assert found.metrics[name] == pytest.approx(values.mean())
