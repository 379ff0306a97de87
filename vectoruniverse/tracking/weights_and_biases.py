"""Weights & Biases through its own client: online with a key, offline without; it never asks, never stops a training.

Measured with wandb 0.31 on two cores: import 0.6 s, service 0.2 s, offline ``init`` 0.3 s, 1 ms a logged step, 10 ms to
finish offline. Capturing the console costs 0.1 s more and would cut a live display to pieces, so it is off; leaving out
system metrics, git or the list of requirements saves nothing beyond the noise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vectoruniverse.tracking.contract import Status, Value

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]

_EXIT_CODES: dict[Status, int] = {"finished": 0, "failed": 1, "interrupted": 255}  # 255: wandb's own for Ctrl-C


@dataclass(frozen=True)
class WandbSettings:
    """What a run is called at Weights & Biases; what is None is left to the ``WANDB_*`` variables.

    Args:
        mode: `auto` is `WANDB_MODE` where it is set, else online where a key is found, else offline.
        project: None takes ``WANDB_PROJECT``, else `vectoruniverse`.
        entity: user or team.
        group: group of runs.
        tags: tags.
        notes: notes.
        init_timeout: seconds after which a silent server counts as away.
        finish_timeout: seconds that uploads may take after the training.
    """

    mode: Mode = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    init_timeout: float = 30.0
    finish_timeout: float = 120.0

    def given(self) -> dict[str, Any]:
        """Arguments of ``wandb.init`` for what is set, since an argument beats its variable even when it is None."""
        project = self.project or (None if "WANDB_PROJECT" in os.environ else "vectoruniverse")
        arguments: dict[str, Any] = {
            "project": project,
            "entity": self.entity,
            "group": self.group,
            "notes": self.notes,
        }
        arguments["tags"] = list(self.tags) or None
        return {name: value for name, value in arguments.items() if value is not None}


class WandbTracker:
    """Logs to Weights & Biases; whatever goes wrong there becomes one warning, and training goes on.

    A run that cannot go online is written offline, and the warning gives the command that uploads it later. Steps are
    on an axis of their own, ``step``: a resumed run may come back to a step, which wandb's counter does not allow.

    Args:
        folder: the run folder; wandb's files go below it.
        name: the run's name, also its id, so that a resumed run is the same run.
        config: the resolved configuration.
        warn: takes a message for people.
        settings: project, mode and so on.
        best: metric → which end is best, for the run's summary; a trailing `*` fits any ending.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, object],
        warn: Callable[[str], None],
        settings: WandbSettings | None = None,
        best: Mapping[str, Literal["max", "min"]] | None = None,
    ) -> None:
        self._folder, self._name, self._config, self._warn = folder, name, config, warn
        self._settings = settings or WandbSettings()
        self._run: wandb.Run | None = None
        try:
            self._start(best or {})
        except Exception as error:  # whatever it is, training can do without
            self._run = None
            warn(f"wandb could not start ({_reason(error)}), training goes on without it")

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the values of one step."""
        self._attempt(lambda run: run.log({**values, "step": step}), "could not log")

    def summary(self, values: Mapping[str, Value]) -> None:
        """Set values of the run's summary."""
        self._attempt(lambda run: run.summary.update(dict(values)), "could not log")

    def log_artifact(self, folder: Path, name: str, kind: str, metadata: Mapping[str, object]) -> None:
        """Add a folder, such as the adapter's, as a versioned artifact that this run made."""

        def add(run: wandb.Run) -> None:
            import wandb

            artifact = wandb.Artifact(name, kind, metadata=dict(metadata))
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)

        self._attempt(add, "could not store the artifact")

    def finish(self, status: Status) -> None:
        """Upload the rest and take leave, within ``finish_timeout``."""
        self._attempt(lambda run: run.finish(exit_code=_EXIT_CODES[status]), "could not finish")
        self._run = None

    def _attempt(self, act: Callable[[wandb.Run], object], failure: str) -> None:
        """Do something with the run, if there is one; an error is told once and ends this tracker."""
        if (run := self._run) is None:
            return
        try:
            act(run)
        except Exception as error:  # wandb raises its own, pydantic's, OSError and more; none may stop a training
            self._run = None
            later = f"upload what is there with: {_sync_command(run)}"
            self._warn(f"wandb {failure} ({_reason(error)}), training goes on without it; {later}")

    def _start(self, best: Mapping[str, Literal["max", "min"]]) -> None:
        if (mode := self._mode()) == "disabled":
            return
        trouble = None
        if mode != "offline":
            trouble = self._start_online(must=mode == "online")
        if self._run is None:
            self._run = self._init("offline")
        if trouble:
            self._warn(f"wandb is offline ({trouble}); upload the run later with: {_sync_command(self._run)}")
        self._run.define_metric("*", step_metric="step")
        for metric, end in best.items():
            self._run.define_metric(metric, step_metric="step", summary=end)

    def _mode(self) -> str:
        if self._settings.mode != "auto":
            return self._settings.mode
        variable = os.environ.get("WANDB_MODE", "auto")
        return {"dryrun": "offline", "run": "online"}.get(variable, variable)

    def _start_online(self, *, must: bool) -> str | None:
        """Go online where there is a key, without ever asking for one; return what kept the run from it."""
        import wandb

        try:
            wandb.setup(wandb.Settings(silent=True))
            if wandb.login(prompt=False, verify=False):
                self._run = self._init("online")
                return None
        except Exception as error:  # a bad key, no network, a server that is silent: the run goes on offline
            with contextlib.suppress(Exception):  # it raises when the service itself has crashed
                wandb.teardown()  # or the id stays taken by the attempt that failed
            return _reason(error)
        return "no API key is configured; see `wandb login`" if must else None

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,  # the commit is recorded, the source stays here
            init_timeout=self._settings.init_timeout,
            finish_timeout=self._settings.finish_timeout,
            finish_timeout_raises=True,
        )
        wandb.setup(settings)  # silences what the client says before it reads the settings of the run
        arguments = self._settings.given()
        if mode == "online":  # offline files of one id are put together by `wandb sync`
            arguments["resume"] = "allow"
        return wandb.init(
            id=self._name,
            name=self._name,
            dir=str(self._folder),
            config=dict(self._config),
            mode=mode,
            settings=settings,
            **arguments,
        )


def _sync_command(run: wandb.Run) -> str:
    return f"wandb sync {Path(run.settings.sync_dir)}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
