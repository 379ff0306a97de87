"""How far a mean over rows would move with other rows: intervals that hold with few groups too.

Shapes: N rows, G groups of rows that resemble each other, such as those of a channel.

The mean m is a ratio of sums over groups, Σ s_g / Σ n_g. Leaving each group out in turn gives m₋g and the jackknife
variance (G - 1) / G · Σ (m₋g - m)², CR3 of cluster-robust inference (MacKinnon, Nielsen & Webb, arXiv:2205.03285),
which is not too small where groups are few or differ in size, as the percentile bootstrap's is. The interval is that of
Student's t with G* - 1 degrees of freedom; G* = (Σ n_g)² / Σ n_g² is the effective number of groups (Kish, 1965), G
where all are of one size. ``scripts/check_coverage`` simulates how often it holds the truth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
"""Confidence level of every interval."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def mean_interval(values: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL) -> Interval:
    """The mean over rows and its interval, which stays between the least and the greatest value.

    Args:
        values: value of each row (N,), such as 1.0 for a hit within k.
        groups: id of each row (N,); rows of one id count as one draw. None: each row is its own.
        level: confidence level.

    Raises:
        ValueError: values that are not finite or not a vector, groups of another length, fewer than two groups, or a
            level out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("an interval needs a vector of finite values; leave out rows without a value")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    index = group_index(groups, len(values))
    sums = np.bincount(index, weights=values).astype(np.float64)
    sizes = np.bincount(index).astype(np.float64)
    if len(sums) < 2:
        raise ValueError("an interval needs at least 2 rows (or groups of rows)")
    mean, parts = float(values.mean()), jackknife(sums, sizes)
    reach = float(stdtrit(freedom(sizes), (1 + level) / 2) * np.linalg.norm(parts))
    return Interval(mean, max(mean - reach, float(values.min())), min(mean + reach, float(values.max())))


def difference_interval(
    base: ArrayLike, adapted: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL
) -> Interval:
    """Mean(adapted - base) and its interval, where both were measured on the same rows (N,).

    What makes a row hard for both cancels out; an interval without 0 says that the sign is no accident of these rows.

    Raises:
        ValueError: as ``mean_interval``, or different lengths.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(adapted, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"base and adapted must hold the same rows, got {before.shape} and {after.shape}")
    return mean_interval(after - before, groups, level=level)


def jackknife(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each group adds to the error of a mean: parts whose squares sum to its variance.

    Args:
        sums: of the values in each group (.., G).
        sizes: rows of each group (G,).
    """
    total, count = sums.sum(axis=-1, keepdims=True), sizes.sum()
    without = (total - sums) / (count - sizes)
    parts: NDArray[np.float64] = np.sqrt((len(sizes) - 1) / len(sizes)) * (without - total / count)
    return parts


def freedom(sizes: NDArray[np.float64]) -> float:
    """Degrees of freedom of a mean over groups of these sizes (G,)."""
    return max(float(np.square(sizes.sum()) / np.square(sizes).sum()) - 1, 1.0)


def group_index(groups: ArrayLike | None, count: int) -> NDArray[np.int64]:
    """Number of the group of each of ``count`` rows; without groups each row is its own.

    Raises:
        ValueError: groups of another length.
    """
    if groups is None:
        return np.arange(count, dtype=np.int64)
    ids = np.asarray(groups)
    if ids.shape != (count,):
        raise ValueError(f"groups need one id for each value, got {ids.shape} for {(count,)}")
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)
