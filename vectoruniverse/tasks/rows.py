"""The rows of a task: what the runner asks of them, how a run remembers one, and who may choose which are evaluated."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from vectoruniverse.config.sections import Division, Experiment
from vectoruniverse.data.findings import Finding, Rows
from vectoruniverse.data.splits import Shares, Split
from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.terminal import Display, counted

MIN_ROWS = 2
"""Rows in each part of the split, where one looks for its partner: one alone has nothing to be told from."""


class NamedRow(NamedTuple):
    """A row as a run remembers it.

    Attributes:
        id: unique.
        content: digest of what the row is: its picture, or its texts.
        truth: digest of what is right about it: text and labels of a picture, the label of texts.
        shown: what a message calls it, where its id tells a person nothing.
    """

    id: str
    content: str
    truth: str
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.id


def shares(config: Division) -> Shares:
    """What ``data.split`` of any task says of the parts that rows are drawn for."""
    return Shares(
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        folds=config.folds,
        fold=config.fold,
    )


class RowChoice(Protocol):
    """Decides which rows are evaluated, in place of the split that an experiment draws."""

    @property
    def side(self) -> str:
        """Part that is evaluated: ``train``, ``val`` or ``test``."""

    @property
    def trained(self) -> Path:
        """Folder of what the run trained, with the tokenizer and the classes that it learned."""

    def divide(self, rows: Sequence[NamedRow], file: Path) -> Split:
        """Positions of the rows of each part among ``rows``, which were read from ``file``."""


class Config(Protocol):
    """The section of an experiment that says where rows are and how they are divided."""

    @property
    def split(self) -> Division:
        """How they are divided."""


class MarkedRow(Protocol):
    """A row of any task."""

    @property
    def split(self) -> str | None:
        """``train``, ``val`` or ``test``, as a column says; None without one."""


ConfigT = TypeVar("ConfigT", bound=Config)
RowT = TypeVar("RowT", bound=MarkedRow)


@dataclass(frozen=True)
class Data(ABC, Generic[ConfigT, RowT]):
    """Rows, and their division into ``train``, ``val`` and, where there is a third part, ``test``.

    Attributes:
        config: the experiment's section that they were made by.
        table: what was read.
        split: positions of training, validation and test rows.
        groups: of each row; rows of one group stay in one part, and count as one draw in intervals. None without.
    """

    config: ConfigT
    table: Rows[RowT]
    split: Split
    groups: list[str] | None

    @property
    def rows(self) -> list[RowT]:
        """Usable rows."""
        return self.table.rows

    @property
    @abstractmethod
    def source(self) -> str:
        """File or folder they come from, as the experiment names it."""

    @property
    @abstractmethod
    def grouped_by(self) -> str | None:
        """What rows of one group have in common, such as a column."""

    @abstractmethod
    def named_rows(self) -> Sequence[NamedRow]:
        """Every usable row, at its position, as a run remembers it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over every row and the split: equal data, equal number."""

    @property
    @abstractmethod
    def kept_together(self) -> str:
        """What a drawn division keeps in one part, in words."""

    def division(self) -> str:
        """How rows were divided, in words."""
        split = self.config.split
        if not self.holds_out:
            return "so it is evaluated on the rows it learned from"
        return f"{split.drawn}, {self.kept_together}" if split.column is None else f"as column `{split.column}` says"

    @property
    def holds_out(self) -> bool:
        """Whether the validation rows are others than the training rows."""
        return self.config.split.holds_out

    @property
    def left_out(self) -> int:
        """Number of usable rows in no part: test rows of a column, where no third part is wanted."""
        used = {*np.concatenate(self.split).tolist()}
        return sum(row.split == "test" for i, row in enumerate(self.rows) if i not in used)

    def earlier_fingerprint(self) -> str:
        """The fingerprint as it was made before runs noted their rows."""
        return self.fingerprint()

    def counts(self) -> dict[str, int]:
        """Rows by what became of them."""
        train, val, test = map(len, self.split)
        return {
            "training": train,
            "validation": val * self.holds_out,
            **({"test": test} if test else {}),
            "set aside": len(self.table.bad) + self.left_out,
        }

    def counted_parts(self) -> str:
        """How many rows each part has, in words."""
        counts = self.counts()
        if "test" not in counts:
            return f"{counts['training']} training and {counts['validation']} validation rows, no test rows"
        return f"{counts['training']} training, {counts['validation']} validation and {counts['test']} test rows"

    def refuse_missing(self, split: str) -> None:
        """Raise where a part is asked for that there is not.

        Raises:
            ConfigError: there are no test rows.
        """
        if split == "test" and not len(self.split.test):
            raise lacks_test_rows()

    def units(self, split: str) -> Sequence[str] | None:
        """Group of each row of a split, which counts as one draw in intervals; None where each row does."""
        if self.groups is None:
            return None
        groups = [self.groups[i] for i in getattr(self.split, split)]
        return groups if len(set(groups)) < len(groups) else None


def reported_part(experiment: Experiment, part: str) -> str:
    """Name of the part that a run reports, ``part`` being what its data has for that."""
    return part if experiment.eval.test else "val"


def refuse_lone_rows(data: Data[Any, Any], choice: RowChoice | None = None) -> None:
    """Raise where a part of the split, or what was chosen to be evaluated, has fewer rows than retrieval needs.

    Raises:
        DataError: with the keys that change the split.
    """
    if choice is not None:
        if len(part := getattr(data.split, choice.side)) < MIN_ROWS:
            raise DataError(
                f"{counted(len(part), 'row')} can be evaluated; retrieval needs {MIN_ROWS} or more",
                file=data.table.file,
                remedy="give more rows",
            )
        return
    for name, part in zip(("training", "validation", "test"), data.split, strict=True):
        if len(part) < MIN_ROWS and (name != "test" or len(part)):
            raise DataError(
                f"the split leaves {len(part)} {name} row{'s' * (len(part) != 1)}; retrieval needs {MIN_ROWS} or more",
                file=data.table.file,
                remedy="give more rows, or change data.split: val_fraction, test_fraction, folds or group_by",
            )


def lacks_test_rows() -> ConfigError:
    """That test rows are asked for where there are none."""
    return ConfigError(
        "there are no test rows: the data is divided into training and validation rows only",
        key="data.split.test_fraction",
        remedy="evaluate on val, which picked the epoch too, or train a new run with a test_fraction above 0",
    )


def tell_marked(split: Split, config: Division, shared: int, what: str, display: Display) -> None:
    """Warn where the parts that a column marks are not apart, or lack one; ``shared``: rows held out whose ``what`` (a
    picture, a text) a training row has too.
    """
    if config.column is not None and shared:
        which = "validation and test" if len(split.test) else "validation"
        display.warn(f"{shared} {which} rows have a {what} that a training row has too")
    if config.column is not None and config.test_fraction and not len(split.test):
        display.warn(f"column {config.column} marks no test rows: the rows that pick the epoch are also reported")


def digest(*parts: object) -> str:
    """A short digest of JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def tell_doubts(doubts: Sequence[Finding], file: Path, display: Display) -> None:
    """Warn of rows that are used and may hold others: the first of them, and how many more there are."""
    if doubts:
        more = f" (so are {len(doubts) - 1} more rows)" if len(doubts) > 1 else ""
        display.warn(f"{file}:{doubts[0].line}: {doubts[0].reason}{more}")
