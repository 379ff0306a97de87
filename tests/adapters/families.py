"""Small random models of each family, what they read, and what they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**WIDTH, "image_size": 32, "patch_size": 16}
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {**WIDTH, "vocab_size": 100, "max_position_embeddings": 16, **MARKS}
FRAMES = {"mit_hidden_size": 32, "mit_intermediate_size": 64, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 4}


@dataclass(frozen=True)
class Family:
    """How to make a model of a family, what to give it, and what to look at."""

    make: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] = ("last_hidden_state",)
    layers: int = 8

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def rows(self, model: nn.Module) -> Tensor:
        given = model(**self.inputs)
        return torch.cat([getattr(given, name).flatten() for name in self.outputs])


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _tokens(rows: int = 2) -> Tensor:
    ids = torch.randint(3, 100, (rows, 7), generator=torch.Generator().manual_seed(2))
    ids[:, -1] = MARKS["eos_token_id"]
    return ids


IDS = {"input_ids": _tokens()}
BOTH = {"pixel_values": _random(2, 3, 32, 32), **IDS}
EMBEDDINGS = ("image_embeds", "text_embeds")


def _of(name: str, **settings: Any) -> Callable[[], nn.Module]:
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
    return lambda: model(config(**settings))


def _dual(name: str, text: dict[str, Any], vision: dict[str, Any], **settings: Any) -> Callable[[], nn.Module]:
    return _of(name, text_config=text, vision_config=vision, **settings)


GPT2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, **MARKS}
DISTIL = {"vocab_size": 100, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 16}

FAMILIES = {
    "clip": Family(_dual("CLIP", TEXT, VISION, projection_dim=16), BOTH, EMBEDDINGS, 16),
    "xclip": Family(
        _dual("XCLIP", TEXT, {**VISION, **FRAMES, "num_frames": 2}, projection_dim=32, prompt_num_attention_heads=4),
        {"pixel_values": _random(2, 2, 3, 32, 32), **IDS},
        ("video_embeds", "text_embeds"),
        16,
    ),
    "siglip": Family(_dual("Siglip", TEXT, VISION), BOTH, EMBEDDINGS, 16),
    "chinese_clip": Family(_dual("ChineseCLIP", TEXT, VISION, projection_dim=16), BOTH, EMBEDDINGS, 16),
    "altclip": Family(_dual("AltCLIP", {**TEXT, "project_dim": 16}, VISION, projection_dim=16), BOTH, EMBEDDINGS, 16),
    "bert": Family(_of("Bert", **TEXT), IDS),
    "distilbert": Family(_of("DistilBert", **DISTIL), IDS),
    "roberta": Family(_of("Roberta", **TEXT), IDS),
    "xlm-roberta": Family(_of("XLMRoberta", **TEXT), IDS),
    "gpt2": Family(_of("GPT2", **GPT2), IDS, layers=4),
    "vit": Family(_of("ViT", **VISION), {"pixel_values": BOTH["pixel_values"]}),
    "mpnet": Family(_of("MPNet", **TEXT), IDS),
}
