"""Runs listed and found again; a run that says `running` although its process is gone is shown as `dead`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.folder import RUN_NAME, Run
from vectoruniverse.runs.process import is_dead


@dataclass(frozen=True)
class RunSummary:
    """A line of the list of runs: of ``RunState`` what people read, printable; None where it does not tell.

    ``state`` is a ``ShownState``, or what another version wrote.
    """

    run: Run
    state: str
    started: str | None
    ended: str | None
    metric: str | None
    best: float | None
    epoch: int | None
    message: str | None

    @property
    def begun(self) -> datetime | None:
        """When it was started; None where nobody knows."""
        try:
            moment = datetime.fromisoformat(self.started or "")
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs below ``runs_dir``, earliest first; folders that are no runs are passed over."""
    try:
        runs = [Run(path) for path in runs_dir.iterdir() if _is_run(path)]
    except OSError:
        return []
    summaries = [_summary(run) for run in runs]
    return sorted(summaries, key=lambda summary: (summary.started or _folder_time(summary.run), summary.run.name))


def default_runs_dir() -> Path:
    """Folder of the runs where nobody says otherwise: ``VU_RUNS``, else ``runs``."""
    return Path(os.environ.get("VU_RUNS") or "runs")


def find_trained_run(runs_dir: Path, reference: str, *, kind: str = "run") -> Run:
    """As ``find_run``, of a run that has come so far as to leave what it trained; the latest is the latest finished.

    Raises:
        ConfigError: there is no such run, or it has no adapter yet.
    """
    run = find_run(runs_dir, reference, among="finished", kind=kind)
    if not run.adapter.is_dir():
        raise ConfigError(
            f"{run.name} has no adapter yet (state: {run.read_state().state or 'unknown'})",
            remedy=f"finish it: vu train --resume {run.name}",
        )
    return run


def find_run(
    runs_dir: Path, reference: str, *, among: Literal["any", "finished", "resumable"] = "any", kind: str = "run"
) -> Run:
    """Find a run by path, by name, by a prefix that fits one run only, or the latest.

    Args:
        runs_dir: folder of the runs.
        reference: a path; a full name; `latest`; the name of an experiment, for its latest run; a unique prefix.
        among: which runs count for the latest, where there are such, those first that have come as far as a checkpoint;
            a name or path gives its run whatever its state.
        kind: what is looked for, as messages call it.

    Raises:
        ConfigError: nothing fits, or several do; the message lists them.
    """
    if reference and _is_run(path := Path(reference)):
        return Run(path if path.name not in ("", "..") else path.resolve())
    summaries = list_runs(runs_dir)
    runs = [summary.run for summary in summaries]
    named = [run for run in runs if run.name == reference]
    of_it = [summary for summary in summaries if reference in ("latest", summary.run.experiment)]
    usable = [summary.run for summary in _among(of_it, among) or of_it]
    latest = ([run for run in usable if run.is_trained] or usable)[-1:]
    matches = named or latest or [run for run in runs if reference and run.name.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    choices = [run.name for run in matches or runs][-10:]
    known = f"choose one of: {', '.join(choices)}" if choices else "train one first; there are no runs here yet"
    raise ConfigError(_missing(reference, kind, several=bool(matches)), file=runs_dir, remedy=known)


_RESUMABLE = ("interrupted", "dead", "failed", "unknown")


def _among(summaries: list[RunSummary], among: str) -> list[RunSummary]:
    if among == "finished":
        return [one for one in summaries if one.state == "finished"]
    return [one for one in summaries if among == "any" or (one.state in _RESUMABLE and one.run.config_file.is_file())]


def _missing(reference: str, kind: str, *, several: bool) -> str:
    if several:
        return f"{reference!r} fits several runs"
    if reference and _exists(Path(reference)):
        return f"{reference!r} is no folder of a {kind}, and no {kind} is called so"
    return f"no {kind} is called {reference!r}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, not readable, or with a NUL
        return False


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
    keys = ("state", "started", "ended", "metric", "best", "epoch", "message")
    facts = {key: _printable(getattr(told, key)) for key in keys}
    return RunSummary(run, **{**facts, "state": "dead" if is_dead(told) else facts["state"] or "unknown"})


def _printable(value: Any) -> Any:
    """A text with what no terminal can show or should obey, such as half of a surrogate pair, as �; else the value."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in value)


def _folder_time(run: Run) -> str:
    try:
        return datetime.fromtimestamp(run.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except (OSError, OverflowError, ValueError):  # deleted since, or of a time that no calendar has
        return ""
