"""Memory that ran out, told with figures and a remedy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from vectoruniverse.config.sections import ContrastiveTrainConfig, TrainConfig
from vectoruniverse.errors import ResourceError

_SAID = ("out of memory", "can't allocate memory")
"""What torch says then, in small letters."""

_SIZE = r"([\d.]+ ?(?:bytes|[KMGTP]?i?B))"
_WANTED = re.compile(rf"(?:tried|unable) to allocate {_SIZE}", re.IGNORECASE)
_ON_GPU = re.compile(rf"GPU (\d+) has a total capacity of {_SIZE} of which {_SIZE} is free")


@contextlib.contextmanager
def memory_told(train: TrainConfig) -> Iterator[None]:
    """Turn memory that runs out in a training into a ``ResourceError`` with figures and a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (told := out_of_memory(error, train)) is None:
            raise
        raise told from error


def out_of_memory(error: MemoryError | RuntimeError, train: TrainConfig | None = None) -> ResourceError | None:
    """What to tell of an error that says memory ran out, as far as is known; None of any other error.

    Args:
        error: of Python, NumPy or torch.
        train: settings of the training that it ended, if one.
    """
    said = str(error)
    if isinstance(error, RuntimeError) and not any(words in said.lower() for words in _SAID):
        return None
    facts = [f"{_readable(wanted[1])} were asked for"] if (wanted := _WANTED.search(said)) else []
    if gpu := _ON_GPU.search(said):
        facts.append(f"{gpu[3]} of {gpu[2]} are free on GPU {gpu[1]}")
    elif (free := _free_here()) is not None and "CUDA" not in said:
        facts.append(f"{_gibibytes(free[0])} of {_gibibytes(free[1])} are free on this machine")
    if train is not None:
        facts.append(f"train.batch_size {train.batch_size}")
    lower = "lower train.batch_size, or eval.batch_size if an evaluation ran out of it"
    if isinstance(train, ContrastiveTrainConfig):
        facts += [] if train.micro_batch is None else [f"train.micro_batch {train.micro_batch}"]
        half = max(1, (train.micro_batch or train.batch_size) // 2)
        lower = f"set train.micro_batch: {half}, which changes no result, or {lower}"
    figures = f" ({'; '.join(facts)})" if facts else ""
    return ResourceError(f"out of memory{figures}", remedy=lower)


def _readable(size: str) -> str:
    return _gibibytes(int(size.split()[0])) if size.endswith("bytes") else size


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def _free_here() -> tuple[int, int] | None:
    """Bytes of memory that are free on this machine, and all of them, where the system tells."""
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free, total = (int(told[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError):  # not Linux
        return None
    return free, total
