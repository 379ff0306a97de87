"""N models on the same rows: what each reaches, by how much they differ, and how sure that is.

A base beside what became of it is the case N = 2; runs, encoders and adapters beside each other are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.metrics.geometry import spectrum
from vectoruniverse.metrics.intervals import Interval, intervals_at_once, mean_interval
from vectoruniverse.runs.label_records import LabelsRecord
from vectoruniverse.runs.records import RivalsRecord

Values = Mapping[str, NDArray[np.float64]]
"""Metric → value of each row (N,); the metric is their mean, and NaN marks a row that it does not apply to."""

Intervals = dict[str, dict[str, Interval]]
"""Model → metric → estimate with its 95 % interval."""

Family = Literal["each", "reference", "pairs"]
"""Which differences in a metric hold at once: ``each`` by itself, all from the ``reference``, or of all ``pairs``."""

MIN_UNITS = 2
"""An interval needs two rows or groups."""

SPECTRUM_LENGTH = 256
"""Eigenvalues kept of a spectrum; the rest is below any figure's resolution."""


def means(values: Values) -> dict[str, float]:
    """The metrics themselves; those that apply to no row are left out."""
    return {name: float(np.nanmean(v)) for name, v in values.items() if np.isfinite(v).any()}


def with_values(found: Evaluation, values: Values) -> Evaluation:
    """The same with metrics more."""
    return replace(found, metrics={**found.metrics, **means(values)}, per_query={**found.per_query, **values})


@dataclass(frozen=True, slots=True)
class Paired:
    """Models that were evaluated on the same rows.

    Attributes:
        reached: each model's metrics by themselves.
        differences: of each model but the reference, model − reference.
    """

    reached: Intervals
    differences: Intervals


def compare_rows(
    models: Mapping[str, Values],
    reference: str,
    *,
    groups: ArrayLike | None = None,
    ahead: bool = False,
    family: Family = "reference",
) -> Paired:
    """Intervals of each metric of each model, and of the paired differences from one of them.

    A row counts for a metric where every model that has the metric has a value.

    Args:
        models: by name, the values of the same rows in the same order.
        reference: the model that differences are taken from.
        groups: what counts as one draw (N,): rows of a channel resemble each other, and an interval that took each
            for a draw of its own would be too narrow. None: each row alone.
        ahead: differences are how far the reference stands ahead, reference − model.
        family: ``reference`` where each difference may be called better or worse; ``pairs`` where these rows also
            picked the reference, which stands too far ahead of the unluckiest; ``each`` where only one is spoken of,
            which other rows have picked. Metrics are not adjusted for each other.

    Returns:
        Intervals; metrics with fewer than two rows or groups to draw from are left out, and of differences those that
        the reference lacks.
    """
    ids = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    found = Paired({name: {} for name in models}, {name: {} for name in models if name != reference})
    for metric in dict.fromkeys(metric for values in models.values() for metric in values):
        having = {name: values[metric] for name, values in models.items() if metric in values}
        kept = np.isfinite(list(having.values())).all(axis=0)
        units = None if ids is None else ids[kept]
        if (kept.sum() if units is None else len(np.unique(units))) < MIN_UNITS:
            continue
        for name, values in having.items():
            found.reached[name][metric] = mean_interval(values[kept], units, share=describe(metric).unit == "share")
        if reference in having and len(having) > 1:
            rows = {name: (-1 if ahead else 1) * values[kept] for name, values in having.items()}
            for name, gap in _differences(rows, reference, units, family).items():
                found.differences[name][metric] = gap
    return found


def _differences(
    rows: Mapping[str, NDArray[np.float64]], reference: str, units: ArrayLike | None, family: Family
) -> dict[str, Interval]:
    """Model − reference of all other models."""
    others = [name for name in rows if name != reference]
    gaps = [rows[name] - rows[reference] for name in others]
    if family == "each":
        return {name: mean_interval(gap, units) for name, gap in zip(others, gaps, strict=True)}
    among = [rows[one] - rows[other] for one, other in combinations(others, 2)] if family == "pairs" else []
    return dict(zip(others, intervals_at_once([*gaps, *among], units), strict=False))


EvaluatedOn = Literal["held-out", "training", "other"]
"""What the rows are to the adapted model: ``held-out`` and ``training`` rows of its own data, or others."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A base and what was made of it, evaluated by the same code.

    Attributes:
        split: ``test``, ``val`` or ``train``.
        base, adapted: the models.
        paired: their intervals, under ``base`` and ``adapted``.
        drawn_by: what rows have in common that count as one draw, such as a column; None for single rows.
        evaluated_on: what the rows are to the adapted model.
        source: where rows of other data come from; empty for the run's own.
        trained_on: of rows of other data, how many the run learned from; None where that is not known.
        gone: rows of the split that are not there any more.
        rivals: what costs nothing beside both; None where there is none.
        labels: how well both predict labels; None where there are none, or no rules that predict them.
    """

    split: str
    base: Evaluation
    adapted: Evaluation
    paired: Paired
    drawn_by: str | None
    evaluated_on: EvaluatedOn = "held-out"
    source: str = ""
    trained_on: int | None = None
    gone: int = 0
    rivals: RivalsRecord | None = None
    labels: LabelsRecord | None = None

    @property
    def rows_are(self) -> str:
        """What a person calls the rows."""
        if self.evaluated_on == "other":
            return f"rows of other data ({self.source})"
        return "test rows" if self.split == "test" else f"{self.evaluated_on} rows"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.adapted.rows

    @property
    def intervals(self) -> dict[str, dict[str, list[float]]]:
        """Metric → ``base`` and ``adapted`` as [low, high], ``difference`` as [estimate, low, high], as JSON has them.

        Those of the adapted model's metrics that the base has, too.
        """
        reached, gaps = self.paired.reached, self.paired.differences["adapted"]
        return {
            metric: {
                **{model: list(reached[model][metric][1:]) for model in ("base", "adapted")},
                "difference": list(gap),
            }
            for metric, gap in gaps.items()
        }


def spectra(evaluation: Evaluation) -> dict[str, list[float]]:
    """Eigenvalues of the second moment as shares of their sum, descending: of each kind of rows, and of all stacked."""
    stacks = dict(evaluation.vectors)
    if stacks:
        stacks["both"] = torch.cat(list(stacks.values()))
    return {name: spectrum(rows)[:SPECTRUM_LENGTH].tolist() for name, rows in stacks.items()}


def selection_record(comparison: Comparison) -> dict[str, object]:
    """What evaluation.json holds of the rows that picked the kept checkpoint."""
    return {
        "split": comparison.split,
        "rows": comparison.rows,
        "base": dict(comparison.base.metrics),
        "adapted": dict(comparison.adapted.metrics),
        "intervals": comparison.intervals,
    }


def evaluation_record(comparison: Comparison, **facts: object) -> dict[str, object]:
    """What evaluation.json holds."""
    other = {"source": comparison.source, "rows_trained_on": comparison.trained_on}
    is_other = comparison.evaluated_on == "other"
    return {
        "split": "all" if is_other else comparison.split,
        "evaluated_on": comparison.evaluated_on,
        **(other if is_other else {}),
        "rows": comparison.rows,
        "rows_gone": comparison.gone,
        **facts,
        "base": dict(comparison.base.metrics),
        "adapted": dict(comparison.adapted.metrics),
        "intervals": comparison.intervals,
        "intervals_drawn_by": comparison.drawn_by or "row",
        "spectra": {"base": spectra(comparison.base), "adapted": spectra(comparison.adapted)},
        "rivals": None if comparison.rivals is None else comparison.rivals.model_dump(),
        "labels": None if comparison.labels is None else comparison.labels.model_dump(),
    }
