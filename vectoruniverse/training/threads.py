"""How many threads compute: as many as there are processors that nobody else uses when a command starts.

The threads of a matrix product wait for each other at its end, and spin while they wait. On two processors of which
another program took one, two threads took 99 s for what one thread did in 44 s. Results do not depend on the count
beyond the rounding of sums, but a resumed run is to end with the same bits, so it keeps the count it began with.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SHORTEST = 0.3
"""Seconds to watch at least: the system counts in hundredths."""
_NEARLY = 0.6
"""A processor that is free for so much of its time is worth a thread."""

_CGROUP = Path("/sys/fs/cgroup")
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds spent up to a moment, ``at``: by everybody on this process's processors, and by itself."""

    at: float
    everybody: float
    own: float


class _Watch:
    """When the command began, so that loading libraries is time in which others are watched."""

    begun: Usage | None = None


def watch_others() -> None:
    """Begin to watch what other programs use; a process that never does so keeps torch's own number of threads."""
    _Watch.begun = usage()


def choose_threads() -> str | None:
    """Give torch a thread for each processor that is free.

    Nothing happens where ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` decides, or where the system (any but Linux) does
    not tell; nor a second time.

    Returns:
        What to tell a person where that is fewer than there are processors.
    """
    begun, _Watch.begun = _Watch.begun, None
    if begun is None or is_told():
        return None
    time.sleep(max(0.0, begun.at + _SHORTEST - time.monotonic()))
    if (now := usage()) is None:
        return None
    import torch

    there = processors()
    busy = max(0.0, (now.everybody - begun.everybody - (now.own - begun.own)) / (now.at - begun.at))
    count = threads_beside(there, len(_allowed()), busy)
    torch.set_num_threads(count)
    if count == there:
        return None
    return (
        f"other programs keep {busy:.1f} of {len(_allowed())} processors busy: computing with {count} "
        f"thread{'s' * (count > 1)} (OMP_NUM_THREADS={there} takes {there})"
    )


def threads_beside(there: int, processors: int, busy: float) -> int:
    """Threads for a process that may use ``there`` of ``processors``, of which others keep ``busy`` busy."""
    return max(1, min(there, math.floor(processors - busy + 1.0 - _NEARLY)))


def is_told() -> bool:
    """Whether somebody has said how many threads there are to be."""
    return any(os.environ.get(name) for name in _VARIABLES)


@contextlib.contextmanager
def threads_of_run(recorded: int | None) -> Iterator[None]:
    """Compute with as many threads as a run began with, as far as there are processors; afterwards as before.

    Args:
        recorded: as ``state.json`` tells; None for a new run.
    """
    import torch

    before = torch.get_num_threads()
    if recorded is not None and recorded >= 1 and not is_told():
        torch.set_num_threads(min(recorded, processors()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processors() -> int:
    """Processors that this process may use: those it may run on, within its control group's quota."""
    return max(1, math.floor(min([len(_allowed()), *_quotas()]) + 1.0 - _NEARLY))


def usage() -> Usage | None:
    """What is spent by now; None where the system does not tell."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    names = {f"cpu{number}" for number in _allowed()}
    # user, nice, system, (idle, waiting,) interrupts and what other guests of a virtual machine's host took
    spent = sum(
        sum(map(int, fields[1:4])) + sum(map(int, fields[6:9]))
        for fields in map(str.split, lines)
        if fields and fields[0] in names
    )
    return Usage(time.monotonic(), spent / tick, time.process_time())


def _allowed() -> set[int]:
    """Numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _quotas() -> Iterator[float]:
    """Processors' worth of time that control groups of either version allow this process."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        group = next(line.split(":", 2)[2] for line in lines if line.startswith("0::")).strip("/") if lines else ""
        for folder in (_CGROUP / group, *(_CGROUP / group).parents):
            with contextlib.suppress(OSError, ValueError):
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
                yield int(quota) / int(period)  # no number: "max"
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
