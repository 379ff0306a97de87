"""``adapter_config.json`` as peft writes it: what is read of it, what is refused."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectoruniverse.adapters.patterns import check_patterns
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.runs.records import finite

MAX_CONFIG_BYTES = 1_000_000

# Entries that say where the adapter came from or how it was made and change nothing in its outputs. Any other entry
# that is set and not read would, so the adapter is refused.
_NO_EFFECT = {
    "base_model_name_or_path",
    "fan_in_fan_out",  # the layer's own class says so
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
_SETTINGS_WITHOUT_EFFECT = {"bias": ("none",)}
_STARTS_WITHOUT_EFFECT = (True, False, None, "gaussian", "orthogonal", "eva")
_REMEDY = "Take an intact copy of the adapter."


@dataclass(frozen=True)
class PeftConfig:
    """The entries of adapter_config.json that are read, under peft's names and with its defaults."""

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    init_lora_weights: object = True
    target_modules: tuple[str, ...] | str = ()
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    auto_mapping: Mapping[str, object] = field(default_factory=dict)

    @property
    def pissa(self) -> bool:
        """Whether the tensors are beside the base weight without its principal directions (saved unconverted)."""
        return self.init_lora_weights == "pissa"

    def targeted(self, paths: Iterable[str]) -> list[str]:
        """Which of a model's linear layers peft adapts, by its rules; none where a pattern could take for ever.

        Where peft's versions disagree, on which of several numbers in a path is the layer's, the path is left out.
        """
        wanted, excluded = _matcher(self.target_modules), _matcher(self.exclude_modules or ())
        if wanted is None or excluded is None:
            return []
        kept = [path for path in paths if wanted(path) and not excluded(path) and self._in_layers(path)]
        return [path for path in kept if not any(f".{name}." in f".{path}." for name in self.modules_to_save)]

    def _in_layers(self, path: str) -> bool:
        """Whether ``layers_to_transform`` lets a path that fits ``target_modules`` through."""
        if not self.layers_to_transform or isinstance(self.target_modules, str) or path in self.target_modules:
            return True
        names = "|".join(map(re.escape, self.layers_pattern))
        found = re.findall(rf"(?:^|\.)(?:{names})\.(\d+)(?=\.)" if names else r"\.[^.]+\.(\d+)(?=\.)", path)
        return bool(found) and {int(number) for number in found} <= set(self.layers_to_transform)


def read_peft_config(file: Path) -> PeftConfig:
    """Read adapter_config.json, refusing what would change the outputs and is not done here.

    Raises:
        ConfigError: the adapter is of another kind, or sets what is not supported.
        DataError: the file is missing or damaged.
    """
    config = read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ConfigError(f"peft_type is {kind!r}", file=file, remedy="Only LORA adapters can be loaded.")
    if unsupported := sorted(key for key, value in config.items() if not _understood(key, value)):
        raise ConfigError(
            f"sets {', '.join(unsupported)}, which is not supported",
            file=file,
            remedy="Use LoRA or DoRA of linear layers; or merge the adapter with peft.",
        )
    return _checked(config, file)


def read_json(file: Path) -> object:
    """What a small JSON file holds, or the error that a person can mend."""
    try:
        content = file.read_bytes() if file.is_file() and file.stat().st_size <= MAX_CONFIG_BYTES else None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file, remedy="Give a readable folder.") from error
    if content is None:
        raise DataError("is missing or no configuration", file=file, remedy="Give a folder in peft's format.")
    try:
        config: object = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise DataError("is not valid JSON", file=file, remedy=_REMEDY) from error
    return config


def _understood(key: str, value: object) -> bool:
    if key == "init_lora_weights":
        return value in (*_STARTS_WITHOUT_EFFECT, "pissa")
    read = key in PeftConfig.__dataclass_fields__ or key in _NO_EFFECT
    return read or not value or value in _SETTINGS_WITHOUT_EFFECT.get(key, ())


def _checked(config: Mapping[str, Any], file: Path) -> PeftConfig:
    """Every entry of the right type and range."""
    given = {key: config[key] for key in PeftConfig.__dataclass_fields__ if config.get(key) is not None}
    for key, value in given.items():
        if not _VALID[key](value):
            raise DataError(f"has {reprlib.repr(value)}, which cannot be", file=file, key=key, remedy=_REMEDY)
    for key in _LISTS & given.keys():
        given[key] = tuple(given[key]) if isinstance(given[key], list) else (given[key],)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(given.get(key), list):
            given[key] = tuple(given[key])
    checked = PeftConfig(**given)
    for key in ("rank_pattern", "alpha_pattern"):
        try:
            check_patterns(getattr(checked, key), None, key=key)
        except ConfigError as error:
            raise ConfigError(error.message, file=file, key=key, remedy=error.remedy) from error
    if checked.use_dora and checked.pissa:
        raise ConfigError("sets use_dora and pissa, which is not supported together", file=file, remedy="Merge it.")
    return checked


def _matcher(names: tuple[str, ...] | str) -> Callable[[str], bool] | None:
    """Whether a module path is one of ``names``: ends of paths, or a regular expression for whole ones.

    None for an expression that is none, or could take for ever.
    """
    if isinstance(names, tuple):
        ends = set(names)
        return lambda path: any(path[start:] in ends for start in [0, *(dot.end() for dot in re.finditer(r"\.", path))])
    expression = names
    paths = [re.sub(r"\\(.)", r"\1", choice) for choice in expression.split("|")]
    if "|".join(map(re.escape, paths)) == expression:  # whole paths, as save_lora writes them
        return frozenset(paths).__contains__
    try:
        check_patterns([expression], None, key="target_modules")
    except ConfigError:
        return None
    return lambda path: re.fullmatch(expression, path) is not None


def _is_rank(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: object) -> bool:
    return (number := finite(value)) is not None and number > 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


_LISTS = {"modules_to_save", "layers_to_transform", "layers_pattern"}
"""Entries that are tuples once read; peft takes one value in the place of a list of one, too."""

_VALID: dict[str, Callable[[Any], bool]] = {
    "auto_mapping": lambda value: isinstance(value, dict),
    "target_modules": lambda value: isinstance(value, str) or _are_names(value),
    "exclude_modules": lambda value: isinstance(value, str) or _are_names(value),
    "layers_to_transform": lambda value: type(value) is int or _are_numbers(value),
    "layers_pattern": lambda value: isinstance(value, str) or _are_names(value),
    "r": _is_rank,
    "lora_alpha": _is_alpha,
    "lora_dropout": lambda value: type(value) in (int, float) and 0 <= value < 1,
    "use_rslora": lambda value: type(value) is bool,
    "use_dora": lambda value: type(value) is bool,
    "modules_to_save": _are_names,
    "rank_pattern": lambda value: isinstance(value, dict) and all(map(_is_rank, value.values())),
    "alpha_pattern": lambda value: isinstance(value, dict) and all(map(_is_alpha, value.values())),
    "init_lora_weights": lambda value: isinstance(value, bool | str),
}
