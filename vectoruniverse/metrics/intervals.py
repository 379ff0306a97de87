"""How far a mean over rows would move with other rows: intervals that hold with few groups too.

Shapes: N rows, G groups of rows that resemble each other, such as those of a channel.

The mean m is a ratio of sums over groups, Σ s_g / Σ n_g. Leaving each group out in turn gives m₋g and the jackknife
variance (G - 1) / G · Σ (m₋g - m)², CR3 of cluster-robust inference (MacKinnon, Nielsen & Webb, arXiv:2205.03285),
which is not too small where groups are few or differ in size, as the percentile bootstrap's is. The interval is that of
Student's t with G* - 1 degrees of freedom; G* = (Σ n_g)² / Σ n_g² is the effective number of groups (Kish, 1965), G
where all are of one size. ``scripts/check_coverage`` simulates how often it holds the truth.

Several means on the same rows that are to hold at once reach further, all by one factor: the quantile of the largest
|t| of a multivariate t with the jackknife's joint covariance (single-step max-t; Hothorn, Bretz & Westfall, 2008). It
knows how much the means resemble each other, so it is never wider than Bonferroni's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
"""Confidence level of every interval."""

DRAWS = 20_000
"""Draws of the largest |t|; the factor then differs by about 1 % between seeds."""


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
    (found,) = intervals_at_once([np.asarray(values, dtype=np.float64)], groups, level=level)
    return found


def intervals_at_once(
    values: Sequence[NDArray[np.float64]], groups: ArrayLike | None = None, *, level: float = LEVEL
) -> list[Interval]:
    """Means over the same rows with intervals that all hold at once; a single one has that of ``mean_interval``.

    Args:
        values: J vectors, a value of each row (N,), such as the differences of J models from one.
        groups: as of ``mean_interval``.
        level: with which all J hold the truth.

    Raises:
        ValueError: as ``mean_interval``.
    """
    if any(one.ndim != 1 or not np.isfinite(one).all() for one in values):
        raise ValueError("an interval needs a vector of finite values; leave out rows without a value")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    index = group_index(groups, len(values[0]))
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError("an interval needs at least 2 rows (or groups of rows)")
    parts = jackknife(np.stack([np.bincount(index, weights=one) for one in values]).astype(np.float64), sizes)
    reaches = largest_t(parts, freedom(sizes), level) * np.linalg.norm(parts, axis=1)
    means = [float(one.mean()) for one in values]
    return [
        Interval(mean, max(mean - reach, float(one.min())), min(mean + reach, float(one.max())))
        for one, mean, reach in zip(values, means, map(float, reaches), strict=True)
    ]


def largest_t(parts: NDArray[np.float64], degrees: float, level: float) -> float:
    """Quantile of the largest |t| of means whose errors are made of these parts (J, G), as ``jackknife`` gives them."""
    alone, norms = float(stdtrit(degrees, (1 + level) / 2)), np.linalg.norm(parts, axis=1)
    moving = norms > 1e-12 * norms.max()  # the mean of a constant has no error
    if moving.sum() < 2:
        return alone
    unit = parts[moving] / norms[moving, None]
    variances, directions = np.linalg.eigh(unit @ unit.T)
    random = np.random.default_rng(0)
    drawn = random.standard_normal((DRAWS, len(variances))) @ (directions * np.sqrt(variances.clip(min=0))).T
    largest = np.abs(drawn).max(axis=1) * np.sqrt(degrees / random.chisquare(degrees, DRAWS))
    return max(alone, float(np.quantile(largest, level)))


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
