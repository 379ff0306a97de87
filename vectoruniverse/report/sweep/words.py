"""What a sweep's record says in sentences: the answer, what went wrong, adapters, health, what was forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vectoruniverse.metrics.answers import interval_text
from vectoruniverse.metrics.intervals import Interval
from vectoruniverse.report.figures.adapter import energy_held, padded
from vectoruniverse.report.figures.space import directions_for
from vectoruniverse.report.sweep.parts import AdapterRecord, NotComparable
from vectoruniverse.report.sweep.plates import updates
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.values import label_of, title_of
from vectoruniverse.report.verdict import LEARNED, Answer, Outcome, rivals_words, verdict
from vectoruniverse.terminal import counted
from vectoruniverse.tracking.jsonl import read_metrics

TOLD = 10
"""At most so many failed or unhealthy cells are named before the table of all cells."""

ALPHA = {
    "fixed": "{} at every rank, so that the scale alpha / rank falls as the rank grows",
    "proportional": "{} · rank, so that the update's scale is the same at every rank",
    "rank-stabilized": "{} at every rank, with the scale alpha / √rank",
}


def answer(sweep: SweepRecord) -> Answer:
    """The record's sentences: the first, up to its numbers, as the headline, and the rest below it."""
    if (found := sweep.compared) is None:
        all_failed = bool(sweep.cells) and all(cell in sweep.failed for cell in sweep.cells)
        reason = "every cell failed" if all_failed else "no cell is done yet"
        if isinstance(sweep.statistics, NotComparable):
            reason = sweep.statistics.reason
        return Answer("unclear", "No answer", f"{reason}.")
    first, stop, rest = found.answer.partition(". ")
    headline, _, numbers = first.partition(": ")
    headline, detail = headline[:1].upper() + headline[1:], f"{numbers}{stop if numbers else ''}{rest}"
    if sweep.evaluated_on != "held-out":
        return Answer("unclear", f"Training rows: {headline}", f"{detail} {LEARNED}")
    gain = next((one.gain for one in found.values if one.values == found.best), Interval(0.0, 0.0, 0.0))
    outcome: Outcome = "better" if gain.low > 0 else "worse" if gain.high < 0 else "unclear"
    return Answer(outcome, headline, detail)


def comparisons(sweep: SweepRecord) -> Iterator[str]:
    """Full fine-tuning beside the best value, ranks by layer beside the uniform rank that costs as much."""
    for one in sweep.comparisons:
        low, high = one.difference.low, one.difference.high
        found = "credibly better" if low > 0 else "credibly worse" if high < 0 else "no credible difference"
        by_layer = "adapter.rank_pattern" in one.values
        what = "Ranks by layer, at the cost of" if by_layer else "Full fine-tuning, beside"
        seeds = f"seed{'s' * (len(one.seeds) > 1)} {', '.join(map(str, one.seeds))}"
        yield (
            f"{what} {title_of(one.reference)}: {sweep.metric} {interval_text(one.mean)}, "
            f"{one.difference.estimate:+.3f} [{low:+.3f}, {high:+.3f}], {found} ({seeds})."
        )


def worth(sweep: SweepRecord) -> str:
    """Whether the best value beats the best of the rivals that cost nothing; empty where that was not compared."""
    if sweep.rivals is None or sweep.compared is None:
        return ""
    said = rivals_words(sweep.rivals.rivals, sweep.metric)
    return (
        f"{title_of(sweep.compared.best)} with seed {sweep.rivals.seed}: {said[:1].lower()}{said[1:]}" if said else ""
    )


def warnings(sweep: SweepRecord) -> Iterator[str]:
    """What a reader must know before believing the page."""
    cells = [*sweep.cells, *sweep.beside]
    done = sum(cell.state == "finished" for cell in cells)
    if done < len(cells):
        which = f"{done} of {counted(len(cells), 'cell')} {'is' if done == 1 else 'are'} done"
        how = {"failed": "failed", "stopped": "has ended"}.get(sweep.state, f"is {sweep.state}")
        yield f"{which} (the sweep {how}); everything below is of those."
    bad = sweep.failed
    for cell in bad[:TOLD]:
        yield f"{cell.title} {cell.state}: {cell.message or 'no reason is known'}"
    if len(bad) > TOLD:
        yield f"{counted(len(bad) - TOLD, 'more cell')} failed; see the table of cells."


def adapter_words(sweep: SweepRecord) -> Iterator[str]:
    """Whether one large run was enough, and how many directions the update needs."""
    if not sweep.adapters:
        return
    yield _whether_enough(sweep)
    unmoved = [str(one.seed) for one in sweep.adapters if not any(x.effective_rank > 0 for x in one.layers.values())]
    if unmoved:
        yield (
            f"With seed {', '.join(unmoved)} no epoch beat the base: that adapter of rank {sweep.adapters[0].rank} is "
            "the untrained one, and nothing below is about it."
        )
    for tower, by_path in updates(sweep).items():
        layers = [layer for found in by_path.values() for layer in found]
        held = energy_held(padded([np.array(layer.singular_values) for layer in layers]))
        most, nearly_all = (directions_for(np.diff(held, prepend=0.0), part) for part in (0.9, 0.99))
        used = float(np.mean([layer.effective_rank for layer in layers]))
        yield (
            f"{tower.capitalize()} tower: 90 % of the update's energy lies in the first {most} of {len(held)} "
            f"directions, 99 % in {nearly_all}; effective rank {used:.1f} (mean of the layers)."
        )


def _whether_enough(sweep: SweepRecord) -> str:
    """Whether one large run was enough, which only a sweep that found something can tell."""
    found, rank = sweep.compared, sweep.adapters[0].rank
    if found is not None and any(one.gain.low > 0 for one in found.values):
        return enough(sweep.adapters)
    why = "cells are not compared" if found is None else "no rank tried is credibly better than the base"
    return f"Whether one run at rank {rank} would have been enough cannot be told: {why}."


def enough(adapters: Sequence[AdapterRecord]) -> str:
    """Whether adapters of the largest rank, a seed each, do as well when cut as those trained at lower ranks."""
    largest = adapters[0].rank
    gaps: dict[int, list[Interval]] = {}
    for cut in (cut for adapter in adapters for cut in adapter.truncated):
        if cut.rank < largest and cut.minus_trained is not None:
            gaps.setdefault(cut.rank, []).append(cut.minus_trained)
    if not gaps:
        return f"No adapter of a lower rank was trained beside the one of rank {largest}."
    worse = [rank for rank, found in gaps.items() if any(gap.high < 0 for gap in found)]
    each, some = ("", "") if len(adapters) == 1 else (" with any seed", ", at least with one seed")
    good = sorted(rank for rank in gaps if rank > max(worse, default=0))
    if not good:
        return (
            f"One run at rank {largest} would not have been enough: cut to rank {max(gaps)}, the adapter is credibly "
            f"worse than one trained at that rank{some}."
        )
    if worse:
        said = (
            f"One run at rank {largest} would have been enough down to rank {good[0]}: cut to it, the adapter is not "
            f"credibly worse than one trained at that rank{each}. Cut to rank {max(worse)}, it is{some}."
        )
    else:
        said = (
            f"One run at rank {largest} would have been enough: cut to any lower rank tried, the adapter is not "
            f"credibly worse than one trained at that rank{each}."
        )
    better = [str(rank) for rank in good if all(gap.low > 0 for gap in gaps[rank])]
    return f"{said} At rank {', '.join(better)} the cut one is even credibly better{each}." if better else said


def verdicts(sweep: SweepRecord, folder: Path) -> list[list[str]]:
    """What ``report.verdict.verdict`` says of each finished cell, with its run's metrics.jsonl where it is there.

    Runs' paths start from ``folder``, the sweep's. Nothing is said of a cell whose task has no space to evaluate.
    """
    found = []
    for cell in sweep.finished:
        file = folder / (cell.path or "") / "metrics.jsonl"
        history = list(read_metrics(file)) if cell.path and file.is_file() else []
        found.append(verdict(sweep.base_metrics, cell.metrics, history) if cell.has_space else [])
    return found


def health(sweep: SweepRecord, said: Sequence[Sequence[str]]) -> list[str]:
    """The cells that are not healthy, then how many are."""
    evaluated = [(cell, sentences) for cell, sentences in zip(sweep.finished, said, strict=True) if sentences]
    well = [cell for cell, sentences in evaluated if sentences[0].startswith("healthy")]
    ill = [f"{cell.title}: {'; '.join(sentences)}" for cell, sentences in evaluated if cell not in well]
    more = len(ill) - TOLD
    are = "is" if more == 1 else "are"
    lines = ill[:TOLD] + ([f"{counted(more, 'more cell')} {are} not healthy"] if more > 0 else [])
    if well:
        ranks, base = [cell.metrics["effective_rank"] for cell in well], sweep.base_metrics.get("effective_rank")
        beside = "" if base is None else f" (base {base:.1f})"
        every = "the only cell" if len(well) == 1 else f"all {len(well)} cells"
        which = f"{len(well)} of {len(evaluated)} cells" if ill else every
        lines.append(f"healthy in {which}: effective rank {min(ranks):.1f} to {max(ranks):.1f}{beside}")
    return lines


def adapter_of_ledger(sweep: SweepRecord) -> str:
    """Whose adapter the forgetting ledger is of."""
    ledger = sweep.forgetting
    if ledger is None:
        return ""
    whose = f" of {title_of(ledger.values)}" if ledger.values else ""
    return f"the adapter{whose} (seed {ledger.seed})"


def facts(sweep: SweepRecord) -> dict[str, str]:
    """What was run, by name."""
    found = {
        "experiment": sweep.experiment,
        "swept": "; ".join(f"{key}: {', '.join(label_of({key: v}) for v in vs)}" for key, vs in sweep.over.items()),
        "seeds": ", ".join(map(str, sweep.seeds)),
        **({} if sweep.folds is None else {"folds": f"{sweep.folds}, each the test part once"}),
        "alpha": alpha_words(sweep.alpha),
        "data": sweep.data.root
        + (f", {sweep.data.rows:,} {sweep.rows_are} rows" if sweep.data.rows is not None else ""),
        "fingerprint": sweep.data.fingerprint[:16] if sweep.data.fingerprint else "differs from cell to cell",
    }
    if not sweep.over:
        del found["swept"]
    if (timing := sweep.timing) is not None:
        found["last call"] = (
            f"{counted(timing.cells, 'cell')} in {timing.seconds:.0f} s, "
            f"{timing.outside_steps:.1%} of them outside training steps"
        )
    return found


def alpha_words(policy: str | None) -> str:
    """How alpha follows the rank."""
    name, _, number = (policy or "").partition(":")
    return ALPHA[name].format(number) if name in ALPHA else "as the experiment has it"
