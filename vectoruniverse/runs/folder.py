"""The run folder ``runs/<experiment>-<id>/``: made, locked, written.

Every file is replaced as a whole. ``state.json`` tells how the run fares.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vectoruniverse.errors import ConfigError, DataError, LockedError
from vectoruniverse.runs.durable import (
    disk_full_is_told,
    remove_unfinished,
    sync_folder,
    write_durably,
    write_errors_are_told,
)
from vectoruniverse.runs.files import Record, read_record, record_text
from vectoruniverse.runs.locks import lock_file
from vectoruniverse.runs.process import here
from vectoruniverse.runs.records import EvaluationRecord, RunState
from vectoruniverse.runs.states import State

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no i, l, o, 0, 1: names are read aloud and typed
BUILDING = ".run.tmp"
"""How the names of run folders end that are being made, or removed; whoever makes a run clears them away."""
RUN_NAME = re.compile(r"(?P<experiment>.+)-\d{8}-\d{4}-[a-z0-9]{4}")


class _Inside:
    """A file or folder of a run, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: Run, _: type[Run]) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class Run:
    """One execution of an experiment, as its folder."""

    path: Path

    config_file = _Inside("config.yaml")  # resolved configuration
    environment_file = _Inside("environment.json")  # versions and hardware
    metrics_file = _Inside("metrics.jsonl")  # one line of numbers per logged step
    state_file = _Inside("state.json")  # how the run fares
    checkpoints = _Inside("checkpoints")  # what is needed to resume
    adapter = _Inside("adapter")  # the best one
    evaluation_file = _Inside("evaluation.json")  # the best adapter beside its base
    report_file = _Inside("report.html")  # one self-contained page
    readme_file = _Inside("README.md")  # what the run is, for people

    @property
    def name(self) -> str:
        """`<experiment>-<id>`."""
        return self.path.name

    @property
    def experiment(self) -> str:
        """Name of the experiment, which is the run's name without its id."""
        match = RUN_NAME.fullmatch(self.name)
        return match["experiment"] if match else self.name

    @property
    def is_trained(self) -> bool:
        """Whether it has come as far as a checkpoint."""
        return self.adapter.is_dir() or any(self.checkpoints.glob("step-*/manifest.json"))

    def write_text(self, name: str, text: str) -> Path:
        """Replace the file ``name`` of the run as a whole and return its path."""
        path = self.path / name
        assert path.parent == self.path, name
        with write_errors_are_told(path):
            write_durably(path, text)
        return path

    def write_record(self, name: str, record: Record) -> Path:
        """Replace the file ``name`` with a record."""
        return self.write_text(name, record_text(record))

    def set_state(self, state: State, **facts: str | int | float | None) -> None:
        """Write ``state.json``: facts given earlier stay, these are added, time and process are filled in.

        Args:
            state: `running` at the start and after a resume, otherwise how the run ended.
            facts: fields of ``RunState``.
        """
        now, earlier = datetime.now(UTC).isoformat(timespec="milliseconds"), self.read_state()
        told: dict[str, object] = {"state": state}
        if state == "running":
            told |= here() | {"ended": None, "message": None}
            told |= {"resumed": now} if earlier.started else {"started": now}
        else:
            told["ended"] = now
        self._write_state(earlier, told | facts)

    def note(self, **facts: str | int | float | None) -> None:
        """Add facts to ``state.json``, or change them; the state stays."""
        self._write_state(self.read_state(), facts)

    def _write_state(self, earlier: RunState, facts: Mapping[str, object]) -> None:
        self.write_record(self.state_file.name, RunState.model_validate({**earlier.model_dump(), **facts}))

    def read_state(self) -> RunState:
        """What ``state.json`` tells; nothing where it is absent or damaged."""
        try:
            return read_record(self.state_file, RunState, inside=self.path)
        except DataError:
            return RunState()

    def read_evaluation(self) -> EvaluationRecord | None:
        """What ``evaluation.json`` holds; None where it is absent or damaged."""
        try:
            return read_record(self.evaluation_file, EvaluationRecord, inside=self.path)
        except DataError:
            return None

    @contextlib.contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Keep other processes off this run, or ``wait`` for them; the system frees the lock when the process dies.

        Whoever holds it is the only one that writes into the folder, so what a killed process left half written there
        is cleared away.

        Raises:
            LockedError: another process holds the run.
            DataError: the lock is no regular file.
        """
        if not self.path.is_dir():
            raise DataError("is there no more", file=self.path, remedy="vu runs lists those that are there")
        with lock_file(self.path / ".lock", self._held, wait=wait):
            for folder in (self.path, self.adapter, self.path / "figures"):
                remove_unfinished(folder)
            yield

    def _held(self) -> LockedError:
        holder = self.read_state()
        who = "another process" if holder.pid is None else f"process {holder.pid} on {holder.host}"
        return LockedError(f"{who} works on this run", file=self.path, remedy="wait for it, or end that process first")


@contextlib.contextmanager
def making_runs(runs_dir: Path) -> Iterator[None]:
    """Keep other processes from making runs in a folder, which takes them a moment: they are waited for.

    Raises:
        ConfigError: ``runs_dir`` cannot be written.
    """
    _make_folder(runs_dir)
    with lock_file(runs_dir / ".new.lock", wait=True):
        yield


def create_run(runs_dir: Path, experiment: str, files: Mapping[str, str] | None = None) -> Run:
    """Make a new run folder such as ``clip_lora_r8-20261121-2354-k3f9`` (UTC); it never meets an existing one.

    It is filled under a hidden name and then renamed, so that it is there with all its ``files`` or not at all.

    Args:
        runs_dir: where it goes.
        experiment: the first part of its name.
        files: name → content of what it holds from the beginning.

    Raises:
        ConfigError: ``runs_dir`` cannot be written.
        ResourceError: the disk is full.
    """
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", experiment), experiment
    _make_folder(runs_dir)
    _remove_unfinished_runs(runs_dir)
    while True:
        suffix = "".join(secrets.choice(_ALPHABET) for _ in range(4))
        path = runs_dir / f"{experiment}-{datetime.now(UTC):%Y%m%d-%H%M}-{suffix}"
        if _fill(path, files or {}):
            return Run(path)


def _make_folder(folder: Path) -> None:
    try:
        with disk_full_is_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError("is a file, not a folder", file=folder, remedy="choose another folder") from error
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    said = f"cannot make a run folder here: {error.strerror or error}"
    return ConfigError(said, file=folder, remedy="choose a folder you can write")


def _fill(path: Path, files: Mapping[str, str]) -> bool:
    """Make the folder with its files; False where its name is taken, or somebody took it for a dead one's."""
    building = path.with_name(f".{path.name}{BUILDING}")
    try:
        with disk_full_is_told(path.parent):
            building.mkdir()
            try:
                with lock_file(building / ".lock"):
                    if path.exists():
                        shutil.rmtree(building)
                        return False
                    for name, text in files.items():
                        write_durably(building / name, text)
                (building / ".lock").unlink()
                building.rename(path)
            except (FileNotFoundError, LockedError):
                return False
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return True


def _remove_unfinished_runs(runs_dir: Path) -> None:
    """Clear away run folders that killed processes did not finish making; those being made are locked.

    The rename takes a folder from whoever may be about to give it its name: one of the two wins, never both.
    """
    for building in runs_dir.glob(f".*{BUILDING}"):
        if building.is_symlink():
            continue
        dead = building.with_name(f".{secrets.token_hex(8)}{BUILDING}")
        with contextlib.suppress(OSError, LockedError, DataError):
            with lock_file(building / ".lock"):
                building.rename(dead)
            shutil.rmtree(dead)
