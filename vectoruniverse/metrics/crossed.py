"""Means over crossed seeds and queries: how far off they may be, alone, in differences, and several at once.

The model is y[v, s, q] = μ[v] + a[v, s] + b[v, q] + e[v, s, q] for value v, seed s, query q, and what is wanted is μ.
The error of ȳ[v], and of any sum or difference of such means, has up to three independent parts:

- other queries: the jackknife over queries (over groups, where given) of the means over seeds, as in ``intervals``; the
  base is one more mean over the same queries, so that what makes a query hard for all cancels out in differences.
- other seeds, in two parts. With 3 seeds nothing can be told of each value's own variance, so all values are taken to
  vary alike with the seed, as in the analysis of variance with repeated measures: a part that the values share, S-1
  degrees of freedom, and one that they do not, (V-1)(S-1). Part of what seeds differ by is e, chance in single queries,
  which the jackknife counts already; its variance is subtracted.

Their variances add up, the interval is that of Student's t, and its degrees of freedom are Satterthwaite's (1946),
(Σ σ²_i)² / Σ (s⁴_i / ν_i), where s² is the variance before that subtraction, which makes it no surer. With one seed
there is no a, and the intervals cover other queries only.

``scripts/check_coverage`` simulates how often they hold the truth (the guide has the table). Where seeds mattered,
drawing queries only held a mean in 43 % of experiments and the pigeonhole bootstrap (Owen, 2007), which draws seeds as
well, in 80 %: of 3 seeds it sees two thirds of the variance. The price of one variance for all values: the interval of
a value that varies twice as much with the seed as the others (3 seeds, 5 values) held it in 85 %, of one that varies
four times as much in 73 %; ``seed_spread`` shows such a value.

Shapes: V values, S seeds, N queries, G groups of queries (each query alone: G = N), M = V + B means: of the values, and
of B models beside them that no seed changes; J contrasts (differences) of means, K independent parts of an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from vectoruniverse.metrics.intervals import (
    Interval,
    around,
    by_group,
    freedom,
    group_index,
    jackknife,
    reaches_at_once,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """What one source adds to the errors of means.

    Attributes:
        parts: independent of each other (M, K); their squares sum to each mean's variance.
        measured: the same before what another source counts already was subtracted (M, K).
        degrees: of freedom of the measured variance.
    """

    parts: Array
    measured: Array
    degrees: float

    def beside(self, others: int) -> Errors:
        """With so many means more, to whose errors it adds nothing."""
        more = ((0, others), (0, 0))
        return Errors(np.pad(self.parts, more), np.pad(self.measured, more), self.degrees)


@dataclass(frozen=True)
class CrossedMeans:
    """Means, and what their errors are made of.

    Attributes:
        estimates: (M,).
        errors: of sources that are independent of each other, queries first.
        bounds: the least and the greatest outcome.
        level: of intervals.
    """

    estimates: Array
    errors: Sequence[Errors]
    bounds: tuple[float, float]
    level: float

    def of(self, contrasts: Array) -> tuple[Array, Array, Array]:
        """Estimates (J,) of contrasts (J, M), the parts of their errors (J, K) and their degrees of freedom (J,)."""
        parts = np.concatenate([contrasts @ one.parts for one in self.errors], axis=1)
        measured = np.array([np.square(contrasts @ one.measured).sum(axis=1) for one in self.errors])
        degrees = np.array([[one.degrees] for one in self.errors])
        doubt, least = (measured**2 / degrees).sum(axis=0), np.full(len(contrasts), degrees.min())
        combined = np.divide(np.square(parts).sum(axis=1) ** 2, doubt, out=least.copy(), where=doubt > 0)
        return contrasts @ self.estimates, parts, np.maximum(combined, least)

    def alone(self, contrasts: Array, *, share: bool = False) -> list[Interval]:
        """Intervals of means or differences, each by itself."""
        estimates, parts, degrees = self.of(contrasts)
        reaches = stdtrit(degrees, (1 + self.level) / 2) * np.linalg.norm(parts, axis=1)
        return self._around(contrasts, estimates, reaches, share)

    def at_once(self, contrasts: Array, seed: int) -> list[Interval]:
        """Intervals of differences that all hold at once; a single one has the one that it has by itself."""
        estimates, parts, degrees = self.of(contrasts)
        return self._around(contrasts, estimates, reaches_at_once(parts, degrees, self.level, seed=seed), False)

    def _around(self, contrasts: Array, estimates: Array, reaches: Array, share: bool) -> list[Interval]:
        """Few seeds have wide intervals; a mean still lies where outcomes lie."""
        low, high = self.bounds
        bounds = [(low, high) if total else (low - high, high - low) for total in contrasts.sum(axis=1)]
        told = zip(estimates.tolist(), reaches.tolist(), bounds, strict=True)
        return [around(*one, share=share) for one in told]


def crossed_means(outcomes: Array, beside: Array, groups: ArrayLike | None, level: float) -> CrossedMeans:
    """Means of values, and of models beside them that no seed changes, all over the same queries.

    Args:
        outcomes: of each value with each seed (V, S, N).
        beside: outcomes of the other models (B, N).
        groups: id of each query (N,); queries of one id count as one draw. None: each alone.
        level: of intervals.

    Raises:
        ValueError: fewer than two groups, ids of another length, or a level out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    columns = np.concatenate([outcomes.mean(axis=1), beside])
    index = group_index(groups, columns.shape[1])
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError("intervals need at least 2 queries (or groups of queries) to draw from")
    of_queries = jackknife(by_group(list(columns), index), sizes)
    errors = [Errors(of_queries, of_queries, freedom(sizes))]
    if outcomes.shape[1] > 1:
        of_seeds = _seed_errors(outcomes.mean(axis=2), _noise(outcomes, index, sizes))
        errors += [one.beside(len(beside)) for one in of_seeds]
    every = np.concatenate([outcomes.ravel(), beside.ravel()])
    return CrossedMeans(columns.mean(axis=1), errors, (float(every.min()), float(every.max())), level)


def _noise(outcomes: Array, index: NDArray[np.int64], sizes: Array) -> tuple[float, float]:
    """Variance of a cell's mean by chance in single queries: of the part that values share, and of the rest."""
    values, seeds, _ = outcomes.shape
    groups = len(sizes)
    residual = outcomes - outcomes.mean(axis=2, keepdims=True)
    residual -= residual.mean(axis=1, keepdims=True)
    shared = residual.mean(axis=0)
    residual -= shared

    def variance(parts: Array) -> float:
        sums = by_group(list(parts), index) * (groups / sizes.sum())
        return float((sums**2).sum() / ((seeds - 1) * (groups - 1) * groups))

    apart = sum(variance(part) for part in residual) / (values - 1) if values > 1 else 0.0
    return variance(shared), apart


def _seed_errors(cell_means: Array, noise: tuple[float, float]) -> Iterator[Errors]:
    """What other seeds would add to each value's mean, from the means of cells (V, S)."""
    values, seeds = cell_means.shape
    effects = cell_means - cell_means.mean(axis=1, keepdims=True)
    shared = effects.mean(axis=0)

    def errors(found: Array, noise: float, degrees: int, pattern: Array) -> Errors:
        variance = float((found**2).sum()) / degrees
        left, measured = (math.sqrt(one / seeds) for one in (max(variance - noise, 0.0), variance))
        return Errors(left * pattern, measured * pattern, degrees)

    yield errors(shared, noise[0], seeds - 1, np.ones((values, 1)))
    if values > 1:
        yield errors(effects - shared, noise[1], (values - 1) * (seeds - 1), np.eye(values) - 1 / values)
