"""Several text encoders on the same pairs: which finds the right partner, how surely, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vectoruniverse.data.pair_items import PairItems, same_texts
from vectoruniverse.evaluation.comparison import compare_rows
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.catalogue import signed
from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.report.tables import hold_at_once
from vectoruniverse.report.verdict import Answer

BESIDE = ("mrr", "row_uniformity", "column_uniformity")
"""Metrics whose differences are told beside the one that decides; cosines of pairs are no merit by themselves."""


@dataclass(frozen=True, slots=True)
class EncoderComparison:
    """Encoders evaluated on the same N pairs.

    Attributes:
        found: what each encoder reaches, by name, as the task ``text_pairs`` evaluates it; the best first.
        first: the first texts (N).
        second: the second texts (N).
        metric: what decides; better when greater.
        items: which pairs hold the same first or second text; those that hang together count as one draw.
        reached: the deciding metric of each encoder; none where there are fewer than two to draw.
        differences: of each other encoder and metric, best − other on the same pairs; empty likewise.
    """

    found: Mapping[str, Evaluation]
    first: Sequence[str]
    second: Sequence[str]
    metric: str
    items: PairItems
    reached: Mapping[str, Interval]
    differences: Mapping[str, Mapping[str, Interval]]

    @property
    def best(self) -> str:
        """Name of the encoder with the greatest metric; of equals, the one that was given first."""
        return next(iter(self.found))


@dataclass(frozen=True, slots=True)
class MissedPair:
    """A pair whose partners an encoder did not find in the first place.

    Attributes:
        pair: its position.
        forth: rank of the second text among all second texts, seen from the first.
        back: rank of the first text among all first texts, seen from the second.
        instead: position of the pair whose second text is nearest to this first text, right ones left out; None where
            nothing stands before the right one, or every text is a right one.
    """

    pair: int
    forth: int
    back: int
    instead: int | None


def compare_encoders(
    found: Mapping[str, Evaluation], first: Sequence[str], second: Sequence[str], *, metric: str = "recall@1"
) -> EncoderComparison:
    """Order encoders by a metric, with paired differences from the best.

    The metric that decides is better when greater, and the mean of a value for each pair.

    Raises:
        ValueError: no encoder, or one that was not evaluated by ``metric`` on so many pairs.
    """
    if not found:
        raise ValueError("there is no encoder to compare")
    for name, evaluation in found.items():
        if len(evaluation.per_query.get(metric, ())) != len(first):
            raise ValueError(f"{name} was not evaluated by {metric} on these {len(first)} pairs")
    ordered = dict(sorted(found.items(), key=lambda item: -item[1].metrics[metric]))
    items, best, metrics = same_texts(first, second), next(iter(ordered)), dict.fromkeys((metric, *BESIDE))
    values = {name: {key: one.per_query[key] for key in metrics} for name, one in ordered.items()}
    groups = [str(group) for group in items.clusters()]
    paired = compare_rows(values, best, groups=groups, ahead=True, family="pairs")
    return EncoderComparison(
        found=ordered,
        first=first,
        second=second,
        metric=metric,
        items=items,
        reached={name: found[metric] for name, found in paired.reached.items() if metric in found},
        differences=paired.differences,
    )


def answer(comparison: EncoderComparison) -> Answer:
    """Which encoder is best, and whether these pairs can tell it from each other one."""
    best, metric = comparison.best, comparison.metric
    reached = as_share(comparison.found[best].metrics[metric])
    if len(comparison.found) == 1:
        return Answer("unchanged", f"{best}: {metric} {reached}", "No other encoder was evaluated.")
    gaps = {name: by_metric[metric] for name, by_metric in comparison.differences.items() if metric in by_metric}
    if not gaps:
        return Answer("unclear", f"Highest: {best}, {metric} {reached}", "All pairs share texts, so nothing is sure.")
    close = [name for name, gap in gaps.items() if gap.low <= 0]
    headline = f"Best: {best}, {metric} {reached}"
    if close:
        headline = f"Not clear: in {metric} these pairs cannot tell {best} from {' or '.join(close)}"
    told = "; ".join(f"{_points(gap)} above {name}" for name, gap in gaps.items())
    detail = f"{best} stands, in points, {told}. 95 % intervals, paired over the same pairs."
    return Answer("unclear" if close else "better", headline, " ".join(filter(None, (detail, at_once(comparison)))))


def at_once(comparison: EncoderComparison) -> str:
    """What the intervals of the differences hold for; empty of two encoders, whose only difference needs no words."""
    encoders = len(comparison.found)
    return hold_at_once(encoders * (encoders - 1) // 2, "differences between two of the encoders")


def missed_pairs(comparison: EncoderComparison, most: int) -> list[MissedPair]:
    """Pairs that the best encoder ranks lowest, the worst first; those that come first both ways are left out."""
    best = comparison.found[comparison.best]
    forth, back = best.ranks["first_to_second"], best.ranks["second_to_first"]
    order = np.argsort(-(forth + back), kind="stable")[:most]
    order = order[(forth + back)[order] > 2]  # 2: the partner comes first both ways
    nearest = _nearest_wrong(best, comparison.items, order)
    return [
        MissedPair(row, int(forth[row]), int(back[row]), wrong if forth[row] > 1 else None)
        for row, wrong in zip(order.tolist(), nearest, strict=True)
    ]


def as_share(value: float) -> str:
    """A metric from 0 to 1 in percent."""
    return f"{value * 100:.1f}\N{NO-BREAK SPACE}%"


def _nearest_wrong(evaluation: Evaluation, items: PairItems, rows: NDArray[np.int64]) -> list[int | None]:
    """For each of these first texts, the second text that is nearest to it of those that are no answer to it."""
    cosine = evaluation.vectors["first"][torch.from_numpy(rows)] @ evaluation.vectors["second"].T
    right = torch.from_numpy(items.right(rows, np.arange(len(items))))
    nearest = cosine.masked_fill(right, -torch.inf).argmax(dim=1)
    return [None if everything else int(n) for n, everything in zip(nearest, right.all(dim=1), strict=True)]


def _points(gap: Interval) -> str:
    estimate, low, high = (signed(value * 100, ".1f") for value in (gap.estimate, gap.low, gap.high))
    return f"{estimate} [{low}, {high}]"
