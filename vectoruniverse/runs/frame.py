"""Runs as a pandas table, for a notebook."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from vectoruniverse.runs.listing import RunSummary, default_runs_dir, list_runs
from vectoruniverse.runs.tags import readable_tags


def runs_table(runs_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """One row a run, earliest first; damaged and unfinished runs have what they tell.

    Args:
        runs_dir: folder of the runs; without it ``VU_RUNS``, else ``runs``.

    Returns:
        Indexed by the run's name. Columns: ``experiment``, ``state``, ``started`` and ``ended`` (UTC), ``metric`` (the
        monitored one) with its ``best`` value, ``epoch``, ``message``, ``tags`` (a list); then ``base/<metric>`` and
        ``adapted/<metric>`` of every metric that the run's evaluation has.
    """
    frame = pd.DataFrame([_row(summary) for summary in list_runs(Path(runs_dir or default_runs_dir()))])
    if frame.empty:
        return pd.DataFrame(columns=["experiment", "state"], index=pd.Index([], name="run"))
    for column in ("started", "ended"):
        frame[column] = pd.to_datetime(frame[column], utc=True, errors="coerce")
    return frame.set_index("run")


def _row(summary: RunSummary) -> dict[str, object]:
    own = {"run": summary.run.name, "experiment": summary.run.experiment, "tags": readable_tags(summary.run)}
    facts: dict[str, object] = {**asdict(summary), **own}
    if (evaluation := summary.run.read_evaluation()) is not None:
        for model, metrics in (("base", evaluation.base), ("adapted", evaluation.adapted)):
            facts |= {f"{model}/{name}": value for name, value in metrics.items()}
    return facts
