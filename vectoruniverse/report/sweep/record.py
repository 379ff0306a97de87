"""What ``sweep.json`` holds: the record that a sweep writes and every reader of it takes.

A record written by an earlier version still opens: what it does not tell has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.report.sweep.parts import (
    REMEDY,
    AdapterRecord,
    Base,
    Beside,
    BestRivals,
    CellRecord,
    Data,
    NotComparable,
    Pattern,
    RateSearch,
    Statistics,
    Timing,
)
from vectoruniverse.report.sweep.values import places_of
from vectoruniverse.runs.files import read_record
from vectoruniverse.runs.records import ForgettingRecord, Part, PrecisionRecord

MAX_BYTES = 256 * 2**20
"""A larger file is no record of ours: ten thousand cells take about 100 MB."""


class SweepRecord(Part):
    """The whole of it.

    Attributes:
        state: running, interrupted, failed (some cells did), stopped (some diverged, all others are done) or finished.
        experiment: its name.
        config: all settings without any swept value.
        over: swept key → values of the cells.
        folds: into which the rows are divided, so that each is tested once; None without.
        alpha: how alpha follows the rank: ``fixed:16``, ``proportional:1``, ``rank-stabilized:16``.
        metric: that cells are compared by.
        base: None where every cell has a base of its own.
        beside: cells that are no value of the swept key: full fine-tuning, ranks by layer.
        statistics: None before the first cell is done.
        comparisons: of the cells beside.
        rivals: that cost nothing, beside the best value; None where nobody asked, or rows are in folds.
        rates: how each value came to its own learning rate; None where all have the experiment's.
        pattern: ranks by layer that the largest adapter recommends.
        adapters: one for each seed; empty where not the rank alone is swept.
        forgetting: of the smallest value that is not worse than the best.
        precision: what was measured to choose the format of all cells; None where the experiment names it.
        asked: fingerprint of all that was asked for; None where that cannot be told beforehand.
        aside: runs of the sweep as it was before it was begun again, which are none of its cells.
    """

    version: Literal[1] = 1
    name: str
    state: str
    experiment: str
    config: dict[str, Any]
    over: dict[str, list[Any]]
    seeds: list[int]
    folds: int | None = None
    alpha: str | None
    metric: str
    data: Data
    base: Base | None
    cells: list[CellRecord]
    beside: list[CellRecord] = Field([])
    statistics: Statistics | NotComparable | None
    comparisons: list[Beside] = Field([])
    rivals: BestRivals | None = None
    rates: RateSearch | None = None
    pattern: Pattern | None = None
    adapters: list[AdapterRecord]
    forgetting: ForgettingRecord | None
    timing: Timing | None
    precision: PrecisionRecord | None = None
    asked: str | None = None
    aside: list[str] = Field([])

    @property
    def compared(self) -> Statistics | None:
        """The statistics, where cells can be compared."""
        return self.statistics if isinstance(self.statistics, Statistics) else None

    @property
    def finished(self) -> list[CellRecord]:
        """Cells that are done."""
        return [cell for cell in self.cells if cell.state == "finished"]

    @property
    def failed(self) -> list[CellRecord]:
        """Cells that could not be trained, those beside the values last."""
        return [cell for cell in (*self.cells, *self.beside) if cell.state in ("failed", "stopped")]

    @property
    def has_space(self) -> bool:
        """Whether the task has a space to speak about."""
        return any(cell.has_space for cell in self.finished)

    @property
    def evaluated_on(self) -> str:
        """What the rows are to the cells: ``held-out``, or ``training``; earlier records are of the former."""
        return self.data.evaluated_on or "held-out"

    @property
    def rows_are(self) -> str:
        """What a person calls the rows."""
        return "test" if self.data.split == "test" else self.evaluated_on

    @property
    def base_metrics(self) -> Mapping[str, float]:
        """Metrics of the base; none where every cell has a base of its own."""
        return self.base.metrics if self.base else {}

    @property
    def swept_name(self) -> str:
        """Last words of the swept keys, such as ``rank``."""
        return ", ".join(key.rpartition(".")[2] for key in self.over) or "model"

    @property
    def places(self) -> dict[str, float]:
        """Where values stand on the axis of figures, by ``key_of``."""
        return places_of(cell.values for cell in self.cells)[0]


def read_sweep(file: Path) -> SweepRecord:
    """A sweep.json.

    Raises:
        ConfigError: it cannot be read, or is no sweep's record; the message names the first place that is not.
    """
    try:
        return read_record(file, SweepRecord, limit=MAX_BYTES, remedy=REMEDY)
    except DataError as error:
        raise ConfigError(error.message, file=file, key=error.key, remedy=REMEDY) from error
