from __future__ import annotations

import ast
import pathlib
import re
import textwrap

import numpy as np
import pytest
import torch

from tests.tasks.meta import on_meta
from vectoruniverse.data.masking import IGNORED
from vectoruniverse.data.sentence_pairs import NO_PAIR, collect_documents
from vectoruniverse.errors import DataError
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.pretraining import tokenize_sentences
from vectoruniverse.models.scratch import build_bert_for_pretraining
from vectoruniverse.models.sizes import ScratchBert
from vectoruniverse.models.wordpiece import train_wordpiece
from vectoruniverse.tasks.masked_lm.task import MaskedLmTask
from vectoruniverse.training.task import Task


def docstrings(module):
    """Documentation strings of a module of the standard library, each a document of sentences."""
    tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    texts = [ast.get_docstring(node) for node in nodes]
    return [re.split(r"(?<=[.!?])\s+", text) for text in texts if text]


DOCUMENTS = docstrings(textwrap) + docstrings(ast)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece((s for d in DOCUMENTS for s in d), 300, lowercase=True, max_tokens=32)


def make_task(
    tokenizer, documents=DOCUMENTS, *, nsp=True, whole_word=False, seed=0, dropout=0.0, eval_batch=8, val=None
):
    sizes = ScratchBert(
        scratch="bert", width=32, layers=1, heads=2, intermediate=64, max_text_tokens=32, dropout=dropout
    )
    compute = Compute(torch.device("cpu"), torch.float32)
    model = build_bert_for_pretraining(tokenizer, sizes, compute, seed=seed).model
    collected = [collect_documents(tokenize_sentences(tokenizer, part)) for part in (documents, val or documents[::3])]
    return MaskedLmTask(
        model, tokenizer, *collected, mask_share=0.15, whole_word=whole_word, nsp=nsp, max_tokens=32, seed=seed,
        eval_batch=eval_batch,
    )  # fmt: skip


def labels_of(batch):
    labels = torch.full_like(batch.ids, IGNORED).flatten()
    labels[batch.positions] = batch.targets
    return labels.view_as(batch.ids)


def their_loss(task, batch):
    return task.model(
        input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.segments, labels=labels_of(batch),
        next_sentence_label=batch.pairs,
    ).loss  # fmt: skip


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_loss_equals_that_of_transformers_in_value_and_gradient(tokenizer, whole_word):
    task = make_task(tokenizer, whole_word=whole_word)
    rows = np.arange(len(task.train))[::2]
    batch = task.batch(rows, 3)
    assert (batch.pairs == NO_PAIR).any(), "a row without a pair is among them"
    ours = task.loss(rows, 3)
    ours.total.backward()
    found = {name: p.grad.clone() for name, p in task.trained().items()}
    task.model.zero_grad()
    theirs = their_loss(task, batch)
    theirs.backward()
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert ours.parts["mlm"] + ours.parts["nsp"] == pytest.approx(theirs.item(), rel=1e-6)
    assert found.keys() == dict(task.model.named_parameters()).keys()
    for name, parameter in task.trained().items():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


def test_evaluation_equals_transformers_on_all_rows_at_once(tokenizer):
    task = make_task(tokenizer)
    evaluation = task.evaluate()
    every = np.arange(len(task.val))
    stream = (0, 1, 0)
    batch = task._masked([task.val.row(int(i), stream) for i in every], task.val.keys, stream)
    with torch.no_grad():
        output = task.model(input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.segments)
        theirs = their_loss(task, batch).item()
    labels, metrics = labels_of(batch), evaluation.metrics
    masked = labels != IGNORED
    assert metrics["mlm_loss"] + metrics["nsp_loss"] == pytest.approx(theirs, rel=1e-5)
    guesses = output.prediction_logits.argmax(-1)[masked] == labels[masked]
    assert metrics["mlm_accuracy"] == pytest.approx(guesses.double().mean().item())
    paired = batch.pairs != NO_PAIR
    right = (output.seq_relationship_logits.argmax(1) == batch.pairs)[paired]
    assert metrics["nsp_accuracy"] == pytest.approx(right.double().mean().item())
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["mlm_loss"]))
    train = task.train.documents.ids
    share = [(int((train == t).sum()) + 1) for t in range(len(tokenizer))]
    whole = sum(share[5:]) - (share[1] if tokenizer.unk_token_id >= 5 else 0)
    counted = -np.mean([np.log(share[t] / whole) for t in labels[masked].tolist()])
    assert metrics["unigram_entropy"] == pytest.approx(counted)


def test_rows_of_the_evaluation_have_the_metrics_as_means_and_stand_in_order(tokenizer):
    task = make_task(tokenizer, eval_batch=4)
    evaluation, other = task.evaluate(), make_task(tokenizer, eval_batch=64).evaluate()
    assert evaluation.per_query.keys() == {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    for name, values in evaluation.per_query.items():
        assert len(values) == len(task.val)
        assert np.nanmean(values) == pytest.approx(evaluation.metrics[name])
        assert values == pytest.approx(other.per_query[name], rel=1e-4, nan_ok=True), "batches do not matter"
    pooled = evaluation.vectors["pooled"]
    row = task.val.row(5, (0, 1, 0))
    batch = task._masked([row], task.val.keys[5:6], (0, 1, 0))
    with torch.no_grad():
        assert torch.allclose(pooled[5], task.predict(batch).pooled[0], atol=1e-5)
    assert np.isnan(evaluation.per_query["nsp_loss"]).tolist() == [
        task.val.row(i, (0, 1, 0)).label == NO_PAIR for i in range(len(task.val))
    ]


def test_evaluating_is_without_dropout_repeatable_and_leaves_the_mode(tokenizer):
    task = make_task(tokenizer, dropout=0.5)
    task.model.train()
    assert task.evaluate().metrics == task.evaluate().metrics
    assert task.model.training
    assert task.evaluate("train").metrics["mlm_loss"] != task.evaluate("val").metrics["mlm_loss"]


def test_a_batch_is_a_function_of_rows_and_epoch(tokenizer):
    task = make_task(tokenizer)
    first, again, later = (task.batch(np.array([4, 9, 2]), epoch) for epoch in (1, 1, 2))
    alone = task.batch(np.array([9]), 1)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.targets, again.targets)
    assert not (first.ids.shape == later.ids.shape and torch.equal(first.ids, later.ids))
    length = int(alone.mask.sum())
    assert torch.equal(first.ids[1, :length], alone.ids[0])
    assert not torch.equal(first.ids[1, :length], torch.from_numpy(task.train.row(9, (0, 1, 0)).ids)[:length])


def test_without_next_sentences_only_what_masked_words_need_is_trained(tokenizer):
    task = make_task(tokenizer, nsp=False)
    assert not any("pooler" in name or "seq_relationship" in name for name in task.trained())
    loss = task.loss(np.arange(6), 0)
    assert loss.parts.keys() == {"mlm"}
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in task.trained().values())
    evaluation = task.evaluate()
    assert evaluation.metrics.keys() == {"mlm_loss", "mlm_accuracy", "perplexity", "unigram_entropy"}
    assert evaluation.vectors["pooled"].shape == (len(task.val), 32)


def test_a_batch_without_targets_has_loss_zero_and_gradients(tokenizer):
    documents = [["☃ ☃ ☃"], ["the text is wrapped.", "it is."]]
    task = make_task(tokenizer, documents, val=DOCUMENTS)
    loss = task.loss(np.array([0]), 0)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert all(torch.count_nonzero(p.grad) == 0 for p in task.trained().values())


def test_a_split_of_unknown_words_is_refused(tokenizer):
    task = make_task(tokenizer, val=[["☃ ☃", "☃"], ["☃"]])
    with pytest.raises(DataError, match="unknown to the tokenizer"):
        task.evaluate()


def test_the_loss_falls_below_what_counting_reaches(tokenizer):
    """Verbs and nouns by turns: which of them is masked is in its neighbours, not in a table of frequencies."""
    random = np.random.default_rng(0)
    words = ["wrap text", "fill lines", "dump node", "parse source", "walk tree", "copy location"]
    documents = [[" ".join(random.choice(words, 4)) for _ in range(2)] for _ in range(120)]
    tokenizer = train_wordpiece((s for d in documents for s in d), 100, lowercase=True, max_tokens=32)
    task = make_task(tokenizer, documents)
    before = task.evaluate().metrics
    optimizer = torch.optim.AdamW(task.trained().values(), lr=5e-3)
    for step in range(80):
        task.loss(random.choice(120, 32, replace=False), step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = task.evaluate().metrics
    assert before["mlm_loss"] > before["unigram_entropy"]
    assert after["mlm_loss"] < 0.8 * after["unigram_entropy"]


def test_it_fits_the_contract(tokenizer):
    task: Task = make_task(tokenizer)
    assert task.train_rows == len(task.part("train")) > len(task.part("val"))
    assert task.modules()[0] is task.model
    assert len(task.trained()) == len({id(p) for p in task.trained().values()})
    task.after_step()


@pytest.mark.parametrize("nsp", [True, False])
def test_chance_is_the_loss_of_a_model_that_counts_tokens_and_guesses_pairs(tokenizer, nsp):
    task = make_task(tokenizer, nsp=nsp)
    rows = np.arange(8)
    batch = task.batch(rows, 2)
    counted = -np.mean([task._counted[token] for token in batch.targets.tolist()])
    assert task.loss(rows, 2).chance == pytest.approx(counted + (np.log(2) if nsp else 0.0), rel=1e-6)


def test_no_step_waits_for_a_number_of_the_device(tokenizer, monkeypatch):
    task = make_task(tokenizer)
    task.model.set_attn_implementation("sdpa")  # as on a GPU
    with on_meta(task, monkeypatch):
        found = task.loss(np.arange(8), 0)
        found.total.backward()
    assert found.total.is_meta and isinstance(found.chance, float)
