"""Two models on the same rows: what each reaches, by how much they differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.metrics.bootstrap import Interval, bootstrap_mean, paired_bootstrap

Values = Mapping[str, NDArray[np.float64]]
"""Metric → value of each row (N,); the metric is their mean, and NaN marks a row that it does not apply to."""

MIN_UNITS = 2
"""A bootstrap needs two rows or groups to draw from."""


def means(values: Values) -> dict[str, float]:
    """The metrics themselves; those that apply to no row are left out."""
    return {name: float(np.nanmean(v)) for name, v in values.items() if np.isfinite(v).any()}


def intervals(
    base: Values, adapted: Values, *, groups: Sequence[str] | None, seed: int = 0, samples: int = 2000
) -> dict[str, dict[str, Interval]]:
    """Bootstrap intervals of each metric for both models, and of their difference on the same rows.

    Args:
        base: value of each row for the base model.
        adapted: the same rows for the adapted model.
        groups: what is drawn together: rows of a channel resemble each other, and an interval that drew them one by one
            would be too narrow. None: each row alone.
        seed: of the draws, the same for all metrics.
        samples: number of resampled means.

    Returns:
        metric → ``base``, ``adapted`` and ``difference``, each with estimate and 95 % interval; metrics with fewer than
        two rows or groups to draw from are left out.
    """
    found: dict[str, dict[str, Interval]] = {}
    for name in base.keys() & adapted.keys():
        both = np.isfinite(base[name]) & np.isfinite(adapted[name])
        before, after = base[name][both], adapted[name][both]
        units = None if groups is None else [group for group, kept in zip(groups, both, strict=True) if kept]
        if len(before if units is None else set(units)) < MIN_UNITS:
            continue
        found[name] = {
            "base": bootstrap_mean(before, seed=seed, groups=units, samples=samples),
            "adapted": bootstrap_mean(after, seed=seed, groups=units, samples=samples),
            "difference": paired_bootstrap(before, after, seed=seed, groups=units, samples=samples),
        }
    return {name: found[name] for name in adapted if name in found}
