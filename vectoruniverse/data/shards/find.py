"""Which shards a place names: a folder of them, one file, a pattern, or what Hugging Face `datasets` saved."""

from __future__ import annotations

import glob
import importlib.util
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.shards.base import Shard
from vectoruniverse.data.shards.manifest import ShardManifest, hold_to_manifest, read_manifest
from vectoruniverse.errors import ConfigError
from vectoruniverse.runs.files import read_bytes

PackedFormat = Literal["parquet", "webdataset", "datasets"]

ENDINGS: dict[PackedFormat, str] = {"parquet": ".parquet", "webdataset": ".tar"}
"""Of the files of a format."""

DICT_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"
"""What `datasets` writes beside its Arrow files."""

MAX_SHARDS = 100_000
"""More is taken for a mistake in a pattern."""

_PATTERN = set("*?[{")


@dataclass(frozen=True, slots=True)
class Place:
    """Where shards are.

    Attributes:
        format: of them.
        folder: that they are in, links followed.
        files: they themselves, in order; of `datasets` the folder.
        manifest: what they should be, where it is known.
    """

    format: PackedFormat
    folder: Path
    files: list[Path]
    manifest: ShardManifest | None


def is_pattern(root: str) -> bool:
    """Whether a place is a pattern, such as ``shard-{000000..000010}.tar`` or ``train-*.parquet``."""
    return not _PATTERN.isdisjoint(root) and not os.path.lexists(root)


def find_shards(root: Path, form: PackedFormat | None, *, table: str) -> Place | None:
    """The shards at a place; None where a folder holds none.

    Args:
        root: folder, file or pattern.
        form: what they are; None: told by what is there.
        table: name of a table in the folder, beside which packed files are no data; without ``form``.

    Raises:
        ConfigError: both kinds of files are there, or a pattern matches nothing.
        DataError: they are not what their manifest says.
    """
    if is_pattern(str(root)):
        return _matching(root, form)
    if root.is_file():
        return Place(form or _told_by([root]), _real(root.parent), [root], None)
    if form is None and (root / table).is_file():
        return None
    if form == "datasets" or (form is None and is_saved(root)):
        return Place("datasets", _real(root), [root], None)
    found: dict[PackedFormat, list[Path]] = {kind: _below(root, kind) for kind in ENDINGS if form in (None, kind)}
    there = [kind for kind, files in found.items() if files]
    if len(there) > 1:
        remedy = f"Choose one of {', '.join(there)}."
        raise ConfigError(f"{root} holds both {' and '.join(there)} files", key="data.format", remedy=remedy)
    if not there:
        if form is not None and root.is_dir():
            remedy = "Check data.root and data.format."
            raise FaultError(f"there are no {ENDINGS[form]} files", kind="no_file", file=root, remedy=remedy)
        return None
    files = found[there[0]]
    manifest = read_manifest(root)
    if manifest is not None and manifest.format == there[0]:
        hold_to_manifest(root, manifest, files)
        return Place(there[0], _real(root), files, manifest)
    return Place(there[0], _real(root), files, None)


def _below(folder: Path, form: PackedFormat) -> list[Path]:
    """Files of a format in a folder, else in folders below it (as on the Hugging Face hub: ``data/``)."""
    ending = ENDINGS[form]
    for pattern in (f"*{ending}", f"*/*{ending}"):
        if files := sorted(one for one in folder.glob(pattern) if one.is_file() and not one.name.startswith(".")):
            return files
    return []


def _matching(root: Path, form: PackedFormat | None) -> Place:
    """Files that a pattern names: each of a list in braces must be there, any of a ``*`` counts."""
    import braceexpand

    try:
        names = list(itertools.islice(braceexpand.braceexpand(str(root)), MAX_SHARDS + 1))
    except ValueError as error:
        raise ConfigError(str(error), key="data.root", remedy="Write it as in shard-{000000..000010}.tar.") from error
    files = [Path(one) for name in names for one in (sorted(glob.glob(name)) if is_pattern(name) else [name])]  # noqa: PTH207 - the pattern may be absolute
    if len(names) > MAX_SHARDS or len(files) > MAX_SHARDS:
        raise ConfigError(f"names more than {MAX_SHARDS:,} files", key="data.root", remedy="Check the pattern.")
    if not files:
        raise FaultError("no file has such a name", kind="no_file", file=root, key="data.root", remedy="Check it.")
    if missing := [file for file in files if not file.is_file()]:
        remedy = "Check the numbers in data.root."
        raise FaultError("there is no such file", kind="no_file", file=missing[0], key="data.root", remedy=remedy)
    folder = Path(os.path.commonpath([_real(file.parent) for file in files]))
    return Place(form or _told_by(files), folder, files, None)


def _told_by(files: Sequence[Path]) -> PackedFormat:
    for form, ending in ENDINGS.items():
        if all(file.suffix.lower() == ending for file in files):
            return form
    message = f"{files[0].name} ends in neither {' nor '.join(ENDINGS.values())}"
    raise ConfigError(message, key="data.format", remedy="Name the format in data.format.")


def open_shards(place: Place, *, image: str | None, separator: str) -> list[Shard]:
    """The shards of a place.

    Args:
        place: it.
        image: column of the pictures, or ending of their members; None: told by what is there.
        separator: between several labels in a cell.

    Raises:
        ConfigError: a package is absent, with the command that installs it.
        FaultError: a file leads elsewhere, or is not of its format.
    """
    refuse_absent(place.format)
    if place.format == "datasets":
        from vectoruniverse.data.shards.saved import SavedShard

        folder, names = place.files[0], parts_of(place.files[0])
        return [
            SavedShard(_real(folder / n), n or folder.name, f"{n}/" if n else "", image=image, separator=separator)
            for n in names
        ]
    shown = [os.path.relpath(_real(file.parent) / file.name, place.folder) for file in place.files]
    named = list(zip([_inside(file, place.folder) for file in place.files], shown, strict=True))
    if place.format == "webdataset":
        from vectoruniverse.data.shards.tar import TarShard

        return [TarShard(file, name, image=image, separator=separator) for file, name in named]
    from vectoruniverse.data.shards.parquet import Kept, ParquetShard

    kept = Kept()
    return [ParquetShard(file, name, image=image, separator=separator, kept=kept) for file, name in named]


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved it."""
    return (folder / DICT_FILE).is_file() or ((folder / STATE_FILE).is_file() and (folder / INFO_FILE).is_file())


def parts_of(folder: Path) -> list[str]:
    """Names of the data sets of a dictionary; the empty name of a single one.

    Raises:
        DataError: the dictionary is damaged, or names no parts.
    """
    file = folder / DICT_FILE
    if not file.is_file():
        return [""]
    try:
        names = json.loads(read_bytes(file, inside=folder))["splits"]
        sound = bool(names) and all(isinstance(one, str) and one and Path(one).name == one != ".." for one in names)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise FaultError("names no parts of a data set", kind="broken_shard", file=file, remedy="Save it again.")
    return [str(one) for one in names]


def _inside(file: Path, folder: Path) -> Path:
    """A regular file below the folder, links followed."""
    real = _real(file)
    if not real.is_relative_to(folder):
        message, remedy = "is a link to a file elsewhere", "Name the folder that it leads to, or copy it."
        raise FaultError(message, kind="outside_root", file=file, remedy=remedy)
    return real


def refuse_absent(form: PackedFormat, *, key: str = "data.format") -> None:
    """Raise where what reads and writes a format is not installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    needed = {"parquet": "pyarrow", "webdataset": "webdataset", "datasets": "datasets"}[form]
    if importlib.util.find_spec(needed) is None:
        remedy = "pip install 'vectoruniverse[shards]'"
        raise ConfigError(f"data of format {form} needs {needed}", key=key, remedy=remedy)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
