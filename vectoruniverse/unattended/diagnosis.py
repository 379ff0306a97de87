"""What ``vu doctor`` says: one check for each thing that a run needs of the machine it runs on.

A library that is broken is what is looked for, so torch and those that load it are imported within the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import UserError, one_line, reason
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.unattended import disk, machine, services
from vectoruniverse.unattended.check import Asked, Check

Look = Callable[[Asked], Check | None]
"""Makes a check; None where there is nothing to look at."""

CHECKS: dict[str, Look] = {
    "python": machine.python,
    "torch": machine.torch_build,
    "threads": machine.threads,  # before what computes with them
    "computes on": machine.compute,
    "room for runs": disk.room_for_runs,
    "room for pictures": disk.room_for_pictures,
    "clock": machine.clock,
    "text encoding": machine.encoding,
    "model": services.model,
    "wandb": services.wandb,
    "extras": services.extras,
}
"""Each by its name, in the order of making them."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What each check found, by its name."""

    checks: dict[str, Check]

    @property
    def needs_fixing(self) -> bool:
        """Whether any check says so."""
        return any(check.status == "fix" for check in self.checks.values())


def diagnose(config: str | None, overrides: Sequence[str], runs_dir: Path) -> Diagnosis:
    """Make every check; whatever one of them raises is what it found.

    Args:
        config: the experiment file to be run; without one, what any run needs is looked at.
        overrides: ``KEY=VALUE`` settings of it.
        runs_dir: where its run will go.
    """
    checks: dict[str, Check] = {}
    experiment: Experiment | None = None
    if config is not None:
        try:
            experiment = load_experiment(config, overrides)
            checks["experiment"] = Check("ok", f"{experiment.name}, task {experiment.task}")
        except UserError as error:
            checks["experiment"] = Check("fix", one_line(str(error)), error.remedy)
    asked = Asked(experiment, runs_dir)
    for name, look in CHECKS.items():
        if (check := _guarded(look, asked)) is not None:
            checks[name] = check
    return Diagnosis(checks)


def _guarded(look: Look, asked: Asked) -> Check | None:
    try:
        return look(asked)
    except UserError as error:
        return Check("fix", one_line(str(error)), error.remedy)
    except Exception as error:  # a broken library may raise anything, and the other checks are wanted all the more
        remedy = "install anew what it names, or report it with the output of vu --version"
        return Check("fix", f"{type(error).__name__}: {reason(error)}", remedy)
