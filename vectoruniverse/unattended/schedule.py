"""What is to be run and when: a typed record beside its log, in a folder that its user alone can read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from vectoruniverse.config.loading import find_config
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.runs.durable import write_durably, write_errors_are_told
from vectoruniverse.runs.files import Record, read_record, record_text
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.unattended.cron_time import CronTime

Command = Literal["train", "sweep-rank", "eval"]
"""What can be scheduled; each takes an experiment file."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_WRITES_IT = "vu schedule add writes it anew"

Name = Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
"""It names files, so it leads nowhere else."""

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""What an operating system takes as an argument or a path."""

_ENVIRONMENT = """\
# Variables for scheduled runs, a NAME=VALUE in each line. You alone can read this file; vu writes nothing into it.
# WANDB_API_KEY=
"""


class Schedule(Record):
    """``NAME.json``.

    Attributes:
        name: of the schedule, its files and its crontab line.
        at: cron expression.
        program: the `vu` to run, absolute.
        arguments: its arguments; paths among them are absolute.
        folder: working directory, absolute.
        ping: address of a check in the convention of healthchecks.io.
    """

    version: Literal[1] = 1
    name: Name
    at: str
    program: Text
    arguments: list[Text]
    folder: Text
    ping: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of all schedules of a user."""

    folder: Path

    @classmethod
    def default(cls) -> Place:
        """``$XDG_CONFIG_HOME/vectoruniverse/schedule``, else below ``~/.config``.

        Raises:
            ConfigError: there is no home folder.
        """
        return cls(config_home() / "vectoruniverse" / "schedule")

    @property
    def environment(self) -> Path:
        """Variables for all schedules, such as keys."""
        return self.folder / "environment"

    def record(self, name: str) -> Path:
        """What a schedule runs."""
        return self.folder / f"{name}.json"

    def log(self, name: str) -> Path:
        """What its runs said, latest last; earlier parts in ``NAME.log.1`` and so on."""
        return self.folder / f"{name}.log"

    def read(self, name: str) -> Schedule:
        """A schedule by its name.

        Raises:
            UserError: there is none, or its record is damaged.
        """
        if not self.record(name).is_file():
            known = ", ".join(self.names())
            remedy = f"choose one of {known}" if known else "vu schedule add makes one"
            raise ConfigError(f"no schedule is called {name!r}", remedy=remedy)
        return read_schedule(self.record(name))

    def names(self) -> list[str]:
        """Names of all schedules, in their order."""
        return sorted(file.stem for file in self.folder.glob("*.json") if _NAME.fullmatch(file.stem))

    def write(self, schedule: Schedule) -> None:
        """Write a schedule, and, where there is none yet, the file for keys (mode 600).

        Raises:
            UserError: they cannot be written.
        """
        with write_errors_are_told(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_durably(self.record(schedule.name), record_text(schedule))
            try:
                with open(self.environment, "x", opener=_private, encoding="utf-8") as file:
                    file.write(_ENVIRONMENT)
            except FileExistsError:
                pass

    def remove(self, name: str) -> None:
        """Delete a schedule; its log, and the file for keys, stay."""
        self.record(name).unlink(missing_ok=True)


def read_schedule(file: Path) -> Schedule:
    """A schedule from its record.

    Raises:
        DataError: it is missing or damaged.
    """
    return read_record(file, Schedule, inside=file.parent, remedy=_WRITES_IT)


def experiments_scheduled(runs_dir: Path) -> set[str] | None:
    """Names of the experiments whose runs schedules of this user make in a folder; None where one cannot be read."""
    found = set()
    try:
        place = Place.default()
    except ConfigError:  # no home folder, so none
        return set()
    for name in place.names():
        try:
            told = _options(place.read(name).arguments)
            if Path(told["--runs-dir"][-1]).resolve() == runs_dir.resolve():
                found.add(load_experiment(told["--config"][-1], told.get("--set", [])).name)
        except (UserError, KeyError, OSError):
            return None
    return found


def _options(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Values of each option, as ``make_schedule`` wrote them behind the command."""
    found: dict[str, list[str]] = {}
    for option, value in zip(arguments[1::2], arguments[2::2], strict=False):
        found.setdefault(option, []).append(value)
    return found


def make_schedule(
    config: str,
    overrides: Sequence[str],
    *,
    at: str,
    command: Command,
    name: str | None,
    runs_dir: Path,
    ping: str | None,
) -> Schedule:
    """Check all that a night should not have to find out, and make every path absolute.

    Args:
        config: experiment file.
        overrides: ``KEY=VALUE`` settings of it.
        at: cron expression.
        command: what to do with it.
        name: of the schedule; None: that of the experiment, and of the command where it does not train.
        runs_dir: folder of the runs.
        ping: address of a check.

    Raises:
        UserError: one of these is not what it has to be.
    """
    time, experiment = CronTime.parse(at), load_experiment(config, overrides)
    name = name or experiment.name + ("" if command == "train" else f"-{command}")
    if not _NAME.fullmatch(name):
        message = f"{name!r} is not 1 to 80 letters, digits, dots, hyphens and underscores"
        raise ConfigError(message, key="--name")
    if ping is not None and (urlsplit(ping).scheme not in ("http", "https") or not urlsplit(ping).netloc):
        raise ConfigError("is no address", key="--ping", remedy="as in --ping https://hc-ping.com/UUID")
    program = Path(sys.executable).parent / "vu"  # not resolved: the link is what makes it the environment's Python
    if not program.is_file():
        raise UserError(f"there is no vu beside {sys.executable}", remedy="pip install vectoruniverse into it")
    settings = [part for text in overrides for part in ("--set", text)]
    paths = ["--config", str(find_config(config).absolute()), *settings, "--runs-dir", str(runs_dir.absolute())]
    return Schedule(
        name=name,
        at=time.text,
        program=str(program.absolute()),
        arguments=[command, *paths],
        folder=str(Path.cwd()),
        ping=None if ping is None else ping.rstrip("/"),
    )


def config_home() -> Path:
    """``$XDG_CONFIG_HOME``, else ``~/.config``.

    Raises:
        ConfigError: there is no home folder.
    """
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        return given if given.is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        message = "there is no home folder to keep schedules in"
        raise ConfigError(message, remedy="Set $XDG_CONFIG_HOME to an absolute path.") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
