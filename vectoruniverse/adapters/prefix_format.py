"""A prefix in peft's own format: ``prompt_embeddings`` (P, 2 N D) and the configuration beside it.

Column 2 D n and those after it are layer n's keys, heads one after the other, then its values. The MLP that produced
them is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vectoruniverse.adapters.lora import check_tensor, refuse_adapted
from vectoruniverse.adapters.peft_config import read_json
from vectoruniverse.adapters.peft_format import CONFIG_FILE, WEIGHTS_FILE, check_weights
from vectoruniverse.adapters.prefix import PrefixAdapter, inject_prefix, tower_sizes
from vectoruniverse.errors import ConfigError, DataError, UserError
from vectoruniverse.models.shards import plain_class
from vectoruniverse.runs.durable import write_durably

_TENSOR = "prompt_embeddings"
_INTACT = "Take an intact copy of the adapter."
_NO_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "encoder_hidden_size",  # the MLP's, which is not in the file
        "inference_mode",
        "init_weights",
        "peft_type",
        "peft_version",
        "prefix_projection",  # likewise
        "revision",
        "task_type",
    }
)
"""Entries of adapter_config.json that change nothing in the outputs."""


def save_prefix(adapter: PrefixAdapter, folder: Path, *, base_model: str, revision: str | None = None) -> None:
    """Write the produced keys and values as ``load_prefix`` and peft read them.

    ``peft.PeftModel.from_pretrained(tower, folder)`` gives the same outputs where peft itself has prefix tuning, for
    BERT and RoBERTa, except that peft leaves segment ids (``token_type_ids``) out of account.

    Args:
        adapter: the adapter, before or after ``remove``.
        folder: where ``adapter_model.safetensors`` and ``adapter_config.json`` go; made where absent.
        base_model: name or folder of the base model.
        revision: branch, tag or commit of the base model.
    """
    with torch.no_grad():
        produced = adapter.keys_and_values()
    prompt = produced.permute(3, 0, 1, 2, 4).flatten(1).cpu().contiguous()
    tower = plain_class(adapter.model.get_submodule(adapter.tower))
    config = {
        "auto_mapping": {"base_model_class": tower.__name__, "parent_library": tower.__module__},
        "base_model_name_or_path": base_model,
        "encoder_hidden_size": None,
        "inference_mode": True,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "revision": revision,
        "task_type": "FEATURE_EXTRACTION",
        **_sizes(adapter.length, adapter.prefix.layers, adapter.heads, adapter.prefix.width),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / WEIGHTS_FILE, safetensors.torch.save({_TENSOR: prompt}, metadata={"format": "pt"}))
    write_durably(folder / CONFIG_FILE, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def load_prefix(model: nn.Module, tower: str, folder: Path) -> PrefixAdapter:
    """Put a prefix from a folder in peft's format, written here or by peft, on a tower of the model.

    Its keys and values can be trained on, without the MLP that once produced them. Only safetensors and JSON are read,
    and nothing is executed.

    Args:
        model: the base model without an adapter; unchanged where an error is raised.
        tower: module path of the transformer within it; empty is the whole model.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ConfigError: the adapter is of another kind, or was made for another base model; there is no such tower.
        DataError: a file is missing or damaged.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    config = _read_config(folder / CONFIG_FILE)
    here = _sizes(config["num_virtual_tokens"], *tower_sizes(model, tower))
    if differing := [key for key in here if config[key] != here[key]]:
        key = differing[0]
        raise ConfigError(
            f"the adapter was made for another base model: {key} is {config[key]}, and here it is {here[key]}",
            file=folder / CONFIG_FILE,
            remedy="Load the base model that adapter_config.json names.",
        )
    prompt = _read_prompt(folder / WEIGHTS_FILE, config)
    adapter = inject_prefix(model, tower, length=len(prompt))
    with torch.no_grad():
        adapter.prefix.embedding.copy_(prompt)
    return adapter


def _sizes(length: int, layers: int, heads: int, width: int) -> dict[str, int]:
    """What the tensor's shape is made of, under peft's names."""
    return {
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "token_dim": width,
    }


_READ = ("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim")


def _read_config(file: Path) -> dict[str, int]:
    """The sizes of adapter_config.json, refusing what would change the outputs and is not done here."""
    config = read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "PREFIX_TUNING":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ConfigError(f"peft_type is {kind!r}", file=file, remedy="Only PREFIX_TUNING adapters can be loaded here.")
    if unsupported := sorted(key for key, value in config.items() if value and key not in {*_READ, *_NO_EFFECT}):
        remedy = "Save the prefix alone with peft, without modules_to_save."
        raise ConfigError(f"sets {', '.join(unsupported)}, which is not supported", file=file, remedy=remedy)
    for key in _READ:
        if type(config.get(key)) is not int or config[key] < 1:
            raise DataError(f"has {config.get(key)!r}, which cannot be", file=file, key=key, remedy=_INTACT)
    return {key: config[key] for key in _READ}


def _read_prompt(file: Path, config: Mapping[str, int]) -> Tensor:
    """The one tensor, of the shape that the configuration says; its size is checked before it is read."""
    check_weights(file)
    shape = torch.Size((config["num_virtual_tokens"], 2 * config["num_layers"] * config["token_dim"]))
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            if (keys := sorted(stored.keys())) != [_TENSOR]:
                raise DataError(f"holds {', '.join(keys[:3])}, not {_TENSOR} alone", file=file, remedy=_INTACT)
            if (found := tuple(stored.get_slice(_TENSOR).get_shape())) != tuple(shape):
                raise DataError(
                    f"{_TENSOR} is {found}, not {tuple(shape)} as {CONFIG_FILE} says", file=file, remedy=_INTACT
                )
            prompt: Tensor = stored.get_tensor(_TENSOR)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"cannot be read: {error}", file=file, remedy=_INTACT) from error
    try:
        check_tensor(_TENSOR, prompt, shape)
    except UserError as error:
        raise type(error)(error.message, file=file, remedy=error.remedy) from error
    return prompt
