"""What a run keeps of its labels: the rules that predict them, ``adapter/labels.json``, and how well they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from vectoruniverse.runs.files import Record

PROBES_FILE = "probes.safetensors"
"""Linear probes of labels in an adapter's folder, beside the rules that weigh them."""

LabelInput = Literal["picture", "text", "both", "fused"]
"""What labels are predicted by; ``fused``: by picture, text, and what the fusion of ``loss.label_kl`` makes of both."""

COSINES: Mapping[LabelInput, tuple[str, ...]] = {
    "picture": ("image",),
    "text": ("text",),
    "both": ("image", "text"),
    "fused": ("image", "text", "fused"),
}
"""Vectors whose cosines with a label's text are its first scores, by what labels are predicted by."""

PROBED: Mapping[LabelInput, tuple[str, ...]] = {**COSINES, "fused": ("image", "text")}
"""Vectors whose linear probes give the scores behind these, where there are probes."""

LabelStatus = Literal["fitted", "default", "seen once", "unseen"]
"""``fitted``: calibration and threshold of its own. ``default``: those of all labels together, as too few validation
rows have it. ``seen once``: one training or validation row has it, ``unseen``: none has; neither is known."""


KNOWN = ("fitted", "default")
"""What a label is that counts in means over labels, and is predicted of new rows."""


class LabelRules(Record):
    """How a model tells labels by one input: p = σ(a·s + b) of each label, which is said where p reaches a threshold.

    Attributes:
        slopes: a of each label (C, D), of its cosines with the picture, the text and their fusion, and of the values of
            linear probes of picture and text, in this order, as far as it is told by them.
        intercepts: b of each label (C,).
        thresholds: of each label (C,), probabilities.
        default: slopes, intercept and threshold of all labels together, as a label has them without its own.
    """

    slopes: list[list[float]]
    intercepts: list[float]
    thresholds: list[float]
    default: tuple[list[float], float, float]


class LabelsFile(Record):
    """The labels of a run and the rules of its models, fitted on its validation rows.

    Attributes:
        version: 1: cosines are all that labels are told by; 2: linear probes too, which lie beside the file.
        names: labels that a training or validation row has (C,).
        training, validation: how many of these rows have each (C,).
        fitted: whether each has rules of its own (C,).
        rows: validation rows with a label, on which the rules were fitted.
        models: ``base`` and ``adapted`` → what labels are predicted by → rules.
    """

    version: Literal[1, 2] = 1
    names: list[str]
    training: list[int]
    validation: list[int]
    fitted: list[bool]
    rows: int
    models: dict[str, dict[LabelInput, LabelRules]]

    @model_validator(mode="after")
    def _of_one_length(self) -> LabelsFile:
        rules = [one for inputs in self.models.values() for one in inputs.values()]
        columns = [column for one in rules for column in (one.slopes, one.intercepts, one.thresholds)]
        if any(len(column) != len(self.names) for column in (self.training, self.validation, self.fitted, *columns)):
            raise ValueError("not all labels have their rules")
        for inputs in self.models.values():
            for by, one in inputs.items():
                width = len(COSINES[by]) + (len(PROBED[by]) if self.probed else 0)
                if any(len(row) != width for row in (*one.slopes, one.default[0])):
                    raise ValueError(f"rules by {by} need {width} slopes of each label")
        return self

    @property
    def probed(self) -> bool:
        """Whether linear probes tell labels too."""
        return self.version == 2

    def places(self, names: Sequence[str]) -> list[int]:
        """Where each name stands among those of the file; -1: nowhere."""
        at = {name: i for i, name in enumerate(self.names)}
        return [at.get(name, -1) for name in names]

    def status(self, place: int) -> LabelStatus:
        """What is known of a label, by its place."""
        if place < 0:
            return "unseen"
        if self.training[place] + self.validation[place] < 2:
            return "seen once"
        return "fitted" if self.fitted[place] else "default"

    @property
    def known(self) -> list[int]:
        """Places of the labels that more than one training or validation row has: those that are predicted."""
        return [i for i in range(len(self.names)) if self.status(i) in KNOWN]


Told = list[float]
"""A number as [estimate, low, high]; the number alone where there are too few rows for an interval."""


class LabelOutcome(Record):
    """How a label fared.

    Attributes:
        status: what was known of it.
        training, validation, rows: how many training, validation and evaluated rows have it.
        by: input → model → ``ap`` (average precision) and ``f1`` (at the threshold) with their intervals; under
            ``change`` adapted less base, paired.
        thresholds: input → that of the adapted model.
    """

    status: LabelStatus
    training: int
    validation: int
    rows: int
    by: dict[LabelInput, dict[str, dict[str, Told]]] = Field(default_factory=dict)
    thresholds: dict[LabelInput, float] = Field(default_factory=dict)


class Mistaken(Record):
    """A label that the adapted model said in place of another.

    Attributes:
        label: the row has it and it was not said.
        said: it was said and the row does not have it.
        rows: of how many rows both holds.
        share: of the rows that have the label, with its interval.
    """

    label: str
    said: str
    rows: int
    share: Told


class Confused(Record):
    """The labels that the adapted model most often says in place of each other, those of the commonest pair first.

    Attributes:
        labels: M of them.
        rows: how many rows have each (M,).
        said: (M, M): of the rows that have label i, in how many it was missed and label j, which they have not, was
            said; of j = i, in how many it was said.
    """

    labels: list[str]
    rows: list[int]
    said: list[list[int]]


class Bins(Record):
    """Pairs of row and label by probability, as ``metrics.classification.Reliability`` has them; None: no pairs."""

    counts: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


class LabelsRecord(Record):
    """How well labels were predicted of rows that were evaluated.

    Attributes:
        rows: evaluated rows that have a label; the others count nowhere.
        in_sample: whether the thresholds were fitted on these very rows.
        by: the input that the page tells of, the fullest that there is.
        labels: each label by name, most frequent first.
        reached: input → model → ``map`` and ``macro_f1``, means over the known labels that some evaluated row has,
            ``micro_f1`` and ``calibration_error``, over all known ones; with intervals.
        ahead: input → model → metric → by how much the adapted model stands ahead of it, paired; of those in a metric
            all intervals hold at once. Beside ``fused`` the base, which has no fusion, and the adapted model under the
            name ``unfused`` are those by picture and text.
        mistaken: which labels were said in place of which, the most frequent pairs first.
        confused: the same among few labels, all of their pairs; None where none was said in place of another.
        reliability: model → pairs of row and label by probability.
    """

    rows: int
    in_sample: bool
    by: LabelInput
    labels: dict[str, LabelOutcome]
    reached: dict[LabelInput, dict[str, dict[str, Told]]]
    ahead: dict[LabelInput, dict[str, dict[str, Told]]]
    mistaken: list[Mistaken] = Field(default_factory=list)
    confused: Confused | None = None
    reliability: dict[str, Bins] = Field(default_factory=dict)
