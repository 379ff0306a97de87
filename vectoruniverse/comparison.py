"""A base and an adapted model on the same rows: metrics, intervals, spectra, and what evaluation.json holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.comparing import intervals
from vectoruniverse.metrics.geometry import spectrum
from vectoruniverse.tasks.contract import Evaluation
from vectoruniverse.tasks.judging import Embeddings

SPECTRUM_LENGTH = 256
"""Eigenvalues kept of a spectrum; the rest is below any figure's resolution."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One model on one split."""

    evaluation: Evaluation
    embeddings: Embeddings

    @property
    def metrics(self) -> Mapping[str, float]:
        """Named numbers."""
        return self.evaluation.metrics

    def spectra(self) -> dict[str, list[float]]:
        """Eigenvalues of the second moment as shares of their sum, descending: of pictures, texts, and both stacked."""
        image, text = self.embeddings.image, self.embeddings.text
        stacks = {"image": image, "text": text, "both": torch.cat([image, text])}
        return {name: spectrum(rows)[:SPECTRUM_LENGTH].tolist() for name, rows in stacks.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models beside each other.

    Attributes:
        split: ``val`` or ``train``.
        groups: group number of each row; rows with the same text share one.
        base, adapted: the models, judged by the same code.
        intervals: metric → ``base``, ``adapted``, ``difference``.
        drawn_by: what the bootstrap drew together: a column, or None for single rows.
    """

    split: str
    groups: np.ndarray
    base: Judged
    adapted: Judged
    intervals: Mapping[str, Mapping[str, Interval]]
    drawn_by: str | None

    @property
    def rows(self) -> int:
        """Number of rows judged."""
        return len(self.groups)


def compare(
    base: Judged,
    adapted: Judged,
    split: str,
    *,
    row_groups: np.ndarray,
    units: Sequence[str] | None,
    drawn_by: str | None,
) -> Comparison:
    """Set two models beside each other that were judged on the same rows.

    Args:
        base: the base model.
        adapted: the adapted model.
        split: ``val`` or ``train``.
        row_groups: group number of each row; rows with the same text share one.
        units: of each row of the split, what the bootstrap draws together; None: each row alone.
        drawn_by: the column that ``units`` come from.
    """
    bounds = intervals(base.evaluation.per_query, adapted.evaluation.per_query, groups=units)
    return Comparison(split, row_groups, base, adapted, bounds, drawn_by)


def plain_intervals(comparison: Comparison) -> dict[str, dict[str, list[float]]]:
    """Intervals as JSON: ``base`` and ``adapted`` as [low, high], ``difference`` as [estimate, low, high]."""
    return {
        metric: {
            "base": [found["base"].low, found["base"].high],
            "adapted": [found["adapted"].low, found["adapted"].high],
            "difference": [found["difference"].estimate, found["difference"].low, found["difference"].high],
        }
        for metric, found in comparison.intervals.items()
    }


def evaluation_record(comparison: Comparison, **facts: object) -> dict[str, object]:
    """What evaluation.json holds."""
    return {
        "split": comparison.split,
        "rows": comparison.rows,
        **facts,
        "base": dict(comparison.base.metrics),
        "adapted": dict(comparison.adapted.metrics),
        "intervals": plain_intervals(comparison),
        "intervals_drawn_by": comparison.drawn_by or "row",
        "spectra": {"base": comparison.base.spectra(), "adapted": comparison.adapted.spectra()},
    }
