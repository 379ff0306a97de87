"""``base.json``: what a run was trained on, and what had changed since the run before it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vectoruniverse.runs.files import Record, read_record

BASE_FILE = "base.json"
"""What a run was trained on, in the run folder."""


class BaseRecord(Record):
    """``base.json``.

    Attributes:
        model: as the experiment names it; None where the model is built from scratch.
        commit: of a hub's name, where known.
        files: of a folder, each file that is loaded → its SHA-256.
        settings: fingerprint of the run's ``config.yaml``; None where an earlier version made the run.
        identity: equal for runs that differ in nothing but perhaps their data; see ``tasks.same_run``.
        earlier: the latest run of the same experiment name when this one began.
        changes: what was not as it had been in that one, in words.
    """

    version: Literal[1] = 1
    model: str | None
    commit: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    settings: str | None = None
    identity: str | None = None
    earlier: str | None = None
    changes: list[str] = Field(default_factory=list)

    @property
    def since(self) -> str | None:
        """What has changed since the earlier run, in words; None where nothing has, or there is none."""
        return f"since {self.earlier}: {', '.join(self.changes)}" if self.earlier and self.changes else None

    def difference(self, other: BaseRecord) -> str | None:
        """What of ``other`` is not as it was, in words; None where all that is known agrees."""
        names = self.files.keys() | other.files.keys()
        changed = sorted(name for name in names if self.files.get(name) != other.files.get(name))
        if self.files and other.files and changed:
            return f"{changed[0]} differs" + (f", and {len(changed) - 1} more files" if changed[1:] else "")
        if self.commit and other.commit and self.commit != other.commit:
            return f"it is at commit {other.commit[:12]}, not {self.commit[:12]}"
        if bool(self.files) != bool(other.files) and (self.files or self.commit) and (other.files or other.commit):
            return "one is a folder, the other a name on the hub"
        return None


def recorded_base(run_folder: Path) -> BaseRecord | None:
    """What a run was trained on; None where it does not say.

    Raises:
        DataError: ``base.json`` is damaged.
    """
    file = run_folder / BASE_FILE
    if not (file.exists() or file.is_symlink()):
        return None
    return read_record(file, BaseRecord, inside=run_folder)
