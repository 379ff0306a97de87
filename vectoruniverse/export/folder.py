"""An export's folder: made beside its place and renamed into it, and never in the place of anything else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.durable import disk_full_is_told, share_as_other_files, sync_folder

MANIFEST = "export.json"
"""What the export is of, and the sha256 of every file in it; written last."""


@contextlib.contextmanager
def new_folder(out: Path, facts: Mapping[str, str]) -> Iterator[Path]:
    """A folder to fill; when the block ends well it gets its manifest and takes the place of ``out``.

    An earlier export, untouched since, is replaced; anything else at ``out`` is refused, before the block runs.

    Args:
        out: where the export goes.
        facts: what the manifest tells beside its files.

    Raises:
        ConfigError: something else is there, or the folder cannot be written.
        ResourceError: the disk is full.
    """
    _refuse_other_content(out)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        with disk_full_is_told(out), _told(out):
            temporary.mkdir(parents=True)
        with disk_full_is_told(out):
            yield temporary
            _write_manifest(temporary, facts)
        _refuse_other_content(out)
        with _told(out):
            _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exported_files(folder: Path) -> dict[str, int]:
    """Bytes of each file that an export wrote, by its path in ``folder``, the manifest last."""
    return {name: (folder / name).stat().st_size for name in (*_read_manifest(folder), MANIFEST)}


def _refuse_other_content(out: Path) -> None:
    if not (out.exists() or out.is_symlink()) or _is_untouched_export(out):
        return
    raise ConfigError("is there already, and is no export as it was written", file=out, remedy="choose another --out")


def _is_untouched_export(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    paths = list(folder.rglob("*"))
    if any(path.is_symlink() for path in paths):
        return False
    there = {path.relative_to(folder).as_posix() for path in paths if path.is_file()}
    listed = _read_manifest(folder)
    return bool(listed) and there == {*listed, MANIFEST} and all(_sha256(folder / n) == d for n, d in listed.items())


def _replace(temporary: Path, out: Path) -> None:
    """Rename over what is there; readers find the earlier export, nothing for a moment, or the new one."""
    if out.exists():
        earlier = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
        out.rename(earlier)
        temporary.rename(out)
        shutil.rmtree(earlier)
    else:
        temporary.rename(out)
    sync_folder(out.absolute().parent)


def _write_manifest(folder: Path, facts: Mapping[str, str]) -> None:
    for weights in list(folder.rglob("*.safetensors")):
        share_as_other_files(weights)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): _sha256(path, sync=True) for path in files}
    text = json.dumps({**facts, "files": digests}, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        return {name: digest for name, digest in files.items() if isinstance(digest, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _sha256(file: Path, *, sync: bool = False) -> str:
    with file.open("rb") as stream:
        if sync:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", file=out, remedy="choose another folder with --out"
        ) from error
