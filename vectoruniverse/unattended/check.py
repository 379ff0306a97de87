"""What a check of this machine is given, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vectoruniverse.config.sections import Experiment

Status = Literal["ok", "warning", "fix"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, and what to do about it.

    Attributes:
        status: ``fix`` where a run would fail, or go on in a way that nobody wants.
        found: one sentence.
        remedy: None where nothing is to be done.
    """

    status: Status
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run: an experiment, where one is named, into a folder of runs."""

    experiment: Experiment | None
    runs_dir: Path
