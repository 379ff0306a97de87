"""Schedules put into force and taken out of it: their records, and the crontab lines or timers that start them."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from datetime import datetime

from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.environment import without_secrets
from vectoruniverse.runs.files import record_text
from vectoruniverse.unattended import crontab, systemd
from vectoruniverse.unattended.cron_time import CronTime
from vectoruniverse.unattended.job import variables
from vectoruniverse.unattended.schedule import Place, Schedule

_OF_A_SHELL = (
    *("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTPS_PROXY", "LD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "VU_CACHE", "VU_CACHE_LIMIT", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE"),
    "WANDB_PROJECT",
)
"""Variables that change what a run does; cron and systemd know none of them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule as it is listed.

    Attributes:
        name, when, command, log: as people read them.
        following: when it is due next, ISO 8601 in local time.
        by: what starts it; None where neither crontab nor systemd has it any more.
    """

    name: str
    when: str
    following: str
    by: str | None
    command: str
    log: str


def written(schedule: Schedule, place: Place, *, by_systemd: bool) -> dict[str, str]:
    """What ``add`` would write, by where it goes."""
    record = {str(place.record(schedule.name)): record_text(schedule)}
    return record | _starters(schedule, place, by_systemd)


def _starters(schedule: Schedule, place: Place, by_systemd: bool) -> dict[str, str]:
    if by_systemd:
        return {str(file): content for file, content in systemd.units(schedule, place).items()}
    return {"crontab": os.fsdecode(crontab.crontab_line(schedule, place))}


def add(schedule: Schedule, place: Place, *, by_systemd: bool) -> list[str]:
    """Put a schedule into force, in place of an earlier one of its name, whatever started that.

    Returns:
        What to tell a person.

    Raises:
        UserError: something cannot be written, or the time has no word in systemd.
    """
    starters = _starters(schedule, place, by_systemd)  # refused before anything is written
    table = _crontab_if_there() if by_systemd else crontab.read_crontab()
    said = [f"replaces the schedule {schedule.name!r} that there was"] if schedule.name in place.names() else []
    place.write(schedule)
    if by_systemd:
        said += _by_systemd(schedule, place, table)
    else:
        line = starters["crontab"]
        crontab.write_crontab(crontab.with_line(table or b"", schedule.name, os.fsencode(line)))
        said += [*_without_units(schedule.name), f"crontab: {line}"]
    time = CronTime.parse(schedule.at)
    return [
        *said,
        f"{schedule.name}: {time.words}, next {time.following(datetime.now().astimezone()):%Y-%m-%d %H:%M}",
        _about_variables(place),
        f"log: {place.log(schedule.name)}; try it now: vu schedule run {shlex.quote(str(place.record(schedule.name)))}",
    ]


def _about_variables(place: Place) -> str:
    """Where variables go, and which of this shell a run would lack."""
    known = variables(place.environment, lambda line: None)
    lacking = [name for name in _OF_A_SHELL if name in os.environ and name not in known]
    if not lacking:
        return f"keys such as WANDB_API_KEY go into {place.environment}"
    return f"a run will not know this shell's {', '.join(lacking)}; what it needs goes into {place.environment}"


def _by_systemd(schedule: Schedule, place: Place, table: bytes | None) -> list[str]:
    systemd.write_units(schedule, place)
    if table is not None and crontab.has_line(table, schedule.name):
        crontab.write_crontab(crontab.without_line(table, schedule.name))
    service, timer = systemd.unit_files(schedule.name)
    return [
        f"written: {service}",
        f"written: {timer}",
        f"start it with: systemctl --user daemon-reload && systemctl --user enable --now {timer.name}",
        "for nights in which you are not logged in: loginctl enable-linger",
    ]


def remove(name: str, place: Place) -> list[str]:
    """Take a schedule out of force.

    Returns:
        What to tell a person.

    Raises:
        UserError: there is none of that name, or the crontab cannot be written.
    """
    table = _crontab_if_there()
    has_line = table is not None and crontab.has_line(table, name)
    if not has_line and name not in place.names():
        place.read(name)  # says which there are
    if table is not None and has_line:
        crontab.write_crontab(crontab.without_line(table, name))
    said = _without_units(name)
    place.remove(name)
    return [*said, f"removed {name}; its log stays: {place.log(name)}"]


def _without_units(name: str) -> list[str]:
    if not systemd.remove_units(name):
        return []
    timer = systemd.unit_files(name)[1].name
    return [f"its timer is deleted; if it was started: systemctl --user stop {timer} && systemctl --user daemon-reload"]


def entries(place: Place) -> list[Entry]:
    """All schedules, by name.

    Raises:
        UserError: a record is damaged.
    """
    table, now = _crontab_if_there() or b"", datetime.now().astimezone()
    return [_entry(place.read(name), place, table, now) for name in place.names()]


def _entry(schedule: Schedule, place: Place, table: bytes, now: datetime) -> Entry:
    by = ["crontab"] if crontab.has_line(table, schedule.name) else []
    by += ["systemd"] if systemd.unit_files(schedule.name)[1].is_file() else []
    time = CronTime.parse(schedule.at)
    return Entry(
        schedule.name,
        time.words,
        time.following(now).isoformat(),
        " and ".join(by) or None,
        shlex.join(["vu", *without_secrets(schedule.arguments)]),
        str(place.log(schedule.name)),
    )


def _crontab_if_there() -> bytes | None:
    """The crontab; None where there is no such program, as on a machine that has systemd alone."""
    try:
        return crontab.read_crontab()
    except ConfigError:
        return None
