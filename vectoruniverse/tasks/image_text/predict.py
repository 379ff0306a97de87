"""Labels of new pictures and texts, by the rules that a run learned on its validation rows.

Shapes: N rows, C labels that are known, E shared embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vectoruniverse.data.decoding import PictureRecipe
from vectoruniverse.data.findings import Finding
from vectoruniverse.data.normalise import listed
from vectoruniverse.data.thumbnails import DecodedPictures
from vectoruniverse.errors import ConfigError
from vectoruniverse.evaluation.label_rules import Predicted, Probes, label_values, predict
from vectoruniverse.models.dual import DualEncoder
from vectoruniverse.runs.label_records import LabelInput, LabelsFile
from vectoruniverse.tasks.image_text.data import decode_pictures
from vectoruniverse.tasks.image_text.label_rules import LearnedLabels, with_fused
from vectoruniverse.tasks.image_text.new_rows import NewRow, read_new_rows
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.predictions import Predictions, likeliest_first
from vectoruniverse.tasks.rows import tell_doubts
from vectoruniverse.tasks.text_rows import tell_truncated
from vectoruniverse.terminal import Display

SIDES: Mapping[LabelInput, tuple[str, ...]] = {
    "picture": ("picture",),
    "text": ("text",),
    "both": ("picture", "text"),
    "fused": ("picture", "text"),
}
"""What a row must have, by what its labels are predicted by."""


@dataclass(frozen=True, slots=True)
class PredictedLabels(Predicted):
    """Which labels rows have.

    Attributes:
        names: known labels (C).
    """

    names: tuple[str, ...]

    def labels(self) -> list[list[str]]:
        """What is said of each row, the likeliest first; none where no probability reaches its threshold."""
        return likeliest_first(self.names, self.probabilities, self.said)


@dataclass(frozen=True, slots=True)
class Squares:
    """Decoded pictures of rows, by the line of the row; they stay on disk until they are taken."""

    pictures: DecodedPictures
    places: Mapping[int, int]

    def take(self, lines: Sequence[int], part: slice) -> NDArray[np.uint8]:
        """uint8 (B, S, S, 3) of a part of these lines."""
        return self.pictures.take(np.array([self.places[line] for line in lines[part]], dtype=np.int64))


@dataclass(frozen=True)
class LabelPredictor:
    """A model with the rules of its labels.

    Attributes:
        encoder: the adapted model.
        experiment: of the run.
        recipe: how a picture becomes a square.
        learned: what the run knows of its labels.
        fusion: that it was trained with; None: with none, or the rules do without it.
        batch: rows encoded at a time.
    """

    encoder: DualEncoder
    experiment: ImageTextExperiment
    recipe: PictureRecipe
    learned: LearnedLabels
    fusion: nn.Module | None = None
    batch: int = field(default=64)

    @property
    def rules(self) -> LabelsFile:
        """How labels are told by scores."""
        return self.learned.rules

    @cached_property
    def _probes(self) -> Probes:
        """Of the known labels."""
        return self.learned.of("adapted", self.rules.known)

    @property
    def inputs(self) -> list[LabelInput]:
        """What labels can be predicted by."""
        return list(self.rules.models["adapted"])

    @property
    def names(self) -> tuple[str, ...]:
        """Known labels (C)."""
        return tuple(self.rules.names[i] for i in self.rules.known)

    @cached_property
    def _label_text(self) -> Tensor:
        """Unit vectors of the labels' texts (C, E)."""
        template = self.experiment.eval.label_template
        assert template is not None, "without it no rules are learned"
        return self._texts([template.replace("{label}", name) for name in self.names], None)

    def refuse_input(self, by: LabelInput | None) -> None:
        """Raise where nothing can be predicted by an input.

        Raises:
            ConfigError: the texts of the run are made of its labels, it has no fusion, or no label is known.
        """
        if by == "fused" and "both" in self.inputs and by not in self.inputs:
            raise ConfigError("this run has no rules by a fusion", key="loss.label_kl", remedy="predict by both")
        if by is not None and by not in self.inputs:
            raise ConfigError(
                "the texts of this run are made of the labels themselves, which new rows do not have",
                key="data.text",
                remedy="predict by picture",
            )
        if not self.names:
            raise ConfigError("no label of this run is in more than one of its training and validation rows")

    def tell(self, image: Tensor | None, text: Tensor | None, by: LabelInput | None = None) -> PredictedLabels:
        """Labels of unit rows (N, E) of pictures, of texts, or of both; ``by`` None: by all that there is."""
        sides = {name: rows for name, rows in (("image", image), ("text", text)) if rows is not None}
        by = by or self._fullest("both" if len(sides) == 2 else "picture" if image is not None else "text")
        self.refuse_input(by)
        scores = label_values(with_fused(sides, self.fusion), self._label_text, self._probes)[by]
        said = predict(self.rules.models["adapted"][by], scores, self.rules.known)
        return PredictedLabels(said.probabilities, said.thresholds, self.names)

    def predict_table(self, file: Path, display: Display, *, encoding: str, by: LabelInput | None) -> Predictions:
        """Labels of the rows of a table; ``by`` None: of each by all that it has.

        Raises:
            DataError: the file cannot be read as a table, or lacks a column.
            ConfigError: labels cannot be predicted by this input, or the template names a column that is not there.
        """
        self.refuse_input(by)
        takes = SIDES[by or self.inputs[-1]]
        data = self.experiment.data.model_copy(update={"encoding": encoding})
        found = read_new_rows(file, data, needs=takes if by else (), takes=takes)
        tell_doubts(found.read.doubts, file, display)
        self._tell_unseen(found.read.rows, file, display)
        squares, bad = self._decode(found.read.rows, by, display)
        lost = {one.line for one in bad}
        rows = [row for row in found.read.rows if row.line not in lost]
        modes = [by or self._fullest(_sides(row, squares)) for row in rows]
        probabilities, said = self._tell_rows(rows, modes, squares, display)
        return Predictions(
            found.table,
            rows,
            [*found.read.bad, *bad],
            self.names,
            probabilities,
            said,
            by=modes,
            separator=data.label_separator,
        )

    def _fullest(self, by: LabelInput) -> LabelInput:
        """By picture and text: with their fusion, where there is one."""
        return "fused" if by == "both" and "fused" in self.inputs else by

    def _decode(self, rows: Sequence[NewRow], by: LabelInput | None, display: Display) -> tuple[Squares, list[Finding]]:
        """The rows' pictures, and the rows that are lost with a broken one: their text does not do, or is not there."""
        having = [(row, row.picture) for row in rows if row.picture is not None]
        tell = partial(display.advance, "pictures")
        decoded = decode_pictures(self.experiment.data, [path for _, path in having], self.recipe, tell)
        squares = Squares(decoded, {having[i][0].line: int(i) for i in decoded.usable()})
        broken = [(having[i][0], error) for i, error in sorted(decoded.errors.items())]
        lost = [(row, error) for row, error in broken if by is not None or row.text is None]
        return squares, [Finding(error.kind, str(error), "", row.line, row.id) for row, error in lost]

    def _tell_rows(
        self, rows: Sequence[NewRow], modes: Sequence[LabelInput], squares: Squares, display: Display
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probabilities and what is said, both (N, C), of each row by its own input."""
        probabilities = np.zeros((len(rows), len(self.names)), dtype=np.float32)
        said = np.zeros(probabilities.shape, dtype=np.bool_)
        for by in dict.fromkeys(modes):
            at = [i for i, mode in enumerate(modes) if mode == by]
            image = text = None
            if "picture" in SIDES[by]:
                take = partial(squares.take, [rows[i].line for i in at])
                image = self.encoder.embed_squares(take, len(at), batch_size=self.batch)
            if "text" in SIDES[by]:
                text = self._texts([rows[i].text or "" for i in at], display)
            found = self.tell(image, text, by)
            probabilities[at], said[at] = found.probabilities, found.said
        return probabilities, said

    def _texts(self, texts: Sequence[str], display: Display | None) -> Tensor:
        tokens = self.encoder.tokenize(texts)
        if display is not None:
            tell_truncated({"": tokens}, self.encoder.max_tokens, display)
        return self.encoder.embed_texts(tokens, batch_size=self.batch)

    def _tell_unseen(self, rows: Sequence[NewRow], file: Path, display: Display) -> None:
        """Warn of labels in the table that the run does not know: they are never predicted."""
        if unseen := sorted({label for row in rows for label in row.labels} - {*self.names}):
            display.warn(f"{file}: labels that this run does not know, and so never predicts: {listed(unseen)}")


def _sides(row: NewRow, squares: Squares) -> LabelInput:
    """All that a row has."""
    if row.line not in squares.places:
        return "text"
    return "picture" if row.text is None else "both"
