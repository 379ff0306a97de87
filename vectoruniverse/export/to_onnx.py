"""ONNX: the image tower and the text tower as two files, from pixels and tokens to unit vectors.

Shapes: B batch, S side of the model's input picture, L tokens, E shared embedding; B and L are free in the files (L is
fixed where the model reads every text padded to the same length).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectoruniverse.api import LoadedRun
from vectoruniverse.export.contract import Format, Probe, Vectors
from vectoruniverse.export.processing import pads_to_end, save_processor
from vectoruniverse.export.to_transformers import merged_model

IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"

MAX_INLINE_BYTES = 3 * 2**29
"""A file in protobuf's format ends at 2 GiB; larger weights go into a file beside it."""

SNIPPET = """
from pathlib import Path

import onnxruntime
from PIL import Image
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained(folder)
image_tower, text_tower = (onnxruntime.InferenceSession(Path(folder) / f"{{name}}.onnx") for name in ("image", "text"))
pixels = processor(images=[Image.open("picture.jpg")], return_tensors="np")
tokens = processor(text=["a red circle"], padding={padding!r}, truncation=True, return_tensors="np")
(image_vectors,) = image_tower.run(None, {{"pixel_values": pixels["pixel_values"]}})
(text_vectors,) = text_tower.run(None, {{each.name: tokens[each.name] for each in text_tower.get_inputs()}})
"""


class ImageTower(nn.Module):
    """Normalised pixels (B, 3, S, S) → unit vectors (B, E)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures."""
        return F.normalize(self.model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)


class TextTower(nn.Module):
    """Token ids (B, L), with their mask (B, L) where the model takes one → unit vectors (B, E)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode texts."""
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return F.normalize(self.model.get_text_features(input_ids=input_ids, **mask).pooler_output, dim=-1)


def write(loaded: LoadedRun, folder: Path) -> None:
    """Fill ``folder``."""
    model, encoder = merged_model(loaded), loaded.encoder
    size = encoder.picture.size
    # two rows and texts of two lengths: the exporter takes an axis of length 1 for a constant
    _export(ImageTower(model), {"pixel_values": torch.randn(2, 3, size, size)}, {0: "batch"}, folder / IMAGE_FILE)
    ids, mask = encoder.pad(encoder.tokenize(["one", "one two three four"]).ids)
    if pads_to_end(loaded):
        _export(TextTower(model), {"input_ids": ids}, {0: "batch"}, folder / TEXT_FILE)
    else:
        inputs = {"input_ids": ids, "attention_mask": mask}
        _export(TextTower(model), inputs, {0: "batch", 1: "length"}, folder / TEXT_FILE)
    save_processor(loaded, folder)


def _export(tower: nn.Module, inputs: dict[str, Tensor], free: dict[int, str], file: Path) -> None:
    program = torch.onnx.export(
        tower.eval(),
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=["vectors"],
        dynamic_shapes=dict.fromkeys(inputs, free),
        verbose=False,
    )
    assert program is not None
    # the exporter notes beside each operation which file and line of this machine it comes from
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    program.save(file, external_data=weights > MAX_INLINE_BYTES)


def embed(folder: Path, probe: Probe) -> Vectors:
    """Vectors of a folder, by onnxruntime on the CPU."""
    import onnxruntime
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    image, text = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in (IMAGE_FILE, TEXT_FILE)
    )
    names = [each.name for each in text.get_inputs()]
    padding = True if "attention_mask" in names else "max_length"

    pixels = processor(images=probe.images(), return_tensors="np")["pixel_values"]
    tokens = processor(text=list(probe.texts), padding=padding, truncation=True, return_tensors="np")
    (image_vectors,) = image.run(None, {"pixel_values": pixels})
    (text_vectors,) = text.run(None, {name: tokens[name] for name in names})
    return Vectors(image_vectors, text_vectors)


def snippet(loaded: LoadedRun) -> str:
    """How to load it."""
    return SNIPPET.format(padding="max_length" if pads_to_end(loaded) else True)


ONNX = Format(
    name="onnx",
    reader="onnxruntime",
    tolerance=1e-5,
    library="onnx",
    tags=("onnxruntime", "clip"),
    relation="finetune",
    write=write,
    embed=embed,
    snippet=snippet,
)
