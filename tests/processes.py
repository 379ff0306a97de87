"""`vu` in a process of its own, forked from one that has loaded the libraries already: signals, streams, exit codes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["vectoruniverse.cli", "vectoruniverse.sweep.runner"])


NO_READER = Path("nobody reads it")
"""As output: a pipe whose reader went away."""


@dataclass(frozen=True)
class Child:
    """A command that runs.

    Attributes:
        process: its process.
        out, err: files that take its output.
    """

    process: ForkServerProcess
    out: Path
    err: Path

    def send_signal(self, number: int) -> None:
        """As a shell or a scheduler would."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code; minus the signal that killed it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            self.process.join()
            raise AssertionError(f"it did not end in {seconds:g} s")
        return self.process.exitcode


def start(
    *arguments: str, folder: Path, cwd: Path | None = None, out: Path | None = None, err: Path | None = None
) -> Child:
    """Start ``vu`` with arguments; what it says goes into ``folder``, or where ``out`` and ``err`` say."""
    folder.mkdir(exist_ok=True)
    out, err = out or folder / "stdout", err or folder / "stderr"
    process = _FORKS.Process(target=_vu, args=(arguments, dict(os.environ), str(cwd or Path.cwd()), out, err))
    process.start()
    return Child(process, out, err)


def _vu(arguments: tuple[str, ...], environment: dict[str, str], cwd: str, out: Path, err: Path) -> None:
    from vectoruniverse.cli import main

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, out), (2, err)):
        file = _without_reader() if path == NO_READER else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    # what Python made of the first process's streams does not fit a pipe
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["vu", *arguments]
    main()


def _without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer
