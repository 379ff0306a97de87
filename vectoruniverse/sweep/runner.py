"""A sweep from its first cell to its answer, in one process; running it again goes on where it stopped.

A cell is an ordinary run. It is recognised by the fingerprint of its settings and of its data: finished ones are not
run again, interrupted ones go on from their last checkpoint, failed ones are tried again. Base, decoded pictures and
the base's evaluation are loaded once for all cells that share them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectoruniverse import experiment as runner
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import DivergedError, LockedError, UserError
from vectoruniverse.runs.files import check_regular, read_bytes
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.sweep.analysis import analyse_adapter
from vectoruniverse.sweep.findings import Entry, base_facts, finished_facts, statistics
from vectoruniverse.sweep.folder import VERSION, SweepFolder
from vectoruniverse.sweep.forgetting import forgetting_curve
from vectoruniverse.sweep.grid import RANK, Cell, Grid, identity
from vectoruniverse.sweep.memory import peak, reset_peak
from vectoruniverse.sweep.published import publish
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.tasks.identity import describe_base, recorded_base, run_experiment
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.tasks.image_text.setup import ImageTextShared
from vectoruniverse.tasks.recorded_rows import DATA_FILE
from vectoruniverse.tasks.results import Outcome
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display, counted
from vectoruniverse.training.interruption import Interruption
from vectoruniverse.training.loop import InterruptedTraining

AGAIN = "run the same command again to go on"


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What a sweep found.

    Attributes:
        folder: where it is written.
        record: what sweep.json holds; see ``sweep.findings``.
    """

    folder: SweepFolder
    record: dict[str, Any]

    @property
    def failed(self) -> list[Entry]:
        """Entries of the cells that could not be trained."""
        return [entry for entry in self.record["cells"] if entry["state"] in ("failed", "stopped")]


@dataclass(slots=True)
class _Clock:
    """Where the time of this call went."""

    started: float = field(default_factory=time.monotonic)
    cells: int = 0
    steps: float = 0.0
    evaluations: float = 0.0
    analysis: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.cells += 1
        self.steps += outcome.step_seconds
        self.evaluations += outcome.evaluation_seconds

    def record(self) -> dict[str, float]:
        whole = time.monotonic() - self.started
        return {
            "cells": self.cells,
            "seconds": round(whole, 3),
            "step_seconds": round(self.steps, 3),
            "evaluation_seconds": round(self.evaluations, 3),
            "analysis_seconds": round(self.analysis, 3),
            "outside_steps": round(1 - self.steps / whole, 4),
        }


class _Bases:
    """The base and data of the cell at hand; one at a time, since each fills memory."""

    def __init__(self, display: Display) -> None:
        self._display, self._held = display, None

    _held: Shared | None

    def of(self, experiment: Experiment) -> Shared:
        """Load what the experiment shares with others, unless it is held already."""
        if self._held is None or self._held.key != sharing_key(experiment):
            self._held = None  # freed before the next is loaded
            self._held = setup(experiment).share(experiment, self._display)
        return self._held


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
    bases = _Bases(display)
    data = bases.of(grid.cells[0].experiment).data.fingerprint() if grid.one_base else ""
    name = f"{grid.base.name}-sweep-{grid.fingerprint(data)[:8]}"
    folder = SweepFolder(out or runs_dir / name, name)
    with folder.lock(), Interruption():  # so that SIGTERM is raised as Ctrl-C is, wherever it comes
        outcome = _Sweep(grid, folder, runs_dir, display, bases).run()
        publish(folder, outcome.record, display)
        return outcome


class _Sweep:
    """One call of a sweep."""

    def __init__(
        self,
        grid: Grid,
        folder: SweepFolder,
        runs_dir: Path,
        display: Display,
        bases: _Bases,
    ) -> None:
        self._grid, self._folder, self._runs_dir, self._display = grid, folder, runs_dir, display
        self._bases, self._clock = bases, _Clock()
        self._metric = grid.base.eval.monitor
        earlier = folder.read()
        self._earlier = earlier
        self._runs: dict[str, Run] = {}
        self._entries = {cell.key: _entry(cell, "pending") for cell in grid.cells}
        self._keep(earlier.get("cells", []))

    def _keep(self, entries: Iterable[Entry]) -> None:
        """Take over finished cells of earlier calls that this one did not ask for."""
        for entry in entries:
            run = Run(self._runs_dir / Path(str(entry.get("run"))).name)
            key = Cell(entry["values"], entry["seed"], self._grid.base).key
            if key not in self._entries and entry["state"] == "finished" and _is_finished(run):
                self._entries[key], self._runs[key] = entry, run

    def run(self) -> SweepOutcome:
        self._display.say(f"sweep {self._folder.path}: {counted(len(self._grid.cells), 'cell')}")
        self._write("running")
        try:
            self._run_cells(sorted(self._grid.cells, key=self._order()))
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
        failed = any(entry["state"] in ("failed", "stopped") for entry in self._entries.values())
        return SweepOutcome(self._folder, self._write("failed" if failed else "finished"))

    def _order(self) -> Callable[[Cell], int]:
        """Cells of one base after one another, otherwise as they stand."""
        keys = list(dict.fromkeys(sharing_key(cell.experiment) for cell in self._grid.cells))
        return lambda cell: keys.index(sharing_key(cell.experiment))

    def _run_cells(self, cells: Iterable[Cell]) -> None:
        """Every cell to its end; those that another process is training come last, once it has let go of them."""
        waiting: list[tuple[Cell, Run]] = []
        for cell in cells:
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
            self._entries[cell.key] = _entry(cell, "finished", self._link(run)) | finished_facts(run, self._metric)
            self._runs[cell.key] = run
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            self._entries[cell.key] = _entry(cell, "interrupted", self._link_of(cell))
            if isinstance(stopped, InterruptedTraining):
                stopped.remedy = AGAIN
            raise
        except LockedError as error:
            run = run or find_cell_run(self._runs_dir, cell, self._bases.of(cell.experiment).data.fingerprint())
            if run is None:
                raise
            self._display.say(f"{cell.title}: {error.message}")
            self._entries[cell.key] = _entry(cell, "pending", self._link(run))
            return run
        except Exception as error:  # one cell's failure, even a bug of ours, must not cost the others
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            state = "stopped" if isinstance(error, DivergedError) else "failed"
            self._entries[cell.key] = _entry(cell, state, self._link_of(cell) | {"message": said[:500]})
            self._display.warn(f"{cell.title} failed: {said}")
        self._write("running")
        return None

    def _train(self, cell: Cell, run: Run | None, shared: Shared) -> Run:
        """Train a cell, or go on with its run."""
        number = next(i for i, other in enumerate(self._grid.cells, 1) if other is cell)
        self._display.say(f"cell {number} of {len(self._grid.cells)}: {cell.title}")
        self._entries[cell.key] = _entry(cell, "running")
        reset_peak(shared.compute.device)
        if run is not None and (run.path / DATA_FILE).is_file():
            outcome = runner.resume(str(run.path), runs_dir=self._runs_dir, display=self._display, shared=shared)
            assert outcome is not None, "it was not finished"
        else:
            group = cell.experiment.wandb.model_copy(update={"group": self._grid.base.wandb.group or self._folder.name})
            experiment = cell.experiment.model_copy(update={"wandb": group})
            outcome = runner.train(experiment, runs_dir=self._runs_dir, display=self._display, shared=shared)
        outcome.run.note(peak_memory_bytes=peak(shared.compute.device))
        self._clock.add(outcome)
        return outcome.run

    def _finished(self) -> list[tuple[Entry, Run]]:
        return [(entry, self._runs[key]) for key, entry in self._entries.items() if entry["state"] == "finished"]

    def _analyse(self) -> None:
        """What needs the trained adapters again; kept from an earlier call where nothing has changed."""
        started = time.monotonic()
        self._earlier |= {"adapters": list(self._adapters()), "forgetting": self._forgetting()}
        self._clock.analysis = time.monotonic() - started

    def _adapters(self) -> Iterator[Entry]:
        """The adapters of the largest rank, one for each seed, of a sweep over the rank alone."""
        finished = self._finished()
        if [one.key for one in self._grid.over] != [RANK] or not finished or not _has_towers(self._grid.base):
            return
        ranks = sorted({entry["values"][RANK] for entry, _ in finished})
        for entry, run in sorted(finished, key=lambda cell: int(cell[0]["seed"])):
            if entry["values"][RANK] != ranks[-1]:
                continue
            trained = {e["values"][RANK]: r for e, r in finished if e["seed"] == entry["seed"]}
            told = {"run": run.name, "compared_with": {str(rank): other.name for rank, other in trained.items()}}
            known = [one for one in self._earlier.get("adapters") or [] if told.items() <= one.items()]
            if known and [cut["rank"] for cut in known[0]["truncated"]] == ranks:
                yield known[0]
                continue
            experiment = run_experiment(run)
            shared = self._bases.of(experiment)
            assert isinstance(experiment, ImageTextExperiment) and isinstance(shared, ImageTextShared)
            yield analyse_adapter(experiment, run, shared, trained, ranks) | told

    def _forgetting(self) -> Entry | None:
        """The ledger of the smallest value that is not worse, else of the best, with the first seed that has it."""
        config, finished = getattr(self._grid.base, "forgetting", None), self._finished()
        found = statistics(finished, self._metric, one_base=self._grid.one_base)
        if config is None or found is None or "reason" in found:
            return None
        values = found["smallest_not_worse"] or found["best"]
        entry, run = next((e, r) for e, r in finished if e["values"] == values and e["seed"] in found["seeds"])
        told = {"run": run.name, "values": values, "seed": entry["seed"], "rows_chosen": config.model_dump(mode="json")}
        earlier = self._earlier.get("forgetting")
        if isinstance(earlier, dict) and told.items() <= earlier.items():
            return earlier
        try:
            experiment = run_experiment(run)
            shared = self._bases.of(experiment)
            assert isinstance(experiment, ImageTextExperiment) and isinstance(shared, ImageTextShared)
            return told | forgetting_curve(experiment, config, run.adapter, display=self._display, shared=shared)
        except UserError as error:
            self._display.warn(f"no forgetting ledger: {error}")
            return None

    def _link_of(self, cell: Cell) -> dict[str, str]:
        """Where a cell's unfinished run is, if it came so far as to have one."""
        runs = [one.run for one in list_runs(self._runs_dir) if one.run.experiment == cell.experiment.name]
        return self._link(runs[-1]) if runs else {}

    def _link(self, run: Run) -> dict[str, str]:
        return {"run": run.name, "path": os.path.relpath(run.path, self._folder.path)}

    def _write(self, state: str) -> dict[str, Any]:
        """Write the record as it is now; a reader never meets half of one."""
        finished, grid = self._finished(), self._grid
        entries = sorted(self._entries.values(), key=_sort_key)
        config = grid.base.model_dump(mode="json")
        facts = base_facts(finished[0][1]) if finished else None
        fingerprints = {entry["data"] for entry, _ in finished}
        record = {
            "version": VERSION,
            "name": self._folder.name,
            "state": state,
            "experiment": grid.base.name,
            "config": config,
            "over": {one.key: _values(entries, one.key) for one in grid.over},
            "seeds": sorted({entry["seed"] for entry in entries}),
            "alpha": None if grid.alpha is None else str(grid.alpha),
            "metric": self._metric,
            "data": {
                "root": next(config["data"][key] for key in ("root", "file", "source") if key in config["data"]),
                "fingerprint": next(iter(fingerprints)) if len(fingerprints) == 1 else None,
                "rows": facts.pop("rows") if facts else None,
                "judged": facts.pop("judged") if facts else None,
            },
            "base": facts if grid.one_base else None,
            "cells": entries,
            "statistics": statistics(finished, self._metric, one_base=grid.one_base),
            "adapters": self._earlier.get("adapters") or [],
            "forgetting": self._earlier.get("forgetting"),
            "timing": self._clock.record() if self._clock.cells else self._earlier.get("timing"),
        }
        self._folder.write(record)
        return record


def find_cell_run(runs_dir: Path, cell: Cell, data: str) -> Run | None:
    """The run of a cell: of the same settings, base and data, the finished one if there is one, else the latest."""
    wanted, base, found = identity(cell.experiment), describe_base(cell.experiment), []
    for summary in list_runs(runs_dir):
        run = summary.run
        if run.experiment != cell.experiment.name:
            continue
        try:
            check_regular(run.config_file, inside=run.path)
            same = identity(load_experiment(run.config_file)) == wanted
            seen = read_bytes(run.path / DATA_FILE, limit=256, inside=run.path).decode("ascii").strip()
            held = recorded_base(run.path)
        except (UserError, ValueError):  # killed before it was described, or meddled with
            continue
        if same and seen == data and (held is None or held.difference(base) is None):
            found.append(run)
    return next((run for run in found if _is_finished(run)), found[-1] if found else None)


def _has_towers(experiment: Experiment) -> bool:
    """Whether adapters can be cut to lower ranks and judged again, which is known of dual encoders only."""
    return isinstance(experiment, ImageTextExperiment)


def _is_finished(run: Run) -> bool:
    """Whether a run left all that a sweep needs of it."""
    has_results = (run.path / PER_QUERY_FILE).is_file() and run.read_evaluation() is not None
    return run.read_state().state == "finished" and has_results


def _entry(cell: Cell, state: str, facts: dict[str, str] | None = None) -> Entry:
    nothing = {"message": None, "run": None, "path": None}
    head = {"values": dict(cell.values), "seed": cell.seed, "name": cell.experiment.name, "state": state}
    return head | nothing | (facts or {})


def _values(entries: Iterable[Entry], key: str) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        if entry["values"][key] not in found:
            found.append(entry["values"][key])
    return found


def _sort_key(entry: Entry) -> tuple[int, list[tuple[float, str]]]:
    """Seed by seed; numbers by size, everything else by its text."""

    def one(value: object) -> tuple[float, str]:
        return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))

    return entry["seed"], [one(value) for value in entry["values"].values()]
