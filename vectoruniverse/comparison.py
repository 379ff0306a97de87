"""A base and an adapted model on the same rows: metrics, intervals, spectra, and what evaluation.json holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.comparing import intervals
from vectoruniverse.metrics.geometry import spectrum
from vectoruniverse.tasks.contract import Evaluation

SPECTRUM_LENGTH = 256
"""Eigenvalues kept of a spectrum; the rest is below any figure's resolution."""


def spectra(evaluation: Evaluation) -> dict[str, list[float]]:
    """Eigenvalues of the second moment as shares of their sum, descending: of each kind of rows, and of all stacked."""
    stacks = dict(evaluation.vectors)
    if stacks:
        stacks["both"] = torch.cat(list(stacks.values()))
    return {name: spectrum(rows)[:SPECTRUM_LENGTH].tolist() for name, rows in stacks.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models beside each other.

    Attributes:
        split: ``val`` or ``train``.
        base, adapted: the models, judged by the same code.
        intervals: metric → ``base``, ``adapted``, ``difference``.
        drawn_by: what rows have in common that the bootstrap drew together, such as a column; None for single rows.
    """

    split: str
    base: Evaluation
    adapted: Evaluation
    intervals: Mapping[str, Mapping[str, Interval]]
    drawn_by: str | None

    @property
    def rows(self) -> int:
        """Number of rows judged."""
        return self.adapted.rows


def compare(
    base: Evaluation,
    adapted: Evaluation,
    split: str,
    *,
    units: Sequence[str] | None,
    drawn_by: str | None,
) -> Comparison:
    """Set two models beside each other that were judged on the same rows.

    Args:
        base: the base model.
        adapted: the adapted model.
        split: ``val`` or ``train``.
        units: of each row of the split, what the bootstrap draws together; None: each row alone.
        drawn_by: what the rows of a unit have in common.
    """
    bounds = intervals(base.per_query, adapted.per_query, groups=units)
    return Comparison(split, base, adapted, bounds, drawn_by)


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
        "spectra": {"base": spectra(comparison.base), "adapted": spectra(comparison.adapted)},
    }
