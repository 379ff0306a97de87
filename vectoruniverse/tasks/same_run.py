"""Whether an experiment has been run already, and what has changed since the latest run of its name that is another.

Two runs are the same where their experiment has one name, and settings (without what changes no result), version of
this package, base model and data are equal. Each run notes its ``identity`` in ``base.json``, and its data beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse import __version__
from vectoruniverse.config.loading import file_fingerprint, read_config, result_settings
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import DivergedError, LockedError, UserError
from vectoruniverse.evaluation.runs import flatten
from vectoruniverse.runs.base_record import BaseRecord, recorded_base
from vectoruniverse.runs.files import read_bytes, read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.listing import RunSummary, list_runs
from vectoruniverse.runs.records import Environment
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tasks.identity import describe_base, hashes_of
from vectoruniverse.tasks.recorded_rows import DATA_FILE, read_rows_of, row_changes
from vectoruniverse.tasks.rows import Data
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display
from vectoruniverse.training.precision import for_this_device
from vectoruniverse.training.threads import threads_of_run

MOST_KEYS = 8
"""Changed settings that are told."""
LONGEST = 60
"""Characters of a value that are told."""

ENDS_THE_SAME = "change what it says, or train it once more with --force: with nothing changed, it ends the same"
"""What to do about a run that has stopped."""

_ENDED = ("finished", "stopped")


def identity(experiment: Experiment, base: BaseRecord, version: str | None = None) -> str:
    """SHA-256 (hexadecimal) of all that makes an experiment's result but its data.

    ``train.precision`` counts as it was asked for: ``auto`` stays ``auto``, whatever was measured. The version is that
    of the package and not a commit: an installed package has none, and that of the working directory is of the user's
    own project. Names, trackers, reports, devices, caches and places do not count, so that no key or login does.

    Args:
        experiment: as it was asked for.
        base: what it starts from.
        version: of the package that ran it; this one unless given.
    """
    start = experiment.adapter.init_from
    told = {
        "settings": result_settings(experiment.model_dump(mode="json")),
        "version": version or __version__,
        "base": base.commit or base.files or base.model,
        "init_from": None if start is None else hashes_of(Path(start).expanduser()),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def same_runs(experiment: Experiment, runs_dir: Path, base: BaseRecord, data: str | None = None) -> list[RunSummary]:
    """Runs of this experiment, earliest first.

    Args:
        experiment: as it was asked for.
        runs_dir: where they are.
        base: what it starts from.
        data: fingerprint of the data that they were trained on; None: of any.
    """
    named = [one for one in list_runs(runs_dir) if one.run.experiment == experiment.name]
    wanted = identity(experiment, base) if named else ""
    return [one for one in named if _identity_of(one.run) == wanted and data in (None, _data_of(one.run))]


def _identity_of(run: Run) -> str | None:
    """What a run noted, or what its files tell where an earlier version made it; None where it cannot be told.

    A run whose ``config.yaml`` was edited is none that anything could be the same as.
    """
    try:
        held = recorded_base(run.path)
        if held is None or held.settings != file_fingerprint(read_config(run.config_file), run.config_file):
            return None
        if held.identity is not None:
            return held.identity
        asked = _asked(run)
        version = _environment(run).packages.get("vectoruniverse")
    except UserError:  # killed before it was described, or meddled with
        return None
    return None if version is None or asked.adapter.init_from is not None else identity(asked, held, version)


def _data_of(run: Run) -> str | None:
    """Fingerprint of a run's data; None where it cannot be read."""
    try:
        return read_bytes(run.path / DATA_FILE, limit=256, inside=run.path).decode("ascii").strip()
    except (UserError, ValueError):
        return None


def _environment(run: Run) -> Environment:
    return read_record(run.environment_file, Environment, inside=run.path)


def _asked(run: Run) -> Experiment:
    """A run's experiment as it was asked for: where its precision was measured, ``auto``."""
    experiment, measured = load_config_of(run), _environment(run).precision
    if measured is None or measured.chosen != experiment.train.precision:
        return experiment
    return experiment.model_copy(update={"train": experiment.train.model_copy(update={"precision": "auto"})})


@dataclass(frozen=True, slots=True)
class SameRun:
    """A run of the experiment, and what it takes to go on with it.

    Attributes:
        run: the run.
        state: as ``RunSummary`` tells it.
        experiment: the experiment as the run computes it: in the precision that it chose.
        shared: its base and data.
    """

    run: Run
    state: str
    experiment: Experiment
    shared: Shared

    @property
    def words(self) -> str:
        """That it goes on, and why that is needed."""
        why = {"interrupted": "was interrupted", "failed": "failed", "dead": "was killed"}
        return f"going on with {self.run.name}, which {why.get(self.state, 'has not ended')}"


def find_same(experiment: Experiment, runs_dir: Path, display: Display, *, force: bool) -> SameRun | None:
    """The run that this experiment has had already: a finished one if there is one, else the latest; None without any.

    Data and base are loaded only where a run is the same but for the data.

    Args:
        experiment: as it was asked for.
        runs_dir: where the runs are.
        display: what a person sees.
        force: whether runs that came to an end do not count.

    Raises:
        DivergedError: it diverged, and would again.
        UserError: the data or the base cannot be loaded.
    """
    base = describe_base(experiment)
    found = _counting(same_runs(experiment, runs_dir, base), force)
    if not found:
        return None
    latest = found[-1].run
    with threads_of_run(latest.read_state().threads):
        as_run = _in_precision_of(latest, experiment)
        shared = setup(as_run).share(as_run, display)
    data = shared.data.fingerprint()
    found = [one for one in found if _data_of(one.run) == data]
    if not found:
        return None
    same = next((one for one in found if one.state == "finished"), found[-1])
    if same.state == "stopped":
        raise DivergedError(
            f"{same.run.name} is this very run, and has stopped: {same.message}",
            remedy=ENDS_THE_SAME,
        )
    if (own := _in_precision_of(same.run, experiment)) != as_run:
        shared = setup(own).share(own, display)
    return SameRun(same.run, same.state, own, shared)


def _counting(runs: Sequence[RunSummary], force: bool) -> list[RunSummary]:
    return [one for one in runs if not (force and one.state in _ENDED)]


def _in_precision_of(run: Run, experiment: Experiment) -> Experiment:
    """The experiment in the precision that a run of it computes in, where that was measured on such a device."""
    chosen = load_config_of(run).train.precision
    train = experiment.train.model_copy(update={"precision": chosen})
    return for_this_device(run, experiment.model_copy(update={"train": train}))


def refuse_begun(experiment: Experiment, runs_dir: Path, base: BaseRecord, data: str, *, force: bool) -> None:
    """Refuse to begin a run that another process has begun since it was looked for.

    Raises:
        LockedError: there is one.
    """
    if found := _counting(same_runs(experiment, runs_dir, base, data), force):
        remedy = "wait for it; the same command goes on with it, or tells that it has finished"
        raise LockedError("another process has just begun this run", file=found[-1].run.path, remedy=remedy)


def changes_since(
    experiment: Experiment, runs_dir: Path, base: BaseRecord, data: Data[Any, Any]
) -> tuple[str | None, list[str]]:
    """The latest run of the experiment's name that has been trained at all, and what is not as it was then, in words.

    Args:
        experiment: as it is asked for now.
        runs_dir: where the runs are.
        base: what it starts from now.
        data: its data now.
    """
    for earlier in reversed(list_runs(runs_dir)):
        if earlier.run.experiment == experiment.name and earlier.run.is_trained:
            try:
                return earlier.run.name, _changes(earlier.run, experiment, base, data)
            except UserError:  # meddled with, or of a version whose settings this one does not know
                continue
    return None, []


def _changes(run: Run, experiment: Experiment, base: BaseRecord, data: Data[Any, Any]) -> list[str]:
    before = flatten(result_settings(_asked(run).model_dump(mode="json")))
    now = flatten(result_settings(experiment.model_dump(mode="json")))
    changes, held, packages = _changed_keys(before, now), recorded_base(run.path), _environment(run).packages
    if held is not None and (held.commit, held.files) != (base.commit, base.files):
        names = base.model if held.model == base.model else f"{held.model} → {base.model}"
        changes.append(f"model {names}" + (f": {said}" if (said := held.difference(base)) else ""))
    if (was := packages.get("vectoruniverse")) != __version__:
        changes.append(f"vectoruniverse {was} → {__version__}")
    if (rows := read_rows_of(run)) is not None:
        changes += row_changes(rows, data.named_rows())
    return changes


def _changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    told = [f"{key} {_shown(before.get(key))} → {_shown(now.get(key))}" for key in keys[:MOST_KEYS]]
    return [*told, f"{len(keys) - MOST_KEYS} more keys"] if keys[MOST_KEYS:] else told


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
