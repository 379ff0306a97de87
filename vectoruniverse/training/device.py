"""Which device, which number format, and whether this build of torch can use the GPU at all."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from pathlib import Path

import torch

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.compute import Compute

if sys.platform != "win32":
    import resource

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): the peak resident size becomes the present one

_CUDA_TARGET = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)[af]?")


def choose_compute(device: str = "auto", precision: str = "auto", *, sharded: bool = False) -> Compute:
    """Resolve ``auto`` to what this machine has, and refuse what it does not have.

    Args:
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (the usual format of the device; training measures, see ``training.precision``), ``fp32``,
            ``bf16`` or ``fp16``.
        sharded: whether several processes hold a part of each frozen weight.

    Raises:
        ConfigError: the device is absent, torch was built without its architecture, or cannot compute in the precision.
    """
    chosen = _choose_device(device)
    if chosen.type == "cuda":
        check_architecture(torch.cuda.get_device_capability(chosen), torch.cuda.get_arch_list())
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = named[formats_of(chosen)[0] if precision == "auto" else precision]
    # on CPUs fused attention is as fast in fp32 and slower in bf16 (guide/tried.md); on GPUs it is the faster one
    return Compute(chosen, dtype, "sdpa" if chosen.type == "cuda" else "eager", sharded)


def _choose_device(device: str) -> torch.device:
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not (has_cuda and (chosen.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"there is no {device} here (torch sees {torch.cuda.device_count()} CUDA devices)",
            key="train.device",
            remedy="use train.device: auto, or install a CUDA build of torch and its driver",
        )
    if chosen.type == "mps" and not has_mps:
        raise ConfigError("there is no mps device here", key="train.device", remedy="use train.device: auto")
    return chosen


def check_architecture(capability: tuple[int, int], built_for: list[str]) -> None:
    """Raise where this build of torch carries no kernels for the GPU, before the first kernel fails obscurely.

    CUDA binaries run on devices of the same major version and at least the same minor one; PTX (``compute_XX``) also
    runs on every later device. A ROCm build names its targets otherwise (``gfx90a``), and says nothing of a capability:
    it is left to the driver.

    Raises:
        ConfigError: with the command that installs a build which fits.
    """
    major, minor = capability
    known = [match for name in built_for if (match := _CUDA_TARGET.fullmatch(name))]
    if not known:
        return
    for match in known:
        built = int(match["major"]), int(match["minor"])
        if match["kind"] == "sm" and built[0] == major and built[1] <= minor:
            return
        if match["kind"] == "compute" and built <= (major, minor):
            return
    raise ConfigError(
        f"this build of torch ({torch.__version__}) has no kernels for the GPU (compute capability {major}.{minor}; "
        f"built for {', '.join(built_for)})",
        key="train.device",
        remedy="a V100 or older GPU needs a CUDA 12.6 build, of which torch 2.14 is the last: "
        "pip install --force-reinstall 'torch==2.13.*' --index-url https://download.pytorch.org/whl/cu126",
    )


def formats_of(device: torch.device) -> tuple[str, ...]:
    """Formats that a device computes in, by their names in ``train.precision``; the usual one first.

    GPUs before compute capability 8.0 only emulate bf16.
    """
    if device.type == "cuda":
        real_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return ("bf16", "fp16", "fp32") if real_bf16 else ("fp16", "fp32")
    if device.type == "cpu" and _cpu_has_bf16():
        return "fp32", "bf16"
    return ("fp32",)


def _cpu_has_bf16() -> bool:
    """Whether the processor claims to multiply bf16; elsewhere bf16 is emulated and slower than float32."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use so far: on the GPU where there is one, else by this process; None where the system hides it.

    So far: since the process began, or since ``reset_peak``.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError):
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        if told := [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]:
            return told[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def reset_peak(device: torch.device) -> None:
    """Begin to measure memory anew; of a CPU on Linux only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
