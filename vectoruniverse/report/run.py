"""What a run says of itself to people: its verdict, its table, its figures, and what its task adds."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.catalogue import describe
from vectoruniverse.report.figures.album import Plate, comparison_figures, history_figures, space_figures
from vectoruniverse.report.figures.gallery import Gallery, TakePictures, choose_retrievals
from vectoruniverse.report.figures.space import Embedded
from vectoruniverse.report.labels import label_plates, labels_chapter
from vectoruniverse.report.learning import Sign, learning_signs, sign_lines
from vectoruniverse.report.page import OF_A_RUN, Chapter
from vectoruniverse.report.tables import Table, comparison_table, rivals_said, rivals_table
from vectoruniverse.report.verdict import Outcome, Verdict, answer, kept_words, rivals_words, verdict, with_kept
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.records import EvaluationRecord
from vectoruniverse.tracking.contract import Direction
from vectoruniverse.tracking.jsonl import read_metrics


@dataclass(frozen=True, slots=True)
class Rows:
    """The evaluated rows as a reader sees them: their texts, and their pictures by position."""

    titles: Sequence[str]
    pictures: TakePictures


@dataclass(frozen=True, slots=True)
class Findings:
    """What a task adds to the report of its runs: figures, best and worst retrievals, tables beside the settings."""

    plates: Sequence[Plate] = ()
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()


def retrieval_findings(comparison: Comparison, items: PairItems, rows: Rows) -> Findings:
    """Of pictures and texts: the space before and after, and the best and worst retrievals of both directions.

    Args:
        comparison: base and adapted model.
        items: which rows hold the same picture or text.
        rows: the evaluated rows.
    """
    base, adapted = _embedded(comparison.base), _embedded(comparison.adapted)
    directions: tuple[Direction, ...] = ("image_to_text", "text_to_image")
    galleries = [
        choose_retrievals(
            adapted, items, comparison.adapted.ranks[direction], rows.titles, rows.pictures, direction=direction
        )
        for direction in directions
    ]
    return Findings(list(space_figures(base, adapted, items)), galleries)


def compared(comparison: Comparison, title: str = "") -> Table:
    """Every metric of base and adapted model."""
    return comparison_table(comparison.base.metrics, comparison.adapted.metrics, comparison.intervals, title)


def selection_table(run: Run) -> Table | None:
    """Every metric on the rows that picked the kept checkpoint; None where those are the reported ones."""
    record = run.read_evaluation()
    if record is None or record.selection is None:
        return None
    chosen_on = record.selection
    why = "Chosen on: they picked the epoch, so these numbers are optimistic" if record.picked else "Nothing was chosen"
    title = f"{chosen_on.rows} validation rows. {why}"
    return comparison_table(chosen_on.base, chosen_on.adapted, chosen_on.intervals, title)


def page_chapters(run: Run, comparison: Comparison) -> tuple[Chapter, ...]:
    """Parts of a run's page: its rivals that cost nothing and its labels, where there are any, then those of every run.

    What the rows reached that picked the epoch stands with the curves, which are of those rows.
    """
    chosen_on = selection_table(run)
    curves, *others = OF_A_RUN
    chapters = (replace(curves, tables=[chosen_on] if chosen_on else []), *others)
    if (labels := comparison.labels) is not None:
        chapters = (labels_chapter(labels), *chapters)
    if (rivals := comparison.rivals) is None:
        return chapters
    told = rivals_said(rivals, comparison.split)
    return (Chapter("rivals", "Is the training worth it?", told, [rivals_table(rivals)]), *chapters)


def run_plates(run: Run, comparison: Comparison, *, monitor: str, has_space: bool) -> Iterator[Plate]:
    """The figures of every run: before and after, and what was logged while it ran."""
    yield from comparison_figures(comparison.base.metrics, comparison.adapted.metrics, comparison.intervals)
    yield from label_plates(comparison.labels)
    rows = "validation rows" if comparison.split == "test" else comparison.rows_are
    figures = history_figures(list(read_metrics(run.metrics_file)), monitor, rows=rows)
    yield from (plate for plate in figures if has_space or plate.section != "health")


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


def _embedded(found: Evaluation) -> Embedded:
    return Embedded(found.vectors["image"].double().numpy(), found.vectors["text"].double().numpy())
