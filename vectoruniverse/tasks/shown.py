"""What a person wants to know of a run at a glance."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from vectoruniverse.errors import UserError
from vectoruniverse.report.run_verdict import recorded_verdict
from vectoruniverse.runs.base_record import recorded_base
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.process import is_dead
from vectoruniverse.runs.removing import bytes_of
from vectoruniverse.runs.tags import readable_tags
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.terminal import duration


def facts_of(run: Run) -> dict[str, Any]:
    """Facts by name, in the order in which they are read; of a damaged file none."""
    state, evaluation = run.read_state(), run.read_evaluation()
    facts: dict[str, Any] = {
        "run": run.name,
        "state": "dead" if is_dead(state) else state.state or "unknown",
        "message": state.message,
        "tags": readable_tags(run),
        "started": state.started,
        "ended": state.ended,
        "time": None if state.seconds is None else duration(state.seconds),
        "computed on": state.device,
    }
    try:
        experiment, base = load_config_of(run), recorded_base(run.path)
        facts["task"], facts["settings"] = experiment.task, changed_settings(experiment)
        if base is not None:
            facts |= {"base": base.model, "earlier run": base.earlier, "changed since": list(base.changes)}
    except UserError as error:
        facts["config"] = str(error)
    if evaluation is not None:
        metric = state.metric or ""
        facts["rows"] = f"{evaluation.rows:,} {evaluation.split}"
        if metric in evaluation.adapted:
            facts[metric] = f"{evaluation.adapted[metric]:.3f}, base {evaluation.base.get(metric, float('nan')):.3f}"
    found = recorded_verdict(run)
    facts["verdict"] = [] if found is None else found.lines()
    parts = {"checkpoints": run.checkpoints, "adapter": run.adapter, "all": run.path}
    facts["disk"] = [f"{name} {bytes_of(place) / 2**20:,.1f} MiB" for name, place in parts.items() if place.is_dir()]
    return facts


def changed_settings(section: BaseModel, path: str = "") -> list[str]:
    """``key=value`` of every setting that is not its default, those of sections with their path."""
    found = []
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{path}{name}"
        if isinstance(value, BaseModel):
            found += changed_settings(value, f"{key}.")
        elif value != field.get_default(call_default_factory=True):
            found.append(f"{key}={value}")
    return found
