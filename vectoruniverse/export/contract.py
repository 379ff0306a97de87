"""What a format of export is, and what its check compares.

Shapes: N rows, S side of the model's input picture, E shared embedding.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vectoruniverse.api import LoadedRun
from vectoruniverse.errors import UserError


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


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how it is written, and how the library that reads it turns a probe into vectors.

    Attributes:
        name: what ``--to`` takes.
        reader: the package that the check reads it with.
        tolerance: largest difference allowed in any component of a unit vector.
        library: ``library_name`` of the card.
        tags: further tags of the card.
        relation: ``base_model_relation`` of the card.
        write: fills an empty folder; may merge the adapter of the run that it is given.
        embed: reads the folder as anybody would, with ``reader``.
        snippet: Python that reads the folder ``folder`` and embeds ``picture.jpg`` and a text.
    """

    name: str
    reader: str
    tolerance: float
    library: str
    tags: tuple[str, ...]
    relation: str
    write: Callable[[LoadedRun, Path], None]
    embed: Callable[[Path, Probe], Vectors]
    snippet: Callable[[LoadedRun], str]


def compare(expected: Vectors, found: Vectors, form: Format, probe: Probe) -> Agreement:
    """Set the other library's vectors beside the run's.

    Raises:
        ExportError: they differ by more than the format allows.
    """
    image, text = (
        float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
        for ours, theirs in ((expected.image, found.image), (expected.text, found.text))
    )
    library = f"{form.reader} {importlib.metadata.version(form.reader)}"
    agreement = Agreement(image, text, form.tolerance, library, probe.source)
    if not (image <= form.tolerance and text <= form.tolerance):  # so that NaN fails too
        raise ExportError(str(agreement), remedy=f"try another version of {form.reader}, or another format")
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
