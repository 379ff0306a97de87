from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import log_loss

from tests.training.test_loop import Recorder, settings
from vectoruniverse.adapters.apply import TowerTargets, inject_lora
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.heads import TextClassifier
from vectoruniverse.models.scratch import build_bert
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.tasks.classification.task import ClassificationTask, Examples, balanced_weights
from vectoruniverse.training.loop import Trainer
from vectoruniverse.training.optim import adamw, constant, parameter_groups

QUESTIONS = [
    "What music do you like?",
    "What is your favorite food?",
    "What is your favorite color?",
    "What is your favorite song?",
    "Do you like watching TV shows?",
]
ANSWERS = [
    "I like Rock music.",
    "I like sushi the best",
    "I'm going to be a doctor",
    "Tokyo olympic game in 2020 was postponed",
    "Yeah, I often watch it in my spare time",
]
LABELS = np.array([1, 1, 0, 0, 1])


def build(seed=0, **settings):
    sizes = {"vocab_size": 300, "width": 64, "layers": 2, "heads": 2, "intermediate": 128, "max_text_tokens": 40}
    sizes, compute = ScratchBert(scratch="bert", **{**sizes, **settings}), Compute(torch.device("cpu"), torch.float32)
    return build_bert(QUESTIONS + ANSWERS, sizes, compute, seed=seed, pooling="pooler")


def pair_task(first=None, second=None, **settings):
    first, second = first or build(0), second or build(1)
    model = TextClassifier({"first": first, "second": second}, 2, dropout=0.1, seed=0)
    inputs = [first.tokenize_pairs(QUESTIONS, ANSWERS), second.tokenize_pairs(ANSWERS, QUESTIONS)]
    rows = Examples(inputs, LABELS, ["0", "1"])
    return ClassificationTask(model, train=rows, val=rows, **settings)


def text_task(labels=(0, 2, 1, 1, 1), encoder=None, **settings):
    encoder = encoder or build(width=32, heads=2, layers=1, dropout=0.0)
    rows = Examples([encoder.tokenize(ANSWERS)], np.array(labels), ["a", "b", "c"])
    model = TextClassifier({"encoder": encoder}, 3, dropout=0.0, seed=0)
    return ClassificationTask(model, train=rows, val=rows, eval_batch=2, **settings)


def fit(task, epochs, seen, lr=1e-3, decay=0.01):
    experiment = settings(monitor="accuracy", epochs=epochs, every=epochs, batch_size=5).model_copy(update={"seed": 0})
    optimizer = adamw(parameter_groups(task.trained().items(), task.modules(), decay), fused=False)
    schedule, scaler = constant(peak=lr, steps=epochs, warmup=0.0), torch.amp.GradScaler("cpu", enabled=False)
    Trainer(task, optimizer, schedule, experiment, seen, scaler=scaler).fit()


def test_five_pairs_are_learned_by_heart_in_thirty_epochs():
    """From about 0.7, the loss of not knowing (ln 2), to below 0.05; predictions equal labels."""
    task, seen = pair_task(), Recorder()
    assert task.evaluate().metrics["loss"] == pytest.approx(math.log(2), abs=0.05)
    fit(task, 30, seen)
    assert len(seen.steps) == 30
    losses = [values["loss"] for _, values in seen.steps]
    assert losses[0] == pytest.approx(0.7, abs=0.1) and losses[-1] < 0.05
    assert task.model.predict(task.val.inputs, batch_size=8).argmax(dim=1).tolist() == [1, 1, 0, 0, 1]
    metrics = task.evaluate().metrics
    assert (metrics["accuracy"], metrics["macro_f1"]) == (1.0, 1.0) and metrics["loss"] < 0.05


def test_one_shared_encoder_learns_them_too():
    encoder = build()
    task = pair_task(encoder, encoder)
    fit(task, 30, Recorder())
    assert task.evaluate().metrics["accuracy"] == 1.0


def test_loss_is_the_mean_cross_entropy_of_the_rows():
    task = text_task()
    rows = np.array([3, 0, 1])
    step = task.loss(rows, epoch=0)
    shares = task.model.predict(task.train.inputs, batch_size=8)
    expected = -sum(math.log(shares[row, task.train.labels[row]]) for row in rows) / 3
    assert step.total.item() == pytest.approx(expected, rel=1e-5)
    assert set(step.parts) == {"cross_entropy"} and not step.parts["cross_entropy"].requires_grad
    assert task.loss(rows, epoch=7).total.item() == step.total.item()


def test_a_step_of_one_row_works_and_a_data_set_of_one_row_too():
    task = text_task()
    task.loss(np.array([2]), epoch=0).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.trained().values() if p.grad is not None)
    encoder = build(width=32, layers=1)
    single = Examples([encoder.tokenize(ANSWERS[:1])], np.array([1]), ["a", "b"])
    alone = ClassificationTask(TextClassifier({"encoder": encoder}, 2, 0.0, 0), train=single, val=single)
    seen = Recorder()
    fit(alone, 3, seen)
    assert len(seen.steps) == 3 and alone.evaluate().metrics["effective_rank"] == pytest.approx(1.0)


def weights_that_decay(task):
    """The first of optim's groups, which is the only one that decays."""
    return parameter_groups(task.trained().items(), task.modules(), 0.1)[0]["params"]


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_each_penalty_adds_its_formula_to_the_loss_and_its_gradient(name, power):
    encoder, factor, rows = build(width=32, layers=1, dropout=0.0), 0.01, np.arange(5)
    plain, penalised = text_task(encoder=encoder), text_task(encoder=encoder, **{name: factor})
    one, two = plain.loss(rows, 0), penalised.loss(rows, 0)
    decayed = weights_that_decay(penalised)
    by_hand = factor * sum(float((w.detach().double().abs() ** power).sum()) for w in decayed)
    assert set(two.parts) == {"cross_entropy", name}
    assert two.parts[name].item() == pytest.approx(by_hand, rel=1e-5)
    assert two.total.item() == pytest.approx(one.total.item() + by_hand, rel=1e-5)
    assert sum(float(part) for part in two.parts.values()) == pytest.approx(two.total.item(), rel=1e-6)

    names = [n for n in plain.trained() if not n.startswith("classifier")]
    before = torch.autograd.grad(one.total, [plain.trained()[n] for n in names], allow_unused=True)
    after = torch.autograd.grad(two.total, [penalised.trained()[n] for n in names], allow_unused=True)
    ids = {id(w) for w in decayed}
    for parameter, old, new in zip((penalised.trained()[n] for n in names), before, after, strict=True):
        w = parameter.detach()
        slope = (w.sign() if power == 1 else 2 * w) * factor if id(parameter) in ids else torch.zeros_like(w)
        old = torch.zeros_like(w) if old is None else old
        torch.testing.assert_close(torch.zeros_like(w) if new is None else new, old + slope, atol=1e-6, rtol=1e-4)


def test_both_penalties_are_parts_of_their_own():
    step = text_task(l1=0.1, l2=0.2).loss(np.arange(5), 0)
    assert list(step.parts) == ["cross_entropy", "l1", "l2"]


def test_with_lora_only_what_is_trained_is_penalised():
    encoder = build(width=32, layers=1)
    inject_lora(encoder.module, [TowerTargets("", ("query",), "adapter.targets")], rank=1, alpha=1.0)
    task = text_task(encoder=encoder, l2=1.0)
    lora, head = "encoder.model.encoder.layer.0.attention.self.query.lora_", "classifier."
    assert list(task.trained()) == [f"{lora}A", f"{lora}B", f"{head}weight", f"{head}bias"]
    expected = sum(float(p.detach().square().sum()) for name, p in task.trained().items() if name != "classifier.bias")
    assert task.loss(np.arange(5), 0).parts["l2"].item() == pytest.approx(expected, rel=1e-5)


def test_l1_empties_weights_that_l2_only_shrinks():
    shares = {}
    for name, factor in (("l1", 0.02), ("l2", 0.02)):
        encoder = build(width=32, layers=1, dropout=0.0)
        encoder.module.requires_grad_(False)
        task = text_task(encoder=encoder, **{name: factor})
        fit(task, 150, Recorder(), lr=5e-3, decay=0.0)
        weight = task.model.classifier.weight.detach().abs()
        assert task.evaluate().metrics["loss"] < math.log(3)
        # AdamW's step is 5e-3: what oscillates within one step about zero is zero
        shares[name] = float((weight < 5e-3).float().mean())
    assert shares["l1"] > 0.5 > shares["l2"]


def test_balanced_weights_are_scikit_learn_s_and_average_one():
    weights = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.array([0, 0, 0, 0, 2, 2, 3])
    ours = balanced_weights(labels, 5)
    present = np.unique(labels)
    assert ours[present] == pytest.approx(weights.compute_class_weight("balanced", classes=present, y=labels))
    assert ours[labels].mean() == pytest.approx(1.0)
    assert ours[[1, 4]].tolist() == [0.0, 0.0]


def test_balanced_classes_weigh_in_batches_of_any_size():
    encoder = build(width=32, layers=1, dropout=0.0)
    plain, balanced = text_task(encoder=encoder), text_task(encoder=encoder, class_weights="balanced")
    weights = balanced_weights(plain.train.labels, 3)
    for rows in ([0], [2, 3], [0, 1, 2, 3, 4]):
        losses = [plain.loss(np.array([row]), 0).total.item() * weights[plain.train.labels[row]] for row in rows]
        assert balanced.loss(np.array(rows), 0).total.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert balanced.evaluate().metrics["loss"] == pytest.approx(plain.evaluate().metrics["loss"]), "rows count alike"


def test_rows_are_evaluated_as_scikit_learn_evaluates_the_predictions():
    sklearn = pytest.importorskip("sklearn.metrics")
    task = text_task()
    evaluation = task.evaluate("train")
    shares = task.model.predict(task.train.inputs, batch_size=8).double()
    labels, said = task.train.labels, shares.argmax(dim=1).numpy()
    metrics, per_row = evaluation.metrics, evaluation.per_query
    assert metrics["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, said))
    assert metrics["macro_f1"] == pytest.approx(sklearn.f1_score(labels, said, average="macro"))
    shares = shares / shares.sum(dim=1, keepdim=True)
    assert metrics["loss"] == pytest.approx(sklearn.log_loss(labels, shares.numpy(), labels=[0, 1, 2]), rel=1e-5)
    for name in ("accuracy", "macro_f1", "loss"):
        assert per_row[name].shape == (5,) and per_row[name].mean() == pytest.approx(metrics[name])
    assert np.array_equal(per_row["accuracy"], labels == said)
    theirs = sklearn.precision_recall_fscore_support(labels, said, labels=[0, 1, 2], zero_division=0)
    for kind, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert [metrics[f"{kind}/{name}"] for name in "abc"] == pytest.approx(values.tolist())
    confidence = shares.max(dim=1).values.numpy()
    assert metrics["calibration_error"] <= np.abs(confidence - (labels == said)).mean() + 1e-9


def test_what_is_evaluated_and_watched_are_the_pooled_vectors():
    task = text_task()
    evaluation = task.evaluate()
    pooled = task.model.encoders[0].embed_texts(task.val.inputs[0], batch_size=8)
    torch.testing.assert_close(evaluation.vectors["pooled"], pooled, atol=1e-6, rtol=1e-5)
    shares = torch.linalg.svdvals(pooled.double()).square()
    shares = shares / shares.sum()
    assert evaluation.metrics["effective_rank"] == pytest.approx(
        float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4
    )


def test_evaluation_leaves_the_mode_and_the_gradients_as_they_were():
    task = pair_task()
    task.model.train()
    task.evaluate()
    assert all(module.training for module in task.modules())
    assert all(p.grad is None for p in task.trained().values())


def test_examples_that_do_not_fit_the_model_are_our_own_mistake():
    encoder = build(width=32, layers=1)
    model = TextClassifier({"encoder": encoder}, 2, 0.0, 0)
    good = Examples([encoder.tokenize(ANSWERS)], LABELS, ["a", "b"])
    for bad in (
        Examples(good.inputs, LABELS[:3], ["a", "b"]),
        Examples(good.inputs, LABELS, ["b", "a"]),
    ):
        with pytest.raises(AssertionError):
            ClassificationTask(model, train=good, val=bad)


@pytest.mark.parametrize("class_weights", [None, "balanced"])
def test_chance_is_the_loss_of_a_model_that_knows_how_frequent_classes_are(class_weights):
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1, 0, 0])
    encoder = build(width=32, heads=2, layers=1, dropout=0.0)
    rows = Examples([encoder.tokenize(QUESTIONS + ANSWERS)], labels, ["a", "b", "c"])
    model = TextClassifier({"encoder": encoder}, 3, dropout=0.0, seed=0)
    task = ClassificationTask(model, train=rows, val=rows, class_weights=class_weights, l2=0.1)
    found = task.loss(np.arange(10), 0)
    weights = balanced_weights(labels, 3) if class_weights else np.ones(3)
    counting = DummyClassifier(strategy="prior").fit(labels[:, None], labels, sample_weight=weights[labels])
    told = log_loss(labels, counting.predict_proba(labels[:, None]), sample_weight=weights[labels])
    assert found.chance == pytest.approx(told * weights[labels].mean() + found.parts["l2"].item(), rel=1e-6)
