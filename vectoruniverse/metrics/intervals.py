"""How far a mean over rows would move with other rows: intervals that hold with few groups too.

Shapes: N rows, G groups of rows that resemble each other, such as those of a channel; J means over the same rows.

The mean m is a ratio of sums over groups, Σ s_g / Σ n_g. Leaving each group out in turn gives m₋g and the jackknife
variance (G - 1) / G · Σ (m₋g - m)², CR3 of cluster-robust inference (MacKinnon, Nielsen & Webb, arXiv:2205.03285),
which is not too small where groups are few or differ in size, as the percentile bootstrap's is. The interval is that of
Student's t with G* - 1 degrees of freedom; G* = (Σ n_g)² / Σ n_g² is the effective number of groups (Kish, 1965), G
where all are of one size. That of a share is symmetric about its logit, which is less skewed where groups are few.

Several intervals that are to hold at once reach further, all by one factor: the quantile of the largest |t|, simulated
with the jackknife's joint covariance (max-t; Hothorn, Bretz & Westfall, 2008), so that means which err together are not
paid for twice. Each t is given a variance of its own: with one for all, as in the textbook's multivariate t, five
differences over ten groups held at once in as few as 91 % instead of 95.

``scripts/check_coverage`` simulates how often all of them hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, stdtrit

LEVEL = 0.95
"""Confidence level of every interval."""

DRAWS = 20_000
"""Draws of the largest |t|; the factor then differs by about 1 % between seeds."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike, groups: ArrayLike | None = None, *, level: float = LEVEL, share: bool = False
) -> Interval:
    """The mean over rows and its interval, which stays between the least and the greatest value.

    Args:
        values: value of each row (N,), such as 1.0 for a hit within k.
        groups: id of each row (N,); rows of one id count as one draw. None: each row is its own.
        level: confidence level.
        share: whether it is the mean of what lies between 0 and 1 by its nature, which no difference does.

    Raises:
        ValueError: values that are not finite or not a vector, groups of another length, fewer than two groups, or a
            level out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    index, sizes = _groups(values, groups, level)
    parts = jackknife(by_group([values], index), sizes)
    reach = float(stdtrit(freedom(sizes), (1 + level) / 2) * np.linalg.norm(parts))
    return around(float(values.mean()), reach, (float(values.min()), float(values.max())), share=share)


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


def intervals_at_once(
    values: Sequence[NDArray[np.float64]], groups: ArrayLike | None = None, *, level: float = LEVEL
) -> list[Interval]:
    """Means over the same rows with intervals that all hold at once; a single one has that of ``mean_interval``.

    Args:
        values: J vectors with a value of each row (N,), such as the differences of J models from one.
        groups: as of ``mean_interval``.
        level: with which all J hold the truth.

    Raises:
        ValueError: as ``mean_interval``.
    """
    (index, sizes), *_ = [_groups(one, groups, level) for one in values]
    parts = jackknife(by_group(values, index), sizes)
    reaches = reaches_at_once(parts, np.full(len(parts), freedom(sizes)), level).tolist()
    return [
        around(float(one.mean()), reach, (float(one.min()), float(one.max())))
        for one, reach in zip(values, reaches, strict=True)
    ]


def around(mean: float, reach: float, bounds: tuple[float, float], *, share: bool = False) -> Interval:
    """The interval of a mean whose error reaches so far, within bounds.

    That of a share reaches as far on the logit scale, by the delta method.
    """
    low, high = mean - reach, mean + reach
    if share and 0 < mean < 1:
        wide = reach / (mean * (1 - mean))
        low, high = (float(expit(logit(mean) + side)) for side in (-wide, wide))
    return Interval(mean, max(low, bounds[0]), min(high, bounds[1]))


def reaches_at_once(
    parts: NDArray[np.float64], degrees: NDArray[np.float64], level: float = LEVEL, *, seed: int = 0
) -> NDArray[np.float64]:
    """How far J intervals reach to both sides so that they hold at once; a single one as Student's t.

    Args:
        parts: what each mean's error is the sum of (J, K), independent of each other, as ``jackknife`` gives them.
        degrees: of freedom (J,) of each error's variance.
        level: with which all J hold the truth.
        seed: of the simulation.
    """
    errors = np.linalg.norm(parts, axis=1)
    alone = stdtrit(degrees, (1 + level) / 2)
    moving = errors > 1e-12 * errors.max(initial=0.0)  # the mean of a constant has no error
    widened = 1.0
    if moving.sum() > 1:
        unit, random = parts[moving] / errors[moving, None], np.random.default_rng(seed)
        variances, directions = np.linalg.eigh(unit @ unit.T)
        drawn = random.standard_normal((DRAWS, len(variances))) @ (directions * np.sqrt(variances.clip(min=0))).T
        drawn *= np.sqrt(degrees[moving] / random.chisquare(degrees[moving], drawn.shape))
        widened = max(1.0, float(np.quantile((np.abs(drawn) / alone[moving]).max(axis=1), level)))
    reaches: NDArray[np.float64] = widened * alone * errors
    return reaches


def by_group(values: Sequence[NDArray[np.float64]], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums (J, G) of J vectors of values (N,) over groups, whose numbers (N,) ``group_index`` gives."""
    return np.stack([np.bincount(index, weights=one) for one in values]).astype(np.float64)


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


def _groups(
    values: NDArray[np.float64], groups: ArrayLike | None, level: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The group of each row (N,) and the rows of each group (G,), where the values can have an interval."""
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("an interval needs a vector of finite values; leave out rows without a value")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    index = group_index(groups, len(values))
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError("an interval needs at least 2 rows (or groups of rows)")
    return index, sizes
