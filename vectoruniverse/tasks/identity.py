"""A run is tied to its settings and to the base model that it was trained on: ``base.json`` says which those were.

A hub's ``main`` moves, and a folder may be overwritten. An adapter on other weights than its own gives numbers that
look like numbers, so whoever reads a run loads the commit that it was trained on, or is told that the folder differs.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vectoruniverse.config.loading import file_fingerprint, read_config
from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.models.source import open_source
from vectoruniverse.runs.base_record import BaseRecord, recorded_base
from vectoruniverse.runs.folder import Run
from vectoruniverse.tasks.experiments import load_config_of
from vectoruniverse.tasks.image_text.settings import ImageTextExperiment
from vectoruniverse.training.precision import for_this_device

_LOADED = (".json", ".model", ".safetensors", ".txt")
"""Endings of the files of a model's folder that are loaded: weights, configuration, tokenizer, preprocessor."""


def describe_base(experiment: Experiment) -> BaseRecord:
    """Which base an experiment names, as it is now.

    Raises:
        ConfigError: it is not there.
    """
    model = getattr(experiment, "model", None)
    if not isinstance(model, str):
        return BaseRecord(model=None)
    revision = getattr(experiment, "revision", None)
    beside = None if isinstance(experiment, ImageTextExperiment) else "modules.json"
    source = open_source(model, revision, beside=beside)
    if source.commit is not None:
        return BaseRecord(model=model, commit=source.commit)
    return BaseRecord(model=model, files=hashes_of(source.folder))


def run_experiment(run: Run, settings: Sequence[str] = (), *, trained_model_only: bool = False) -> Experiment:
    """The settings of a run, held to those it was made with, and to its base: of a hub's name, exactly that commit.

    Args:
        run: the run; one from before there was ``base.json`` is held to nothing.
        settings: overrides of it, such as ``data.text={Title}``.
        trained_model_only: whether nothing but the trained model is loaded; one trained in full needs no base then.

    Raises:
        ConfigError: the settings cannot be read or were edited, or the base is another one now.
        DataError: ``base.json`` is damaged.
    """
    experiment = for_this_device(run, load_config_of(run, settings))
    held, file = recorded_base(run.path), run.config_file
    if held is not None and held.settings not in (None, file_fingerprint(read_config(file), file)):
        raise ConfigError(
            "was edited after the run was made: these are not the settings that it was trained with",
            file=file,
            remedy="put the earlier config.yaml back, or train a new run: vu train --config FILE",
        )
    if held is None or (trained_model_only and experiment.adapter.trains_everything):
        return experiment
    if held.commit is not None:
        return experiment.model_copy(update={"revision": held.commit})
    if held.files and (difference := held.difference(describe_base(experiment))):
        raise ConfigError(
            f"the base model {held.model} is not what this run was trained on: {difference}",
            file=run.path,
            key="model",
            remedy="put the earlier files back, or train a new run on these",
        )
    return experiment


def check_adapters_base(experiment: Experiment, base: BaseRecord) -> None:
    """Refuse to start from a run's adapter on another base than that run's.

    Raises:
        ConfigError: ``adapter.init_from`` was trained on another base.
    """
    if experiment.adapter.init_from is None:
        return
    folder = Path(experiment.adapter.init_from).expanduser().absolute()
    for run_folder in folder.parents[:2]:
        held = recorded_base(run_folder)
        if held is not None and (difference := held.difference(base)):
            raise ConfigError(
                f"was trained on another base model than {base.model}: {difference}",
                file=folder,
                key="adapter.init_from",
                remedy=f"start from the base it was trained on ({held.model})",
            )


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model's folder that is loaded, by name; none where there is no such folder."""
    return {name: _sha256(folder / name) for name in _loaded_files(folder)}


def _loaded_files(folder: Path) -> list[str]:
    """Files that are loaded, in the folder and in the parts that a sentence-transformers folder lists."""
    parts = [folder, *(folder / part for part in _parts(folder) if part)]
    files = [file for part in parts if part.is_dir() for file in part.iterdir()]
    return sorted({file.relative_to(folder).as_posix() for file in files if file.suffix in _LOADED and file.is_file()})


def _parts(folder: Path) -> list[str]:
    """Subfolders that ``modules.json`` names; those that point out of the folder are left to who loads them."""
    try:
        named = [str(module["path"]) for module in json.loads((folder / "modules.json").read_bytes())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [name for name in named if (folder / name).resolve().is_relative_to(folder.resolve())]


def _sha256(file: Path) -> str:
    facts = file.stat()
    return _digest(file.resolve(), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(file: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read once as long as its size and its time stay as they are."""
    del size, modified
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file, remedy="take an intact copy of it") from error
