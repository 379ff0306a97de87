"""Finding the picture of a row: a regular file inside the data folder, links followed, or the reason why not."""

from __future__ import annotations

import functools
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from vectoruniverse.data.findings import FaultError
from vectoruniverse.errors import ConfigError, DataError

CHANNEL = "Channel"
"""Column of the folder below the pictures in which a row's picture is looked for first."""

_PICTURE_SUFFIXES = {"avif", "bmp", "gif", "jfif", "jpeg", "jpg", "png", "tif", "tiff", "webp"}
_COPY = re.compile(r"(?P<stem>.+) \(\d+\)")

Finder = Callable[[Mapping[str, str]], Path]
"""From a row's cells by column to its picture; raises ``FaultError``."""


def by_file(root: Path, folder: Path, column: str) -> Finder:
    """Finder of pictures whose path, relative to ``folder``, is in the column; ``root`` has its links followed."""
    check, spelled = _checker(root), _speller()

    def find(columns: Mapping[str, str]) -> Path:
        name = _named(columns, column)
        return check(spelled(folder / name))

    return find


def by_id(root: Path, images: str, column: str) -> Finder:
    """Finder of pictures that are named after the id in the column, anywhere below ``root/images``.

    The folder is walked once. ``<Id> (1).jpg`` stands in for ``<Id>.jpg``; of several files one in
    ``images/<Channel>/`` is preferred, then one without ``(1)``, then, of one name in two Unicode forms, the
    id's own; what is still ambiguous is unusable.

    Raises:
        ConfigError: ``images`` leads outside ``root``.
        DataError: there is no such folder.
    """
    folder = on_disk(root / images)
    if not _real(folder).is_relative_to(root):
        raise ConfigError(
            f"{images!r} leads outside the data folder {root}",
            key="data.images",
            remedy="Name a folder below data.root, and move the pictures there if it is a link.",
        )
    if not folder.is_dir():
        raise DataError("there is no such folder of pictures", file=folder, remedy="Check data.root and data.images.")
    pictures, check = _index(folder), _checker(root)

    def find(columns: Mapping[str, str]) -> Path:
        name = _named(columns, column)
        found = pictures.get(_normal(name), [])
        if len(found) > 1:
            found = _preferred(found, name, folder / columns.get(CHANNEL, "").strip())
        if not found:
            unsafe = "/" in name or "\\" in name or name in (".", "..")
            kind = "unsafe_id" if unsafe else "missing_picture"
            raise FaultError(f"no picture named {name!r} below {images}", kind=kind)
        if len(found) > 1:
            listed = ", ".join(sorted(str(path.relative_to(folder)) for path in found))
            raise FaultError(f"the id is ambiguous; it could be any of {listed}", kind="ambiguous_id")
        return check(found[0])

    return find


def _named(columns: Mapping[str, str], column: str) -> str:
    if name := columns[column].strip():
        return name
    raise FaultError(f"{column} is empty", kind="empty_id")


def on_disk(path: Path) -> Path:
    """The path as the disk spells it; names are equal up to their Unicode form, and an exact one comes first."""
    return _speller()(path)


def _speller() -> Callable[[Path], Path]:
    names = functools.cache(_names)

    def spelled(path: Path) -> Path:
        if os.path.lexists(path) or path.parent == path:
            return path
        folder = spelled(path.parent)
        return folder / names(folder).get(_normal(path.name), path.name)

    return spelled


def _names(folder: Path) -> dict[str, str]:
    """Names in a folder by their composed form."""
    try:
        return {_normal(name): name for name in sorted(path.name for path in folder.iterdir())}
    except (OSError, ValueError):  # no folder, or no name that one could have: the caller tells what is not there
        return {}


def _index(images: Path) -> dict[str, list[Path]]:
    """Pictures by the id that they can belong to; ``x (1).jpg`` belongs to ``x (1)`` and to ``x``."""
    index: dict[str, list[Path]] = defaultdict(list)
    for parent, _, names in os.walk(images):
        folder = Path(parent)
        for name in names:
            stem, _, suffix = _normal(name).rpartition(".")
            if suffix.lower() not in _PICTURE_SUFFIXES or name.startswith("."):
                continue
            path = folder / name
            index[stem].append(path)
            if copy := _COPY.fullmatch(stem):
                index[copy["stem"]].append(path)
    return index


def _normal(name: str) -> str:
    # macOS stores accents and Hangul in file names decomposed
    return unicodedata.normalize("NFC", name)


def _preferred(found: list[Path], name: str, channel: Path) -> list[Path]:
    """Those in the channel's folder where there are some; of these, those without ``(1)`` where there are some.

    Where what is left differs in Unicode form only, the form that is asked for comes first, as in ``on_disk``.
    """
    found = [path for path in found if _normal(str(path.parent)) == _normal(str(channel))] or found
    found = [path for path in found if _normal(path.stem) == _normal(name)] or found
    one_name = len({(path.parent, _normal(path.name)) for path in found}) == 1
    return ([path for path in found if path.stem == name] if one_name else []) or found


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve would raise on a loop of links


def _checker(root: Path) -> Callable[[Path], Path]:
    """From a path to the regular file below ``root`` that it leads to."""
    # Following links costs a system call for each part of a path, and many pictures share a folder.
    real_folder = functools.cache(_real)
    inside = str(root).rstrip(os.sep) + os.sep

    def check(path: Path) -> Path:
        real = real_folder(path.parent) / path.name
        mode = _mode(real)
        if stat.S_ISLNK(mode) or path.name == "..":
            real = _real(path)
            mode = _mode(real)
        if not str(real).startswith(inside):  # without links and dots, the spelling tells
            raise FaultError(f"{path.name!r} leads outside the data folder", kind="outside_root")
        if not stat.S_ISREG(mode):
            raise FaultError(f"{path.name!r} is not a file", kind="missing_picture")
        return real

    return check


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:  # missing, or a name that is too long
        return 0
