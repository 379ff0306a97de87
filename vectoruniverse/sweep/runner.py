"""A sweep from its first cell to its answer, in one process; running it again goes on where it stopped.

Base, decoded pictures and the base's evaluation are loaded once for all cells that share them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse.errors import UserError
from vectoruniverse.report.sweep.parts import (
    AdapterRecord,
    CellRecord,
    Data,
    NotComparable,
    Pattern,
    Statistics,
    Timing,
)
from vectoruniverse.report.sweep.record import SweepRecord
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.records import ForgettingRecord, PrecisionRecord
from vectoruniverse.sweep.analysis import analyse_adapters
from vectoruniverse.sweep.attempt import is_finished
from vectoruniverse.sweep.cell_runs import AGAIN, CellRuns
from vectoruniverse.sweep.cells import Cell
from vectoruniverse.sweep.engines import Engine, InThisProcess
from vectoruniverse.sweep.findings import base_of, compare_beside, evaluation_of, rivals_of_best, statistics
from vectoruniverse.sweep.folder import SweepFolder
from vectoruniverse.sweep.forgetting import forgetting_of_sweep
from vectoruniverse.sweep.grid import RANK, Grid
from vectoruniverse.sweep.pattern import pattern_cell, recommend
from vectoruniverse.sweep.published import publish
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.sweep.tuning import NoRateError, Tuner, at_fixed_rates
from vectoruniverse.terminal import Display, counted
from vectoruniverse.training.interruption import InterruptedTraining, Interruption
from vectoruniverse.training.precision import settle_precision


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What a sweep found, where it is written, and whether an earlier call had found it all."""

    folder: SweepFolder
    record: SweepRecord
    found_before: bool = False


def run_sweep(
    grid: Grid,
    *,
    runs_dir: Path,
    out: Path | None,
    display: Display,
    engine: Engine | None = None,
    force: bool = False,
    new: bool = False,
) -> SweepOutcome:
    """Run whatever is not done yet, and write down what the cells say together.

    Args:
        grid: the cells.
        runs_dir: where the cells' runs are.
        out: the sweep's folder; None: ``<experiment>-sweep-<fingerprint>`` below ``runs_dir``.
        display: what a person sees.
        engine: what brings cells to their ends; None: this process, one after another.
        force: train every cell again where the sweep has finished; one that has not goes on, with cells that diverged
            trained again.
        new: train every cell again, however the sweep fares.

    Raises:
        LockedError: another process works on this sweep.
        InterruptedTraining: somebody asked to stop; the same call goes on from there.
        UserError: the data or the model of all cells cannot be loaded.
    """
    bases = Bases(display)
    settled, measured = settle_precision(grid.base, display.say)
    first = grid.in_precision(settled.train.precision).cells[0].experiment
    data = bases.of(first).data.fingerprint() if grid.one_base else ""
    folder = place_of_sweep(grid, data, runs_dir, out)
    asked, earlier = grid.asked(data), folder.read()
    if earlier is not None and not (force or new) and _is_done(earlier, asked, grid, folder, runs_dir):
        return SweepOutcome(folder, earlier, found_before=True)
    with folder.lock(), Interruption():  # so that SIGTERM is raised as Ctrl-C is, wherever it comes
        if new or (force and earlier is not None and earlier.state == "finished"):
            _set_aside(grid, folder, runs_dir)
        aside = _stopped(grid, folder, runs_dir) if force else []
        record = _Sweep(grid, folder, runs_dir, display, bases, engine or InThisProcess(), measured, asked, aside).run()
        publish(folder, record, display)
        return SweepOutcome(folder, record)


def place_of_sweep(grid: Grid, data: str, runs_dir: Path, out: Path | None) -> SweepFolder:
    """Where a sweep is written, by what its cells have in common; ``data`` is the fingerprint of what they share."""
    name = f"{grid.base.name}-sweep-{grid.fingerprint(data)[:8]}"
    return SweepFolder(out or runs_dir / name, name)


def _is_done(record: SweepRecord, asked: str | None, grid: Grid, folder: SweepFolder, runs_dir: Path) -> bool:
    """Whether all that is asked for has been found, or has diverged, and is still there."""
    if record.state not in ("finished", "stopped") or asked is None or record.asked != asked:
        return False
    for cell in (*record.cells, *record.beside):
        run = Run(runs_dir / Path(str(cell.run)).name)
        if not (is_finished(run) if cell.state == "finished" else run.read_state().state == "stopped"):
            return False
    return folder.page_file.is_file() or not grid.base.eval.report


def _stopped(grid: Grid, folder: SweepFolder, runs_dir: Path) -> list[str]:
    """Names of runs that diverged, of cells and of trials."""
    names = {cell.experiment.name for cell in (*grid.cells, *grid.full)}
    runs = [one for one in list_runs(runs_dir) if one.run.experiment in names]
    return [one.run.name for one in (*runs, *list_runs(folder.path / "trials")) if one.state == "stopped"]


def _set_aside(grid: Grid, folder: SweepFolder, runs_dir: Path) -> None:
    """Begin the sweep again: no run that there is now is one of its cells, nor for calls that go on with this one."""
    if (earlier := folder.read()) is None:
        return
    names = {cell.experiment.name for cell in (*grid.cells, *grid.full)} | {cell.name for cell in earlier.beside}
    runs = [one.run for one in list_runs(runs_dir) if one.run.experiment in names]
    runs += [one.run for one in list_runs(folder.path / "trials")]
    aside = sorted({run.name for run in runs} | {*earlier.aside})
    kept: dict[str, object] = {
        "state": "running",
        "cells": [],
        "beside": [],
        "rates": None,
        "pattern": None,
        "adapters": [],
    }
    found: dict[str, object] = {
        "statistics": None,
        "comparisons": [],
        "rivals": None,
        "forgetting": None,
        "timing": None,
    }
    folder.write(earlier.model_copy(update={**kept, **found, "aside": aside}))


class _Sweep:
    """One call of a sweep."""

    def __init__(
        self,
        grid: Grid,
        folder: SweepFolder,
        runs_dir: Path,
        display: Display,
        bases: Bases,
        engine: Engine,
        measured: PrecisionRecord | None,
        asked: str | None,
        aside: Sequence[str],
    ) -> None:
        earlier = folder.read()
        self._asked, self._aside = asked, sorted({*aside, *([] if earlier is None else earlier.aside)})
        if measured is not None:  # what an earlier call chose stays, so that all cells have one format
            held = None if earlier is None else earlier.precision
            measured = held if held is not None and held.device == measured.device else measured
            grid = grid.in_precision(measured.chosen)
        self._grid, self._folder, self._display, self._bases, self._precision = grid, folder, display, bases, measured
        self._metric, self._started = grid.base.eval.monitor, time.monotonic()
        group = grid.base.wandb.group or folder.name
        self._runs = CellRuns(
            folder,
            runs_dir,
            engine,
            bases,
            metric=self._metric,
            group=group,
            changed=lambda: self._write("running"),
            aside=self._aside,
        )
        self._analysis_seconds = 0.0
        self._adapters: list[AdapterRecord] = []
        self._forgetting: ForgettingRecord | None = None
        self._timing: Timing | None = None
        self._pattern: Pattern | None = None
        for cell in (*grid.cells, *grid.full):
            self._runs.note(cell, "pending")
        if earlier is not None:
            self._take_over(earlier)
        known = None if earlier is None else earlier.rates
        self._tuner = None if grid.rates is None else Tuner(grid, known, self._try, display.say)

    def _take_over(self, earlier: SweepRecord) -> None:
        """Keep what earlier calls found."""
        self._adapters, self._forgetting, self._timing = earlier.adapters, earlier.forgetting, earlier.timing
        self._pattern = earlier.pattern
        self._runs.take_over("value", earlier.cells)
        self._runs.take_over("beside", earlier.beside)
        self._runs.take_over("trial", [] if earlier.rates is None else earlier.rates.trials)

    def run(self) -> SweepRecord:
        self._display.say(f"sweep {self._folder.path}: {counted(len(self._grid.cells), 'cell')}")
        self._write("running")
        try:
            self._runs.run(self._at_their_rates(self._grid.cells))
            self._analyse()
            self._runs.run([*self._at_their_rates(self._grid.full), *self._by_pattern()])
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            self._write("interrupted")
            if isinstance(stopped, KeyboardInterrupt):
                self._display.warn(AGAIN)
            raise
        except Exception:  # whatever it is, nobody works on this sweep any more
            with contextlib.suppress(UserError):
                self._write("failed")
            raise
        states = {cell.state for cell in (*self._runs.records("value"), *self._runs.records("beside"))}
        return self._write(next((how for how in ("failed", "stopped") if how in states), "finished"))

    def _at_their_rates(self, cells: Sequence[Cell]) -> list[Cell]:
        """Each at the learning rate that its value deserves, where those are chosen; without one a cell has failed."""
        if self._tuner is None:
            return at_fixed_rates(cells)
        at_rates, without = self._tuner.rates_of(cells)
        for cell, reason in without:
            self._runs.note(cell, "failed", message=f"no learning rate was chosen: {reason}")
            self._display.warn(f"{cell.title} failed: no learning rate was chosen: {reason}")
        return at_rates

    def _try(self, trials: Sequence[Cell]) -> list[float | None]:
        """The metric that each short run reaches on validation rows; None where it diverged."""
        self._runs.run(trials)
        told = [(trial, self._runs.record_of(trial)) for trial in trials]
        for trial, record in told:
            if record.state == "failed":
                raise NoRateError(f"{trial.title}: {record.message}")
        return [record.metrics.get(self._metric) if record.state == "finished" else None for _, record in told]

    def _by_pattern(self) -> list[Cell]:
        """Ranks by layer as the largest adapter recommends them, once, at the rate of the uniform rank."""
        found = self._statistics()
        if not self._grid.pattern or not isinstance(found, Statistics):
            return []
        self._pattern = recommend(self._grid, found, self._adapters)
        if self._pattern is None:
            return []
        asked = {RANK: self._pattern.rank}, found.seeds[0]
        uniform = next((one, run) for one, run in self._runs.finished() if (one.values, one.seed) == asked)
        return [pattern_cell(self._grid.base.name, self._pattern, *uniform)]

    def _statistics(self) -> Statistics | NotComparable | None:
        """What the finished cells say together."""
        one_base, folds = self._grid.one_base, self._grid.folds
        return statistics(self._runs.finished(), self._metric, one_base=one_base, folds=folds)

    def _analyse(self) -> None:
        """What needs the trained adapters again; kept from an earlier call where nothing has changed."""
        started = time.monotonic()
        finished = [(cell, run) for cell, run in self._runs.finished() if not cell.fold]  # of folds the first
        self._adapters = list(analyse_adapters(self._grid, finished, self._bases, self._adapters))
        self._forgetting = forgetting_of_sweep(self._grid, finished, self._bases, self._forgetting)
        self._analysis_seconds = time.monotonic() - started

    def _clock(self) -> Timing:
        """Where the time of this call went."""
        trained = self._runs.trained
        whole, steps = time.monotonic() - self._started, sum(steps for steps, _ in trained)
        return Timing(
            cells=len(trained),
            seconds=round(whole, 3),
            step_seconds=round(steps, 3),
            evaluation_seconds=round(sum(seconds for _, seconds in trained), 3),
            analysis_seconds=round(self._analysis_seconds, 3),
            outside_steps=round(1 - steps / whole, 4),
        )

    def _write(self, state: str) -> SweepRecord:
        """Write the record as it is now; a reader never meets half of one."""
        grid, finished = self._grid, self._runs.finished()
        cells = sorted(self._runs.records("value"), key=_sort_key)
        config = grid.base.model_dump(mode="json")
        # one cell of each fold tells of its rows
        told = [evaluation_of(run) for run in {cell.fold: run for cell, run in reversed(finished)}.values()]
        first, fingerprints = (told[0] if told else None), {cell.data for cell, _ in finished}
        found = self._statistics()
        record = SweepRecord(
            version=1,
            name=self._folder.name,
            state=state,
            experiment=grid.base.name,
            config=config,
            over={one.key: _distinct([cell.values[one.key] for cell in cells]) for one in grid.over},
            seeds=sorted({cell.seed for cell in cells}),
            folds=grid.folds,
            alpha=None if grid.alpha is None else str(grid.alpha),
            metric=self._metric,
            data=Data(
                root=next(config["data"][key] for key in ("root", "file", "source") if key in config["data"]),
                fingerprint=next(iter(fingerprints)) if len(fingerprints) == 1 else None,
                rows=None if first is None else sum(one.rows for one in told),
                split="val" if first is None else first.split,
                evaluated_on=None if first is None else first.evaluated_on,
            ),
            base=base_of(told) if told and grid.one_base else None,
            cells=cells,
            beside=sorted(self._runs.records("beside"), key=_sort_key),
            statistics=found,
            comparisons=list(compare_beside(found, finished, self._runs.finished("beside"), self._pattern, grid.folds)),
            rivals=rivals_of_best(found, finished),
            rates=None if self._tuner is None else self._tuner.told(cells, self._runs.records("trial")),
            pattern=self._pattern,
            adapters=self._adapters,
            forgetting=self._forgetting,
            timing=self._clock() if self._runs.trained else self._timing,
            precision=self._precision,
            asked=self._asked,
            aside=self._aside,
        )
        self._folder.write(record)
        return record


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(value): value for value in values}.values())


def _sort_key(cell: CellRecord) -> tuple[int, int, list[tuple[float, str]]]:
    """Seed by seed, fold by fold; numbers by size, everything else by its text."""

    def one(value: object) -> tuple[float, str]:
        return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))

    return cell.seed, cell.fold or 0, [one(value) for value in cell.values.values()]
