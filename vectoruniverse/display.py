"""What a person sees while a run works: live progress in a terminal, plain lines without one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_LINE_EVERY_SECONDS = 30.0
"""Without a terminal, a long stage says where it stands this often and no oftener."""


class LogConsole(Console):
    """A console on standard error that goes quiet when nobody can read it any more; what it reports on goes on."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Write what was printed, which every way of printing ends in."""
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except OSError:  # a full disk, or a terminal that hung up
            self._go_quiet()

    def on_broken_pipe(self) -> None:
        """Go on, where rich would end the program."""
        self._go_quiet()

    def _go_quiet(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError):
            drop_output(self.file.fileno())


def drop_output(descriptor: int) -> None:
    """Let what is yet to be written to a file descriptor vanish, as it would fail again at the end of the program."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Display:
    """Progress, lines, warnings and tables on the terminal's error stream; results go to standard output elsewhere."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """Write to ``console`` (standard error when none is given); ``quiet`` keeps warnings only."""
        self.console = console or LogConsole()
        self.quiet = quiet
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}
        self._said_at: dict[str, float] = {}
        self._warned: set[str] = set()

    def say(self, text: str) -> None:
        """One plain line; square brackets in it are text and not markup."""
        if not self.quiet:
            self.console.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)

    def warn_once(self, text: str) -> None:
        """The same, but nothing where this display has said it already, as of the cells of a sweep."""
        if text not in self._warned:
            self._warned.add(text)
            self.warn(text)

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Show that ``stage`` is at ``done`` of ``total``."""
        if self.quiet:
            return
        if self.console.is_terminal:
            self._advance_bar(stage, done, total, detail)
        else:
            self._advance_line(stage, done, total, detail)

    def _advance_bar(self, stage: str, done: int, total: int, detail: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self.console,
            )
            self._progress.start()
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(escape(stage), total=total, detail="")
        self._progress.update(self._bars[stage], completed=done, total=total, detail=escape(detail))

    def _advance_line(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        if now - self._said_at.setdefault(stage, now) >= _LINE_EVERY_SECONDS or (done == total and total > 1):
            self._said_at[stage] = now
            self.say(f"{stage}: {done}/{total}  {detail}".rstrip())

    def close(self) -> None:
        """End live progress; lines can follow."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._bars = None, {}

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table: first column left, the others right."""
        if not self.quiet:
            self.console.print(make_table(title, columns, rows))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A rich table whose cells are inert text: first column left and never cut, the others right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    widest = max(cell_len(first) for first, *_ in (columns, *rows))
    table.add_column(escape(columns[0]), no_wrap=True, overflow="ignore", min_width=widest)
    for column in columns[1:]:
        table.add_column(escape(column), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def step_detail(values: Mapping[str, float]) -> str:
    """What the progress line shows of a step."""
    parts = [f"loss {values['loss']:.3f}"]
    parts += [f"{name.removeprefix('loss/')} {v:.3f}" for name, v in values.items() if name.startswith("loss/")]
    parts.append(f"lr {values['lr']:.1e}")
    if "effective_rank" in values:
        parts.append(f"eff. rank {values['effective_rank']:.1f}")
    parts.append(f"{values['pairs_per_second']:.0f} pairs/s")
    return "  ".join(parts)
