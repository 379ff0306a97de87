"""The original notes' loop, cleanly written: a pass for each view, pairs of rows in Python, texts padded to 77."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from bench.machine import device
from bench.material import Material
from bench.peers import plain_epochs, trainable, with_adapter


def notes_loss(image: Tensor, text: Tensor, image2: Tensor, text2: Tensor, temperature: float = 0.05) -> Tensor:
    """Alignment and anisotropy of rows (B, E) of two views, as the original notes compute them."""
    alignment = -(1 / temperature) * (
        cosine_similarity(image, image2)
        + cosine_similarity(image, text)
        + cosine_similarity(image2, text2)
        + cosine_similarity(text, text2)
    )
    rows, anisotropy = len(image), []
    for i in range(rows):
        sum_i = torch.zeros((), device=image.device)
        for j in range(rows):
            if i != j:
                sum_i = sum_i + cosine_similarity(image[i], image[j], dim=0)
                sum_i = sum_i + cosine_similarity(text2[i], text2[j], dim=0)
                sum_i = sum_i + cosine_similarity(image[i], text[j], dim=0)
                sum_i = sum_i + cosine_similarity(image2[i], text2[j], dim=0)
        anisotropy.append(sum_i / rows)
    return (alignment + torch.stack(anisotropy)).sum() / rows


class NotesLoop:
    """Resize to 256, random crop, colour jitter of 0.2; both loaders read every picture."""

    def __init__(self, material: Material, batch: int, number_format: str) -> None:
        self._rows, self._batch, self._format = material.rows(), batch, number_format
        self._processor = AutoImageProcessor.from_pretrained(material.model, backend="pil")
        self._tokenizer = AutoTokenizer.from_pretrained(material.model)
        self._model = with_adapter(CLIPModel.from_pretrained(material.model), material).to(device())
        self._size = self._model.config.vision_config.image_size
        self._generator = np.random.default_rng(0)

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of these rows, in views drawn anew."""
        first, second = (self._model(**self._view(rows)) for _ in range(2))
        return notes_loss(first.image_embeds, first.text_embeds, second.image_embeds, second.text_embeds)

    def trained(self) -> list[nn.Parameter]:
        """Parameters."""
        return trainable(self._model)

    def epochs(self, count: int) -> list[float]:
        """Seconds of each."""
        return list(plain_epochs(self.loss, self.trained(), len(self._rows), self._batch, self._format, count))

    def _view(self, rows: Sequence[int]) -> dict[str, Tensor]:
        paths, texts = zip(*(self._rows[row] for row in rows), strict=True)
        pixels = self._processor([self._augment(Image.open(path)) for path in paths], return_tensors="pt")
        tokens = self._tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return {"pixel_values": pixels.pixel_values.to(device()), "input_ids": tokens.input_ids.to(device())}

    def _augment(self, picture: Image.Image) -> Image.Image:
        larger = round(self._size * 256 / 224)
        x, y = self._generator.integers(0, larger - self._size + 1, 2)
        view = picture.resize((larger, larger)).crop((x, y, x + self._size, y + self._size))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = enhance(view).enhance(self._generator.uniform(0.8, 1.2))
        return view
