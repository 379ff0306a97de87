"""A sweep from its first cell to its answer, in one process; running it again goes on where it stopped.

A cell is an ordinary run. It is recognised by the fingerprint of its settings and of its data: finished ones are not
run again, interrupted ones go on from their last checkpoint, failed ones are tried again. Base, decoded pictures and
the base's evaluation are loaded once for all cells that share them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse import experiment as runner
from vectoruniverse.config.loading import fingerprint
from vectoruniverse.errors import DivergedError, LockedError, UserError
from vectoruniverse.report.sweep.record import AdapterRecord, CellRecord, Data, SweepRecord, Timing
from vectoruniverse.report.sweep.values import key_of
from vectoruniverse.runs.files import read_bytes
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.runs.records import ForgettingRecord
from vectoruniverse.sweep.analysis import analyse_adapters
from vectoruniverse.sweep.findings import base_of, evaluation_of, finished_facts, statistics
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.sweep.forgetting import forgetting_of_sweep
from vectoruniverse.sweep.grid import Cell, Grid
from vectoruniverse.sweep.published import publish
from vectoruniverse.sweep.sharing import Bases, peak, reset_peak
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tasks.identity import describe_base, recorded_base
from vectoruniverse.tasks.recorded_rows import DATA_FILE
from vectoruniverse.tasks.results import Outcome
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.terminal import Display, counted
from vectoruniverse.training.interruption import InterruptedTraining, Interruption

AGAIN = "run the same command again to go on"


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What a sweep found, and where it is written."""

    folder: SweepFolder
    record: SweepRecord


def run_sweep(grid: Grid, *, runs_dir: Path, out: Path | None, display: Display) -> SweepOutcome:
    """Run whatever is not done yet, and write down what the cells say together.

    Args:
        grid: the cells.
        runs_dir: where the cells' runs are.
        out: the sweep's folder; None: ``<experiment>-sweep-<fingerprint>`` below ``runs_dir``.
        display: what a person sees.

    Raises:
        LockedError: another process works on this sweep.
        InterruptedTraining: somebody asked to stop; the same call goes on from there.
        UserError: the data or the model of all cells cannot be loaded.
    """
    bases = Bases(display)
    data = bases.of(grid.cells[0].experiment).data.fingerprint() if grid.one_base else ""
    name = f"{grid.base.name}-sweep-{grid.fingerprint(data)[:8]}"
    folder = SweepFolder(out or runs_dir / name, name)
    with folder.lock(), Interruption():  # so that SIGTERM is raised as Ctrl-C is, wherever it comes
        record = _Sweep(grid, folder, runs_dir, display, bases).run()
        publish(folder, record, display)
        return SweepOutcome(folder, record)


class _Sweep:
    """One call of a sweep."""

    def __init__(self, grid: Grid, folder: SweepFolder, runs_dir: Path, display: Display, bases: Bases) -> None:
        self._grid, self._folder, self._runs_dir, self._display, self._bases = grid, folder, runs_dir, display, bases
        self._metric, self._started = grid.base.eval.monitor, time.monotonic()
        self._trained: list[Outcome] = []
        self._analysis_seconds = 0.0
        self._adapters: list[AdapterRecord] = []
        self._forgetting: ForgettingRecord | None = None
        self._timing: Timing | None = None
        self._cells: dict[tuple[str, int], CellRecord] = {}
        for cell in grid.cells:
            self._note(cell, "pending")
        if (earlier := folder.read()) is not None:
            self._adapters, self._forgetting, self._timing = earlier.adapters, earlier.forgetting, earlier.timing
            self._take_over(earlier.finished)

    def _take_over(self, finished: Iterable[CellRecord]) -> None:
        """Keep cells of earlier calls that this one did not ask for."""
        for cell in finished:
            key = key_of(cell.values), cell.seed
            if key not in self._cells and _is_finished(self._run_of(cell)):
                self._cells[key] = cell

    def run(self) -> SweepRecord:
        self._display.say(f"sweep {self._folder.path}: {counted(len(self._grid.cells), 'cell')}")
        self._write("running")
        try:
            self._run_cells()
            self._analyse()
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            self._write("interrupted")
            if isinstance(stopped, KeyboardInterrupt):
                self._display.warn(AGAIN)
            raise
        except Exception:  # whatever it is, nobody works on this sweep any more
            with contextlib.suppress(UserError):
                self._write("failed")
            raise
        states = {cell.state for cell in self._cells.values()}
        return self._write("failed" if states & {"failed", "stopped"} else "finished")

    def _run_cells(self) -> None:
        """Every cell to its end, those of one base together; what another process trains comes last, when it is free.

        A cell that another process is training is waited for.
        """
        bases = list(dict.fromkeys(sharing_key(cell.experiment) for cell in self._grid.cells))
        waiting: list[tuple[Cell, Run]] = []
        for cell in sorted(self._grid.cells, key=lambda cell: bases.index(sharing_key(cell.experiment))):
            if (held := self._run_cell(cell)) is not None:
                waiting.append((cell, held))
        while waiting:
            cell, held_run = waiting.pop(0)
            self._display.say(f"{cell.title}: another process trains it ({held_run.name}); waiting")
            with held_run.lock(wait=True):
                pass
            if (held := self._run_cell(cell)) is not None:
                waiting.append((cell, held))

    def _run_cell(self, cell: Cell) -> Run | None:
        """Bring one cell to its end, whatever that is; gives its run where another process is training that."""
        run = None
        try:
            shared = self._bases.of(cell.experiment)
            run = find_cell_run(self._runs_dir, cell, shared.data.fingerprint())
            if run is not None and _is_finished(run):
                self._display.say(f"{cell.title}: done already ({run.name})")
            else:
                run = self._train(cell, run, shared)
            self._note(cell, "finished", run, **finished_facts(run, self._metric))
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            self._note(cell, "interrupted", self._latest_run(cell))
            if isinstance(stopped, InterruptedTraining):
                stopped.remedy = AGAIN
            raise
        except LockedError as error:
            run = run or find_cell_run(self._runs_dir, cell, self._bases.of(cell.experiment).data.fingerprint())
            if run is None:
                raise
            self._display.say(f"{cell.title}: {error.message}")
            self._note(cell, "pending", run)
            return run
        except Exception as error:  # one cell's failure, even a bug of ours, must not cost the others
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            state = "stopped" if isinstance(error, DivergedError) else "failed"
            self._note(cell, state, self._latest_run(cell), message=said[:500])
            self._display.warn(f"{cell.title} failed: {said}")
        self._write("running")
        return None

    def _train(self, cell: Cell, run: Run | None, shared: Shared) -> Run:
        """Train a cell, or go on with its run."""
        number = next(i for i, other in enumerate(self._grid.cells, 1) if other is cell)
        self._display.say(f"cell {number} of {len(self._grid.cells)}: {cell.title}")
        self._note(cell, "running")
        reset_peak(shared.compute.device)
        if run is not None and (run.path / DATA_FILE).is_file():
            outcome = runner.resume(str(run.path), runs_dir=self._runs_dir, display=self._display, shared=shared)
            assert outcome is not None, "it was not finished"
        else:
            group = cell.experiment.wandb.model_copy(update={"group": self._grid.base.wandb.group or self._folder.name})
            experiment = cell.experiment.model_copy(update={"wandb": group})
            outcome = runner.train(experiment, runs_dir=self._runs_dir, display=self._display, shared=shared)
        outcome.run.note(peak_memory_bytes=peak(shared.compute.device))
        self._trained.append(outcome)
        return outcome.run

    def _note(self, cell: Cell, state: str, run: Run | None = None, message: str | None = None, **facts: Any) -> None:
        """Put down how a cell fares."""
        path = None if run is None else os.path.relpath(run.path, self._folder.path)
        told = {"message": message, "run": None if run is None else run.name, "path": path}
        head = {"values": dict(cell.values), "seed": cell.seed, "name": cell.experiment.name, "state": state}
        self._cells[cell.key] = CellRecord(**head, **told, **facts)

    def _run_of(self, cell: CellRecord) -> Run:
        return Run(self._runs_dir / Path(str(cell.run)).name)

    def _finished(self) -> list[tuple[CellRecord, Run]]:
        return [(cell, self._run_of(cell)) for cell in self._cells.values() if cell.state == "finished"]

    def _latest_run(self, cell: Cell) -> Run | None:
        """A cell's unfinished run, if it came so far as to have one."""
        runs = [one.run for one in list_runs(self._runs_dir) if one.run.experiment == cell.experiment.name]
        return runs[-1] if runs else None

    def _analyse(self) -> None:
        """What needs the trained adapters again; kept from an earlier call where nothing has changed."""
        started, finished = time.monotonic(), self._finished()
        self._adapters = list(analyse_adapters(self._grid, finished, self._bases, self._adapters))
        self._forgetting = forgetting_of_sweep(self._grid, finished, self._bases, self._forgetting)
        self._analysis_seconds = time.monotonic() - started

    def _clock(self) -> Timing:
        """Where the time of this call went."""
        whole, steps = time.monotonic() - self._started, sum(one.step_seconds for one in self._trained)
        return Timing(
            cells=len(self._trained),
            seconds=round(whole, 3),
            step_seconds=round(steps, 3),
            evaluation_seconds=round(sum(one.evaluation_seconds for one in self._trained), 3),
            analysis_seconds=round(self._analysis_seconds, 3),
            outside_steps=round(1 - steps / whole, 4),
        )

    def _write(self, state: str) -> SweepRecord:
        """Write the record as it is now; a reader never meets half of one."""
        finished, grid = self._finished(), self._grid
        cells = sorted(self._cells.values(), key=_sort_key)
        config = grid.base.model_dump(mode="json")
        told = evaluation_of(finished[0][1]) if finished else None
        fingerprints = {cell.data for cell, _ in finished}
        record = SweepRecord(
            version=1,
            name=self._folder.name,
            state=state,
            experiment=grid.base.name,
            config=config,
            over={one.key: _distinct([cell.values[one.key] for cell in cells]) for one in grid.over},
            seeds=sorted({cell.seed for cell in cells}),
            alpha=None if grid.alpha is None else str(grid.alpha),
            metric=self._metric,
            data=Data(
                root=next(config["data"][key] for key in ("root", "file", "source") if key in config["data"]),
                fingerprint=next(iter(fingerprints)) if len(fingerprints) == 1 else None,
                rows=None if told is None else told.rows,
                split="val" if told is None else told.split,
                evaluated_on=None if told is None else told.evaluated_on,
            ),
            base=base_of(told) if told is not None and grid.one_base else None,
            cells=cells,
            statistics=statistics(finished, self._metric, one_base=grid.one_base),
            adapters=self._adapters,
            forgetting=self._forgetting,
            timing=self._clock() if self._trained else self._timing,
        )
        self._folder.write(record)
        return record


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


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(value): value for value in values}.values())


def _sort_key(cell: CellRecord) -> tuple[int, list[tuple[float, str]]]:
    """Seed by seed; numbers by size, everything else by its text."""

    def one(value: object) -> tuple[float, str]:
        return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))

    return cell.seed, [one(value) for value in cell.values.values()]
