from __future__ import annotations

import numpy as np
import pytest
import torch

from vectoruniverse.data.pair_items import same_texts
from vectoruniverse.losses import contrastive as losses
from vectoruniverse.metrics import geometry
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.models.scratch import build_bert
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.tasks.text_pairs.task import TextPairs, TextPairsTask

FIRST = ["red circle", "blue square", "green triangle on the left", "red circle", "two", "three"]
SECOND = ["빨간 원", "파란 네모", "왼쪽 초록 세모", "빨간 동그라미", "둘", "셋"]


def make_task(*, dropout=0.0, text_is_random=False):
    sizes = ScratchBert(
        scratch="bert", vocab_size=120, width=16, layers=2, heads=2, intermediate=32, max_text_tokens=16,
        dropout=dropout,
    )  # fmt: skip
    compute = Compute(torch.device("cpu"), torch.float32)
    encoder = build_bert(FIRST + SECOND, sizes, compute, seed=0, pooling="mean")
    pairs = TextPairs(encoder.tokenize(FIRST), encoder.tokenize(SECOND), same_texts(FIRST, SECOND))
    seen = []

    def loss(given, relations):
        seen.append(dict(given))
        return losses.info_nce(given, relations, logit_scale=20.0, pairs=("IT",))

    task = TextPairsTask(
        encoder, train=pairs, val=pairs, loss=loss, text_is_random=text_is_random, recall_at=(1, 5), eval_batch=4
    )
    return task, seen


def test_without_dropout_one_pass_serves_both_views():
    task, seen = make_task()
    step = task.loss(np.array([0, 2, 4]), epoch=0)
    (given,) = seen
    assert given["I"] is given["I+"] and given["T"] is given["T+"]
    assert given["I"].shape == given["T"].shape == (3, 16)
    assert torch.allclose(given["T"].norm(dim=1), torch.ones(3))
    assert torch.equal(step.embeddings, torch.cat([given["I"], given["T"]])) and not step.embeddings.requires_grad


def test_with_dropout_two_passes_differ_and_torch_s_seed_decides_them():
    task, seen = make_task(dropout=0.3, text_is_random=True)
    task.encoder.module.train()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        task.loss(np.array([0, 1, 5]), epoch=0)
    first, again, other = seen
    assert not torch.allclose(first["I"], first["I+"], atol=1e-3)
    assert not torch.allclose(first["T"], first["T+"], atol=1e-3)
    assert all(torch.equal(first[view], again[view]) for view in first)
    assert not torch.allclose(first["I"], other["I"], atol=1e-3)


def test_a_text_that_several_rows_have_is_encoded_once_with_the_loss_and_gradient_of_each(monkeypatch):
    rows, found = np.array([3, 1, 0, 5]), []
    for tokens in (TokenizedTexts.distinct, lambda tokens, rows: (rows, np.arange(len(rows)))):
        monkeypatch.setattr(TokenizedTexts, "distinct", tokens)
        task, seen = make_task()
        encoded, encode = [], task.encoder.encode_texts
        task.encoder.encode_texts = lambda batch, encode=encode, encoded=encoded: (
            encoded.append(len(batch.ids)) or encode(batch)
        )
        task.encoder.module.train()
        gradients = torch.autograd.grad(
            task.loss(rows, epoch=0).total, list(task.trained().values()), allow_unused=True
        )
        found.append((encoded, seen[0], gradients))
    (once, views, ours), (each, plain, theirs) = found
    assert (once, each) == ([3, 4], [4, 4])
    for view in "IT":
        torch.testing.assert_close(views[view], plain[view], rtol=1e-6, atol=1e-6)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_under_dropout_rows_with_the_same_text_differ():
    task, seen = make_task(dropout=0.3, text_is_random=True)
    task.encoder.module.train()
    task.loss(np.array([0, 3]), epoch=0)
    assert not torch.allclose(seen[0]["I"][0], seen[0]["I"][1], atol=1e-3)


def test_rows_of_the_loss_are_the_rows_asked_for():
    task, seen = make_task()
    vectors = task.embed(task.train)
    task.loss(np.array([5, 2]), epoch=0)
    assert torch.allclose(seen[0]["I"], vectors["first"][[5, 2]], atol=1e-5)
    assert torch.allclose(seen[0]["T"], vectors["second"][[5, 2]], atol=1e-5)


def test_training_on_the_pairs_finds_the_partners():
    task, _ = make_task()
    before = task.evaluate().metrics
    task.encoder.module.train()
    optimizer = torch.optim.AdamW(task.trained().values(), lr=3e-3)
    for epoch in range(40):
        optimizer.zero_grad()
        step = task.loss(np.array([0, 1, 2, 4, 5]), epoch)  # rows 0 and 3 are positives of each other
        step.total.backward()
        optimizer.step()
        task.after_step()
    after = task.evaluate().metrics
    assert before["recall@1"] < 0.8 <= after["recall@1"]
    assert after["row_uniformity"] > before["row_uniformity"]
    assert task.train_rows == 6 and task.encoder.module in task.modules()


def test_evaluation_is_retrieval_with_joint_positives_pair_scores_and_geometry():
    task, _ = make_task()
    found = task.evaluate()
    first, second = found.vectors["first"], found.vectors["second"]
    cosine = (first @ second.T).double()
    for name, matrix in (("first_to_second", cosine), ("second_to_first", cosine.T)):
        ranks = []
        for i, row in enumerate(matrix):
            right = [j for j in range(6) if FIRST[j] == FIRST[i]]
            wrong = [j for j in range(6) if j not in right and (j != 3 or name == "first_to_second")]  # 0 again
            ranks.append(1 + sum(bool(row[j] >= row[right].max() - 1e-6) for j in wrong))
        assert found.ranks[name].tolist() == ranks
        assert found.metrics[f"{name}/recall@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
        assert found.metrics[f"{name}/mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert found.metrics[f"{name}/median_rank"] == np.median(ranks)
    for metric in ("recall@5", "mrr", "median_rank"):
        sides = [found.metrics[f"{name}/{metric}"] for name in found.ranks]
        assert found.metrics[metric] == pytest.approx(np.mean(sides))
    assert found.metrics["pair_cosine"] == pytest.approx(float(cosine.diagonal().mean()), abs=1e-6)
    assert found.metrics["second/uniformity"] == pytest.approx(geometry.uniformity(second))
    assert found.metrics["first/mean_cosine"] == pytest.approx(geometry.mean_cosine(first))
    assert found.metrics["effective_rank"] == pytest.approx(geometry.effective_rank(torch.cat([first, second])))
    assert {"alignment", "largest_eigenvalue_share", "first/effective_rank"} <= found.metrics.keys()
    assert not [name for name in found.metrics if "image" in name or "text" in name]


def test_metrics_with_a_value_for_each_row_are_their_means():
    found = make_task()[0].evaluate("train")
    assert {"recall@1", "first_to_second/mrr", "pair_cosine_clipped", "column_uniformity"} <= found.per_query.keys()
    for name, values in found.per_query.items():
        assert values.shape == (6,)
        assert found.metrics[name] == pytest.approx(values.mean())


def test_evaluation_is_without_dropout_and_leaves_the_mode_as_it_was():
    task, _ = make_task(dropout=0.5, text_is_random=True)
    task.encoder.module.train()
    once, again = task.evaluate(), task.evaluate()
    assert torch.equal(once.vectors["second"], again.vectors["second"])
    assert task.encoder.module.training and not once.vectors["first"].requires_grad
