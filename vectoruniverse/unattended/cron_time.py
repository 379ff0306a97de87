"""When a schedule is due, as cron writes it: five fields, read as Debian's cron reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from cronsim import CronSim, CronSimError

from vectoruniverse.errors import ConfigError

_FIELDS = "minute, hour, day of the month, month, day of the week"
_EXAMPLE = 'five fields, as in --at "0 3 * * *" for 3:00 every night or --at "30 22 * * MON-FRI"'
_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, slots=True)
class CronTime:
    """A cron expression that is due again and again; ``text`` has its fields with one space between them."""

    text: str

    @classmethod
    def parse(cls, text: str) -> CronTime:
        """Read an expression.

        Raises:
            ConfigError: it has other than five fields, one of them is out of its range, or no date ever fits.
        """
        fields = text.split()
        if len(fields) != 5:
            message = f"{text!r} has {len(fields)} fields, not five ({_FIELDS})"
            raise ConfigError(message, key="--at", remedy=_EXAMPLE)
        if not all(map(_FIELD.fullmatch, fields)):
            raise ConfigError(f"{text!r} has a character that cron does not know", key="--at", remedy=_EXAMPLE)
        try:
            found = CronSim(" ".join(fields), datetime.now().astimezone())
            next(found)
        except CronSimError as error:
            raise ConfigError(f"{text!r}: {str(error).lower()}", key="--at", remedy=_EXAMPLE) from None
        except StopIteration:
            raise ConfigError(f"{text!r} is never due", key="--at", remedy=_EXAMPLE) from None
        if min(found.days) < 0 or any(isinstance(day, tuple) for day in found.weekdays):
            raise ConfigError(f"{text!r}: cron does not know L", key="--at", remedy=_EXAMPLE)
        return cls(" ".join(fields))

    @property
    def words(self) -> str:
        """In English, such as ``at 03:00 every day``."""
        said = CronSim(self.text, datetime.now()).explain()  # noqa: DTZ005 - it is not about any moment
        return said[:1].lower() + said[1:]

    def following(self, moment: datetime) -> datetime:
        """When it is due next after ``moment``, which has a time zone."""
        return next(CronSim(self.text, moment))

    @property
    def on_calendar(self) -> str:
        """The same for ``OnCalendar=`` of a systemd timer.

        Raises:
            ConfigError: it names days of the month and of the week: cron takes either, systemd both.
        """
        found = CronSim(self.text, datetime.now())  # noqa: DTZ005
        days, weekdays = found.days, {cast("int", day) % 7 for day in found.weekdays}
        if not found.day_and:
            message = f"{self.text!r} is due on days of the month or of the week, which systemd has no word for"
            raise ConfigError(message, key="--at", remedy="make a schedule for each, or leave out --systemd")
        date = f"*-{_listed(found.months, 12)}-{_listed(days, 31)}"
        time = f"{_listed(found.hours, 24)}:{_listed(found.minutes, 60)}:00"
        week = "" if len(weekdays) == 7 else ",".join(_WEEKDAYS[day] for day in sorted(weekdays)) + " "
        return f"{week}{date} {time}"


def _listed(numbers: Iterable[int], full: int) -> str:
    found = sorted(numbers)
    return "*" if len(found) == full else ",".join(f"{number:02}" for number in found)
