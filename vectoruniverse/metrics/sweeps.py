"""What a sweep says: how good each value is, how sure that is, and from which value on more does not help.

Two things would come out differently in another experiment: the queries that happen to be asked, and the seed of the
training (initial adapter, order, views). Both are crossed: every cell answers the same queries, and a seed means the
same order and views for every value. Bouthillier et al. (2021, arXiv:2103.03098) show that leaving the seed out makes
benchmarks look far surer than they are.

The model is y[v, s, q] = μ[v] + a[v, s] + b[v, q] + e[v, s, q] for value v, seed s, query q, and what is wanted is μ.
An interval comes from draws of all μ at once, μ* = mean over s of ȳ*[v, s] + a*[v]:

- ȳ* is the mean with other queries: multivariate t of the covariance that leaving out each query (each group, where
  given) in turn tells of, as in ``intervals``; the same draw for every value, seed and the base, so that what makes a
  query hard for all cancels out in differences.
- a* is the seeds' part. Drawing seeds with replacement as well, the pigeonhole bootstrap (Owen, 2007), needs many
  of them: of 3 seeds it sees two thirds of the variance, and its ends are at most the worst and the best seed. So
  seeds are drawn from a normal distribution whose variance is itself drawn from what S seeds tell about it, a sum of
  squares over χ² with its degrees of freedom (Weerahandi, 1993), which gives Student's t intervals. With 3 seeds
  nothing can be told of each value's own variance, so all values are taken to vary alike with the seed, as in the
  analysis of variance with repeated measures: a part that the values share, S-1 degrees of freedom, and one that they
  do not, (V-1)(S-1). Part of what seeds differ by is e, chance in single queries, which ȳ* varies already; its variance
  is subtracted from each drawn one.

With one seed there is no a*, and the intervals cover other queries only.

Simulated (3 seeds, 5 values, 300 queries of hits and misses), 95 % intervals of a mean held the truth in 94 % of
experiments or more, whatever the seeds' share of the variance. Where that share was large, drawing queries only held it
in 43 % and the pigeonhole bootstrap in 80 %. The price of one variance for all values: the interval of a value that
varies twice as much with the seed as the others held it in 90 %, of one that varies four times as much in 77 to 80 %;
``seed_spread`` shows such a value.

Shapes: V values, S seeds, N queries, G groups of queries (each query alone: G = N), D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vectoruniverse.metrics.intervals import Interval, freedom, group_index, jackknife

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ValueSummary:
    """One value of the swept key.

    Attributes:
        value: such as the rank.
        mean: over seeds and queries; its interval is of this value alone.
        gain: this - base; the intervals of all values hold at once, so that the best may be picked from them.
        shortfall: best - this, at least 0; "best" is whichever value truly is, not the one that looks so.
        seed_spread: standard deviation of the seeds' means; None with one seed.
    """

    value: float
    mean: Interval
    gain: Interval
    shortfall: Interval
    seed_spread: float | None


@dataclass(frozen=True)
class SweepSummary:
    """All values of a sweep, ascending, evaluated on the same queries with the same seeds.

    Attributes:
        values: ascending.
        base: mean of the model before any training.
        seeds: those that every value has.
        left_out: cells (value, seed) whose seed not every value has.
        queries: N.
        level: confidence level of the intervals.
        groups: G, which were drawn; N where each query was drawn alone.
        chosen: the value that other queries have picked as the best; None where none has.
    """

    values: tuple[ValueSummary, ...]
    base: Interval
    seeds: tuple[int, ...]
    left_out: tuple[tuple[float, int], ...]
    queries: int
    level: float
    groups: int
    chosen: float | None = None

    @property
    def best(self) -> ValueSummary:
        """The chosen value, whose mean is not flattered by the choice; where none was chosen, the value with the
        highest mean, the smallest of equals, whose mean is somewhat flattered by it.
        """
        if self.chosen is not None:
            return next(value for value in self.values if value.value == self.chosen)
        return max(self.values, key=lambda value: value.mean.estimate)


def summarise_sweep(
    cells: Mapping[tuple[float, int], ArrayLike],
    base: ArrayLike,
    *,
    seed: int,
    groups: ArrayLike | None = None,
    samples: int = 2000,
    level: float = 0.95,
    best: float | None = None,
) -> SweepSummary:
    """Means, gains over the base and shortfalls behind the best, with intervals over seeds and queries.

    Only seeds that every value has are used, since another seed for one value would be another comparison.

    Shortfall of value i = max over j of (μ[j] - μ[i]). Its lower end is the largest of the lower bounds of μ[j] - μ[i],
    widened by a common factor until all of them hold at once (a simulated Dunnett bound); that is what corrects for
    looking at many values and comparing with the luckiest (Hsu, 1984: multiple comparisons with the best). Its upper
    end is the largest of the plain upper bounds, which holds since one of them is that of the truly best value.

    Args:
        cells: by (value, seed), the outcome of each query (N,), such as 1.0 for a hit within k, in the same order.
        base: outcome of each query (N,) of the model before training.
        seed: of the draws; equal seeds give equal results.
        groups: id of each query (N,); queries of one id (a channel, a title) are drawn together. None: each alone.
        samples: D, number of draws.
        level: confidence level of all intervals.
        best: the value that other queries, such as validation rows, have picked; None: these pick it.

    Raises:
        ValueError: no cells, no seed that all values share, outcomes that are not finite or of different lengths,
            fewer than two groups, a best value that no cell has, or samples or level out of range.
    """
    _check(samples, level)
    values, seeds, outcomes = _grid(cells)
    if best is not None:
        _place(values, best)
    before = _vector(base, outcomes.shape[2])
    means, draws = _draws(outcomes, before[None], groups, samples, seed)
    gain = _at_once(means[:-1] - means[-1], draws[:, :-1] - draws[:, -1:], level)
    summaries = tuple(
        ValueSummary(
            value=value,
            mean=_alone(means[i], draws[:, i], level),
            gain=Interval(float(means[i] - means[-1]), float(gain[0][i]), float(gain[1][i])),
            shortfall=_shortfall(i, means[:-1], draws[:, :-1], level),
            seed_spread=float(outcomes[i].mean(axis=1).std(ddof=1)) if len(seeds) > 1 else None,
        )
        for i, value in enumerate(values)
    )
    left_out = tuple(sorted(cell for cell in cells if cell[1] not in seeds))
    drawn = int(group_index(groups, len(before)).max()) + 1
    reached = _alone(means[-1], draws[:, -1], level)
    return SweepSummary(summaries, reached, seeds, left_out, len(before), level, drawn, best)


def differences(
    cells: Mapping[tuple[float, int], ArrayLike],
    reference: float,
    *,
    seed: int,
    groups: ArrayLike | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> dict[float, Interval]:
    """How far each other value stands above one of them, with intervals over seeds and queries that hold all at once.

    Both their lower bounds together and their upper bounds together hold with probability (1 + level) / 2 (max-t, a
    simulated Dunnett's test). A single difference has the interval that it has by itself. The reference must not have
    been picked by these outcomes: beside the luckiest of several, others look worse than they are.

    Args:
        cells: as in ``summarise_sweep``; all values tell of the seeds' variance.
        reference: the value that is subtracted.
        seed: of the draws; equal seeds give equal results.
        groups: id of each query (N,); queries of one id are drawn together. None: each alone.
        samples: D, number of draws.
        level: confidence level of all intervals.

    Returns:
        By value, ascending, without the reference.

    Raises:
        ValueError: as ``summarise_sweep``, or a reference that no cell has.
    """
    _check(samples, level)
    values, _, outcomes = _grid(cells)
    place = _place(values, reference)
    means, draws = _draws(outcomes, np.empty((0, outcomes.shape[2])), groups, samples, seed)
    others = np.arange(len(values)) != place
    if not others.any():
        return {}
    gaps = means[others] - means[place]
    bounds = _at_once(gaps, draws[:, others] - draws[:, [place]], level)
    found = (Interval(*map(float, gap)) for gap in zip(gaps, *bounds, strict=True))
    return dict(zip((value for value in values if value != reference), found, strict=True))


def smallest_not_worse(summary: SweepSummary, *, margin: float | None = None) -> ValueSummary | None:
    """The smallest value that is as good as the best, as far as the data can tell.

    Args:
        summary: of the sweep.
        margin: None takes the smallest value whose shortfall's interval reaches 0: not credibly worse. A value that is
            truly as good as the best is passed over with probability (1 - level) / 2 at most, so the answer is hardly
            ever too large; with few queries and seeds it may be too small, as little is credible then. A margin turns
            the burden of proof round (non-inferiority): the smallest value whose shortfall is credibly at most that.
            Each value is put to that test by itself, at (1 - level) / 2.

    Returns:
        None where no value is credibly within the margin.

    Raises:
        ValueError: a margin that is not above 0.
    """
    if margin is None:
        return next(value for value in summary.values if value.shortfall.low == 0)
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    return next((value for value in summary.values if value.shortfall.high <= margin), None)


def _check(samples: int, level: float) -> None:
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level within (0, 1), got {samples} and {level}")


def _place(values: Sequence[float], value: float) -> int:
    if value not in values:
        raise ValueError(f"no cell has the value {value:g}; there are {', '.join(f'{one:g}' for one in values)}")
    return values.index(value)


def _grid(cells: Mapping[tuple[float, int], ArrayLike]) -> tuple[list[float], tuple[int, ...], Array]:
    """Values (V,) ascending, the seeds (S,) that all of them have, and their outcomes (V, S, N)."""
    values = sorted({value for value, _ in cells})
    every = sorted({seed for _, seed in cells})
    seeds = tuple(seed for seed in every if all((value, seed) in cells for value in values))
    if not seeds:
        raise ValueError(f"no seed is common to all {len(values)} values, so they cannot be compared")
    queries = np.size(cells[values[0], seeds[0]])
    outcomes = [[_vector(cells[value, seed], queries) for seed in seeds] for value in values]
    return values, seeds, np.array(outcomes)


def _vector(outcomes: ArrayLike, queries: int) -> Array:
    vector = np.asarray(outcomes, dtype=np.float64)
    if vector.shape != (queries,) or not np.isfinite(vector).all():
        raise ValueError(f"every cell and the base need a finite outcome of the same {queries} queries")
    return vector


def _draws(outcomes: Array, beside: Array, groups: ArrayLike | None, samples: int, seed: int) -> tuple[Array, Array]:
    """Means (V + B,) and draws of what they may truly be (D, V + B).

    They are of the values with outcomes (V, S, N), and of B models (B, N) beside them that no seed changes.
    """
    of_queries, of_seeds = np.random.default_rng(seed).spawn(2)
    columns = np.concatenate([outcomes.mean(axis=1), beside])
    means = columns.mean(axis=1)
    index = group_index(groups, columns.shape[1])
    sizes = np.bincount(index).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError("intervals need at least 2 queries (or groups of queries) to draw from")
    draws = _query_draws(_by_group(columns, index), sizes, samples, of_queries)
    if outcomes.shape[1] > 1:
        noise = _noise(outcomes, index, sizes)
        draws[:, : len(outcomes)] += _seed_draws(outcomes.mean(axis=2), noise, samples, of_seeds)
    # Few seeds have wide intervals; a mean still lies where outcomes lie.
    every = np.concatenate([outcomes.ravel(), beside.ravel()])
    return means, np.clip(draws, every.min(), every.max())


def _by_group(columns: Array, index: NDArray[np.intp]) -> Array:
    """Sums (C, G) of columns (C, N)."""
    return np.stack([np.bincount(index, weights=column) for column in columns])


def _query_draws(sums: Array, sizes: Array, samples: int, random: np.random.Generator) -> Array:
    """What the means (D, C) may be with other queries: multivariate t of the jackknife's covariance over groups."""
    parts, degrees = jackknife(sums, sizes), freedom(sizes)
    scale = np.sqrt(degrees / random.chisquare(degrees, size=samples))
    means: Array = sums.sum(axis=1) / sizes.sum() + scale[:, None] * (
        random.standard_normal((samples, len(sizes))) @ parts.T
    )
    return means


def _noise(outcomes: Array, index: NDArray[np.intp], sizes: Array) -> tuple[float, float]:
    """Variance of a cell's mean by chance in single queries: of the part that values share, and of the rest."""
    values, seeds, _ = outcomes.shape
    groups = len(sizes)
    residual = outcomes - outcomes.mean(axis=2, keepdims=True)
    residual -= residual.mean(axis=1, keepdims=True)
    shared = residual.mean(axis=0)
    residual -= shared

    def variance(parts: Array) -> float:
        by_group = _by_group(parts, index) * (groups / sizes.sum())
        return float((by_group**2).sum() / ((seeds - 1) * (groups - 1) * groups))

    apart = sum(variance(part) for part in residual) / (values - 1) if values > 1 else 0.0
    return variance(shared), apart


def _seed_draws(cell_means: Array, noise: tuple[float, float], samples: int, random: np.random.Generator) -> Array:
    """What other seeds would add to each value's mean (D, V), from the means of the cells (V, S)."""
    values, seeds = cell_means.shape
    effects = cell_means - cell_means.mean(axis=1, keepdims=True)
    shared = effects.mean(axis=0)

    def deviations(parts: Array, noise: float, freedom: int) -> Array:
        variance: Array = (parts**2).sum() / random.chisquare(freedom, size=(samples, 1)) - noise
        drawn: Array = np.sqrt(variance.clip(min=0) / seeds)
        return drawn

    drawn = np.zeros((samples, values))
    drawn += deviations(shared, noise[0], seeds - 1) * random.standard_normal((samples, 1))
    if values > 1:
        apart = random.standard_normal((samples, values))
        apart -= apart.mean(axis=1, keepdims=True)
        drawn += deviations(effects - shared, noise[1], (values - 1) * (seeds - 1)) * apart
    return drawn


def _alone(estimate: float, draws: Array, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high))


def _at_once(estimates: Array, draws: Array, level: float) -> tuple[Array, Array]:
    """Bounds (J,) below and (J,) above, each set of which holds for all J at once with probability (1 + level) / 2.

    The distance of each bound of the percentile interval is widened by one factor, the quantile over the draws of the
    largest deviation in units of that distance. A single estimate keeps its percentile interval.
    """

    def distance(deviations: Array) -> Array:
        alone: Array = np.quantile(deviations, (1 + level) / 2, axis=0).clip(min=0)
        ratios = np.divide(deviations, alone, out=np.zeros_like(deviations), where=alone > 0)
        return alone * float(np.quantile(ratios.max(axis=1), (1 + level) / 2))

    return estimates - distance(estimates - draws), estimates + distance(draws - estimates)


def _shortfall(i: int, means: Array, draws: Array, level: float) -> Interval:
    """How far value i falls behind the best of all."""
    others = np.arange(len(means)) != i
    if not others.any():
        return Interval(0.0, 0.0, 0.0)
    behind, drawn = means[others] - means[i], draws[:, others] - draws[:, [i]]
    low = _at_once(behind, drawn, level)[0].max()
    high = np.quantile(drawn, (1 + level) / 2, axis=0).max()
    return Interval(*(max(0.0, float(x)) for x in (behind.max(), low, high)))
