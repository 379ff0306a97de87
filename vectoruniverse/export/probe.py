"""A few real rows of the run's data, or generated inputs where the data is gone."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
from PIL import Image

from vectoruniverse.api import LoadedRun
from vectoruniverse.data.decoding import (
    PictureError,
    fit_picture,
    pillow_warnings_silenced,
    read_picture_file,
    upright_picture,
)
from vectoruniverse.errors import UserError
from vectoruniverse.export.contract import Probe
from vectoruniverse.tasks.image_text.data import read_rows

ROWS = 8
"""Rows that a check asks for: enough for batches with texts of several lengths."""

SENTENCE = "a photo of two dogs that run over a green field in the last light of a long day"
"""Texts where there is no data: its first words, and more of them."""


def make_probe(loaded: LoadedRun) -> Probe:
    """Pictures and texts of a few rows spread over the run's data; noise and plain words where it cannot be read.

    Not the split's held-out rows: to know these, every picture would have to be decoded, and whether two libraries
    agree does not depend on which side a row was on.
    """
    found: list[tuple[Image.Image, str]] = []
    with contextlib.suppress(UserError), pillow_warnings_silenced():
        rows = read_rows(loaded.experiment.data).rows
        for row in rows[:: max(1, len(rows) // ROWS)][:ROWS]:
            with contextlib.suppress(PictureError):
                content, _ = read_picture_file(row.path)
                found.append((upright_picture(content, row.path, loaded.recipe.max_pixels), row.text))
    if not found:
        return _generated(loaded)
    texts = [text for _, text in found]
    return _probe(loaded, [picture for picture, _ in found], texts, f"{len(found)} rows of the run's data")


def _probe(loaded: LoadedRun, pictures: list[Image.Image], texts: list[str], source: str) -> Probe:
    """The pictures squared by the run's recipe, at the size of the model's input and not of the stored pictures."""
    own = loaded.encoder.picture
    short = own.short_side if loaded.recipe.short_side else None
    recipe = dataclasses.replace(loaded.recipe, size=own.size, short_side=short)
    squares = np.stack([np.array(fit_picture(picture, recipe)) for picture in pictures])
    return Probe(squares, [*texts, _too_long(loaded, texts)], source, [] if recipe.fit == "pad" else pictures)


def _generated(loaded: LoadedRun) -> Probe:
    size = loaded.encoder.picture.size
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, size, 2 * size, 3), dtype=np.uint8)
    texts = [" ".join(SENTENCE.split()[: 1 + 2 * i]) for i in range(ROWS)]
    pictures = [Image.fromarray(each) for each in noise]
    return _probe(loaded, pictures, texts, "generated noise, since the run's data cannot be read")


def _too_long(loaded: LoadedRun, texts: list[str]) -> str:
    """Every word makes at least one token, so this text is cut."""
    words = " ".join([*texts, SENTENCE]).split()
    return " ".join(words[i % len(words)] for i in range(loaded.encoder.max_tokens + 1))
