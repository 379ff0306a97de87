"""The documentation of the experiment file, made from every task's settings: JSON Schema, and a table of all keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from vectoruniverse.config.sections import Experiment, Section

_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


@dataclass(frozen=True)
class Key:
    """One key of the experiment file.

    Attributes:
        path: dotted path, such as ``train.lr``.
        variant: the variant of a section that it belongs to, such as ``name: info_nce``; empty where there is one only.
        type: what may be written, in words.
        default: the default in YAML flow style, or ``required``.
        description: what it means.
    """

    path: str
    variant: str
    type: str
    default: str
    description: str


def json_schema(tasks: Mapping[str, type[Experiment]]) -> dict[str, Any]:
    """JSON Schema (2020-12) of the experiment file, for editors."""
    head: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vectoruniverse experiment",
    }
    definitions: dict[str, Any] = {}
    for task, settings in tasks.items():
        schema = settings.model_json_schema()
        definitions |= schema.pop("$defs", {})
        schema["properties"]["task"] = {"const": task, "description": schema["properties"]["task"]["description"]}
        definitions[task] = schema
    choices = [{"if": {"properties": {"task": {"const": task}}}, "then": {"$ref": f"#/$defs/{task}"}} for task in tasks]
    properties = {"task": {"enum": list(tasks)}}
    return head | {
        "type": "object",
        "required": ["task"],
        "properties": properties,
        "allOf": choices,
        "$defs": definitions,
    }


def keys_table(tasks: Mapping[str, type[Experiment]]) -> str:
    """Markdown table of every key: type, default and description; the variants of a section one after another."""
    rows = ["| key | type | default | description |", "|---|---|---|---|"]
    for key in all_keys(tasks):
        name = f"`{key.path}`" + (f" ({key.variant})" if key.variant else "")
        default = key.default if key.default in ("", "required") else f"`{key.default}`"
        cells = (name, key.type, default, key.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


@cache
def keys(settings: type[Experiment]) -> tuple[Key, ...]:
    """Every key of a task's experiment file, in the order of the models; a section stands before its keys."""
    schema = settings.model_json_schema()
    return tuple(_walk(schema, schema.get("$defs", {}), prefix="", variant=""))


def _whose(tasks: list[str], others: list[str]) -> str:
    return "text tasks" if tasks == others else f"task: {', '.join(tasks)}"


def all_keys(tasks: Mapping[str, type[Experiment]]) -> list[Key]:
    """The keys of every task: all of the first one's, then what others have beside; ``variant`` says whose they are."""
    first, *others = tasks
    own: dict[Key, list[str]] = {}
    for task in others:
        for key in keys(tasks[task]):
            if key not in keys(tasks[first]) and key.path != "task":
                own.setdefault(key, []).append(task)
    listed = [
        dataclasses.replace(key, variant=", ".join(filter(None, [_whose(tasks, others), key.variant])))
        for key, tasks in own.items()
    ]
    return [*_once(keys(tasks[first])), *listed]


def _once(found: Iterable[Key]) -> list[Key]:
    """Keys that several variants of a section share, in one, as in ``name: info_nce, siglip``."""
    variants: dict[Key, list[str]] = {}
    for key in found:
        variants.setdefault(dataclasses.replace(key, variant=""), []).append(key.variant)
    return [
        dataclasses.replace(key, variant=", ".join([first, *(one.partition(": ")[2] for one in rest)]))
        for key, (first, *rest) in variants.items()
    ]


def _walk(section: dict[str, Any], definitions: dict[str, Any], prefix: str, variant: str) -> Iterator[Key]:
    model = _models()[section["title"]]
    for name, field in section["properties"].items():
        path = f"{prefix}{name}"
        required = name in section.get("required", ())
        default = "required" if required else _default(model, name)
        sections = [definitions[reference] for reference in _references(field)]
        tagged = sum(one != {"type": "null"} for one in _alternatives(field)) > 1
        yield Key(path, variant, _type(field), default, field["description"])
        for inner in sections:
            yield from _walk(inner, definitions, f"{path}.", _tag(inner) if tagged else variant)


def _models() -> dict[str, type[BaseModel]]:
    """The sections by class name."""
    return {model.__name__: model for model in _below(Section)}


def _below(section: type[Section]) -> Iterator[type[Section]]:
    for model in section.__subclasses__():
        yield model
        yield from _below(model)


def _default(model: type[BaseModel], name: str) -> str:
    """The default in YAML's flow style; for a section its tag, or nothing where its keys have defaults of their own."""
    value = model.model_fields[name].get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Section):
        return str(getattr(value, "name", ""))
    return value if isinstance(value, str) and value else json.dumps(to_jsonable_python(value), ensure_ascii=False)


def _alternatives(field: dict[str, Any]) -> list[dict[str, Any]]:
    return next((field[word] for word in ("oneOf", "anyOf") if word in field), [field])


def _references(field: dict[str, Any]) -> list[str]:
    """Names of the sections that may stand as the value of a field."""
    items = [one.get("items", one) for one in _alternatives(field)]
    return [one["$ref"].rsplit("/", 1)[1] for one in items if "$ref" in one]


def _tag(section: dict[str, Any]) -> str:
    """The word that tells a variant from its siblings: its first key of a single allowed value."""
    name, tag = next((name, field["const"]) for name, field in section["properties"].items() if "const" in field)
    return f"{name}: {tag}"


def _type(field: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_word(one) for one in _alternatives(field)))


def _word(field: dict[str, Any]) -> str:
    """What may be written for one alternative of a field."""
    if "$ref" in field:
        return "section"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    limits = " and ".join(text.format(_number(field[word])) for word, text in _LIMITS.items() if word in field)
    if field["type"] == "array":
        return f"list of {_word(field['items'])}" + (f" ({limits})" if limits else "")
    if field["type"] == "object":
        return f"mapping of text to {_word(field['additionalProperties'])}"
    return _TYPES[field["type"]] + (f" {limits}" if limits else "")


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
