"""Texts: table → usable rows → training, validation and test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vectoruniverse.data.normalise import shortened, shown, spellings
from vectoruniverse.data.splits import Split
from vectoruniverse.data.text_splits import TextSplit, divide_table, fingerprint_table, group_texts
from vectoruniverse.data.text_table import TextRow, TextTable, encode_labels, read_text_table
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.tasks.rows import Data, NamedRow, RowChoice, digest, shares, tell_doubts, tell_marked
from vectoruniverse.tasks.text_settings import TextData, TextSplitConfig
from vectoruniverse.terminal import Display


@dataclass(frozen=True)
class TextRows(Data[TextData, TextRow]):
    """Usable rows of a table and their division.

    Only a drawn division has groups: where a file says who is held out, its rows may all share some stock text.

    Attributes:
        labels: class of each row (N,); None where the task has no classes.
        names: of the classes.
    """

    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The table, as the experiment names it."""
        return self.config.file

    @property
    def grouped_by(self) -> str:
        """What rows have in common that a drawn division keeps together."""
        return "text"

    def named_rows(self) -> list[NamedRow]:
        """Every usable row: its texts are what it is, its label is what is right about it."""
        return _named(self.table)

    def fingerprint(self) -> str:
        """sha256 over every row and the split."""
        return fingerprint_table(self.table, self.split)

    @property
    def kept_together(self) -> str:
        """Rows that share a text of these roles, in words."""
        return f"rows that share {' or '.join(self.config.split.together or ['any'])} text together"

    def column(self, role: str) -> list[str]:
        """The texts of a role, row by row."""
        return [row.texts[role] for row in self.table.rows]

    def train_texts(self) -> list[str]:
        """Every text of the training rows."""
        return [text for i in self.split.train for text in self.table.rows[i].texts.values()]


def read_text_rows(
    data: TextData,
    roles: Mapping[str, str],
    *,
    label: str | None = None,
    display: Display,
    choice: RowChoice | None = None,
    names: Sequence[str] | None = None,
) -> TextRows:
    """Read and check the table, divide its rows, number its classes.

    Args:
        data: the experiment's section.
        roles: role → column.
        label: column of the classes; None without.
        display: is told of texts that stand on both sides of a split the file brought.
        choice: which rows are evaluated; None: as ``data.split`` says.
        names: of the classes, as a trained classifier knows them; None: those that occur.

    Raises:
        ConfigError: a column is not there.
        DataError: the table cannot be read, too many rows cannot be used, a side of the split is empty, or there is one
            class only.
    """
    config = data.split
    table = read_text_table(
        Path(data.file).expanduser(),
        texts=roles,
        label=label,
        split_column=config.column,
        max_bad_share=data.max_bad_share,
        keys={"split": "data.split.column"},
        encoding=data.encoding,
    )
    tell_doubts(table.doubts, table.file, display)
    divided = _divide(table, config) if choice is None else _chosen(table, config, choice)
    if choice is None:
        _tell_division(divided, config, display)
    if label is None:
        return TextRows(data, table, divided.split, divided.groups)
    if choice is not None:  # rows that are not evaluated may be of classes that the run never knew
        evaluated = np.unique(np.concatenate(divided.split))
        labels = np.full(len(table.rows), -1, dtype=np.int64)
        labels[evaluated], known = encode_labels([table.rows[i] for i in evaluated], names=names, file=table.file)
        return TextRows(data, table, divided.split, divided.groups, labels, known)
    labels, known = encode_labels(table.rows, file=table.file)
    for written in spellings(known):
        told = " and ".join(map(shown, written))
        display.warn(f"{table.file}: the labels {told} are different classes, and differ in case, space or width only")
    if missing := [name for i, name in enumerate(known) if not (labels[divided.split.train] == i).any()]:
        raise DataError(
            f"no training row is of class {missing[0]!r}",
            file=table.file,
            remedy="give more rows of it, leave it out, or change data.split",
        )
    return TextRows(data, table, divided.split, divided.groups, labels, known)


def _tell_division(divided: TextSplit, config: TextSplitConfig, display: Display) -> None:
    """Warn of parts that are not apart."""
    if not config.holds_out:
        display.warn("no rows are held out: the model is evaluated on the rows it learns from")
    tell_marked(divided.split, config, divided.shared, "text", display)


def _named(table: TextTable) -> list[NamedRow]:
    return [
        NamedRow(
            row.id, digest(sorted(row.texts.items())), digest(row.label), shortened(next(iter(row.texts.values())))
        )
        for row in table.rows
    ]


def _chosen(table: TextTable, config: TextSplitConfig, choice: RowChoice) -> TextSplit:
    split = choice.divide(_named(table), table.file)
    groups = None
    if config.holds_out and config.column is None:  # of the chosen rows alone: no other row may tie them together
        chosen = np.unique(np.concatenate(split))
        groups = [row.id for row in table.rows]
        for i, name in zip(chosen, group_texts([table.rows[i] for i in chosen], config.together), strict=True):
            groups[i] = name
    return TextSplit(split, groups=groups)


def _divide(table: TextTable, config: TextSplitConfig) -> TextSplit:
    if not config.holds_out:
        everything = np.arange(len(table.rows))
        return TextSplit(Split(everything, everything))
    roles = table.rows[0].texts.keys()
    if other := [role for role in config.together or () if role not in roles]:
        raise ConfigError(f"there is no {other[0]} text here, only {' and '.join(roles)}", key="data.split.together")
    return divide_table(table, together=config.together, **shares(config))


class Tokenized(Protocol):
    """Texts as token ids."""

    @property
    def ids(self) -> Sequence[np.ndarray]:
        """Of each text."""

    @property
    def truncated(self) -> Sequence[int]:
        """Positions of those that were cut."""


def tell_truncated(tokens: Mapping[str, Tokenized], limit: int, display: Display) -> None:
    """Say how many texts of each role are longer than the model reads."""
    for said in truncated_words(tokens, limit):
        display.warn(said)


def truncated_words(tokens: Mapping[str, Tokenized], limit: int) -> list[str]:
    """How many texts of each role are longer than the model reads; a single text's role is ``text``, or empty."""
    return [
        f"{len(found.truncated)} of {len(found.ids)} {'texts' if role in ('', 'text') else f'{role} texts'} "
        f"are longer than {limit} tokens and were cut"
        for role, found in tokens.items()
        if found.truncated
    ]
