"""Kill a run just before each of its file-system calls in turn, go on with it, and compare with one left in peace.

Every process is a fork, so that libraries are imported and the base is read from disk once. Linux only.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from safetensors.torch import load_file

from vectoruniverse.config.sections import Experiment
from vectoruniverse.experiment import train_or_go_on
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.tasks.experiments import load_experiment
from vectoruniverse.terminal import Display

CALLS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree")
"""Python's audit events of what changes a folder; safetensors writes its files in between, unseen."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def tiny(folder: Path, shapes: Path, model: Path, *, report: bool = False) -> Experiment:
    """Two epochs on a few pictures; the second is the best."""
    file = folder / "killed.yaml"
    settings = {
        "name": "killed",
        "task": "image_text",
        "model": str(model),
        "data": {"root": str(shapes), "split": {"val_fraction": 0.25, "test_fraction": 0}},
        "adapter": {"method": "lora", "rank": 2},
        "train": {"epochs": 2, "batch_size": 12, "lr": 0.01, "precision": "fp32", "device": "cpu", "log_every": 1},
        "eval": {"report": report},
        "wandb": {"mode": "disabled"},
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
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (summary.run.path, expected))
    if ours.keys() != theirs.keys() or any(bool((ours[name] != theirs[name]).any()) for name in ours):
        faults.append("another adapter")
    return faults


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


def _forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork; gives 0, or what ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
