"""What a run leaves for people to read: report.html with its figures, and the model card that is its README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.comparison import Comparison, Judged, plain_intervals
from vectoruniverse.figures.album import Plate, comparison_figures, history_figures, space_figures
from vectoruniverse.figures.gallery import Direction, Gallery, TakePictures, choose_retrievals, gallery_figure
from vectoruniverse.figures.space import Embedded
from vectoruniverse.figures.style import save
from vectoruniverse.page import Table, write_page
from vectoruniverse.report import comparison_rows, model_card
from vectoruniverse.runs.folder import Run
from vectoruniverse.tracking.jsonl import read_metrics
from vectoruniverse.verdict import answer, verdict

COLUMNS = ("metric", "base", "adapted", "change [95 % interval]")


@dataclass(frozen=True, slots=True)
class Rows:
    """The judged rows as a reader sees them: their texts, and their pictures by position."""

    titles: Sequence[str]
    pictures: TakePictures


def write_report(
    run: Run, comparison: Comparison, rows: Rows, *, facts: Mapping[str, str], config: str, monitor: str, snippet: str
) -> list[Gallery]:
    """Write ``report.html`` and ``figures/`` (PNG and SVG) into the run folder.

    Args:
        run: the run.
        comparison: base and adapted model on the held-out rows.
        rows: the held-out rows.
        facts: what was run, by name.
        config: the resolved experiment file.
        monitor: the metric that picked the best checkpoint.
        snippet: Python that loads the adapter.

    Returns:
        The best and worst retrievals of both directions, for whoever shows them elsewhere.
    """
    history = list(read_metrics(run.metrics_file))
    base, adapted, bounds = comparison.base.metrics, comparison.adapted.metrics, plain_intervals(comparison)
    galleries = [_gallery(comparison, rows, "image_to_text"), _gallery(comparison, rows, "text_to_image")]
    plates = list(_plates(comparison, history, monitor))
    for plate in plates:
        save(plate.figure, run.path / "figures", plate.name)
    for gallery in galleries:
        save(gallery_figure(gallery), run.path / "figures", f"retrievals_{gallery.direction}")
    write_page(
        run.path / "report.html",
        title=run.name,
        answer=answer(monitor, base, adapted, bounds),
        comparison=Table("Held-out rows", COLUMNS, comparison_rows(base, adapted, bounds)),
        verdict=verdict(base, adapted, history),
        plates=plates,
        galleries=galleries,
        facts=facts,
        listings={"Experiment": config, "Load the adapter": snippet.strip()},
    )
    return galleries


def write_card(
    run: Run, comparison: Comparison, *, facts: Mapping[str, str], snippet: str, tags: Sequence[str]
) -> None:
    """Write the model card, README.md of the run folder."""
    base, adapted = comparison.base.metrics, comparison.adapted.metrics
    table = comparison_rows(base, adapted, plain_intervals(comparison))
    card = model_card(name=run.name, facts=facts, columns=COLUMNS, table=table, snippet=snippet, tags=tags)
    run.write_text("README.md", card)


def _plates(
    comparison: Comparison, history: Sequence[Mapping[str, float | int | str]], monitor: str
) -> Iterator[Plate]:
    yield from comparison_figures(comparison.base.metrics, comparison.adapted.metrics, plain_intervals(comparison))
    yield from history_figures(history, monitor)
    yield from space_figures(_embedded(comparison.base), _embedded(comparison.adapted), comparison.groups)


def _gallery(comparison: Comparison, rows: Rows, direction: Direction) -> Gallery:
    return choose_retrievals(
        _embedded(comparison.adapted),
        comparison.groups,
        comparison.adapted.evaluation.ranks[direction],
        rows.titles,
        rows.pictures,
        direction=direction,
    )


def _embedded(judged: Judged) -> Embedded:
    image: NDArray[np.float64] = judged.embeddings.image.double().numpy()
    return Embedded(image, judged.embeddings.text.double().numpy())
