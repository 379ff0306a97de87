"""A CLIP with random weights and a byte-pair tokenizer of its own, to pre-train where no checkpoint fits."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from vectoruniverse.models.activation import put_quick_gelu
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.models.picture_input import PictureInput

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int, max_tokens: int) -> CLIPTokenizer:
    """Byte-pair merges learned on ``texts`` with CLIP's own normalisation and word splitting.

    Every byte is in the vocabulary, alone and at the end of a word, so nothing is ever unknown.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    like_clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = like_clip.normalizer, like_clip.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    merges_wanted = vocab_size - 2 * len(alphabet) - 2
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=merges_wanted + 2 * len(alphabet),
            initial_alphabet=sorted(alphabet),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges_wanted]
    symbols = sorted(alphabet)
    vocabulary = [*symbols, *(f"{s}</w>" for s in symbols), *(a + b for a, b in merges), _START, _END]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens)


def build_clip(
    texts: Iterable[str] | CLIPTokenizer,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    image_size: int,
    patch_size: int,
    width: int,
    heads: int,
    vision_layers: int,
    text_layers: int,
    projection_dim: int,
    vocab_size: int,
    max_text_tokens: int,
) -> DualEncoder:
    """A random CLIP of the given size; weights are a pure function of ``seed`` and the vocabulary.

    Its vocabulary is learned on ``texts``, unless these are a tokenizer that was learned before.
    """
    tokenizer = texts
    if not isinstance(tokenizer, CLIPTokenizer):
        tokenizer = train_clip_tokenizer(tokenizer, vocab_size, max_text_tokens)
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    config = CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": max_text_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **tower,
            "num_hidden_layers": vision_layers,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        projection_dim=projection_dim,
    )
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    put_quick_gelu(model)
    picture = PictureInput(image_size, _CLIP_MEAN, _CLIP_STD)
    return DualEncoder(model.to(device), tokenizer, picture, name="scratch", dtype=dtype)
