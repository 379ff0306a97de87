"""Small random models of the real classes, saved as folders that plain transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from vectoruniverse.encoders.scratch import build_clip

WORDS = "a on the red green blue yellow circle square triangle cross left right one two three four".split()
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel with a byte-pair tokenizer."""
    build_clip(
        WORDS,
        seed=seed,
        device=torch.device("cpu"),
        dtype=torch.float32,
        attention="eager",
        image_size=32,
        patch_size=8,
        width=32,
        heads=2,
        vision_layers=2,
        text_layers=2,
        projection_dim=16,
        vocab_size=560,
        max_text_tokens=16,
    ).save(folder)
    return folder


def _word_tokenizer(**special: str) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate([*special.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    return tokenizer


def save_siglip(folder: Path, seed: int = 0) -> Path:
    """A SiglipModel, whose text tower pools the last position of a text padded to the end."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend = _word_tokenizer(**special)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(seed)
    config = SiglipConfig(
        text_config={**TOWER, "vocab_size": 40, "max_position_embeddings": 12, "pad_token_id": 0, "eos_token_id": 1},
        vision_config={**TOWER, "image_size": 32, "patch_size": 16},
    )
    SiglipModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=12, **special).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_chinese_clip(folder: Path, seed: int = 0) -> Path:
    """A ChineseCLIPModel, whose text tower is a BERT pooled at its first position."""
    vocabulary = {token: i for i, token in enumerate([*MARKS, *WORDS, "红", "圆"])}
    torch.manual_seed(seed)
    config = ChineseCLIPConfig(
        text_config={**TOWER, "vocab_size": 40, "max_position_embeddings": 20},
        vision_config={**TOWER, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    ChineseCLIPModel(config).save_pretrained(folder)
    BertTokenizer(vocab=vocabulary, model_max_length=20).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


SAVE = {"clip": save_clip, "siglip": save_siglip, "chinese_clip": save_chinese_clip}
