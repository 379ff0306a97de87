"""Ranking metrics against sentence-transformers' InformationRetrievalEvaluator, where the definitions are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim
from torch.nn import functional as F

from vectoruniverse.metrics.ranking import label_map, recall_at, retrieval_ranks, summarise_ranks

N, E = 60, 12


class Given:
    """Stands where the evaluator wants a model: its texts are row numbers, its vectors are given."""

    def __init__(self, query, gallery):
        self.query, self.gallery = query, gallery

    def encode_query(self, texts, **_):
        return self.query[[int(text) for text in texts]]

    def encode_document(self, texts, **_):
        return self.gallery[[int(text) for text in texts]]


def evaluator(relevant, ks):
    rows = {str(i): str(i) for i in range(N)}
    return InformationRetrievalEvaluator(
        rows, rows, relevant, accuracy_at_k=ks, mrr_at_k=[N], map_at_k=[N], precision_recall_at_k=ks, ndcg_at_k=[1],
        write_csv=False, score_functions={"cosine": cos_sim},
    )  # fmt: skip


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(N, E, generator=generator), dim=1)
    image = F.normalize(text + 0.9 * torch.randn(N, E, generator=generator) / E**0.5, dim=1)
    return image, text


def test_recall_and_mrr_with_titles_that_occur_twice(vectors):
    image, text = vectors
    groups = torch.arange(N) // 2  # every title belongs to two rows, which are joint positives
    relevant = {str(i): {str(j) for j in range(N) if j // 2 == i // 2} for i in range(N)}
    theirs = evaluator(relevant, [1, 5, 10]).compute_all_metrics(Given(image, text))["cosine"]
    ours = summarise_ranks(retrieval_ranks(image, text, groups, groups), [1, 5, 10])
    # their accuracy@k, a hit among the first k, is what image-text retrieval calls recall@k
    for k in (1, 5, 10):
        assert ours[f"recall@{k}"] == pytest.approx(theirs["accuracy@k"][k])
    assert ours["mrr"] == pytest.approx(theirs["mrr@k"][N])


def test_their_recall_counts_the_share_of_positives_and_ours_the_queries_with_one(vectors):
    """The documented difference: two positives at ranks 1 and 9 are recall@5 0.5 there, 1.0 here."""
    gallery = torch.eye(N)
    query = gallery.clone()
    query[0] = F.normalize(torch.linspace(1.0, 0.1, N), dim=0)  # ranks the gallery 0, 1, 2, …
    relevant = {str(i): {str(i)} for i in range(N)} | {"0": {"0", "8"}}
    theirs = evaluator(relevant, [5]).compute_all_metrics(Given(query, gallery))["cosine"]
    groups = torch.arange(N)
    groups[8] = 0
    ours = recall_at(retrieval_ranks(query, gallery, groups, groups), [5])
    assert ours["recall@5"] == 1.0
    assert theirs["recall@k"][5] < 1.0


def test_map_of_label_sharing_neighbours(vectors):
    image, text = vectors
    labels = torch.zeros(N, 4, dtype=torch.bool)
    labels[torch.arange(N), torch.arange(N) % 4] = True
    labels[::5, 0] = True
    shared = (labels.float() @ labels.float().T) > 0
    relevant = {str(i): {str(j) for j in range(N) if shared[i, j]} for i in range(N)}
    theirs = evaluator(relevant, [1]).compute_all_metrics(Given(image, text))["cosine"]
    ours = label_map(image, text, labels, labels, exclude_self=False)
    assert float(np.mean(ours.numpy())) == pytest.approx(theirs["map@k"][N])
