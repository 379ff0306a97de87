"""How the cells of a sweep fare, and their runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vectoruniverse.errors import UserError
from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.report.sweep.values import key_of
from vectoruniverse.runs.folder import Run
from vectoruniverse.sweep.attempt import Ending, Job, is_finished
from vectoruniverse.sweep.cells import Cell, CellKey, Kind
from vectoruniverse.sweep.engines import Engine
from vectoruniverse.sweep.findings import finished_facts
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.sweep.pooling import Finished
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.training.interruption import InterruptedTraining

AGAIN = "run the same command again to go on"


class CellRuns:
    """Cells of every kind with how they fare.

    Args:
        folder: of the sweep.
        runs_dir: where the runs are, but for trials, which are in the folder.
        engine: what brings cells to their ends.
        bases: what cells start from, as far as this process holds it.
        metric: that they are compared by.
        group: of the cells' runs at Weights & Biases.
        changed: called when a cell has come to its end.
        aside: names of runs that no cell takes.

    Attributes:
        trained: seconds in training steps, and in evaluations between them, of each cell that was trained.
    """

    def __init__(
        self,
        folder: SweepFolder,
        runs_dir: Path,
        engine: Engine,
        bases: Bases,
        *,
        metric: str,
        group: str,
        changed: Callable[[], object],
        aside: Iterable[str] = (),
    ) -> None:
        self._folder, self._runs_dir, self._engine, self._bases = folder, runs_dir, engine, bases
        self._display = bases.display
        self._metric, self._group, self._changed, self._aside = metric, group, changed, frozenset(aside)
        self._told: dict[Kind, dict[CellKey, CellRecord]] = {"value": {}, "trial": {}, "beside": {}}
        self.trained: list[tuple[float, float]] = []

    def records(self, kind: Kind) -> list[CellRecord]:
        """How all cells of a kind fare, in the order in which they were met."""
        return list(self._told[kind].values())

    def record_of(self, cell: Cell) -> CellRecord:
        """How a cell fares that was met."""
        return self._told[cell.kind][cell.key]

    def finished(self, kind: Kind = "value") -> Finished:
        """Cells of a kind that are done, with their runs."""
        return [(cell, self._run_of(kind, cell)) for cell in self.records(kind) if cell.state == "finished"]

    def _run_of(self, kind: Kind, cell: CellRecord) -> Run:
        return Run(self._place(kind) / Path(str(cell.run)).name)

    def _place(self, kind: Kind) -> Path:
        """Where runs of a kind are: trials are nobody's business but the sweep's."""
        return self._folder.path / "trials" if kind == "trial" else self._runs_dir

    def take_over(self, kind: Kind, cells: Iterable[CellRecord]) -> None:
        """Keep cells of earlier calls that are done, and that this one did not ask for.

        Of a trial nothing but its record is needed, so that its run may be gone; that it diverged is a finding, too.
        """
        told = self._told[kind]
        for cell in cells:
            values = {**cell.values, **cell.settings} if kind == "trial" else cell.values
            key = key_of(values), cell.seed, cell.fold
            if kind == "trial":
                done = cell.state in ("finished", "stopped")
            else:
                done = cell.state == "finished" and is_finished(self._run_of(kind, cell))
            if done and key not in told:
                told[key] = cell

    def run(self, cells: Sequence[Cell]) -> None:
        """Every cell to its end, those of one base together; what another process trains comes last, when it is free.

        A cell that another process is training is waited for.
        """
        bases = list(dict.fromkeys(sharing_key(cell.experiment) for cell in cells))
        ordered = sorted(cells, key=lambda cell: bases.index(sharing_key(cell.experiment)))
        titles = [f"cell {number} of {len(cells)}: {cell.title}" for number, cell in enumerate(ordered, 1)]
        waiting = self._attempt([self._job(cell, title) for cell, title in zip(ordered, titles, strict=True)])
        while waiting:
            job, held = waiting.pop(0)
            self._display.say(f"{job.cell.title}: another process trains it ({held.name}); waiting")
            with held.lock(wait=True):
                pass
            waiting += self._attempt([self._job(job.cell, job.cell.title)])

    def _job(self, cell: Cell, title: str) -> Job:
        title = cell.title if cell.kind == "trial" else title
        return Job(cell, title, self._place(cell.kind), self._group, self._aside)

    def _attempt(self, jobs: Sequence[Job]) -> list[tuple[Job, Run]]:
        """Attempt cells, and put down how each ended; gives those that another process is training."""
        held = []
        for job in jobs:  # so that the record has them in this order, in whatever order they end
            if job.cell.key not in self._told[job.cell.kind]:
                self.note(job.cell, "pending")
        try:
            for job, ending in self._engine.attempts(jobs, self._bases, lambda job: self.note(job.cell, "running")):
                if ending.state == "held":
                    assert ending.run is not None, "another process holds its lock"
                    held.append((job, Run(job.runs_dir / ending.run)))
                self._put_down(job, ending)
        except InterruptedTraining as stopped:
            stopped.remedy = AGAIN
            raise
        return held

    def _put_down(self, job: Job, ending: Ending) -> None:
        run, facts = None if ending.run is None else Run(job.runs_dir / ending.run), {}
        if run is not None and ending.state == "finished":
            try:
                facts = finished_facts(run, self._metric)
            except UserError as error:  # a file of it is damaged
                ending = replace(ending, state="failed", message=str(error))
        if ending.message is not None:
            self._display.warn(f"{job.cell.title} {ending.state}: {ending.message}")
        state = "pending" if ending.state == "held" else ending.state
        self.note(job.cell, state, run, message=None if ending.message is None else ending.message[:500], **facts)
        if ending.seconds is not None:
            self.trained.append(ending.seconds)
        if ending.state not in ("held", "interrupted"):
            self._changed()

    def note(self, cell: Cell, state: str, run: Run | None = None, message: str | None = None, **facts: Any) -> None:
        """Put down how a cell fares."""
        path = None if run is None else os.path.relpath(run.path, self._folder.path)
        told = {"message": message, "run": None if run is None else run.name, "path": path}
        head = {"values": dict(cell.values), "seed": cell.seed, "name": cell.experiment.name, "state": state}
        chosen: dict[str, Any] = {"settings": dict(cell.settings)} if cell.settings else {}
        chosen |= {} if cell.fold is None else {"fold": cell.fold}
        self._told[cell.kind][cell.key] = CellRecord.model_validate(head | chosen | told | facts)
