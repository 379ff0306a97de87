"""What the finished runs of a sweep say: the facts of each cell, and all of them compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vectoruniverse.adapters.peft_config import read_peft_config
from vectoruniverse.adapters.peft_format import CONFIG_FILE
from vectoruniverse.config.sections import AdapterSettings
from vectoruniverse.metrics.answers import answer, interval_text
from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.metrics.sweeps import SweepSummary, differences, smallest_not_worse, summarise_sweep
from vectoruniverse.report.sweep.parts import (
    Base,
    Beside,
    BestRivals,
    CellRecord,
    NotComparable,
    Pattern,
    Statistics,
    Value,
)
from vectoruniverse.report.sweep.values import Values, key_of, places_of, title_of
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.records import EvaluationRecord
from vectoruniverse.sweep.pooling import Finished, comparable, mean_metrics, pool
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tracking.jsonl import read_metrics

POOLED = " Each row was tested once, in {} folds, among the rows of its own fold."


def finished_facts(run: Run, metric: str) -> dict[str, Any]:
    """What a finished run adds to its ``CellRecord``."""
    experiment, evaluation, state = load_config_of(run), evaluation_of(run), run.read_state()
    rank, alpha, stabilized = _lora_of(run, experiment.adapter)
    root = math.sqrt(rank) if rank and stabilized else rank
    same = evaluation.model_dump(include={"data", "intervals", "trained_parameters", "best_epoch", "has_space"})
    return {
        **same,
        **state.model_dump(include={"seconds", "step_seconds", "peak_memory_bytes"}),
        "metrics": evaluation.adapted,
        "val": None if evaluation.selection is None else evaluation.selection.adapted.get(metric),
        "rank": rank,
        "alpha": alpha,
        "scale": alpha / root if alpha and root else None,
        "epoch": evaluation.kept,
        "epochs": experiment.train.epochs,
        "effective_rank": evaluation.adapted.get("effective_rank"),
        "adapter": evaluation.adapter,
        "spectrum": rounded(evaluation.spectra["adapted"]["both"]),
        "curve": [
            {"epoch": line["epoch"], "step": line["step"], "value": line[f"val/{metric}"]}
            for line in read_metrics(run.metrics_file)
            if f"val/{metric}" in line and "epoch" in line
        ],
    }


def _lora_of(run: Run, config: AdapterSettings) -> tuple[int | None, float | None, bool]:
    """Rank, alpha, and whether the rank's root divides it: of the saved adapter where ``init_from`` brought them."""
    if not config.has_rank:
        return None, None, False
    if config.init_from is None:
        return config.rank, config.alpha or float(config.rank), config.rank_stabilized
    saved = [read_peft_config(file) for file in sorted(run.adapter.rglob(CONFIG_FILE))]
    highest = max(saved, key=lambda one: one.r)
    return highest.r, float(highest.lora_alpha), highest.use_rslora


def evaluation_of(run: Run) -> EvaluationRecord:
    """The evaluation of a finished run."""
    return read_record(run.evaluation_file, EvaluationRecord, inside=run.path)


def base_of(evaluations: Sequence[EvaluationRecord]) -> Base:
    """The base, as finished runs tell it, of each fold one; spectra are of the first."""
    spectra = {name: rounded(values) for name, values in evaluations[0].spectra["base"].items()}
    metrics = mean_metrics([(one.base, one.rows) for one in evaluations])
    return Base(metrics=metrics if len(evaluations) > 1 else evaluations[0].base, spectra=spectra)


def statistics(
    finished: Finished, metric: str, *, one_base: bool, folds: int | None = None
) -> Statistics | NotComparable | None:
    """Compare the finished cells by a metric.

    Args:
        finished: cells with their runs.
        metric: such as ``recall@5``.
        one_base: whether all start from one model and the same rows.
        folds: over how many a value is pooled; None: cells are of no fold, or all of the same one.
    """
    if not finished:
        return None
    if not one_base or not comparable(cell for cell, _ in finished):
        return NotComparable(reason="cells differ in model or data, so each is compared with its own base only")
    places, ordered = places_of(cell.values for cell, _ in finished)
    found = {(places[key], seed): one for (key, seed), one in pool(finished, metric, folds).items()}
    if not found:
        return NotComparable(reason=f"no value has been tested in all {folds} folds yet")
    # the seed makes the base where it is trained from scratch
    base = np.mean([one.base for one in found.values()], axis=0)
    drawn = next(iter(found.values())).drawn
    # of folds, the validation rows of one are test rows of others
    on_val = {} if folds else _on_validation({(places[key_of(c.values)], c.seed): c.val for c, _ in finished})
    picked = max(sorted(on_val), key=lambda place: on_val[place], default=None)
    try:
        cells = {key: one.adapted for key, one in found.items()}
        summary = summarise_sweep(cells, base, seed=0, groups=drawn, share=_is_share(metric), best=picked)
    except ValueError as error:
        return NotComparable(reason=str(error))
    values = {places[key_of(cell.values)]: cell.values for cell, _ in finished}
    smallest = smallest_not_worse(summary) if ordered else None
    return Statistics(
        metric=metric,
        level=summary.level,
        queries=summary.queries,
        groups=summary.groups,
        seeds=list(summary.seeds),
        left_out=[(values[place], seed) for place, seed in summary.left_out],
        base=summary.base,
        ordered=ordered,
        chosen_on=None if picked is None else "val",
        values=_values(summary, values, [cell for cell, _ in finished], on_val),
        best=values[summary.best.value],
        smallest_not_worse=None if smallest is None else values[smallest.value],
        answer=_answer(summary, values, metric, ordered) + (POOLED.format(folds) if folds else ""),
    )


def compare_beside(
    statistics: Statistics | NotComparable | None,
    finished: Finished,
    beside: Finished,
    pattern: Pattern | None,
    folds: int | None = None,
) -> Iterator[Beside]:
    """Full fine-tuning beside the best value; ranks by layer, of one fold, beside the uniform rank of the same cost."""
    if not isinstance(statistics, Statistics):
        return
    kinds = {key_of(cell.values): cell.values for cell, _ in beside}
    for key, values in kinds.items():
        by_layer = pattern is not None and "adapter.rank_pattern" in values
        mine = [(cell, run) for cell, run in beside if key_of(cell.values) == key]
        if by_layer and pattern is not None:
            same = [(cell, run) for cell, run in finished if cell.fold == mine[0][0].fold]
            found = _compare_with({"adapter.rank": pattern.rank}, same, mine, statistics.metric, None)
        else:
            found = _compare_with(statistics.best, finished, mine, statistics.metric, folds)
        yield from [] if found is None else [found]


def rivals_of_best(found: Statistics | NotComparable | None, finished: Finished) -> BestRivals | None:
    """What the run of the best value with the first seed tells of its rivals."""
    if not isinstance(found, Statistics) or any(cell.fold is not None for cell, _ in finished):
        return None
    for cell, run in finished:
        if (cell.values, cell.seed) == (found.best, found.seeds[0]) and (
            rivals := evaluation_of(run).rivals
        ) is not None:
            return BestRivals(run=run.name, seed=cell.seed, rivals=rivals)
    return None


def _compare_with(
    reference: Values, finished: Finished, mine: Finished, metric: str, folds: int | None
) -> Beside | None:
    """One model beside a value, over the seeds that it and all values have; None where there are none yet."""
    places, _ = places_of(cell.values for cell, _ in finished)
    own = max(places.values()) + 1
    found = {(places[key], seed): one for (key, seed), one in pool(finished, metric, folds).items()}
    alone = {(own, seed): one for (_, seed), one in pool(mine, metric, folds).items()}
    cells = {key: one.adapted for key, one in (found | alone).items()}
    if not alone or (at := places[key_of(reference)]) not in {place for place, _ in found}:
        return None
    first = next(iter(alone.values()))
    try:
        (gap,) = differences(cells, at, seed=0, groups=first.drawn, of=[own]).values()
        summary = summarise_sweep(cells, first.base, seed=0, groups=first.drawn, share=_is_share(metric))
    except ValueError:  # no seed in common yet
        return None
    return Beside(
        values=dict(mine[0][0].values),
        reference=dict(reference),
        seeds=list(summary.seeds),
        mean=summary.values[-1].mean,
        difference=gap,
        val=None if folds else _mean([cell.val for cell, _ in mine if cell.seed in summary.seeds]),
    )


def _on_validation(cells: Mapping[tuple[float, int], float | None]) -> dict[float, float]:
    """Mean of each value over the seeds that all values have; empty where the validation rows are the reported ones."""
    values, seeds = {value for value, _ in cells}, {seed for _, seed in cells}
    shared = [seed for seed in seeds if all((value, seed) in cells for value in values)]
    told = {value: [cells[value, seed] for seed in shared] for value in values}
    if not shared or any(one is None for every in told.values() for one in every):
        return {}
    return {value: float(np.mean([one for one in every if one is not None])) for value, every in told.items()}


def _is_share(metric: str) -> bool:
    return describe(metric).unit == "share"


def _values(
    summary: SweepSummary,
    values: Mapping[float, Values],
    cells: Sequence[CellRecord],
    on_val: Mapping[float, float],
) -> list[Value]:
    found = []
    for one in summary.values:
        mine = [cell for cell in cells if cell.values == values[one.value]]
        found.append(
            Value(
                values=dict(values[one.value]),
                mean=one.mean,
                gain=one.gain,
                shortfall=one.shortfall,
                seed_spread=one.seed_spread,
                val=on_val.get(one.value),
                trained_parameters=mine[0].trained_parameters,
                seconds=_mean([cell.seconds for cell in mine]),
                peak_memory_bytes=_mean([cell.peak_memory_bytes for cell in mine]),
            )
        )
    return found


def _mean(facts: Sequence[float | None]) -> float | None:
    known = [fact for fact in facts if fact is not None]
    return sum(known) / len(known) if known else None


def _answer(summary: SweepSummary, values: Mapping[float, Values], metric: str, ordered: bool) -> str:
    best = summary.best
    if not values[best.value]:
        better = "credibly better" if best.gain.low > 0 else "credibly worse" if best.gain.high < 0 else "not clear"
        gain = f"a gain of {interval_text(best.gain)}"
        return (
            f"{better.capitalize()}: {metric} {interval_text(best.mean)}, base {interval_text(summary.base)}, {gain}."
        )
    if ordered:
        (key,) = values[best.value]
        return answer(summary, name=key.rpartition(".")[2], metric=metric)
    first = "comes first" if summary.chosen is None else "comes first on the validation rows, and here stands"
    said = (
        f"{title_of(values[best.value])} {first} with {metric} {interval_text(best.mean)} against the base's "
        f"{interval_text(summary.base)}."
    )
    equals = [title_of(values[one.value]) for one in summary.values if one is not best and one.shortfall.low == 0]
    also = f" Not credibly worse: {'; '.join(equals)}." if equals else " All others are credibly worse."
    return said + (also if len(summary.values) > 1 else "")


def rounded(values: Sequence[float]) -> list[float]:
    """Six digits of each."""
    return [float(f"{value:.6g}") for value in values]
