"""What the numbers of a run say, in plain words: did it get better, and is the space healthy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vectoruniverse.metrics.catalogue import describe, signed
from vectoruniverse.runs.records import RivalsRecord

MIN_SHARE = 0.5
"""A space that keeps less than this share of its first effective rank has collapsed; the live guard's default."""

MIN_RANK = 2.0
"""A space with a smaller effective rank has collapsed whatever it was before: it is little more than one direction."""

DOMINANT_SHARE = 1 / 3
"""A direction that holds more of the variance than this is named."""

CONE_COSINE = 0.5
"""Unrelated rows with a greater mean cosine lie in a narrow cone (within about 60° of each other)."""

GAP = 0.5
"""A greater distance between the means of pictures and texts is named; CLIP models start at about 0.8."""

SIDES = {"image": "pictures", "text": "texts", "first": "first texts", "second": "second texts"}

Outcome = Literal["better", "worse", "unclear", "unchanged"]

LEARNED = "These are rows that it learned from, which says nothing of others."


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a run made its metric better.

    Attributes:
        outcome: ``better`` and ``worse`` are claimed only when the interval of the change excludes 0, or when there is
            no interval at all; ``unclear`` has 0 within its interval.
        headline: one short sentence.
        detail: the interval, or that there is none.
    """

    outcome: Outcome
    headline: str
    detail: str


def answer(
    metric: str,
    base: Mapping[str, float],
    adapted: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    *,
    held_out: bool = True,
) -> Answer:
    """What the change of one metric says, towards its better end.

    Args:
        metric: such as ``recall@5``; both models have it.
        base: metrics of the base model.
        adapted: metrics of the adapted model on the same rows.
        intervals: of a metric, ``difference`` as [estimate, low, high].
        held_out: whether the rows are others than the adapted model learned from; if not, no change is called better.
    """
    before, after = base[metric], adapted[metric]
    change = after - before
    scale, form, unit, points = _units(metric)
    bounds = (intervals or {}).get(metric, {}).get("difference")
    low, high = (change, change) if bounds is None else bounds[1:]
    found = outcome(metric, low, high)
    detail = f"Change {signed(change * scale, form)}{points}"
    if bounds is None:
        detail += ". No interval was computed, so this may be an accident of these rows."
    else:
        remark = {"unclear": "zero is within it, so these rows cannot tell", "unchanged": "no row differs"}
        clear = found in ("better", "worse")  # then the sign says on which side, even of a bound that rounds to zero
        ends = (f"{x * scale:+{form}}" if clear else signed(x * scale, form) for x in (low, high))
        detail += f", 95 % interval {' to '.join(ends)}: "
        detail += f"{remark.get(found, 'clear of zero')}."
    went = f"{metric} went from {before * scale:{form}}{unit} to {after * scale:{form}}{unit}"
    if not held_out:
        return Answer("unclear", f"Training rows: {went}", f"Change {signed(change * scale, form)}{points}. {LEARNED}")
    opening = {"better": "Better", "worse": "Worse", "unclear": "Not clear", "unchanged": "No change"}
    return Answer(found, f"{opening[found]}: {went}", detail)


def outcome(metric: str, low: float, high: float) -> Outcome:
    """What a change between two bounds says; without an interval both are the change itself."""
    if low == high == 0:
        return "unchanged"
    if not (low > 0 or high < 0):
        return "unclear"
    return "better" if (low > 0) != (describe(metric).better == "lower") else "worse"


def rivals_words(rivals: RivalsRecord, metric: str) -> str | None:
    """Whether the adapted model beats the best of the rivals that cost nothing; None where that was not compared.

    Args:
        rivals: models on the same rows, with how far the adapted one is ahead of each.
        metric: that counts.
    """
    best = rivals.best.get(metric, "")
    ahead = rivals.models[best].adapted_ahead.get(metric) if best in rivals.models else None
    if ahead is None:
        return None
    scale, form, unit, points = _units(metric)
    gap, low, high = (x * scale for x in ahead)
    told = (
        "the base itself" if best == "base" else f"{best}, {rivals.models[best].reached[metric] * scale:{form}}{unit}"
    )
    rival = f"the best rival that costs nothing ({told})"
    found = outcome(metric, *ahead[1:])
    if found in ("better", "worse"):
        near, far = sorted((abs(low), abs(high)))
        change = f"by {abs(gap):{form}}{points}, 95 % interval {near:{form}} to {far:{form}}"
        if found == "better":
            return f"It beats {rival} {change}."
        return f"It loses to {rival} {change}: linear algebra on the base's vectors does better than this training."
    interval = f"{signed(low, form)} to {signed(high, form)}"
    return f"It is not clearly better than {rival}: {signed(gap, form)}{points}, 95 % interval {interval}."


def _units(metric: str) -> tuple[int, str, str, str]:
    """Factor, form, unit and unit of differences in which a metric is told."""
    return (100, ".1f", " %", " points") if describe(metric).unit == "share" else (1, ".3f", "", "")


def kept_words(epoch: int | None, best_epoch: int | None) -> str | None:
    """What must be said of the epoch whose weights are kept; None where it is the best one, and trained.

    Args:
        epoch: of the kept checkpoint; 0 is before the first step, None unknown.
        best_epoch: the one that reached the most; None: unknown.
    """
    if epoch is None or best_epoch is None:
        return None
    if epoch == 0:
        return "No epoch beat the base, so the base is kept: the adapter is the untrained one"
    if best_epoch == 0:
        return f"No epoch beat the base; kept is epoch {epoch} all the same"
    return None if epoch == best_epoch else f"Kept is epoch {epoch}; the best one was epoch {best_epoch}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a run, on its page and in the terminal.

    Attributes:
        answer: whether the metric that counts got better.
        health: sentences about the space, the worst first; none where the task has no space to speak of.
        learning: signs that it did not learn, each with a command to try (see ``report.learning``).
    """

    answer: Answer
    health: Sequence[str] = ()
    learning: Sequence[str] = ()

    def lines(self) -> list[str]:
        """All of it as plain lines."""
        return [
            f"{self.answer.headline}. {self.answer.detail}",
            *(f"Learning: {one}" for one in self.learning),
            *(f"Health of the space: {one}" for one in self.health),
        ]


def with_kept(answer: Answer, kept: str | None) -> Answer:
    """An answer that also says whose weights it is about, where ``kept_words`` has something to say."""
    if kept is None:
        return answer
    if answer.outcome == "unchanged":
        return Answer("unchanged", kept, f"{answer.headline}. {answer.detail}")
    return Answer(answer.outcome, answer.headline, f"{kept}. {answer.detail}")


def verdict(
    base: Mapping[str, float],
    adapted: Mapping[str, float],
    history: Sequence[Mapping[str, float | int | str]] = (),
) -> list[str]:
    """The health of the adapted space beside the base's: one sentence, or one for each thing that is wrong.

    Args:
        base: geometry of the base model, as `vectoruniverse.metrics.geometry.geometry` names it.
        adapted: geometry of the adapted model; of what it lacks nothing is said.
        history: records of ``metrics.jsonl``; ``train/effective_rank`` is watched from its first value on.

    Returns:
        The worst first. A single sentence that starts with ``healthy`` when nothing is wrong.
    """
    share, rank = "largest_eigenvalue_share", adapted.get("effective_rank", math.inf)
    strange = sorted(name for name, value in adapted.items() if not math.isfinite(value))
    found = [f"not finite: {', '.join(strange)}"] if strange else []
    if rank < max(MIN_RANK, MIN_SHARE * base.get("effective_rank", 0.0)):
        found.append(f"collapsed: effective rank {_beside(base, adapted, 'effective_rank', '.1f')}")
    found += _collapse_while_training(history)
    if adapted.get(share, 0.0) > DOMINANT_SHARE:
        beside = f" (base {base[share] * 100:.0f} %)" if share in base else ""
        found.append(f"one direction holds {adapted[share] * 100:.0f} % of the variance{beside}")
    for side, name in SIDES.items():
        if adapted.get(key := f"{side}/mean_cosine", 0.0) > CONE_COSINE:
            found.append(f"{name} lie in a narrow cone: mean cosine {_beside(base, adapted, key, '.2f')}")
    if adapted.get("modality_gap", 0.0) > GAP:
        sides = "pictures and texts" if "image/mean_cosine" in adapted else "both sides of the pairs"
        found.append(f"{sides} stand apart: modality gap {_beside(base, adapted, 'modality_gap', '.2f')}")
    if found:
        return found
    if "effective_rank" not in adapted:
        return ["not evaluated: there are no numbers about the space"]
    return [f"healthy: effective rank {_beside(base, adapted, 'effective_rank', '.1f')}"]


def _collapse_while_training(history: Sequence[Mapping[str, float | int | str]]) -> list[str]:
    watched = [(record["step"], record.get("train/effective_rank")) for record in history]
    # what is no number at all was written as "NaN", which the loop tells in its own way
    ranks = [(step, float(rank)) for step, rank in watched if isinstance(rank, int | float)]
    low = [step for step, rank in ranks if rank < MIN_SHARE * ranks[0][1]]
    if not low:
        return []
    least = min(rank for _, rank in ranks)
    text = f"collapsed at step {low[0]}: effective rank of batches fell from {ranks[0][1]:.1f} to {least:.1f}"
    return [text if low[-1] == ranks[-1][0] else f"{text}, and recovered by step {ranks[-1][0]}"]


def _beside(base: Mapping[str, float], adapted: Mapping[str, float], key: str, form: str) -> str:
    beside = f" (base {base[key]:{form}})" if key in base else ""
    return f"{adapted[key]:{form}}{beside}"
