"""Names that people give runs, in ``tags.json`` apart from ``state.json``, which a running process rewrites."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from pydantic import Field

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.runs.files import Record, read_record
from vectoruniverse.runs.folder import Run
from vectoruniverse.runs.locks import lock_file

TAGS_FILE = "tags.json"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,49}")


class Tags(Record):
    """``tags.json``."""

    version: int = 1
    tags: list[str] = Field([])


def tags_of(run: Run) -> list[str]:
    """The tags of a run; none where it has none.

    Raises:
        DataError: the file is damaged.
    """
    file = run.path / TAGS_FILE
    return read_record(file, Tags, inside=run.path).tags if file.exists() else []


def readable_tags(run: Run) -> list[str]:
    """The same; none where the file is damaged."""
    try:
        return tags_of(run)
    except DataError:
        return []


@contextlib.contextmanager
def tags_held(run: Run) -> Iterator[list[str]]:
    """The tags of a run, which nobody changes meanwhile; whoever does is waited for.

    Raises:
        DataError: the file is damaged, or the run has been removed.
    """
    with lock_file(run.path.absolute().parent / ".tags.lock", wait=True):  # beside it, so that it outlives the run
        if not run.path.is_dir():
            raise DataError("is there no more", file=run.path, remedy="vu runs lists those that are there")
        yield tags_of(run)


def tag(run: Run, name: str, *, remove: bool = False) -> list[str]:
    """Give a run a tag, or take it away; gives those that it has then.

    Raises:
        ConfigError: the name is not one, or the run has no such tag.
        DataError: ``tags.json`` is damaged.
    """
    if not _TAG.fullmatch(name):
        raise ConfigError(f"{name[:60]!r} is not 1 to 50 letters, digits, dots, hyphens and underscores", file="TAG")
    with tags_held(run) as held:
        if remove and name not in held:
            raise ConfigError(f"{run.name} has no tag {name}", remedy=f"it has: {', '.join(held) or 'none'}")
        now = [one for one in held if one != name] if remove else sorted({*held, name})
        run.write_record(TAGS_FILE, Tags(tags=now))
    return now
