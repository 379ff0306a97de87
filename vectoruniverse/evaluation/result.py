"""What is known of a model on one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from vectoruniverse.evaluation.label_rules import Predicted, Probe


@dataclass(frozen=True, slots=True)
class Labels:
    """Label names (C) with their texts' unit vectors (C, E), and which row has which, (N, C) bool."""

    names: Sequence[str]
    text: Tensor
    of_row: Tensor


@dataclass(frozen=True, slots=True)
class Rivals:
    """What rivals that cost nothing reach on the rows of a split.

    Attributes:
        values: rival → metric → value of each row (N,), NaN where the metric does not apply.
        how: what was chosen of each, in words.
        best: metric → the rival, or ``base``, that came first on the rows that choose.
        chosen_by: the metric that chose what a map of the space does.
        fitted_on: number of training rows that they were fitted on.
        labels: rival → which labels it says of the rows' pictures, of those that know labels.
    """

    values: Mapping[str, Mapping[str, np.ndarray]]
    how: Mapping[str, str]
    best: Mapping[str, str]
    chosen_by: str
    fitted_on: int
    labels: Mapping[str, Predicted] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good the model is on one split.

    Attributes:
        metrics: named numbers.
        per_query: what the metrics are means of, one value per row, so that two models can be compared row by row.
        ranks: rank of each row's best right answer, by direction, for whoever shows single rows.
        vectors: the rows as vectors (N, D) float32 on the CPU, by what they are of, such as ``image`` and ``text``.
        loss: what training lowers, without its penalties, on these rows; of two models with equal metrics the one with
            the lower loss is better. None where a loss of these rows would say nothing, as one over whole batches does.
        rivals: of a base, what comes of its vectors without training; None where nobody asked.
        labels: the rows' labels and this model's vectors of their texts; None where there are none.
        probes: of a base on validation rows, its linear probes of labels; see ``label_rules.Probes``.
    """

    metrics: Mapping[str, float]
    per_query: Mapping[str, np.ndarray] = field(default_factory=dict)
    ranks: Mapping[str, np.ndarray] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    loss: float | None = None
    rivals: Rivals | None = None
    labels: Labels | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows evaluated."""
        return len(next(iter(self.per_query.values())))
