"""What a sweep's statistics say in plain sentences."""

from __future__ import annotations

from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.metrics.sweeps import SweepSummary, ValueSummary, smallest_not_worse


def answer(summary: SweepSummary, *, name: str = "rank", metric: str = "recall@5", margin: float | None = None) -> str:
    """The sweep in a few plain sentences: where it stops helping, or why that cannot be told.

    Args:
        summary: of the sweep.
        name: of what is swept.
        metric: of the outcomes' mean.
        margin: as in `smallest_not_worse`.
    """
    values, best, base = summary.values, summary.best, summary.base
    if all(value.gain.low <= 0 for value in values):
        said = _no_gain(summary, name, metric)
    elif len(values) == 1:
        said = (
            f"Only {name} {best.value:g} was tried: {metric} {interval_text(best.mean)} against the base's "
            f"{interval_text(base)}, a gain of {interval_text(best.gain)}. Where more stops helping takes several "
            "values."
        )
    else:
        said = _stops_helping(summary, name, metric, margin)
    return f"{said} {_grounds(summary)}"


def _no_gain(summary: SweepSummary, name: str, metric: str) -> str:
    best = summary.best
    worse = all(value.gain.high < 0 for value in summary.values)
    which = f"Every {name} tried is credibly worse than" if worse else f"No {name} tried is credibly better than"
    return (
        f"{which} the base model: {name} {best.value:g} comes first with {metric} {interval_text(best.mean)} against "
        f"{interval_text(summary.base)}, a difference of {interval_text(best.gain)}."
    )


def _stops_helping(summary: SweepSummary, name: str, metric: str, margin: float | None) -> str:
    best, chosen = summary.best, smallest_not_worse(summary, margin=margin)
    rule = "not credibly worse than the best" if margin is None else f"credibly within {margin:g} of the best"
    if chosen is None:
        return (
            f"No {name} is {rule}: {name} {best.value:g} comes first with {metric} {interval_text(best.mean)}, and "
            f"others may be up to {best.shortfall.high:.3f} better. More seeds or queries, or a wider margin, are "
            "needed."
        )
    if best.shortfall.low > 0:
        said = (
            f"{name} {chosen.value:g} is the smallest that is not credibly worse than any other: {metric} "
            f"{interval_text(chosen.mean)}. {name} {best.value:g}, which the validation rows chose, is: "
            f"{interval_text(best.mean)}, {interval_text(best.shortfall)} behind."
        )
    elif chosen is best:
        smaller = f"every smaller {name} is credibly worse" if margin is None else f"no smaller {name} is {rule}"
        beside = "the smallest tried" if best is summary.values[0] else smaller
        said = f"{name} {best.value:g} is the best, and {beside}: {metric} {interval_text(best.mean)}."
    else:
        said = (
            f"{name} {chosen.value:g} is the smallest that is {rule} ({name} {best.value:g}): {metric} "
            f"{interval_text(chosen.mean)} against {interval_text(best.mean)}, {interval_text(chosen.shortfall)} "
            "behind the best."
        )
    return " ".join([said, *_beyond(summary, chosen, name)])


def _beyond(summary: SweepSummary, chosen: ValueSummary, name: str) -> list[str]:
    """What is to be said of the values above the chosen one, and of the chosen one beside the base."""
    larger = [value for value in summary.values if value.value > chosen.value]
    said = []
    if not larger and all(value.shortfall.low > 0 for value in summary.values[:-1]):
        said.append(f"It is still rising at the largest {name} tried; try larger.")
    elif not larger:
        said.append(f"No smaller {name} is credibly that near; more seeds or queries may show one.")
    elif chosen.shortfall.low == 0:
        said.append(f"From {name} {chosen.value:g} on more does not credibly help.")
    if worse := [f"{value.value:g}" for value in larger if value.shortfall.low > 0]:
        verb = "is" if len(worse) == 1 else "are"
        said.append(f"Above it, {name} {', '.join(worse)} {verb} credibly worse than the best.")
    if chosen.gain.low <= 0:
        said.append(f"{name} {chosen.value:g} itself is not credibly better than the base.")
    return said


def _grounds(summary: SweepSummary) -> str:
    """What the intervals stand on."""
    seeds, left_out = len(summary.seeds), len(summary.left_out)
    over = f"{summary.queries:,} queries"
    if summary.groups < summary.queries:
        over += f" in {summary.groups:,} groups drawn together"
    over += "; with one seed they do not say what another would give" if seeds == 1 else f" and {seeds} seeds"
    if summary.chosen is not None and len(summary.values) > 1:
        over += "; other rows chose the best"
    said = f"({100 * summary.level:g} % intervals over {over}.)"
    return f"{said} Cells whose seed not every value has are left out: {left_out}." if left_out else said


def interval_text(interval: Interval) -> str:
    """An interval with three decimals."""
    return f"{interval.estimate:z.3f} [{interval.low:z.3f}, {interval.high:z.3f}]"
