"""The forgetting ledger as a reader sees it, of a run and of a sweep alike: sentences, the figure, the table."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from vectoruniverse.report.figures.adapter import Balance, forgetting
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.page import Chapter
from vectoruniverse.report.tables import interval
from vectoruniverse.runs.records import ForgettingRecord, Kept
from vectoruniverse.terminal import counted


def ledger_chapter(ledger: ForgettingRecord | None, whose: str) -> Chapter:
    """What is told of it on a page; ``whose`` adapter it is, in words."""
    return Chapter("forgetting", "What was forgotten", said=list(ledger_words(ledger, whose)))


def ledger_words(ledger: ForgettingRecord | None, whose: str) -> Iterator[str]:
    """What was gained and lost, and the scale that keeps most of both; ``whose`` adapter it is, in words."""
    if ledger is None or not ledger.curve:
        return
    before, after, best = _ends(ledger)
    change = "" if after.old_change is None else f" (change {interval(*after.old_change, sign=True)})"
    at = "" if ledger.kept_scale == 1.0 else f" at scale {ledger.kept_scale:g}"
    yield (
        f"With {whose}{at}, {ledger.metric} on rows that the base knew went from {interval(*before.old)} to "
        f"{interval(*after.old)}{change}, and on the new rows from {interval(*before.new)} to {interval(*after.new)}."
    )
    yield (
        f"At scale {best.scale:g} it keeps {best.new_share:.0%} of what was gained at best and {best.old_share:.0%} of "
        f"what the base knew. The rule: {ledger.rule}."
    )
    if (without := ledger.without_intruders) is not None and ledger.intruders:
        yield (
            f"{counted(ledger.intruders, 'intruder direction')}: new among the first of the adapted weights "
            f"(arXiv:2410.21228). With them set to 0 in the adapter as trained, it is {interval(*without.old)} on rows "
            f"that the base knew and {interval(*without.new)} on the new rows."
        )
    elif ledger.intruders == 0:
        yield "No intruder direction: none is new among the first of the adapted weights (arXiv:2410.21228)."


def ledger_line(ledger: ForgettingRecord) -> str:
    """The same in one line, for a terminal and a card."""
    before, after, best = _ends(ledger)
    return (
        f"on {ledger.old_rows} rows that the base knew, {ledger.metric} went from {before.old.estimate:.3f} to "
        f"{after.old.estimate:.3f}; scale {best.scale:g} of the adapter keeps most of both"
    )


def ledger_plate(ledger: ForgettingRecord) -> Plate:
    """Both sides along the adapter's scale."""
    points = [Balance(one.scale, one.new, one.old) for one in sorted(ledger.curve, key=lambda one: one.scale)]
    caption = (
        f"{ledger.metric} on the {ledger.new_rows:,} held-out rows of the new data and on {ledger.old_rows:,} rows "
        "that the base knew, as the update is weighed from 0 to 1; bands: 95 % intervals. Needs no training."
    )
    if (without := ledger.without_intruders) is not None:
        caption += " Hollow: as trained, without its intruder directions."
    beside = None if without is None else Balance(without.scale, without.new, without.old)
    drawn = forgetting(points, metric=ledger.metric, best_scale=ledger.best_scale, beside=beside)
    return Plate("forgetting", "Along the adapter's scale", "forgetting", caption, drawn)


def ledger_frame(ledger: ForgettingRecord | None) -> pd.DataFrame:
    """A row for each scale; what differs from the base is paired, row by row."""
    rows = []
    for one in [] if ledger is None else ledger.curve:
        row: dict[str, float | None] = {"scale": one.scale}
        for name in ("new", "old", "new_change", "old_change"):
            for bound, value in zip(("", " low", " high"), getattr(one, name) or (None,) * 3, strict=True):
                row[f"{name.replace('_', ' ')}{bound}"] = value
        rows.append(row | {"new share": one.new_share, "old share": one.old_share})
    return pd.DataFrame(rows, dtype=object)


def _ends(ledger: ForgettingRecord) -> tuple[Kept, Kept, Kept]:
    """The base, the model that is kept, and the one at the scale that keeps most of both."""
    curve = sorted(ledger.curve, key=lambda one: one.scale)
    kept, best = (
        min(curve, key=lambda one: abs(one.scale - scale)) for scale in (ledger.kept_scale, ledger.best_scale)
    )
    return curve[0], kept, best
