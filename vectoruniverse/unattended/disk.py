"""Checks of the disk: whether a run, and the pictures that it decodes, find room."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from vectoruniverse.config.places import place_of
from vectoruniverse.data.caches import VARIABLE, limit_of, stores
from vectoruniverse.data.shards.manifest import MANIFEST_FILE, ShardManifest
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.weights import read_object
from vectoruniverse.runs.files import read_record
from vectoruniverse.tasks.image_text.settings import DataConfig, ImageTextExperiment
from vectoruniverse.unattended.check import Asked, Check
from vectoruniverse.unattended.services import cached_folder

_LEAST = 2**30
"""Bytes to have free where nothing tells the need: an adapter's checkpoints, report and event files take less."""
_COPIES = 10
"""Of the weights of a model that is trained in full: three checkpoints (last, best, one being written) of weights and
AdamW's two moments, and the model that is saved."""
_SIDE = 224
"""Pixels of a stored picture's side where the model does not tell."""


def room_for_runs(asked: Asked) -> Check:
    """Whether the folder of runs can be written to and has room for one."""
    return _room(asked.runs_dir, _run_bytes(asked), "name another disk by --runs-dir or $VU_RUNS")


def room_for_pictures(asked: Asked) -> Check | None:
    """Whether the cache of decoded pictures has room, on its disk and below its limit; None without pictures.

    Raises:
        ConfigError: there is no home folder for the cache and no variable names another one, or its limit is no size.
    """
    from vectoruniverse.data.thumbnails import default_cache_dir
    from vectoruniverse.tasks.image_text.data import cache_folder

    experiment, pictures = asked.experiment, _LEAST
    if experiment is None:
        folder = default_cache_dir()
    elif isinstance(experiment, ImageTextExperiment):
        folder, pictures = cache_folder(experiment.data), _picture_bytes(experiment)
    else:
        return None
    beside = nearest_folder(folder).stat().st_dev == nearest_folder(asked.runs_dir).stat().st_dev
    needed = pictures + (_run_bytes(asked) if beside else 0)
    found, limit = stores(folder), limit_of(nearest_folder(folder))
    idle = sum(one.size for one in found if not one.busy)
    elsewhere = "name another disk by data.cache_dir or $VU_CACHE"
    if idle:
        elsewhere = f"free {idle / 2**30:,.1f} GiB by vu cache prune --all --yes, or {elsewhere}"
    room = _room(folder, needed, elsewhere)
    holds = f"the cache holds {sum(one.size for one in found) / 2**30:,.1f} GiB of at most {limit / 2**30:,.1f}"
    told = dataclasses.replace(room, found=f"{room.found}; {holds}")
    if room.status == "ok" and pictures > limit and experiment is not None:
        remedy = f"set ${VARIABLE} above {pictures / 2**30:,.1f}GiB, or all other stores give way to this one"
        return dataclasses.replace(told, status="warning", remedy=remedy)
    return told


def _room(folder: Path, needed: int, elsewhere: str) -> Check:
    place = nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("fix", f"{folder} cannot be written: {error.strerror}", elsewhere)
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:,.1f} GiB free in {folder}, about {needed / 2**30:,.1f} wanted"
    if free < needed:
        return Check("fix", found, f"make room: {elsewhere}")
    if free < 2 * needed:
        return Check("warning", found, f"little is left for a second run; {elsewhere}")
    return Check("ok", found)


def nearest_folder(folder: Path) -> Path:
    """The folder itself, else the nearest one above it that there is."""
    absolute = folder.expanduser().absolute()
    return next(one for one in (absolute, *absolute.parents) if one.is_dir())


def _run_bytes(asked: Asked) -> int:
    """An upper bound for one run."""
    experiment = asked.experiment
    if experiment is None or not experiment.adapter.trains_everything:
        return _LEAST
    folder = cached_folder(experiment)
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) if folder else 0
    return max(_LEAST, _COPIES * weights)


def _picture_bytes(experiment: ImageTextExperiment) -> int:
    """An upper bound for the decoded pictures: a square of RGB bytes for each row, where they are kept."""
    from vectoruniverse.tasks.image_text.data import keeps_decoded

    rows, side = (
        _most_rows(place_of(experiment), experiment.data),
        experiment.data.cache_size or _input_side(experiment),
    )
    return _LEAST if rows is None or not keeps_decoded(experiment.data, rows, side) else rows * side * side * 3


def _most_rows(place: Path, data: DataConfig) -> int | None:
    """Lines of the table, or rows by the shards' manifest; None where neither is there."""
    table = place / data.metadata
    if (place / MANIFEST_FILE).is_file():
        return read_record(place / MANIFEST_FILE, ShardManifest).rows
    if not table.is_file():  # the quickstart's is drawn by its first run
        return None
    with table.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b""))


def _input_side(experiment: ImageTextExperiment) -> int:
    """Side of the model's input by its own configuration, as far as that is here, pixels."""
    if not isinstance(experiment.model, str):
        return experiment.model.image_size
    folder = cached_folder(experiment)
    try:
        side = read_object(folder / "config.json")["vision_config"]["image_size"] if folder else _SIDE
    except (ConfigError, KeyError, TypeError):  # an older configuration leaves defaults out
        return _SIDE
    return side if isinstance(side, int) else _SIDE
