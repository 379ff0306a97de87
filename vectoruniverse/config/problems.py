"""What pydantic found wrong with an experiment, in the words of the YAML file: key, line, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vectoruniverse.config.document import Key, keys
from vectoruniverse.config.sections import Experiment
from vectoruniverse.config.strict_yaml import KeyPath, dotted, shown
from vectoruniverse.errors import ConfigError

MAX_PROBLEMS = 5
OVERRIDE = "--set"
# a hostile list can hold thousands of wrong items
_MAX_EXAMINED = 64

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "model_attributes_type": "a section",
}
_ALLOWED = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}


@dataclass(frozen=True)
class Sources:
    """Where each key was set.

    Attributes:
        file: the experiment file.
        lines: 1-based line of each key, None where ``--set`` gave it.
    """

    file: str
    lines: dict[KeyPath, int | None]

    def of(self, path: KeyPath) -> tuple[str, int | None]:
        """File and line of a key; of the section around it where it is not written; ``--set`` for an override."""
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        return (OVERRIDE, None) if path and line is None else (self.file, line)


@dataclass(frozen=True)
class _Problem:
    path: KeyPath
    text: str
    wanted: str = ""


def config_error(
    error: ValidationError, root: Mapping[str, object], settings: type[Experiment], sources: Sources
) -> ConfigError:
    """Tells what is wrong with an experiment: a line for each problem, the first ``MAX_PROBLEMS`` of them.

    Args:
        error: what pydantic raised.
        root: the mapping that was validated.
        settings: what it was validated as.
        sources: where its keys were set.
    """
    details = error.errors(include_url=False)
    problems = _merge([_problem(detail, root, keys(settings), sources) for detail in details[:_MAX_EXAMINED]])
    problems.sort(key=lambda problem: sources.of(problem.path)[1] or 0)
    said = [_located(problem, sources) for problem in problems[:MAX_PROBLEMS]]
    rest = [str(each) for each in said[1:]]
    if more := len(problems) - len(said) + max(0, len(details) - _MAX_EXAMINED):
        rest.append(f"and {more} more")
    first = said[0]
    return ConfigError("\n".join([first.message, *rest]), file=first.file, line=first.line, key=first.key)


def _located(problem: _Problem, sources: Sources) -> ConfigError:
    file, line = sources.of(problem.path)
    return ConfigError(problem.text, file=file, line=line, key=dotted(problem.path))


def _merge(problems: Sequence[_Problem]) -> list[_Problem]:
    """One problem for a value that fits no alternative; none for the alternatives that were clearly not meant."""
    kept: dict[KeyPath, _Problem] = {}
    for problem in problems:
        others = [
            other for other in problems if other is not problem and other.path[: len(problem.path)] == problem.path
        ]
        if problem.wanted and any(not other.wanted or other.path != problem.path for other in others):
            continue
        wanted = list(dict.fromkeys(other.wanted for other in (problem, *others) if other.wanted))
        text = problem.text.replace(problem.wanted, " or ".join(wanted), 1) if len(wanted) > 1 else problem.text
        kept.setdefault((*problem.path, "" if problem.wanted else problem.text), _Problem(problem.path, text))
    return list(kept.values())


def _problem(detail: ErrorDetails, root: Mapping[str, object], known: tuple[Key, ...], sources: Sources) -> _Problem:
    path = _key_path(detail, root)
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _Problem(path, _unknown(path, root, known))
    if kind == "missing":
        return _Problem(path, f"required, and missing{_allowed(path, known)}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tag = str(context["discriminator"]).strip("'")
        return _tag_problem((*path, tag), given, str(context.get("expected_tags", "")), known)
    if kind == "value_error":
        text = str(context["error"])
        path = _subject(path, text, sources)
        # "train.lr: 5 is too much" reads as one when the key stands before it already
        return _Problem(path, text.removeprefix(f"{dotted(path)}: ").removeprefix(f"{path[-1]}: " if path else ""))
    if kind in _WANTED:
        hint = _variant_hint(path, given, known) or _hint(kind, given)
        return _Problem(path, f"must be {_WANTED[kind]}, got {shown(given)}{hint}", _WANTED[kind])
    allowed = _ALLOWED[kind].format(**context) if kind in _ALLOWED else detail["msg"]
    return _Problem(path, f"{allowed}, got {shown(given)}{_closest(given, str(context.get('expected', '')))}")


def _key_path(detail: ErrorDetails, root: Mapping[str, object]) -> KeyPath:
    """Path of the key in the YAML: pydantic's location without the names of union alternatives."""
    path: list[str | int] = []
    here: object = root
    for part in detail["loc"]:
        # what is neither a key of the section nor a place in the list names an alternative of a union
        if (isinstance(here, Mapping) and part in here) or isinstance(here, list):
            here = _inside(here, part)
            path.append(part)
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    return tuple(path)


def _inside(value: object, part: str | int) -> object:
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    return value.get(part) if isinstance(value, Mapping) else None


def _tag_problem(path: KeyPath, given: object, expected: str, known: tuple[Key, ...]) -> _Problem:
    name = str(path[-1])
    if not isinstance(given, Mapping) or name not in given:
        return _Problem(path, f"required, and missing{_allowed(path, known)}")
    return _Problem(path, f"must be one of {expected}, got {shown(given[name])}{_closest(given[name], expected)}")


def _allowed(path: KeyPath, known: tuple[Key, ...]) -> str:
    """What a missing key means, in the words of its documentation."""
    found = [key for key in known if key.path == dotted(path)]
    types = " or ".join(dict.fromkeys(key.type for key in found))
    return f": {types}. {found[0].description}" if found else ""


def _unknown(path: KeyPath, root: Mapping[str, object], known: tuple[Key, ...]) -> str:
    """Says which key may have been meant: a sibling of like spelling, else a key of that name elsewhere."""
    name, section = str(path[-1]), dotted(path[:-1])
    prefix = f"{section}." if section else ""
    here: object = root
    for part in path[:-1]:
        here = _inside(here, part)
    siblings = list(dict.fromkeys(_siblings(prefix, here, known)))
    if homes := [key.variant for key in known if key.path == dotted(path)]:
        return f"unknown key in this variant of {section}; it belongs to {' and '.join(homes)}"
    meant = [prefix + match for match in get_close_matches(name.lower()[:80], siblings, n=1)]
    meant = meant or list(dict.fromkeys(key.path for key in known if key.path.rsplit(".", 1)[-1] == name))[:2]
    if meant:
        return f"unknown key; did you mean {' or '.join(meant)}?"
    return f"unknown key; {section or 'an experiment'} has {', '.join(siblings)}"


def _siblings(prefix: str, section: object, known: tuple[Key, ...]) -> list[str]:
    """Names of the keys that a section knows; of its own variant where the section says which."""
    found = [key for key in known if key.path.startswith(prefix) and "." not in key.path.removeprefix(prefix)]
    tags = {f"{name}: {value}" for name, value in section.items()} if isinstance(section, Mapping) else set()
    own = [key for key in found if key.variant in tags] or found
    return [key.path.removeprefix(prefix) for key in own]


def _closest(given: object, expected: str) -> str:
    allowed = re.findall(r"'([^']*)'", expected)
    match = get_close_matches(str(given).lower()[:80], allowed, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _variant_hint(path: KeyPath, given: object, known: tuple[Key, ...]) -> str:
    """How to write the name of a variant in place of the section that it stands for."""
    variants = {key.variant for key in known if key.path.startswith(f"{dotted(path)}.")}
    found = [variant for variant in variants if isinstance(given, str) and variant.endswith(f": {given}")]
    return f"; write {{{found[0]}}}" if found else ""


def _hint(kind: str, given: object) -> str:
    """How to write what was probably meant."""
    if kind in ("int_type", "float_type") and isinstance(given, str):
        return _number_hint(given[:80])
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {int(given)}"
    if kind == "bool_type" and isinstance(given, str) and given.lower() in ("yes", "no", "on", "off", "true", "false"):
        return f"; write {'true' if given.lower() in ('yes', 'on', 'true') else 'false'} without quotes"
    if kind == "string_type":
        return '; text that holds { or ": " needs quotes' if isinstance(given, dict | list) else "; put it in quotes"
    if kind in ("model_type", "model_attributes_type") and given is None:
        return "; indent its keys below it or remove it"
    return "; write [ ] around it" if kind == "list_type" and not isinstance(given, dict) else ""


def _number_hint(text: str) -> str:
    for plain, reason in (
        (text.strip(), "without quotes"),
        (text.replace("_", ""), "without underscores"),
        (text.replace(",", "."), "with a decimal point"),
    ):
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", plain):
            return f"; this is text, write {plain} {reason}"
    return ""


def _subject(path: KeyPath, text: str, sources: Sources) -> KeyPath:
    """The key that a message about a whole section speaks of first, where the file has that key."""
    for word in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", text):
        if (longer := (*path, *word.split("."))) in sources.lines:
            return longer
    return path
