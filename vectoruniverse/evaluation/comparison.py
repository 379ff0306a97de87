"""A base and an adapted model on the same rows: metrics, intervals, spectra, and what evaluation.json holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.comparing import intervals
from vectoruniverse.metrics.geometry import spectrum

SPECTRUM_LENGTH = 256
"""Eigenvalues kept of a spectrum; the rest is below any figure's resolution."""


def spectra(evaluation: Evaluation) -> dict[str, list[float]]:
    """Eigenvalues of the second moment as shares of their sum, descending: of each kind of rows, and of all stacked."""
    stacks = dict(evaluation.vectors)
    if stacks:
        stacks["both"] = torch.cat(list(stacks.values()))
    return {name: spectrum(rows)[:SPECTRUM_LENGTH].tolist() for name, rows in stacks.items()}


Judged = Literal["held-out", "training", "other"]
"""What the judged rows are to the adapted model: ``held-out`` and ``training`` rows of its own data, or others."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models beside each other.

    Attributes:
        split: ``val`` or ``train``.
        base, adapted: the models, judged by the same code.
        intervals: metric → ``base``, ``adapted``, ``difference``.
        drawn_by: what rows have in common that the bootstrap drew together, such as a column; None for single rows.
        judged: what the rows are to the adapted model.
        source: where rows of other data come from; empty for the run's own.
        trained_on: of rows of other data, how many the run learned from; None where that is not known.
        gone: rows of the split that are not there any more.
    """

    split: str
    base: Evaluation
    adapted: Evaluation
    intervals: Mapping[str, Mapping[str, Interval]]
    drawn_by: str | None
    judged: Judged = "held-out"
    source: str = ""
    trained_on: int | None = None
    gone: int = 0

    @property
    def rows_are(self) -> str:
        """What a person calls the judged rows."""
        return f"rows of other data ({self.source})" if self.judged == "other" else f"{self.judged} rows"

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
    judged: Judged = "held-out",
) -> Comparison:
    """Set two models beside each other that were judged on the same rows.

    Args:
        base: the base model.
        adapted: the adapted model.
        split: ``val`` or ``train``.
        units: of each row of the split, what the bootstrap draws together; None: each row alone.
        drawn_by: what the rows of a unit have in common.
        judged: what the rows are to the adapted model.
    """
    bounds = intervals(base.per_query, adapted.per_query, groups=units)
    return Comparison(split, base, adapted, bounds, drawn_by, judged)


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
    other = {"source": comparison.source, "rows_trained_on": comparison.trained_on}
    return {
        "split": "all" if comparison.judged == "other" else comparison.split,
        "judged": comparison.judged,
        **(other if comparison.judged == "other" else {}),
        "rows": comparison.rows,
        "rows_gone": comparison.gone,
        **facts,
        "base": dict(comparison.base.metrics),
        "adapted": dict(comparison.adapted.metrics),
        "intervals": plain_intervals(comparison),
        "intervals_drawn_by": comparison.drawn_by or "row",
        "spectra": {"base": spectra(comparison.base), "adapted": spectra(comparison.adapted)},
    }
