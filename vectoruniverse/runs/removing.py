"""Runs, and the checkpoints of runs, removed from the disk: at once for whoever looks, and never half of one."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vectoruniverse.errors import ConfigError, LockedError
from vectoruniverse.runs.folder import BUILDING, RUN_NAME, Run
from vectoruniverse.runs.tags import tags_held


def bytes_of(path: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum(one.lstat().st_size for one in path.rglob("*") if not one.is_dir() or one.is_symlink())


def refuse_strange(run: Run) -> None:
    """See that a folder is a run of its own, which may be removed.

    Raises:
        ConfigError: it is a link, or has neither the name nor the files of a run.
    """
    if run.path.is_symlink() or run.checkpoints.is_symlink():
        raise ConfigError("is a link, which is not followed", file=run.path, remedy="remove it by hand")
    if RUN_NAME.fullmatch(run.name) is None or not (run.config_file.is_file() or run.state_file.is_file()):
        raise ConfigError("is not a run's folder", file=run.path, remedy="remove it by hand")


def remove_run(run: Run) -> None:
    """Remove a run that nobody works on: renamed first, so that a kill leaves nothing that counts as a run.

    Raises:
        ConfigError: it is none, or the system does not let one remove it.
        DataError: its tags cannot be read.
        LockedError: another process works on it, or somebody has tagged it.
    """
    refuse_strange(run)
    dead = run.path.with_name(f".{secrets.token_hex(8)}{BUILDING}")  # which whoever makes a run clears away
    try:
        with _untagged(run):
            run.path.rename(dead)
        with contextlib.suppress(FileNotFoundError):  # somebody who makes a run has cleared it away
            shutil.rmtree(dead)
    except OSError as error:
        raise ConfigError(f"cannot be removed: {error.strerror or error}", file=run.path) from error


def remove_checkpoints(run: Run) -> None:
    """Remove the checkpoints of a run that needs none any more: its adapter, numbers and report stay.

    Raises:
        ConfigError: it is no run, has not finished, or the system does not let one remove them.
        DataError: its tags cannot be read.
        LockedError: another process works on it, or somebody has tagged it.
    """
    refuse_strange(run)
    dead = run.path / f".checkpoints.{secrets.token_hex(8)}.tmp"
    try:
        with _untagged(run):
            if run.read_state().state != "finished":
                raise ConfigError("has not finished and needs its checkpoints", file=run.path)
            run.checkpoints.rename(dead)
            shutil.rmtree(dead)
    except OSError as error:
        raise ConfigError(f"checkpoints cannot be removed: {error.strerror or error}", file=run.path) from error


@contextlib.contextmanager
def _untagged(run: Run) -> Iterator[None]:
    """Hold a run, and its tags, while it has none: somebody may have tagged it since it was chosen."""
    with run.lock(), tags_held(run) as tags:
        if tags:
            raise LockedError(f"was tagged {', '.join(tags)} meanwhile", file=run.path, remedy="vu runs tag --remove")
        yield
