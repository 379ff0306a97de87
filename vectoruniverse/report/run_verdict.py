"""The verdict on a run, from what was evaluated and what its folder tells."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.learning import Sign, learning_signs, sign_lines
from vectoruniverse.report.verdict import Outcome, Verdict, answer, kept_words, rivals_words, verdict, with_kept
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.records import EvaluationRecord
from vectoruniverse.tracking.jsonl import read_metrics

if TYPE_CHECKING:
    from vectoruniverse.evaluation.comparison import Comparison


def verdict_of(run: Run, comparison: Comparison, *, monitor: str, has_space: bool) -> Verdict:
    """What a run's numbers say in words, for its page and for the terminal alike.

    Args:
        run: the run; its evaluation.json tells which epoch is kept, its metrics.jsonl how the space fared.
        comparison: base and adapted model on the same rows.
        monitor: the metric that picked the best checkpoint.
        has_space: whether the task has an embedding space to speak of.
    """
    return _verdict(run, comparison, comparison.base.metrics, comparison.adapted.metrics, monitor, has_space)


def recorded_verdict(run: Run) -> Verdict | None:
    """The same of what evaluation.json holds; None where it is not there, or damaged."""
    record = run.read_evaluation()
    if record is None or not record.base.keys() & record.adapted.keys() & {record.monitor}:
        return None
    return _verdict(run, record, record.base, record.adapted, record.monitor, record.has_space)


def _verdict(
    run: Run,
    found_on: Comparison | EvaluationRecord,
    base: Mapping[str, float],
    adapted: Mapping[str, float],
    monitor: str,
    has_space: bool,
) -> Verdict:
    held_out, history = found_on.evaluated_on == "held-out", _history(run)
    found = answer(monitor, base, adapted, found_on.intervals, held_out=held_out)
    health = verdict(base, adapted, history) if has_space else ()
    found = replace(found, detail=" ".join(filter(None, (found.detail, selection_words(run, found_on, monitor)))))
    kept = filter(None, (kept_words(*kept_epochs(run)), blend_words(run.read_evaluation())))
    told = with_kept(found, ". ".join(kept) or None)
    worth = found_on.rivals and rivals_words(found_on.rivals, monitor)
    signs = signs_of(run, monitor=monitor, outcome=found.outcome if held_out else None)
    told = replace(told, detail=f"{told.detail} {worth}") if worth else told
    return Verdict(told, health, sign_lines(signs))


def blend_words(record: EvaluationRecord | None) -> str | None:
    """Which scale of the adapter is kept, and who chose it; None where it is kept as it was trained."""
    if record is None or record.blend is None:
        return None
    blend = record.blend
    rows = "these very rows" if blend.split == record.split else f"{blend.split} rows"
    if blend.scale == 0.0:
        return f"No scale of the adapter was better than none on {rows}: the base is kept"
    optimistic = ", which makes its numbers slightly optimistic" if blend.split == record.split else ""
    return f"Kept is the adapter at scale {blend.scale:g}, chosen on {rows}{optimistic}"


def signs_of(run: Run, *, monitor: str, outcome: Outcome | None = None) -> list[Sign]:
    """The signs that a run did not learn; ``outcome`` is what became of it on held-out rows, None if it was stopped."""
    return learning_signs(_history(run), config=shlex.quote(str(run.config_file)), monitor=monitor, outcome=outcome)


def _history(run: Run) -> list[Mapping[str, float | int | str]]:
    return list(read_metrics(run.metrics_file)) if run.metrics_file.is_file() else []


def selection_words(run: Run, comparison: Comparison | EvaluationRecord, monitor: str) -> str:
    """What the rows that picked the epoch said, and that they are optimistic; empty where nothing was picked on any."""
    record = run.read_evaluation()
    if record is None or comparison.evaluated_on != "held-out" or not record.picked:
        return ""
    if record.selection is None:
        return "These rows also picked the epoch, so this is optimistic: no test rows are reported."
    if comparison.split != "test":
        return "These rows picked the epoch, so this is optimistic; vu eval evaluates the test rows."
    base, adapted = record.selection.base.get(monitor), record.selection.adapted.get(monitor)
    if base is None or adapted is None:
        return ""
    tell = describe(monitor).tell
    return f"On the validation rows, which picked the epoch, it went from {tell(base)} to {tell(adapted)}: optimistic."


def kept_epochs(run: Run) -> tuple[int | None, int | None]:
    """Epoch of the kept checkpoint and the epoch that reached the most; None where evaluation.json does not tell."""
    record = run.read_evaluation()
    return (None, None) if record is None else (record.kept, record.best_epoch)
