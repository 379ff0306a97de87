"""Which learning rate each value of a sweep deserves: many rates tried for a few epochs, the better two for longer.

That is successive halving (Jamieson & Talwalkar, arXiv:1502.07943) with two rounds. Validation rows choose; a trial is
an ordinary short run that leaves the test rows sealed. A best rate at the edge of those tried widens the grid.

Where no rates are named, they lie on a ladder of factors of two around the experiment's own, and each rank begins where
the scaling rule of its initialisation and alpha puts the rate that was found for the nearest rank. With B starting at
zero and Adam's steps of fixed size, the first updates of scale · B·A grow as rate · scale · rank, so the rate that
keeps their size falls as 1 / rank where alpha is proportional and as 1 / √rank where the scale is alpha / √rank, and
stays where alpha is fixed; PiSSA's does not depend on the rank (arXiv:2602.06204).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vectoruniverse.errors import ConfigError

COST = 2.5
"""Search and sweep together take at most so many times the epochs of a sweep at one rate, from six epochs on."""

WIDEN = 2
"""Rates that are tried beyond the first ones, for each value."""

AROUND, NEAR = 2, 1
"""Rungs tried on either side of where the first value begins, and of where another one points to."""

FULL_BELOW = 3
"""Rungs that full fine-tuning begins below LoRA: at an eighth of its rate."""

Trials = Callable[[Sequence[int], int], Sequence[float | None]]
"""Rungs and epochs → the metric of each on validation rows; None where the training failed."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Learning rates by their rung; ``named`` ones stand on rungs 0, 1, …, and both ends go on by the ratio there."""

    named: tuple[float, ...]

    def rate(self, rung: int) -> float:
        """The learning rate of a rung, three digits."""
        last = len(self.named) - 1
        if 0 <= rung <= last:
            return self.named[rung]
        low, high = (self.named[1] / self.named[0], self.named[-1] / self.named[-2]) if last else (2.0, 2.0)
        beyond = self.named[0] * low**rung if rung < 0 else self.named[-1] * high ** (rung - last)
        return float(f"{beyond:.3g}")

    def rung_of(self, rate: float) -> int | None:
        """The rung of a named rate; None where it is not named."""
        return self.named.index(rate) if rate in self.named else None


@dataclass(frozen=True, slots=True)
class Budget:
    """Epochs of a trial in the first round and in the second, where there is one (``long`` above ``short``)."""

    short: int
    long: int


@dataclass(frozen=True, slots=True)
class Found:
    """The rung that was chosen for a value, and whether a rate beside it has not been tried."""

    rung: int
    at_edge: bool


def parse_rates(text: str) -> tuple[float, ...] | None:
    """Read ``auto`` (no rates named) or ``1e-4,1e-3``, ascending.

    Raises:
        ConfigError: something else stands there, a rate is not above 0, or one is given twice.
    """
    if text == "auto":
        return None
    try:
        rates = sorted(float(part) for part in text.split(","))
    except ValueError:
        rates = []
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates) or len(set(rates)) < len(rates):
        raise ConfigError(
            f"{text[:60]!r} is no list of learning rates", file="--lrs", remedy="auto, fixed, or as in 5e-4,1e-3,2e-3"
        )
    return tuple(rates)


def make_budget(epochs: int, seeds: int, rates: int) -> Budget:
    """Epochs of trials of one value, so that all of them and the sweep cost at most ``COST`` sweeps at one rate.

    Args:
        epochs: of a cell.
        seeds: cells of a value.
        rates: most that are tried at first.
    """
    allowed = (COST - 1) * epochs * seeds
    first = rates + WIDEN
    short = max(1, min(epochs // 4, int(allowed // (first + 4))))
    long = min(epochs // 2, int((allowed - first * short) // 2))
    return Budget(short, max(short, long))


def scaling_exponent(alpha: str, initialisation: str) -> float:
    """X of rate ∝ rank^(-x), by how alpha follows the rank (``proportional``, ``rank-stabilized``, ``fixed``)."""
    if initialisation == "pissa":
        return 0.0
    return {"proportional": 1.0, "rank-stabilized": 0.5}.get(alpha, 0.0)


def first_rungs(rank: int, own_rank: int, found: Mapping[int, int], own: int, exponent: float) -> list[int]:
    """Rungs to try for a rank: around where the nearest rank's rate points to, and the experiment's own.

    Args:
        rank: of LoRA.
        own_rank: the experiment's, at which its own rate is taken to be meant.
        found: rank → rung, of the ranks that are done.
        own: the rung of the experiment's rate.
        exponent: see ``scaling_exponent``.
    """
    nearest = min(found, key=lambda other: abs(math.log2(other / rank)), default=own_rank)
    start = found.get(nearest, own) + round(exponent * math.log2(nearest / rank))
    reach = NEAR if found else AROUND
    return sorted({own, *range(start - reach, start + reach + 1)})


def full_rate(rate: float) -> float:
    """Full fine-tuning's beside LoRA's: where its search begins, and what it takes where nothing is searched."""
    return Ladder((rate,)).rate(-FULL_BELOW)


def in_order(ranks: Sequence[int], own_rank: int) -> list[int]:
    """Ranks from the experiment's own outwards, so that each begins beside one that is done."""
    return sorted(ranks, key=lambda rank: (abs(math.log2(rank / own_rank)), rank))


def search_rate(trials: Trials, first: Sequence[int], budget: Budget) -> Found | None:
    """Two rounds of trials.

    Args:
        trials: runs some, at once where it can.
        first: rungs to try at first.
        budget: epochs of a trial.

    Returns:
        None where every trial failed.
    """

    def tried(rungs: Sequence[int], epochs: int) -> dict[int, float | None]:
        return dict(zip(rungs, trials(rungs, epochs), strict=True))

    reached = tried(first, budget.short)
    for _ in range(WIDEN):
        if not (beside := _untried(_best(reached), reached)):
            break
        reached |= tried(beside[:1], budget.short)
    final = reached
    if budget.long > budget.short:
        final = tried(_ranked(reached)[:2], budget.long)
    best = _best(final)
    return None if best is None else Found(best, bool(_untried(best, reached)))


def _ranked(reached: Mapping[int, float | None]) -> list[int]:
    """Rungs whose training did not fail, the best first, the lowest of equals."""
    return sorted(
        (rung for rung, value in reached.items() if value is not None), key=lambda r: (-(reached[r] or 0.0), r)
    )


def _best(reached: Mapping[int, float | None]) -> int | None:
    return next(iter(_ranked(reached)), None)


def _untried(rung: int | None, reached: Mapping[int, float | None]) -> list[int]:
    """Rungs beside one that have not been tried."""
    return [] if rung is None else [beside for beside in (rung - 1, rung + 1) if beside not in reached]
