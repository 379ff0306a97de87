"""From an experiment file to a checked experiment, and back: find, read strictly, override, check, write, fingerprint.

A bare file name (no slash) that is not in the working directory is also looked up in ``configs/`` of the working
directory and, when the package runs from a checkout, in the ``configs/`` of that checkout. A path with a slash is taken
as it stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vectoruniverse.config.places import PLACE_KEYS, look_beside
from vectoruniverse.config.problems import OVERRIDE, Sources, config_error
from vectoruniverse.config.sections import Experiment, Section
from vectoruniverse.config.strict_yaml import MAX_BYTES, KeyPath, dotted, parse, shown, write
from vectoruniverse.errors import ConfigError

# Names, records and places: they change what a run is called, shows or where it computes, not what it learns.
NOT_IN_FINGERPRINT = (
    "name",
    "wandb",
    "tensorboard",
    "data.cache_dir",
    "train.device",
    "train.shard_base",
    "train.log_every",
    "eval.batch_size",
)

EDITABLE = (*NOT_IN_FINGERPRINT, "eval.report", *(f"data.{key}" for key in PLACE_KEYS))
"""What may be edited in the file of a run that was made: also what of it is drawn, and where its data is now."""

_GIVE_A_FILE = "give the path of an experiment file"


def load(config: Path | str, overrides: Sequence[str], tasks: Mapping[str, type[Experiment]]) -> Experiment:
    """Reads and checks an experiment file.

    Args:
        config: the file; a bare name is also looked up as the module says.
        overrides: ``KEY=VALUE`` each, such as ``train.lr=7e-7``: a dotted path, and a value as it would stand in the
            file (``[1, 2]`` is a list, nothing is null). Split at the first ``=``; a later one beats an earlier one.
        tasks: the settings of each task by its name.

    Raises:
        ConfigError: the file is not found or refused, a key is unknown, a value not allowed, settings contradict each
            other; names file, line and key of each problem, or ``--set``.
    """
    path = find_config(config)
    document = parse(read_config(path), str(path))
    if not isinstance(document.value, dict):
        said = "holds nothing" if document.value is None else f"must be a section of keys, got {shown(document.value)}"
        raise ConfigError(said, file=path, remedy="start from a file in configs/")
    sources = Sources(str(path), dict(document.lines))
    look_beside(document.value, path.parent)
    for override in overrides:
        settings = tasks.get(str(document.value.get("task")), Experiment)
        _override(document.value, settings, sources.lines, override)
    settings = _settings(document.value, sources, tasks)
    try:
        return settings.model_validate(document.value)
    except ValidationError as error:
        raise config_error(error, document.value, settings, sources) from None


def _settings(root: dict[str, Any], sources: Sources, tasks: Mapping[str, type[Experiment]]) -> type[Experiment]:
    """What the experiment's task may be told."""
    task = root.get("task")
    if isinstance(task, str) and task in tasks:
        return tasks[task]
    known = ", ".join(tasks)
    file, line = sources.of(("task",))
    if "task" not in root:
        raise ConfigError(f"required, and missing: one of {known}", file=file, line=line, key="task")
    match = get_close_matches(str(task)[:80], tasks, n=1)
    meant = f"; did you mean {match[0]}?" if match else ""
    raise ConfigError(f"must be one of {known}, got {shown(task)}{meant}", file=file, line=line, key="task")


def find_config(config: Path | str) -> Path:
    """Path of an experiment file.

    Raises:
        ConfigError: there is no such file; tells the closest name, and for a bare one those in ``configs/``.
    """
    path = Path(config)
    bare, text = path.name == str(config), str(config)
    name = text if text.isprintable() and len(text) <= 1_000 else shown(text)
    for candidate in [path, *(folder / path for folder in _config_folders() if bare)]:
        try:
            if candidate.is_file():
                return candidate
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=name) from None
    if path.is_dir():
        raise ConfigError("is a folder, not an experiment file", file=path)
    if path.exists():
        raise ConfigError("is no regular file", file=path, remedy=_GIVE_A_FILE)
    if not bare:
        raise _missing_in_folder(path, name)
    names = _names(*_config_folders())
    known = f"configs/ has {', '.join(names[:20])}" if names else _GIVE_A_FILE
    raise ConfigError(f"no such experiment file{_meant(path, names)}", file=name, remedy=known)


def _missing_in_folder(path: Path, name: str) -> ConfigError:
    """What is missing at a path: its folder, a run's own file, or a file that may be called otherwise."""
    if not path.parent.is_dir():
        return ConfigError("no such experiment file, nor its folder", file=name, remedy=_GIVE_A_FILE)
    if path.name == "config.yaml":
        remedy = "train a new run, or put its config.yaml back"
        return ConfigError("is missing; a run folder without it is incomplete", file=name, remedy=remedy)
    return ConfigError(f"no such experiment file{_meant(path, _names(path.parent))}", file=name, remedy=_GIVE_A_FILE)


def _names(*folders: Path) -> list[str]:
    return sorted({file.name for folder in folders for file in folder.glob("*.yaml") if file.name.isprintable()})


def _meant(path: Path, names: Sequence[str]) -> str:
    match = get_close_matches(path.name[:80], names, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def dump_experiment(experiment: Experiment) -> str:
    """YAML of an experiment with every default written out; ``load`` makes an equal experiment of it."""
    return write(experiment.model_dump(mode="json"))


def fingerprint(experiment: Experiment) -> str:
    """SHA-256 (hexadecimal) of the settings that determine the result, as JSON with sorted keys.

    Two experiments of one fingerprint learn the same from the same data. Left out are ``NOT_IN_FINGERPRINT``: name,
    tracking, logging, cache, device, evaluation batch. ``data.root`` counts as it is written, not by what it holds.
    """
    return _digest(_without(experiment.model_dump(mode="json"), NOT_IN_FINGERPRINT))


def file_fingerprint(text: str, file: Path) -> str:
    """SHA-256 (hexadecimal) of what an experiment file says, without ``EDITABLE`` and where the base model lies.

    Only what stands in the file counts, so that a later version, which knows more keys, finds the same.

    Raises:
        ConfigError: it is no YAML.
    """
    settings = parse(text, str(file)).value
    return _digest(result_settings(settings if isinstance(settings, dict) else {}))


def result_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a result depends on: without ``EDITABLE``, and without where the base model lies.

    The files of a base are held to of their own.
    """
    return _without(settings, (*EDITABLE, *(("model",) if isinstance(settings.get("model"), str) else ())))


def _digest(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without(settings: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The same dictionary, rid of dotted keys."""
    for path in keys:
        *sections, key = path.split(".")
        section: Any = settings
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(key, None)  # not every task has every key
    return settings


def _config_folders() -> list[Path]:
    """``configs/`` of the working directory, then of the checkout that this file belongs to."""
    checkout = Path(__file__).resolve().parents[2]
    return [Path("configs"), *([checkout / "configs"] if (checkout / "pyproject.toml").is_file() else [])]


def read_config(path: Path) -> str:
    """The text of an experiment file.

    Raises:
        ConfigError: it cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            # one byte more than allowed tells that there is more, however large the file is
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"longer than {MAX_BYTES // 1024} KiB, which no experiment needs", file=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8 text", file=path, line=line, remedy="save it as UTF-8") from None


def _override(
    root: dict[str, Any], settings: type[Experiment], lines: dict[KeyPath, int | None], override: str
) -> None:
    """Sets one ``KEY=VALUE`` in the file's values, and notes that this key no longer comes from the file."""
    dotted_key, sign, text = override.partition("=")
    path = tuple(dotted_key.strip().split("."))
    if not sign or not all(name and name.isprintable() for name in path):
        raise ConfigError(f"{shown(override)} is not KEY=VALUE", file=OVERRIDE, remedy="as in --set train.lr=7e-7")
    try:
        value = parse(text, OVERRIDE).value
    except ConfigError as error:
        remedy = "a value with , { [ # or : may need quotes of its own, as in --set 'data.text=\"{title}\"'"
        raise ConfigError(error.message, file=OVERRIDE, key=dotted(path), remedy=remedy) from None
    if isinstance(value, str) and (tag := _variants(settings, path)[1]):
        path = (*path, tag)  # loss=info_nce is loss.name=info_nce
    section = root
    for depth, name in enumerate(path[:-1], start=1):
        lines.setdefault(path[:depth], None)
        section = section.setdefault(name, _begun(settings, path[:depth]))
        if not isinstance(section, dict):
            said = f"has the value {shown(section)}, so nothing can be set below it"
            raise ConfigError(
                said, file=OVERRIDE, key=dotted(path[:depth]), remedy=f"set {dotted(path[:depth])} itself"
            )
    if path[-1] == _variants(settings, path[:-1])[1] and section.get(path[-1]) != value:
        # another variant begins with its own defaults: what the file says is of the one before
        for key in [key for key in section if lines.get((*path[:-1], key)) is not None]:
            del section[key]
            _forget(lines, (*path[:-1], key))
    section[path[-1]] = value
    _forget(lines, path)
    lines[path] = None


def _forget(lines: dict[KeyPath, int | None], path: KeyPath) -> None:
    """Let a key and what is below it no longer come from the file."""
    for key in [key for key in lines if key[: len(path)] == path]:
        del lines[key]


def _begun(settings: type[Section], path: KeyPath) -> dict[str, Any]:
    """A section that the file does not have: empty, or with the tag of the default where it has variants."""
    default, tag = _variants(settings, path)
    return {tag: getattr(default, tag)} if tag is not None else {}


def _variants(settings: type[Section], path: KeyPath) -> tuple[Section | None, str | None]:
    """What a section is where the file does not have it, and the key that tells its variants apart, if it has any."""
    section, default, tag = settings, None, None
    for name in path:
        field = section.model_fields.get(str(name))
        found = field.get_default(call_default_factory=True, validated_data={}) if field is not None else None
        if field is None or not isinstance(found, Section):
            return None, None
        section, default = type(found), found
        tag = field.discriminator if isinstance(field.discriminator, str) else None
    return default, tag
