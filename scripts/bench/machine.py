"""The machine: what it is, and how fast it multiplies matrices."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.rounds import Case

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "accelerate", "numpy", "pillow")
CLOCK = "VU_BENCHMARK_CLOCK"
"""Environment variable by which processes are told what to count."""
DEVICE = "VU_BENCHMARK_DEVICE"
"""Environment variable by which they are told where models train."""

SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices, by the kind of device."""


def device() -> torch.device:
    """Where models train."""
    return torch.device(os.environ.get(DEVICE, "cpu"))


def clock() -> float:
    """Seconds that passed; with ``--clock cpu`` those that this process and its children computed, on all threads.

    A GPU is waited for.
    """
    if device().type == "cuda":
        torch.cuda.synchronize()
    if os.environ.get(CLOCK) != "cpu":
        return time.perf_counter()
    spent = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def cases(formats: Sequence[str]) -> list[Case]:
    return [Case("machine", "matrix product", name, {}) for name in dict.fromkeys(("fp32", *formats))]


def measure(case: Case) -> dict[str, float]:
    return {"gemm": gemm_gflops(case.name)}


def gemm_gflops(number_format: str, seconds: float = 0.5) -> float:
    """GFLOP/s of a square torch.matmul: the median product of those that fit the time, five at least."""
    side, kind = SIDES[device().type], FORMATS[number_format]
    a, b = (torch.randn(side, side, device=device()).to(kind) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, seconds=seconds, least=5) / 1e9


def median_seconds(work: Callable[[], object], *, seconds: float = 0.5, least: int = 3) -> float:
    """Median time of a call, after one to warm up."""
    work()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        started = clock()
        work()
        times.append(clock() - started)
    return statistics.median(times)


def peak_mib() -> float:
    """Most memory that this process had. Not ru_maxrss, which a process inherits from the one that started it."""
    return told_mib("/proc/self/status", "VmHWM")


def training_peak_mib() -> float:
    """Most memory of the device that models train on: of this process on the CPU, of its tensors on a GPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device().type == "cuda" else peak_mib()


def reset_training_peak() -> float:
    """As ``reset_peak``, of the device that models train on."""
    if device().type != "cuda":
        return reset_peak()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def reset_peak() -> float:
    """Count the peak from now on, where the system allows it; memory in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return told_mib("/proc/self/status", "VmRSS")


def told_mib(file: str, key: str) -> float:
    """A line of a file in which the system tells kilobytes."""
    lines = Path(file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def describe() -> dict[str, str]:
    """Processor, threads and versions, in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = dict(tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line)
    flags = set(cpu.get("flags", "").split())
    gpu = {}
    if device().type == "cuda":
        found = torch.cuda.get_device_properties(device())
        capability = f"compute capability {found.major}.{found.minor}"
        gpu = {"gpu": f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {capability}, driver {driver()}"}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{cpu.get('model name', platform.machine())}, {os.cpu_count()} cores",
        "flags": ", ".join(flag for flag in FLAGS if flag in flags) or "none of " + ", ".join(FLAGS),
        **gpu,
        "threads": os.environ["OMP_NUM_THREADS"],
        "clock": os.environ[CLOCK],
        "load before": f"{os.getloadavg()[0]:.1f}",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
    }


def driver() -> str:
    """Version of NVIDIA's driver, which torch does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()
