"""What a sweep leaves behind: sweep.json, the whole of it, and sweep.csv, a line for each cell.

sweep.json, all of it JSON values (an *interval* is ``[estimate, low, high]``; ``null`` is what is not known yet):

- ``version`` 1; ``name``; ``state``: running, interrupted, failed (some cells did) or finished; ``experiment``: its
  name; ``config``: all settings without any swept value; ``over``: swept key → values of the cells; ``seeds``;
  ``alpha``: how alpha follows the rank (``fixed:16``, ``proportional:1``, ``rank-stabilized:16``); ``metric``: the one
  that cells are compared by.
- ``data``: ``root``, ``fingerprint`` (null where cells differ in it), ``rows`` judged, and what they are: ``judged`` is
  ``held-out``, or ``training`` where a cell learned from those that it is judged on.
- ``base``: ``metrics`` and ``spectra`` (image, text, both: shares of the eigenvalues, descending) of the model before
  training.
- ``cells``: for each ``values`` (swept key → value), ``seed``, ``name``, ``state`` (pending, running, finished, failed,
  stopped, interrupted), ``message``, ``run``, ``path`` (of the run, from the sweep folder). Finished ones also have
  ``data``, ``metrics``, ``intervals`` (metric → base, adapted, difference), ``trained_parameters``, ``rank``,
  ``alpha``, ``scale``, ``best_epoch``, ``epoch`` (of the kept weights), ``epochs``, ``judges_space`` (whether the task
  has a space to judge), ``seconds`` (of the whole cell) and ``step_seconds`` (of its training
  steps), both of all its processes, ``peak_memory_bytes``, ``effective_rank`` (of the
  embeddings), ``adapter`` (tower → ``adapters.svd.TowerSpectrum``; null without LoRA), ``spectrum`` (of both towers'
  embeddings) and ``curve`` (a list of ``epoch``, ``step``, ``value`` of the metric).
- ``statistics``: null before the first cell is done; with ``reason`` alone where cells cannot be compared; else
  ``metric``, ``level``, ``queries``, ``groups`` (how many are drawn; fewer than queries where some are drawn
  together), ``seeds`` (those that every value has), ``left_out`` ([values, seed]), ``base`` (interval), ``ordered``
  (whether values are numbers of one key), ``values`` (for each: ``values``, ``mean``, ``gain``
  over the base and ``shortfall`` behind the best, intervals on the same queries, ``seed_spread``,
  ``trained_parameters``, ``seconds``, ``peak_memory_bytes``), ``best`` and ``smallest_not_worse`` (values), ``answer``.
- ``adapters``: for each seed what ``analysis.analyse_adapter`` tells of the largest rank; empty for other sweeps.
- ``forgetting``: what ``forgetting.forgetting_curve`` tells of the chosen cell, with ``values``, ``seed``, ``run``.
- ``timing``: of the last call that trained: ``cells``, ``seconds``, ``step_seconds``, ``evaluation_seconds`` (between
  steps), ``analysis_seconds`` and ``outside_steps``, the share of the time that was not spent in training steps.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vectoruniverse.adapters.peft_config import read_peft_config
from vectoruniverse.adapters.peft_format import CONFIG_FILE
from vectoruniverse.config.sections import AdapterSettings
from vectoruniverse.data.audit.findings import spreadsheet_cell
from vectoruniverse.metrics.answers import answer
from vectoruniverse.metrics.bootstrap import Interval
from vectoruniverse.metrics.sweeps import SweepSummary, ValueSummary, smallest_not_worse, summarise_sweep
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.outcomes import Outcomes, outcomes
from vectoruniverse.runs.records import EvaluationRecord
from vectoruniverse.sweep.grid import describe
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tracking.jsonl import read_metrics

Entry = dict[str, Any]


def finished_facts(run: Run, metric: str) -> Entry:
    """What a finished run adds to its cell's entry."""
    experiment, evaluation, state = load_experiment(run.config_file), _evaluation(run), run.read_state()
    rank, alpha, stabilized = _lora_of(run, experiment.adapter)
    root = math.sqrt(rank) if rank and stabilized else rank
    return {
        "data": evaluation.data,
        "metrics": evaluation.adapted,
        "intervals": evaluation.intervals,
        "trained_parameters": evaluation.trained_parameters,
        "rank": rank,
        "alpha": alpha,
        "scale": alpha / root if alpha and root else None,
        "best_epoch": evaluation.best_epoch,
        "epoch": evaluation.kept,
        "judges_space": evaluation.judges_space,
        "epochs": experiment.train.epochs,
        "seconds": state.seconds,
        "step_seconds": state.step_seconds,
        "peak_memory_bytes": state.peak_memory_bytes,
        "effective_rank": evaluation.adapted.get("effective_rank"),
        "adapter": evaluation.adapter,
        "spectrum": _rounded(evaluation.spectra["adapted"]["both"]),
        "curve": [
            {"epoch": line["epoch"], "step": line["step"], "value": line[f"val/{metric}"]}
            for line in read_metrics(run.metrics_file)
            if f"val/{metric}" in line and "epoch" in line
        ],
    }


def _lora_of(run: Run, config: AdapterSettings) -> tuple[int | None, float | None, bool]:
    """Rank, alpha, and whether the rank's root divides it: of the saved adapter where ``init_from`` brought them."""
    if config.method != "lora":
        return None, None, False
    if config.init_from is None:
        return config.rank, config.alpha or float(config.rank), config.rank_stabilized
    saved = [read_peft_config(file) for file in sorted(run.adapter.rglob(CONFIG_FILE))]
    highest = max(saved, key=lambda one: one.r)
    return highest.r, float(highest.lora_alpha), highest.use_rslora


def base_facts(run: Run) -> Entry:
    """Metrics and spectra of the base, as any finished run tells them."""
    record = _evaluation(run)
    return {
        "metrics": record.base,
        "spectra": {name: _rounded(values) for name, values in record.spectra["base"].items()},
        "rows": record.rows,
        "judged": record.judged,
    }


def _evaluation(run: Run) -> EvaluationRecord:
    return read_record(run.evaluation_file, EvaluationRecord, inside=run.path)


def statistics(finished: Sequence[tuple[Entry, Run]], metric: str, *, one_base: bool) -> Entry | None:
    """Compare the finished cells.

    Args:
        finished: entries of finished cells with their runs.
        metric: to compare by.
        one_base: whether all cells start from one model and the same rows.
    """
    if not finished:
        return None
    if not one_base or len({entry["data"] for entry, _ in finished}) > 1:
        return {"reason": "cells differ in model or data, so each is compared with its own base only"}
    found = {_cell_key(entry): outcomes(run, metric) for entry, run in finished}
    places, ordered = _places(finished)
    cells = {(places[values], seed): one.adapted for (values, seed), one in found.items()}
    try:
        summary = summarise_sweep(cells, _base(found), seed=0, groups=next(iter(found.values())).drawn)
    except ValueError as error:
        return {"reason": str(error)}
    return _told(summary, {place: json.loads(values) for values, place in places.items()}, finished, metric, ordered)


def sweep_csv(record: Mapping[str, Any]) -> str:
    """One line for each cell, as a table whose cells a spreadsheet takes for text or numbers."""
    entries, metric = record["cells"], record["metric"]
    metrics = sorted({name for entry in entries for name in entry.get("metrics", {})})
    facts = ("rank", "alpha", "scale", "trained_parameters", "best_epoch", "seconds", "step_seconds")
    keys = list(record["over"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    bounds = (f"{metric} low", f"{metric} high", f"{metric} gain", f"{metric} gain low", f"{metric} gain high")
    head = [*keys, "seed", "state", "run", *facts, "peak_memory_bytes", *metrics, *bounds, "message"]
    writer.writerow(map(_csv_cell, head))
    for entry in entries:
        interval = entry.get("intervals", {}).get(metric, {})
        row = [
            *(entry["values"].get(key) for key in keys),
            *(entry.get(name) for name in ("seed", "state", "run", *facts, "peak_memory_bytes")),
            *(entry.get("metrics", {}).get(name) for name in metrics),
            *interval.get("adapted", [None] * 2),
            *interval.get("difference", [None] * 3),
            entry.get("message"),
        ]
        writer.writerow(map(_csv_cell, row))
    return out.getvalue()


def _cell_key(entry: Entry) -> tuple[str, int]:
    return json.dumps(entry["values"]), entry["seed"]


def _places(finished: Sequence[tuple[Entry, Run]]) -> tuple[dict[str, float], bool]:
    """A number for each combination of values: the value itself where one key is swept over numbers."""
    combinations = list(dict.fromkeys(json.dumps(entry["values"]) for entry, _ in finished))
    single = [next(iter(json.loads(c).values())) for c in combinations if len(json.loads(c)) == 1]
    numbers = [value for value in single if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(combinations):
        return {c: float(number) for c, number in zip(combinations, numbers, strict=True)}, True
    return {c: float(i) for i, c in enumerate(combinations)}, False


def _base(found: Mapping[tuple[str, int], Outcomes]) -> np.ndarray:
    """The base's outcomes; the mean where the seed makes the base, as it does from scratch."""
    mean: np.ndarray = np.mean([one.base for one in found.values()], axis=0)
    return mean


def _told(
    summary: SweepSummary,
    values: Mapping[float, Mapping[str, Any]],
    finished: Sequence[tuple[Entry, Run]],
    metric: str,
    ordered: bool,
) -> Entry:
    smallest = smallest_not_worse(summary) if ordered else None
    return {
        "metric": metric,
        "level": summary.level,
        "queries": summary.queries,
        "groups": summary.groups,
        "seeds": list(summary.seeds),
        "left_out": [[values[value], seed] for value, seed in summary.left_out],
        "base": _interval(summary.base),
        "ordered": ordered,
        "values": [_value_entry(one, values[one.value], finished) for one in summary.values],
        "best": values[summary.best.value],
        "smallest_not_worse": None if smallest is None else values[smallest.value],
        "answer": answer(summary, name=_key_name(values), metric=metric)
        if ordered
        else _unordered_answer(summary, values, metric),
    }


def _value_entry(one: ValueSummary, values: Mapping[str, Any], finished: Sequence[tuple[Entry, Run]]) -> Entry:
    mine = [entry for entry, _ in finished if entry["values"] == values]

    def mean(fact: str) -> float | None:
        known = [entry[fact] for entry in mine if entry[fact] is not None]
        return sum(known) / len(known) if known else None

    return {
        "values": values,
        "mean": _interval(one.mean),
        "gain": _interval(one.gain),
        "shortfall": _interval(one.shortfall),
        "seed_spread": one.seed_spread,
        "trained_parameters": mine[0]["trained_parameters"],
        "seconds": mean("seconds"),
        "peak_memory_bytes": mean("peak_memory_bytes"),
    }


def _key_name(values: Mapping[float, Mapping[str, Any]]) -> str:
    return next(iter(next(iter(values.values())))).rpartition(".")[2]


def _unordered_answer(summary: SweepSummary, values: Mapping[float, Mapping[str, Any]], metric: str) -> str:
    """The best of several combinations that have no order among them."""
    best = summary.best
    said = (
        f"{describe(values[best.value])} comes first with {metric} {_shown(best.mean)} against the base's "
        f"{_shown(summary.base)}."
    )
    equals = [describe(values[one.value]) for one in summary.values if one is not best and one.shortfall.low == 0]
    also = f" Not credibly worse: {'; '.join(equals)}." if equals else " All others are credibly worse."
    return said + (also if len(summary.values) > 1 else "")


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:z.3f} [{interval.low:z.3f}, {interval.high:z.3f}]"


def _interval(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _csv_cell(value: object) -> str:
    """Numbers as they are; whatever a spreadsheet would take for a formula with an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return spreadsheet_cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
