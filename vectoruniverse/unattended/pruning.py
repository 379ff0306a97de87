"""Which runs a disk can do without: all but those that are the best, new, named, at work or needed by something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vectoruniverse.errors import DataError, UserError
from vectoruniverse.report.sweep.record import read_sweep
from vectoruniverse.runs.base_record import recorded_base
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import RunSummary, list_runs
from vectoruniverse.runs.removing import bytes_of
from vectoruniverse.runs.tags import tags_of
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.unattended.schedule import experiments_scheduled


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked to go.

    Attributes:
        keep_last: newest runs of each experiment that stay.
        experiment: only runs of it; None: of any.
        state: only runs in it; None: in any.
        older_than: seconds since the start from which on a run may go; None: any age.
        checkpoints: only the checkpoints of finished runs.
    """

    keep_last: int = 3
    experiment: str | None = None
    state: str | None = None
    older_than: float | None = None
    checkpoints: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a run.

    Attributes:
        summary: the run.
        stays: why it stays; None where it goes.
        size: bytes that would be free.
    """

    summary: RunSummary
    stays: str | None
    size: int


def verdicts(runs_dir: Path, wanted: Wanted) -> Iterator[Verdict]:
    """What becomes of each run, earliest first."""
    runs = [one for one in list_runs(runs_dir) if not one.run.path.is_symlink()]
    reasons = dict(_reasons(runs, runs_dir, wanted))
    for one in runs:
        stays = reasons.get(one.run.name)
        place = one.run.checkpoints if wanted.checkpoints else one.run.path
        yield Verdict(one, stays, 0 if stays is not None or not place.is_dir() else bytes_of(place))


def _reasons(runs: list[RunSummary], runs_dir: Path, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Runs that stay, and why; of several reasons the last one counts, the first that a person would name."""
    needed, damaged = (set[str](), None) if wanted.checkpoints else _needed(runs, runs_dir)
    best = set() if wanted.checkpoints else set(_best(runs))
    yield from () if wanted.checkpoints else _scheduled(runs, runs_dir)
    for number, one in enumerate(runs):
        name = one.run.name
        newer = [other for other in runs[number + 1 :] if other.run.experiment == one.run.experiment]
        if wanted.checkpoints and (one.state != "finished" or not one.run.checkpoints.is_dir()):
            yield name, "has no checkpoints to spare"
        if not _asked(one, wanted):
            yield name, "was not asked for"
        if len(newer) < wanted.keep_last:
            yield name, f"one of the {wanted.keep_last} newest"
        if name in best:
            yield name, "the best of its experiment"
        if name in needed:
            yield name, "needed by a sweep or another run"
        if damaged is not None:
            yield name, f"{damaged} cannot be read, and may need it"
        if (tagged := _tags(one)) is not None:
            yield name, tagged
        if one.state == "running":
            yield name, "running"


def _scheduled(runs: list[RunSummary], runs_dir: Path) -> Iterator[tuple[str, str]]:
    """The newest run of each experiment that is scheduled, which the next night goes on with, or finds finished."""
    scheduled = experiments_scheduled(runs_dir)
    why = "may be scheduled: a schedule cannot be read" if scheduled is None else "is scheduled"
    for experiment, newest in {one.run.experiment: one.run.name for one in runs}.items():
        if scheduled is None or experiment in scheduled:
            yield newest, f"the newest of its experiment, which {why}"


def _asked(one: RunSummary, wanted: Wanted) -> bool:
    if wanted.experiment not in (None, one.run.experiment) or wanted.state not in (None, one.state):
        return False
    if wanted.older_than is None:
        return True
    return one.begun is not None and (datetime.now(UTC) - one.begun).total_seconds() > wanted.older_than


def _tags(one: RunSummary) -> str | None:
    try:
        tags = tags_of(one.run)
    except DataError:
        return "its tags.json is damaged"
    return f"tagged {', '.join(tags)}" if tags else None


def _starts(run: Run) -> Iterator[object]:
    """What a run started from, as far as its files can be read."""
    with contextlib.suppress(UserError):
        base = recorded_base(run.path)
        yield None if base is None else base.model
    with contextlib.suppress(UserError):
        experiment = load_config_of(run)
        yield from (experiment.model, experiment.adapter.init_from)


def _best(runs: list[RunSummary]) -> Iterator[str]:
    """The best finished run of each experiment, metric and data."""
    best: dict[tuple[str, str | None, str], RunSummary] = {}
    for one in runs:
        if one.state != "finished" or one.best is None:
            continue
        evaluation = one.run.read_evaluation()
        key = one.run.experiment, one.metric, "" if evaluation is None else evaluation.data
        if key not in best or one.best > (best[key].best or 0.0):
            best[key] = one
    return (one.run.name for one in best.values())


def _needed(runs: list[RunSummary], runs_dir: Path) -> tuple[set[str], str | None]:
    """Names of runs that a sweep's record tells of, or that others start from; and a sweep's record that is damaged."""
    needed, damaged = set(), None
    for file in sorted(runs_dir.glob("*/sweep.json")):
        try:
            record = read_sweep(file)
        except UserError:
            damaged = f"{file.parent.name}/{file.name}"
            continue
        needed |= {cell.run for cell in (*record.cells, *record.beside) if cell.run}
    for one in runs:
        parts = {part for start in _starts(one.run) if isinstance(start, str) for part in Path(start).parts}
        needed |= parts & {other.run.name for other in runs if other is not one}
    return needed, damaged
