"""``views.text``: the text of a row drawn anew for every view, a pure function of seed, epoch, row and view.

Shapes: B batch, N training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.pair_items import number
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.image_text.data import ImageTextData
from vectoruniverse.tasks.image_text.metadata import Row
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.template import Template, fill, parse_template

_TEXTS = 1
"""Ends the seed of a text's draws, which are none of the picture's then."""


@dataclass(frozen=True, slots=True)
class TextViews:
    """Training rows, and how their texts are drawn.

    Attributes:
        rows: the training rows (N).
        keys: stable 64-bit key of each; what is drawn depends on it and not on the row's place.
        templates: of which a view draws one.
        word_dropout: probability that a word, which is what stands between spaces, is left out; one always stays.
        shuffle_labels: whether a row's labels stand in a drawn order.
        seed: of the draws.
    """

    rows: Sequence[Row]
    keys: Sequence[int]
    templates: Sequence[Template]
    word_dropout: float
    shuffle_labels: bool
    seed: int

    def draw(self, rows: NDArray[np.int64], epoch: int, view: int) -> list[str]:
        """Texts of one view of the rows at these positions (B)."""
        return [
            self._draw(self.rows[i], np.random.default_rng((self.seed, epoch, self.keys[i], view, _TEXTS)))
            for i in rows
        ]

    def _draw(self, row: Row, random: np.random.Generator) -> str:
        template = self.templates[int(random.integers(len(self.templates)))]
        labels = [row.labels[i] for i in random.permutation(len(row.labels))] if self.shuffle_labels else row.labels
        text = fill(template, row.columns, row.title, labels)
        if not self.word_dropout:
            return text
        words = text.split()
        kept = random.random(len(words)) >= self.word_dropout
        kept[random.integers(len(words))] |= not kept.any()
        return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)

    def whole(self, template: Template) -> list[str]:
        """The text that a template makes of every row, nothing left out (N)."""
        return [fill(template, row.columns, row.title, row.labels) for row in self.rows]

    def same_texts(self) -> list[NDArray[np.int64]]:
        """For each template, numbers (N,) that are equal where it makes the same text, as texts are compared."""
        return [number([caseless(text) for text in self.whole(template)]) for template in self.templates]


def text_views(experiment: ImageTextExperiment, data: ImageTextData, keys: Sequence[int]) -> TextViews | None:
    """How ``views.text`` draws the texts of the training rows; None where it is not asked for.

    Args:
        experiment: says how.
        data: the rows.
        keys: of the training rows.

    Raises:
        ConfigError: a template names a column that is not there, or every row has one text whatever is drawn.
        DataError: a template makes an empty text of a row.
    """
    config = experiment.views.text
    if config is None:
        return None
    written = experiment.training_templates
    templates = [parse_template(text, data.table.placeholders, "views.text.templates") for text in written]
    rows = [data.rows[i] for i in data.split.train]
    found = TextViews(rows, keys, templates, config.word_dropout, config.shuffle_labels, experiment.seed)
    texts = [found.whole(template) for template in templates]
    _refuse_empty(written, texts, data, rows)
    if not _varies(found, texts):
        raise ConfigError(
            "every training row has one text only, whatever is drawn",
            key="views.text",
            remedy="give templates that differ, word_dropout for texts of several words, or shuffle_labels for rows of "
            "several labels; or remove it",
        )
    return found


def _refuse_empty(
    written: Sequence[str], texts: Sequence[Sequence[str]], data: ImageTextData, rows: Sequence[Row]
) -> None:
    for template, made in zip(written, texts, strict=True):
        if "" in made:
            row = rows[made.index("")]
            raise DataError(
                f"the template {template!r} makes an empty text of row {row.id}",
                file=data.table.file,
                line=row.line,
                key="views.text.templates",
                remedy="add a word or another column to the template, or leave such rows out with data.exclude",
            )


def _varies(found: TextViews, texts: Sequence[Sequence[str]]) -> bool:
    """Whether any row can have two texts."""
    several = any(len(set(of_row)) > 1 for of_row in zip(*texts, strict=True))
    dropped = found.word_dropout > 0 and any(len(text.split()) > 1 for text in chain(*texts))
    return several or dropped or (found.shuffle_labels and any(len(row.labels) > 1 for row in found.rows))
