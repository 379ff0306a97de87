"""Runs listed and found again; a run that says `running` although its process is gone is shown as `dead`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.folder import RUN_NAME, Run
from vectoruniverse.runs.process import is_dead


@dataclass(frozen=True)
class RunSummary:
    """A line of the list of runs; what a damaged ``state.json`` does not tell is None.

    Args:
        run: the run.
        state: a ``State``, `dead` (says `running`, but its process on this host is gone) or `unknown`.
        started: UTC, ISO 8601.
        ended: UTC, ISO 8601.
        metric: name of the monitored metric.
        best: its best value.
        epoch: last finished epoch.
        message: why it ended so.
    """

    run: Run
    state: str
    started: str | None
    ended: str | None
    metric: str | None
    best: float | None
    epoch: int | None
    message: str | None


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs below ``runs_dir``, earliest first; folders that are no runs are passed over."""
    try:
        runs = [Run(path) for path in runs_dir.iterdir() if _is_run(path)]
    except OSError:
        return []
    summaries = [_summary(run) for run in runs]
    return sorted(summaries, key=lambda summary: (summary.started or _folder_time(summary.run), summary.run.name))


def find_trained_run(runs_dir: Path, reference: str) -> Run:
    """As ``find_run``, of a run that has come so far as to leave what it trained.

    Raises:
        ConfigError: there is no such run, or it has no adapter yet.
    """
    run = find_run(runs_dir, reference)
    if not run.adapter.is_dir():
        raise ConfigError(
            f"{run.name} has no adapter yet (state: {run.read_state().state or 'unknown'})",
            remedy=f"finish it: vu train --resume {run.name}",
        )
    return run


def find_run(runs_dir: Path, reference: str) -> Run:
    """Find a run by path, by name, by a prefix that fits one run only, or the latest.

    Args:
        runs_dir: folder of the runs.
        reference: a path; a full name; `latest`; the name of an experiment, for its latest run; a unique prefix.

    Raises:
        ConfigError: nothing fits, or several do; the message lists them.
    """
    if reference and _is_run(path := Path(reference)):
        return Run(path)
    runs = [summary.run for summary in list_runs(runs_dir)]
    named = [run for run in runs if run.name == reference]
    latest = [run for run in runs if reference in ("latest", run.experiment)][-1:]
    matches = named or latest or [run for run in runs if reference and run.name.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    what = f"{reference!r} fits several runs" if matches else f"no run is called {reference!r}"
    choices = [run.name for run in matches or runs][-10:]
    known = f"choose one of: {', '.join(choices)}" if choices else "train one first; there are no runs here yet"
    raise ConfigError(what, file=runs_dir, remedy=known)


def _is_run(path: Path) -> bool:
    """Tell a run folder from anything else: by its files, or by its name while it is still empty."""
    try:
        if not path.is_dir():
            return False
        return (path / "state.json").is_file() or RUN_NAME.fullmatch(path.name) is not None
    except (OSError, ValueError):  # too long, not readable, or with a NUL
        return False


def _summary(run: Run) -> RunSummary:
    told = run.read_state()

    def text(value: str | None) -> str | None:
        return None if value is None else _printable(value)

    return RunSummary(
        run=run,
        state="dead" if is_dead(told) else text(told.state) or "unknown",
        started=text(told.started),
        ended=text(told.ended),
        metric=text(told.metric),
        best=told.best,
        epoch=told.epoch,
        message=text(told.message),
    )


def _printable(text: str) -> str:
    """The text with what no terminal can show or should obey, such as half of a surrogate pair, as �."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)


def _folder_time(run: Run) -> str:
    try:
        return datetime.fromtimestamp(run.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except (OSError, OverflowError, ValueError):  # deleted since, or of a time that no calendar has
        return ""
