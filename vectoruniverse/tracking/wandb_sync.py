"""Uploads a run that was written offline, through ``wandb sync``; it never asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from vectoruniverse.errors import ConfigError, UserError, one_line

_FOLDER = re.compile(r"(?P<offline>offline-)?run-(?P<time>\d{8}_\d{6})-.+")
_ADDRESS = re.compile(r"View run .* at (?P<address>https?://\S+)")
_FAILURE = re.compile(r"^(?:wandb: ERROR|Error:)\s+(?P<reason>.+)$", re.MULTILINE)
_TRIES = "4"  # wandb tries 20 times, which against a server that is away takes half an hour


def sync(run_folder: Path, timeout: float = 600.0) -> str | None:
    """Upload the run's offline file, the whole run, under the run's own id.

    Of several files the latest is taken: a resumed run begins its file with what came before. The file is left in
    place and marked by wandb, so that a second call uploads nothing. Nobody may be training this run meanwhile. As
    ``wandb sync`` always does, it leaves its log in ``./wandb/logs``.

    Args:
        run_folder: the run folder.
        timeout: seconds that the upload may take.

    Returns:
        The run's address, or an empty text if wandb does not tell it; None when it had been uploaded before.

    Raises:
        ConfigError: there is nothing to upload.
        UserError: no key, a server that does not answer or says no, or not done in time; the reason is wandb's own.
    """
    folder = _latest(run_folder)
    if _is_synced(folder):
        return None
    output = _run_wandb_sync(folder, timeout)
    if not _is_synced(folder):  # `wandb sync` leaves with 0 whether the server took the run or not
        reasons = [one_line(found["reason"]) for found in _FAILURE.finditer(output)]
        told = [text for text in reasons if not text.startswith("Find detailed error logs")]
        reason = told[0] if told else one_line(output[-300:]) or "it does not say why"
        raise UserError(
            f"the run was not uploaded: {reason}",
            file=run_folder,
            remedy="see to the key (wandb login) and the network, then do it again",
        )
    address = _ADDRESS.search(output)
    return one_line(address["address"]) if address else ""


def _latest(run_folder: Path) -> Path:
    """The latest of wandb's folders below a run, which must be an offline one."""
    found = [
        (match["time"], match["offline"] is not None, path)
        for path in (run_folder / "wandb").glob("*run-*")
        if path.is_dir() and not path.is_symlink() and (match := _FOLDER.fullmatch(path.name))
    ]
    if not found:
        raise ConfigError(
            "nothing to upload: the run has no wandb files",
            file=run_folder,
            remedy="wandb.mode: offline makes a run write them",
        )
    _, offline, folder = max(found)
    if not offline:
        raise ConfigError(
            "nothing to upload: the run was online",
            file=run_folder,
            remedy=f"if its end is missing there: wandb sync --include-online {folder}",
        )
    return folder


def _is_synced(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def _run_wandb_sync(folder: Path, timeout: float) -> str:
    # -P: a wandb.py in the working directory is not to be imported
    command = [sys.executable, "-P", "-m", "wandb", "sync", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, and a folder whose name was matched; no shell
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"the run was not uploaded within {timeout:g} s",
            file=folder,
            remedy="see to the network, then do it again; wandb goes on where it stopped",
        ) from error
    return done.stdout


def _environment() -> dict[str, str]:
    """The surroundings without what would keep wandb from uploading, or from saying why it did not."""
    left = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SILENT")}
    return {"WANDB_X_GRAPHQL_RETRY_MAX": _TRIES} | left
