"""How much a mean over queries would move with other queries: percentile bootstrap intervals.

The percentile method is used: it needs no tuning, stays inside the range of the metric, and holds for resampled
clusters. With fewer than about 30 clusters its intervals are somewhat narrow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 1 << 21
"""Draws held at once (16 MiB of int64)."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def paired_bootstrap(
    base: ArrayLike,
    adapted: ArrayLike,
    *,
    seed: int,
    groups: ArrayLike | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(adapted - base), where both were measured on the same queries.

    Query i is drawn for both or for neither, so what makes a query hard for both cancels out.

    Args:
        base: value of each query (N,), such as 1.0 for a hit within k.
        adapted: value of each query (N,).
        seed: of the draws; equal seeds draw the same queries.
        groups: id of each query (N,); queries of one id (a channel, a title) are drawn together. None: each alone.
        samples: number of resampled means.
        level: confidence level.

    Returns:
        The difference and its interval; an interval without 0 says that the sign is not an accident of these queries.

    Raises:
        ValueError: as `bootstrap_mean`, or different lengths.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(adapted, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"base and adapted must hold the same queries, got {before.shape} and {after.shape}")
    return bootstrap_mean(after - before, seed=seed, groups=groups, samples=samples, level=level)


def bootstrap_mean(
    values: ArrayLike, *, seed: int, groups: ArrayLike | None = None, samples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of the mean over queries, by the percentile bootstrap (Efron, 1979).

    Args:
        values: value of each query (N,).
        seed: of the draws.
        groups: id of each query (N,); queries of one id are drawn together. None: each alone.
        samples: number of resampled means.
        level: confidence level.

    Raises:
        ValueError: values that are not finite or not a vector, groups of another length, fewer than two groups to
            draw from, or samples or level out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("a bootstrap needs a vector of finite values; leave out queries without a value")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level within (0, 1), got {samples} and {level}")
    index = group_index(groups, len(values))
    sums, sizes = np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)
    if len(sums) < 2:
        raise ValueError("a bootstrap needs at least 2 queries (or groups of queries) to draw from")
    low, high = np.quantile(_resampled_means(sums, sizes, samples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=float(values.mean()), low=float(low), high=float(high))


def group_index(groups: ArrayLike | None, count: int) -> NDArray[np.intp]:
    """Number of the group, 0 to G-1, of each of ``count`` queries; None: each is a group of its own.

    Raises:
        ValueError: groups of another length.
    """
    if groups is None:
        return np.arange(count)
    ids = np.asarray(groups)
    if ids.shape != (count,):
        raise ValueError(f"groups need one id for each of {count} values, got {ids.shape}")
    return np.unique(ids, return_inverse=True)[1]


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], samples: int, seed: int
) -> NDArray[np.float64]:
    """Means (samples,) of as many groups as there are, drawn with replacement, each with all its queries."""
    random = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(sums))
    means = np.empty(samples)
    for start in range(0, samples, rows):
        drawn = random.integers(len(sums), size=(min(rows, samples - start), len(sums)))
        means[start : start + rows] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means
