"""Runs beside each other, as plain values: what they were told to do, what each reached, how they got there.

Everything comes from the run folders; no model and no data is loaded. Two runs are compared row by row only where they
were evaluated on the same rows of the same data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vectoruniverse.config.loading import NOT_IN_FINGERPRINT
from vectoruniverse.config.strict_yaml import MAX_BYTES, parse
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.evaluation.comparison import compare_rows
from vectoruniverse.runs.base_record import BaseRecord, recorded_base
from vectoruniverse.runs.files import read_bytes, read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import find_run
from vectoruniverse.runs.outcomes import PER_QUERY_FILE, Outcomes, outcomes
from vectoruniverse.runs.records import EvaluationRecord
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.tracking.series import Record, grouped, series

MOST_RUNS = 26
"""As many as there are letters."""

FACTS = {
    "best_epoch": "best_epoch",
    "epoch": "kept",
    "rows": "rows",
    "split": "split",
    "evaluated_on": "evaluated_on",
    "data": "data",
    "drawn_by": "intervals_drawn_by",
    "trained_parameters": "trained_parameters",
}
"""What is told of a run → field of its evaluation; None where the run has not come so far."""

LOSS_POINTS = 200
"""A longer loss curve is given as means of so many groups of steps."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A run with what its folder tells."""

    run: Run
    config: Mapping[str, Any]
    evaluation: EvaluationRecord | None
    base: BaseRecord | None


def compare_runs(references: Sequence[str], *, runs_dir: Path) -> dict[str, Any]:
    """Put runs side by side; the first is the one that differences are taken from.

    Args:
        references: as ``vectoruniverse.runs.listing.find_run`` takes them, at least two.
        runs_dir: where names are looked up.

    Returns:
        JSON values: ``runs`` (``name``, ``state``, ``best_epoch``, ``epoch`` (of the kept weights), ``rows``,
        ``split``, ``evaluated_on``, ``data``, ``trained_parameters``, ``seconds``, ``peak_memory_bytes``, ``since``
        (what has changed since the run before it, in words), in the order given); ``monitor``; ``config``: dotted key
        → run → value, of settings that the result depends on, where they differ, and of the base by its files or its
        commit; ``metrics``: metric → run → [value, low, high], the last two null without an interval; ``bases``:
        ``runs`` that set out from a base and its ``metrics``, metric → [value, low, high]; ``differences``: run →
        metric → [estimate, low, high] of its rows minus the first run's, where the intervals of all runs in a metric
        hold at once; ``no_differences``: run → why there are none; ``validation`` and ``loss``: run → list of [epoch,
        monitored metric] and of [step, loss].

    Raises:
        ConfigError: fewer than two runs, too many, one twice, or one that cannot be read.
    """
    if not 2 <= len(references) <= MOST_RUNS:
        raise ConfigError(f"give 2 to {MOST_RUNS} runs, not {len(references)}", remedy="vu runs lists them")
    runs = [find_run(runs_dir, reference) for reference in references]
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is given twice", remedy="name each run once; vu runs lists them")
    told = [_Told(run, _config(run), _evaluation(run), _base(run)) for run in runs]
    monitor = next((one.evaluation.monitor for one in told if one.evaluation), "recall@5")
    differences, why = _differences(told)
    histories = {one.run.name: _history(one.run) for one in told}
    return {
        "runs": [_facts(one) for one in told],
        "monitor": monitor,
        "config": _config_differences(told),
        "metrics": _metrics(told),
        "bases": _bases(told),
        "differences": differences,
        "no_differences": why,
        "validation": {name: _by_epoch(history, f"val/{monitor}") for name, history in histories.items()},
        "loss": {name: _by_step(history, "train/loss") for name, history in histories.items()},
    }


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; lists and empty sections are values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _config(run: Run) -> dict[str, Any]:
    try:
        text = read_bytes(run.config_file, limit=MAX_BYTES, inside=run.path).decode("utf-8")
    except (DataError, UnicodeDecodeError) as error:
        raise ConfigError("cannot be read", file=run.config_file, remedy="give a run that vu train made") from error
    value = parse(text, str(run.config_file)).value
    found = flatten(value) if isinstance(value, dict) else {}
    if found.get("adapter.method") == "lora" and found.get("adapter.alpha") is None and "adapter.rank" in found:
        found["adapter.alpha"] = float(found["adapter.rank"])  # what null stands for
    return found


def _evaluation(run: Run) -> EvaluationRecord | None:
    """None where the run has not come so far."""
    if not run.evaluation_file.exists():
        return None
    remedy = "leave that run out, or train it again"
    try:
        return read_record(run.evaluation_file, EvaluationRecord, inside=run.path, remedy=remedy)
    except DataError as error:
        raise ConfigError(error.message, file=error.file, key=error.key, remedy=remedy) from error


def _base(run: Run) -> BaseRecord | None:
    """None where the run does not say what it was trained on."""
    try:
        return recorded_base(run.path)
    except DataError as error:
        raise ConfigError(error.message, file=error.file, key=error.key, remedy="leave that run out") from error


def _facts(one: _Told) -> dict[str, Any]:
    state, evaluation = one.run.read_state(), one.evaluation
    return {
        "name": one.run.name,
        "state": state.state or "unknown",
        **{name: getattr(evaluation, field, None) for name, field in FACTS.items()},
        "seconds": state.seconds,
        "peak_memory_bytes": state.peak_memory_bytes,
        "since": None if one.base is None else one.base.since,
    }


def _config_differences(told: Sequence[_Told]) -> dict[str, dict[str, Any]]:
    keys = dict.fromkeys(key for one in told for key in one.config if not _is_noise(key))
    absent = object()
    found = {
        key: {one.run.name: one.config[key] for one in told if key in one.config}
        for key in keys
        if any(one.config.get(key, absent) != told[0].config.get(key, absent) for one in told)
    }
    bases = {one.run.name: one.base for one in told if one.base is not None and (one.base.commit or one.base.files)}
    if len(bases) < len(told):
        return found
    first, *others = bases.values()
    differ = [first.difference(base) for base in others]
    found = {key: values for key, values in found.items() if key not in ("model", "revision")}  # names of the base
    words = [f"{first.model}", *(f"{b.model}" + (f": {d}" if d else "") for b, d in zip(others, differ, strict=True))]
    return found | ({"model": dict(zip(bases, words, strict=True))} if any(differ) else {})


def _is_noise(key: str) -> bool:
    """Whether a setting says nothing of the result, as the run's name and where it is logged."""
    left_out = (*NOT_IN_FINGERPRINT, "eval.report")
    return any(key == noise or key.startswith(f"{noise}.") for noise in left_out)


def _bases(told: Sequence[_Told]) -> list[dict[str, Any]]:
    """What the runs set out from: one for all where they were evaluated on the same rows and reached the same."""
    found: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for one in told:
        if (evaluation := one.evaluation) is None:
            continue
        rows, metrics = (evaluation.data, evaluation.split), _with_bounds(evaluation, "base")
        same = next((base for seen, base in found if seen == rows and base["metrics"] == metrics), None)
        if same is not None:
            same["runs"].append(one.run.name)
        elif metrics:
            found.append((rows, {"runs": [one.run.name], "metrics": metrics}))
    return [base for _, base in found]


def _with_bounds(evaluation: EvaluationRecord, model: Literal["base", "adapted"]) -> dict[str, list[float | None]]:
    """Metrics of one of the two models as [value, low, high]."""

    def bounds(name: str) -> Sequence[float | None]:
        known = evaluation.intervals.get(name, {}).get(model, [])
        return known if len(known) == 2 else (None, None)

    return {name: [value, *bounds(name)] for name, value in getattr(evaluation, model).items()}


def _metrics(told: Sequence[_Told]) -> dict[str, dict[str, list[float | None]]]:
    reached = {one.run.name: _with_bounds(one.evaluation, "adapted") for one in told if one.evaluation}
    names = dict.fromkeys(name for metrics in reached.values() for name in metrics)
    return {name: {run: metrics[name] for run, metrics in reached.items() if name in metrics} for name in names}


def _differences(told: Sequence[_Told]) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Paired differences of the other runs from the first in all metrics that both have single rows of, or why not."""
    first, why = told[0].run.name, dict[str, str]()
    rows: dict[str, dict[str, Outcomes]] = {}
    for one in told:
        found = _rows(told[0], one, rows.get(first))
        if isinstance(found, str):
            why[one.run.name] = found
        else:
            rows[one.run.name] = found
    if first in why:
        return {}, {one.run.name: why.get(one.run.name, why[first]) for one in told[1:]}
    values = {name: {metric: row.adapted for metric, row in found.items()} for name, found in rows.items()}
    drawn = next((row.drawn for row in rows[first].values()), None)
    paired = compare_rows(values, first, groups=drawn).differences
    gaps = {name: {metric: list(gap) for metric, gap in found.items()} for name, found in paired.items()}
    why |= {name: "no metric has single rows in both" for name, found in gaps.items() if not found}
    return {name: found for name, found in gaps.items() if found}, why


def _rows(first: _Told, one: _Told, own: Mapping[str, Outcomes] | None) -> dict[str, Outcomes] | str:
    """Single rows of a run by metric, of the metrics that the first run has, too; or why they say nothing beside it.

    Args:
        first: the run that others are held against.
        one: the run, which may be the first.
        own: the first run's single rows; None while they are not read.
    """
    a, b = first.evaluation, one.evaluation
    if a is None or b is None:
        return f"{(first if a is None else one).run.name} has not been evaluated yet"
    if (a.data, a.split) != (b.data, b.split):
        return "evaluated on other data than the first run, so the numbers do not say which is better"
    try:
        found = {metric: outcomes(one.run, metric) for metric in a.intervals if metric in b.intervals}
    except DataError:
        return f"{PER_QUERY_FILE}, which holds the single rows, is missing or damaged"
    for metric, rows in found.items():
        beside = rows if own is None else own[metric]
        if rows.adapted.shape != beside.adapted.shape or rows.drawn.shape != rows.adapted.shape:
            return f"the {PER_QUERY_FILE} of the two do not hold the same rows"
    return found


def _history(run: Run) -> list[Record]:
    return list(read_metrics(run.metrics_file)) if run.metrics_file.is_file() else []


def _by_epoch(history: Sequence[Record], key: str) -> list[list[float]]:
    ends = [record for record in history if key in record and isinstance(record.get("epoch"), int)]
    _, values = series(ends, key)
    return _points([float(record["epoch"]) for record in ends], values.tolist())


def _by_step(history: Sequence[Record], key: str) -> list[list[float]]:
    steps, values = series(history, key)
    if len(steps) > LOSS_POINTS:
        steps, values, _, _ = grouped(steps, values, LOSS_POINTS)
    return _points(steps.tolist(), values.tolist())


def _points(x: Sequence[float], y: Sequence[float]) -> list[list[float]]:
    return [[a, b] for a, b in zip(x, y, strict=True) if math.isfinite(b)]
