"""Where an experiment's data is: one key of its data section, named differently from task to task.

A relative place is meant from the working directory; where nothing is there, from the folder of the experiment file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vectoruniverse.config.sections import Experiment

PLACE_KEYS = ("root", "file", "source")
"""The folder of pictures, the table of texts, the documents."""

_PATTERN = {*"*?[{"}


def place_key(experiment: Experiment) -> str:
    """The key of the data section that says where the data is."""
    return next(key for key in PLACE_KEYS if key in type(experiment.data).model_fields)


def place_of(experiment: Experiment) -> Path:
    """Where the data is, absolute; it may be a pattern of files."""
    return Path(getattr(experiment.data, place_key(experiment))).expanduser().absolute()


def with_place(experiment: Experiment, to: Path) -> Experiment:
    """The same experiment on the data that is at ``to``."""
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={place_key(experiment): str(to)})})


def look_beside(root: dict[str, Any], folder: Path) -> None:
    """In an experiment as parsed, let a relative place that is not in the working directory be one in ``folder``."""
    data = root.get("data")
    if not isinstance(data, dict):
        return
    for key in PLACE_KEYS:
        named = data.get(key)
        if isinstance(named, str) and named and not is_there(Path(named).expanduser()) and is_there(folder / named):
            data[key] = str(folder / named)


def is_there(path: Path) -> bool:
    """Whether something is at a place; at a pattern of files, such as ``a/shard-*.tar``, whether its folder is."""
    try:
        if path.exists():
            return True
        plain = next((one for one in reversed([path, *path.parents]) if _PATTERN & {*one.name}), None)
        return plain is not None and plain.parent.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL: told where it is read
        return False
