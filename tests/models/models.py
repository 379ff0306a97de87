"""Small random models of the real classes, saved as folders that plain transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from vectoruniverse.models.compute import Compute
from vectoruniverse.models.scratch import build_clip
from vectoruniverse.models.sizes import ScratchClip

WORDS = "a on the red green blue yellow circle square triangle cross left right one two three four".split()
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel with a byte-pair tokenizer."""
    build_clip(
        WORDS,
        ScratchClip(
            scratch="clip",
            image_size=32,
            patch_size=8,
            width=32,
            heads=2,
            vision_layers=2,
            text_layers=2,
            projection_dim=16,
            vocab_size=560,
            max_text_tokens=16,
        ),
        Compute(torch.device("cpu"), torch.float32),
        seed=seed,
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


def _roberta_like_tokenizer(folder: Path, max_tokens: int) -> None:
    """Words between ``<s>`` and ``</s>``, as XLM-R marks texts."""
    special = {"cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend = _word_tokenizer(**special)
    marks = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=max_tokens, **special).save_pretrained(folder)


def save_metaclip_2(folder: Path, seed: int = 0) -> Path:
    """A MetaClip2Model, a CLIP whose text tower pools the end mark of a multilingual tokenizer."""
    torch.manual_seed(seed)
    marks = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = MetaClip2Config(
        text_config={**TOWER, **marks, "vocab_size": 40, "max_position_embeddings": 20},
        vision_config={**TOWER, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    MetaClip2Model(config).save_pretrained(folder)
    _roberta_like_tokenizer(folder, 20)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_altclip(folder: Path, seed: int = 0) -> Path:
    """An AltCLIPModel, whose text tower is an XLM-R with a layer of its own into the shared space."""
    torch.manual_seed(seed)
    text = {**TOWER, "vocab_size": 40, "max_position_embeddings": 22, "pad_token_id": 1, "project_dim": 24}
    config = AltCLIPConfig(
        text_config=text, vision_config={**TOWER, "image_size": 32, "patch_size": 16}, projection_dim=16
    )
    AltCLIPModel(config).save_pretrained(folder)
    _roberta_like_tokenizer(folder, 512)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


SAVE = {
    "altclip": save_altclip,
    "chinese_clip": save_chinese_clip,
    "clip": save_clip,
    "metaclip_2": save_metaclip_2,
    "siglip": save_siglip,
}
