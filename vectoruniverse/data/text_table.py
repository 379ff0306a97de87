"""Texts in a comma- or tab-separated file: one text a row or a pair of them, with a label and a split where wanted.

Every row is used, or set aside with its line and reason. A row's id is a digest of what it says, so neither the order
of training nor the split depends on the order of the rows in the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vectoruniverse.data.findings import FaultError, Rows
from vectoruniverse.data.normalise import canonical, shortened
from vectoruniverse.data.table import Table, read_table
from vectoruniverse.data.text_file import refuse_unreadable
from vectoruniverse.errors import ConfigError, DataError

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_PARTS["test"] = "test"


@dataclass(frozen=True, slots=True)
class TextRow:
    """A usable row.

    Attributes:
        line: physical line where the record begins, 1-based.
        id: unique; digest of texts and label, with ``#2``, ``#3``, ... where the same row occurs again.
        texts: role (``text``, or ``first`` and ``second``) → text without surrounding space; never empty.
        label: the label cell in canonical form, maybe empty; None where no label was asked for.
        split: ``train``, ``val`` or ``test``; None where no column was asked for.
    """

    line: int
    id: str
    texts: Mapping[str, str]
    label: str | None = None
    split: str | None = None


TextTable = Rows[TextRow]


def read_text_table(
    file: Path,
    *,
    texts: Mapping[str, str],
    label: str | None = None,
    split_column: str | None = None,
    max_bad_share: float = 0.01,
    keys: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> TextTable:
    """Read the named columns of a file; ``table.py`` says how its cells are told apart.

    Names of columns and labels are equal up to Unicode form and space around them.

    Args:
        file: the table.
        texts: role → column.
        label: column of the labels.
        split_column: column that says ``train``, ``val`` (or ``validation``, ``valid``, ``dev``) or ``test``.
        max_bad_share: largest acceptable share of rows that cannot be used.
        keys: role, ``label``, ``split``, ``file`` or ``encoding`` → config key to name in errors, where it is not
            ``data.<role>``.
        encoding: of the file.

    Raises:
        ConfigError: a column is not there, or serves twice.
        DataError: the file cannot be read as a table, or too many of its rows cannot be used.
    """
    key = _keys(texts, keys)
    found = text_rows(
        open_table(file, encoding=encoding, keys=key), texts=texts, label=label, split_column=split_column, keys=key
    )
    found.refuse_bad(max_bad_share if found.rows else 0.0)
    return found


def open_table(file: Path, *, encoding: str, keys: Mapping[str, str]) -> Table:
    """Read all cells of a table with rows.

    Raises:
        ConfigError: there is no such encoding.
        DataError: the file cannot be read as a table, or has no rows.
    """
    table = read_table(refuse_unreadable(file, key=keys["file"]), encoding, key=keys["encoding"])
    if not table.records:
        raise DataError("there is a header, but no row", file=file, remedy="Add rows, or name another file.")
    return table


def text_rows(
    table: Table,
    *,
    texts: Mapping[str, str],
    label: str | None = None,
    split_column: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> TextTable:
    """The usable rows of a table, however few they are; arguments as for ``read_text_table``.

    Raises:
        ConfigError: a column is not there, or serves twice.
    """
    asked = {**texts, "label": label, "split": split_column}
    named = {role: canonical(name) for role, name in asked.items() if name is not None}
    _refuse_columns(table, named, _keys(texts, keys))
    seen: Counter[str] = Counter()

    def row(line: int, columns: Mapping[str, str]) -> TextRow:
        cells = {role: columns[name].strip() for role, name in named.items()}
        told = {role: cells[role] for role in texts}
        for role, text in told.items():
            if is_blank(text):
                raise FaultError(f"{texts[role]} is empty")
        split, of_label = part_named(cells.get("split")), canonical(cells["label"]) if "label" in cells else None
        digest = hashlib.sha256(json.dumps([sorted(told.items()), of_label]).encode()).hexdigest()[:16]
        return TextRow(line, numbered(digest, seen), told, of_label, split)

    def name(columns: Mapping[str, str]) -> str:
        return shortened(next(filter(None, (columns[named[role]].strip() for role in texts)), ""))

    return table.read(row, name)


def numbered(name: str, seen: Counter[str]) -> str:
    """The name, with ``#2``, ``#3``, ... where it was ``seen`` before."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"


def encode_labels(
    rows: Sequence[TextRow], *, names: Sequence[str] | None = None, file: Path | None = None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Number the classes.

    Args:
        rows: rows that were read with their labels.
        names: the classes in order, such as those of an earlier run, equal to labels up to Unicode form and space.
            None: those that occur, integers in order of their values, other labels in order of their characters.
        file: for the message.

    Returns:
        The class of each row (N,), and the names of the classes.

    Raises:
        DataError: a label is empty or not among ``names``; some labels are integers and some are not; there is only
            one class.
    """
    known = None if names is None else {canonical(name): i for i, name in enumerate(names)}
    if known is not None and names is not None and len(known) < len(names):
        twice = next(name for i, name in enumerate(names) if known[canonical(name)] != i)
        message = f"the class {shortened(canonical(twice))} stands twice among those of this run, in two spellings"
        raise DataError(message, file=file, remedy="Train again: such labels are one class now.")
    for row in rows:
        assert row.label is not None, "read the table with its label column"
        if not row.label or (known is not None and row.label not in known):
            what = f"the label {shortened(row.label)} is none of {', '.join(known or ())}" if row.label else "no label"
            raise DataError(what, file=file, line=row.line, remedy="Fill in a label of a known class, or remove it.")
    labels = [row.label or "" for row in rows]
    order = tuple(names) if names is not None else _classes(rows, file)
    number = known or {name: i for i, name in enumerate(order)}
    return np.array([number[label] for label in labels], dtype=np.int64), order


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: space, control and format characters only."""
    return all(unicodedata.category(char)[0] in "CZ" for char in text)


def part_named(cell: str | None) -> str | None:
    """``train``, ``val`` or ``test``, as a cell of a split column says it in one of its words; None without a column.

    Raises:
        FaultError: it says none of them.
    """
    if cell is None:
        return None
    word = cell.strip()
    if word.casefold() not in _PARTS:
        raise FaultError(f"its split is {shortened(word) or 'empty'}; it should be train, val or test")
    return _PARTS[word.casefold()]


def _keys(texts: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    return {role: f"data.{role}" for role in (*texts, "label", "split", "file", "encoding")} | dict(given or {})


def _refuse_columns(table: Table, asked: Mapping[str, str], key: Mapping[str, str]) -> None:
    for role, name in asked.items():
        if name not in table.header:
            or_none = ", or null" if role == "split" else ""
            remedy = f"Name one of these columns in {key[role]}{or_none}."
            raise ConfigError(table.lacks(name), key=key[role], remedy=remedy)
        others = [other for other in asked if other != role and asked[other] == name]
        if others:
            raise ConfigError(
                f"column {name!r} is named here and in {key[others[0]]}",
                key=key[role],
                remedy="Name a different column in each.",
            )


def _classes(rows: Sequence[TextRow], file: Path | None) -> tuple[str, ...]:
    first: dict[str, int] = {}  # label → line
    for row in rows:
        first.setdefault(row.label or "", row.line)
    integers = {label: line for label, line in first.items() if _INTEGER.fullmatch(label)}
    if integers and len(integers) < len(first):
        other, line = next((label, line) for label, line in first.items() if label not in integers)
        integer = next(iter(integers))
        raise DataError(
            f"the label {shortened(other)} is no integer, that of line {integers[integer]} is one ({integer})",
            file=file,
            line=line,
            remedy="Write all labels as integers, or all as names.",
        )
    if len(first) < 2:
        whole = "the only row has" if len(rows) == 1 else f"all {len(rows)} rows have"
        raise DataError(
            f"{whole} the label {shortened(next(iter(first), ''))}; there is nothing to tell apart",
            file=file,
            line=rows[0].line if rows else None,
            remedy="Add rows of another class.",
        )
    return tuple(sorted(first, key=int) if integers else sorted(first))
