"""The page of a sweep: the answer, what it costs, what the adapters say, the health of the space, forgetting."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from vectoruniverse.report.ledger import ledger_chapter
from vectoruniverse.report.page import Chapter, write_page
from vectoruniverse.report.sweep import words
from vectoruniverse.report.sweep.plates import sweep_plates
from vectoruniverse.report.sweep.rates import rate_words
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.report.sweep.tables import (
    beside_table,
    cell_table,
    cost_table,
    csv_frames,
    health_table,
    value_table,
)
from vectoruniverse.report.tables import rivals_table


def write_sweep_page(sweep: SweepRecord, folder: Path, *, page: Path | None = None) -> Path:
    """Write the page, ``figures/`` (PNG and SVG) and ``tables/`` (CSV).

    Args:
        sweep: what sweep.json holds.
        folder: of the sweep: paths of its runs start here, and figures and tables go here.
        page: the page; None: ``report.html`` in the folder. Elsewhere, figures and tables go beside it, into a folder
            of its name.

    Returns:
        The page.

    Raises:
        ConfigError: something cannot be written.
        ResourceError: the disk is full.
    """
    written, beside = (folder / "report.html", folder) if page is None else (page, page.with_suffix(""))
    answer, said = words.answer(sweep), words.verdicts(sweep, folder)
    plates = list(sweep_plates(sweep, title=answer.headline if sweep.compared else ""))
    write_page(
        written,
        title=sweep.name,
        answer=answer,
        comparison=value_table(sweep),
        verdict=words.health(sweep, said),
        plates=plates,
        chapters=_chapters(sweep, said),
        facts=words.facts(sweep),
        listings=_listings(sweep),
        warnings=list(words.warnings(sweep)),
        beside=beside,
        frames=csv_frames(sweep),
    )
    return written


def _chapters(sweep: SweepRecord, said: list[list[str]]) -> list[Chapter]:
    """All below the answer; ``said`` is the verdict on the space of each finished cell."""
    rivals = sweep.rivals
    return [
        Chapter(
            "rivals",
            "Is the training worth it?",
            said=[words.worth(sweep)] if rivals else [],
            tables=[rivals_table(rivals.rivals)] if rivals else [],
        ),
        Chapter(
            "beside",
            "Full fine-tuning, and ranks by layer",
            tables=[beside_table(sweep)],
            said=list(words.comparisons(sweep)),
        ),
        Chapter("rates", "A learning rate for each", said=list(rate_words(sweep))),
        Chapter("cost", "What it costs", tables=[cost_table(sweep)]),
        Chapter("curves", "While training"),
        Chapter("adapters", "What the adapters say: was one large run enough?", said=list(words.adapter_words(sweep))),
        Chapter("health", "Health of the space", tables=[health_table(sweep, said)]),
        ledger_chapter(sweep.forgetting, words.adapter_of_ledger(sweep)),
        Chapter("cells", "Cells", tables=[cell_table(sweep)]),
    ]


def _listings(sweep: SweepRecord) -> dict[str, str]:
    listings = {"Settings of all cells": json.dumps(sweep.config, indent=2, ensure_ascii=False)}
    if sweep.pattern is not None:
        ranks = {"adapter": {"rank": sweep.pattern.rank, "rank_pattern": sweep.pattern.rank_pattern}}
        listings["Ranks by layer that the largest adapter recommends"] = yaml.safe_dump(ranks, sort_keys=False)
    return listings
