"""The cells of a sweep on a Ray cluster: each is a task.

Ray Core queues tasks, places them where their processors and GPUs are, and starts them again when a worker or its
machine dies. What a cell is, whether it is done and how it goes on is decided as everywhere (``attempt``), by the
worker: in the runs folder itself where the worker sees that too, else in a folder of its own, whose run is sent back
when it ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import vectoruniverse
from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.sweep.attempt import Ending, Job, attempt, ended_before, find_cell_run, unfinished_run
from vectoruniverse.sweep.engines import Begun
from vectoruniverse.sweep.sharing import Bases
from vectoruniverse.terminal import Display
from vectoruniverse.training.interruption import InterruptedTraining

PATIENCE = 120.0
"""Seconds that cells are given to end their step and save, once somebody asked to stop."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cell is given, and how often it is started again.

    Attributes:
        cpus: processors, and threads that compute; None: those of the smallest machine, divided by its GPUs.
        gpus: GPUs, or a share of one; None: one where the cluster has any.
        retries: times that a cell is started again whose worker, or the machine below it, died.
    """

    cpus: float | None = None
    gpus: float | None = None
    retries: int = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """What a worker sends back.

    Attributes:
        ending: of the attempt.
        node: host name.
        folder: the run's folder as a tar file; None where the runs folder is shared.
    """

    ending: Ending
    node: str
    folder: bytes | None


class OnRay:
    """Context in which cells go to the workers of a cluster.

    Args:
        address: ``HOST:PORT`` of the head node, ``auto`` for a cluster that this machine belongs to; None: a cluster of
            this machine alone, for as long as the context lasts.
        resources: of each cell.
        display: what a person sees.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str | None, resources: Resources, display: Display) -> None:
        self._address, self._resources, self._display = address, resources, display
        self._ray: Any = None

    def __enter__(self) -> OnRay:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home unless told not to
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a cell without a GPU sees none
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--engine ray needs Ray", remedy="pip install 'vectoruniverse[ray]'") from error
        try:
            _knock(self._address)
            ray.init(address=self._address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            said = f"no Ray cluster answers at {self._address or 'this machine'}: {str(error).splitlines()[0]}"
            raise ConfigError(said, remedy="ray start --head starts one; --address names it") from error
        self._ray = ray
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def attempts(self, jobs: Sequence[Job], bases: Bases, begun: Begun) -> Iterator[tuple[Job, Ending]]:
        """Attempt each cell on some worker; yields them as they end."""
        waiting, marks = {}, {}
        try:
            for job in jobs:
                if (done := _done(job, bases)) is not None:
                    yield job, done
                    continue
                if job.runs_dir not in marks:
                    marks[job.runs_dir] = _mark(job.runs_dir)
                waiting[self._submit(job, marks[job.runs_dir])] = job
            while waiting:
                (ready, *_), _ = self._ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(ready)
                yield job, self._ending(job, ready)
        except (InterruptedTraining, KeyboardInterrupt):
            yield from self._stop(waiting)
            raise
        finally:
            for mark in marks.values():
                mark.unlink(missing_ok=True)

    def _submit(self, job: Job, mark: Path) -> Any:
        cpus, gpus = self._share()
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": self._resources.retries, "name": job.cell.title}
        task = self._ray.remote(_on_worker).options(**options)
        absolute = replace(job, runs_dir=job.runs_dir.absolute())
        return task.remote(absolute, mark.name, Path.cwd(), max(1, int(cpus)), vectoruniverse.__version__)

    def _share(self) -> tuple[float, float]:
        """Processors and GPUs of a cell."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU")]
        gpus = self._resources.gpus
        if gpus is None:
            gpus = 1.0 if with_gpu else 0.0
        if self._resources.cpus is not None:
            return self._resources.cpus, gpus
        most = min(node.get("CPU", 1) // (node["GPU"] / gpus if gpus else 1) for node in (with_gpu if gpus else nodes))
        return max(1.0, most), gpus

    def _ending(self, job: Job, reference: Any) -> Ending:
        """How an attempt ended; a run that was sent back is among the others now."""
        errors = self._ray.exceptions
        try:
            sent = self._ray.get(reference)
        except errors.TaskCancelledError:
            return Ending("interrupted")
        except errors.RayError as error:  # its worker died as often as it may, or the versions differ
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is known'}"
            return Ending("failed", unfinished_run(job), said)
        assert isinstance(sent, Sent)
        if sent.folder is not None and sent.ending.run is not None:
            _unpack(sent.folder, job.runs_dir, sent.ending.run)
        self._display.say(f"{job.title}: {sent.ending.state} on {sent.node}")
        return sent.ending

    def _stop(self, waiting: dict[Any, Job]) -> Iterator[tuple[Job, Ending]]:
        """Ask every worker to stop as Ctrl-C would; cells that have begun leave a checkpoint."""
        for reference in waiting:
            self._ray.cancel(reference)
        ended, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE) if waiting else ([], [])
        for reference in ended:
            job = waiting[reference]
            if (ending := self._ending(job, reference)).run is not None or ending.state != "interrupted":
                yield job, ending


def _knock(address: str | None) -> None:
    """Find out in seconds whether somebody answers, for which Ray takes minutes.

    Raises:
        OSError: nobody does.
        ValueError: the address is not HOST:PORT.
    """
    if address is None or address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _done(job: Job, bases: Bases) -> Ending | None:
    """How a cell ended that needs no worker."""
    if unfinished_run(job) is None:
        return None
    run = find_cell_run(job.runs_dir, job.cell, bases.of(job.cell.experiment).data.fingerprint(), job.aside)
    return None if run is None else ended_before(run, job.cell.title, bases.display)


def _mark(folder: Path) -> Path:
    """A file by whose name a worker knows the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".shared-{secrets.token_hex(8)}"
    mark.touch()
    return mark


_bases: list[Bases] = []
"""What this worker holds, for its next cell may start from it."""


def _on_worker(job: Job, mark: str, folder: Path, threads: int, version: str) -> Sent:
    """Attempt a cell; runs in a worker's main thread, in which Ray raises what cancels a task."""
    import torch

    if version != vectoruniverse.__version__:
        said = f"{socket.gethostname()} has vectoruniverse {vectoruniverse.__version__}, not {version}"
        return Sent(Ending("failed", message=said), socket.gethostname(), None)
    with contextlib.suppress(OSError):  # relative paths are meant from where the sweep was started
        os.chdir(folder)
    torch.set_num_threads(threads)
    if not _bases:
        _bases.append(Bases(Display()))
    shared = (job.runs_dir / mark).is_file()
    own = job if shared else replace(job, runs_dir=Path(tempfile.gettempdir()) / f"vu-cells{mark}")
    try:
        ending = attempt(own, _bases[0])
    except (InterruptedTraining, KeyboardInterrupt):
        ending = Ending("interrupted", unfinished_run(own))
    except UserError as error:
        ending = Ending("failed", unfinished_run(own), str(error))
    if shared or ending.run is None:
        return Sent(ending, socket.gethostname(), None)
    packed = _pack(own.runs_dir / ending.run)
    shutil.rmtree(own.runs_dir / ending.run)
    return Sent(ending, socket.gethostname(), packed)


def _pack(run: Path) -> bytes:
    """A run's folder as a tar file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(run, arcname=run.name)
    return held.getvalue()


def _unpack(packed: bytes, runs_dir: Path, name: str) -> None:
    """Put a run that was sent back among the others, as a whole."""
    with tempfile.TemporaryDirectory(prefix=".sent-", dir=runs_dir) as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            if (careful := getattr(tarfile, "data_filter", None)) is not None:  # since Python 3.11.4
                archive.extraction_filter = careful
            archive.extractall(folder)  # noqa: S202  # what a worker of the user's own packed
        (Path(folder) / name).rename(runs_dir / name)
