"""What every command shares: its options, its terminal, and how it tells a mistake."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from vectoruniverse.errors import UserError

if TYPE_CHECKING:
    from vectoruniverse.display import Display

P = ParamSpec("P")

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="Experiment file; a bare name is also looked up in configs/.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key, as in train.lr=7e-7; repeatable.")
]
RunsOption = Annotated[Path, typer.Option("--runs-dir", envvar="VU_RUNS", help="Folder of the runs.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print what a user can mend in one or two lines, and leave with the exit code that says what kind it was."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            complain(str(error), error.remedy)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            complain("interrupted", None)
            raise typer.Exit(130) from None
        except MemoryError:
            complain("out of memory", "lower train.batch_size")
            raise typer.Exit(5) from None
        except BrokenPipeError:
            # the reader of our output went away, as `head` does; nothing more can be said to it
            sys.stderr.close()
            raise typer.Exit(141) from None
        except RuntimeError as error:
            if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error).lower():
                raise
            complain("out of memory", "lower train.batch_size")
            raise typer.Exit(5) from None

    return wrapped


def complain(message: str, remedy: str | None) -> None:
    """Tell on standard error what is wrong, and what to do about it."""
    typer.echo(f"vu: {message}", err=True)
    if remedy:
        typer.echo(f"    → {remedy}", err=True)


def open_display(quiet: bool = False) -> Display:
    """The terminal, with the libraries below it told to keep their own progress bars to themselves."""
    import transformers

    from vectoruniverse.display import Display

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return Display(quiet=quiet)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    from rich.console import Console

    from vectoruniverse.display import make_table

    Console(highlight=False).print(make_table(title, columns, rows))
