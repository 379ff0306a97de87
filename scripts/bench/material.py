"""What contestants work on: a CLIP of random weights with a LoRA adapter, JPEGs, and titles; made on the spot."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vectoruniverse.models.compute import Compute
from vectoruniverse.models.dual import DualEncoder, load_dual_encoder

LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
HELD_OUT = 4
"""Rows that nothing is trained on: the project wants some."""


@dataclasses.dataclass(frozen=True)
class Material:
    """Where it is.

    Attributes:
        folder: holds all of it.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """As transformers saves it, with tokenizer and image processor."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """As peft saves it."""
        return self.folder / "adapter"

    @property
    def pictures(self) -> Path:
        """JPEGs and metadata.csv."""
        return self.folder / "pictures"

    def rows(self) -> list[tuple[Path, str]]:
        """Picture and title of each training row."""
        with (self.pictures / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["part"] == "train"]
        return [(self.pictures / row["file_name"], row["text"]) for row in rows]


def make(folder: Path, model: str, rows: int, sides: tuple[int, int] = (1280, 720)) -> Material:
    """Write everything anew; ``model`` is vit-b-32 (random weights) or tiny-clip."""
    made = Material(folder)
    torch.manual_seed(0)
    encoder = load_dual_encoder("tiny-clip", Compute(torch.device("cpu"), torch.float32))
    if model == "vit-b-32":
        encoder = random_vit_b32(encoder)
    encoder.save(made.model)
    _save_adapter(encoder, made.adapter)
    generator = np.random.default_rng(0)
    made.pictures.mkdir(parents=True)
    with (made.pictures / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "text", "part"))
        for number, title in enumerate(titles(encoder.tokenizer, rows + HELD_OUT, generator)):
            name = f"{number}.jpg"
            draw(generator, sides).save(made.pictures / name, quality=85)
            table.writerow((name, title, "train" if number < rows else "val"))
    return made


def random_vit_b32(like: DualEncoder) -> DualEncoder:
    """CLIP's ViT-B/32 in its own sizes with random weights, and the tokenizer of another CLIP."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = like.tokenizer
    tokenizer.model_max_length = 77
    config = CLIPConfig()  # is ViT-B/32
    for mark in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, mark, getattr(tokenizer, mark))
    size = config.vision_config.image_size
    picture = dataclasses.replace(like.picture, size=size, short_side=size if like.picture.short_side else None)
    return DualEncoder(CLIPModel(config), tokenizer, picture, name="vit-b-32", compute=like.compute)


def _save_adapter(encoder: DualEncoder, folder: Path) -> None:
    """Both factors random, so that the adapter takes part in every loss and gradient."""
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=list(LAYERS), init_lora_weights=False)
    peft.get_peft_model(encoder.model, config).save_pretrained(folder)


def draw(generator: np.random.Generator, sides: tuple[int, int] = (1280, 720)) -> Image.Image:
    """A smooth picture, unless told of the size of a thumbnail."""
    small = generator.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(sides, Image.Resampling.BICUBIC)


def titles(tokenizer: object, count: int, generator: np.random.Generator) -> list[str]:
    """Words that are one token each, so many that a title has 10 to 25 tokens with its two marks."""
    words = sorted(token[:-4] for token in tokenizer.get_vocab() if token.endswith("</w>") and token[:-4].isalpha())
    words = [word for word in words if len(word) > 2 and word.isascii()]
    return [" ".join(generator.choice(words, generator.integers(8, 24))) for _ in range(count)]
