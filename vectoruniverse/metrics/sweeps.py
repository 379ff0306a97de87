"""What a sweep says: how good each value is, how sure that is, and from which value on more does not help.

Two things would come out differently in another experiment: the queries that happen to be asked, and the seed of the
training (initial adapter, order, views). Both are crossed: every cell answers the same queries, and a seed means the
same order and views for every value. Bouthillier et al. (2021, arXiv:2103.03098) show that leaving the seed out makes
benchmarks look far surer than they are.

The model, and what the intervals are made of, are in ``crossed``.

Shapes: V values, S seeds, N queries, G groups of queries (each query alone: G = N).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vectoruniverse.metrics.crossed import CrossedMeans, crossed_means
from vectoruniverse.metrics.intervals import LEVEL, Interval, group_index

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
        """The value that was chosen, whose mean is not flattered by the choice.

        Where none was, the one with the highest mean, the smallest of equals: its mean is somewhat flattered.
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
    level: float = LEVEL,
    share: bool = False,
    best: float | None = None,
) -> SweepSummary:
    """Means, gains over the base and shortfalls behind the best, with intervals over seeds and queries.

    Only seeds that every value has are used, since another seed for one value would be another comparison.

    Shortfall of value i = max over j of (μ[j] - μ[i]). Its lower end is the largest of the lower bounds of μ[j] - μ[i],
    widened by a common factor until all of them hold at once (as Dunnett's); that is what corrects for looking at many
    values and comparing with the luckiest (Hsu, 1984: multiple comparisons with the best). Its upper end is the largest
    of the plain upper bounds, which holds since one of them is that of the truly best value.

    Args:
        cells: by (value, seed), the outcome of each query (N,), such as 1.0 for a hit within k, in the same order.
        base: outcome of each query (N,) of the model before training.
        seed: of the simulated factor by which intervals that hold at once are wider.
        groups: id of each query (N,); queries of one id (a channel, a title) count as one draw. None: each alone.
        level: confidence level of all intervals.
        share: whether means lie between 0 and 1 by their nature, as in ``mean_interval``.
        best: the value that other queries, such as validation rows, have picked; None: these pick it.

    Raises:
        ValueError: no cells, no seed that all values share, outcomes that are not finite or of different lengths,
            fewer than two groups, a best value that no cell has, or a level out of range.
    """
    values, seeds, outcomes = _grid(cells)
    if best is not None:
        _place(values, best)
    before = _vector(base, outcomes.shape[2])
    found, each = crossed_means(outcomes, before[None], groups, level), np.eye(len(values) + 1)
    *means, start = found.alone(each, share=share)
    of_values, of_base = each[:-1], each[-1]
    gains = found.at_once(of_values - of_base, seed)
    summaries = tuple(
        ValueSummary(
            value=value,
            mean=means[i],
            gain=gains[i],
            shortfall=_shortfall(found, np.delete(of_values, i, axis=0) - of_values[i], seed),
            seed_spread=float(outcomes[i].mean(axis=1).std(ddof=1)) if len(seeds) > 1 else None,
        )
        for i, value in enumerate(values)
    )
    left_out = tuple(sorted(cell for cell in cells if cell[1] not in seeds))
    drawn = int(group_index(groups, len(before)).max()) + 1
    return SweepSummary(summaries, start, seeds, left_out, len(before), level, drawn, best)


def differences(
    cells: Mapping[tuple[float, int], ArrayLike],
    reference: float,
    *,
    seed: int,
    groups: ArrayLike | None = None,
    level: float = LEVEL,
    of: Collection[float] | None = None,
) -> dict[float, Interval]:
    """How far other values stand above one of them, with intervals over seeds and queries that hold all at once.

    A single difference has the interval that it has by itself. The reference must not have been picked by these
    outcomes: beside the luckiest of several, others look worse than they are.

    Args:
        cells: as in ``summarise_sweep``; all values tell of the seeds' variance.
        reference: the value that is subtracted.
        seed: of the simulated factor by which intervals that hold at once are wider.
        groups: id of each query (N,); queries of one id count as one draw. None: each alone.
        level: confidence level of all intervals.
        of: the values that are told of; None: all.

    Returns:
        By value, ascending, without the reference.

    Raises:
        ValueError: as ``summarise_sweep``, or a reference that no cell has.
    """
    values, _, outcomes = _grid(cells)
    place = _place(values, reference)
    found = crossed_means(outcomes, np.empty((0, outcomes.shape[2])), groups, level)
    told = [i for i, value in enumerate(values) if i != place and (of is None or value in of)]
    of_values = np.eye(len(values))
    gaps = found.at_once(of_values[told] - of_values[place], seed)
    return dict(zip((values[i] for i in told), gaps, strict=True))


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


def _shortfall(means: CrossedMeans, others: Array, seed: int) -> Interval:
    """How far a value falls behind the best of all, from the contrasts (V - 1, M) of others with it."""
    if not len(others):
        return Interval(0.0, 0.0, 0.0)
    surely, plain = means.at_once(others, seed), means.alone(others)
    furthest = (max(gap.estimate for gap in plain), max(gap.low for gap in surely), max(gap.high for gap in plain))
    return Interval(*(max(0.0, bound) for bound in furthest))
