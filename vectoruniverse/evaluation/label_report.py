"""How well models predict the labels of the same rows: each label, all together, and which is said in place of which.

Only known labels count in means: those that more than one training or validation row has. Of a label that no evaluated
row has there is nothing to find, so that average precision and F1 leave it out; saying it wrongly counts in micro F1.

Shapes: N rows that have a label, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.evaluation.comparison import MIN_UNITS, Values, compare_rows
from vectoruniverse.evaluation.label_rules import Predicted
from vectoruniverse.metrics.classification import reliability
from vectoruniverse.metrics.intervals import Interval, mean_interval
from vectoruniverse.metrics.multilabel import Bools, Floats, average_precision_rows, calibration_rows, f1_rows
from vectoruniverse.runs.label_records import (
    KNOWN,
    Bins,
    Confused,
    LabelInput,
    LabelOutcome,
    LabelsFile,
    LabelsRecord,
    Mistaken,
    Told,
)

Models = Mapping[str, Mapping[LabelInput, Predicted]]
"""Model → input → what it says."""

MOST_MISTAKEN = 10
"""Pairs of labels that are told."""

MOST_CONFUSED = 12
"""Labels that are told with all of their pairs."""


OVERALL = ("map", "macro_f1")
"""What becomes a metric of the models, under ``labels/``."""


@dataclass(frozen=True, slots=True)
class LabelReport:
    """How well models predict labels.

    Attributes:
        record: everything there is to say.
        values: ``base`` and ``adapted`` → ``labels/map`` and ``labels/macro_f1`` by the fullest input, as values of all
            evaluated rows (N,), NaN of those without a label.
    """

    record: LabelsRecord
    values: Mapping[str, Values]


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The evaluated rows.

    Attributes:
        names: labels (C,).
        truth: which row has which, (N, C).
        groups: (N,) rows of one number count as one draw; None: each is its own.
    """

    names: Sequence[str]
    truth: Bools
    groups: NDArray[np.int64] | None


def label_report(file: LabelsFile, models: Models, rows: LabelledRows, *, in_sample: bool) -> LabelReport | None:
    """What each model reaches, and how far ``adapted`` stands ahead of the others by the same input.

    Args:
        file: what is known of the labels.
        models: ``base`` and ``adapted``, and whatever stands beside them.
        rows: evaluated rows; those without a label count nowhere.
        in_sample: whether these rows chose the thresholds.

    Returns:
        None where no evaluated row has a known label.
    """
    having, count = np.flatnonzero(rows.truth.any(axis=1)), len(rows.truth)
    rows = LabelledRows(rows.names, rows.truth[having], None if rows.groups is None else rows.groups[having])
    known = np.array([file.status(i) in KNOWN for i in file.places(rows.names)], dtype=np.bool_)
    if not rows.truth[:, known].any():
        return None
    models = {name: {by: one.select(having) for by, one in told.items()} for name, told in models.items()}
    outcomes, reached, ahead = _outcomes(file, rows), {}, {}
    for by in models["adapted"]:
        told = _beside(models, by)
        _tell_each(outcomes, by, told, rows)
        values = {name: _in_all(one, rows.truth, known) for name, one in told.items()}
        reached[by], ahead[by] = _compare(values, rows.groups)
    leading: LabelInput = by
    pairs = _Pairs.of(told["adapted"].said, rows.truth, np.flatnonzero(known))
    record = LabelsRecord(
        rows=len(having),
        in_sample=in_sample,
        by=leading,
        labels=outcomes,
        reached=reached,
        ahead=ahead,
        mistaken=list(_mistaken(pairs, rows)),
        confused=_confused(pairs, rows),
        reliability={name: _bins(told[name].probabilities, rows.truth, known) for name in ("base", "adapted")},
    )
    return LabelReport(record, {name: _spread(values[name], having, count) for name in ("base", "adapted")})


def _spread(values: Values, having: NDArray[np.int64], count: int) -> dict[str, Floats]:
    """Metrics of the models, as values of all rows."""
    found = {f"labels/{metric}": np.full(count, np.nan) for metric in OVERALL}
    for metric in OVERALL:
        found[f"labels/{metric}"][having] = values[metric]
    return found


def _beside(models: Models, by: LabelInput) -> dict[str, Predicted]:
    """What stands beside the adapted model by an input; beside its fusion what is told without one."""
    told = {name: said[by] for name, said in models.items() if by in said}
    if by != "fused":
        return told
    return {"base": models["base"]["both"], "unfused": models["adapted"]["both"], **told}


def _outcomes(file: LabelsFile, rows: LabelledRows) -> dict[str, LabelOutcome]:
    """Each label, before anything is known of how it fared."""
    return {
        name: LabelOutcome(
            status=file.status(place),
            training=0 if place < 0 else file.training[place],
            validation=0 if place < 0 else file.validation[place],
            rows=int(rows.truth[:, column].sum()),
        )
        for column, (name, place) in enumerate(zip(rows.names, file.places(rows.names), strict=True))
    }


def _tell_each(
    outcomes: Mapping[str, LabelOutcome], by: LabelInput, models: Mapping[str, Predicted], rows: LabelledRows
) -> None:
    """Of each label how base and adapted model find it; F1 of known labels only, which have a threshold."""
    for column, outcome in enumerate(outcomes.values()):
        outcome.thresholds[by] = float(models["adapted"].thresholds[column])
        if not outcome.rows:
            continue
        metrics = ("ap", "f1") if outcome.status in KNOWN else ("ap",)
        values = {name: _of_label(models[name], rows.truth, column, metrics) for name in ("base", "adapted")}
        paired = compare_rows(values, "base", groups=rows.groups)
        outcome.by[by] = {name: _told(values[name], paired.reached[name]) for name in values}
        outcome.by[by]["change"] = _gaps(paired.differences["adapted"])


def _of_label(found: Predicted, truth: Bools, column: int, metrics: Sequence[str] = ("ap", "f1")) -> dict[str, Floats]:
    """Values of rows (N,) of one label that some row has."""
    right, shares = truth[:, column], found.probabilities[:, column]
    values = {"ap": lambda: average_precision_rows(right, shares), "f1": lambda: f1_rows(right, found.said[:, column])}
    return {metric: values[metric]() for metric in metrics}


def _compare(
    values: Mapping[str, Values], groups: NDArray[np.int64] | None
) -> tuple[dict[str, dict[str, Told]], dict[str, dict[str, Told]]]:
    """What each model reaches in all labels, and by how much the adapted one stands ahead of the others."""
    paired = compare_rows(values, "adapted", groups=groups, ahead=True)
    reached = {name: _told(one, paired.reached[name]) for name, one in values.items()}
    return reached, {name: _gaps(found) for name, found in paired.differences.items()}


def _in_all(found: Predicted, truth: Bools, known: Bools) -> dict[str, Floats]:
    """Values of rows (N,) of what is told of all labels."""
    had = np.flatnonzero(known & truth.any(axis=0))
    sums = {"ap": np.zeros(len(truth)), "f1": np.zeros(len(truth))}
    for column in had.tolist():
        for metric, values in _of_label(found, truth, column).items():
            sums[metric] += values / len(had)
    return {
        "map": sums["ap"],
        "macro_f1": sums["f1"],
        "micro_f1": f1_rows(truth[:, known], found.said[:, known]),
        "calibration_error": calibration_rows(truth[:, known], found.probabilities[:, known]),
    }


def _told(values: Mapping[str, Floats], intervals: Mapping[str, Interval]) -> dict[str, Told]:
    """Numbers between 0 and 1 with their intervals, where there are any."""
    return {
        metric: _within(intervals[metric]) if metric in intervals else [float(rows.mean())]
        for metric, rows in values.items()
    }


def _gaps(intervals: Mapping[str, Interval]) -> dict[str, Told]:
    """Differences of numbers between 0 and 1."""
    return {metric: _within(gap, -1.0) for metric, gap in intervals.items()}


def _within(found: Interval, least: float = 0.0) -> Told:
    """An interval of a share, or of a difference of two; a linearised one may reach beyond what they can be."""
    return [found.estimate, max(found.low, least), min(found.high, 1.0)]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which known label was said in place of which.

    Attributes:
        columns: of the K known labels (K,).
        missed, wrong: labels that a row has and was not said to have, and the reverse, both (N, K).
        order: pairs of places among the known labels, the most frequent first; those that never occur are left out.
    """

    columns: NDArray[np.int64]
    missed: Bools
    wrong: Bools
    order: list[tuple[int, int]]

    @classmethod
    def of(cls, said: Bools, truth: Bools, columns: NDArray[np.int64]) -> _Pairs:
        """Of labels that are said and had, both (N, C)."""
        missed, wrong = (truth & ~said)[:, columns], (said & ~truth)[:, columns]
        counts = missed.T.astype(np.float32) @ wrong.astype(np.float32)
        order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
        return cls(columns, missed, wrong, [divmod(int(place), len(columns)) for place in order])


def _mistaken(pairs: _Pairs, rows: LabelledRows) -> Iterator[Mistaken]:
    """The most frequent pairs, with their shares of the rows that have the first label."""
    for a, b in pairs.order[:MOST_MISTAKEN]:
        label, said = pairs.columns[[a, b]]
        had = rows.truth[:, label]
        groups = None if rows.groups is None else rows.groups[had]
        both = (pairs.missed[had, a] & pairs.wrong[had, b]).astype(np.float64)
        enough = (len(both) if groups is None else len(np.unique(groups))) >= MIN_UNITS
        share = list(mean_interval(both, groups, share=True)) if enough else [float(both.mean())]
        yield Mistaken(label=rows.names[label], said=rows.names[said], rows=int(both.sum()), share=share)


def _confused(pairs: _Pairs, rows: LabelledRows) -> Confused | None:
    """All pairs of the labels of the most frequent ones."""
    if not pairs.order:
        return None
    some = list(dict.fromkeys(chain.from_iterable(pairs.order)))[:MOST_CONFUSED]
    columns = pairs.columns[some]
    missed, wrong, had = pairs.missed[:, some], pairs.wrong[:, some], rows.truth[:, columns]
    counts = missed.T.astype(np.int64) @ wrong + np.diag((had & ~missed).sum(axis=0))
    return Confused(
        labels=[rows.names[column] for column in columns], rows=had.sum(axis=0).tolist(), said=counts.tolist()
    )


def _bins(probabilities: Floats, truth: Bools, known: Bools) -> Bins:
    """Pairs of row and known label by probability."""

    def numbers(values: Floats) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    found = reliability(probabilities[:, known].ravel(), truth[:, known].ravel())
    return Bins(counts=found.count.tolist(), confidence=numbers(found.confidence), accuracy=numbers(found.accuracy))
