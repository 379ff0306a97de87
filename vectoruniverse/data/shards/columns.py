"""Which column of a typed table holds pictures, which hold texts, and how both are taken out of Arrow arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from vectoruniverse.data.decoding import MAX_FILE_BYTES
from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.normalise import listed
from vectoruniverse.data.shards.base import Sample
from vectoruniverse.data.shards.cells import cell


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a shard.

    Attributes:
        image: the one that holds pictures: bytes, or a struct of ``bytes`` and ``path`` (Hugging Face's image feature).
        is_struct: whether it is such a struct.
        texts: those that hold texts, numbers, or lists of them.
        names: of a column of numbered classes, what they are called.
    """

    image: str
    is_struct: bool
    texts: tuple[str, ...]
    names: Mapping[str, Sequence[str]]

    @property
    def paths(self) -> tuple[str, ...]:
        """Column of the pictures' names, as Parquet calls a field of a struct."""
        return (f"{self.image}.path",) if self.is_struct else ()

    def samples(self, table: Any, separator: str) -> Iterator[Sample]:
        """The samples of an Arrow table, which needs no bytes of pictures."""
        paths: Sequence[str | None] = [None] * len(table)
        if self.is_struct and self.image in table.column_names:
            paths = pc.struct_field(table[self.image], "path").to_pylist()
        values = {name: table[name].to_pylist() for name in self.texts}
        for i, path in enumerate(paths):
            cells, fault = dict[str, str](), None
            for name, column in values.items():
                try:
                    found = cell(name, self._named(name, column[i]), separator)
                    cells[name] = "" if found is None else found
                except FaultError as why:
                    cells[name], fault = "", why
            yield Sample(cells, fault or (path or ""))

    def _named(self, column: str, value: Any) -> Any:
        """A class by its name."""
        names = self.names.get(column)
        if names is None or value is None:
            return value
        if isinstance(value, list):
            return [self._named(column, one) for one in value]
        if not 0 <= value < len(names):
            raise FaultError(f"{column!r} is {value}, and there are {len(names)} classes")
        return names[value]

    def content(self, array: Any, row: int) -> bytes:
        """Bytes of one picture of the image column; empty where there are none.

        Raises:
            FaultError: there are more of them than a picture may have.
        """
        value = array[row]
        if self.is_struct:
            value = value["bytes"] if value.is_valid else None
        if value is None or not value.is_valid:
            return b""
        buffer = value.as_buffer()
        if buffer.size > MAX_FILE_BYTES:
            raise FaultError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        return bytes(buffer)


def find_columns(schema: Any, image: str | None) -> Columns:
    """Which columns of an Arrow schema hold what.

    Args:
        schema: it; Hugging Face's note of its features is obeyed for names of classes.
        image: the column of pictures; None: the only one that can be.

    Raises:
        FaultError: no column holds bytes, several do, or the one that is asked for does not.
    """
    holding = [field.name for field in schema if _holds_bytes(field.type)]
    if len(set(schema.names)) < len(schema.names):
        raise FaultError("two columns have one name", kind="unreadable_table", remedy="Rename one of them.")
    if image is None and len(holding) != 1:
        what = (
            f"columns {listed(holding)} hold bytes" if holding else f"no column of {listed(schema.names)} holds bytes"
        )
        remedy = "Name the column of the pictures in data.columns.image."
        raise FaultError(what, kind="unreadable_table", key="data.columns.image", remedy=remedy)
    name = holding[0] if image is None else image
    if name not in holding:
        what = f"holds {schema.field(name).type}, not bytes" if name in schema.names else "is not there"
        remedy = f"Choose from {listed(holding)}." if holding else "Use other files: these hold no pictures."
        message = f"column {name!r} {what}; columns are {listed(schema.names)}"
        raise FaultError(message, kind="unreadable_table", key="data.columns.image", remedy=remedy)
    texts = tuple(field.name for field in schema if _holds_text(field.type) and field.name != name)
    return Columns(name, kinds.is_struct(schema.field(name).type), texts, _class_names(schema))


def _holds_bytes(kind: Any) -> bool:
    if kinds.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return fields.keys() == {"bytes", "path"} and _is_bytes(fields["bytes"]) and _is_text(fields["path"])
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    return any(is_one(kind) for is_one in (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view))


def _is_text(kind: Any) -> bool:
    return any(is_one(kind) for is_one in (kinds.is_string, kinds.is_large_string, kinds.is_string_view))


def _holds_text(kind: Any) -> bool:
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_dictionary(kind):
        return _is_scalar(kind.value_type)
    return _is_scalar(kind)


def _is_scalar(kind: Any) -> bool:
    return _is_text(kind) or any(is_one(kind) for is_one in (kinds.is_integer, kinds.is_floating, kinds.is_boolean))


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """Names of classes by column, as Hugging Face notes them in the schema: ``ClassLabel``, and lists of it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = dict[str, Sequence[str]]()
        for name, feature in features.items():
            inner = feature.get("feature", feature)
            if inner.get("_type") == "ClassLabel":
                found[name] = [str(one) for one in inner["names"]]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # no such note, or not one that the library wrote
    return {
        name: names for name, names in found.items() if name in schema.names and _is_numbers(schema.field(name).type)
    }


def _is_numbers(kind: Any) -> bool:
    return bool(kinds.is_integer(kind.value_type if kinds.is_list(kind) or kinds.is_large_list(kind) else kind))


def arrow_table(columns: Mapping[str, Sequence[str]], pictures: Sequence[tuple[bytes, str]], image: str) -> Any:
    """Cells by column, and pictures with their names, as `datasets` would write them: column ``image`` comes last."""
    contents, names = ([one[i] for one in pictures] for i in range(2))
    held = pa.StructArray.from_arrays(
        [pa.array(contents, pa.binary()), pa.array(names, pa.string())], ["bytes", "path"]
    )
    arrays = {name: pa.array(cells, pa.string()) for name, cells in columns.items()}
    features = {name: {"dtype": "string", "_type": "Value"} for name in columns} | {image: {"_type": "Image"}}
    note = json.dumps({"info": {"features": features}}).encode()
    return pa.table({**arrays, image: held}).replace_schema_metadata({b"huggingface": note})
