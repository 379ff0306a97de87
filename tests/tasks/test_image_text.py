from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.models import save_clip
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.data.pair_items import PairItems, number
from vectoruniverse.data.views import Augmentation
from vectoruniverse.losses import contrastive as losses
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import load_dual_encoder
from vectoruniverse.tasks.image_text.task import ImageTextTask, Pairs

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


def make_task(folder, *, views=2, augmentation=RANDOM, text_is_random=False, dropout=0.0, order=None):
    encoder = load_dual_encoder(str(folder), Compute(torch.device("cpu"), torch.float32))
    targets = [TowerTargets(tower, ("q_proj", "v_proj"), "adapter") for tower in ("vision_model", "text_model")]
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
        text_is_random=text_is_random, seed=3, recall_at=(1, 5), eval_batch=3,
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
