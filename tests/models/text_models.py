"""Small random text encoders of every known family, saved as folders that plain transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from vectoruniverse.models.compute import Compute
from vectoruniverse.models.text import TextEncoder, load_text_encoder

WORDS = "a on the red green blue circle square left right one two 파란 원 왼쪽 빨간".split()
TEXTS = ["a red circle", "The green square on the left", "blue", "파란 원 왼쪽"]
BERT_MARKS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_MARKS = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
BERT_SETTINGS = {**SIZE, "max_position_embeddings": 16, "pad_token_id": 0}
ROBERTA_SETTINGS = {**SIZE, "max_position_embeddings": 18, "pad_token_id": 1, "type_vocab_size": 1}
FAMILIES = {
    "albert": {**BERT_SETTINGS, "embedding_size": 16},
    "bert": BERT_SETTINGS,
    "camembert": ROBERTA_SETTINGS,
    "deberta-v2": {**BERT_SETTINGS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {
        "vocab_size": 32, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16
    },
    "electra": {**BERT_SETTINGS, "embedding_size": 16},
    "modernbert": {**BERT_SETTINGS, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "mpnet": ROBERTA_SETTINGS,
    "roberta": ROBERTA_SETTINGS,
    "xlm-roberta": ROBERTA_SETTINGS,
}  # fmt: skip


def word_tokenizer(marks: dict[str, str], max_tokens: int = 512) -> PreTrainedTokenizerFast:
    """Whole words; ``cls a sep`` and ``cls a sep b sep`` with segments 0 and 1."""
    ids = {token: i for i, token in enumerate([*marks.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token=marks["unk_token"]))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    start, end = marks["cls_token"], marks["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(start, ids[start]), (end, ids[end])],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=max_tokens, **marks)


def save_encoder(folder: Path, family: str, seed: int = 0, **settings: object) -> Path:
    """A random encoder and a tokenizer whose words are ``WORDS``."""
    given = FAMILIES[family]
    config = AutoConfig.for_model(family, **{**given, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
        with torch.no_grad():  # transformers starts biases and norms at values that would hide a layer left out
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    word_tokenizer(ROBERTA_MARKS if given.get("pad_token_id") == 1 else BERT_MARKS).save_pretrained(folder)
    return folder


def load(name, pooling=None, dtype=torch.float32, attention="eager", revision=None) -> TextEncoder:
    """An encoder on the CPU, its weights in the format it computes in."""
    compute = Compute(torch.device("cpu"), dtype, attention)
    return load_text_encoder(str(name), compute, revision=revision, pooling=pooling)


def embed(encoder: TextEncoder, texts=TEXTS) -> torch.Tensor:
    """Vectors of a few texts, in batches that hold padding."""
    return encoder.embed_texts(encoder.tokenize(texts), batch_size=3)
