"""A few real rows of the run's data, or generated inputs where the data is gone."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.assembly.rows import read_rows
from vectoruniverse.data.decoding import PictureError, PictureRecipe, decode_picture, pillow_warnings_silenced
from vectoruniverse.errors import UserError
from vectoruniverse.export.contract import Probe
from vectoruniverse.library import LoadedRun

ROWS = 8
"""Rows that a check asks for: enough for batches with texts of several lengths."""

SENTENCE = "a photo of two dogs that run over a green field in the last light of a long day"
"""Texts where there is no data: its first words, and more of them."""


def make_probe(loaded: LoadedRun) -> Probe:
    """Pictures and texts of a few rows spread over the run's data; noise and plain words where it cannot be read.

    Not the split's held-out rows: to know these, every picture would have to be decoded, and whether two libraries
    agree does not depend on which side a row was on.
    """
    found: list[tuple[NDArray[np.uint8], str]] = []
    with contextlib.suppress(UserError), pillow_warnings_silenced():
        rows = read_rows(loaded.experiment.data).rows
        for row in rows[:: max(1, len(rows) // ROWS)][:ROWS]:
            with contextlib.suppress(PictureError):
                found.append((decode_picture(row.path, _recipe(loaded)), row.text))
    if not found:
        return _generated(loaded)
    texts = [text for _, text in found]
    squares = np.stack([square for square, _ in found])
    return Probe(squares, [*texts, _too_long(loaded, texts)], f"{len(found)} rows of the run's data")


def _recipe(loaded: LoadedRun) -> PictureRecipe:
    """The run's, at the size of the model's input and not of the stored pictures."""
    recipe = loaded.recipe
    return PictureRecipe(loaded.encoder.picture.size, recipe.fit, recipe.resample, recipe.max_pixels)


def _generated(loaded: LoadedRun) -> Probe:
    size = loaded.encoder.picture.size
    squares = np.random.default_rng(0).integers(0, 256, (ROWS, size, size, 3), dtype=np.uint8)
    texts = [" ".join(SENTENCE.split()[: 1 + 2 * i]) for i in range(ROWS)]
    return Probe(squares, [*texts, _too_long(loaded, texts)], "generated noise, since the run's data cannot be read")


def _too_long(loaded: LoadedRun, texts: list[str]) -> str:
    """Every word makes at least one token, so this text is cut."""
    words = " ".join([*texts, SENTENCE]).split()
    return " ".join(words[i % len(words)] for i in range(loaded.encoder.max_tokens + 1))
