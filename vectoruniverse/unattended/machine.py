"""Checks of the machine: Python, torch and the GPU, threads, clock, encoding."""

from __future__ import annotations

import codecs
import os
import platform
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from vectoruniverse.errors import one_line
from vectoruniverse.runs.listing import list_runs
from vectoruniverse.terminal import counted, duration
from vectoruniverse.unattended.check import Asked, Check
from vectoruniverse.unattended.disk import nearest_folder
from vectoruniverse.unattended.services import is_here

OLDEST_PYTHON = (3, 11)
"""As ``requires-python`` in pyproject.toml."""

_NVIDIA = Path("/dev/nvidiactl")
"""There where the driver of an NVIDIA GPU is loaded and this process may use it."""
_TOLERANCE = 120.0
"""Seconds by which two clocks may differ."""


def python(_: Asked) -> Check:
    """The version of Python against the oldest that will do."""
    found = f"Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Check("ok", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check("fix", found, f"make an environment with Python {oldest} or newer")


def torch_build(_: Asked) -> Check:
    """Whether this build of torch uses the GPUs that are here.

    Raises:
        ConfigError: it has no kernels for one of them.
    """
    import torch

    from vectoruniverse.training.device import check_architecture

    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "for CPUs"
    found = f"torch {torch.__version__} ({build})"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        has_gpu = torch.cuda.is_available()
    if not has_gpu and _NVIDIA.exists():
        return _unused(found, cuda, [one_line(str(warning.message)) for warning in said])
    names = []
    for index in range(torch.cuda.device_count() if has_gpu else 0):
        check_architecture(torch.cuda.get_device_capability(index), torch.cuda.get_arch_list())
        names.append(torch.cuda.get_device_name(index))
    return Check("ok", f"{found}; {', '.join(names) or 'no GPU that it could use'}")


def _unused(found: str, cuda: str | None, said: list[str]) -> Check:
    """An NVIDIA GPU that torch does not see."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("warning", f"{found}; CUDA_VISIBLE_DEVICES hides the GPU", "unset it, if a GPU is wanted")
    found = "; ".join([f"{found} does not use the NVIDIA GPU that is here", *said])
    if cuda is None:
        return Check("fix", found, "pip install --force-reinstall torch, which from PyPI is a CUDA build")
    return Check("fix", found, f"update the NVIDIA driver, which has to know CUDA {cuda}; nvidia-smi tells")


def threads(_: Asked) -> Check:
    """How many threads would compute, and whether other programs keep processors busy."""
    import torch

    from vectoruniverse.training.threads import choose_threads, is_told, processors

    shared, there = choose_threads(), processors()
    if shared is not None:
        return Check("warning", shared, "run it when they are done, or end them")
    count = torch.get_num_threads()
    found = f"{counted(count, 'thread')} on {counted(there, 'processor')}"
    if not is_told():
        return Check("ok", f"{found}, which nobody else uses")
    found = f"{found}, by OMP_NUM_THREADS or MKL_NUM_THREADS"
    if count > there:
        return Check("warning", found, f"unset it, or set OMP_NUM_THREADS={there}: threads wait for each other")
    return Check("ok", found)


def compute(asked: Asked) -> Check:
    """Device and number format that the run would take, and why.

    Raises:
        ConfigError: there is no such device, or it cannot compute in the format.
    """
    from vectoruniverse.training.device import choose_compute

    if asked.experiment is None:
        return Check("ok", f"{choose_compute().with_threads}; vu train times each format and takes the fastest")
    train = asked.experiment.train
    precision: str = train.precision
    why = "as named"
    if precision == "auto" and is_here(asked.experiment):
        from vectoruniverse.training.precision import measure_precision

        measured = measure_precision(asked.experiment)
        precision, why = measured.chosen, measured.words
    elif precision == "auto":
        why = "to be timed when the model is here"
    chosen = choose_compute(train.device, precision)
    return Check(
        "ok", f"{chosen.with_threads} (train.device: {train.device}; train.precision: {train.precision}: {why})"
    )


def clock(asked: Asked) -> Check:
    """Whether the clock runs behind the runs and files that are there, or beside that of the disk."""
    now = time.time()
    try:
        with tempfile.TemporaryFile(dir=nearest_folder(asked.runs_dir)) as file:
            disk = os.fstat(file.fileno()).st_mtime
    except OSError:  # told by room for runs
        disk = now
    at = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    remedy = "set the clock (timedatectl set-ntp true): runs are ordered by it, and TLS certificates are held to it"
    if abs(now - disk) > _TOLERANCE:
        return Check("warning", f"{at}; that of the disk is {duration(abs(now - disk))} away", remedy)
    latest = max([Path(__file__).stat().st_mtime, *_run_times(asked.runs_dir)])
    if latest - now > _TOLERANCE:
        return Check("fix", f"{at}; the newest run or file is {duration(latest - now)} ahead of it", remedy)
    return Check("ok", at)


def _run_times(runs_dir: Path) -> list[float]:
    """When runs began and ended, as far as they tell, in seconds since the epoch."""
    told = [time for run in list_runs(runs_dir) for time in (run.started, run.ended) if time]
    found = []
    for text in told:
        try:
            found.append(datetime.fromisoformat(text).timestamp())
        except ValueError:  # a file that another program wrote
            continue
    return found


def encoding(_: Asked) -> Check:
    """Whether names of files, and what is printed, may have any letter."""
    files, printed = sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None) or "utf-8"
    found = f"names of files {files}, output {printed}"
    if not _is_utf8(files):
        return Check("fix", found, "export PYTHONUTF8=1, or a UTF-8 locale: LC_ALL=C.UTF-8")
    if not _is_utf8(printed):
        return Check("warning", found, "export PYTHONIOENCODING=utf-8; other letters are shown by their numbers")
    return Check("ok", found)


def _is_utf8(name: str) -> bool:
    return codecs.lookup(name).name == "utf-8"
