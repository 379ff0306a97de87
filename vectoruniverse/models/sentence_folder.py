"""Folders in the layout of sentence-transformers, read without that library: no pickles, no imports by name.

``modules.json`` lists the parts in order: a transformers model, how its tokens are pooled, dense layers, normalisation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.source import FindFile
from vectoruniverse.models.text_tower import Dense, Normalize, TextTower
from vectoruniverse.models.weights import open_tensors, read_json, read_object

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "GELU": nn.GELU,
    "Identity": nn.Identity,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
}
"""Activations of a dense layer; a name from a folder is looked up here and never imported."""

_SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
)
_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TYPE = re.compile(r"sentence_transformers\.(?:\w+\.)*(\w+)")
_ACTIVATION = re.compile(r"torch\.nn\.(?:\w+\.)*(\w+)")
_VECTOR = (None, "sentence_embedding")


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """What a folder says beside the transformers model's own files.

    Attributes:
        subfolder: where the transformers model is, empty for the folder itself.
        pooling: how tokens are pooled, in the library's words; several modes are joined by ``+``.
        layers: what follows the pooling, with weights.
        limits: longest text in tokens, where the folder says so.
        lowercase: whether texts are lowered before anything else.
    """

    subfolder: str = ""
    pooling: str = "mean"
    layers: Sequence[Dense | Normalize] = ()
    limits: Sequence[int] = ()
    lowercase: bool = False


def read_layout(find: FindFile, name: str) -> SentenceLayout:
    """What a sentence-transformers folder says; the least that there is to say where it is none.

    Raises:
        ConfigError: the folder holds a part, an activation or a setting that is not known here, or only pickles.
    """
    listing = find("modules.json")
    if listing is None:
        return SentenceLayout()
    entries = read_json(listing)
    if not isinstance(entries, list):
        raise ConfigError("is no list of parts", file=listing, key="model")
    parts = [_part(entry, listing) for entry in entries]
    if not parts or parts[0][0] != "Transformer" or [kind for kind, _ in parts].count("Transformer") > 1:
        raise ConfigError(f"{name!r} does not begin with one transformers model", file=listing, key="model")
    _refuse_prompt(find, name)
    subfolder = parts[0][1]
    start = f"{subfolder}/" if subfolder else ""
    found = (path for file in _SETTINGS if (path := find(start + file)) is not None)
    settings = read_object(path) if (path := next(found, None)) is not None else {}
    pooling = _output(settings)
    layers: list[Dense | Normalize] = []
    for kind, folder in parts[1:]:
        if kind == "Pooling":
            pooling = _pooling(_read(find, f"{folder}/config.json"))
        elif kind == "Dense":
            layers.append(_dense(find, folder))
        elif kind == "Normalize":
            layers.append(Normalize())
        elif kind != "Dropout":  # which does nothing where nothing is trained
            raise ConfigError(f"{name!r} has a part {kind!r}, which is not known", file=listing, key="model")
    max_tokens = settings.get("max_seq_length")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise ConfigError(f"{name!r} reads texts of {max_tokens!r:.40} tokens (max_seq_length)", key="model")
    limits = () if max_tokens is None else (max_tokens,)
    return SentenceLayout(subfolder, pooling, layers, limits, settings.get("do_lower_case") is True)


def write_layout(folder: Path, tower: TextTower, *, max_tokens: int) -> None:
    """Write what sentence-transformers reads beside the transformers model of a tower."""
    from safetensors.torch import save_file

    parts = [("Transformer", "")]
    settings: dict[str, Any] = {"max_seq_length": max_tokens, "do_lower_case": False}
    if tower.pooling == "pooler":
        settings["modality_config"] = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
        settings["module_output_name"] = "sentence_embedding"
    else:
        parts.append(("Pooling", "1_Pooling"))
        modes = {key: mode == tower.pooling for key, mode in _POOLING_MODES.items()}
        hidden = int(tower.config.hidden_size)
        _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    _write(folder / "sentence_bert_config.json", settings)
    for layer in tower.layers:
        kind = type(layer).__name__
        parts.append((kind, f"{len(parts)}_{kind}"))
        if isinstance(layer, Dense):
            _write(folder / parts[-1][1] / "config.json", _dense_config(layer))
            weights = {f"linear.{key}": value.contiguous() for key, value in layer.linear.state_dict().items()}
            save_file(weights, folder / parts[-1][1] / "model.safetensors")
        elif isinstance(layer, Normalize):
            (folder / parts[-1][1]).mkdir(parents=True, exist_ok=True)
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(parts)
    ]
    _write(folder / "modules.json", listing)


def _part(entry: Any, listing: Path) -> tuple[str, str]:
    """Kind and folder of a part, both checked: they come from whoever wrote the folder."""
    kind = _TYPE.fullmatch(str(entry.get("type"))) if isinstance(entry, Mapping) else None
    folder = entry.get("path") if isinstance(entry, Mapping) else None
    if kind is None or not isinstance(folder, str) or not (folder == "" or _FOLDER.fullmatch(folder)):
        raise ConfigError(f"has a part that is not known: {entry!r:.200}", file=listing, key="model")
    return kind[1], folder


def _refuse_prompt(find: FindFile, name: str) -> None:
    if (path := find("config_sentence_transformers.json")) is None:
        return
    settings = read_object(path)
    default, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    if default is not None and isinstance(prompts, Mapping) and prompts.get(default):
        message = f"{name!r} puts the prompt {prompts[default]!r} before every text, which is not supported"
        raise ConfigError(message, file=path, key="model")


def _output(settings: Mapping[str, Any]) -> str:
    """What the transformers model itself hands on: ``pooler`` where it is its pooler's output, else nothing pooled."""
    modalities = settings.get("modality_config")
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    return "pooler" if isinstance(text, Mapping) and text.get("method_output_name") == "pooler_output" else "none"


def _pooling(config: Mapping[str, Any]) -> str:
    mode = config.get("pooling_mode", [mode for key, mode in _POOLING_MODES.items() if config.get(key) is True])
    return mode if isinstance(mode, str) else "+".join(map(str, mode)) or "mean"


def _dense(find: FindFile, folder: str) -> Dense:
    config, path = _read(find, f"{folder}/config.json"), find(f"{folder}/model.safetensors")
    if path is None:
        remedy = "load it with sentence-transformers where you trust it, and save it again, which writes safetensors"
        raise ConfigError(f"the dense layer {folder} has no model.safetensors", key="model", remedy=remedy)
    if config.get("use_residual") or {config.get(f"module_{end}_name") for end in ("input", "output")} - {*_VECTOR}:
        raise ConfigError(f"the dense layer {folder} is of a kind that is not known", file=path, key="model")
    activation = _ACTIVATION.fullmatch(str(config.get("activation_function", "torch.nn.Tanh")))
    if activation is None or activation[1] not in ACTIVATIONS:
        message = f"the activation {config.get('activation_function')!r} of {folder} is not known"
        raise ConfigError(message, key="model", remedy=f"known are {', '.join(ACTIVATIONS)}")
    return Dense(_linear(path), ACTIVATIONS[activation[1]]())


def _linear(path: Path) -> nn.Linear:
    tensors = {key: tensor.handle[...] for key, tensor in open_tensors(path).items()}
    weight, bias = tensors.pop("linear.weight", None), tensors.pop("linear.bias", None)
    if tensors or weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ConfigError("does not hold one linear layer", file=path, key="model")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias}, assign=True)
    return layer


def _dense_config(layer: Dense) -> dict[str, Any]:
    kind = type(layer.activation)
    return {
        "in_features": layer.linear.in_features,
        "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }


def _read(find: FindFile, file: str) -> Mapping[str, Any]:
    if (path := find(file)) is None:
        raise ConfigError(f"there is no {file}, which modules.json asks for", key="model")
    return read_object(path)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
