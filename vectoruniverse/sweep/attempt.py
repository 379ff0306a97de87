"""One attempt at one cell of a sweep, in whatever process that is.

A cell is an ordinary run, and known as any other (``tasks.same_run``): finished ones are not run again, nor those that
diverged, interrupted ones go on from their last checkpoint, failed ones are tried again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vectoruniverse import experiment as runner
from vectoruniverse.errors import DivergedError, LockedError, UserError
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.runs.outcomes import PER_QUERY_FILE
from vectoruniverse.sweep.cells import Cell
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.identity import describe_base
from vectoruniverse.tasks.recorded_rows import DATA_FILE
from vectoruniverse.tasks.results import Outcome
from vectoruniverse.tasks.same_run import same_runs
from vectoruniverse.terminal import Display
from vectoruniverse.training.device import reset_peak
from vectoruniverse.training.interruption import InterruptedTraining


@dataclass(frozen=True, slots=True)
class Job:
    """A cell that is to be brought to its end.

    Attributes:
        cell: the cell.
        title: for people.
        runs_dir: where its run is, or is to be.
        group: of its run at Weights & Biases.
        aside: names of runs that it is not: of the sweep as it was before it was begun again.
    """

    cell: Cell
    title: str
    runs_dir: Path
    group: str
    aside: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        state: ``held``: another process trains it.
        run: name of the run, where there is one.
        message: why it failed.
        seconds: that were spent in training steps, and in evaluations between them; None where nothing was trained.
    """

    state: Literal["finished", "failed", "stopped", "interrupted", "held"]
    run: str | None = None
    message: str | None = None
    seconds: tuple[float, float] | None = None


def attempt(job: Job, bases: Bases) -> Ending:
    """Bring a cell to its end, whatever that is; of one that is done, or has diverged, tell so.

    One cell's failure, even a bug of ours, must not cost the others, so it is told and not raised.

    Raises:
        InterruptedTraining, KeyboardInterrupt: somebody asked to stop.
        LockedError: another process does something else with its run.
    """
    run = None
    try:
        shared = bases.of(job.cell.experiment)
        run = find_cell_run(job.runs_dir, job.cell, shared.data.fingerprint(), job.aside)
        if run is not None and (ending := ended_before(run, job.cell.title, bases.display)) is not None:
            return ending
        bases.display.say(job.title)
        trained = _train(job, run, shared, bases)
        return Ending("finished", trained.run.name, seconds=(trained.step_seconds, trained.evaluation_seconds))
    except (InterruptedTraining, KeyboardInterrupt):
        raise
    except LockedError as error:
        data = bases.of(job.cell.experiment).data.fingerprint()
        run = run or find_cell_run(job.runs_dir, job.cell, data, job.aside)
        if run is None:
            raise
        bases.display.say(f"{job.cell.title}: {error.message}")
        return Ending("held", run.name)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        state: Literal["stopped", "failed"] = "stopped" if isinstance(error, DivergedError) else "failed"
        return Ending(state, unfinished_run(job), said)


def _train(job: Job, run: Run | None, shared: Shared, bases: Bases) -> Outcome:
    """Train a cell, or go on with its run."""
    reset_peak(shared.compute.device)
    if run is not None and (run.path / DATA_FILE).is_file():
        outcome = runner.resume(str(run.path), runs_dir=job.runs_dir, display=bases.display, shared=shared)
    else:
        grouped = job.cell.experiment.wandb.model_copy(update={"group": job.group})
        experiment = job.cell.experiment.model_copy(update={"wandb": grouped})
        outcome = runner.train(experiment, runs_dir=job.runs_dir, display=bases.display, shared=shared)
    assert outcome is not None, "it was not finished, and this is the only process"
    return outcome


def ended_before(run: Run, title: str, display: Display) -> Ending | None:
    """How a cell's run ended that is not to be trained again; None where it is."""
    if is_finished(run):
        display.say(f"{title}: done already ({run.name})")
        return Ending("finished", run.name)
    if (told := run.read_state()).state == "stopped":
        display.say(f"{title}: {run.name} has stopped, and would again; --force trains it once more")
        return Ending("stopped", run.name, told.message or "it does not say why")
    return None


def unfinished_run(job: Job) -> str | None:
    """Name of a cell's latest run, if it came so far as to have one."""
    runs = [one.run for one in list_runs(job.runs_dir) if one.run.experiment == job.cell.experiment.name]
    return runs[-1].name if runs else None


def find_cell_run(runs_dir: Path, cell: Cell, data: str, aside: Collection[str] = ()) -> Run | None:
    """The run of a cell, a finished one if there is one, else the latest; ``aside`` are names of those not to take."""
    base = describe_base(cell.experiment)
    found = [one.run for one in same_runs(cell.experiment, runs_dir, base, data) if one.run.name not in aside]
    return next((run for run in found if is_finished(run)), found[-1] if found else None)


def is_finished(run: Run) -> bool:
    """Whether a run left all that a sweep needs of it."""
    has_results = (run.path / PER_QUERY_FILE).is_file() and run.read_evaluation() is not None
    return run.read_state().state == "finished" and has_results
