"""BERT with both of its pre-training heads: from random weights, or loaded to be trained on.

V vocabulary, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.load import load_config, load_tokenizer, load_weights, longest_text
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


def build_bert_for_pretraining(
    tokenizer: Any,
    *,
    seed: int,
    width: int,
    layers: int,
    heads: int,
    intermediate: int,
    max_tokens: int,
    dropout: float,
    device: torch.device,
    attention: str,
) -> PretrainingBert:
    """A BERT with random weights, a pure function of ``seed`` and the sizes; torch's own generator is left alone.

    Args:
        tokenizer: as ``train_wordpiece`` gives it.
        seed: of the weights.
        width: D, length of a token's vector.
        layers: number of encoder layers.
        heads: attention heads; divides ``width``.
        intermediate: width of the feed-forward layers, 4·D in BERT.
        max_tokens: number of learned positions.
        dropout: in all layers and in attention; 0.1 in BERT.
        device: where the weights go, in float32.
        attention: ``sdpa`` or ``eager``.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_tokens,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = attention
    with _drawn_from(seed):
        model = BertForPreTraining(config)
    return PretrainingBert(model.eval().to(device), tokenizer, "scratch")


def load_bert_for_pretraining(
    name: str, *, revision: str | None, seed: int, device: torch.device, attention: str
) -> PretrainingBert:
    """Load a BERT to be trained on, in float32; a head that the checkpoint lacks is drawn from ``seed``.

    Args:
        name: a name on the Hugging Face hub, or a local folder.
        revision: branch, tag or commit of a hub name.
        seed: of missing heads.
        device: where the weights go.
        attention: ``sdpa`` or ``eager``.

    Raises:
        ConfigError: there is no such model, it is no BERT, or its encoder is not complete.
    """
    source = open_source(name, revision).within("")
    config = load_config(source)
    if config.model_type != "bert":
        raise ConfigError(
            f"{name!r} is a {config.model_type}, which has no next-sentence head", key="model", remedy="choose a BERT"
        )
    tokenizer = load_tokenizer(source)
    longest_text(source, tokenizer, config.max_position_embeddings)
    heads = tuple(PARTS[part] for part in ("mlm_head", "nsp_head", "pooler"))
    with _drawn_from(seed):
        model, drawn = load_weights(
            source, config, dtype=torch.float32, attention=attention, model_class=BertForPreTraining, may_lack=heads
        )
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {name!r} has {len(tokenizer):,} tokens, its model only {config.vocab_size:,}",
            key="model",
        )
    return PretrainingBert(model.to(device), tokenizer, name, source.commit, drawn)


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
    counts = {part: _sum_of(sizes, prefix) for part, prefix in PARTS.items()}
    total = sum(sizes.values())
    assert sum(counts.values()) == total, "every parameter belongs to a part"
    return {**counts, "total": total}


def _sum_of(sizes: dict[str, int], prefix: str) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(prefix))


@contextlib.contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Random weights drawn here depend on the seed only, and nobody else's numbers depend on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
