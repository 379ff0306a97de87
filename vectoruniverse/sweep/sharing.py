"""What the cells of a sweep share, one after another in one process: their base and data, and a clean memory gauge."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from vectoruniverse.config.sections import Experiment
from vectoruniverse.tasks.base import Shared
from vectoruniverse.tasks.sharing import sharing_key
from vectoruniverse.tasks.table import setup
from vectoruniverse.terminal import Display

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): the peak resident size becomes the present one


class Bases:
    """The base and data of the cell at hand; one at a time, since each fills memory."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._held: Shared | None = None

    def of(self, experiment: Experiment) -> Shared:
        """Load what the experiment shares with others, unless it is held already."""
        if self._held is None or self._held.key != sharing_key(experiment):
            self._held = None  # freed before the next is loaded
            self._held = setup(experiment).share(experiment, self.display)
        return self._held


def reset_peak(device: torch.device) -> None:
    """Begin to measure memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def peak(device: torch.device) -> int | None:
    """Most bytes in use since ``reset_peak``: on the GPU where there is one, else by this process (Linux only)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
