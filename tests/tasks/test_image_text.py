from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.models import save_clip
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.data.views import Augmentation
from vectoruniverse.losses import contrastive as losses
from vectoruniverse.models import encoder as encoder_module
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.models.encoder import TokenizedTexts
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs, TrainingParts

TITLES = [
    "red circle",
    "blue square",
    "green triangle",
    "a yellow cross on the left",
    "red circle",
    "two",
    "three",
    "one",
]
RANDOM = Augmentation((0.5, 1.0), (0.8, 1.25), 0.3, 0.3, 0.3)


class Noise:
    """Pictures of coloured noise."""

    def __init__(self, rows, order):
        self.array = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)[order]

    def take(self, indices):
        return self.array[indices]

    def reading_order(self):
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def make_task(
    folder, *, views=2, augmentation=RANDOM, text_is_random=False, dropout=0.0, order=None,
    towers=("vision_model", "text_model"), parts=None,
):  # fmt: skip
    encoder = load_dual_encoder(str(folder), Compute(torch.device("cpu"), torch.float32))
    targets = [TowerTargets(tower, ("q_proj", "v_proj"), "adapter") for tower in towers]
    inject_lora(encoder.model, targets, rank=2, alpha=2.0, dropout=dropout, seed=0)
    order = np.arange(len(TITLES)) if order is None else np.asarray(order)
    pairs = Pairs(
        Noise(len(TITLES), order),
        [1000 + int(i) for i in order],
        encoder.tokenize([TITLES[i] for i in order]),
        PairItems(order, number([TITLES[i] for i in order])),
    )
    seen = []

    def loss(given, relations):
        seen.append(dict(given))
        return losses.info_nce(given, relations, logit_scale=20.0, pairs=("IT",))

    task = ImageTextTask(
        encoder, train=pairs, val=pairs, loss=loss, augmentation=augmentation, views=views,
        text_is_random=text_is_random, seed=3, recall_at=(1, 5), eval_batch=3, parts=parts,
    )  # fmt: skip
    return task, seen


def test_two_views_of_a_picture_differ_and_texts_without_dropout_are_one(folder):
    task, seen = make_task(folder)
    task.loss(np.array([0, 3, 5]), epoch=0)
    (given,) = seen
    assert given["I"].shape == given["T"].shape == (3, 16)
    assert not torch.allclose(given["I"], given["I+"], atol=1e-3)
    assert given["T"] is given["T+"]
    assert torch.allclose(given["I+"].norm(dim=1), torch.ones(3))


def test_without_augmentation_one_pass_serves_both_views(folder):
    task, seen = make_task(folder, augmentation=Augmentation())
    task.loss(np.array([0, 1]), epoch=0)
    assert seen[0]["I"] is seen[0]["I+"]


def test_one_view_is_one_pass(folder):
    task, seen = make_task(folder, views=1)
    task.loss(np.array([0, 1]), epoch=0)
    assert seen[0]["I"] is seen[0]["I+"]


def test_dropout_makes_two_text_views(folder):
    task, seen = make_task(folder, text_is_random=True, dropout=0.5)
    with torch.no_grad():
        for name, parameter in task.trained().items():
            if name.endswith("lora_B"):
                parameter.fill_(0.5)
    task.encoder.model.train()
    task.loss(np.array([0, 1]), epoch=0)
    assert not torch.allclose(seen[0]["T"], seen[0]["T+"], atol=1e-4)


def texts_encoded(task):
    """How many rows each pass of the text tower had; noted while the list lives."""
    rows, encode = [], task.encoder.encode_texts
    task.encoder.encode_texts = lambda batch: rows.append(len(batch.ids)) or encode(batch)
    return rows


def with_gradients(task, rows, epoch=0):
    """The loss, and the gradient of all that is trained, B of LoRA no longer 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in task.trained().values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    task.encoder.model.train()
    loss = task.loss(rows, epoch).total
    return loss.detach(), torch.autograd.grad(loss, list(task.trained().values()))


def one_by_one(monkeypatch):
    """Encode every row, whatever its text."""
    monkeypatch.setattr(TokenizedTexts, "distinct", lambda tokens, rows: (rows, np.arange(len(rows))))


SAME = np.array([TITLES.index("red circle"), 3, len(TITLES) - 4, 5])
"""Rows of which the first and the third have one text."""


class Drawn:
    """Texts of views, of which some are the same."""

    def draw(self, rows, epoch, view):
        return [["one", "two"][(int(row) + view) % 2] for row in rows]


@pytest.mark.parametrize(("texts", "passes"), [(None, [3]), (Drawn(), [2])], ids=["as they stand", "drawn"])
def test_a_text_that_several_rows_have_is_encoded_once_with_the_loss_and_gradient_of_each(
    folder, monkeypatch, texts, passes
):
    assert TITLES[SAME[0]] == TITLES[SAME[2]]
    task, seen = make_task(folder, text_is_random=texts is not None, parts=TrainingParts(texts=texts))
    encoded = texts_encoded(task)
    found, gradients = with_gradients(task, SAME)
    assert encoded == passes
    one_by_one(monkeypatch)
    wanted, plain = with_gradients(task, SAME)
    assert encoded[1:] == [4 if texts is None else 8]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert any(gradient.abs().sum() > 0 for gradient in plain)
    for ours, theirs in zip(gradients, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[0]["T"], seen[1]["T"], rtol=1e-6, atol=1e-6)


def test_texts_of_other_lengths_have_other_passes_with_the_loss_and_gradient_of_one(folder, monkeypatch):
    monkeypatch.setattr(encoder_module, "_LEAST_ROWS", 2)
    task, seen = make_task(folder)
    encoded, rows = texts_encoded(task), np.array([3, 7, 0, 5, 1])
    found, gradients = with_gradients(task, rows)
    assert encoded == [3, 2]
    monkeypatch.setattr(encoder_module, "_LEAST_SAVED", 1.0)
    wanted, plain = with_gradients(task, rows)
    assert encoded == [3, 2, 5]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen[0]["T"], seen[1]["T"], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(gradients, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_under_dropout_rows_with_the_same_text_differ(folder):
    task, seen = make_task(folder, dropout=0.5)
    encoded = texts_encoded(task)
    with_gradients(task, SAME)
    assert encoded == [4] and not torch.allclose(seen[0]["T"][0], seen[0]["T"][2], atol=1e-4)


def test_texts_that_nothing_trained_reads_are_encoded_once_more_in_the_second_epoch_and_never_again(folder):
    task, seen = make_task(folder, towers=("vision_model",))
    encoded = texts_encoded(task)
    with_gradients(task, SAME)
    assert encoded == [3]
    second = task.loss(SAME, epoch=1).total
    assert sum(encoded) == 3 + len(TITLES)
    task.loss(SAME[::-1].copy(), epoch=2)
    assert sum(encoded) == 3 + len(TITLES)
    torch.testing.assert_close(seen[1]["T"], seen[0]["T"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen[2]["T"], seen[0]["T"].flip(0), rtol=1e-6, atol=1e-6)
    assert any(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(second, list(task.trained().values())))


def test_texts_that_what_is_trained_reads_are_encoded_in_every_epoch(folder):
    task, _ = make_task(folder, towers=("text_model",))
    encoded = texts_encoded(task)
    for epoch in range(3):
        task.loss(SAME, epoch)
    assert encoded == [3, 3, 3]


def test_a_row_has_the_same_view_in_any_batch_and_order_and_another_one_next_epoch(folder):
    task, seen = make_task(folder)
    shuffled, seen_shuffled = make_task(folder, order=[7, 6, 5, 4, 3, 2, 1, 0])
    task.loss(np.array([0, 3, 5]), epoch=1)
    shuffled.loss(np.array([4, 1]), epoch=1)  # rows 3 and 6 of the unshuffled task
    task.loss(np.array([3, 5]), epoch=2)
    assert torch.allclose(seen[0]["I"][1], seen_shuffled[0]["I"][0], atol=1e-5)
    assert not torch.allclose(seen[0]["I"][1], seen[1]["I"][0], atol=1e-3)


def test_embedding_in_blocks_equals_embedding_one_by_one(folder):
    task, _ = make_task(folder)
    together = task.embed(task.val)
    assert together.image.shape == (8, 16)
    for i in range(8):
        batch = task.encoder.pad(task.val.tokens, [i])
        with torch.no_grad():
            assert torch.allclose(together.text[i], task.encoder.encode_texts(batch)[0], atol=1e-5)


def test_embedding_leaves_the_model_in_the_mode_it_found(folder):
    task, _ = make_task(folder, dropout=0.5)
    task.encoder.model.train()
    first, second = task.embed(task.val), task.embed(task.val)
    assert torch.equal(first.text, second.text), "no dropout in evaluation"
    assert task.encoder.model.training


def test_evaluation_counts_equal_titles_as_joint_positives(folder):
    task, _ = make_task(folder)
    evaluation = task.evaluate()
    embedded = task.embed(task.val)
    cosine = embedded.image @ embedded.text.T
    hits = 0
    for i, row in enumerate(cosine):
        positives = [j for j in range(8) if TITLES[j] == TITLES[i]]
        best = max(row[j] for j in positives)
        hits += sum(row[j] >= best for j in range(8) if j not in positives) == 0
    assert evaluation.metrics["image_to_text/recall@1"] == pytest.approx(hits / 8)
    assert evaluation.per_query["image_to_text/recall@1"].sum() == hits
    assert evaluation.ranks["image_to_text"].shape == (8,)
    assert {"recall@5", "modality_gap", "effective_rank", "alignment"} <= evaluation.metrics.keys()
