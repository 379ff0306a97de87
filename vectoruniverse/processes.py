"""One run on several processes: which of them this is, and what they tell each other.

``torchrun``, ``srun`` or anything else that sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and
``MASTER_PORT`` starts the processes; torch.distributed carries the messages, gloo between CPUs and nccl between GPUs.
Without those variables there is one process, and every function here gives back what it is given.

Each process works on its own rows of a batch, one stretch after another in the order of ranks. A loss is the sum of the
processes' shares of it, and so is each gradient. Everything else is done by all of them alike, so that nobody has to be
told; what is written and shown is the first one's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vectoruniverse.errors import ConfigError, ResourceError

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may decode pictures or evaluate meanwhile."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_REASON = "why a process ended"


class _Apart:
    """Whether this process works for itself although it is one of several."""

    on = False


def wanted() -> int:
    """How many processes whoever started this one wants a run to have."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdigit() and all(name in os.environ for name in _VARIABLES) else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks; so before the others are known, too."""
    return wanted() == 1 or os.environ.get("RANK") == "0"


def count() -> int:
    """How many processes share the work at hand."""
    return dist.get_world_size() if dist.is_initialized() and not _Apart.on else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if count() > 1 else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that were started together know each other.

    Raises:
        ConfigError: they do not meet, or there are more processes on a machine than GPUs.
    """
    if wanted() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        if (local := int(os.environ["LOCAL_RANK"])) >= torch.cuda.device_count():
            message = f"process {local + 1} of this machine finds {torch.cuda.device_count()} GPUs"
            raise ConfigError(message, key="LOCAL_RANK", remedy="start as many processes as there are GPUs")
        torch.cuda.set_device(local)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps the store when it starts all again, and in it the addresses of those that have ended
        attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        said = f"the processes of this run do not meet at {where}: {str(error).splitlines()[0]}"
        raise ConfigError(said, remedy="torchrun sets what they need; see vu guide processes") from error
    try:
        yield
    except OtherProcessError:
        raise
    except Exception as error:
        with contextlib.suppress(RuntimeError):  # nobody may be left to hear it
            _store().set(_REASON, f"process {dist.get_rank()}: {error}")
        raise
    finally:
        dist.destroy_process_group()


class OtherProcessError(ResourceError):
    """Another process of the run has ended, so that this one cannot go on."""


@contextlib.contextmanager
def _message() -> Iterator[None]:
    """Within it others are spoken to.

    Raises:
        OtherProcessError: one of them has ended, and why, where it could tell.
    """
    try:
        yield
    except RuntimeError as error:
        raise _ended() from error


def _ended() -> OtherProcessError:
    """That another process has ended, and why, where it could tell."""
    why = "another process of this run has ended"
    with contextlib.suppress(RuntimeError):
        if _store().check([_REASON]):
            why = _store().get(_REASON).decode()
    return OtherProcessError(why, remedy="the same command goes on from the last checkpoint")


def _lost(error: RuntimeError) -> bool:
    """Whether it is of torch's own messages, whose other end is gone: nccl's have a class, gloo's name it."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _store() -> Any:
    """Where processes leave notes for each other, which outlives whoever wrote them."""
    return dist.distributed_c10d._get_default_store()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Within it this process works for itself: what only it does must not wait for the others."""
    before, _Apart.on = _Apart.on, True
    try:
        yield
    finally:
        _Apart.on = before


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it, within ``apart``, processes share their work again.

    Raises:
        OtherProcessError: one of them has ended while torch itself, as FSDP does, spoke to it.
    """
    before, _Apart.on = _Apart.on, False
    try:
        yield
    except RuntimeError as error:
        if _lost(error):
            raise _ended() from error
        raise
    finally:
        _Apart.on = before


def longest(rows: int) -> int:
    """How many of ``rows`` rows the process with the most of them has."""
    return -(-rows // count())


def own(rows: int) -> slice:
    """This process's stretch of ``rows`` rows; those of all processes differ by one at most."""
    return slice(_start(rows, rank()), _start(rows, rank() + 1))


def _start(rows: int, of: int) -> int:
    return rows * of // count()


def common_seed() -> int:
    """The seed of torch's random numbers as all processes share it; each counts its rank on top, so that masks of
    dropout differ.
    """
    return torch.initial_seed() - rank()


def gathered(part: Tensor, rows: int) -> Tensor:
    """Everybody's stretches one below the other (N, …), of which ``part`` is this process's; with gradient.

    The gradient of a process's own rows is the sum of what all processes make of them.
    """
    if count() == 1:
        return part
    whole: Tensor = _Gathered.apply(part, rows)  # type: ignore[no-untyped-call]
    return whole


class _Gathered(torch.autograd.Function):
    """Gathers stretches of rows that may differ by one in length; sums gradients on the way back."""

    @staticmethod
    def forward(context: Any, part: Tensor, rows: int) -> Tensor:
        context.rows = rows
        lengths = [_start(rows, of + 1) - _start(rows, of) for of in range(count())]
        padded = part.new_zeros(max(lengths), *part.shape[1:])
        padded[: len(part)] = part
        found = [torch.empty_like(padded) for _ in lengths]
        with _message():
            dist.all_gather(found, padded)
        return torch.cat([stretch[:length] for stretch, length in zip(found, lengths, strict=True)])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return summed(gradients[0])[own(context.rows)], None  # of a copy: others may hold the gradient, too


def collected(part: Tensor) -> Tensor:
    """What every process has (M, …), as many rows as each likes, one below the other; without gradient."""
    if count() == 1:
        return part
    lengths = summed(torch.tensor([len(part) if of == rank() else 0 for of in range(count())]))
    padded = part.new_zeros(int(lengths.max()), *part.shape[1:])
    padded[: len(part)] = part.detach()
    found = [torch.empty_like(padded) for _ in lengths]
    with _message():
        dist.all_gather(found, padded)
    return torch.cat([stretch[:length] for stretch, length in zip(found, lengths.tolist(), strict=True)])


def summed(values: Tensor) -> Tensor:
    """Σ over the processes, without gradient."""
    if count() == 1:
        return values
    whole = values.detach().clone(memory_format=torch.contiguous_format)
    with _message():
        dist.all_reduce(whole)
    return whole


def of_first(values: Tensor) -> Tensor:
    """The first process's values, in all of them, whose own have the same shape.

    What decides how training goes on is not left to each: two machines may round the same sum differently.
    """
    if count() == 1:
        return values
    theirs = values.detach().clone(memory_format=torch.contiguous_format)
    with _message():
        dist.broadcast(theirs, 0)
    return theirs


def told_by_first(text: str) -> str:
    """The first process's text, in all of them."""
    if count() == 1:
        return text
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    length = int(of_first(torch.tensor(len(data))))
    return of_first(data if rank() == 0 else torch.empty(length, dtype=torch.uint8)).numpy().tobytes().decode()
