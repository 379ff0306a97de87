"""The run folder ``runs/<experiment>-<id>/``: made, locked, written.

Every file is replaced as a whole. ``state.json`` tells how the run fares.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import filelock

from vectoruniverse.errors import ConfigError, LockedError
from vectoruniverse.runs.durable import disk_full_is_told, write_durably
from vectoruniverse.runs.process import here

State = Literal["running", "finished", "failed", "interrupted", "stopped"]

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no i, l, o, 0, 1: names are read aloud and typed
RUN_NAME = re.compile(r"(?P<experiment>.+)-\d{8}-\d{4}-[a-z0-9]{4}")


@dataclass(frozen=True)
class Run:
    """One execution of an experiment, as its folder.

    Args:
        path: the run folder.
    """

    path: Path

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
    def config_file(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment_file(self) -> Path:
        """Versions and hardware."""
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        """One line of numbers per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of what is needed to resume."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of the best adapter."""
        return self.path / "adapter"

    @property
    def evaluation_file(self) -> Path:
        """Evaluation of the best adapter beside its base."""
        return self.path / "evaluation.json"

    @property
    def report_file(self) -> Path:
        """The report, one self-contained page."""
        return self.path / "report.html"

    @property
    def readme_file(self) -> Path:
        """What the run is, for people."""
        return self.path / "README.md"

    @property
    def state_file(self) -> Path:
        """How the run fares."""
        return self.path / "state.json"

    def write_text(self, name: str, text: str) -> Path:
        """Replace the file ``name`` of the run as a whole and return its path."""
        path = self.path / name
        assert path.parent == self.path, name
        write_durably(path, text)
        return path

    def write_json(self, name: str, value: object) -> Path:
        """Replace the file ``name`` with strict JSON; ``value`` holds no NaN or infinity."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def set_state(self, state: State, **facts: str | int | float | None) -> None:
        """Write ``state.json``: facts given earlier stay, these are added, time and process are filled in.

        Args:
            state: `running` at the start and after a resume, otherwise how the run ended.
            facts: JSON scalars; ``best``, ``metric``, ``epoch`` and ``message`` appear in ``RunSummary``.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        earlier = self.read_state()
        record: dict[str, object] = {**earlier, "state": state}
        if state == "running":
            record |= here()
            record |= {"resumed": now} if "started" in earlier else {"started": now}
            for ending in ("ended", "message"):
                record.pop(ending, None)
        else:
            record["ended"] = now
        self.write_json(self.state_file.name, record | facts)

    def read_state(self) -> dict[str, object]:
        """Return what ``state.json`` holds; an absent or damaged file gives an empty dict."""
        return _read_object(self.state_file)

    def read_evaluation(self) -> dict[str, object]:
        """Return what ``evaluation.json`` holds; an absent or damaged file gives an empty dict."""
        return _read_object(self.evaluation_file)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes off this run; the system frees the lock when the process dies.

        Raises:
            LockedError: another process holds the run.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            holder = self.read_state()
            who = f"process {holder.get('pid')} on {holder.get('host')}" if "pid" in holder else "another process"
            raise LockedError(
                f"{who} works on this run", file=self.path, remedy="wait for it, or end that process first"
            ) from error
        try:
            yield
        finally:
            lock.release()


def create_run(runs_dir: Path, experiment: str) -> Run:
    """Make a new run folder such as ``clip_lora_r8-20261121-2354-k3f9`` (UTC); it never meets an existing one.

    Raises:
        ConfigError: ``runs_dir`` cannot be written.
        ResourceError: the disk is full.
    """
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", experiment), experiment
    while True:
        suffix = "".join(secrets.choice(_ALPHABET) for _ in range(4))
        path = runs_dir / f"{experiment}-{datetime.now(UTC):%Y%m%d-%H%M}-{suffix}"
        try:
            with disk_full_is_told(runs_dir):
                runs_dir.mkdir(parents=True, exist_ok=True)
                path.mkdir()
        except FileExistsError as error:
            if runs_dir.is_dir():
                continue
            raise ConfigError("is a file, not a folder", file=runs_dir, remedy="choose another folder") from error
        except OSError as error:
            raise ConfigError(
                f"cannot make a run folder here: {error.strerror or error}",
                file=runs_dir,
                remedy="choose a folder you can write",
            ) from error
        return Run(path)


def _read_object(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
