"""Classifiers of texts: one or two text encoders, and a linear layer on their pooled vectors.

Shapes: B batch, N rows, L tokens, D width of the pooled vectors side by side, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vectoruniverse.data.normalise import canonical
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.models.encoder import TextBatch, TokenizedTexts
from vectoruniverse.models.text import TextEncoder
from vectoruniverse.runs.durable import write_durably, write_errors_are_told

HEAD_FILE = "head.safetensors"

INITIAL_STD = 0.02
"""Standard deviation of the initial weights, BERT's own (arXiv:1810.04805)."""

_INTACT = "take an intact copy of the run's folder"


class TextClassifier(nn.Module):
    """Pooled vectors of one or two encoders, side by side → dropout → linear layer.

    One encoder reads a text (or a pair as one sequence); of two the first reads (question, answer) and the second
    (answer, question). The parameters trained are the head's, and whatever an adapter opened in the encoders.

    Args:
        encoders: what reads the inputs, in order, by its name as a layer; one object twice is one encoder for both.
        classes: C.
        dropout: probability of dropping an element of a pooled vector, in [0, 1).
        seed: the only source of the head's weights.

    Attributes:
        encoders: in order, without their names.
        classifier: the linear layer, float32 whatever the encoders compute in.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder], classes: int, dropout: float, seed: int) -> None:
        super().__init__()
        for name, encoder in encoders.items():
            self.add_module(name, encoder.module)
        self.encoders = tuple(encoders.values())
        self.dropout = nn.Dropout(dropout)
        self.classifier = _linear(sum(encoder.width for encoder in self.encoders), classes, seed).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoders[0].device

    def pad(self, inputs: Sequence[TokenizedTexts], rows: np.ndarray) -> list[TextBatch]:
        """These rows of each encoder's texts, padded."""
        return [encoder.pad(tokens, rows) for encoder, tokens in zip(self.encoders, inputs, strict=True)]

    def pool(self, batches: Sequence[TextBatch]) -> Tensor:
        """Pooled vectors of all encoders side by side, (B, D) float32 with gradient."""
        pooled = [encoder.encode_texts(batch) for encoder, batch in zip(self.encoders, batches, strict=True)]
        return torch.cat(pooled, dim=1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (B, D) → logits (B, C) float32; dropout in training mode."""
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def forward(self, batches: Sequence[TextBatch]) -> Tensor:
        """One batch for each encoder, of the same rows → logits (B, C) float32."""
        return self.classify(self.pool(batches))

    def embed(self, inputs: Sequence[TokenizedTexts], *, batch_size: int) -> Tensor:
        """Pooled vectors of all rows, (N, D) float32 on the CPU; without dropout and gradients."""
        parts = zip(self.encoders, inputs, strict=True)
        return torch.cat([encoder.embed_texts(tokens, batch_size=batch_size) for encoder, tokens in parts], dim=1)

    @torch.no_grad()
    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (N, D) → logits (N, C) float32 on the CPU; without dropout and gradients."""
        logits: Tensor = self.classifier(pooled.to(self.device))
        return logits.cpu()

    def predict(self, inputs: Sequence[TokenizedTexts], *, batch_size: int) -> Tensor:
        """Probability of each class for all rows, (N, C) float32 on the CPU."""
        return self.logits(self.embed(inputs, batch_size=batch_size)).softmax(dim=1)


def _linear(width: int, classes: int, seed: int) -> nn.Linear:
    with torch.device("meta"):  # a linear layer draws its first weights from the global generator
        layer = nn.Linear(width, classes, dtype=torch.float32)
    layer.to_empty(device="cpu")
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True, slots=True)
class SavedHead:
    """What a head's file holds: names of the classes (C), weight (C, D) and bias (C,)."""

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor


def save_head(model: TextClassifier, file: Path, names: Sequence[str]) -> None:
    """Write the head's weights as safetensors, with the names of the classes as JSON in its metadata.

    Args:
        model: whose head; its encoders are not written.
        file: replaced as a whole; its folder is made where it is missing.
        names: of the C classes.

    Raises:
        ConfigError: it cannot be written.
        ResourceError: the disk is full.
    """
    assert len(names) == model.classifier.out_features, (names, model.classifier)
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.classifier.named_parameters()}
    metadata = {"format": "pt", "classes": json.dumps(list(names), ensure_ascii=False)}
    with write_errors_are_told(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, safetensors.torch.save(tensors, metadata=metadata))


def load_head(model: TextClassifier, file: Path) -> tuple[str, ...]:
    """Copy a saved head's weights into a model's head.

    Returns:
        Names of the classes.

    Raises:
        ConfigError: the head is of another width or number of classes; the model is as before.
        DataError: as `read_head`.
    """
    saved, layer = read_head(file), model.classifier
    if saved.weight.shape != layer.weight.shape:
        (classes, width), (own_classes, own_width) = saved.weight.shape, layer.weight.shape
        raise ConfigError(
            f"the head is of {classes} classes on {width} numbers, and {own_classes} on {own_width} are needed",
            file=file,
            remedy="take the encoders that the head was trained on",
        )
    with torch.no_grad():
        layer.weight.copy_(saved.weight)
        layer.bias.copy_(saved.bias)
    return saved.names


def read_head(file: Path) -> SavedHead:
    """Read what `save_head` wrote; nothing is executed.

    Raises:
        DataError: the file is missing or damaged, its values are not finite float32, or its parts do not fit together.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as stream:
            metadata, keys = stream.metadata() or {}, set(stream.keys())
            if keys != {"weight", "bias"}:
                message = f"holds {sorted(keys)[:4]} and not the weight and bias of a head"
                raise DataError(message, file=file, remedy=_INTACT)
            weight, bias = stream.get_tensor("weight"), stream.get_tensor("bias")
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"cannot be read: {error}", file=file, remedy=_INTACT) from error
    names = _class_names(metadata.get("classes", ""), file)
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(names) != len(weight):
        found = f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}, {len(names)} names of classes"
        raise DataError(f"its parts do not fit together: {found}", file=file, remedy=_INTACT)
    for name, value in (("weight", weight), ("bias", bias)):
        if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
            raise DataError(f"{name} holds values that are not finite float32", file=file, remedy=_INTACT)
    return SavedHead(names, weight, bias)


def _class_names(text: str, file: Path) -> tuple[str, ...]:
    try:
        names = json.loads(text)
        "".join(names).encode()  # half of a surrogate pair could not be printed
    except (ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or len(set(names)) != len(names):
        raise DataError("names no classes, each once", file=file, remedy=_INTACT)
    plain = [canonical(name) for name in names]  # earlier versions wrote labels as they found them
    return tuple(plain if len(set(plain)) == len(plain) else names)
