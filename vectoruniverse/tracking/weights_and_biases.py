"""Weights & Biases through its own client; whatever fails there, training goes on."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vectoruniverse.tracking.contract import DataSet, Retrieval, Status, Value
from vectoruniverse.tracking.wandb_media import adapter_artifact, data_artifact, retrieval_tables
from vectoruniverse.tracking.wandb_run import RunOpener, WandbSettings, reason

if TYPE_CHECKING:
    import wandb

__all__ = ["WandbSettings", "WandbTracker"]

_EXIT_CODES: dict[Status, int] = {"finished": 0, "failed": 1, "interrupted": 255}  # 255: wandb's own for Ctrl-C
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


class WandbTracker:
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
        self._folder, self._name, self._warn = folder, name, warn
        self._settings = settings or WandbSettings()
        self._run: wandb.Run | None = None
        self._known = -1
        self._best = dict(best or {})
        self._seen: set[str] = set()
        self._warned: set[str] = set()
        opener = RunOpener(folder, name, config, self._settings, environment or {}, resumes=history is not None)
        try:
            self._start(opener)
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
        """Add the adapter as ``adapter-<run>``, an artifact that this run made from ``data-<name>``.

        Args:
            folder: the adapter's folder; its files must stay as they are until the run is uploaded.
            metadata: JSON values, such as rank, metrics, base model and the data's fingerprint.
            data: what it was trained on, which becomes an input of the run.
            aliases: `best` and `latest` of this run's adapters.
        """

        def add(run: wandb.Run) -> None:
            run.log_artifact(adapter_artifact(self._name, folder, metadata), aliases=list(aliases))

        self._attach(add, "the adapter")
        self._attach(lambda run: _use(run, data_artifact(data)), "the lineage")

    def finish(self, status: Status) -> None:
        """Upload the rest and take leave, within ``finish_timeout``."""
        self._attempt(lambda run: run.finish(exit_code=_EXIT_CODES[status]), "could not finish")
        self._run = None

    def _start(self, opener: RunOpener) -> None:
        self._run, trouble = opener.open()
        if self._run is None:
            return
        self._run.define_metric("*", step_metric="step")
        if self._run.resumed:
            self._known = _server_step(self._run)
        if trouble:
            self._warn(f"wandb is offline ({trouble}); upload the run later with: {self._upload_command(self._run)}")

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
            _within(self._settings.finish_timeout, lambda: act(run))
        except Exception as error:  # as above
            if what not in self._warned:
                self._warn(f"wandb could not store {what} ({reason(error)})")
            self._warned.add(what)

    def _abandon(self) -> None:
        """Leave the run, or wandb would not let the next one of this process go online."""
        import wandb

        if self._run is not None:
            with contextlib.suppress(Exception):  # it is told already that it failed
                self._run.finish(exit_code=_EXIT_CODES["failed"])
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


def _within(seconds: float, act: Callable[[], object]) -> None:
    """Do something, and wait for it so long at most; if it takes longer, it is left to itself.

    Raises:
        TimeoutError: it is not done yet.
        Exception: whatever it raised.
    """
    done: Future[None] = Future()

    def work() -> None:
        try:
            act()
        except Exception as error:  # handed over to whoever waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        done.result(timeout=seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"it took longer than {seconds:g} s") from error
