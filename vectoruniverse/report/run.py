"""What a run leaves for people to read: report.html with its figures, and the model card that is its README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vectoruniverse.data.pair_items import PairItems
from vectoruniverse.evaluation.comparison import Comparison
from vectoruniverse.evaluation.result import Evaluation
from vectoruniverse.metrics.catalogue import ARROWS_READ
from vectoruniverse.report.figures.album import Plate, comparison_figures, history_figures, space_figures
from vectoruniverse.report.figures.gallery import Gallery, TakePictures, choose_retrievals
from vectoruniverse.report.figures.space import Embedded
from vectoruniverse.report.figures.style import undrawn
from vectoruniverse.report.page import write_page
from vectoruniverse.report.tables import Table, comparison_table, grounds, model_card
from vectoruniverse.report.verdict import Verdict, answer, kept_words, verdict, with_kept
from vectoruniverse.runs.folder import Run
from vectoruniverse.tracking.contract import Direction
from vectoruniverse.tracking.jsonl import read_metrics


@dataclass(frozen=True, slots=True)
class Rows:
    """The judged rows as a reader sees them: their texts, and their pictures by position."""

    titles: Sequence[str]
    pictures: TakePictures


@dataclass(frozen=True, slots=True)
class Findings:
    """What a task adds to the report of its runs.

    Attributes:
        plates: figures.
        galleries: best and worst retrievals.
        tables: shown with the settings.
    """

    plates: Sequence[Plate] = ()
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()


def retrieval_findings(comparison: Comparison, items: PairItems, rows: Rows) -> Findings:
    """Of pictures and texts: the space before and after, and the best and worst retrievals of both directions.

    Args:
        comparison: base and adapted model.
        items: which rows hold the same picture or text.
        rows: the judged rows.
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


def write_report(
    run: Run,
    comparison: Comparison,
    findings: Findings,
    *,
    facts: Mapping[str, str],
    config: str,
    monitor: str,
    judges_space: bool,
    snippet: str,
) -> None:
    """Write ``report.html`` and ``figures/`` (PNG and SVG) into the run folder.

    Args:
        run: the run.
        comparison: base and adapted model on the judged rows.
        findings: what only the run's task has.
        facts: what was run, by name.
        config: the resolved experiment file.
        monitor: the metric that picked the best checkpoint.
        judges_space: whether the task has a space to judge.
        snippet: Python that loads the adapter.
    """
    history = list(read_metrics(run.metrics_file))
    said = verdict_of(run, comparison, monitor=monitor, judges_space=judges_space)
    plates = [*_plates(comparison, history, monitor, judges_space), *findings.plates]
    write_page(
        run.path / "report.html",
        title=run.name,
        answer=said.answer,
        comparison=compared(comparison, f"{comparison.rows_are.capitalize()}. {ARROWS_READ}"),
        verdict=said.health,
        plates=plates,
        galleries=findings.galleries,
        facts={name: said.replace("`", "") for name, said in facts.items()},  # Markdown's, for the card
        tables=findings.tables,
        warnings=[said for said in [undrawn()] if said],
        listings={"Experiment": config, "Load the adapter": snippet.strip()},
        beside=run.path,
    )


def compared(comparison: Comparison, title: str = "") -> Table:
    """Every metric of base and adapted model."""
    return comparison_table(comparison.base.metrics, comparison.adapted.metrics, comparison.intervals, title)


def verdict_of(run: Run, comparison: Comparison, *, monitor: str, judges_space: bool) -> Verdict:
    """What a run's numbers say in words, for its page and for the terminal alike.

    Args:
        run: the run; its evaluation.json tells which epoch is kept, its metrics.jsonl how the space fared.
        comparison: base and adapted model on the same rows.
        monitor: the metric that picked the best checkpoint.
        judges_space: whether the task has a space to judge.
    """
    base, adapted = comparison.base.metrics, comparison.adapted.metrics
    held_out = comparison.evaluated_on == "held-out"
    found = answer(monitor, base, adapted, comparison.intervals, held_out=held_out)
    health = verdict(base, adapted, list(read_metrics(run.metrics_file))) if judges_space else ()
    return Verdict(with_kept(found, kept_words(*kept_epochs(run))), health)


def kept_epochs(run: Run) -> tuple[int | None, int | None]:
    """Epoch of the kept checkpoint and the epoch that reached the most; None where evaluation.json does not tell."""
    record = run.read_evaluation()
    return (None, None) if record is None else (record.kept, record.best_epoch)


def write_card(
    run: Run, comparison: Comparison, *, facts: Mapping[str, str], snippet: str, tags: Sequence[str]
) -> None:
    """Write the model card, README.md of the run folder."""
    told = grounds(comparison.rows_are.capitalize(), comparison.drawn_by)
    card = model_card(name=run.name, facts=facts, grounds=told, table=compared(comparison), snippet=snippet, tags=tags)
    run.write_text("README.md", card)


def _plates(
    comparison: Comparison, history: Sequence[Mapping[str, float | int | str]], monitor: str, judges_space: bool
) -> Iterator[Plate]:
    yield from comparison_figures(comparison.base.metrics, comparison.adapted.metrics, comparison.intervals)
    figures = history_figures(history, monitor, rows=comparison.rows_are)
    yield from (plate for plate in figures if judges_space or plate.section != "health")


def _embedded(judged: Evaluation) -> Embedded:
    return Embedded(judged.vectors["image"].double().numpy(), judged.vectors["text"].double().numpy())
