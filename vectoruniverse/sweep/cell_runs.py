"""The runs of a sweep's cells: each brought to its end, and how it fared.

A cell is an ordinary run. It is recognised by the fingerprint of its settings and of its data: finished ones are not
run again, interrupted ones go on from their last checkpoint, failed ones are tried again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vectoruniverse import experiment as runner
from vectoruniverse.config.loading import fingerprint
from vectoruniverse.errors import DivergedError, LockedError, UserError
from vectoruniverse.report.sweep.parts import CellRecord
from vectoruniverse.report.sweep.values import key_of
from vectoruniverse.runs.files import read_bytes
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.sweep.cells import Cell, CellKey, Kind
from vectoruniverse.sweep.findings import finished_facts
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.sweep.pooling import Finished
from vectoruniverse.sweep.sharing import Bases, peak, reset_peak
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tasks.identity import describe_base, recorded_base
from vectoruniverse.tasks.recorded_rows import DATA_FILE
from vectoruniverse.tasks.results import Outcome
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.training.interruption import InterruptedTraining

AGAIN = "run the same command again to go on"


class CellRuns:
    """Cells of every kind with how they fare.

    Args:
        folder: of the sweep.
        runs_dir: where the runs are, but for trials, which are in the folder.
        bases: what cells start from.
        metric: that they are compared by.
        group: of the cells' runs at Weights & Biases.
        changed: called when a cell has come to its end.
    """

    def __init__(
        self,
        folder: SweepFolder,
        runs_dir: Path,
        bases: Bases,
        *,
        metric: str,
        group: str,
        changed: Callable[[], object],
    ) -> None:
        self._folder, self._runs_dir, self._bases, self._display = folder, runs_dir, bases, bases.display
        self._metric, self._group, self._changed = metric, group, changed
        self._told: dict[Kind, dict[CellKey, CellRecord]] = {"value": {}, "trial": {}, "beside": {}}
        self.trained: list[Outcome] = []

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
                done = cell.state == "finished" and _is_finished(self._run_of(kind, cell))
            if done and key not in told:
                told[key] = cell

    def run(self, cells: Sequence[Cell]) -> None:
        """Every cell to its end, those of one base together; what another process trains comes last, when it is free.

        A cell that another process is training is waited for.
        """
        bases = list(dict.fromkeys(sharing_key(cell.experiment) for cell in cells))
        waiting: list[tuple[Cell, Run]] = []
        for number, cell in enumerate(sorted(cells, key=lambda cell: bases.index(sharing_key(cell.experiment))), 1):
            if (held := self._run_cell(cell, f"cell {number} of {len(cells)}: {cell.title}")) is not None:
                waiting.append((cell, held))
        while waiting:
            cell, held_run = waiting.pop(0)
            self._display.say(f"{cell.title}: another process trains it ({held_run.name}); waiting")
            with held_run.lock(wait=True):
                pass
            if (held := self._run_cell(cell, cell.title)) is not None:
                waiting.append((cell, held))

    def _run_cell(self, cell: Cell, title: str) -> Run | None:
        """Bring one cell to its end, whatever that is; gives its run where another process is training that."""
        run = None
        try:
            shared = self._bases.of(cell.experiment)
            run = find_cell_run(self._place(cell.kind), cell, shared.data.fingerprint())
            if run is not None and _is_finished(run):
                self._display.say(f"{cell.title}: done already ({run.name})")
            else:
                self._display.say(cell.title if cell.kind == "trial" else title)
                run = self._train(cell, run, shared)
            self.note(cell, "finished", run, **finished_facts(run, self._metric))
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            self.note(cell, "interrupted", self._latest_run(cell))
            if isinstance(stopped, InterruptedTraining):
                stopped.remedy = AGAIN
            raise
        except LockedError as error:
            run = run or find_cell_run(self._place(cell.kind), cell, self._bases.of(cell.experiment).data.fingerprint())
            if run is None:
                raise
            self._display.say(f"{cell.title}: {error.message}")
            self.note(cell, "pending", run)
            return run
        except Exception as error:  # one cell's failure, even a bug of ours, must not cost the others
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            state = "stopped" if isinstance(error, DivergedError) else "failed"
            self.note(cell, state, self._latest_run(cell), message=said[:500])
            self._display.warn(f"{cell.title} failed: {said}")
        self._changed()
        return None

    def _train(self, cell: Cell, run: Run | None, shared: Shared) -> Run:
        """Train a cell, or go on with its run."""
        self.note(cell, "running")
        reset_peak(shared.compute.device)
        if run is not None and (run.path / DATA_FILE).is_file():
            outcome = runner.resume(
                str(run.path), runs_dir=self._place(cell.kind), display=self._display, shared=shared
            )
            assert outcome is not None, "it was not finished"
        else:
            group = cell.experiment.wandb.model_copy(update={"group": self._group})
            experiment = cell.experiment.model_copy(update={"wandb": group})
            outcome = runner.train(experiment, runs_dir=self._place(cell.kind), display=self._display, shared=shared)
        outcome.run.note(peak_memory_bytes=peak(shared.compute.device))
        self.trained.append(outcome)
        return outcome.run

    def note(self, cell: Cell, state: str, run: Run | None = None, message: str | None = None, **facts: Any) -> None:
        """Put down how a cell fares."""
        path = None if run is None else os.path.relpath(run.path, self._folder.path)
        told = {"message": message, "run": None if run is None else run.name, "path": path}
        head = {"values": dict(cell.values), "seed": cell.seed, "name": cell.experiment.name, "state": state}
        chosen: dict[str, Any] = {"settings": dict(cell.settings)} if cell.settings else {}
        chosen |= {} if cell.fold is None else {"fold": cell.fold}
        self._told[cell.kind][cell.key] = CellRecord.model_validate(head | chosen | told | facts)

    def _latest_run(self, cell: Cell) -> Run | None:
        """A cell's unfinished run, if it came so far as to have one."""
        runs = [one.run for one in list_runs(self._place(cell.kind)) if one.run.experiment == cell.experiment.name]
        return runs[-1] if runs else None


def find_cell_run(runs_dir: Path, cell: Cell, data: str) -> Run | None:
    """The run of a cell: of the same settings, base and data, the finished one if there is one, else the latest."""
    wanted, base, found = fingerprint(cell.experiment), describe_base(cell.experiment), []
    for summary in list_runs(runs_dir):
        run = summary.run
        if run.experiment != cell.experiment.name:
            continue
        try:
            same = fingerprint(load_config_of(run)) == wanted
            seen = read_bytes(run.path / DATA_FILE, limit=256, inside=run.path).decode("ascii").strip()
            held = recorded_base(run.path)
        except (UserError, ValueError):  # killed before it was described, or meddled with
            continue
        if same and seen == data and (held is None or held.difference(base) is None):
            found.append(run)
    return next((run for run in found if _is_finished(run)), found[-1] if found else None)


def _is_finished(run: Run) -> bool:
    """Whether a run left all that a sweep needs of it."""
    has_results = (run.path / PER_QUERY_FILE).is_file() and run.read_evaluation() is not None
    return run.read_state().state == "finished" and has_results
