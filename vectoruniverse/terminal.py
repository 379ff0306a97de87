"""What a person sees while a run works: live progress in a terminal, plain lines without one; and tables."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from vectoruniverse.errors import printable

_LINE_EVERY_SECONDS = 30.0
"""Without a terminal, a long stage says where it stands this often and no oftener."""
_ANY_WIDTH = 100_000
"""More columns than a table has."""
_SENTENCE = 26
"""Longer cells are words, which may fold; shorter ones are names and numbers with their intervals, which do not."""


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
        self._begun: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """One plain line; square brackets in it are text and not markup."""
        if not self.quiet:
            self.console.print(escape(printable(text)), soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(printable(text))}", soft_wrap=True)

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
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                # what is left of the line, so that a long detail pushes nothing else out of it
                TextColumn("{task.fields[detail]}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
                console=self.console,
                expand=True,
            )
            self._progress.start()
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(escape(stage), total=total, detail="")
        self._progress.update(self._bars[stage], completed=done, total=total, detail=escape(printable(detail)))

    def _advance_line(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        begun, first = self._begun.setdefault(stage, (now, done))
        if now - self._said_at.setdefault(stage, now) >= _LINE_EVERY_SECONDS or (done == total and total > 1):
            self._said_at[stage] = now
            left = (now - begun) / (done - first) * (total - done) if done > first else 0.0
            soon = f", {duration(left)} left" if left else ""
            self.say(f"{stage}: {done}/{total}{soon}  {detail}".rstrip())

    def close(self) -> None:
        """End live progress; lines can follow."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._bars = None, {}

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table: first column left, the others right."""
        if not self.quiet:
            show_table(self.console, title, columns, rows)


def show_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of inert text: in a terminal within its width, anywhere else without any folding."""
    width = console.width
    try:
        console.width = width if console.is_terminal else _ANY_WIDTH
        shown = [[printable(cell) for cell in row] for row in rows]
        console.print(FittedTable(printable(title), columns, shown), crop=False)
    finally:
        console.width = width


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table whose cells are inert text: first column left and never cut, the others right; numbers never fold.

    What does not fit in the width loses its frame first; if that is not enough, each row becomes lines of its own.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay it out for the width that there is."""
        yield _laid_out(self.title, self.columns, self.rows, options.max_width)


def _laid_out(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    cells = [[names, *texts] for names, *texts in zip(columns, *rows, strict=True)]
    needed = [max(map(cell_len, texts)) for texts in cells]
    widths = [needed[0], *(min(one, _narrowest(texts)) for one, texts in zip(needed[1:], cells[1:], strict=True))]
    framed = sum(widths) + 3 * len(widths) + 1 <= width
    spare = width - sum(widths) - (3 * len(widths) + 1 if framed else 2 * (len(widths) - 1))
    if spare < 0:
        return _as_records(title, columns, rows, width)
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    if not framed:
        table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    for place, name in enumerate(columns):
        more = min(spare, needed[place] - widths[place])
        spare -= more
        first = place == 0
        table.add_column(escape(name), width=widths[place] + more, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _narrowest(texts: Sequence[str]) -> int:
    """The least width of a column in which no word of it is torn apart, and no short cell folded."""
    return max(_SENTENCE, *(cell_len(word) for text in texts for word in text.split()), 0)


def _as_records(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Group:
    """Each row as its first cell, and below it the other cells behind the names of their columns."""
    lines: list[RenderableType] = [Text(title, style="bold")] if title else []
    for first, *others in rows:
        lines.append(Text(first, no_wrap=True, overflow="ignore"))
        together = ""
        for name, cell in zip(columns[1:], others, strict=True):
            named = f"{name} {cell}".strip()
            if together and cell_len(together) + 3 + cell_len(named) > width - 2:
                lines.append(_indented(together))
                together = ""
            if cell and cell_len(named) > width - 2:  # a number with its interval stays whole below its name
                lines += [_indented(name), _indented(cell, 4)]
            elif cell:
                together = f"{together}   {named}" if together else named
        if together:
            lines.append(_indented(together))
    return Group(*lines)


def _indented(text: str, by: int = 2) -> Padding:
    return Padding(Text(text), (0, 0, 0, by), expand=False)


def counted(number: int, what: str) -> str:
    """A number and what it is of, such as ``1 row`` and ``3 rows``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in its two largest units: ``42 s``, ``3 min 20 s``, ``1 h 12 min``, ``2 d 3 h``."""
    whole = round(seconds)
    for unit, size, below, small in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {below}"
    return f"{whole} s"


def step_detail(values: Mapping[str, float]) -> str:
    """What the progress line shows of a step."""
    parts = [f"loss {values['loss']:.3f}"]
    parts += [f"{name.removeprefix('loss/')} {v:.3f}" for name, v in values.items() if name.startswith("loss/")]
    parts.append(f"lr {values['lr']:.1e}")
    if "effective_rank" in values:
        parts.append(f"eff. rank {values['effective_rank']:.1f}")
    parts.append(f"{values['pairs_per_second']:.0f} pairs/s")
    return "  ".join(parts)
