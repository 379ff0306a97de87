"""What a sweep says of its learning rates: which each value took, and what one rate for all would have said."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.figures.album import Plate
from vectoruniverse.report.figures.heat import heat_map
from vectoruniverse.report.sweep.record import CellRecord, RateSearch, SweepRecord
from vectoruniverse.report.sweep.values import Values, label_of, title_of
from vectoruniverse.terminal import counted

LR, EPOCHS = "train.lr", "train.epochs"


def rate_words(sweep: SweepRecord) -> Iterator[str]:
    """Which rates validation rows chose, at what cost, and whether the answer needed them."""
    if (search := sweep.rates) is None or not search.choices:
        return
    by_size = sorted(search.choices, key=lambda choice: _by_size(choice.values))
    chosen = ", ".join(f"{choice.rate:g} for {title_of(choice.values)}" for choice in by_size)
    cost = "" if search.cost is None else f"; trials and cells of LoRA took {search.cost:.1f} times a sweep at one rate"
    rounds = f"{counted(search.short, 'epoch')}"
    rounds += f", the better two for {search.long}" if search.long > search.short else ""
    own = f"The experiment's own is {search.own:g}."
    yield f"Validation rows chose learning rates in trials of {rounds}{cost}: {chosen}. {own}"
    if edge := [title_of(choice.values) for choice in search.choices if choice.at_edge]:
        yield f"At an edge of the rates that were tried: {', '.join(edge)}. Name more with --lrs."
    yield from _one_rate_for_all(sweep, search)


def _one_rate_for_all(sweep: SweepRecord, search: RateSearch) -> Iterator[str]:
    """What the first round says at the experiment's own rate, beside each value at its own."""
    first = [trial for trial in _first_round(sweep) if list(trial.values) == list(sweep.over)]
    at_own = {label_of(one.values): one.metrics[sweep.metric] for one in first if one.settings[LR] == search.own}
    at_best: dict[str, float] = {}
    for one in first:
        label = label_of(one.values)
        at_best[label] = max(at_best.get(label, 0.0), one.metrics[sweep.metric])
    if len(at_own) < 2 or at_own.keys() != at_best.keys():
        return
    tell, name = describe(sweep.metric).tell, sweep.swept_name
    fixed, own = (max(found, key=lambda label: found[label]) for found in (at_own, at_best))
    lost = max(at_best, key=lambda label: at_best[label] - at_own[label])
    after = f"{search.own:g}; after {counted(search.short, 'epoch')}, on validation rows"
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
            one.settings[LR],
            one.settings[EPOCHS],
            one.metrics.get(sweep.metric),
            one.state,
        )
        for one in trials
    ]
    columns = [sweep.swept_name, "seed", "learning rate", "epochs", f"{sweep.metric} of validation rows", "state"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def rate_plate(sweep: SweepRecord) -> Iterator[Plate]:
    """Rates and values of the first round, as a map."""
    first = _first_round(sweep)
    if sweep.rates is None or not first:
        return
    rates = sorted({one.settings[LR] for one in first})
    labels = list(dict.fromkeys(label_of(one.values) for one in sorted(first, key=lambda one: _by_size(one.values))))
    chosen = [(f"{choice.rate:g}", label_of(choice.values)) for choice in sweep.rates.choices]
    drawn = heat_map(
        {(f"{one.settings[LR]:g}", label_of(one.values)): one.metrics[sweep.metric] for one in first},
        x_label="learning rate",
        y_label=sweep.swept_name,
        x_ticks=[f"{rate:g}" for rate in rates],
        y_ticks=labels,
        metric=sweep.metric,
        marked=[one for one in chosen if one[0] in {f"{rate:g}" for rate in rates} and one[1] in labels],
    )
    epochs = counted(sweep.rates.short, "epoch")
    caption = (
        f"{sweep.metric} of the validation rows after a whole schedule of {epochs}, one seed; outlined: the rates that "
        "the cells took, after the better two were tried for longer. Empty: not tried, or it did not train."
    )
    yield Plate("rates", f"Learning rates, after {epochs}", "rates", caption, drawn)


def _first_round(sweep: SweepRecord) -> list[CellRecord]:
    """Trials of the first round that trained."""
    search = sweep.rates
    return [
        one
        for one in ([] if search is None else search.trials)
        if search is not None and one.settings.get(EPOCHS) == search.short and sweep.metric in one.metrics
    ]


def _by_size(values: Values) -> tuple[bool, float]:
    """Numbers ascending, then names."""
    value = next(iter(values.values()))
    return isinstance(value, str), 0.0 if isinstance(value, str) else float(value)
