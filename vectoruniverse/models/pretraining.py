"""BERT with both of its pre-training heads, loaded to be trained on.

V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertForPreTraining

from vectoruniverse.models.compute import Compute
from vectoruniverse.models.load import (
    check_vocabulary,
    drawn_from,
    load_config,
    load_tokenizer,
    load_weights,
    longest_text,
)
from vectoruniverse.models.source import open_source

PARTS = {
    "embeddings": "bert.embeddings.",
    "encoder": "bert.encoder.",
    "pooler": "bert.pooler.",
    "mlm_head": "cls.predictions.",
    "nsp_head": "cls.seq_relationship.",
}
"""Part → where transformers puts its parameters."""

_BATCH = 1000
"""Sentences given to the tokenizer at a time."""


@dataclass(frozen=True, slots=True)
class PretrainingBert:
    """A model and its tokenizer.

    Attributes:
        model: transformers' ``BertForPreTraining``.
        tokenizer: its tokenizer.
        name: how the user named it.
        commit: commit of the hub repository it came from, where known.
        drawn: names of the parameters that the checkpoint lacked and that were drawn from the seed.
    """

    model: Any
    tokenizer: Any
    name: str
    commit: str | None = None
    drawn: tuple[str, ...] = ()

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens."""
        return min(int(self.model.config.max_position_embeddings), int(self.tokenizer.model_max_length))

    def save(self, folder: Path) -> None:
        """Write weights and tokenizer so that plain transformers loads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_bert_for_pretraining(
    name: str, compute: Compute, *, revision: str | None = None, seed: int = 0
) -> PretrainingBert:
    """Load a BERT to be trained on, in float32; a head that the checkpoint lacks is drawn from ``seed``.

    Args:
        name: a name on the Hugging Face hub, or a local folder.
        compute: where, and with which attention.
        revision: branch, tag or commit of a hub name.
        seed: of missing heads.

    Raises:
        ConfigError: there is no such model, it is no BERT, or its encoder is not complete.
    """
    source = open_source(name, revision).within("")
    config = load_config(source, ("bert",), "has no next-sentence head")
    tokenizer = load_tokenizer(source)
    longest_text(source, tokenizer, config.max_position_embeddings)
    heads = tuple(PARTS[part] for part in ("mlm_head", "nsp_head", "pooler"))
    with drawn_from(seed):
        model, drawn = load_weights(
            source,
            config,
            dtype=torch.float32,
            attention=compute.attention,
            model_class=BertForPreTraining,
            may_lack=heads,
        )
    check_vocabulary(name, len(tokenizer) - 1, config.vocab_size)
    return PretrainingBert(model.to(compute.device), tokenizer, name, source.commit, drawn)


def tokenize_sentences(tokenizer: Any, documents: Sequence[Sequence[str]]) -> Iterator[list[np.ndarray]]:
    """Token ids of each document's sentences, without marks; special tokens written out are read as plain characters.

    Nothing is cut here.
    """
    sentences = [sentence for document in documents for sentence in document]
    ids: list[np.ndarray] = []
    for start in range(0, len(sentences), _BATCH):
        rows = tokenizer(
            sentences[start : start + _BATCH], add_special_tokens=False, truncation=False, split_special_tokens=True,
            verbose=False,
        )["input_ids"]  # fmt: skip
        ids += [np.asarray(row, dtype=np.int32) for row in rows]
    remaining = iter(ids)
    for document in documents:
        yield [next(remaining) for _ in document]


def parameter_counts(model: Any) -> dict[str, int]:
    """Number of parameters by part of the model, and their ``total``; the tied decoder counts as the word embedding.

    BERT-base (30,522 words, D 768, 12 layers): embeddings 23.8 M, encoder 85.1 M, pooler 0.6 M, together 109,482,240;
    with the heads 110,106,428.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    counts = {
        part: sum(size for name, size in sizes.items() if name.startswith(prefix)) for part, prefix in PARTS.items()
    }
    total = sum(sizes.values())
    assert sum(counts.values()) == total, "every parameter belongs to a part"
    return {**counts, "total": total}
