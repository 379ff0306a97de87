"""What `vu predict` writes: a table as it is, and what a classifier says of its rows behind it.

Shapes: N usable rows, C classes.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vectoruniverse.data.findings import Finding
from vectoruniverse.data.table import Table
from vectoruniverse.data.text_table import TextRow


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says of a table.

    Attributes:
        table: all rows as they are written.
        rows: usable rows.
        bad: rows that could not be used, with the reason.
        names: of the C classes.
        probabilities: (N, C), of ``rows``.
    """

    table: Table
    rows: Sequence[TextRow]
    bad: Sequence[Finding]
    names: tuple[str, ...]
    probabilities: NDArray[np.float32]

    def classes(self) -> list[str]:
        """The likeliest class of each row."""
        return [self.names[i] for i in self.probabilities.argmax(axis=1)]

    def counts(self) -> list[tuple[str, str]]:
        """Class and number of rows, as text, the most frequent first."""
        said = self.classes()
        counts = {name: said.count(name) for name in self.names}
        return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda one: -one[1]) if count]

    def columns(self) -> list[str]:
        """The columns that are added: likeliest class, probability of each class, and why there is none.

        One that the table has already gets ``.1``, ``.2``, ..., as pandas calls a column that occurs again.
        """
        taken, added = set(self.table.written), []
        for name in ("prediction", *(f"p({name})" for name in self.names), "reason"):
            free = next(free for i in itertools.count() if (free := f"{name}.{i}" if i else name) not in taken)
            taken.add(free)
            added.append(free)
        return added

    def csv(self) -> str:
        """The table, for programs: its columns, cells and rows as they are, and ``columns`` behind them.

        A row that could not be used has a reason and no prediction; where it has more or fewer cells than the header,
        it is cut or filled up.
        """
        said: dict[int | None, list[str]] = {
            row.line: [name, *(f"{share:.6f}" for share in shares), ""]
            for row, name, shares in zip(self.rows, self.classes(), self.probabilities, strict=True)
        }
        said |= {row.line: [""] * (1 + len(self.names)) + [row.reason] for row in self.bad}
        width = len(self.table.written)
        lines = [_csv_line([*self.table.written, *self.columns()])]
        for record in self.table.records:
            cells = record.cells[:width] + [""] * (width - len(record.cells))
            lines.append(_csv_line([*cells, *said[record.line]]))
        return "".join(lines)


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)  # with its own \r\n, so that a bare \r in a cell is quoted as well
    return out.getvalue()[:-2] + "\n"
