from __future__ import annotations

import errno
import io
import sys

import pytest
from rich.console import Console

from vectoruniverse.terminal import Display, FittedTable, LogConsole, counted, step_detail


def a_display(terminal: bool, quiet: bool = False) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return Display(Console(file=stream, force_terminal=terminal, width=100), quiet=quiet), stream


def test_square_brackets_in_titles_are_text():
    display, stream = a_display(terminal=False)
    display.say("[/] [bold]x[/bold]")
    display.warn("[/red]")
    display.table("[/]", ["[a]"], [["[/b]"]])
    assert "[/] [bold]x[/bold]" in stream.getvalue()
    assert "[/red]" in stream.getvalue() and "[/b]" in stream.getvalue()


def test_without_a_terminal_a_short_stage_says_one_line():
    display, stream = a_display(terminal=False)
    for done in range(1, 101):
        display.advance("pictures", done, 100)
    assert stream.getvalue().splitlines() == ["pictures: 100/100"]


def test_in_a_terminal_there_is_a_live_bar_that_ends():
    display, stream = a_display(terminal=True)
    display.advance("training", 1, 2, "loss 0.5 [/]")
    display.advance("training", 2, 2, "loss 0.4")
    display.close()
    assert "training" in stream.getvalue() and "2/2" in stream.getvalue()
    display.say("after")
    assert stream.getvalue().rstrip().endswith("after")


def test_quiet_keeps_warnings_only():
    display, stream = a_display(terminal=False, quiet=True)
    display.say("hello")
    display.advance("x", 1, 1)
    display.warn("careful")
    assert stream.getvalue() == "warning: careful\n"


def test_step_detail_names_what_a_person_watches():
    line = step_detail(
        {"loss": 1.0, "loss/alignment": -2.0, "lr": 1e-4, "pairs_per_second": 100.2, "effective_rank": 9.87}
    )
    assert line == "loss 1.000  alignment -2.000  lr 1.0e-04  eff. rank 9.9  100 pairs/s"


class Unwritable(io.StringIO):
    """A log whose disk is full, or whose reader went away."""

    def __init__(self, code: int, terminal: bool) -> None:
        super().__init__()
        self.code, self.terminal, self.tried = code, terminal, 0

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.tried += 1
        raise OSError(self.code, "cannot")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_log_that_cannot_be_written_goes_quiet_and_ends_nothing(code, terminal, monkeypatch):
    log = Unwritable(code, terminal)
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setenv("TERM", "xterm")
    display = Display()
    display.advance("training", 1, 2)
    display.say("hello")
    assert log.tried == 1
    display.advance("training", 2, 2)
    display.warn("careful")
    display.close()
    display.table("t", ["a"], [["b"]])
    assert log.tried == 1


def test_the_log_is_standard_error(capsys):
    LogConsole().print("x")
    assert capsys.readouterr() == ("", "x\n")


def test_the_first_column_is_never_cut():
    stream = io.StringIO()
    name = "a run with a long name"
    Console(file=stream, width=20).print(FittedTable("", ["run", "x"], [[name, "y"]]), crop=False)
    assert name in stream.getvalue()


@pytest.mark.parametrize(("number", "said"), [(0, "0 more cells"), (1, "1 more cell"), (1200, "1,200 more cells")])
def test_a_number_goes_with_what_it_counts(number, said):
    assert counted(number, "more cell") == said
