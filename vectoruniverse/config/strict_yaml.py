"""YAML 1.2's core schema, strictly: one document of plain values, with the line of every key, and back to text.

PyYAML reads YAML 1.1: ``1e-4`` is text to it, ``010`` is 8, ``no`` is false, ``1:30`` is 90, a second ``lr`` silently
wins, and 379 bytes of merge keys cost it seconds. This reader knows the scalars of YAML 1.2 (section 10.3.2) only, and
refuses duplicate keys, anchors, aliases, merge keys, tags, a second document, and text that is too long or too deep.
Nothing in the text is ever constructed but null, true, false, numbers, text, lists and mappings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from vectoruniverse.errors import ConfigError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_KEY_LENGTH = 200

KeyPath = tuple[str | int, ...]

_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_CORE_SCHEMA = (
    (_NULL, r"(?:null|Null|NULL|~|)\Z", ["n", "N", "~", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (_INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
    (
        _FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+0123456789."),
    ),
)


@dataclass(frozen=True)
class Document:
    """What a YAML text says, and on which line each key and each list item stands."""

    value: object
    lines: dict[KeyPath, int] = field(default_factory=dict)


def dotted(path: Sequence[str | int]) -> str | None:
    """Key path for people: ``("train", "lr")`` is ``train.lr``, an item of a list ``data.include.Category[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None


def shown(value: object, limit: int = 60) -> str:
    """A value in a message: as it would stand in YAML, control characters escaped, cut at ``limit`` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a section"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def parse(text: str, file: str) -> Document:
    """Reads one YAML document.

    Args:
        text: the YAML.
        file: where it comes from, for messages.

    Raises:
        ConfigError: it is not YAML, or YAML that this reader refuses; names line and key.
    """
    read = _parsed(text, file)
    return Document(deepcopy(read.value), dict(read.lines))


@lru_cache(maxsize=256)
def _parsed(text: str, file: str) -> Document:
    """As ``parse``; kept, for a run's settings are read several times by all that goes on with it or compares it."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"longer than {MAX_BYTES // 1024} KiB, which no experiment needs", file=file)
    path: list[str | int] = []
    try:
        loader = _StrictLoader(text)
        # filled while reading, so that it tells where reading stopped
        loader.path = path
        node = loader.get_single_node()
        _refuse_leftover(text, node)
        document = Document(None)
        return document if node is None else Document(_plain(node, path, document.lines), document.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else None
        remedy = error.note or "check indentation, brackets and quotes on this line and the one above"
        raise ConfigError(said, file=file, line=line, key=dotted(path), remedy=remedy) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        said = f"holds a character that YAML does not allow (U+{int(error.character):04X})"
        raise ConfigError(said, file=file, line=line, remedy="remove it") from None


def write(values: dict[str, Any]) -> str:
    """YAML of plain values, lists on one line; ``parse`` and any reader of YAML 1.1 make equal values of it."""
    return yaml.dump(values, Dumper=_Writer, allow_unicode=True, sort_keys=False, width=120)


class _Writer(yaml.SafeDumper):
    """Quotes text that is no text by YAML 1.1 or by 1.2: ``no``, ``1:30``, ``1e-4``."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_list(self, data: Iterable[object]) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Writer.add_representer(list, _Writer.represent_list)


class _StrictLoader(yaml.SafeLoader):
    """Composes nodes tagged by the core schema; keeps the path of keys down to the node that is being read."""

    path: list[str | int]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes one node; ``index`` is the node of its key or its place in a list, None for a key itself."""
        below = index is not None
        if below:
            self.path.append(index.value if isinstance(index, yaml.ScalarNode) else index)
        self.depth += 1
        self._refuse_cleverness()
        node = super().compose_node(parent, index)
        self.depth -= 1
        if below:
            self.path.pop()
        return node

    def _refuse_cleverness(self) -> None:
        """Raises where the next event is an alias, has an anchor or a tag, or lies too deep."""
        # PyYAML's stubs leave peek_event untyped
        parser: Any = self
        event: Any = parser.peek_event()
        anchor, tag = event.anchor, getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, f"alias {shown(anchor)}: aliases are refused", "write the value out again")
        if anchor is not None:
            raise _refusal(event, f"anchor {shown(anchor)}: anchors are refused", "write the value out where needed")
        if tag is not None:
            raise _refusal(event, f"tag {shown(tag)}: tags are refused", "write the plain value")
        if self.depth > MAX_DEPTH:
            raise _refusal(event, f"nested deeper than {MAX_DEPTH} levels", "no experiment needs that")


# none of YAML 1.1's
_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE_SCHEMA:
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Writer.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _refusal(place: yaml.Event | yaml.Node, problem: str, remedy: str) -> yaml.MarkedYAMLError:
    mark: Any = place.start_mark
    return yaml.MarkedYAMLError(None, None, problem, mark, remedy)


def _refuse_leftover(text: str, node: yaml.Node | None) -> None:
    """One line that is cut short by a comment (``--set data.root=#1``) would silently lose what follows."""
    if "\n" in text:
        return
    end = node.end_mark.index if isinstance(node, yaml.ScalarNode) else 0 if node is None else len(text)
    if text[end:].lstrip().startswith("#"):
        mark = yaml.Mark("", end, 0, end, None, 0)
        raise yaml.MarkedYAMLError(None, None, "what follows # would be taken for a comment", mark, "put it in quotes")


def _plain(node: yaml.Node, path: list[str | int], lines: dict[KeyPath, int]) -> object:
    """Turns a node into plain values; ``path`` is left at the place of an error."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_child(item, item, place, path, lines) for place, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    values: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = _key(key_node)
        if key in values:
            path.append(key)
            raise _refusal(key_node, f"a second time in this section; first on line {lines[tuple(path)]}", "remove one")
        values[key] = _child(key_node, value_node, key, path, lines)
    return values


def _child(
    place: yaml.Node, node: yaml.Node, part: str | int, path: list[str | int], lines: dict[KeyPath, int]
) -> object:
    path.append(part)
    lines[tuple(path)] = place.start_mark.line + 1
    value = _plain(node, path, lines)
    path.pop()
    return value


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _refusal(node, "a key must be text, not a list or a mapping", "a value that holds { or [ needs quotes")
    if node.value == "<<" and node.style is None:
        raise _refusal(node, "merge keys (<<) are refused", "write the keys out")
    key = _scalar(node)
    if not isinstance(key, str):
        raise _refusal(node, f"the key {shown(key)} is not text", "put it in quotes")
    if not key or len(key) > MAX_KEY_LENGTH or "\n" in key or "\t" in key:
        raise _refusal(node, f"a key must be one line of 1 to {MAX_KEY_LENGTH} characters", "shorten it")
    return key


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """Value of a scalar by YAML 1.2, section 10.3.2."""
    text: str = node.value
    if node.tag == _NULL:
        return None
    if node.tag == _BOOL:
        return text.lower() == "true"
    if node.tag == _INT:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # 64 bits hold every count and seed; longer digits cost time and fit no field
        number = int(text, base) if len(text) <= 24 else 2**63
        if abs(number) >= 2**63:
            raise _refusal(node, "a whole number of more than 64 bits", "write a smaller number")
        return number
    if node.tag == _FLOAT:
        return float(text if text[-1] in "0123456789." else text.replace(".", ""))
    if odd := next((c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")), None):
        raise _refusal(node, f"text with the control character U+{ord(odd):04X}", "remove it")
    return text
