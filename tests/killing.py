"""Kill a run just before each of its file-system calls in turn, or at random moments, go on with it, and compare with
one left in peace.

Every process is a fork, so that libraries are imported and the base is read from disk once. Linux only.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml
from safetensors.torch import load_file
from torch import Tensor

from vectoruniverse.config.sections import Experiment
from vectoruniverse.experiment import train_or_go_on
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.sweep.grid import Over, make_grid
from vectoruniverse.sweep.runner import run_sweep
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.terminal import Display

CALLS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree")
"""Python's audit events of what changes a folder; safetensors writes its files in between, unseen."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def tiny(
    folder: Path, shapes: Path, model: Path, *, name: str = "killed", report: bool = False, **sections: object
) -> Experiment:
    """Two epochs on a few pictures; the second is the best."""
    file = folder / f"{name}.yaml"
    settings: dict[str, object] = {
        "name": name,
        "task": "image_text",
        "model": str(model),
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 2, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
        "eval": {"report": report},
        "wandb": {"mode": "disabled"},
        **sections,
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(file)


def count_calls(work: Callable[[], object], folder: Path) -> int:
    """Calls that change something below ``folder`` while ``work`` runs to its end in a process of its own."""
    receiver, sender = os.pipe()

    def counted() -> None:
        calls = [0]
        _before_each_call(folder, lambda: calls.__setitem__(0, calls[0] + 1))
        work()
        os.write(sender, str(calls[0]).encode())

    assert _forked(counted) == 0
    return int(os.read(receiver, 20))


def killed_at(call: int, work: Callable[[], object], folder: Path) -> int:
    """Run ``work`` in a process of its own, killed just before its call ``call`` (1 is the first); gives its status."""

    def doomed() -> None:
        calls = [0]

        def count() -> None:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)

        _before_each_call(folder, count)
        work()

    return _forked(doomed)


def faults_of_a_kill(call: int, experiment: Experiment, runs_dir: Path, expected: Path) -> list[str]:
    """What is wrong after a kill before one call, once the same command was given again.

    Args:
        call: which call.
        experiment: what is run.
        runs_dir: an empty folder.
        expected: the run left in peace.
    """

    def command() -> None:
        train_or_go_on(experiment, runs_dir=runs_dir, display=Display(quiet=True))

    killed_at(call, command, runs_dir)
    unfinished = list_runs(runs_dir)
    again = _forked(command)
    faults = [] if again == 0 else [f"cannot go on: {[one.state for one in unfinished]}"]
    (summary,) = list_runs(runs_dir)
    if summary.state != "finished":
        faults.append(f"ends as {summary.state}")
        return faults
    faults += [f"{path.relative_to(runs_dir)} is left" for path in leftovers(runs_dir)]
    if not _equal(*(load_file(run / "adapter" / "adapter_model.safetensors") for run in (summary.run.path, expected))):
        faults.append("another adapter")
    return faults


@dataclass(frozen=True)
class Work:
    """What is killed at random moments.

    Attributes:
        name: for people.
        do: does it below a folder of runs, or goes on with it there: the same command.
    """

    name: str
    do: Callable[[Path], object]


@dataclass(frozen=True)
class Peace:
    """What a work leaves where nobody disturbs it, and how long that takes.

    Attributes:
        adapters: by the names of the experiments.
        seconds: with nothing in the cache.
    """

    adapters: dict[str, dict[str, Tensor]]
    seconds: float


def works(folder: Path, shapes: Path, model: Path) -> list[Work]:
    """A run, one with a store of what frozen blocks give, and a sweep."""
    upper = {
        "adapter": {"method": "lora", "rank": 2, "vision_layers_to_transform": [1], "text_layers_to_transform": [1]},
        "views": {"pool": 2},
    }
    plain, pool = tiny(folder, shapes, model, name="plain"), tiny(folder, shapes, model, name="pooled", **upper)
    file = folder / "swept.yaml"
    tiny(folder, shapes, model, name="swept")
    grid = make_grid(str(file), (), [Over("adapter.rank", (1, 2))], ())

    def command(experiment: Experiment) -> Callable[[Path], object]:
        return lambda runs_dir: train_or_go_on(experiment, runs_dir=runs_dir, display=Display(quiet=True))

    def sweep(runs_dir: Path) -> None:
        run_sweep(grid, runs_dir=runs_dir, out=None, display=Display(quiet=True))

    return [
        Work("run", command(plain)),
        Work("pool", command(pool)),
        Work("sweep", sweep),
    ]


def in_peace(work: Work, folder: Path) -> Peace:
    """Do a work here, which loads what forks share, and then in a process that nobody kills."""
    _alone(work, folder / "here")()
    started = time.monotonic()
    assert _forked(_alone(work, folder / "there")) == 0, work.name
    return Peace(adapters_in(folder / "here" / "runs"), time.monotonic() - started)


def faults_of_random_kills(work: Work, folder: Path, peace: Peace, moments: Random) -> tuple[str, list[str]]:
    """Kill a work at a random moment, often again while it goes on, and let it end; where that was, and what is wrong.

    Args:
        work: what is killed.
        folder: empty; runs and cache go below it.
        peace: what is to come of it.
        moments: draws them.
    """
    where = []
    for _ in range(1 + (moments.random() < 0.4)):
        delay = moments.uniform(0, 1.05 * peace.seconds)
        status = _forked(_alone(work, folder), killed_after=delay)
        where.append(f"{delay:.2f} s ({_stands(folder / 'runs')})" if status else f"{delay:.2f} s, when it was done")
    faults = [] if (again := _forked(_alone(work, folder))) == 0 else [f"cannot go on: {again}"]
    faults += [f"{one.run.name} ends as {one.state}" for one in list_runs(folder / "runs") if one.state != "finished"]
    faults += [f"{path.relative_to(folder)} is left" for path in leftovers(folder)]
    found = adapters_in(folder / "runs")
    if found.keys() != peace.adapters.keys():
        return ", ".join(where), [*faults, f"other runs: {sorted(found)}"]
    return ", ".join(where), [
        *faults,
        *(f"another adapter of {name}" for name in found if not _equal(found[name], peace.adapters[name])),
    ]


def adapters_in(runs_dir: Path) -> dict[str, dict[str, Tensor]]:
    """Adapters of all runs in a folder, by their experiments' names; of two runs of one name, also by a number."""
    found: dict[str, dict[str, Tensor]] = {}
    for one in list_runs(runs_dir):
        file = one.run.adapter / "adapter_model.safetensors"
        if file.is_file():
            name = one.run.experiment
            found[name if name not in found else f"{name} again"] = load_file(file)
    return found


def _alone(work: Work, folder: Path) -> Callable[[], object]:
    """A work with a cache of its own, which it builds, too."""

    def do() -> None:
        os.environ["VU_CACHE"] = str(folder / "cache")
        work.do(folder / "runs")

    return do


def _stands(runs_dir: Path) -> str:
    """How far the runs of a folder have come, in a word each."""
    runs = list_runs(runs_dir) if runs_dir.is_dir() else []
    steps = [max((path.name for path in one.run.checkpoints.glob("step-*")), default="no step") for one in runs]
    return ", ".join(f"{one.state} {step}" for one, step in zip(runs, steps, strict=True)) or "no run"


def _equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and not any(bool((ours[name] != theirs[name]).any()) for name in ours)


def leftovers(folder: Path) -> Iterator[Path]:
    """Files and folders that were being written."""
    return (path for path in folder.rglob("*") if ".tmp" in path.name)


def _before_each_call(folder: Path, do: Callable[[], None]) -> None:
    """Have ``do`` called before each call that changes something below ``folder``, for the rest of the process."""
    inside = os.fspath(folder)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event not in CALLS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        changes = event != "open" or (isinstance(arguments[2], int) and bool(arguments[2] & WRITES))
        if changes and os.fspath(arguments[0]).startswith(inside):
            do()

    sys.addaudithook(watch)


def _forked(work: Callable[[], object], killed_after: float | None = None) -> int:
    """Run ``work`` in a fork, which may be killed after some seconds; gives 0, or what ended it."""
    child = os.fork()
    if child:
        if killed_after is not None:
            time.sleep(killed_after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
