"""What the check of an export asks of both libraries, and how far their vectors may be from each other.

Shapes: N rows, S side of the model's input picture, E shared embedding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
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
from vectoruniverse.tasks.image_text.metadata import read_rows

ROWS = 8
"""Rows that a check asks for: enough for batches with texts of several lengths."""

SENTENCE = "a photo of two dogs that run over a green field in the last light of a long day"
"""Texts where there is no data: its first words, and more of them."""


class ExportError(UserError):
    """The other library does not give the vectors of the run, so nothing is left behind."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Probe:
    """What both libraries are asked.

    Attributes:
        squares: pictures at the size of the model's input, uint8 (N, S, S, 3).
        texts: texts of several lengths, one of them longer than the model reads.
        source: where they come from, for people.
        pictures: what the squares were made of; none where no image processor can make them so.
    """

    squares: NDArray[np.uint8]
    texts: Sequence[str]
    source: str
    pictures: Sequence[Image.Image] = ()

    def images(self) -> list[Image.Image]:
        """What the other library is given, and makes square by itself."""
        return list(self.pictures) or [Image.fromarray(square) for square in self.squares]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Unit vectors of a probe: of its pictures and of its texts, (N, E) each."""

    image: NDArray[np.float32]
    text: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far another library's vectors are from the run's.

    Attributes:
        image: largest absolute difference in any component of any picture's vector.
        text: the same of the texts.
        tolerance: what is allowed.
        library: the library and its version.
        source: where the inputs come from.
    """

    image: float
    text: float
    tolerance: float
    library: str
    source: str

    def __str__(self) -> str:
        return (
            f"checked with {self.library} on {self.source}: largest difference {self.image:.1e} (pictures) and "
            f"{self.text:.1e} (texts), {self.tolerance:.0e} allowed"
        )


def make_probe(loaded: LoadedRun) -> Probe:
    """Pictures and texts of a few rows spread over the run's data; noise and plain words where it cannot be read.

    Not the split's held-out rows: to know these, every picture would have to be decoded, and whether two libraries
    agree does not depend on which side a row was on.
    """
    own = loaded.encoder.picture
    found = _rows(loaded)
    source = f"{len(found)} rows of the run's data"
    if not found:
        noise = np.random.default_rng(0).integers(0, 256, (ROWS, own.size, 2 * own.size, 3), dtype=np.uint8)
        found = [(Image.fromarray(each), " ".join(SENTENCE.split()[: 1 + 2 * i])) for i, each in enumerate(noise)]
        source = "generated noise, since the run's data cannot be read"
    # squared by the run's recipe, at the size of the model's input and not of the stored pictures
    short = own.short_side if loaded.recipe.short_side else None
    recipe = dataclasses.replace(loaded.recipe, size=own.size, short_side=short)
    pictures, texts = [picture for picture, _ in found], [text for _, text in found]
    squares = np.stack([np.array(fit_picture(picture, recipe)) for picture in pictures])
    words = " ".join([*texts, SENTENCE]).split()
    cut = " ".join(words[i % len(words)] for i in range(loaded.encoder.max_tokens + 1))  # each is a token at least
    return Probe(squares, [*texts, cut], source, [] if recipe.fit == "pad" else pictures)


def _rows(loaded: LoadedRun) -> list[tuple[Image.Image, str]]:
    found: list[tuple[Image.Image, str]] = []
    with contextlib.suppress(UserError), pillow_warnings_silenced():
        rows = read_rows(loaded.experiment.data).rows
        for row in rows[:: max(1, len(rows) // ROWS)][:ROWS]:
            with contextlib.suppress(PictureError):
                content, _ = read_picture_file(row.path)
                found.append((upright_picture(content, row.path, loaded.recipe.max_pixels), row.text))
    return found


def compare(expected: Vectors, found: Vectors, *, reader: str, tolerance: float, source: str) -> Agreement:
    """Set the vectors of the package ``reader`` beside the run's.

    Raises:
        ExportError: they differ by more than ``tolerance`` in any component.
    """
    image, text = (
        float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
        for ours, theirs in ((expected.image, found.image), (expected.text, found.text))
    )
    agreement = Agreement(image, text, tolerance, f"{reader} {importlib.metadata.version(reader)}", source)
    if not (image <= tolerance and text <= tolerance):  # so that NaN fails too
        raise ExportError(str(agreement), remedy=f"try another version of {reader}, or another format")
    return agreement


@contextlib.contextmanager
def others_silenced() -> Iterator[None]:
    """Keep what other libraries say about themselves from a person who can do nothing about it.

    What they print goes to standard error: standard output belongs to the command's own result.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
