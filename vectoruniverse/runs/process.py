"""Whether the process that a run names still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def here() -> dict[str, object]:
    """Name this process so that ``is_dead`` can look for it later: pid, start of the process, host."""
    return {"pid": os.getpid(), "process": _process_birth(os.getpid()), "host": socket.gethostname()}


def is_dead(record: Mapping[str, object]) -> bool:
    """Say whether a run claims to be running although its process on this host is gone."""
    pid = record.get("pid")
    if record.get("state") != "running" or record.get("host") != socket.gethostname():
        return False
    if not isinstance(pid, int) or pid <= 0 or os.name != "posix":  # elsewhere signal 0 is no question but a blow
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return record.get("process") != _process_birth(pid)


def _process_birth(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, which tells it from a later one with the same pid (Linux)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])
