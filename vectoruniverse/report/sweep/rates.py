"""What a sweep says of its learning rates: which each value took, and what one rate for all would have said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pandas as pd

from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.heat import heat_map
from vectoruniverse.report.sweep.parts import CellRecord, Choice, RateSearch
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.values import EPOCHS, LR, key_of, label_of, title_of
from vectoruniverse.terminal import counted


def rate_words(sweep: SweepRecord) -> Iterator[str]:
    """Which rates validation rows chose, at what cost, and whether the answer needed them."""
    if (search := sweep.rates) is None or not search.choices:
        return
    chosen = ", ".join(f"{choice.rate:g} for {_whose(choice)}" for choice in in_order(sweep, search.choices))
    cost = (
        "" if search.cost is None else f"; trials and cells together took {search.cost:.1f} times a sweep at one rate"
    )
    rounds = f"{counted(search.short, 'epoch')}"
    rounds += f", the better two for {search.long}" if search.long > search.short else ""
    own = f"The experiment's own is {search.own:g}."
    yield f"Validation rows chose learning rates in trials of {rounds}{cost}: {chosen}. {own}"
    if edge := [_whose(choice) for choice in in_order(sweep, search.choices) if choice.at_edge]:
        yield f"At an edge of the rates that were tried: {', '.join(edge)}. Name more with --lrs."
    yield from _one_rate_for_all(sweep, search)


def _one_rate_for_all(sweep: SweepRecord, search: RateSearch) -> Iterator[str]:
    """What the first round says at the experiment's own rate, beside each value at its own."""
    first = [trial for trial in _first_round(sweep) if list(trial.values) == list(sweep.over)]
    at_own = {label_of(one.values): one.metrics[sweep.metric] for one in first if one.settings[LR] == search.own}
    at_best: dict[str, float] = {}
    for one in first:
        label = label_of(one.values)
        at_best[label] = max(at_best.get(label, -math.inf), one.metrics[sweep.metric])
    if len(at_own) < 2 or at_own.keys() != at_best.keys():
        return
    tell, name = describe(sweep.metric).tell, sweep.swept_name
    fixed, own = (max(found, key=lambda label: found[label]) for found in (at_own, at_best))
    lost = max(at_best, key=lambda label: at_best[label] - at_own[label])
    after = f"{search.own:g}; after {counted(search.short, 'epoch')}, on validation rows"
    if at_best[lost] == at_own[lost]:
        yield f"One rate for all ({after}) would have cost no {name} anything."
        return
    yield (
        f"At one rate for all ({after}) {name} {fixed} would have come first with {tell(at_own[fixed])}; with its own "
        f"rate each, {name} {own} does with {tell(at_best[own])}. The one rate costs {name} {lost} the most: "
        f"{tell(at_own[lost])} in place of {tell(at_best[lost])}."
    )


def rate_frame(sweep: SweepRecord) -> pd.DataFrame:
    """A row for each trial."""
    trials = [] if sweep.rates is None else sweep.rates.trials
    rows = [
        (
            title_of(one.values),
            one.seed,
            *([] if sweep.folds is None else [one.fold]),
            one.settings[LR],
            one.settings[EPOCHS],
            one.metrics.get(sweep.metric),
            one.state,
        )
        for one in trials
    ]
    columns = [sweep.swept_name, "seed", *([] if sweep.folds is None else ["fold"])]
    columns += ["learning rate", "epochs", f"{sweep.metric} of validation rows", "state"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def rate_plate(sweep: SweepRecord) -> Iterator[Plate]:
    """Rates and values of the first round, as a map."""
    first = _first_round(sweep)
    if sweep.rates is None or not first:
        return
    rates = sorted({one.settings[LR] for one in first})
    labels = list(dict.fromkeys(label_of(one.values) for one in in_order(sweep, first)))
    chosen = [(f"{choice.rate:g}", label_of(choice.values)) for choice in sweep.rates.choices if not choice.fold]
    drawn = heat_map(
        {(f"{one.settings[LR]:g}", label_of(one.values)): one.metrics[sweep.metric] for one in first},
        x_label="learning rate",
        y_label=sweep.swept_name,
        x_ticks=[f"{rate:g}" for rate in rates],
        y_ticks=labels,
        metric=sweep.metric,
        marked=[one for one in chosen if one[0] in {f"{rate:g}" for rate in rates} and one[1] in labels],
    )
    epochs, which = counted(sweep.rates.short, "epoch"), "" if sweep.folds is None else " of the first fold"
    caption = (
        f"{sweep.metric} of the validation rows{which} after a whole schedule of {epochs}, one seed; outlined: the "
        "rates that the cells took, after the better two were tried for longer. Empty: not tried, or it did not train."
    )
    yield Plate("rates", f"Learning rates, after {epochs}", "rates", caption, drawn)


OfValues = TypeVar("OfValues", Choice, CellRecord)


def in_order(sweep: SweepRecord, found: Iterable[OfValues]) -> list[OfValues]:
    """By the place of their values on the axis, what is no value of the sweep last; fold by fold."""
    return sorted(found, key=lambda one: (sweep.places.get(key_of(one.values), math.inf), one.fold or 0))


def _whose(choice: Choice) -> str:
    return title_of(choice.values) + ("" if choice.fold is None else f" in fold {choice.fold + 1}")


def _first_round(sweep: SweepRecord) -> list[CellRecord]:
    """Trials of the first round that trained; of folds those of the first."""
    if (search := sweep.rates) is None:
        return []
    short = [one for one in search.trials if one.settings.get(EPOCHS) == search.short and not one.fold]
    return [one for one in short if sweep.metric in one.metrics]
