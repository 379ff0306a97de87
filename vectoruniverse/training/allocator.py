"""Memory that is freed stays with the process.

Activations of tens of MB are freed and wanted again in every step. glibc gives each of them back to the system, and the
system hands out fresh pages that must be mapped and zeroed one by one. Kept, and in huge pages, they cost nothing: on
two CPU cores a training step of tiny-clip takes a sixth to a quarter less (`scripts/benchmark_step`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

OFF = "VU_KEEP_MEMORY"
"""Environment variable; 0 leaves the allocator alone."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_MADV_HUGEPAGE = 14
_MOST = 2**31 - 1
_GROW = 64 << 20
_RESERVED = 4 << 30
_PAGE = 4096


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, and the system back it with huge pages; whether that was possible.

    Only Linux with glibc knows how; elsewhere nothing happens. Nothing is used up: the reserved range is address space.
    """
    if not sys.platform.startswith("linux") or os.environ.get(OFF) == "0":
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, libc.madvise
    except (OSError, AttributeError):  # another C library
        return False
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.argtypes, madvise.argtypes = (ctypes.c_void_p,), (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    kept = all(mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _GROW)))
    if kept and (block := malloc(_RESERVED)):
        begin = -(-block // _PAGE) * _PAGE
        madvise(begin, _RESERVED - _PAGE, _MADV_HUGEPAGE)  # refused where the system has none: no harm
        free(block)  # stays with the process as the end of its heap, from which tensors are cut from now on
    return bool(kept)


def give_back_freed() -> None:
    """Give the system what lies free between blocks that are in use; the end of the heap stays.

    Blocks of many sizes leave gaps that fit no other, so that a process which keeps what it freed would grow with each
    micro-batch. Only glibc knows how; elsewhere nothing happens.
    """
    if (trim := _malloc_trim()) is not None:
        trim(_RESERVED)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim
