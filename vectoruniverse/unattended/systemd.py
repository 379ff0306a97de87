"""A schedule as two units of systemd's user manager: a service that runs it, and a timer that starts the service."""

from __future__ import annotations

import os
from pathlib import Path

from vectoruniverse.runs.durable import write_durably, write_errors_are_told
from vectoruniverse.unattended.cron_time import CronTime
from vectoruniverse.unattended.schedule import Place, Schedule, config_home


def units(schedule: Schedule, place: Place) -> dict[Path, str]:
    """Content of the service and the timer, by the files they go to.

    Raises:
        ConfigError: the time has no word in systemd; or there is no home folder.
    """
    service, timer = unit_files(schedule.name)
    described = f"Description=vectoruniverse: {schedule.name}"
    started = " ".join(map(_quoted, ("schedule", "run", str(place.record(schedule.name)))))
    # mixed: a signal goes to the job, which hands it on once; a second one would end a training without a checkpoint
    return {
        service: f"""[Unit]
{described}

[Service]
Type=oneshot
ExecStart={_quoted(schedule.program, is_program=True)} {started}
KillMode=mixed
TimeoutStopSec=300
""",
        timer: f"""[Unit]
{described}

[Timer]
OnCalendar={CronTime.parse(schedule.at).on_calendar}
Persistent=true

[Install]
WantedBy=timers.target
""",
    }


def unit_files(name: str) -> tuple[Path, Path]:
    """Where the service and the timer of a schedule are.

    Raises:
        ConfigError: there is no home folder.
    """
    folder = config_home() / "systemd" / "user"
    return folder / f"vectoruniverse-{name}.service", folder / f"vectoruniverse-{name}.timer"


def write_units(schedule: Schedule, place: Place) -> None:
    """Write both; the user's manager reads them when it is told to.

    Raises:
        UserError: they cannot be written.
    """
    for file, content in units(schedule, place).items():
        with write_errors_are_told(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, content)


def remove_units(name: str) -> bool:
    """Delete both; whether there were any."""
    there = [file for file in unit_files(name) if os.path.lexists(file)]
    for file in there:
        with write_errors_are_told(file):
            file.unlink()
    return bool(there)


def _quoted(text: str, *, is_program: bool = False) -> str:
    """An argument as ``ExecStart=`` reads it: without specifiers; variables are not looked for in the first."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{text if is_program else text.replace("$", "$$")}"'
