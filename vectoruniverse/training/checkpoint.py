"""Checkpoints: everything needed to resume, saved together as safetensors and JSON, and never half written.

A checkpoint is a folder ``step-00000123`` of one ``<group>.safetensors`` per group of tensors, ``state.json`` and,
written last, ``manifest.json`` with the size and SHA-256 of the others. It is written under a temporary name, fsynced
and renamed. Pointer files ``last`` and ``best`` beside it hold a folder name. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
from torch import Tensor

from vectoruniverse.errors import DataError, ResourceError
from vectoruniverse.runs.durable import disk_full_is_told, sync_folder, write_durably

Pointer = Literal["last", "best"]

_NAME = re.compile(r"step-(?P<step>\d{8,})(?:-(?P<again>\d+))?")
_UNFINISHED = re.compile(r"step-\d{8,}\.tmp-[0-9a-f]+|\.(?:last|best)\.[0-9a-f]+\.tmp")
_DAMAGED = "resume from an earlier checkpoint, or train again"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Args:
        path: its folder.
        step: optimizer steps done.
        tensors: group → name → tensor, on the CPU.
        state: JSON values.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, object]
) -> Path:
    """Write a checkpoint; it is there as a whole or not at all.

    Args:
        folder: folder of all checkpoints of a run.
        step: optimizer steps done.
        tensors: groups such as "model" and "optimizer", each name → tensor.
        state: JSON values; floats come back exactly, NaN and infinities too.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"step-{step:08d}.tmp-{secrets.token_hex(4)}"
    try:
        with disk_full_is_told(folder), _safetensors_disk_full_is_told(folder):
            temporary.mkdir()
            for group, named in tensors.items():
                assert re.fullmatch(r"\w+", group), group
                _save_tensors(temporary / f"{group}.safetensors", named)
            write_durably(temporary / "state.json", json.dumps(state, indent=1))
            write_durably(temporary / "manifest.json", json.dumps(_manifest(temporary, step), indent=1))
            path = _rename_to_free_name(temporary, folder / f"step-{step:08d}")
            sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, every file checked against the manifest before it is used.

    Raises:
        DataError: a file is missing or damaged; it is named.
    """
    manifest = _read_manifest(path / "manifest.json")
    contents = {name: _read_checked(path / name, facts) for name, facts in manifest["files"].items()}
    state = json.loads(contents.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): safetensors.torch.load(data) for name, data in contents.items()}
    return Checkpoint(path, manifest["step"], tensors, state)


def point(folder: Path, pointer: Pointer, checkpoint: Path) -> None:
    """Let ``last`` or ``best`` name a checkpoint of this folder, in one atomic step."""
    assert checkpoint.parent == folder, checkpoint
    write_durably(folder / pointer, checkpoint.name + "\n")


def pointed(folder: Path, pointer: Pointer) -> Path | None:
    """Return the checkpoint that ``last`` or ``best`` names; None where there is no such pointer or checkpoint."""
    try:
        name = (folder / pointer).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    path = folder / name
    return path if _NAME.fullmatch(name) and path.is_dir() else None


def prune(folder: Path) -> None:
    """Delete checkpoints that no pointer names, and what interrupted saves left behind.

    Without any usable pointer the newest checkpoint stays. Nobody else may be saving into the folder.
    """
    kept = {path for pointer in ("last", "best") if (path := pointed(folder, pointer))} or set(
        _newest_first(folder)[:1]
    )
    for path in set(_newest_first(folder)) - kept:
        path.rename(
            folder / f"step-{_step(path)[0]:08d}.tmp-{secrets.token_hex(4)}"
        )  # half deleted, it is no checkpoint
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def latest(folder: Path, pointer: Pointer, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load what a pointer names, or else the newest checkpoint that is intact; None where there is none at all.

    Args:
        folder: folder of the checkpoints.
        pointer: "last" or "best".
        warn: takes a message about each damaged checkpoint and about the one used instead.

    Raises:
        DataError: there are checkpoints, but every one is damaged.
    """
    wanted = pointed(folder, pointer)
    others = [path for path in _newest_first(folder) if path != wanted]
    for path in [wanted, *others] if wanted else others:
        try:
            checkpoint = load_checkpoint(path)
        except DataError as error:
            warn(f"damaged checkpoint passed over: {error}")
            continue
        if path != wanted:
            warn(f"the pointer `{pointer}` names no intact checkpoint; using {path.name} instead")
        return checkpoint
    if others or wanted:
        raise DataError("every checkpoint is damaged", file=folder, remedy="train again")
    return None


def _save_tensors(path: Path, named: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _manifest(folder: Path, step: int) -> dict[str, object]:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return {"step": step, "files": files}


def _rename_to_free_name(temporary: Path, wanted: Path) -> Path:
    """Rename a finished folder; after a resume from further back its step may be there already, and both stay."""
    again, path = 1, wanted
    while path.exists():
        again += 1
        path = wanted.with_name(f"{wanted.name}-{again}")
    temporary.rename(path)
    return path


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        names = list(manifest["files"])
        sound = isinstance(manifest["step"], int) and "state.json" in names
        sound = sound and all(re.fullmatch(r"\w+\.(safetensors|json)", name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"cannot be read ({error})", file=path, remedy=_DAMAGED) from error
    if not sound:
        raise DataError("is not the manifest of a checkpoint", file=path, remedy=_DAMAGED)
    return cast("dict[str, Any]", manifest)


def _read_checked(path: Path, facts: object) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path, remedy=_DAMAGED) from error
    if facts != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
        raise DataError("is damaged: its SHA-256 is not the manifest's", file=path, remedy=_DAMAGED)
    return data


def _step(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match["step"]), int(match["again"] or 1)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step, reverse=True)


@contextlib.contextmanager
def _safetensors_disk_full_is_told(folder: Path) -> Iterator[None]:
    """Do for safetensors, whose errors carry the system's only as text, what ``disk_full_is_told`` does."""
    try:
        yield
    except safetensors.SafetensorError as error:
        if not re.search(r"os error (28|122)\b", str(error)):
            raise
        raise ResourceError("the disk is full", file=folder, remedy="make room, then resume the run") from error
