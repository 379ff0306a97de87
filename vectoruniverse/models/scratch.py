"""Models with random weights and a vocabulary learned on the texts, to train where no checkpoint fits.

Weights are a pure function of the seed, the sizes and the vocabulary; torch's own generator is left alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
)

from vectoruniverse.models.activation import put_quick_gelu
from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.load import drawn_from
from vectoruniverse.models.picture_input import PictureInput
from vectoruniverse.models.pretraining import PretrainingBert
from vectoruniverse.models.sizes import Pooling, ScratchBert, ScratchClip
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.models.text_tower import Dense, Normalize, TextTower
from vectoruniverse.models.wordpiece import train_wordpiece

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def build_clip(
    texts: Iterable[str] | PreTrainedTokenizerBase, sizes: ScratchClip, compute: Compute, *, seed: int
) -> DualEncoder:
    """A random CLIP in float32; its vocabulary is learned on ``texts``, unless these are a tokenizer learned before."""
    tokenizer = texts
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = train_clip_tokenizer(tokenizer, sizes.vocab_size, sizes.max_text_tokens)
    tower = {
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_attention_heads": sizes.heads,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": sizes.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": sizes.max_text_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **tower,
            "num_hidden_layers": sizes.vision_layers,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
        },
        projection_dim=sizes.projection_dim,
    )
    config._attn_implementation = compute.attention
    with drawn_from(seed):
        model = CLIPModel(config)
    put_quick_gelu(model)
    picture = PictureInput(sizes.image_size, mean=_CLIP_MEAN, std=_CLIP_STD)
    return DualEncoder(model.to(compute.device), tokenizer, picture, name="scratch", compute=compute)


def build_bert(
    texts: Iterable[str], sizes: ScratchBert, compute: Compute, *, seed: int, pooling: Pooling
) -> TextEncoder:
    """A BERT with random float32 weights and a WordPiece vocabulary learned on ``texts``, which are gone through once.

    Raises:
        DataError: there is no word in the texts.
    """
    tokenizer = _wordpiece(texts, sizes)
    with drawn_from(seed):
        tower = TextTower(BertModel(_bert_config(tokenizer, sizes, compute)), pooling, [], name="scratch")
    tower = tower.to(compute.device).eval()
    return TextEncoder(tower, tokenizer, name="scratch", compute=compute, max_tokens=sizes.max_text_tokens)


def build_bert_for_pretraining(
    texts: Iterable[str] | PreTrainedTokenizerBase, sizes: ScratchBert, compute: Compute, *, seed: int
) -> PretrainingBert:
    """A BERT with both heads, random float32 weights and a vocabulary learned on ``texts``, or learned before.

    Raises:
        DataError: there is no word in the texts.
    """
    tokenizer = texts if isinstance(texts, PreTrainedTokenizerBase) else _wordpiece(texts, sizes)
    with drawn_from(seed):
        model = BertForPreTraining(_bert_config(tokenizer, sizes, compute))
    return PretrainingBert(model.eval().to(compute.device), tokenizer, "scratch")


def random_like(encoder: TextEncoder, seed: int) -> TextEncoder:
    """The same architecture, tokenizer, pooling and formats with fresh random weights."""
    model: Any = encoder.model
    config = copy.deepcopy(model.config)
    with drawn_from(seed):
        fresh = type(model)(config)
        layers = [_random_layer(layer) for layer in encoder.module.layers]
    if getattr(model, "pooler", None) is None and hasattr(fresh, "pooler"):
        fresh.pooler = None
    name = f"{encoder.name} with random weights"
    tower = TextTower(fresh, encoder.pooling, layers, name=name).to(encoder.device)
    for parameter in tower.parameters():  # tower.to(dtype) would round buffers too
        parameter.data = parameter.data.to(model.dtype)
    return TextEncoder(
        tower.eval(), encoder.tokenizer, name=name, compute=encoder.compute, max_tokens=encoder.max_tokens
    )


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int, max_tokens: int) -> CLIPTokenizer:
    """Byte-pair merges learned on ``texts`` with CLIP's own normalisation and word splitting.

    Every byte is in the vocabulary, alone and at the end of a word, so nothing is ever unknown.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    like_clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = like_clip.normalizer, like_clip.pre_tokenizer
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges_wanted = vocab_size - 2 * len(symbols) - 2
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=merges_wanted + 2 * len(symbols),
            initial_alphabet=symbols,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges_wanted]
    vocabulary = [*symbols, *(f"{s}</w>" for s in symbols), *(a + b for a, b in merges), _START, _END]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens)


def _wordpiece(texts: Iterable[str], sizes: ScratchBert) -> Any:
    return train_wordpiece(texts, sizes.vocab_size, lowercase=sizes.lowercase, max_tokens=sizes.max_text_tokens)


def _bert_config(tokenizer: Any, sizes: ScratchBert, compute: Compute) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=sizes.max_text_tokens,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=compute.attention,
    )


def _random_layer(layer: nn.Module) -> Dense | Normalize:
    if not isinstance(layer, Dense):
        return Normalize()
    old = layer.linear
    return Dense(nn.Linear(old.in_features, old.out_features, bias=old.bias is not None), type(layer.activation)())
