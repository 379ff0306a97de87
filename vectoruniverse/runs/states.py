"""The states of a run, for whoever needs their names alone: records and the list of runs load pydantic."""

from __future__ import annotations

from typing import Literal

State = Literal["running", "finished", "failed", "interrupted", "stopped"]

ShownState = Literal[State, "dead", "unknown"]
"""`dead` says that it is `running`, but its process on this host is gone; `unknown` is any other."""
