"""The run of a sweep as a whole at Weights & Biases: the table of its cells, its answer and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vectoruniverse.tracking.wandb_media import inert
from vectoruniverse.tracking.weights_and_biases import WandbTracker

if TYPE_CHECKING:
    import wandb

JOB_TYPE = "sweep"


class WandbSweepTracker(WandbTracker):
    """The run of a sweep; told again, it is the same run, which goes on online and is told as a whole offline."""

    _failed = False

    def log_sweep(
        self,
        done: int,
        cells: pd.DataFrame,
        summary: Mapping[str, float | int | str | None],
        *,
        figures: Mapping[str, Path],
        failed: bool,
    ) -> bool:
        """Log ``cells`` (a table), ``figures/<name>`` and the summary, and take leave.

        Args:
            done: number of finished cells, which is the step of the run: it grows when a sweep is gone on with.
            cells: a row for each cell, of numbers, text and None.
            summary: None where a thing is not known.
            figures: PNG files by name.
            failed: whether some cells failed.

        Returns:
            Whether wandb took all of it.
        """
        self._failed = self._run is None
        self._attach(lambda run: _log_table(run, done, cells), "the table of cells")
        if figures:
            self.log_figures(done, figures)
        self._attempt(lambda run: run.summary.update(dict(summary)), "could not log")
        self.finish("failed" if failed else "finished")
        return not self._failed and not self._warned

    def _attempt(self, act: Callable[[wandb.Run], object], failure: str) -> None:
        before = self._run
        super()._attempt(act, failure)
        self._failed |= self._run is not before


def _log_table(run: wandb.Run, done: int, cells: pd.DataFrame) -> None:
    """One row for each cell, under a key without a slash, as ``wandb_media.retrieval_tables`` says."""
    import wandb

    columns = [_column(cells[name].tolist()) for name in cells]
    rows = [list(row) for row in zip(*columns, strict=True)]
    run.log({"cells": wandb.Table(columns=list(cells), data=rows), "step": done})


def _column(cells: list[object]) -> list[object]:
    """A column of one type, which wandb asks for: numbers as they are, everything else as text that does nothing."""
    known = [cell for cell in cells if cell is not None]
    if all(isinstance(cell, int | float) for cell in known):
        return cells
    return [None if cell is None else inert(str(cell)) for cell in cells]
