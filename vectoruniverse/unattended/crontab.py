"""The crontab of this user: one line for each schedule, and whatever else is in it byte for byte as it was.

Libraries that parse a crontab write all of it anew in their own spelling, foreign lines too; so it is bytes here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

from vectoruniverse.errors import ConfigError, UserError, one_line
from vectoruniverse.unattended.schedule import Place, Schedule

_NONE_YET = re.compile(rb"no crontab for|can't open .*No such file")
_SECONDS = 30.0


def crontab_line(schedule: Schedule, place: Place) -> bytes:
    """The line that starts a schedule; to the shell, its end is a comment.

    Raises:
        ConfigError: a path has what cron changes or ends a line at.
    """
    command = shlex.join([schedule.program, "schedule", "run", str(place.record(schedule.name))])
    if any(odd in command for odd in "\\\r\n"):
        message = f"a path has a backslash or a line break, which a crontab cannot hold: {one_line(command)}"
        raise ConfigError(message, remedy="use --systemd, or set XDG_CONFIG_HOME to another folder")
    command = command.replace("%", r"\%")  # else cron ends the command there, also within quotes
    return os.fsencode(f"{schedule.at} {command}") + _mark(schedule.name)


def with_line(table: bytes, name: str, line: bytes) -> bytes:
    """The table with this line for a schedule, in the place of the one that it had."""
    lines = _lines(table)
    own = [at for at, text in enumerate(lines) if _is_own(text, name)]
    if not own:
        return b"".join(text + b"\n" for text in [*lines, line])
    kept = [line if at == own[0] else text for at, text in enumerate(lines) if at not in own[1:]]
    return b"".join(text + b"\n" for text in kept)


def without_line(table: bytes, name: str) -> bytes:
    """The table without the line of a schedule."""
    return b"".join(text + b"\n" for text in _lines(table) if not _is_own(text, name))


def has_line(table: bytes, name: str) -> bool:
    """Whether a schedule has a line there."""
    return any(_is_own(text, name) for text in _lines(table))


def read_crontab() -> bytes:
    """The whole table; empty where this user has none.

    Raises:
        ConfigError: there is no program ``crontab``.
        UserError: it refuses; the reason is its own.
    """
    done = _crontab("-l")
    if done.returncode == 0:
        return done.stdout
    if _NONE_YET.search(done.stderr):
        return b""
    raise _refusal("cannot be read", done)


def write_crontab(table: bytes) -> None:
    """Replace the table, which ``crontab`` checks first.

    Raises:
        ConfigError: there is no program ``crontab``.
        UserError: it refuses, and the earlier table is in force; the reason is its own.
    """
    done = _crontab("-", given=table)
    if done.returncode != 0:
        raise _refusal("is as it was, for this was refused", done)


def _crontab(argument: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("crontab")
    if program is None:
        raise ConfigError("there is no crontab here", remedy="install cron (apt install cron), or use --systemd")
    try:
        return subprocess.run(  # noqa: S603 - a program of the system and a fixed argument, no shell
            [program, argument],
            input=given,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"crontab {argument} does not work: {one_line(str(error))}") from error


def _refusal(what: str, done: subprocess.CompletedProcess[bytes]) -> UserError:
    said = one_line(done.stderr.decode(errors="replace")) or f"it left with {done.returncode}"
    return UserError(f"the crontab {what}: {said}")


def _lines(table: bytes) -> list[bytes]:
    return table.removesuffix(b"\n").split(b"\n") if table else []


def _mark(name: str) -> bytes:
    return f"  # vectoruniverse: {name}".encode()


def _is_own(line: bytes, name: str) -> bool:
    return line.endswith(_mark(name)) and not line.lstrip().startswith(b"#")
