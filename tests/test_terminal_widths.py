"""What a person sees in a terminal of 80 and of 60 columns: a real one, with its own width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.cells import cell_len
from rich.console import Console

from vectoruniverse.terminal import Display, duration, show_table, step_detail

TRAIN = """
import time
from vectoruniverse.terminal import Display, step_detail
display = Display()
values = {"loss": -12.345, "loss/alignment": -62.1234, "loss/anisotropy": 50.1234, "lr": 1.2e-5}
for step in (1, 2, 1199):
    time.sleep(0.2)
    display.advance("training", step, 2000, step_detail({**values, "effective_rank": 12.3, "pairs_per_second": 142.0}))
time.sleep(0.3)
display.close()
"""


def in_terminal(code: str, columns: int) -> list[str]:
    """Lines that Python writes to a terminal of that width, without control sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    surroundings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings | {"TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert child.wait(timeout=60) == 0, written.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("columns", [120, 80, 60])
def test_the_progress_line_shows_bar_step_and_time_left_before_any_detail(columns):
    lines = in_terminal(TRAIN, columns)
    assert max(map(cell_len, lines)) <= columns
    last = lines[-1]
    assert re.match(r"training +[━╸╺ ]+ +1199/2000 +0:00:0\d 0:0\d:\d\d +loss -12", last), last
    assert "━━" in last


METRICS = [
    ("image → text recall@10", "0.161", "0.854", "+0.693 [+0.651, +0.739]"),
    ("effective rank", "9.4", "12.9", ""),
]
TABLES = {
    "outcome": (("metric", "base", "adapted", "change [95 % interval]"), METRICS),
    "runs": (
        ("run", "state", "started (UTC)", "best", "epoch", "message"),
        [
            (
                "quickstart-20261126-2112-abcd",
                "failed",
                "2026-11-26 21:12",
                "recall@5 0.671",
                "10",
                "the disk is full " * 9,
            )
        ],
    ),
    "settings": (
        ("key", "quickstart-20261126-2112-abcd", "quickstart-20261126-2113-efgh"),
        [("adapter.vision_targets", "[q_proj, v_proj]", "[q_proj, k_proj, v_proj, out_proj, fc1, fc2]")],
    ),
    "Korean": (("label", "rows"), [("질문과 대답을 함께 묶은 아주 긴 이름표 " * 2, "12,345")]),
}


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_keeps_to_the_terminal_and_tears_no_number_apart(name, columns):
    console = Console(width=columns, force_terminal=True, color_system=None)
    heads, rows = TABLES[name]
    with console.capture() as printed:
        show_table(console, "of [/] runs", heads, rows)
    lines = printed.get().splitlines()
    assert "of [/] runs" in printed.get()
    whole = [cell for row in rows for cell in row[1:] if 0 < len(cell) <= 26]
    assert all(any(cell in line for line in lines) for cell in (*whole, *(row[0] for row in rows)))
    longest = max(cell_len(row[0]) for row in rows)
    assert max(cell_len(line.rstrip()) for line in lines) <= max(columns, longest)


def test_a_table_in_a_file_is_never_folded():
    console = Console(width=80, force_terminal=False, color_system=None)
    with console.capture() as printed:
        show_table(console, "", *TABLES["runs"])
    assert "the disk is full " * 8 in printed.get()


def test_without_a_terminal_a_long_stage_says_how_long_it_still_takes(monkeypatch):
    console = Console(width=80, force_terminal=False, color_system=None)
    display, clock = Display(console), iter(range(0, 10_000, 20))
    monkeypatch.setattr("vectoruniverse.terminal.time.monotonic", lambda: float(next(clock)))
    detail = step_detail({"loss": 1.0, "lr": 1e-3, "pairs_per_second": 9.0})
    with console.capture() as printed:
        for step in (1, 2, 3, 4, 301):
            display.advance("training", step, 301, detail)
    assert printed.get().splitlines() == [
        f"training: 3/301, 1 h 39 min left  {detail}",
        f"training: 301/301  {detail}",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (200.0, "3 min 20 s"), (4320.0, "1 h 12 min"), (183_600.0, "2 d 3 h")],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds, said):
    assert duration(seconds) == said
