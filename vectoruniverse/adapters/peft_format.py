"""Adapters in peft's own format: two files that ``peft.PeftModel.from_pretrained`` and ``load_lora`` both read."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from vectoruniverse.adapters.lora import PEFT_PREFIX, LoraAdapter, check_tensor, refuse_adapted
from vectoruniverse.errors import ConfigError, DataError, UserError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1_000_000

# Entries of adapter_config.json that load_lora reads, and those that say where the adapter came from or how it was made
# and change nothing in its outputs. Any other entry that is set would, so the adapter is refused.
_READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "modules_to_save"}
_NO_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
_SETTINGS_WITHOUT_EFFECT = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}


def save_lora(
    adapter: LoraAdapter,
    folder: Path,
    *,
    base_model: str,
    revision: str | None = None,
    extra: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write an adapter so that ``peft.PeftModel.from_pretrained(base, folder)`` gives the same outputs.

    Args:
        adapter: the adapter, merged or not; its ``set_scale`` factor is not saved.
        folder: where ``adapter_model.safetensors`` and ``adapter_config.json`` go; made where absent.
        base_model: name or folder of the base model.
        revision: branch, tag or commit of the base model.
        extra: modules of the model that were trained in full, by path; peft's ``modules_to_save``.
    """
    extra = extra or {}
    state = adapter.state_dict()
    for path, module in extra.items():
        state |= {f"{PEFT_PREFIX}{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    config = {
        "auto_mapping": {
            "base_model_class": type(adapter.model).__name__,
            "parent_library": type(adapter.model).__module__,
        },
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha,
        "lora_dropout": adapter.dropout,
        "modules_to_save": list(extra) or None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "revision": revision,
        "target_modules": _target_modules(adapter),
        "task_type": None,
        "use_rslora": adapter.rank_stabilized,
        "alpha_pattern": {},
        "rank_pattern": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    _write(folder / CONFIG_FILE, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def load_lora(model: nn.Module, folder: Path) -> LoraAdapter:
    """Put an adapter from a folder in peft's format, written here or by peft, on the model.

    The tensors say which layers are adapted. Modules that were trained in full (``modules_to_save``) are loaded too,
    in the model's dtype, until ``LoraAdapter.remove``. Only safetensors and JSON are read, and nothing is executed.

    Args:
        model: the base model without an adapter; unchanged where an error is raised.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ConfigError: the adapter is of another kind, or was made for another base model.
        DataError: a file is missing or damaged.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    config, file = _read_config(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    state = _read_weights(file)
    lora = {key: tensor for key, tensor in state.items() if key.endswith((".lora_A.weight", ".lora_B.weight"))}
    adapted = {key.removeprefix(PEFT_PREFIX).rsplit(".", 2)[0] for key in lora}
    full = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items() if key not in lora}
    _check_declared(full, adapted, config["modules_to_save"], file)
    _check_base(model, adapted, full, file)
    adapter = LoraAdapter(
        model,
        [path for path, _ in model.named_modules() if path in adapted],
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        rank_stabilized=config["use_rslora"],
    )
    try:
        adapter.load_state_dict(lora)
    except UserError as error:
        adapter.remove()
        raise type(error)(error.message, file=file, remedy=error.remedy) from error
    adapter.overwrite(full)
    return adapter


def _target_modules(adapter: LoraAdapter) -> list[str] | str:
    """Full paths; as a regular expression where peft, which matches a list by suffix, would adapt others as well."""
    others = [path for path, _ in adapter.model.named_modules() if path not in adapter.layers]
    if any(other.endswith(f".{path}") for other in others for path in adapter.layers):
        return "|".join(re.escape(path) for path in adapter.layers)
    return list(adapter.layers)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _read_config(file: Path) -> dict[str, Any]:
    """Read adapter_config.json, refusing what would change the outputs and is not done here."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
            raise DataError("is missing or no configuration", file=file, remedy="Give a folder in peft's format.")
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file, remedy="Give a readable folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError("is not valid JSON", file=file, remedy="Take an intact copy of the adapter.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ConfigError(f"peft_type is {kind!r}", file=file, remedy="Only LORA adapters can be loaded.")
    if unsupported := sorted(key for key, value in config.items() if not _has_no_effect(key, value)):
        raise ConfigError(
            f"sets {', '.join(unsupported)}, which is not supported",
            file=file,
            remedy="Use plain LoRA, one rank and alpha for all layers; or merge the adapter with peft.",
        )
    return _checked_values(config, file)


def _has_no_effect(key: str, value: object) -> bool:
    return key in _READ | _NO_EFFECT or not value or value in _SETTINGS_WITHOUT_EFFECT.get(key, ())


def _checked_values(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The entries that load_lora reads, with peft's defaults, each of the right type and range."""
    values: dict[str, Any] = {
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "modules_to_save": None,
    }
    values |= {key: config[key] for key in values if key in config}
    values["modules_to_save"] = values["modules_to_save"] or []
    saved = values["modules_to_save"]
    valid = {
        "r": type(values["r"]) is int and values["r"] >= 1,
        "lora_alpha": type(values["lora_alpha"]) in (int, float) and 0 < values["lora_alpha"] < math.inf,
        "lora_dropout": type(values["lora_dropout"]) in (int, float) and 0 <= values["lora_dropout"] < 1,
        "use_rslora": type(values["use_rslora"]) is bool,
        "modules_to_save": isinstance(saved, list) and all(isinstance(name, str) and name for name in saved),
    }
    for key, fine in valid.items():
        if not fine:
            raise DataError(
                f"has {values[key]!r}, which cannot be",
                file=file,
                key=key,
                remedy="Take an intact copy of the adapter.",
            )
    return values


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        pickled = file.with_suffix(".bin").exists()
        remedy = (
            "Save it again with peft, with safe_serialization=True: a .bin file can execute code, so none is loaded."
        )
        raise DataError("is missing", file=file, remedy=remedy if pickled else "Give a folder in peft's format.")
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"cannot be read: {error}", file=file, remedy="Take an intact copy of the adapter.") from error
    if foreign := sorted(key for key in state if not key.startswith(PEFT_PREFIX)):
        raise DataError(
            f"{foreign[0]!r} is no key of peft's", file=file, remedy=f"Keys start with {PEFT_PREFIX!r} in that format."
        )
    return state


def _check_declared(full: Mapping[str, Tensor], adapted: set[str], modules: Sequence[str], file: Path) -> None:
    """Tensors beside LoRA's are those of modules_to_save, all of them and no others."""
    remedy = "Take an intact copy of the adapter."
    if not adapted:
        raise DataError("holds no LoRA tensors", file=file, remedy=remedy)
    for name in full:
        declared = any(f".{module}." in f".{name}" for module in modules)
        if not declared or any(name.startswith(f"{path}.") for path in adapted):
            raise DataError(f"holds {name}, which is neither LoRA's nor in modules_to_save", file=file, remedy=remedy)
    for module in modules:
        if not any(f".{module}." in f".{name}" for name in full):
            raise DataError(f"lacks {module}, which modules_to_save names", file=file, remedy=remedy)


def _check_base(model: nn.Module, adapted: set[str], full: Mapping[str, Tensor], file: Path) -> None:
    """Every adapted layer and every tensor trained in full has its place in the model."""
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    live = model.state_dict()
    strangers = sorted(adapted - linear) + sorted(full.keys() - live.keys())
    if strangers:
        raise ConfigError(
            f"the adapter was made for another base model: {len(strangers)} of its layers are not linear layers here, "
            f"such as {strangers[0]}",
            file=file,
            remedy="Load the base model that adapter_config.json names.",
        )
    for name, tensor in full.items():
        check_tensor(name, tensor, live[name].shape)
