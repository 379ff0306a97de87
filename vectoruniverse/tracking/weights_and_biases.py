"""Weights & Biases through its own client: online with a key, offline without; it never asks, and training goes on.

Measured with wandb 0.31 on two cores: import 0.6 s, service 0.2 s, offline ``init`` 0.3 s, 1 ms a logged step, 10 ms to
finish offline. Capturing the console costs 0.1 s more and would cut a live display to pieces, so it is off.

What leaves this machine, as read back from wandb 0.31's own file:

- The commit, but no source and no patch: ``save_code`` is what makes wandb keep ``diff.patch`` with uncommitted
  changes.
- Not the remote's address. wandb strips the password of ``https://TOKEN:x-oauth-basic@host`` and keeps the token, so
  git is left to us; set ``WANDB_GIT_REMOTE_URL`` to show an address.
- The command, unless it holds something that looks like a key: then wandb's metadata is left out as a whole, for it
  knows no other way. System metrics stay on in both cases.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vectoruniverse.errors import reason
from vectoruniverse.tracking.contract import DataSet, Retrieval, Status, Tracker, Value
from vectoruniverse.tracking.wandb_limits import forget_ended_service, service_ended_after, within
from vectoruniverse.tracking.wandb_media import adapter_artifact, data_artifact, retrieval_tables

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]

_GRACE = 15.0
"""Seconds more than wandb is told to take at most."""

_EXIT_CODES: dict[Status, int] = {"finished": 0, "failed": 1, "interrupted": 255}  # 255: wandb's own for Ctrl-C
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True)
class WandbSettings:
    """What a run is called at Weights & Biases; what is None is left to the ``WANDB_*`` variables.

    Args:
        mode: `auto` is `WANDB_MODE` where it is set, else online where a key is found, else offline.
        project: None takes ``WANDB_PROJECT``, else `vectoruniverse`.
        entity: user or team.
        group, job_type, tags, notes: as wandb has them; a job type says what the run does in its group.
        init_timeout: seconds after which a silent server counts as away.
        finish_timeout: seconds that uploads may take after the training, and that storing a table or an artifact may.
    """

    mode: Mode = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
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
            "job_type": self.job_type,
            "notes": self.notes,
            "tags": list(self.tags) or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def effective_mode(self) -> str:
        """The mode with ``WANDB_MODE`` and its old names looked up."""
        if self.mode != "auto":
            return self.mode
        variable = os.environ.get("WANDB_MODE", "auto")
        return {"dryrun": "offline", "run": "online"}.get(variable, variable)


class WandbTracker(Tracker):
    """Logs to Weights & Biases; whatever goes wrong there becomes one warning, and training goes on.

    A run that cannot go online is written offline, and the warning gives the command that uploads it later. Steps are
    on an axis of their own, ``step``: wandb's counter counts rows.

    A resumed run is the same run. Online it goes on where the server's copy ends. Offline it begins a new file with
    the earlier part told again from ``history``, so that each file is whole: ``wandb sync`` lets a second file of the
    same id replace the first, and a process that is killed takes up to 15 s of rows with it that wandb had not written.

    Args:
        folder: the run folder; wandb's files go below it.
        name: the run's name, also its id.
        config: the resolved configuration.
        warn: takes a message for people.
        settings: project, mode and so on.
        best: metric → which end is best, for the run's summary; ``*`` fits anything.
        environment: versions, hardware, commit and command without secrets, as ``environment.json`` has them.
        history: what the earlier part of a resumed run logged, up to where it goes on, as ``metrics.jsonl`` has it;
            None for a new run.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, object],
        warn: Callable[[str], None],
        settings: WandbSettings | None = None,
        best: Mapping[str, Literal["max", "min"]] | None = None,
        environment: Mapping[str, object] | None = None,
        history: Iterable[Mapping[str, Value]] | None = None,
    ) -> None:
        self._folder, self._name, self._config, self._warn = folder, name, config, warn
        self._settings, self._environment = settings or WandbSettings(), environment or {}
        self._resumes, self._known = history is not None, -1
        self._run: wandb.Run | None = None
        self._best = dict(best or {})
        self._seen: set[str] = set()
        self._warned: set[str] = set()
        try:
            with service_ended_after(self._settings.init_timeout + _GRACE):
                forget_ended_service()
                self._start()
            for record in history or ():
                self.log(int(record["step"]), _values(record))
        except Exception as error:  # whatever it is, training can do without
            self._abandon()
            warn(f"wandb could not start ({reason(error)}), training goes on without it")

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the values of one step; what the server already has is not told again."""

        def add(run: wandb.Run) -> None:
            self._define(run, values)
            run.log({**values, "step": step})

        if step >= self._known:
            self._attempt(add, "could not log")

    def summary(self, values: Mapping[str, Value]) -> None:
        """Set values of the run's summary."""
        self._attempt(lambda run: run.summary.update(dict(values)), "could not log")

    def log_figures(self, step: int, figures: Mapping[str, Path]) -> None:
        """Log PNG files as ``figures/<name>``."""

        def add(run: wandb.Run) -> None:
            import wandb

            images = {f"figures/{name}": wandb.Image(path) for name, path in figures.items()}
            run.log({**images, "step": step})

        self._attach(add, "the figures")

    def log_retrievals(self, step: int, retrievals: Sequence[Retrieval]) -> None:
        """Log ``retrievals_image_to_text`` and ``retrievals_text_to_image``, tables with pictures."""
        self._attach(lambda run: run.log({**retrieval_tables(retrievals), "step": step}), "the retrievals")

    def log_adapter(
        self, folder: Path, metadata: Mapping[str, object], data: DataSet, aliases: Sequence[str] = ("best", "latest")
    ) -> None:
        """Add the adapter as ``adapter-<run>``, an artifact that this run made from ``data-<name>``, its input.

        The folder's files must stay as they are until the run is uploaded; ``metadata`` are JSON values.
        """

        def add(run: wandb.Run) -> None:
            run.log_artifact(adapter_artifact(self._name, folder, metadata), aliases=list(aliases))

        self._attach(add, "the adapter")
        self._attach(lambda run: _use(run, data_artifact(data)), "the lineage")

    def finish(self, status: Status) -> None:
        """Upload the rest and take leave, within ``finish_timeout``."""
        self._attempt(lambda run: run.finish(exit_code=_EXIT_CODES[status]), "could not finish")
        self._run = None

    def _start(self) -> None:
        """Open the run: nowhere, offline, or online where there is a key and a server; else offline, which is told."""
        mode, trouble = self._settings.effective_mode(), None
        if mode == "disabled":
            return
        if mode != "offline":
            self._run, trouble = self._open_online(must=mode == "online")
        run = self._run = self._run or self._init("offline")
        run.define_metric("*", step_metric="step")
        if run.resumed:
            self._known = _server_step(run)
        if trouble:
            self._warn(f"wandb is offline ({trouble}); upload the run later with: {self._upload_command(run)}")

    def _open_online(self, *, must: bool) -> tuple[wandb.Run | None, str | None]:
        """Go online where there is a key, without ever asking for one."""
        import wandb

        try:
            wandb.setup(wandb.Settings(silent=True))
            if wandb.login(prompt=False, verify=False):
                return self._init("online"), None
        except Exception as error:  # a bad key, no network, a server that is silent: the run goes on offline
            with contextlib.suppress(Exception):  # it raises when the service itself has crashed
                wandb.teardown()  # or the id stays taken by the attempt that failed
            return None, reason(error)
        return None, "no API key is configured; see `wandb login`" if must else None

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        environment = self._environment
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=environment.get("command", sys.argv) != sys.argv,
            init_timeout=self._settings.init_timeout,
            finish_timeout=self._settings.finish_timeout,
            finish_timeout_raises=True,
        )
        git = environment.get("git")
        if isinstance(git, Mapping) and git.get("commit"):
            settings.git_commit = git["commit"]
        wandb.setup(settings)  # silences what the client says before it reads the settings of the run
        arguments = self._settings.given()
        if self._resumes and mode == "online":  # an offline file holds the whole run, and is to replace what is there
            arguments["resume"] = "allow"
        return wandb.init(
            id=self._name,
            name=self._name,
            dir=str(self._folder),
            config={**self._config, **({"environment": dict(environment)} if environment else {})},
            mode=mode,
            settings=settings,
            **arguments,
        )

    def _define(self, run: wandb.Run, metrics: Iterable[str]) -> None:
        """Have the summary keep the best of the metrics seen for the first time; wandb does this for no pattern."""
        for metric in metrics:
            end = next((end for pattern, end in self._best.items() if fnmatchcase(metric, pattern)), None)
            if end is not None and metric not in self._seen:
                run.define_metric(metric, step_metric="step", summary=end)
            self._seen.add(metric)

    def _attempt(self, act: Callable[[wandb.Run], object], failure: str) -> None:
        """Do something with the run, if there is one; an error is told once and ends this tracker."""
        if (run := self._run) is None:
            return
        try:
            with service_ended_after(self._settings.finish_timeout + _GRACE):
                act(run)
        except Exception as error:  # wandb raises its own, pydantic's, OSError and more; none may stop a training
            self._abandon()
            later = f"upload what is there with: {self._upload_command(run)}"
            self._warn(f"wandb {failure} ({reason(error)}), training goes on without it; {later}")

    def _attach(self, act: Callable[[wandb.Run], object], what: str) -> None:
        """Add something to the run that it can do without; online this may ask the server, so it has its time."""
        if (run := self._run) is None:
            return
        try:
            within(self._settings.finish_timeout, lambda: act(run))
        except Exception as error:  # as above
            if what not in self._warned:
                self._warn(f"wandb could not store {what} ({reason(error)})")
            self._warned.add(what)

    def _abandon(self) -> None:
        """Leave the run, or wandb would not let the next one of this process go online."""
        import wandb

        if self._run is not None:
            # it is told already that it failed
            with contextlib.suppress(Exception), service_ended_after(self._settings.finish_timeout + _GRACE):
                self._run.finish(exit_code=_EXIT_CODES["failed"])
            with contextlib.suppress(Exception), service_ended_after(_GRACE):
                wandb.teardown()  # or Python tells, as it ends, that a service which has crashed cannot be reached
            if wandb.run is self._run:  # which finish leaves so when the service has crashed
                wandb.run = None
        self._run = None

    def _upload_command(self, run: wandb.Run) -> str:
        if run.offline:
            return f"vu sync {shlex.quote(str(self._folder))}"
        return f"wandb sync --include-online {shlex.quote(str(run.settings.sync_dir))}"


def _server_step(run: wandb.Run) -> int:
    """The last step that the server has of a resumed run; that step may be there in part."""
    step = run.summary.get("step")
    return int(step) if isinstance(step, int | float) else -1


def _values(record: Mapping[str, Value]) -> dict[str, Value]:
    """Values of a line of ``metrics.jsonl``, with strict JSON's stand-ins for what is not finite turned back."""
    return {
        name: float(value) if value in _NOT_FINITE else value
        for name, value in record.items()
        if name not in ("step", "seconds")
    }


def _use(run: wandb.Run, artifact: wandb.Artifact) -> None:
    """Declare an input of the run: what ``use_artifact`` does with a new artifact, but it refuses to offline."""
    run._log_artifact(artifact, use_after_commit=True)
