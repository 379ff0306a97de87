"""What a run ran on: versions, hardware, code, and the command without its secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from vectoruniverse.runs.records import Environment, PrecisionRecord

_PACKAGES = (
    *("vectoruniverse", "torch", "transformers", "tokenizers", "safetensors"),
    *("numpy", "pandas", "pillow", "pydantic", "wandb"),
)
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    *("PYTHONHASHSEED", "SLURM_JOB_ID", "TOKENIZERS_PARALLELISM", "WANDB_MODE"),
)
_HIDDEN = "***"
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(?:hf_|sk-|ghp_|AKIA)[\w-]{8,}|(?<![\w/.-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}(?![\w/.-])"
)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def environment(folder: Path | None = None, precision: PrecisionRecord | None = None) -> Environment:
    """Describe Python, packages, processor, CUDA devices, the checkout and the command.

    Of the environment variables only a short list that holds no secrets is kept, and of the command's arguments none
    that looks like a key.

    Args:
        folder: whose git commit is told; the working directory unless given.
        precision: what was measured to choose a format.
    """
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        cpu={"name": _cpu_name(), "count": os.cpu_count()},
        cuda=_cuda(),
        git=_git(folder or Path.cwd()),
        command=without_secrets(sys.argv),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        precision=precision,
    )


def without_secrets(arguments: list[str]) -> list[str]:
    """Return command line arguments with the values of `--…key`, `token=…` and whatever looks like a key hidden."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        named = _SECRET_NAME.search(name.rpartition("/")[2]) is not None
        if hide_next and not argument.startswith("-"):
            shown.append(_HIDDEN)
        elif named and equals and value:
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(_URL_LOGIN.sub(_HIDDEN, _SECRET_VALUE.sub(_HIDDEN, argument)))
        hide_next = named and argument.startswith("-") and not equals
    return shown


def _version(package: str) -> str | None:
    """The version that a loaded package calls itself, else that of its distribution.

    Torch's wheels on PyPI keep their CUDA build (``+cu130``) to themselves until they are loaded.
    """
    if isinstance(loaded := getattr(sys.modules.get(package), "__version__", None), str):
        return loaded
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cuda() -> dict[str, object]:
    import torch

    if not torch.cuda.is_available():
        return {"version": torch.version.cuda, "devices": []}
    devices: list[dict[str, object]] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        devices.append({"name": properties.name, "capability": capability, "memory_bytes": properties.total_memory})
    return {"version": torch.version.cuda, "devices": devices}


def _git(folder: Path) -> dict[str, str | bool] | None:
    """Commit of a checkout and whether tracked files differ from it; None outside of one."""
    commit = _git_says(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "changed": bool(_git_says(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git_says(folder: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    # a hostile checkout may name programs in its own configuration: these two are the ones that `status` would start
    safe = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed program and fixed arguments, no shell
            [program, *safe, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
