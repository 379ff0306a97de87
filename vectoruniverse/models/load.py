"""The one way in which a transformers model is loaded: its configuration, its weights, its tokenizer.

Everything is checked before anything large is allocated: sizes against what the weights' files hold, every tensor
against its place in the model. Code that comes with a model never runs, and pickles are never read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from vectoruniverse.errors import ConfigError
from vectoruniverse.models.quantized import Quantization, quantize
from vectoruniverse.models.source import ModelSource, told
from vectoruniverse.models.stacks import stacks_of
from vectoruniverse.models.weights import StoredTensor, read_object, read_weights

SIZES = frozenset(
    [
        "dim",
        "embedding_size",
        "hidden_dim",
        "hidden_size",
        "image_size",
        "inner_group_num",
        "intermediate_size",
        "max_position_embeddings",
        "n_heads",
        "n_layers",
        "num_attention_heads",
        "num_channels",
        "num_hidden_groups",
        "num_hidden_layers",
        "patch_size",
        "projection_dim",
        "vocab_size",
    ]
)
"""Settings that are whole numbers of at least 1 wherever they stand in a ``config.json``."""

REPEATS = frozenset(["inner_group_num", "n_layers", "num_hidden_groups", "num_hidden_layers"])
"""Those of them that count layers."""

ACTIVATIONS = frozenset(["activation", "activation_function", "hidden_act", "hidden_activation"])
"""Settings that name one of transformers' activations."""

_LEAST_LAYERS, _LEAST_SIZE = 256, 2**16
"""What is allowed whatever the file holds: layers that share weights, and defaults that small models leave unused."""

_SLACK = 2**24
"""Numbers that a model may hold beyond twice its file: parts that are drawn anew, and tables of positions."""

_CONVERTED = "save it again with save_pretrained from the bare model: merged, without adapter and torch.compile"


def load_config(source: ModelSource, families: Sequence[str], lack: str) -> Any:
    """The configuration of a transformers model.

    Args:
        source: where it is.
        families: values of ``model_type`` that will do.
        lack: what is wrong with all others, as in "has no image tower".

    Raises:
        ConfigError: it is damaged, of no known type, needs its own code, or asks for weights in another format.
    """
    from transformers import AutoConfig
    from transformers.activations import ACT2FN

    file = source.folder / "config.json"
    settings = read_object(file)
    if not isinstance(settings.get("model_type"), str):
        raise ConfigError("names no model_type", file=file, key="model", remedy="give a folder of transformers")
    if settings.get("quantization_config") is not None:
        message = "its weights are quantised, and only floating-point weights can be trained on here"
        raise ConfigError(message, file=file, key="model", remedy="take the model as it was before")
    if (source.folder / "adapter_config.json").exists():  # transformers would load the base that it names
        message = f"{source.name!r} is a base with an adapter beside it, and which of them is meant cannot be told"
        raise ConfigError(message, key="model", remedy="give the base as model and the adapter as adapter.init_from")
    for path, key, value in _settings(settings):
        if key in SIZES and value is not None and not (type(value) is int and value >= 1):
            message = f"says {path} = {value!r:.60}, where a whole number of at least 1 belongs"
            raise ConfigError(message, file=file, key="model")
        if (type(value) is int and abs(value) > 2**31) or (key == "num_labels" and not _is_count(value)):
            raise ConfigError(f"says {path} = {value!r:.60}, which no model has", file=file, key="model")
        if key in ACTIVATIONS and isinstance(value, str) and value not in ACT2FN:
            match = get_close_matches(value[:80], ACT2FN, n=1)
            meant = f"; did you mean {match[0]}?" if match else ""
            message = f"says {path} = {value!r:.60}, an activation that transformers does not know{meant}"
            raise ConfigError(message, file=file, key="model")
    with told(source.name):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    if config.model_type not in families or getattr(config, "is_decoder", False):
        message = f"{source.name!r} is of type {config.model_type!r}, which {lack}"
        raise ConfigError(message, key="model", remedy=f"choose a model of type {', '.join(families)}")
    return config


def load_weights(
    source: ModelSource,
    config: Any,
    *,
    dtype: torch.dtype,
    attention: str,
    model_class: Any = None,
    may_lack: tuple[str, ...] = (),
    quantization: Quantization | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """A transformers model with the weights of its folder, on the CPU.

    Args:
        source: where it is.
        config: as ``load_config`` gives it.
        dtype: format of the weights.
        attention: ``sdpa`` or ``eager``, which a model without ``sdpa`` gets in any case.
        model_class: one of transformers' classes; the bare model of the configuration's type unless given.
        may_lack: beginnings of the names of parameters that may be drawn anew from torch's generator.
        quantization: how the linear layers of its blocks are kept instead, which are frozen then.

    Returns:
        The model in evaluation mode, and the names of the parameters that were drawn.

    Raises:
        ConfigError: the weights are damaged, of another shape than the configuration says, not finite, lack parts of
            the model, or hold parts of its layers that the model has no place for.
    """
    from transformers import MODEL_MAPPING

    stored = read_weights(source.folder)
    _check_sizes(source, stored)
    if model_class is None:
        model_class = MODEL_MAPPING[type(config)]
    _check_extent(source, config, model_class, stored)
    with told(source.name):
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict={key: tensor.handle for key, tensor in stored.items()},
            dtype=dtype if quantization is None else torch.float32,
            attn_implementation=attention if model_class._supports_sdpa else "eager",
            ignore_mismatched_sizes=True,  # told below, with both shapes
            output_loading_info=True,
        )
    drawn = _checked(source.name, model, report, may_lack)
    if quantization is not None:
        quantize(model, quantization, dtype)
    model.name_or_path = model.config.name_or_path = str(source.folder if source.commit is None else source.repository)
    return model, drawn


def load_tokenizer(source: ModelSource) -> Any:
    """A model's tokenizer.

    Raises:
        ConfigError: there is none, it is damaged, or it cannot pad.
    """
    from transformers import AutoTokenizer

    for file in source.folder.glob("*.json"):
        if "token" in file.name and file.name != "tokenizer.json" and file.name != "added_tokens.json":
            read_object(file)
    with told(source.name):
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    # transformers makes an empty tokenizer, which knows no word, where a folder holds no vocabulary
    known = {"tokenizer.json", *(name for name in tokenizer.vocab_files_names.values() if name)}
    if not any((source.folder / name).is_file() for name in known):
        remedy = "save the model's tokenizer into the same folder with save_pretrained"
        raise ConfigError(f"{source.name!r} has no tokenizer.json", file=source.folder, key="model", remedy=remedy)
    if tokenizer.pad_token_id is None:
        message = f"the tokenizer of {source.name!r} lacks a mark for padding"
        remedy = "name one as pad_token in its tokenizer_config.json"
        raise ConfigError(message, key="model", remedy=remedy)
    return tokenizer


def longest_text(source: ModelSource, tokenizer: Any, *limits: int) -> int:
    """The longest text in tokens, marks included: the least of the tokenizer's own limit and ``limits``.

    Raises:
        ConfigError: there is no room for a word beside the marks.
    """
    own = tokenizer.model_max_length
    with told(source.name):
        marks = int(tokenizer.num_special_tokens_to_add())
    for limit in (own, *limits):
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not marks < limit:
            message = (
                f"{source.name!r} reads texts of {limit!r:.40} tokens, and {marks + 1} are the least that say anything"
            )
            remedy = "mend model_max_length in its tokenizer_config.json" if limit is own else None
            raise ConfigError(message, file=source.folder, key="model", remedy=remedy)
    return int(min(own, *limits))


def check_vocabulary(name: str, highest: int, known: int) -> None:
    """Refuse tokens that a model has no vector for.

    Raises:
        ConfigError: token ``highest`` is not among the ``known``.
    """
    if highest >= known:
        message = f"the tokenizer of {name!r} gives token {highest}, and the model knows {known}"
        raise ConfigError(message, key="model", remedy="take the tokenizer that belongs to the model")


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Random weights drawn here depend on the seed only, and nobody else's numbers depend on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _settings(settings: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted path, name and value of every setting, those of the towers included."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", key, value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LEAST_SIZE


def _check_sizes(source: ModelSource, stored: Mapping[str, StoredTensor]) -> None:
    """No model has more layers than its file has tensors, and no side longer than its file has numbers."""
    file = source.folder / "config.json"
    layers, side = max(len(stored), _LEAST_LAYERS), max(sum(t.size for t in stored.values()), _LEAST_SIZE)
    for path, key, value in _settings(read_object(file)):
        if key in SIZES and value is not None and value > (layers if key in REPEATS else side):
            message = f"says {path} = {value:,}, and the weights hold {len(stored):,} tensors of {side:,} numbers"
            raise ConfigError(
                message, file=file, key="model", remedy="take the config.json that belongs to the weights"
            )


def _check_extent(source: ModelSource, config: Any, model_class: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse a model that is far larger than its file, before it is made in memory."""
    from transformers.initialization import no_init_weights

    with told(source.name), torch.device("meta"), no_init_weights():
        model: nn.Module = model_class(config)
        numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(tensor.size for tensor in stored.values())
    if numbers > 2 * held + _SLACK:
        message = f"asks for a model of {numbers:,} numbers, and the weights hold {held:,}"
        raise ConfigError(
            message,
            file=source.folder / "config.json",
            key="model",
            remedy="take the config.json that belongs to the weights",
        )


def _checked(name: str, model: nn.Module, report: Mapping[str, Any], may_lack: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the parameters that were drawn anew, all of which may be; every other deviation is refused."""
    if mismatched := sorted(report["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        message = (
            f"the weights of {name!r} hold {key} of shape {tuple(found)}, and config.json asks for {tuple(wanted)}"
        )
        raise ConfigError(message, key="model", remedy="take the config.json that belongs to the weights")
    missing = sorted(report["missing_keys"])
    surplus = _in_layers(model, report["unexpected_keys"])
    if lacking := [key for key in missing if not key.startswith(may_lack)]:
        also = f", and hold {surplus[0]}, which it has no place for" if surplus else ""
        message = f"the weights of {name!r} lack {len(lacking)} tensors, such as {lacking[0]}{also}"
        raise ConfigError(message, key="model", remedy=_CONVERTED)
    if surplus:
        message = (
            f"the weights of {name!r} hold {len(surplus)} tensors in its layers that it has no place for, such as "
            f"{surplus[0]}"
        )
        raise ConfigError(message, key="model", remedy=_CONVERTED)
    for key, parameter in model.named_parameters():
        # least and greatest number: NaN is both; torch.isfinite of all would take the parameter's memory once more
        if parameter.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(parameter))).all()):
            message = f"the weights of {name!r} hold numbers in {key} that are not finite"
            raise ConfigError(message, key="model", remedy="take an intact copy of the model")
    return tuple(missing)


def _in_layers(model: nn.Module, unexpected: Any) -> list[str]:
    """Tensors that lie in the model's stacks of layers, unlike the heads of other tasks."""
    base = f"{getattr(model, 'base_model_prefix', '')}."  # which the file of a bare model does without
    stacks = [f".{path.removeprefix(base)}." for path in stacks_of(model)]
    computed = ".inv_freq"  # older releases saved what rotary positions are computed from
    return sorted(k for k in unexpected if any(stack in f".{k}" for stack in stacks) and not k.endswith(computed))
