"""A plain transformers folder: the adapter merged into the weights, tokenizer and image processor beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.api import LoadedRun
from vectoruniverse.export.contract import Format, Probe, Vectors
from vectoruniverse.export.processing import pads_to_end, save_processor

SNIPPET = """
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
pixels = processor(images=[Image.open("picture.jpg")], return_tensors="pt")
tokens = processor(text=["a red circle"], padding={padding!r}, truncation=True, return_tensors="pt")
with torch.inference_mode():
    image = model.get_image_features(**pixels).pooler_output
    text = model.get_text_features(**tokens).pooler_output
image_vectors, text_vectors = (torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in (image, text))
"""


def merged_model(loaded: LoadedRun) -> Any:
    """The run's model with the update added to its weights and no layer of ours left in it; in place."""
    model = loaded.encoder.model
    if loaded.adapter is not None:
        assert isinstance(loaded.adapter, LoraAdapter), "a prefix was refused before"
        loaded.adapter.merge()
        for path, layer in loaded.adapter.layers.items():
            model.set_submodule(path, layer.base)
    return model


def write(loaded: LoadedRun, folder: Path) -> None:
    """Fill ``folder``; weights in the precision that the run was loaded in."""
    merged_model(loaded).save_pretrained(folder)
    save_processor(loaded, folder)


def embed(folder: Path, probe: Probe) -> Vectors:
    """Vectors of a folder, by transformers' own classes."""
    from transformers import AutoModel, AutoProcessor

    return embed_with(AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder), probe)


def embed_with(model: Any, processor: Any, probe: Probe) -> Vectors:
    """Vectors of any model with transformers' feature methods."""
    padding = "max_length" if processor.tokenizer.model_input_names == ["input_ids"] else True
    pixels = processor(images=probe.images(), return_tensors="pt")
    tokens = processor(text=list(probe.texts), padding=padding, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        image = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        text = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    return Vectors(image.numpy(), text.numpy())


def snippet(loaded: LoadedRun) -> str:
    """How to load it."""
    return SNIPPET.format(padding="max_length" if pads_to_end(loaded) else True)


TRANSFORMERS = Format(
    name="transformers",
    reader="transformers",
    tolerance=1e-5,
    library="transformers",
    tags=("clip",),
    relation="finetune",
    write=write,
    embed=embed,
    snippet=snippet,
)
