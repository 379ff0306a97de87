"""What `vu predict` writes: a table as it is, and behind it what a model says of its rows, as CSV, JSON or Parquet.

Shapes: N usable rows, C classes or labels.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vectoruniverse.data.findings import Finding
from vectoruniverse.data.table import Table
from vectoruniverse.errors import ConfigError, UserError

FORMATS = (".csv", ".json", ".parquet")
"""Endings of the files that can be written."""


class OfLine(Protocol):
    """A row of a table."""

    @property
    def line(self) -> int:
        """Where it begins."""


def refuse_format(out: Path) -> None:
    """Refuse before any work a file that cannot be written.

    Raises:
        UserError: its ending says none of ``FORMATS``.
        ConfigError: a package is absent, with the command that installs it.
    """
    if (ending := out.suffix.lower()) not in FORMATS:
        raise UserError(f"--out {out} ends in none of {', '.join(FORMATS)}", remedy=f"--out {out}.csv")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"--out {out} needs pyarrow", remedy="pip install 'vectoruniverse[parquet]'")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of a table.

    Attributes:
        table: all rows as they are written.
        rows: usable rows.
        bad: rows that could not be used, with the reason.
        names: of the C classes or labels.
        probabilities: (N, C), of ``rows``.
        said: (N, C), which of them are predicted; of classes the likeliest alone.
        by: what each row's labels were predicted by; None of classes, which are told by all that a row has.
        separator: between several labels in a cell.
    """

    table: Table
    rows: Sequence[OfLine]
    bad: Sequence[Finding]
    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    said: NDArray[np.bool_]
    by: Sequence[str] | None = None
    separator: str = ","

    @classmethod
    def of_classes(
        cls,
        table: Table,
        rows: Sequence[OfLine],
        bad: Sequence[Finding],
        names: tuple[str, ...],
        probabilities: NDArray[np.float32],
    ) -> Predictions:
        """Of which one is true: the likeliest is said."""
        likeliest = np.arange(len(names)) == probabilities.argmax(axis=1)[:, None]
        return cls(table, rows, bad, names, probabilities, likeliest)

    def each(self) -> list[list[str]]:
        """What is said of each row, the likeliest first."""
        return likeliest_first(self.names, self.probabilities, self.said)

    def classes(self) -> list[str]:
        """What is said of each row, as a cell."""
        return [self.separator.join(names) for names in self.each()]

    def counts(self) -> list[tuple[str, str]]:
        """Class or label and number of rows, as text, the most frequent first."""
        counts = dict(zip(self.names, self.said.sum(axis=0).tolist(), strict=True))
        return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count]

    def modes(self) -> str:
        """How many rows were predicted by what, in words; empty of classes."""
        told = Counter(self.by or ())
        return f" ({', '.join(f'{count:,} by {by}' for by, count in told.most_common())})" if told else ""

    def columns(self) -> list[str]:
        """The columns that are added: what is said, by what, probability of each name, and why there is none.

        One that the table has already gets ``.1``, ``.2``, ..., as pandas calls a column that occurs again.
        """
        taken, added = set(self.table.written), []
        by = [] if self.by is None else ["by"]
        for name in ("prediction", *by, *(f"p({name})" for name in self.names), "reason"):
            free = next(free for i in itertools.count() if (free := f"{name}.{i}" if i else name) not in taken)
            taken.add(free)
            added.append(free)
        return added

    def content(self, ending: str) -> str | bytes:
        """The file of this ending, one of ``FORMATS``."""
        if ending == ".csv":
            return self.csv()
        rows = [dict(zip([*self.table.written, *self.columns()], row, strict=True)) for row in self._rows()]
        if ending == ".json":
            return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        stream = io.BytesIO()
        columns = [*self.table.written, *self.columns()]
        pd.DataFrame(rows, columns=columns).to_parquet(stream, engine="pyarrow", index=False)
        return stream.getvalue()

    def csv(self) -> str:
        """The table, for programs: its columns, cells and rows as they are, and ``columns`` behind them.

        A row that could not be used has a reason and no prediction; where it has more or fewer cells than the header,
        it is cut or filled up.
        """
        lines = [_csv_line([*self.table.written, *self.columns()])]
        lines += [_csv_line([self._cell(value) for value in row]) for row in self._rows()]
        return "".join(lines)

    def _rows(self) -> Iterator[list[Any]]:
        """Cells, and values of ``columns``: a class or a list of labels, numbers, and None for what there is not."""
        by: Sequence[Sequence[str]] = [[]] * len(self.rows) if self.by is None else [[one] for one in self.by]
        said: dict[int | None, list[Any]] = {
            row.line: [names if self.by is not None else names[0], *how, *map(float, shares), None]
            for row, names, how, shares in zip(self.rows, self.each(), by, self.probabilities, strict=True)
        }
        said |= {row.line: [None] * (len(self.columns()) - 1) + [row.reason] for row in self.bad}
        width = len(self.table.written)
        for record in self.table.records:
            cells = record.cells[:width] + [""] * (width - len(record.cells))
            yield [*cells, *said[record.line]]

    def _cell(self, value: str | float | list[str] | None) -> str:
        if isinstance(value, list):
            return self.separator.join(value)
        return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value


def likeliest_first(
    names: Sequence[str], probabilities: NDArray[np.floating], said: NDArray[np.bool_]
) -> list[list[str]]:
    """What is ``said`` of each row, of names with ``probabilities``, both (N, C)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [[names[i] for i in likely if row[i]] for likely, row in zip(order, said, strict=True)]


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)  # with its own \r\n, so that a bare \r in a cell is quoted as well
    return out.getvalue()[:-2] + "\n"
