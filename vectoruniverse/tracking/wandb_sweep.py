"""The run of a sweep as a whole at Weights & Biases: the table of its cells, its answer and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vectoruniverse.tracking.wandb_media import inert
from vectoruniverse.tracking.weights_and_biases import WandbSettings, WandbTracker

if TYPE_CHECKING:
    import wandb

JOB_TYPE = "sweep"


@dataclass(frozen=True, slots=True)
class SweepFindings:
    """What a sweep has to tell.

    Args:
        done: number of finished cells, which is the step of the run: it grows when a sweep is gone on with.
        columns: names of the table's columns.
        rows: a row for each cell, JSON values.
        summary: values of the run's summary; None where a thing is not known.
        figures: PNG files by name.
        failed: whether some cells failed.
    """

    done: int
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    summary: Mapping[str, float | int | str | None]
    figures: Mapping[str, Path]
    failed: bool


class WandbSweepTracker(WandbTracker):
    """The run of a sweep; told again, it is the same run, which goes on online and is told as a whole offline.

    Args:
        folder: the sweep's folder; wandb's files go below it.
        name: the sweep's name, also the run's id.
        config: what all cells have in common, and what is swept.
        warn: takes a message for people.
        settings: project, mode, group and so on.
        environment: versions, hardware, commit and command without secrets.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, object],
        warn: Callable[[str], None],
        settings: WandbSettings,
        environment: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(folder, name, config, warn, settings, environment=environment, history=())
        self._failed = self._run is None

    def log_sweep(self, findings: SweepFindings) -> bool:
        """Log ``cells`` (a table), ``figures/<name>`` and the summary, and take leave.

        Returns:
            Whether wandb took all of it.
        """
        self._attach(lambda run: _log_table(run, findings), "the table of cells")
        if findings.figures:
            self.log_figures(findings.done, findings.figures)
        self._attempt(lambda run: run.summary.update(dict(findings.summary)), "could not log")
        self.finish("failed" if findings.failed else "finished")
        return not self._failed and not self._warned

    def _attempt(self, act: Callable[[wandb.Run], object], failure: str) -> None:
        before = self._run
        super()._attempt(act, failure)
        self._failed |= self._run is not before


def _log_table(run: wandb.Run, findings: SweepFindings) -> None:
    """One row for each cell, under a key without a slash, as ``wandb_media.retrieval_tables`` says."""
    import wandb

    columns = [_column(list(cells)) for cells in zip(*findings.rows, strict=True)]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    run.log({"cells": wandb.Table(columns=list(findings.columns), data=rows), "step": findings.done})


def _column(cells: list[object]) -> list[object]:
    """A column of one type, which wandb asks for: numbers as they are, everything else as text that does nothing."""
    known = [cell for cell in cells if cell is not None]
    if all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in known):
        return cells
    return [None if cell is None else inert(cell if isinstance(cell, str) else _json(cell)) for cell in cells]


def _json(cell: object) -> str:
    return json.dumps(cell, ensure_ascii=False)
