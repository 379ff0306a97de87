"""A model's files opened as if a stranger had made them: JSON of bounded size and depth, tensors as safetensors only.

Nothing outside the model's folder is opened, and nothing is ever given to an unpickler.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoruniverse.errors import ConfigError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

MAX_JSON_BYTES = 2**26
MAX_JSON_DEPTH = 32

FLOATS = ("F64", "F32", "F16", "BF16")
"""What the safetensors library calls the formats that weights may have."""

_PLAIN_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_INTACT = "take an intact copy of the model"
SAFETENSORS = (
    "pickled weights are never read: load it with transformers where you trust it, and save it again with "
    "save_pretrained, which writes model.safetensors"
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file, not read yet.

    Attributes:
        handle: the library's slice; ``handle[...]`` is the tensor.
        shape: its shape.
        dtype: its format in the library's words.
    """

    handle: Any
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def read_json(file: Path) -> Any:
    """Parse a JSON file of a model.

    Raises:
        ConfigError: it is no regular file, no JSON, or larger or deeper than any that a model has.
    """
    if not file.is_file():  # a pipe would block for ever
        raise ConfigError("is no regular file", file=file, key="model", remedy=_INTACT)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"is larger than {MAX_JSON_BYTES >> 20} MiB", file=file, key="model", remedy=_INTACT)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"is no JSON: {error}", file=file, key="model", remedy=_INTACT) from error
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise ConfigError(f"is nested deeper than {MAX_JSON_DEPTH} levels", file=file, key="model", remedy=_INTACT)
    return value


def read_object(file: Path) -> dict[str, Any]:
    """Parse a JSON file that holds names and values.

    Raises:
        ConfigError: as ``read_json``, or it is none.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise ConfigError("is no JSON object", file=file, key="model", remedy=_INTACT)
    return value


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model's weights by its name, from one safetensors file or those of an index; headers alone.

    Raises:
        ConfigError: there are none; a file is damaged or no safetensors; or the index is damaged, names a file that is
            not in its folder, or lists a tensor that is not there.
    """
    if _exists(folder / SINGLE):
        return open_tensors(folder / SINGLE)
    index = folder / INDEX
    if not _exists(index):
        remedy = SAFETENSORS if any(any(folder.glob(pattern)) for pattern in _PICKLES) else _INTACT
        raise ConfigError(f"cannot load weights: there is no {SINGLE}", file=folder, key="model", remedy=remedy)
    places, tensors = _read_index(index), {}
    for name in sorted(set(places.values())):
        tensors.update(open_tensors(folder / name))
    if lacking := sorted(key for key in places if key not in tensors):
        raise ConfigError(f"lists {lacking[0]}, which {places[lacking[0]]} lacks", file=index, key="model")
    return {key: tensors[key] for key in places}


def open_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by their names; only its header is read.

    Raises:
        ConfigError: it is no regular file, damaged, no safetensors, or its weights are no floating-point numbers.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ConfigError("cannot load weights: is no regular file", file=file, key="model", remedy=_INTACT)
    try:
        stream: Any = safe_open(file, framework="pt")
        slices = {key: stream.get_slice(key) for key in stream.keys()}  # noqa: SIM118  # it is no mapping
        tensors = {key: StoredTensor(s, tuple(s.get_shape()), str(s.get_dtype())) for key, s in slices.items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        message = f"cannot load weights: is no sound safetensors file ({error})"
        raise ConfigError(message, file=file, key="model", remedy=_what_it_is(file)) from error
    for key, tensor in tensors.items():
        if key.endswith((".weight", ".bias")) and tensor.dtype not in FLOATS:
            message = f"cannot load weights: {key} is of format {tensor.dtype}, which nothing here can train"
            raise ConfigError(message, file=file, key="model", remedy=f"save it as one of {', '.join(FLOATS)}")
    return tensors


def _read_index(index: Path) -> Mapping[str, str]:
    """Tensor → name of the file that holds it, each a file beside the index."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConfigError("has no weight_map", file=index, key="model", remedy=_INTACT)
    for key, name in places.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            message = f"puts {key} into {str(name)!r:.80}, which is no safetensors file beside it"
            raise ConfigError(message, file=index, key="model", remedy=SAFETENSORS)
    return places


def _what_it_is(file: Path) -> str:
    """A remedy, by the first bytes."""
    with file.open("rb") as stream:
        start = stream.read(4)
    return SAFETENSORS if start == b"PK\x03\x04" or start[:1] == b"\x80" else _INTACT  # a zip, or a pickle


def _exists(path: Path) -> bool:
    """Whether there is anything by this name, be it a folder or a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return bool(level)
