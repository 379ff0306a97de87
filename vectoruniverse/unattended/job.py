"""What cron and systemd start: the command of a schedule, with its keys, its log and its pings."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread
from typing import IO

from filelock import FileLock, Timeout

from vectoruniverse.errors import ConfigError, LockedError, UserError, reason
from vectoruniverse.runs.environment import without_secrets
from vectoruniverse.unattended.reach import status_of
from vectoruniverse.unattended.schedule import Place, Schedule, read_schedule

LOG_BYTES, LOG_FILES = 2**20, 5
"""A log is this long at most, and this many are kept."""
PING_SECONDS = 10.0
_LINE = 2**16
_AFTERWARDS = 5.0
"""Seconds to go on reading after the command has ended, since what it started may hold its output open."""

Write = Callable[[str], None]


def run_job(record: Path) -> int:
    """Run the command of a schedule to its end.

    Output goes to its log. Pings follow the convention of healthchecks.io: ADDRESS/start, then ADDRESS, or
    ADDRESS/CODE where it failed; that one of them is not taken is noted in the log and has no other effect.

    Args:
        record: the schedule's ``NAME.json``.

    Returns:
        The exit code of the command; 128 and the signal where one ended it.

    Raises:
        LockedError: its earlier run is still going on.
        UserError: the record, or what it names, is not there.
    """
    schedule, place = read_schedule(record), Place(record.parent)
    with _log(place.log(schedule.name)) as write:
        try:
            with _alone(place, schedule.name):
                _ping(schedule.ping, "/start", write)
                write(f"--- {_now()}: {shlex.join(['vu', *without_secrets(schedule.arguments)])}")
                code = _run(schedule, {**os.environ, **variables(place.environment, write)}, write)
        except UserError as error:
            write(f"--- {error}")
            _ping(schedule.ping, f"/{error.exit_code}", write)
            raise
        write(f"--- {_now()}: exit code {code}")
        _ping(schedule.ping, "" if code == 0 else f"/{code}", write)
    return code


def _now() -> str:
    return f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"


def variables(file: Path, write: Write) -> dict[str, str]:
    """The variables of a file of ``NAME=VALUE`` lines, none where there is no file.

    Args:
        file: the file.
        write: takes what is wrong with it; a line that is no variable is told by its number, for it may be a secret.
    """
    if not file.is_file():
        return {}
    if file.stat().st_mode & 0o077:
        write(f"--- others can read {file}: chmod 600 it")
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if name.isidentifier() and equals and "\0" not in value:
            found[name] = _unquoted(value.strip())
        elif line.strip() and not line.lstrip().startswith("#"):
            write(f"--- {file}:{number} is no NAME=VALUE")
    return found


def _run(schedule: Schedule, environment: dict[str, str], write: Write) -> int:
    """Start the command, hand SIGTERM, SIGHUP and SIGUSR1 on to it, and wait."""
    try:
        process = subprocess.Popen(  # noqa: S603 - what the user has scheduled, no shell
            [schedule.program, *schedule.arguments],
            cwd=schedule.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        message = f"cannot be started: {error.strerror}"
        raise ConfigError(message, file=error.filename, remedy="vu schedule add, from where it is now") from error
    assert process.stdout is not None
    reader = Thread(target=_copy, args=(process.stdout, write), daemon=True)
    reader.start()
    for handed_on in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(handed_on, lambda number, frame: process.send_signal(number))
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the terminal gives it to the command, too
    code = process.wait()
    reader.join(_AFTERWARDS)
    return code if code >= 0 else 128 - code


def _copy(stream: IO[bytes], write: Write) -> None:
    with stream:
        for line in iter(lambda: stream.readline(_LINE), b""):
            write(line.decode(errors="backslashreplace").rstrip("\n"))


@contextlib.contextmanager
def _log(file: Path) -> Iterator[Write]:
    """Lines go to a file that begins anew before it is too long; a disk that is full stops no training."""
    logging.raiseExceptions = False
    handler = RotatingFileHandler(
        file, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8", errors="backslashreplace", delay=True
    )

    def write(line: str) -> None:
        handler.handle(logging.makeLogRecord({"msg": line}))

    try:
        yield write
    finally:
        handler.close()


@contextlib.contextmanager
def _alone(place: Place, name: str) -> Iterator[None]:
    """Hold the schedule's lock.

    Raises:
        LockedError: its earlier run holds it.
    """
    try:
        held = FileLock(place.folder / f"{name}.lock").acquire(timeout=0)
    except Timeout:
        raise LockedError(f"{name}: the earlier run is still going on, this one is left out") from None
    with held:
        yield


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _ping(address: str | None, what: str, write: Write) -> None:
    if address is None:
        return
    try:
        status = status_of(address + what, PING_SECONDS)
    except Exception as error:  # as status_of says
        write(f"--- ping: no answer ({reason(error)})")
    else:
        if status >= 400:
            write(f"--- ping: answered with {status}")
