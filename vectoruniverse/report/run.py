"""What a run says of itself to people: its verdict, its table, its figures, and what its task adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.report.figures.album import Plate, comparison_figures, history_figures, space_figures
from vectoruniverse.report.figures.gallery import Gallery, TakePictures, choose_retrievals
from vectoruniverse.report.figures.space import Embedded
from vectoruniverse.report.labels import label_plates, labels_chapter
from vectoruniverse.report.page import OF_A_RUN, Chapter
from vectoruniverse.report.tables import Table, comparison_table, rivals_said, rivals_table
from vectoruniverse.runs.folder import Run
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


def _embedded(found: Evaluation) -> Embedded:
    return Embedded(found.vectors["image"].double().numpy(), found.vectors["text"].double().numpy())
