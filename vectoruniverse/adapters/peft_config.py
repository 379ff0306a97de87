"""``adapter_config.json`` as peft writes it: what is read of it, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectoruniverse.adapters.patterns import check_patterns
from vectoruniverse.errors import ConfigError, DataError

MAX_CONFIG_BYTES = 1_000_000

# Entries that say where the adapter came from or how it was made and change nothing in its outputs. Any other entry
# that is set and not read would, so the adapter is refused.
_NO_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",  # the layer's own class says so
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
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

    @property
    def pissa(self) -> bool:
        """Whether the tensors are beside the base weight without its principal directions (saved unconverted)."""
        return self.init_lora_weights == "pissa"


def read_peft_config(file: Path) -> PeftConfig:
    """Read adapter_config.json, refusing what would change the outputs and is not done here.

    Raises:
        ConfigError: the adapter is of another kind, or sets what is not supported.
        DataError: the file is missing or damaged.
    """
    config = _read_json(file)
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


def _read_json(file: Path) -> object:
    try:
        if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
            raise DataError("is missing or no configuration", file=file, remedy="Give a folder in peft's format.")
        config: object = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file, remedy="Give a readable folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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
            raise DataError(f"has {value!r}, which cannot be", file=file, key=key, remedy=_REMEDY)
    given["modules_to_save"] = tuple(given.get("modules_to_save", ()))
    checked = PeftConfig(**given)
    for key in ("rank_pattern", "alpha_pattern"):
        try:
            check_patterns(getattr(checked, key), None, key=key)
        except ConfigError as error:
            raise ConfigError(error.message, file=file, key=key, remedy=error.remedy) from error
    if checked.use_dora and checked.pissa:
        raise ConfigError("sets use_dora and pissa, which is not supported together", file=file, remedy="Merge it.")
    return checked


def _is_rank(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


_VALID: dict[str, Callable[[Any], bool]] = {
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
