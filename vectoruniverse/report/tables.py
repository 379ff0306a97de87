"""What a run found, as tables for people and Markdown for the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from vectoruniverse.metrics.catalogue import ARROWS_READ, Metric, in_order, signed

Intervals = Mapping[str, Mapping[str, Sequence[float]]]
"""Of a metric, ``difference`` as [estimate, low, high]."""


def comparison_rows(
    base: Mapping[str, float], adapted: Mapping[str, float], intervals: Intervals | None = None
) -> list[tuple[str, str, str, str]]:
    """Metric, base, adapted and change (with its 95 % interval, where there is one), as text."""
    rows = []
    for metric in in_order(key for key in adapted if key in base):
        key = metric.name
        change = signed(adapted[key] - base[key], ".3f")
        if intervals and key in intervals:
            _, low, high = intervals[key]["difference"]
            change += f" [{signed(low, '.3f')}, {signed(high, '.3f')}]"
        rows.append((metric.marked, _number(metric, base[key]), _number(metric, adapted[key]), change))
    return rows


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Metric and value of one model, as text."""
    return [(metric.marked, _number(metric, metrics[metric.name])) for metric in in_order(metrics)]


PARAMETER_COLUMNS = ("part", "adapted layers", "trained", "total", "share")


class Counted(Protocol):
    """Parameters of one part of a model."""

    @property
    def part(self) -> str:
        """Its name."""

    @property
    def adapted_layers(self) -> int:
        """Layers with an adapter."""

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""

    @property
    def total(self) -> int:
        """All parameters."""

    @property
    def share(self) -> float:
        """Trained share, 0 to 1."""


def parameter_rows(parts: Sequence[Counted]) -> list[tuple[str, str, str, str, str]]:
    """What is trained of each part of a model, as text under ``PARAMETER_COLUMNS``."""
    return [(p.part, str(p.adapted_layers), f"{p.trainable:,}", f"{p.total:,}", f"{p.share:.2%}") for p in parts]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells cannot break it: first column left, the others right."""
    lines = [_row(columns), "|---|" + "---:|" * (len(columns) - 1), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    safe = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells)
    return "| " + " | ".join(safe) + " |"


def _number(metric: Metric, value: float) -> str:
    return metric.tell(value) if math.isfinite(value) else str(value)


def drawn_over(drawn_by: str | None) -> str:
    """What a bootstrap drew, in words; ``drawn_by`` is what the rows of a group have in common, if there are groups."""
    return "rows" if drawn_by in (None, "row") else f"groups of rows with the same {drawn_by}"


def model_card(
    *,
    name: str,
    facts: Mapping[str, str],
    judged: str = "held-out rows",
    columns: Sequence[str],
    table: Sequence[Sequence[str]],
    drawn_by: str | None,
    snippet: str,
    tags: Sequence[str],
) -> str:
    """A model card in the hub's form: what was run on what, what came out beside the base, how to load it.

    Args:
        name: of the run.
        facts: Markdown, by name.
        judged: what the rows of the table are called.
        columns: heads of the table.
        table: metrics of base and adapted model, as text.
        drawn_by: as ``drawn_over`` takes it.
        snippet: Python that loads the adapter, run from the run folder.
        tags: what the hub files it under; the first is the library.
    """
    front = ["---", f"library_name: {tags[0]}", f"tags: [{', '.join(tags[1:])}]", "---"]
    body = [f"- {key}: {value}" for key, value in facts.items()]
    told = (
        f"{judged.capitalize()}, base and adapted model judged by the same code; intervals are paired bootstraps over "
        f"{drawn_over(drawn_by)} ({ARROWS_READ[:-1]}):"
    )
    code = ["## Load it", "", "Run in this folder:", "", "```python", snippet.strip(), "```", ""]
    return "\n".join([*front, "", f"# {name}", "", *body, "", told, "", markdown_table(columns, table), "", *code])
