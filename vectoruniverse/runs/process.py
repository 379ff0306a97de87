"""Whether the process that a run names still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from vectoruniverse.runs.records import RunState


def here() -> dict[str, object]:
    """Name this process so that ``is_dead`` can look for it later: pid, start of the process, host."""
    return {"pid": os.getpid(), "process": _process_birth(os.getpid()), "host": socket.gethostname()}


def is_dead(state: RunState) -> bool:
    """Say whether a run claims to be running although its process on this host is gone."""
    if state.state != "running" or state.host != socket.gethostname():
        return False
    if state.pid is None or state.pid <= 0 or os.name != "posix":  # elsewhere signal 0 is no question but a blow
        return False
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return state.process != _process_birth(state.pid)


def _process_birth(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, which tells it from a later one with the same pid (Linux)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])
