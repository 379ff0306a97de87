"""Checkpoints: everything needed to resume, saved together as safetensors and JSON, and never half written.

A checkpoint is a folder ``step-00000123`` of one ``<group>.safetensors`` per group of tensors, ``state.json`` and,
written last, ``manifest.json`` with the size and SHA-256 of the others. It is written under a temporary name, fsynced
and renamed. ``pointers.json`` beside it names the ``last``, the ``previous`` one, which training goes on from where the
last is damaged, and the ``best``, all changed in one atomic write.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
from pydantic import Field
from torch import Tensor

from vectoruniverse.errors import DataError
from vectoruniverse.runs.durable import (
    disk_full_is_told,
    remove_unfinished,
    share_as_other_files,
    sync_folder,
)
from vectoruniverse.runs.files import Record, parse_record, read_bytes, read_record, write_record

Pointer = Literal["last", "previous", "best"]

_NAME = re.compile(r"step-(?P<step>\d{8,})(?:-(?P<again>\d+))?")
_UNFINISHED = re.compile(r"step-\d{8,}\.tmp-[0-9a-f]+")
_DAMAGED = "resume from an earlier checkpoint, or train again"
_POINTERS = "pointers.json"
_POINTED: tuple[Pointer, ...] = ("last", "previous", "best")

_EARLIER: tuple[Pointer, ...] = ("last", "best")
"""Files of a name each, before there was ``pointers.json``."""

Step = Annotated[int, Field(ge=0, strict=True)]


class FileFacts(Record):
    """What a manifest knows of a file."""

    bytes: Annotated[int, Field(ge=0, strict=True)]
    sha256: str


class Manifest(Record):
    """``manifest.json`` of a checkpoint: its step, and its other files by name."""

    version: Literal[1] = 1
    step: Step
    files: dict[Annotated[str, Field(pattern=r"^\w+\.(safetensors|json)$")], FileFacts]


class Pointers(Record):
    """``pointers.json``: folder names of the last checkpoint, of the one before it, and of the best one."""

    version: Literal[1] = 1
    last: str | None = None
    previous: str | None = None
    best: str | None = None


class _State(Record):
    """``state.json`` of a checkpoint: what it holds is checked by who gave it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything needed to go on from here.

    Attributes:
        step: optimizer steps done.
        tensors: groups such as "model" and "optimizer", each name → tensor; on the CPU where they were read.
        state: JSON values; floats come back exactly, NaN and infinities too.
        path: its folder, where it was read from one.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    path: Path | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder of all checkpoints of a run; it is there as a whole or not at all.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{checkpoint.step:08d}"
    temporary = folder / f"{name}.tmp-{secrets.token_hex(4)}"
    try:
        with disk_full_is_told(folder):
            temporary.mkdir()
            for group, named in checkpoint.tensors.items():
                assert re.fullmatch(r"\w+", group), group
                _save_tensors(temporary / f"{group}.safetensors", named)
            (temporary / "state.json").write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
            manifest = _settled_manifest(temporary, checkpoint.step)
            write_record(temporary / "manifest.json", manifest)  # which makes the names of all files last, too
            path = _rename_to_free_name(temporary, folder / name)
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
    manifest = read_record(path / "manifest.json", Manifest, remedy=_DAMAGED)
    if "state.json" not in manifest.files:
        raise DataError("names no state.json", file=path / "manifest.json", remedy=_DAMAGED)
    contents = {name: _read_checked(path / name, facts) for name, facts in manifest.files.items()}
    state = parse_record(contents.pop("state.json"), _State, file=path / "state.json", remedy=_DAMAGED)
    tensors = {name.removesuffix(".safetensors"): _tensors(data, path / name) for name, data in contents.items()}
    return Checkpoint(manifest.step, tensors, state.model_extra or {}, path)


def point(folder: Path, checkpoint: Path, *pointers: Pointer) -> None:
    """Let ``last``, ``best`` or both name a checkpoint of this folder, in one atomic step.

    What was the last becomes the ``previous`` one.
    """
    assert checkpoint.parent == folder, checkpoint
    known, update = _read_pointers(folder), dict[str, str](dict.fromkeys(pointers, checkpoint.name))
    if "last" in pointers and known.last not in (None, checkpoint.name):
        update["previous"] = known.last
    write_record(folder / _POINTERS, known.model_copy(update=update))
    for earlier in _EARLIER:
        (folder / earlier).unlink(missing_ok=True)


def pointed(folder: Path, pointer: Pointer) -> Path | None:
    """Return the checkpoint that a pointer names; None where there is no such pointer or checkpoint."""
    name = getattr(_read_pointers(folder), pointer) or ""
    path = folder / name
    return path if _NAME.fullmatch(name) and path.is_dir() else None


def _read_pointers(folder: Path) -> Pointers:
    """The pointers of a folder, or those that an earlier version kept in a file each; none where they are damaged."""
    if (folder / _POINTERS).exists():
        try:
            return read_record(folder / _POINTERS, Pointers, remedy=_DAMAGED)
        except DataError:
            return Pointers()
    return Pointers(**{name: _earlier_pointer(folder / name) for name in _EARLIER})


def _earlier_pointer(file: Path) -> str | None:
    try:
        return read_bytes(file, limit=256, remedy=_DAMAGED).decode("ascii").strip()
    except (DataError, UnicodeDecodeError):
        return None


def prune(folder: Path) -> None:
    """Delete checkpoints that no pointer names, and what interrupted saves left behind.

    Without any usable pointer the newest checkpoint stays. Nobody else may be saving into the folder.
    """
    found = _newest_first(folder)
    kept = {path for pointer in _POINTED if (path := pointed(folder, pointer))} or set(found[:1])
    for path in set(found) - kept:  # half deleted, it is no checkpoint
        path.rename(folder / f"step-{_step(path)[0]:08d}.tmp-{secrets.token_hex(4)}")
    remove_unfinished_saves(folder)


def remove_unfinished_saves(folder: Path) -> None:
    """Delete what interrupted saves left behind. Nobody else may be saving into the folder."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    remove_unfinished(folder)


def take_up(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load the checkpoint to go on from; None where there is none. Nobody else may be saving into the folder.

    Where the last one is damaged it is the one before it, which counts as the last from then on.

    Raises:
        DataError: there are checkpoints, but every one is damaged.
    """
    if not folder.is_dir():
        return None
    remove_unfinished_saves(folder)
    checkpoint = latest(folder, "last", warn)
    if checkpoint is not None and checkpoint.path is not None and checkpoint.path != pointed(folder, "last"):
        point(folder, checkpoint.path, "last")
    return checkpoint


def named(folder: Path, name: str) -> Checkpoint | None:
    """Load the checkpoint of a name; None where that is empty.

    Raises:
        DataError: it is not there, or damaged.
    """
    return load_checkpoint(folder / name) if name else None


def latest(folder: Path, pointer: Pointer, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load what a pointer names, or else the newest checkpoint that is intact; None where there is none at all.

    ``warn`` is told of each damaged checkpoint and of the one used instead.

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
    try:
        safetensors.torch.save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, path)
    except safetensors.SafetensorError as error:  # it carries the system's error only as text
        if (number := re.search(r"os error (28|122)\b", str(error))) is None:
            raise
        raise OSError(int(number[1]), str(error)) from error
    share_as_other_files(path)


def _settled_manifest(folder: Path, step: int) -> Manifest:
    """Have the files of a folder on the disk, and give their digests."""
    return Manifest(step=step, files={path.name: _settled(path) for path in sorted(folder.iterdir())})


def _settled(path: Path) -> FileFacts:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFacts(bytes=path.stat().st_size, sha256=digest)


def _rename_to_free_name(temporary: Path, wanted: Path) -> Path:
    """Rename a finished folder; after a resume from further back its step may be there already, and both stay."""
    again, path = 1, wanted
    while path.exists():
        again += 1
        path = wanted.with_name(f"{wanted.name}-{again}")
    temporary.rename(path)
    return path


def _read_checked(path: Path, facts: FileFacts) -> bytes:
    data = read_bytes(path, limit=facts.bytes, remedy=_DAMAGED)
    if len(data) != facts.bytes or hashlib.sha256(data).hexdigest() != facts.sha256:
        raise DataError("is damaged: its SHA-256 is not the manifest's", file=path, remedy=_DAMAGED)
    return data


def _tensors(data: bytes, file: Path) -> dict[str, Tensor]:
    try:
        named: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise DataError(f"is no safetensors file ({error})", file=file, remedy=_DAMAGED) from error
    return named


def _step(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match["step"]), int(match["again"] or 1)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step, reverse=True)
