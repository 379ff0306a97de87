"""Adapters in peft's own format: two files that ``peft.PeftModel.from_pretrained`` and ``load_lora`` both read."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vectoruniverse.adapters.linear_layers import is_linear, is_transposed, widths
from vectoruniverse.adapters.lora import PEFT_PREFIX, LoraAdapter, check_tensor, refuse_adapted
from vectoruniverse.adapters.patterns import choose, exactly
from vectoruniverse.adapters.peft_config import PeftConfig, read_peft_config
from vectoruniverse.errors import ConfigError, DataError, UserError
from vectoruniverse.models.shards import plain_class
from vectoruniverse.runs.durable import write_durably

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_SUFFIXES = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")


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
        extra: modules of the model that were trained in full, by path; peft's ``modules_to_save``. Those that were
            loaded with the adapter (``LoraAdapter.overwritten``) are saved again without being named.
    """
    loaded = {path: adapter.model.get_submodule(path) for path in _modules(adapter.overwritten)}
    extra = loaded | dict(extra or {})
    state = _peft_tensors(adapter)
    for path, module in extra.items():
        state |= {f"{PEFT_PREFIX}{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    config = {
        "auto_mapping": {
            "base_model_class": plain_class(adapter.model).__name__,
            "parent_library": plain_class(adapter.model).__module__,
        },
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": any(is_transposed(layer.base) for layer in adapter.layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": adapter.dropout,
        "modules_to_save": list(extra) or None,
        "peft_type": "LORA",
        "revision": revision,
        "target_modules": _target_modules(adapter),
        "task_type": None,
        "use_dora": adapter.dora,
        "use_rslora": adapter.rank_stabilized,
        **_ranks_and_alphas(adapter),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_durably(folder / CONFIG_FILE, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def load_lora(model: nn.Module, folder: Path) -> LoraAdapter:
    """Put an adapter from a folder in peft's format, written here or by peft, on the model.

    The tensors say which layers are adapted, and none that ``target_modules`` names may lack them. Modules trained in
    full (``modules_to_save``) are loaded too, in the model's dtype, until ``LoraAdapter.remove``. Only safetensors and
    JSON are read, and nothing is executed.

    The function is the saved one's, its parameters are those of peft's form: parts of a fused projection come back as
    LoRA of the whole projection, of their summed rank, and PiSSA as LoRA of twice the rank. Training on from there can
    move what was zero by construction.

    Args:
        model: the base model without an adapter; unchanged where an error is raised.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ConfigError: the adapter is of another kind, or was made for another base model.
        DataError: a file is missing or damaged.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    config, file = read_peft_config(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    state = _read_weights(file)
    lora = {key: tensor for key, tensor in state.items() if key.endswith(_SUFFIXES)}
    adapted = {_path(key) for key in lora}
    full = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items() if key not in lora}
    _check_declared(full, adapted, config.modules_to_save, file)
    _check_base(model, adapted, full, file)
    _check_complete(model, adapted, config, file)
    try:
        _check_factors(model, lora, config)
        adapter = _loaded(model, [path for path, _ in model.named_modules() if path in adapted], lora, config)
    except UserError as error:
        raise type(error)(error.message, file=file, remedy=error.remedy) from error
    adapter.overwrite(full)
    return adapter


def _loaded(model: nn.Module, paths: list[str], lora: Mapping[str, Tensor], config: PeftConfig) -> LoraAdapter:
    adapter = LoraAdapter(
        model,
        paths,
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        rank_stabilized=config.use_rslora,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        dora=config.use_dora,
        initialisation="pissa" if config.pissa else "kaiming",
    )
    try:
        adapter.load_state_dict(lora)
    except UserError:
        adapter.remove()
        raise
    return adapter


def _modules(names: Iterable[str]) -> list[str]:
    """Paths of the modules that hold named tensors; parameters of the model itself are in none."""
    return sorted({name.rpartition(".")[0] for name in names} - {""})


def _path(key: str) -> str:
    """Module path of a LoRA tensor's key."""
    suffix = next(suffix for suffix in _SUFFIXES if key.endswith(suffix))
    return key.removeprefix(PEFT_PREFIX).removesuffix(suffix)


def _peft_tensors(adapter: LoraAdapter) -> dict[str, Tensor]:
    """What peft can read: each update as one lora_A (K, I) and lora_B (O, K), with the magnitudes of DoRA."""
    tensors: dict[str, Tensor] = {}
    for path, layer in adapter.layers.items():
        lora_a, lora_b = layer.factors()
        trained = layer.trained() | {"lora_A.weight": lora_a, "lora_B.weight": lora_b}
        tensors |= {f"{PEFT_PREFIX}{path}.{name}": tensor for name, tensor in trained.items()}
    return tensors


def _ranks_and_alphas(adapter: LoraAdapter) -> dict[str, Any]:
    """The entries r and lora_alpha, the most frequent ones, and a pattern for each layer that has others."""
    ranks, alphas = {}, {}
    for path, layer in adapter.layers.items():
        ranks[path] = layer.factors()[0].shape[0]
        grown = ranks[path] / layer.rank  # alpha grows with what the scale divides by, so that the scale stays
        alpha = layer.alpha * (math.sqrt(grown) if layer.rank_stabilized else grown)
        alphas[path] = int(alpha) if float(alpha).is_integer() else alpha
    (rank, _), (alpha, _) = (Counter(values.values()).most_common(1)[0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {exactly(path): value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {exactly(path): value for path, value in alphas.items() if value != alpha},
    }


def _target_modules(adapter: LoraAdapter) -> list[str] | str:
    """Full paths; as a regular expression where peft, which matches a list by suffix, would adapt others as well."""
    others = [path for path, _ in adapter.model.named_modules() if path not in adapter.layers]
    if any(other.endswith(f".{path}") for other in others for path in adapter.layers):
        return "|".join(re.escape(path) for path in adapter.layers)
    return list(adapter.layers)


def check_weights(file: Path) -> None:
    """Refuse a file of weights that is not there, or is a FIFO, a folder or a device.

    Raises:
        DataError: it says which.
    """
    if file.is_file():
        return
    said = "is no regular file" if file.exists() else "is missing"
    remedy = "Give a folder in peft's format."
    if said == "is missing" and file.with_suffix(".bin").exists():
        remedy = (
            "Save it again with peft, with safe_serialization=True: a .bin file can execute code, so none is loaded."
        )
    raise DataError(said, file=file, remedy=remedy)


def _read_weights(file: Path) -> dict[str, Tensor]:
    check_weights(file)
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
    linear = {path for path, module in model.named_modules() if is_linear(module)}
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


def _check_complete(model: nn.Module, adapted: set[str], config: PeftConfig, file: Path) -> None:
    """No layer that the configuration names lacks its tensors."""
    linear = (path for path, module in model.named_modules() if is_linear(module))
    missing = [path for path in config.targeted(linear) if path not in adapted]
    if config.auto_mapping.get("base_model_class") not in (None, plain_class(model).__name__):
        shared = {path.partition(".")[0] for path in adapted}  # it may have been made on one tower alone
        missing = [path for path in missing if path.partition(".")[0] in shared]
    if missing:
        message = f"lacks {len(missing)} of the layers that target_modules of {CONFIG_FILE} names, such as {missing[0]}"
        raise DataError(message, file=file, remedy="Take an intact copy of the adapter.")


def _check_factors(model: nn.Module, lora: Mapping[str, Tensor], config: PeftConfig) -> None:
    """Shapes, before anything of the size that a stranger's file names is made."""
    for key, tensor in lora.items():
        width, out = widths(model.get_submodule(path := _path(key)))
        rank = choose(config.rank_pattern, path, config.r)
        shape = (rank, width) if key.endswith(_SUFFIXES[0]) else (out, rank) if key.endswith(_SUFFIXES[1]) else (out,)
        check_tensor(key, tensor, torch.Size(shape))
