"""What every command shares: its options, its terminal, and how it tells a mistake."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, cast

import typer

from vectoruniverse.errors import ConfigError, ResourceError, UserError, printable, without_login
from vectoruniverse.training.interruption import (
    InterruptedTraining,
    Interruption,
    exit_code_of,
    signal_of,
    time_limit,
    words_of,
)

if TYPE_CHECKING:
    from vectoruniverse.terminal import Display

P = ParamSpec("P")

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Failures of a disk or a terminal, which no command of ours can mend."""

_OTHERS_WAIT = 5.0
"""Seconds that a process leaves to one that knows better what is wrong, and to torchrun to end them all."""

_LONGEST = 366 * 86_400
"""Seconds; limit of --max-time."""

_ISSUES = "https://github.com/vectoruniverse/vectoruniverse/issues"

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="Experiment file; a bare name is also looked up in configs/.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key, as in train.lr=7e-7; repeatable.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run: name, unique prefix, path, experiment name or `latest`.")
]
RunsOption = Annotated[Path, typer.Option("--runs-dir", envvar="VU_RUNS", help="Folder of the runs.")]
EncodingOption = Annotated[
    str, typer.Option(metavar="NAME", help="Encoding of the table that is read, as in cp949 or utf-16.")
]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        min=2,
        help="Divide the rows, group by group, into K folds, each of them the test part once; results are pooled.",
    ),
]
MaxTimeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Stop with a checkpoint before so much time is over, as in 3h30m, 90m or 1d (a bare number: seconds), "
        "with exit code 138; the next call goes on.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Train again what has finished or diverged; what was interrupted goes on.")
]
NewOption = Annotated[bool, typer.Option("--new", help="Begin anew, whatever there is.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print what a user can mend in one or two lines, and leave with the exit code that says what kind it was.

    A command with an option ``max_time`` is held to it.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            # any signal that ends a process is raised, so that locks are let go and half-written files deleted
            with Interruption(), time_limit(seconds_of(cast("str | None", kwargs.get("max_time")))):
                command(*args, **kwargs)
        except UserError as error:
            complain(str(error), error.remedy)
            code = error.exit_code
        except (InterruptedTraining, KeyboardInterrupt) as stopped:
            code = _tell_end(stopped)
        except BrokenPipeError:
            _drop_unwritten()  # the reader of our output went away, as `head` does
            code = 141
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            _drop_unwritten()
            complain(f"{error.filename or 'output'}: cannot be written: {error.strerror}", None)
            code = ResourceError.exit_code
        except (MemoryError, RuntimeError) as error:
            from vectoruniverse.training.memory import out_of_memory

            if (told := out_of_memory(error)) is None:
                raise
            complain(str(told), told.remedy)
            code = told.exit_code
        else:
            return
        raise typer.Exit(code)

    return wrapped


def _tell_end(stopped: InterruptedTraining | KeyboardInterrupt) -> int:
    """Tell that somebody asked to stop, once for all processes of a run; gives the exit code."""
    if isinstance(stopped, InterruptedTraining):
        told, remedy, code = str(stopped), stopped.remedy, stopped.exit_code
    else:
        number = signal_of(stopped)
        told, remedy, code = words_of(number), None, exit_code_of(number)
    if _assists() is None:
        complain(told, remedy)
    return code


def complain(message: str, remedy: str | None) -> None:
    """Tell on standard error what is wrong, and what to do about it.

    Of several processes of a run the first one tells it; another only if nobody has ended it meanwhile, as torchrun
    does when the first one leaves.
    """
    if (rank := _assists()) is not None:
        time.sleep(_OTHERS_WAIT)
        message = f"process {rank}: {message}"
    try:
        typer.echo(f"vu: {printable(without_login(message))}", err=True)
        if remedy:
            typer.echo(f"    → {printable(without_login(remedy))}", err=True)
    except OSError:  # nobody can read it; the exit code still tells
        _drop_unwritten()


def _assists() -> str | None:
    """Which process of several this is, if not the first."""
    rank = os.environ.get("RANK", "0")
    return None if rank == "0" or os.environ.get("WORLD_SIZE", "1") == "1" else rank


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TIME = re.compile("".join(rf"(?:(?P<{unit}>\d{{1,9}}){unit})?" for unit in _UNITS))


def seconds_of(text: str | None, option: str = "--max-time") -> float | None:
    """Seconds of a time such as ``1d``, ``3h30m`` or ``600``.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    given = text.strip().lower()
    match = _TIME.fullmatch(f"{given}s" if given.isdecimal() else given)
    seconds = sum(int(number) * _UNITS[unit] for unit, number in match.groupdict("0").items()) if match else 0
    if not 0 < seconds < _LONGEST:
        remedy = f"as in {option} 3h30m, 90m, 1d or 600 (seconds); days, hours, minutes, seconds in this order"
        raise ConfigError(f"{text[:40]!r} is no time above 0 and below a year", file=option, remedy=remedy)
    return float(seconds)


def print_version(wanted: bool) -> None:
    """Print the versions that matter to a report, and end the command; loads none of them."""
    if wanted:
        import importlib.metadata
        import platform

        versions = [
            f"{name} {importlib.metadata.version(name)}" for name in ("vectoruniverse", "torch", "transformers")
        ]
        typer.echo(", ".join([*versions, f"Python {platform.python_version()}"]))
        raise typer.Exit


def tell_fault() -> None:
    """Tell an exception that nobody expected, and in the last line that it is no mistake of whoever reads it."""
    import traceback

    with contextlib.suppress(OSError):  # nobody can read it; the exit code still tells
        traceback.print_exc()
    complain(f"this is a fault of the program, not yours; please report it, with the lines above, to {_ISSUES}", None)


def _drop_unwritten() -> None:
    """Forget what the standard streams cannot be rid of, or Python would fail on it at exit with a code of its own."""
    from vectoruniverse.terminal import drop_output

    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            drop_output(stream.fileno())


def open_display(quiet: bool = False) -> Display:
    """The terminal, and a process made ready to compute: other libraries keep their progress bars to themselves."""
    from vectoruniverse.training.allocator import keep_freed_memory

    keep_freed_memory()
    import transformers

    from vectoruniverse.processes import is_first
    from vectoruniverse.terminal import Display
    from vectoruniverse.training.threads import choose_threads

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    display = Display(quiet=quiet)
    if not is_first():
        display.console.quiet = True
    if (shared := choose_threads()) is not None:
        display.say(shared)
    return display


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output: no wider than a terminal if its words allow, in a pipe without any folding."""
    from rich.console import Console

    from vectoruniverse.terminal import show_table

    console = Console(highlight=False)
    with console.capture() as printed:
        show_table(console, title, columns, rows)
    # not rich's own writing, which ends the program when its reader goes away
    typer.echo(printed.get(), nl=False, color=console.is_terminal)


def print_data(text: str) -> None:
    """Print what a program reads: all of it as it is, or nothing.

    Raises:
        ConfigError: standard output has an encoding that lacks a character.
    """
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError as error:
        lacking, line = text[error.start], text.count("\n", 0, error.start) + 1
        message = f"standard output is {sys.stdout.encoding}, which has no {lacking!a} (line {line} of the table)"
        raise ConfigError(message, remedy="Write UTF-8 with --out FILE, or set PYTHONIOENCODING=utf-8.") from None
    typer.echo(text, nl=False)


def print_json(value: object) -> None:
    """Print strict JSON in ASCII; numbers that it cannot hold become strings, as in ``metrics.jsonl``."""
    import json

    from vectoruniverse.runs.files import strict

    typer.echo(json.dumps(strict(value), indent=2, allow_nan=False))


def page_file(out: Path | None) -> Path | None:
    """The page to write; its ending is needed, since the folder beside it has its name without one."""
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} does not end in .html", remedy=f"--out {out}.html")
    return out
