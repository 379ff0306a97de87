"""The outcomes of a sweep's cells row by row, those of all folds one after another.

With folds every row is a test row once, evaluated by a model that did not learn from it and among the rows of its own
fold; no group of rows stands in two folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.report.sweep.values import key_of
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import Outcomes, outcomes

Finished = Sequence[tuple[CellRecord, Run]]
"""Cells that are done, with their runs."""


def pool(finished: Finished, metric: str, folds: int | None = None) -> dict[tuple[str, int], Outcomes]:
    """Outcomes by value, as ``key_of`` has it, and seed; of ``folds``, those that lack one are left out.

    Without ``folds`` the cells are of no fold, or all of the same one.
    """
    wanted = {cell.fold for cell, _ in finished} if folds is None else range(folds)
    parts: dict[tuple[str, int], dict[int | None, Run]] = {}
    for cell, run in finished:
        parts.setdefault((key_of(cell.values), cell.seed), {})[cell.fold] = run
    return {
        key: _joined([outcomes(runs[fold], metric) for fold in wanted])
        for key, runs in parts.items()
        if len(runs) == len(wanted)
    }


def comparable(cells: Iterable[CellRecord]) -> bool:
    """Whether all cells of a fold were evaluated on the same data."""
    seen: dict[int | None, set[str]] = {}
    for cell in cells:
        seen.setdefault(cell.fold, set()).add(cell.data)
    return all(len(data) == 1 for data in seen.values())


def mean_metrics(folds: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """Means of metrics over folds, each weighed by its number of rows."""
    first, rows = folds[0][0], sum(count for _, count in folds)
    every = [name for name in first if all(name in metrics for metrics, _ in folds)]
    return {name: sum(metrics[name] * count for metrics, count in folds) / rows for name in every}


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Rows of all parts; groups of two parts are never the same."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(int(part.drawn.max()) + 1 for part in parts)])
    drawn = np.concatenate([part.drawn + start for part, start in zip(parts, starts, strict=False)])
    base, adapted = (np.concatenate([getattr(part, name) for part in parts]) for name in ("base", "adapted"))
    return Outcomes(base, adapted, drawn)
