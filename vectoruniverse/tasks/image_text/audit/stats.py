"""How labels and lengths are distributed, as plain numbers that others draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from vectoruniverse.data.splits import Split, by_part
from vectoruniverse.tasks.image_text.metadata import Row

TokenCounter = Callable[[Sequence[str]], Sequence[int]]
"""From texts to their lengths in the model's tokens, marks included and nothing cut off."""

_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True, slots=True)
class PartStats:
    """What a part of the split holds.

    Attributes:
        rows: number of its rows.
        groups: number of groups that they form: equal pictures, or equal values of the grouping column.
        label_counts: rows of each label, most frequent first, equal ones by name.
    """

    rows: int
    groups: int
    label_counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class DataStats:
    """Distributions over rows.

    Attributes:
        rows: number of rows.
        label_counts: rows of each label, most frequent first, equal ones by name.
        labels_per_row: number of labels → rows that have so many.
        title_characters: length of each row's title in code points, in the rows' order.
        text_tokens: length of each row's filled-in text in tokens, or None where no tokenizer was given.
        max_tokens: the model's limit, where known.
        unusable: number of rows beside these that cannot be used.
        parts: by their names; none where the rows were not divided.
    """

    rows: int
    label_counts: dict[str, int]
    labels_per_row: dict[int, int]
    title_characters: tuple[int, ...]
    text_tokens: tuple[int, ...] | None
    max_tokens: int | None
    unusable: int = 0
    parts: Mapping[str, PartStats] = field(default_factory=dict)

    @property
    def label_remark(self) -> str | None:
        """That labels are left out for want of a second that tells rows apart; None where there is, or there are none.

        No fault, so no finding: a table may be about something else than labels.
        """
        telling = [label for label, count in self.label_counts.items() if count < self.rows]
        if len(telling) != 1:
            return None
        only = f"{telling[0]!r} ({self.label_counts[telling[0]]:,} of {self.rows:,} rows)"
        return f"only the label {only} tells rows apart, and it takes two: nothing is evaluated or predicted by labels"

    def summary(self) -> dict[str, object]:
        """The numbers without a value for each row."""
        return {
            "rows": self.rows,
            "unusable": self.unusable,
            "label_counts": self.label_counts,
            "label_remark": self.label_remark,
            "labels_per_row": self.labels_per_row,
            "title_characters": quantiles(self.title_characters),
            "text_tokens": None if self.text_tokens is None else quantiles(self.text_tokens),
            "max_tokens": self.max_tokens,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }


def data_stats(
    rows: Sequence[Row],
    groups: Sequence[str] = (),
    split: Split | None = None,
    *,
    unusable: int = 0,
    token_counts: TokenCounter | None = None,
    max_tokens: int | None = None,
) -> DataStats:
    """Count labels, measure titles and texts, and count the parts of a split; ``groups``: of each row.

    Without ``token_counts`` lengths in tokens are left out.
    """

    def count(part: Sequence[int] | np.ndarray) -> PartStats:
        return PartStats(len(part), len({groups[i] for i in part}), _count_labels([rows[i] for i in part]))

    per_row = Counter(len(row.labels) for row in rows)
    return DataStats(
        rows=len(rows),
        label_counts=_count_labels(rows),
        labels_per_row=dict(sorted(per_row.items())),
        title_characters=tuple(len(row.title) for row in rows),
        text_tokens=None if token_counts is None else tuple(token_counts([row.text for row in rows])),
        max_tokens=max_tokens,
        unusable=unusable,
        parts={} if split is None else by_part(split, count),
    )


def _count_labels(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(label for row in rows for label in row.labels)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Minimum, quartiles, 95th percentile and maximum; empty for no values."""
    return {name: float(np.quantile(values, share)) for name, share in _QUANTILES.items()} if values else {}
